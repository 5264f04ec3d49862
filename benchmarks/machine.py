"""What the numbers were measured on: processor, versions, commit, and how fast plain matrix products were just then."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "numpy", "onnx", "onnxruntime", "typer", "rich")


def machine() -> dict[str, Any]:
    """Processor model, cores, load, memory in GB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "load": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def commit() -> dict[str, Any]:
    """The commit of this checkout, and whether the package or the benchmarks differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    changed = bool(git("status", "--porcelain", "--", "lipcert", "benchmarks/*.py"))
    return {"commit": git("rev-parse", "--short=12", "HEAD") or "unknown", "changed": changed}


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def gemm_peak(n: int = 1024, seconds: float = 0.5) -> float:
    """Best float64 matrix product rate of this process, flop/s: the peak that floors are measured against."""
    import torch

    a, b, c = (torch.rand(n, n, dtype=torch.float64) for _ in range(3))
    return 2 * n**3 / _best(lambda: torch.mm(a, b, out=c), seconds)


def bandwidth(entries: int = 1 << 25, seconds: float = 0.5) -> float:
    """Best rate of a copy far larger than the caches, bytes/s (read and write counted)."""
    import torch

    a, b = torch.rand(entries, dtype=torch.float64), torch.empty(entries, dtype=torch.float64)
    return 16 * entries / _best(lambda: b.copy_(a), seconds)


def _best(run: Any, seconds: float) -> float:
    run()
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best
