"""Proved sweeps on a device that is not the CPU (device_cases.py), in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CASES = Path(__file__).parents[1] / "device_cases.py"


def test_the_cases_of_another_device() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CASES.parent.parent)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
