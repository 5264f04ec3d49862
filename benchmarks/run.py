"""python benchmarks/run.py --all: every chapter of the book (`book.py`), and benchmarks/README.md from them; interrupted, it goes on.
python benchmarks/run.py [--smoke] [--case NAME ...] [--repeat N] [--out FILE [--resume]]: one JSON per run.
python benchmarks/run.py --table FILE: its tables in Markdown, as benchmarks/README.md shows them.

Each case runs in a process of its own, whose peak memory is read at its end, together with the rate of plain matrix
products at that moment. A case that fails is recorded; the exit status is then 1. Targets that are missed are shown.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import book
import cases
import cluster
import counted
import gpu
import growth
import lipsdp
import regions
import sampling
import table
import targets
import torus
from machine import ROOT, bandwidth, commit, gemm_peak, machine, now, versions

SCHEMA = "lipcert.benchmark/1"
LIMIT = 3600.0  # seconds of one case
CASES = {
    name: case
    for part in (cases, lipsdp, sampling, regions, targets, growth, counted, cluster, torus, gpu)
    for name, case in part.CASES.items()
}
# Of a smoke run: what is too large for one, and what is there the same small network as another case.
NOT_SMOKED = {"resnet50-onnx", "resnet50-torchscript"}
NOT_SMOKED |= {name for cases_of in (lipsdp, torus) for name in set(cases_of.CASES) - set(cases_of.SMOKE)}
NOT_SMOKED |= {"pairs-45", "cifar10-resnet-2b", "two-moons", "growth", *cluster.CASES}
READY = multiprocessing.get_context("forkserver")
READY.set_forkserver_preload(["torch", "cases", "lipsdp", "regions", "sampling", "torus", "lipcert.tasks.bound"])
SIDE_BY_SIDE = 2  # cases of a smoke run, whose times say nothing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="small versions of the cases: do they run?")
    parser.add_argument("--case", action="append", choices=list(CASES), metavar="NAME", help="default: all")
    parser.add_argument("--repeat", type=int, help="default 3, of a smoke run 1")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resume", action="store_true", help="keep the cases that --out has of the same run")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the tables of a run and stop")
    parser.add_argument(
        "--all", action="store_true", help="every chapter, then README; goes on where it was interrupted"
    )
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "benchmarks", help="where --all keeps its runs and README.md"
    )
    parser.add_argument("--keep-counts", action="store_true", help="counts.json, with which a smoke run is compared")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.repeat = options.repeat or (1 if options.smoke else 3)
    if options.table:
        print(table.markdown(json.loads(options.table.read_text())), end="")
        return 0
    if options.child:
        options.child.write_text(json.dumps(measure(options.case[0], options)))
        return 0
    if options.keep_counts:
        counted.keep()
        return 0
    return everything(options) if options.all else run(options)


def everything(options: argparse.Namespace) -> int:
    """A chapter takes the place of the kept one when it is whole."""
    status, parts = 0, options.folder / ".running"
    parts.mkdir(exist_ok=True)
    for chapter in book.CHAPTERS:
        options.case = [name for name in chapter.cases if not (options.smoke and name in NOT_SMOKED)]
        options.out, options.repeat, options.threads = parts / chapter.file, chapter.repeat, options.threads or 1
        if options.out.exists() and differing(json.loads(options.out.read_text()), fresh(options)):
            options.out.unlink()
        options.resume = options.out.exists()
        status = max(status, run(options))
        shutil.copyfile(options.out, options.folder / chapter.file)
        book.write(options.folder)
    shutil.rmtree(parts)
    return status


def fresh(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "created": now(),
        "smoke": options.smoke,
        "repeat": options.repeat,
        "threads": options.threads or machine()["cores"],
        "machine": machine(),
        "versions": versions(),
        **commit(),
        "cases": {},
    }


def differing(had: dict[str, Any], record: dict[str, Any]) -> list[str]:
    """What says that two runs are not one; the load is of the moment, and each case has its own."""
    record["machine"]["load"] = had.get("machine", {}).get("load")
    return [key for key in record if key not in ("created", "cases") and had.get(key) != record[key]]


def run(options: argparse.Namespace) -> int:
    """All cases, each in a child; this process stays small, for a child starts with its parent's peak memory."""
    record = fresh(options)
    if options.resume:
        record = resumed(options.out, record)
    names = options.case or [name for name in CASES if not (options.smoke and name in NOT_SMOKED)]
    todo = [name for name in names if "failed" in record["cases"].get(name, {"failed": True})]
    with ThreadPoolExecutor(SIDE_BY_SIDE if options.smoke else 1) as pool:
        measured = {name: pool.submit(in_child, name, options) for name in todo}
        try:
            for name, future in measured.items():
                record["cases"][name] = found = future.result()
                print(name, found.get("failed") or table.one_line(found), sep=": ", file=sys.stderr, flush=True)
                if options.out:  # what was measured survives an interrupted run
                    options.out.write_text(json.dumps(record, indent=1) + "\n")
        finally:
            pool.shutdown(cancel_futures=True)
    if not options.out:
        print(json.dumps(record, indent=1))
    worse = counted.check(record["cases"].get("counted", {}).get("values", {}).get("counted", {}))
    print(*worse, sep="\n", end="\n" if worse else "", file=sys.stderr)
    return 1 if worse or any("failed" in found for found in record["cases"].values()) else 0


