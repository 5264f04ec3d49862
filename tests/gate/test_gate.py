"""Policies against reports: each verdict of each check, and that everything unclear is not met."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from two import two

from lipcert.cli.main import main
from lipcert.gate.formats.to_sarif import RULES as SARIF_RULES
from lipcert.gate.given import read_report
from lipcert.gate.policy import CHECKS, TEMPLATE, WITH, Rule, read_policy, read_rule
from lipcert.gate.rules import COMMANDS, RULES, judge
from lipcert.gate.verdict import Verdict, passed
from lipcert.gate.wanted import Wanted
from lipcert.terms.errors import UnreadableError, UsageError
from lipcert.terms.query import Norm
from lipcert.terms.question import Question, thawed


def result(value: float, side: str = "upper", rigor: str = "proved", method: str = "product") -> dict[str, Any]:
    row = {"method": method, "side": side, "rigor": rigor, "value": value, "status": "ok", "seconds": 0.1}
    return {**row, "reason": None, "node": None, "certificate": None, "witness": None, "details": {}}


def question(data: dict[str, Any]) -> dict[str, Any]:
    """The one that the other fields of a report tell."""
    norm, asked = Norm(**data["norm"]), data["summary"].get("asked", {})
    scope = data["scope"]
    made = Question.of(data["command"], data["model"], "cd" * 32, norm, scope["region"], scope["output"], asked)
    return made.to_dict()


def bound_report(upper: float | None = 10.0, lower: float | None = 4.0, **changes: Any) -> dict[str, Any]:
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
    data |= changes
    return data | {"question": question(data)}


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
    summary = {"asked": {"samples": len(radii)}, "labelled": True}
    changes = {"command": "radius", "points": points, "results": [], "lower": None, "summary": summary} | changes
    return bound_report(None, **changes)


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
    "key",
    [
        *("schema", "command", "model", "norm", "scope", "results", "points", "summary", "self_check", "warnings"),
        "question",
    ],
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


def test_a_policy_says_what_is_held(tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text("[[rule]]\nmax_upper = 3\nfixed = {sr = 16000, state = [0.5, 1]}\n")
    (rule,) = read_policy(tmp_path / "g.toml")
    assert thawed(Wanted.of(rule.options).fixed) == {"sr": 16000, "state": [0.5, 1]}


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return int(stop.value.code or 0)


def test_exit_status(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    policy, report = tmp_path / "gate.toml", tmp_path / "r.json"
    report.write_text(json.dumps(LARGE))
    for limit, status in ((10, 0), (9, 1), (3, 1)):
        policy.write_text(f"[[rule]]\nmax_upper = {limit}\n")
        assert run("gate", str(report), "--policy", str(policy), "--json", str(tmp_path / "v.json")) == status
        assert json.loads((tmp_path / "v.json").read_text())["passed"] == (status == 0)
    assert "gate NOT met" in capfd.readouterr().out
    assert run("gate", "--policy", str(policy)) == 2
    assert run("gate", str(tmp_path / "none.json"), "--policy", str(policy)) == 2


def test_no_verdicts_are_no_pass() -> None:
    assert not passed([])


# Rules are questions.

RULE = {"max_upper": 1.5, "norm": "2"}
BOX = {"region": {"kind": "box", "lower": [-1.0, -1.0], "upper": [-0.5, -0.5]}, "output": "vector"}
RAW = LARGE["model"] | {"units": {"mean": None, "std": [1e6]}}
ELSEWHERE: dict[str, tuple[dict[str, Any], str]] = {
    "units": (bound_report(1.0, 1.0, model=RAW), "std [1000000.0]"),
    "output": (bound_report(1.0, 1.0, scope={"region": {"kind": "global"}, "output": "0"}), "entry 0"),
    "region": (bound_report(1.0, 1.0, scope=BOX), "the box -1.0:-0.5"),
    "norm": (bound_report(1.0, 1.0, norm={"input": "inf", "output": "inf"}), "linf -> linf"),
}


def test_reports_of_another_command_are_named_where_none_is_near(tmp_path: Path) -> None:
    found = verdict(RULE | {"command": "local"}, bound_report(1.0, 1.0), tmp_path)
    assert f"near it: {tmp_path}/r.json: it is of `lipcert bound`" in found.message


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_report_of_another_question_meets_nothing(name: str, tmp_path: Path) -> None:
    data, words = ELSEWHERE[name]
    found = verdict(RULE, data, tmp_path)
    assert found.status == "not proved"
    assert "over the whole input space, output vector, in the model's own units" in found.message
    assert f"near it: {tmp_path}/r.json" in found.message
    assert words in found.message
    says = {"units": {"units": "raw"}, "output": {"output": "0"}, "region": {"region": "box -1:-0.5"}}
    assert (
        verdict((RULE if name != "norm" else RULE | {"norm": "inf"}) | says.get(name, {}), data, tmp_path).status
        == "met"
    )


def test_a_field_of_another_question_meets_nothing(tmp_path: Path) -> None:
    for data, _ in list(ELSEWHERE.values())[:3]:
        assert verdict({"field": "upper", "max": 1.5}, data, tmp_path).status == "not proved"
    radii = radius_report([0.2, 0.2], model=RAW)
    assert verdict(ACCURACY, radii, tmp_path).status == "not proved"
    assert verdict(ACCURACY | {"units": {"std": 1e6}}, radii, tmp_path).status == "met"


def test_rules_about_a_report_itself_do_not_pass_it_by(tmp_path: Path) -> None:
    """A report in raw units, of another model: the rule about its model must see it."""
    other = bound_report(model=RAW | {"sha256": "ef" * 32})
    assert verdict({"model_sha256": "ab" * 32}, other, tmp_path).status == "violated"


def test_a_report_without_its_question_is_no_answer(tmp_path: Path) -> None:
    older = {k: v for k, v in LARGE.items() if k != "question"}
    assert "older reports" in verdict({"max_upper": 10}, older, tmp_path).message
    refused = bound_report(None) | {"question": None, "results": [{"status": "refused", "reason": "node x: too odd"}]}
    assert verdict({"max_upper": 10}, refused, tmp_path).message == "node x: too odd"
    for change in ({"norm": {"input": "1", "output": "1"}}, {"scope": BOX}, {"model": RAW}, {"command": "layers"}):
        found = verdict({"max_upper": 10}, LARGE | change, tmp_path)
        assert (found.status, "at odds with its question" in found.message) == ("not proved", True)
    for damaged in ({}, [], "x", {**LARGE["question"], "std": ["x"]}):
        assert "damaged" in verdict({"max_upper": 10}, LARGE | {"question": damaged}, tmp_path).message


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_baseline_of_another_question_is_none(name: str, tmp_path: Path) -> None:
    rule = {"max_regression_percent": 900, "units": "any", "output": "any", "region": "any", "allow_other_model": True}
    found = verdict(rule, ELSEWHERE[name][0], tmp_path, LARGE)
    assert found.status == "not proved"
    assert "no --baseline asks the same question" in found.message
    assert verdict(rule, ELSEWHERE[name][0], tmp_path, ELSEWHERE[name][0]).status == "met"


def test_verdicts_are_no_reports(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`lipcert gate *.json` where the last run left its verdicts."""
    policy, report, verdicts = tmp_path / "gate.toml", tmp_path / "r.json", tmp_path / "v.json"
    report.write_text(json.dumps(LARGE))
    policy.write_text("[[rule]]\nmax_upper = 10\n")
    for _ in range(2):
        given = [str(file) for file in (report, verdicts) if file.exists()]
        assert run("gate", *given, "--policy", str(policy), "--json", str(verdicts)) == 0
    assert "v.json: verdicts of a gate, no report: skipped" in capfd.readouterr().err
    assert run("gate", str(verdicts), "--policy", str(policy)) == 1


