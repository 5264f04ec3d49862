"""Whether `--budget S` is kept: `python scripts/budgets.py`, on the slowest of the public models. `--only MODEL ...`,
`--budgets 5 30`, `--json FILE`.

`--processor`: the command's clock is its own processor time, on a machine that others keep busy.

All models are asked with the smallest budget first; the slowest of them, over all commands, with every budget. A run is
a process of its own, so that start-up and reading count, as they do for who types it. Told: wall clock and processor time
(on a busy machine only the second says what the command did), and what was known by then. A run is late where it took
more than S + 10 % + 1 s. The models: folders `models` and `wild` of LIPCERT_SHARED.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from model_table import FLAGS, REPOSITORY, models

SLOWEST = 20
BUDGETS = (2.0, 5.0, 30.0)  # seconds
MOST = 60  # seconds, of a run that does not end
EPS = "0.01"
COMMANDS = ("bound", "local", "radius", "jacobian")
PROCESSOR = ("-c", "import time; time.monotonic = time.process_time; from lipcert.__main__ import main; main()")


@dataclass(frozen=True)
class Run:
    model: str
    command: str
    asked: float
    wall: float
    cpu: float
    counts: float  # which of the two the budget is about
    status: str
    upper: float | None
    lower: float | None
    methods: str  # those with a value

    @property
    def late(self) -> bool:
        return self.counts > 1.1 * self.asked + 1

    def __str__(self) -> str:
        ends = " .. ".join("-" if end is None else f"{end:.5g}" for end in (self.lower, self.upper))
        word = "LATE" if self.late else ""
        return (
            f"{self.model:42} {self.command:8} {self.asked:5.0f} s asked {self.wall:6.1f} s took {self.cpu:6.1f} s cpu "
            f"{word:4} {self.status:10} {ends:26} {self.methods}"
        )


def measured(path: Path, command: str, budget: float, folder: Path, processor: bool) -> Run:
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    words = [command, str(path), "--budget", str(budget), *FLAGS.get(path.name, ()), *where(path, command, folder)]
    words += ["--threads", "1", "--quiet", "--json", str(report)]
    start = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, *(PROCESSOR if processor else ("-m", "lipcert")), *words],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    cpu = _cpu_of(child.pid, start + MOST)
    wall = time.monotonic() - start
    found = json.loads(report.read_text()) if report.exists() else {}
    rows = [*found.get("results", ()), *(row for point in found.get("points", ()) for row in point.get("results", ()))]
    known = dict.fromkeys(row["method"] for row in rows if row.get("value") is not None)
    status = (found.get("status") or "done") if found else "no report"
    return Run(
        path.name,
        command,
        budget,
        wall,
        cpu,
        cpu if processor else wall,
        status,
        found.get("upper"),
        found.get("lower"),
        " ".join(known),
    )


def _cpu_of(pid: int, end: float) -> float:
    """Seconds of the process and of those that it waited for. One that does not end is killed."""
    while True:
        done, _, used = os.wait4(pid, os.WNOHANG)
        if done:
            return used.ru_utime + used.ru_stime
        if time.monotonic() > end:
            os.kill(pid, 9)
        time.sleep(0.02)


def where(path: Path, command: str, folder: Path) -> tuple[str, ...]:
    """Points: that beside the model, or the middle of [0, 1]."""
    if command == "bound":
        return ()
    beside = path.with_suffix(".npy")
    if not beside.exists():
        beside = folder / f"{path.name}.npy"
        np.save(beside, np.full(shape_of(path, folder), 0.5, dtype=np.float32))
    if command == "local":
        return "--at", f"{beside}#0", "--eps", EPS, "--ball-norm", "inf"
    return ("--data", str(beside), *(("--norm", "inf") if command == "radius" else ()))


def shape_of(path: Path, folder: Path) -> Sequence[int]:
    report = folder / "shape.json"
    words = ["inspect", str(path), *FLAGS.get(path.name, ()), "--quiet", "--json", str(report)]
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, "-m", "lipcert", *words], cwd=REPOSITORY, capture_output=True, timeout=MOST)
    found = json.loads(report.read_text()) if report.exists() else {}
    report.unlink(missing_ok=True)
    return [1, *((found.get("model") or {}).get("input_shape") or [1])]


def runs(paths: Sequence[Path], processor: bool, budgets: Sequence[float]) -> Iterator[Run]:
    with tempfile.TemporaryDirectory() as name:
        folder, first = Path(name), []
        for path in paths:
            for command in COMMANDS:
                first.append(measured(path, command, budgets[0], folder, processor))
                yield first[-1]
        slow = {run.model: run.counts for run in sorted(first, key=lambda run: run.counts)}
        chosen = sorted(slow, key=lambda model: -slow[model])[:SLOWEST]
        for path in paths:
            for command in COMMANDS if path.name in chosen else ():
                for budget in budgets[1:]:
                    yield measured(path, command, budget, folder, processor)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", metavar="MODEL")
    parser.add_argument("--budgets", nargs="+", type=float, default=BUDGETS, metavar="SECONDS")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--processor", action="store_true")
    arguments = parser.parse_args()
    shared = Path(os.environ.get("LIPCERT_SHARED", REPOSITORY.parent / "shared"))
    paths = [path for part in ("models", "wild") for path in models(shared / part)]
    done = []
    chosen = [path for path in paths if not arguments.only or path.name in arguments.only]
    for run in runs(chosen, arguments.processor, arguments.budgets):
        print(run, flush=True)
        done.append(run)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(run) for run in done], indent=1) + "\n")
    late = sum(run.late for run in done)
    print(f"{len(done)} runs, {late} late")
    return 1 if late else 0


if __name__ == "__main__":
    raise SystemExit(main())
