"""SIGTERM, as runners of CI and schedulers of batch jobs send it: a partial report that is valid, whoever does the work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import psutil
import pytest

import lipcert

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"
SCHEMA = json.loads((Path(lipcert.__file__).parent / "report/schema/lipcert.report-1.json").read_text())
POINTS = 300
ASK = ("local", EXAMPLES / "digits.onnx", "--at", EXAMPLES / "digits_test.npz", "--first", POINTS, "--eps", "0.01,0.1")
WHO = {
    "this process": (),
    "processes": ("--workers", "2"),
    "Dask": ("--scheduler", "local:2"),
}
SLOW = ("Dask",)


@pytest.mark.parametrize("whole_group", [True, False], ids=["the group", "the command"])
@pytest.mark.parametrize("who", [pytest.param(w, marks=pytest.mark.slow if w in SLOW else ()) for w in WHO])
def test_a_terminated_run_leaves_its_report(who: str, whole_group: bool, tmp_path: Path) -> None:
    report, journal = tmp_path / "r.json", tmp_path / "j"
    words = [*ASK, "--method", "linear", "--each", "60", *WHO[who], "--json", report, "--journal", journal, "--quiet"]
    run = subprocess.Popen(
        [sys.executable, "-m", "lipcert", *map(str, words)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _until_begun(run, journal)
    family = psutil.Process(run.pid).children(recursive=True)
    (os.killpg if whole_group else os.kill)(run.pid, signal.SIGTERM)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 128 + signal.SIGTERM, said
    assert "Traceback" not in said
    found = json.loads(report.read_text())
    jsonschema.validate(found, SCHEMA)
    assert 0 < len(found["points"]) < 2 * POINTS
    assert all(row["lower"] <= row["upper"] for row in found["points"])
    assert any("incomplete (terminated)" in words for words in found["warnings"])
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []


def _until_begun(run: subprocess.Popen[str], journal: Path) -> None:
    end = time.monotonic() + 200
    while not journal.exists() or len(journal.read_bytes().splitlines()) < 4:
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.02)
