"""The simulation behind the plan of scale: its limits are those of arithmetic."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "scale.py"
spec = importlib.util.spec_from_file_location("scale", SCRIPT)
assert spec is not None
assert spec.loader is not None
scale = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scale)


def test_speed_ups() -> None:
    shards, seconds, client = 2000, 0.1, 0.001
    alone = scale.simulated(1, shards, seconds, client)
    assert alone == pytest.approx(shards * seconds, rel=0.05)
    speeds = [alone / scale.simulated(workers, shards, seconds, client) for workers in (1, 2, 10, 100, 1000)]
    assert speeds == sorted(speeds)
    assert speeds[1] == pytest.approx(2, rel=0.02)
    assert speeds[2] == pytest.approx(10, rel=0.05)
    assert max(speeds) <= seconds / client * 1.05  # the client saturates


def test_more_workers_than_shards() -> None:
    few = scale.simulated(1000, 10, 1.0, 0.001)
    assert 1.0 < few < 3.0
