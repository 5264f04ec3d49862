"""Work that is counted, not timed: the same on every machine and under any load, so that CI can compare it with `counts.json`.

Floating operations of matrix products as torch counts them, sweeps, proofs, leaves and cells as the methods report them, modules that
a command imports, and products that meet subnormal numbers, which are 40 times slower than others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from cases import LIPCERT, Measured, peak_gb
from machine import ROOT
from regions import MOONS

KEPT = ROOT / "benchmarks" / "counts.json"
SLACK = 0.1  # relative: choices may differ in the last bits of another BLAS


def counted(repeat: int, smoke: bool) -> Measured:
    """Small questions of every hot path, counted."""
    done = Measured()
    done.values = {"counted": {name: count for part in PARTS for name, count in part().items()}}
    done.peak_gb = peak_gb()
    return done


def _flops(run: Callable[[], Any]) -> tuple[Any, int]:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        found = run()
    return found, counter.get_total_flops()


def _mlp(*sizes: int) -> Any:
    import networks

    import lipcert

    return lipcert.load(networks.mlp(list(sizes)), input_shape=(1, sizes[0]))


def whole_space() -> dict[str, int]:
    import lipcert

    model = _mlp(64, 128, 128, 10)
    _, product = _flops(lambda: lipcert.bound(model, methods=["product"]))
    report, flops = _flops(lambda: lipcert.bound(_mlp(64, 50, 50, 10), methods=["lipsdp"]))
    details = report.results[0].details
    return {
        "product: flops": product,
        "lipsdp: sweeps": details["sweeps"],
        "lipsdp: proofs": details["proofs"],
        "lipsdp: flops": flops,
    }


def on_regions() -> dict[str, int]:
    import torch

    import lipcert
    from lipcert.regions.backward.affordable import effort
    from lipcert.regions.backward.relaxed import linear_on
    from lipcert.regions.branch_and_bound.branching import Effort, bracket
    from lipcert.regions.cells import Cells
    from lipcert.regions.forward.slope import lipschitz_on
    from lipcert.terms.query import Norm

    graph = lipcert.load(MOONS).graph
    box = Cells(torch.zeros(1, 2, dtype=torch.float64), torch.full((1, 2), 0.5, dtype=torch.float64))
    with torch.no_grad():
        _, sweep = _flops(lambda: lipschitz_on(graph, box, Norm("inf", "inf")))
        found = bracket(graph, box, Norm("2", "2"), Effort(1e-3))
    x = torch.rand(256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wide = _mlp(256, 64, 64, 10).graph
    ball = Cells(
        x[None], torch.full((1, 256), 0.01, dtype=torch.float64)
    )  # not `local`: it samples for as long as a clock lets it
    with torch.no_grad(), subnormals() as slow:
        refine, vertices = effort(wide)
        _, linear = _flops(lambda: linear_on(wide, ball, Norm("inf", "inf"), refine=refine, vertices=vertices))
    return {
        "sweep: flops": sweep,
        "branch: leaves": int(found.leaves),
        "linear: flops": linear,
        "linear: subnormal products": slow[0],
    }


def at_points() -> dict[str, int]:
    import torch

    from lipcert.sampling.jacobian import norms_at

    graph = _mlp(64, 50, 50, 10).graph
    return {"jacobians: flops": _flops(lambda: norms_at(graph, torch.ones(20, 64, dtype=torch.float64)))[1]}


def enumerated() -> dict[str, int]:
    import time
    from importlib.util import find_spec

    import torch

    import lipcert
    from lipcert.regions.cells import Cells
    from lipcert.terms.query import Norm

    if find_spec("numba") is None:
        return {}
    from lipcert.regions.enumeration.constant import constant

    box = Cells(torch.zeros(1, 2, dtype=torch.float64), torch.full((1, 2), 0.5, dtype=torch.float64))
    found = constant(lipcert.load(MOONS).graph, box, Norm("2", "2"), 1e-6, time.monotonic() + 600.0)
    return {"regions: cells": int(found.cells)}


def imported() -> dict[str, int]:
    """Modules of `lipcert --help`, and of our own and foreign ones that reading and bounding an ONNX file adds to torch's."""
    said = "import sys, torch; n = len(sys.modules); import lipcert; lipcert.bound(lipcert.load(sys.argv[1]), methods=['product', 'sampled', 'lipsdp']); print(len(sys.modules) - n)"
    help_ = "import sys, atexit; atexit.register(lambda: print(len(sys.modules), file=sys.stderr)); sys.argv = ['lipcert', '--help']; from lipcert.__main__ import main; main()"
    assert LIPCERT[0] == sys.executable
    bound = subprocess.run(
        [sys.executable, "-c", said, str(MOONS)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    shown = subprocess.run([sys.executable, "-c", help_], capture_output=True, text=True, check=True, cwd=ROOT)
    return {"help: modules": int(shown.stderr.split()[-1]), "bound: modules beside torch": int(bound.stdout)}


PARTS = (whole_space, on_regions, at_points, enumerated, imported)


def subnormals() -> Any:
    """A context whose [n] counts matrix products of which a hundredth of an operand's entries are subnormal."""
    from contextlib import contextmanager

    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Slow(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is torch.ops.aten.mm.default:
                sizes = (a.abs() for a in args)
                self.count += any(((a > 0) & (a < 2.0**-1022)).double().mean() > 0.01 for a in sizes)
            return function(*args, **(kwargs or {}))

    @contextmanager
    def watching() -> Iterator[list[int]]:
        found = [0]
        with Slow() as mode:
            yield found
        found[0] = mode.count

    return watching()


def more(counts: dict[str, int], kept: dict[str, int]) -> list[str]:
    """What takes more work than was kept, by more than SLACK. What takes less is told by `--keep-counts` in the diff."""
    return [
        f"{name}: {count}, was {kept[name]}: more work. If it must be so: benchmarks/run.py --keep-counts"
        for name, count in counts.items()
        if name in kept and count > kept[name] * (1 + SLACK)
    ]


def check(counts: dict[str, int]) -> list[str]:
    return more(counts, json.loads(KEPT.read_text())) if KEPT.exists() else []


def keep() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    KEPT.write_text(json.dumps(counted(1, True).values["counted"], indent=1) + "\n")


CASES: dict[str, Callable[[int, bool], Measured]] = {"counted": counted}
