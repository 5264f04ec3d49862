"""The command line as a user runs it, in processes of its own where that is the point: statuses, JSON, regions, Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import forked
import jsonschema
import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from forked import Forked
from torch import nn

import lipcert
from lipcert.cli.main import main

SCHEMA = json.loads((REPOSITORY / "lipcert" / "report" / "schema" / "lipcert.report-1.json").read_text())
QUICK = ("--method", "product", "--method", "absolute", "--method", "sampled")
TIMED = {"created", "seconds"}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return forked.lipcert(*arguments)


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Any:
    """main(arguments) in this process: (status, report or the error of exit 2, stderr)."""

    def in_process(*arguments: str | Path) -> tuple[int, dict[str, Any] | None, str]:
        with pytest.raises(SystemExit) as stop:
            main([*map(str, arguments), "--json", "-", "--quiet"])
        out, err = capfd.readouterr()
        return int(stop.value.code or 0), validated(out) if out else None, err

    return in_process


def validated(text: str) -> dict[str, Any]:
    report = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in the JSON"))
    if set(report) == {"error"}:  # of exit 2
        assert set(report["error"]) == {"kind", "what", "where", "hint"}
        return report
    jsonschema.validate(report, SCHEMA)
    return report


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 4-6-3 network as .pt2, whose first layer halves when inputs are doubled."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).eval()
    path = tmp_path_factory.mktemp("models") / "small.pt2"
    torch.export.save(torch.export.export(network, (torch.zeros(1, 4),)), path)
    return path


def test_the_schema_can_refuse() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"schema": "lipcert.report/1"}, SCHEMA)


DONE_WHEN = {
    "mnist_fc_256x2.onnx": [],
    "acasxu_run2a_1_1.onnx": ["--norm", "inf"],
    "cifar10_resnet_2b.onnx": ["--method", "product"],
    "rlsar_go2_robot_lab_policy.pt": [],
}


@pytest.mark.every(4)
@pytest.mark.parametrize("name", DONE_WHEN)
def test_the_four_models_of_the_issue(name: str, shared: Path) -> None:
    methods = () if "--method" in DONE_WHEN[name] else QUICK
    done = run("bound", shared / "models" / name, *DONE_WHEN[name], *methods, "--json", "-")
    assert done.returncode == 0, done.stderr
    report = validated(done.stdout)
    assert report["status"] == "bounded"
    assert (report["lower"] or 0.0) <= report["upper"]
    assert report["self_check"]["passed"]


def test_the_table_for_people(small: Path) -> None:
    done = run("bound", small, *QUICK)
    assert done.returncode == 0
    assert "product" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_gate(small: Path, call: Any) -> None:
    status, report, _ = call("bound", small, *QUICK, "--max-upper", "1000")
    assert (status, report["gate"]["met"]) == (0, True)
    status, report, _ = call("bound", small, *QUICK, "--max-upper", "1e-3")
    assert (status, report["gate"]["met"]) == (1, False)
    value = report["upper"]
    assert call("bound", small, *QUICK, "--max-upper", repr(value))[0] == 0  # the very value meets it


@pytest.mark.parametrize(
    "norm", [["--norm", "1"], ["--norm", "2"], ["--norm", "inf"], ["--norm-in", "2", "--norm-out", "inf"]]
)
def test_norms(norm: list[str], small: Path, call: Any) -> None:
    status, report, _ = call("bound", small, *QUICK, *norm)
    assert status == 0
    assert [report["norm"]["input"], report["norm"]["output"]] == (norm[1::2] * 2)[:2]
    assert report["lower"] <= report["upper"]


def test_outputs(small: Path, call: Any) -> None:
    """A logit is at most the vector, a pair at most the sum of two logits, `pairs` the largest pair."""

    def upper(text: str) -> float:
        status, report, _ = call("bound", small, "--method", "product", "--norm", "inf", "--output", text)
        assert status == 0
        return report["upper"]

    logits = [upper(str(i)) for i in range(3)]
    assert max(logits) == pytest.approx(upper("vector"), rel=1e-12)
    pairs = {(i, j): upper(f"{i}-{j}") for i, j in ((0, 1), (0, 2), (1, 2))}
    assert all(value <= (logits[i] + logits[j]) * (1 + 1e-9) for (i, j), value in pairs.items())
    status, report, _ = call("bound", small, "--method", "product", "--norm", "inf", "--output", "pairs")
    assert status == 0
    assert report["upper"] == max(pairs.values())
    assert {row["pair"] for row in report["summary"]["pairs"]} == {"0-1", "0-2", "1-2"}


def test_regions(small: Path, call: Any, tmp_path: Path) -> None:
    """Ball <= box around it <= whole space; the report says which."""
    data = tmp_path / "data.npz"
    np.savez(data, x=np.full((2, 4), 0.5))
    whole = call("bound", small, "--method", "product")[1]
    box = call("bound", small, "--method", "product", "--box=0.4:0.6")[1]
    ball = call("bound", small, "--method", "product", "--at", f"{data}#1", "--eps", "0.1", "--ball-norm", "inf")[1]
    far = call("bound", small, "--method", "product", "--box=50:51,50:51,50:51,50:51")[1]
    assert far["upper"] < box["upper"] < whole["upper"]
    assert ball["upper"] == pytest.approx(box["upper"], rel=1e-6)
    assert [r["scope"]["region"]["kind"] for r in (whole, box, ball)] == ["global", "box", "ball"]


def test_input_units(small: Path, call: Any) -> None:
    """f((x - mean) / std): the constant is divided by std."""
    plain = call("bound", small, "--method", "product")[1]
    raw = call("bound", small, "--method", "product", "--mean", "0.5", "--std", "0.25")[1]
    assert raw["upper"] == pytest.approx(4 * plain["upper"], rel=1e-12)
    each = call("bound", small, "--method", "product", "--std", "0.25,0.25,0.25,0.25")[1]
    assert each["upper"] == pytest.approx(4 * plain["upper"], rel=1e-12)


WRONG_USE = [
    ["--method", "nonsense"],
    ["--norm-in", "2"],
    ["--output", "3-3"],
    ["--output", "9"],
    ["--box=1:0"],
    ["--box=0:1,0:1"],
    ["--at", "absent.npz", "--eps", "1"],
    ["--eps", "1"],
    ["--std", "0"],
    ["--std", "1,2"],
    ["--budget", "-1"],
    ["--max-upper", "nan"],
    ["--input-shape", "1,5"],
    ["--no-such-flag"],
]


@pytest.mark.parametrize("flags", WRONG_USE, ids=" ".join)
def test_wrong_use_is_exit_2(flags: list[str], small: Path, call: Any) -> None:
    status, report, err = call("bound", small, *flags)
    assert status == 2
    assert report is not None
    assert set(report) == {"error"}
    assert err.strip()
    assert "Traceback" not in err


def test_an_unknown_norm_is_exit_2(small: Path) -> None:
    """In a process of its own: under beartype the norm would not get as far as the check."""
    done = run("bound", small, "--norm", "3")
    assert (done.returncode, done.stdout) == (2, "")
    assert "norms are 1, 2 and inf" in done.stderr


def test_a_missing_file_is_exit_2(call: Any, tmp_path: Path) -> None:
    status, report, err = call("bound", tmp_path / "absent.onnx")
    assert status == 2
    assert report is not None
    assert "absent.onnx" in json.dumps(report)
    assert "absent.onnx" in err


@pytest.mark.slow
def test_two_runs_differ_in_times_only(small: Path) -> None:
    """LipSDP is left out: its sweeps amplify the last bit of BLAS, which depends on how memory is aligned."""
    first, second = (without_times(validated(run("bound", small, *QUICK, "--json", "-").stdout)) for _ in range(2))
    assert first == second


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMED}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def test_interrupted_by_ctrl_c(shared: Path, tmp_path: Path) -> None:
    """SIGINT in the middle of a long run: exit 130, and a valid report of what was proved so far."""
    report = tmp_path / "report.json"
    model = shared / "models" / "mnist_fc_256x2.onnx"
    process = Forked("bound", model, *QUICK, "--output", "pairs", "--json", report)
    process.until("pairs: ")
    process.send_signal(signal.SIGINT)
    done = process.wait(60)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    partial = validated(report.read_text())
    assert any("interrupted" in warning for warning in partial["warnings"])
    assert 0 < len(partial["summary"]["pairs"]) < 45
    assert list(tmp_path.iterdir()) == [report]  # nothing half written beside it


def test_a_budget_keeps_what_is_proved(shared: Path, call: Any) -> None:
    status, report, _ = call("bound", shared / "models" / "mnist_fc_256x2.onnx", "--budget", "0")
    assert status in (0, 3)
    assert any(row["status"] == "timeout" for row in report["results"])


def test_the_python_api_says_the_same(small: Path, call: Any) -> None:
    _, report, _ = call("bound", small, *QUICK, "--norm", "1")
    again = lipcert.bound(lipcert.load(small), norm="1", methods=["product", "absolute", "sampled"])
    assert (again.upper, again.lower) == (report["upper"], report["lower"])
    assert without_times(again.to_dict()["results"]) == without_times(report["results"])
