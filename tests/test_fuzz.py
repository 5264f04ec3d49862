"""A bounded run of the fuzzing that `benchmarks/fuzz.py` does for hours."""

from __future__ import annotations

import os
import time
from pathlib import Path
from random import Random

import pytest
from fuzzing import Broken, judge, seeds

SECONDS = 600.0 if os.environ.get("LIPCERT_FULL") == "1" else 8.0  # for each kind


@pytest.mark.parametrize("kind", ["onnx", "pt", "pt2"])
def test_mutants_keep_every_promise(tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str) -> None:
    honest, draw, found = seeds(tmp_path)[kind], Random(0), {"refused": 0, "read": 0}
    end = time.monotonic() + SECONDS
    while not sum(found.values()) or time.monotonic() < end:
        found[judge(kind, honest, draw, tmp_path)] += 1
    assert capfd.readouterr() == ("", "")


def test_a_broken_promise_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fuzzing

    honest = seeds(tmp_path)["onnx"]

    def writes(path: Path, data: bytes) -> str:
        (tmp_path / "mark").write_text("x")
        return "refused"

    monkeypatch.setattr(fuzzing, "_answer", writes)
    with pytest.raises(Broken, match="trace"):
        judge("onnx", honest, Random(0), tmp_path)