def resumed(path: Path | None, record: dict[str, Any]) -> dict[str, Any]:
    """An interrupted run goes on: with the same commit, machine, versions and settings."""
    if path is None or not path.exists():
        return record
    had = json.loads(path.read_text())
    if different := differing(had, record):
        raise SystemExit(f"--resume {path}: another run, its {different[0]} differs; give another --out")
    return had


def in_child(name: str, options: argparse.Namespace) -> dict[str, Any]:
    return forked(name, options) if options.smoke else started(name, options)


def forked(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """By a server that has imported torch: of a small case that is most of the time, and its memory says nothing."""
    with tempfile.TemporaryDirectory() as folder:
        out, told = Path(folder) / "case.json", Path(folder) / "stderr.txt"
        child = READY.Process(target=_told, args=(name, options, out, told))
        child.start()
        child.join(LIMIT)
        if child.is_alive():
            child.kill()
            child.join()
            return {"failed": f"stopped after {LIMIT:g} s"}
        return _found(child.exitcode, out, told.read_text() if told.exists() else "")


def _told(name: str, options: argparse.Namespace, out: Path, told: Path) -> None:
    os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT), 2)
    out.write_text(json.dumps(measure(name, options)))


def _found(status: int | None, out: Path, stderr: str) -> dict[str, Any]:
    if status != 0 or not out.exists():
        lines = stderr.strip().splitlines()
        return {"failed": f"exit status {status}: {lines[-1] if lines else ''}"}
    return json.loads(out.read_text())


def started(name: str, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "case.json"
        command = [sys.executable, __file__, "--child", str(out), "--case", name, "--repeat", str(options.repeat)]
        command += ["--threads", str(options.threads)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            return {"failed": f"stopped after {LIMIT:g} s"}
        return _found(done.returncode, out, done.stderr)


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    done = CASES[name](options.repeat, options.smoke)
    peak, rate = (gemm_peak(64, 0.0), bandwidth(4096, 0.0)) if options.smoke else (gemm_peak(), bandwidth())
    steps = {step: summary(times) for step, times in done.times.items()}
    return {
        "what": CASES[name].__doc__,
        "steps": steps,
        "peak_gb": done.peak_gb,
        "load": os.getloadavg()[0],
        "values": done.values,
        "gemm_gflops": peak / 1e9,
        "copy_gbs": rate / 1e9,
        "rivals": [rival.to_dict() | {"ratio": ratio(rival.seconds, steps, done.against)} for rival in done.rivals],
        "targets": [verdict(target, steps, done, options.threads == 1) for target in done.targets],
        "floors": {step: against_floor(floor, steps[step], peak, rate) for step, floor in done.floors.items()},
    }


def summary(times: list[dict[str, float]]) -> dict[str, float]:
    wall = [t["wall"] for t in times]
    return {
        "median": statistics.median(wall),
        "min": min(wall),
        "max": max(wall),
        "cpu": statistics.median(t["cpu"] for t in times),
        "runs": len(wall),
    }


def ratio(seconds: float | None, steps: dict[str, Any], against: str) -> float | None:
    """How many times longer the rival took."""
    return seconds / steps[against]["median"] if seconds is not None and steps[against]["median"] > 0 else None


def verdict(target: cases.Target, steps: dict[str, Any], done: cases.Measured, alone: bool) -> dict[str, Any]:
    """`alone`: one thread works, so that processor time is what a quiet machine would take."""
    key = "cpu" if alone and target.clock == "cpu" else "median"
    if target.what == "peak_gb":
        reached = done.peak_gb
    elif target.what in steps:
        reached = steps[target.what][key] / (steps[target.over][key] if target.over else 1.0)
    else:
        reached = done.values[target.what]
    met = reached is not None and (reached >= target.limit if target.least else reached <= target.limit)
    return {**asdict(target), "reached": reached, "met": met}


def against_floor(floor: cases.Floor, step: dict[str, float], peak: float, rate: float) -> dict[str, Any]:
    """`seconds`: the larger of flops over GEMM peak and bytes over copy rate; `fraction` of it in the best time."""
    seconds = max(floor.flops / peak, floor.bytes / rate)
    return {**asdict(floor), "seconds": seconds, "fraction": seconds / step["min"] if step["min"] > 0 else None}


if __name__ == "__main__":
    sys.exit(main())
