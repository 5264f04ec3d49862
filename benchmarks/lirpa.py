"""auto_LiRPA in a process of its own: another Python may have it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import ROOT
from rivals import Attempt

LIRPA = "LIPCERT_AUTO_LIRPA"  # a Python that imports auto_LiRPA, where this one does not


def auto_lirpa(
    weights: Sequence[Any], biases: Sequence[Any], centres: np.ndarray, eps: np.ndarray, regions: int = 0
) -> tuple[Attempt, list[float] | None]:
    """linf constants of a ReLU chain on boxes around `centres` (k, n); seconds scaled up to `regions` where given."""
    import torch

    name = "auto_LiRPA, one region at a time"
    python = os.environ.get(LIRPA) or (sys.executable if importlib.util.find_spec("auto_LiRPA") else None)
    if python is None:
        return Attempt(name, "estimate", "failed", None, None, f"set {LIRPA} to a Python that imports auto_LiRPA"), None
    arrays: dict[str, Any] = {f"W{i}": w for i, w in enumerate(weights)}
    arrays |= {f"b{i}": b for i, b in enumerate(biases)} | {"centres": centres, "eps": eps}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "problem.npz", **arrays)
        command = [python, str(ROOT / "benchmarks" / "lirpa_process.py"), str(Path(folder) / "problem.npz")]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(
            [*command, str(torch.get_num_threads())], capture_output=True, text=True, timeout=600, env=environment
        )
    if done.returncode != 0:
        note = (done.stderr.strip().splitlines() or ["?"])[-1][:160]
        return Attempt(name, "estimate", "failed", None, None, note), None
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    each = answer["seconds"] / len(eps)
    scaled = f", scaled up to {regions}" if regions else ""
    note = f"float32, no error term; {len(eps)} regions, {1 / each:.3g} a second{scaled}"
    return Attempt(name, "estimate", "ok", each * max(regions, len(eps)), None, note), answer["values"]
