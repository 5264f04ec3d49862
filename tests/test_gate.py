"""Policies against reports: each verdict of each check, and that everything unclear is not met."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from lipcert.cli.main import main
from lipcert.errors import UnreadableError, UsageError
from lipcert.gate import COMMANDS, RULES, judge, read_report
from lipcert.policy import CHECKS, TEMPLATE, WITH, Rule, read_policy, read_rule
from lipcert.report.to_sarif import RULES as SARIF_RULES
from lipcert.verdict import Verdict, passed


def result(value: float, side: str = "upper", rigor: str = "proved", method: str = "product") -> dict[str, Any]:
    row = {"method": method, "side": side, "rigor": rigor, "value": value, "status": "ok", "seconds": 0.1}
    return {**row, "reason": None, "node": None, "certificate": None, "witness": None, "details": {}}


def bound_report(upper: float | None = 10.0, lower: float = 4.0, **changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = {
        "schema": "lipcert.report/1",
        "command": "bound",
        "model": {"path": "net.onnx", "sha256": "ab" * 32, "parity": [{"reference": "torch", "points": 4, "difference": 0.0, "allowed": 1e-6}]},
        "norm": {"input": "2", "output": "2"},
        "scope": {"region": {"kind": "global"}, "output": "vector"},
        "upper": upper,
        "lower": lower,
        "self_check": {"passed": True, "contradictions": [], "points": []},
        "results": [result(lower, "lower", "sampled", "sampled")] + ([] if upper is None else [result(upper)]),
        "points": [],
        "summary": {"accuracy": 0.9},
        "warnings": [],
    }  # fmt: skip
    return data | changes


def radius_report(radii: list[float], attacked: list[float | None] | None = None, **changes: Any) -> dict[str, Any]:
    attacked = attacked or [None] * len(radii)
    points = [
        {
            "index": i,
            "status": "certified" if r > 0 else "misclassified",
            "radius": r,
            "attacked": a,
            "radii": {"pairs": r},
        }
        for i, (r, a) in enumerate(zip(radii, attacked, strict=True))
    ]
    data = bound_report(None, command="radius", points=points, results=[]) | {"lower": None}
    return data | {"summary": {"asked": {"samples": len(radii)}, "labelled": True}} | changes


def verdict(
    rule: dict[str, Any], data: dict[str, Any], tmp_path: Path, baseline: dict[str, Any] | None = None
) -> Verdict:
    (tmp_path / "r.json").write_text(json.dumps(data))
    baselines = []
    if baseline is not None:
        (tmp_path / "b.json").write_text(json.dumps(baseline))
        baselines = [read_report(tmp_path / "b.json")]
    (found,) = judge([read_rule(rule, "rule")], [read_report(tmp_path / "r.json")], baselines)
    return found


ACCURACY = {"min_certified_accuracy": 0.5, "eps": 0.1}
LARGE, SMALL = bound_report(10.0), bound_report(8.0)
OTHER = bound_report(8.0, model={"path": "net.onnx", "sha256": "cd" * 32})

CASES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None, str]] = [
    ({"max_upper": 10}, LARGE, None, "met"),
    ({"max_upper": 9}, LARGE, None, "not proved"),
    ({"max_upper": 3}, LARGE, None, "violated"),
    ({"max_upper": 10}, bound_report(None), None, "not proved"),
    ({"max_upper": 10}, bound_report(5.0, results=[result(7.0)]), None, "not proved"),
    ({"max_upper": 10}, bound_report(None, results=[result(7.0, rigor="numeric")]), None, "not proved"),
    ({"max_upper": 10, "rigor": "numeric"}, bound_report(None, results=[result(7.0, rigor="numeric")]), None, "met"),
    ({"max_upper": 10, "norm": "1"}, LARGE, None, "not proved"),
    ({"max_upper": 10, "norm": "2->2"}, LARGE, None, "met"),
    ({"max_upper": 10}, radius_report([1.0]), None, "not proved"),
    ({"max_ratio": 3}, LARGE, None, "met"),
    ({"max_ratio": 2}, LARGE, None, "violated"),
    ({"max_ratio": 2}, bound_report(10.0, results=[result(10.0)]) | {"lower": None}, None, "not proved"),
    (ACCURACY, radius_report([0.1, 0.2, 0.0]), None, "met"),
    (ACCURACY, radius_report([0.05, 0.2, 0.01]), None, "not proved"),
    (ACCURACY, radius_report([0.05, 0.2, 0.01], [0.06, None, 0.02]), None, "violated"),
    (ACCURACY, radius_report([0.2, 0.2], summary={"asked": {"samples": 3}}), None, "not proved"),
    (ACCURACY, radius_report([]), None, "not proved"),
    ({"min_median_radius": 0.1}, radius_report([0.05, 0.2, 0.1]), None, "met"),
    ({"min_median_radius": 0.1}, radius_report([0.05, 0.2, 0.01]), None, "not proved"),
    ({"min_median_radius": 0.1}, radius_report([0.05, 0.2, 0.01], [0.06, None, 0.02]), None, "violated"),
    ({"max_regression_percent": 5}, LARGE, bound_report(9.6), "met"),
    ({"max_regression_percent": 5}, LARGE, SMALL, "violated"),
    ({"max_regression_percent": 5}, LARGE, None, "not proved"),
    ({"max_regression_percent": 50}, LARGE, OTHER, "not proved"),
    ({"max_regression_percent": 50, "allow_other_model": True}, LARGE, OTHER, "met"),
    ({"max_regression_percent": 50}, LARGE, bound_report(8.0, norm={"input": "1", "output": "1"}), "not proved"),
    ({"max_regression_percent": 5}, radius_report([1.0]), radius_report([2.0]), "violated"),
    ({"max_regression_percent": 5}, radius_report([1.0]), radius_report([1.0]), "met"),
    ({"require_methods": ["product"]}, LARGE, None, "met"),
    ({"require_methods": ["product", "lipsdp"]}, LARGE, None, "not proved"),
    ({"require_methods": ["pairs"]}, radius_report([1.0]), None, "met"),
    ({"require_methods": ["pairs"]}, radius_report([0.0]), None, "not proved"),
    (ACCURACY, radius_report([1.0], summary={"asked": {"samples": 1}, "labelled": False}), None, "not proved"),
    (ACCURACY, radius_report([1.0], summary={"asked": {"samples": 1, "tolerance": 0.1}}), None, "met"),
    ({"field": "results.1.value", "max": 20.0}, bound_report(10.0), None, "met"),
    ({"field": "results.1.value", "max": 20.0}, bound_report(results=[result(4.0, "lower", "sampled"), result(10.0, rigor="numeric")]), None, "not proved"),
    ({"require_parity": True}, LARGE, None, "met"),
    ({"require_parity": True}, OTHER, None, "not proved"),
    ({"require_parity": True}, bound_report(model={"parity": [{"reference": "torch", "points": 4, "difference": 1.0, "allowed": 1e-6}]}), None, "violated"),
    ({"model_sha256": "AB" * 32}, LARGE, None, "met"),
    ({"model_sha256": "cd" * 32}, LARGE, None, "violated"),
    ({"model_sha256": "cd" * 32}, bound_report(model={}), None, "not proved"),
    ({"field": "summary.accuracy", "min": 0.9}, LARGE, None, "met"),
    ({"field": "summary.accuracy", "min": 0.95}, LARGE, None, "violated"),
    ({"field": "summary.nothing", "min": 0.95}, LARGE, None, "not proved"),
    ({"field": "summary", "min": 0.95}, LARGE, None, "not proved"),
    ({"field": "results.0.value", "max": 4}, LARGE, None, "met"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "data", "baseline", "expected"), CASES)
def test_verdicts(rule: Any, data: Any, baseline: Any, expected: str, tmp_path: Path) -> None:
    found = verdict(rule, data, tmp_path, baseline)
    assert found.status == expected, found.message


def test_every_check_is_tried_both_ways() -> None:
    tried = {(key, expected) for rule, _, _, expected in CASES for key in rule if key in CHECKS}
    assert {check for check, expected in tried if expected == "met"} == set(CHECKS)
    assert {check for check, expected in tried if expected != "met"} == set(CHECKS)
    assert set(RULES) == set(CHECKS) == set(SARIF_RULES)
    assert set(COMMANDS) <= set(CHECKS)


FLAWS: list[tuple[str, Any]] = [
    ("schema", "lipcert.report/2"),
    ("schema", None),
    ("results", {}),
    ("points", None),
    ("self_check", {"passed": False, "contradictions": []}),
    ("self_check", {}),
    ("warnings", ["interrupted: the results are incomplete"]),
]


@pytest.mark.parametrize(("key", "value"), FLAWS)
def test_a_flawed_report_meets_no_rule(key: str, value: Any, tmp_path: Path) -> None:
    for rule, data, baseline, expected in CASES:
        if expected == "met":
            broken = copy.deepcopy(data) | {key: value}
            assert verdict(rule, broken, tmp_path, baseline).status != "met"


@pytest.mark.parametrize(
    "key", ["schema", "command", "model", "norm", "scope", "results", "points", "summary", "self_check", "warnings"]
)
def test_a_missing_field_meets_no_rule(key: str, tmp_path: Path) -> None:
    for rule, data, baseline, expected in CASES:
        if expected == "met":
            assert verdict(rule, {k: v for k, v in data.items() if k != key}, tmp_path, baseline).status != "met"


def test_samples_that_contradict_are_named(tmp_path: Path) -> None:
    found = verdict(ACCURACY, radius_report([0.05, 0.2, 0.0], [0.06, None, None]), tmp_path)
    assert (found.status, found.samples) == ("violated", (0, 2))
    weak = verdict(ACCURACY, radius_report([0.05, 0.2, 0.01]), tmp_path)
    assert (weak.status, weak.samples) == ("not proved", (0, 2))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"upper": NaN}', '{"upper": 1, "upper": 2}', "\xff"])
def test_what_is_no_json_object_is_unreadable(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text, encoding="latin-1")
    with pytest.raises(UnreadableError):
        read_report(tmp_path / "r.json")


POLICIES = [
    "",
    "rule = 3",
    "[[rule]]",
    "[[rule]]\nmax_uper = 3",
    "[[rule]]\nmax_upper = 3\nmax_ratio = 2",
    "[[rule]]\nmax_upper = nan",
    "[[rule]]\nmax_upper = '3'",
    "[[rule]]\nmax_upper = true",
    "[[rule]]\nmin_certified_accuracy = 0.5",
    "[[rule]]\nmin_certified_accuracy = 0.5\neps = 0.1\nmin = 0.9",
    "[[rule]]\nmin_median_radius = 0.5\neps = 0.1",
    "[[rule]]\nrequire_methods = []",
    "[[rule]]\nfield = 'upper'",
    "[[rule]]\nmax_upper = 3\nrigor = 'sampled'",
    "[[rule]]\nmax_upper = 3\nnorm = '7'",
    "[other]\nx = 1\n[[rule]]\nmax_upper = 3",
    "not toml",
]


@pytest.mark.parametrize("text", POLICIES)
def test_policies_that_are_not_understood(text: str, tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text(text)
    with pytest.raises((UsageError, UnreadableError), match="policy"):
        read_policy(tmp_path / "gate.toml")


def test_the_template_and_pyproject_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="--init"):
        read_policy(None)
    (tmp_path / "pyproject.toml").write_text("[[tool.lipcert.gate.rule]]\nmax_upper = 3\n[tool.other]\nx = 1\n")
    assert read_policy(None) == [Rule("max_upper", "max_upper", 3, {})]
    assert run("gate", "--init") == 0
    assert [rule.check for rule in read_policy(None)] == ["max_upper", "min_certified_accuracy"]
    assert all(key in TEMPLATE for key in {**CHECKS, **WITH} if key != "command")
    commented = "\n".join(line.removeprefix("# ") for line in TEMPLATE.splitlines()[3:])
    (tmp_path / "all.toml").write_text(commented)
    assert {rule.check for rule in read_policy("all.toml")} == set(CHECKS)
    assert run("gate", "--init") == 2


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return int(stop.value.code or 0)


def test_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy, report = tmp_path / "gate.toml", tmp_path / "r.json"
    report.write_text(json.dumps(LARGE))
    for limit, status in ((10, 0), (9, 1), (3, 1)):
        policy.write_text(f"[[rule]]\nmax_upper = {limit}\n")
        assert run("gate", str(report), "--policy", str(policy), "--json", str(tmp_path / "v.json")) == status
        assert json.loads((tmp_path / "v.json").read_text())["passed"] == (status == 0)
    assert "gate NOT met" in capsys.readouterr().out
    assert run("gate", "--policy", str(policy)) == 2
    assert run("gate", str(tmp_path / "none.json"), "--policy", str(policy)) == 2


def test_no_verdicts_are_no_pass() -> None:
    assert not passed([])
