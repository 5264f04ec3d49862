"""`--memory GIB`: dense methods are refused with what they need, and answer where it is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lipcert.cli.main import main
from lipcert.terms.memory import GIGABYTES, allowed

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "two_moons.onnx"
ASKED = ("bound", str(EXAMPLE), "--box=-0.01:0.01", "--norm", "inf", "--method", "transfer", "--quiet")


def test_what_needs_more_is_refused_by_name_and_answered_with_more(tmp_path: Path) -> None:
    rows = {}
    for gigabytes in ("1e-7", "1"):
        report = tmp_path / f"{gigabytes}.json"
        with pytest.raises(SystemExit) as ended:
            main([*ASKED, "--memory", gigabytes, "--json", str(report)])
        (row,) = json.loads(report.read_text())["results"]
        rows[gigabytes] = ended.value.code, row
        assert allowed() == GIGABYTES  # of that command alone
    status, row = rows["1e-7"]
    assert status == 3
    assert "GiB, over the 1e-07 of --memory" in row["reason"]
    status, row = rows["1"]
    assert status == 0
    assert row["value"] > 0
