"""Many models in one process leave nothing behind, and two threads do not meet."""

from __future__ import annotations

import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from two import two

import lipcert

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MODELS, WARM = 1000, 200


def values(name: str) -> dict[str, float | None]:
    model = lipcert.load(EXAMPLES / name)
    report = lipcert.bound(model, methods=["product", "absolute", "sampled"])
    return {f"{result.method}, {result.side}": getattr(result, "value", None) for result in report.results}


def test_two_threads_give_what_one_gives() -> None:
    """Different models at the same time, and the same one."""
    names = ["digits.onnx", "two_moons.onnx", "digits.onnx"]
    alone = [values(name) for name in names[:2]]
    ready = threading.Barrier(3)

    def together(name: str) -> dict[str, float | None]:
        ready.wait()
        return values(name)

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(together, names)) == [*alone, alone[0]]


def used() -> dict[str, int]:
    """Resident pages, open files, threads."""
    gc.collect()
    return {
        "pages": int(Path("/proc/self/statm").read_text().split()[1]),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
    }


@pytest.mark.slow  # a minute
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_a_thousand_models_leave_nothing(tmp_path: Path) -> None:
    """Each another network: constants are not taken from one that was before."""
    before: dict[str, int] = {}
    for k in range(MODELS):
        report = lipcert.bound(lipcert.load(two(tmp_path, 2.0 + k)), methods=["product"])
        assert 2.0 + k <= report.upper <= (2.0 + k) * 1.01
        if k == WARM:
            before = used()
    after = used()
    assert after["files"] <= before["files"]
    assert after["threads"] <= before["threads"]
    assert after["pages"] * 4096 <= before["pages"] * 4096 + 20 * 2**20  # 25 kB a model is what an allocator scatters