@pytest.mark.parametrize(
    "text", ["region = 'half'", "region = 3", "units = 'feet'", "units = {max = 1}", "output = 'all'", "input = 3"]
)
def test_questions_that_make_no_sense(text: str, tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text(f"[[rule]]\nmax_upper = 3\n{text}\n")
    with pytest.raises(UsageError, match="rule 1"):
        read_policy(tmp_path / "gate.toml")


def test_the_reports_that_passed_once(tmp_path: Path) -> None:
    """relu(diag(1, 2) x), L = 2: max_upper = 1.5 was met by each of these reports."""
    net = two(tmp_path)
    (tmp_path / "gate.toml").write_text('[[rule]]\nmax_upper = 1.5\nnorm = "2"\n')
    for options in (["--std", "1e6"], ["--output", "0"], ["--box=-1:-0.5"], ["--norm", "1", "--std", "1e6"]):
        out = str(tmp_path / "r.json")
        assert (
            run("bound", str(net), *options, "--method", "absolute", "--method", "jacobian", "--json", out, "--quiet")
            == 0
        )
        assert json.loads(Path(out).read_text())["upper"] <= 1.5
        assert run("gate", out, "--policy", str(tmp_path / "gate.toml")) == 1


def test_a_rule_in_part_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: rules that compare norm and command alone, as they once did."""
    monkeypatch.setattr(Wanted, "miss", lambda self, asked: None if self.norm in (None, asked.norm) else "norm")
    met = [name for name, (data, _) in ELSEWHERE.items() if verdict(RULE, data, tmp_path).status == "met"]
    assert met == ["units", "output", "region"]
