"""Long fuzzing of all readers: `python benchmarks/fuzz.py --count 20000 --json benchmarks/results-fuzz.json`.

Every mutant is refused in one printable line, or read: then parity held, lower <= upper, and two runs give one answer. Canaries
(`tests/canaries.py`): files in and outside the folder, text on the standard streams, the environment, time, memory.

Mutant N of a format is always the same one. The JSON file is read first and gone on with, written after every block; a mutant that
breaks a promise is kept, and the run goes on. Exit status 1 where one did.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).resolve().parent)]

# Of 100 mutants: models are what strangers send.
SHARES = {
    "onnx": 12,
    "external": 6,
    "pt": 13,
    "pt2": 9,
    "data": 15,
    "resume": 15,
    "gate": 10,
    "policy": 10,
    "certificate": 10,
}
ANEW = 3  # exit status of one that has seen a broken promise: what that has left behind does not stay
BLOCK = 50  # mutants of one process, which is forked from one that has imported everything
GIGABYTES = 6  # of addresses for it and its children, beyond what is mapped: a bomb must not take the machine along


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="mutants in all")
    parser.add_argument("--seconds", type=float, default=36_000.0)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results-fuzz.json")
    parser.add_argument("--keep", type=Path, default=Path("broken"), help="folder for mutants that break a promise")
    parser.add_argument("--only", choices=sorted(SHARES), help="one format")
    parser.add_argument("--mutant", type=int, help="with --only: this one alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lipcert-fuzz-") as folder:
        os.environ["XDG_STATE_HOME"] = folder  # the key of seals
        import torch

        torch.set_num_threads(1)
        from fuzzing import subjects

        made = subjects(Path(folder) / "made")
        for kind in () if options.only else ("onnx", "external", "pt", "pt2"):
            made[kind].learn(Path(folder))
        if options.mutant is not None:
            return _one(made[options.only], options.only, options.mutant, Path(folder), options.keep)
        return _all(made, options, Path(folder))


def _all(made: dict[str, Any], options: argparse.Namespace, folder: Path) -> int:
    from machine import commit, machine, now, versions

    found = _earlier(options.json) | {"machine": machine(), "versions": versions()}
    begun, end = time.monotonic(), time.monotonic() + options.seconds
    while time.monotonic() < end and sum(found["next"].values()) < options.count:
        kinds = [options.only] if options.only else list(SHARES)
        kind = min(kinds, key=lambda name: found["next"].get(name, 0) / SHARES[name])  # the one most behind
        first = found["next"].get(kind, 0)
        started = time.monotonic()
        counts, broken = _block(made[kind], kind, first, folder, options.keep)
        found["next"][kind] = first + BLOCK
        found["outcomes"][kind] = dict(Counter(found["outcomes"].get(kind, {})) + counts)
        found["broken"] += broken
        found["seconds"] = round(found["seconds"] + time.monotonic() - started, 1)
        at = commit()["commit"]
        found["commits"] = [*found["commits"], *([] if found["commits"][-1:] == [at] else [at])]
        found["mutants"], found["when"] = sum(found["next"].values()), now()
        options.json.write_text(json.dumps(found, indent=1) + "\n")
        print(
            f"{found['mutants']} mutants, {time.monotonic() - begun:.0f} s, {kind} {first}: {dict(counts)}",
            *broken,
            flush=True,
        )
    return 1 if found["broken"] else 0


def _earlier(path: Path) -> dict[str, Any]:
    empty: dict[str, Any] = {"next": {}, "outcomes": {}, "broken": [], "seconds": 0.0, "commits": []}
    return empty | (json.loads(path.read_text()) if path.exists() else {})


def _block(subject: Any, kind: str, first: int, folder: Path, keep: Path) -> tuple[Counter[str], list[dict[str, Any]]]:
    """One process: what it does not survive is a broken promise too, and the next mutant has a new one."""
    counts, broken = Counter[str](), list[dict[str, Any]]()
    number = first
    while number < first + BLOCK:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            status = 1
            try:
                status = _work(subject, kind, range(number, first + BLOCK), folder, keep, writer)
            finally:
                os._exit(status)
        os.close(writer)
        with os.fdopen(reader) as stream:
            for line in stream:
                row = json.loads(line)
                counts[row["outcome"]] += 1
                number = row["mutant"] + 1
                broken += [row] if row["outcome"] == "broken" else []
        status = os.waitpid(child, 0)[1]
        if number < first + BLOCK and status != ANEW << 8:
            counts["broken"] += 1
            broken.append(
                {"format": kind, "mutant": number, "outcome": "broken", "why": f"the process died ({status})"}
            )
            number += 1
    return counts, broken


def _work(subject: Any, kind: str, numbers: range, folder: Path, keep: Path, writer: int) -> int:
    from canaries import Canaries
    from fuzzing import Broken, judge

    with open("/proc/self/statm") as pages:
        mapped = int(pages.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + GIGABYTES * 2**30,) * 2)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        (Path(place) / "here").mkdir()
        canaries = Canaries(Path(place) / "here")
        for number in numbers:
            row = {"format": kind, "mutant": number}
            try:
                row["outcome"] = judge(subject, Random(f"{kind} {number}"), canaries)
            except Broken as problem:
                row |= {"outcome": "broken", "why": str(problem)[:2000]}
                target = keep / f"{kind}-{number}"
                target.mkdir(parents=True, exist_ok=True)
                for name, data in problem.mutant.items():
                    (target / name).write_bytes(data)
            os.write(writer, (json.dumps(row) + "\n").encode())
            if row["outcome"] == "broken":
                return ANEW
    return 0


def _one(subject: Any, kind: str, number: int, folder: Path, keep: Path) -> int:
    from canaries import Canaries
    from fuzzing import Broken, judge

    canaries = Canaries(folder)
    try:
        print(judge(subject, Random(f"{kind} {number}"), canaries))
    except Broken as problem:
        print(problem)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
