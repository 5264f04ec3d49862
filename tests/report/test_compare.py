"""`lipcert compare`: brackets that are apart, brackets that overlap, different questions, contradictions, formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lipcert
from lipcert.cli.main import main
from lipcert.report.comparison import WORDS, Change, Quantity, Verdict
from lipcert.report.formats.comparison import ORDER, comparison_markdown
from lipcert.report.report import Report
from lipcert.tasks.quantities import QUANTITIES, quantities
from lipcert.terms.errors import SelfCheckFailed, UnreadableError, UsageError
from lipcert.terms.query import Norm
from lipcert.terms.question import Question, held_words
from lipcert.terms.result import Bound, Refusal

EVIL = "x|y<script>\x1b[31m\u202e[a](http://e.vil) `b` @all\n"
MODEL = {"input_shape": [1, 2], "output_shape": [1, 1], "input_name": "x", "output_name": "y", "units": {"mean": None}}


def model(sha: str = "a", **changes: Any) -> dict[str, Any]:
    return {"path": f"{sha}.onnx", "sha256": sha * 64, **MODEL, **changes}


def bound(lower: float | None, upper: float | None, sha: str = "a", **changes: Any) -> Report:
    results: list[Bound | Refusal] = []
    if lower is not None:
        results.append(Bound("sampled", "lower", "sampled", lower))
    results.append(
        Bound("product", "upper", "proved", upper)
        if upper is not None
        else Refusal("product", "upper", "refused", "why")
    )
    return Report("bound", **{"model": model(sha), "results": results, **changes})  # fmt: skip


def written(folder: Path, *reports: Report) -> list[str]:
    paths = []
    for place, report in enumerate(reports):
        paths.append(str(folder / f"{place}.json"))
        Path(paths[-1]).write_text(json.dumps(report.to_dict()))
    return paths


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["compare", *arguments])
    return int(stopped.value.code or 0)


# Verdicts


@pytest.mark.parametrize(
    ("before", "after", "better", "verdict"),
    [
        ((1, 2), (3, 4), "smaller", "worse"),
        ((3, 4), (1, 2), "smaller", "better"),
        ((1, 2), (3, 4), "larger", "better"),
        ((3, 4), (1, 2), "larger", "worse"),
        ((1, 3), (2, 4), "smaller", "weaker"),
        ((2, 4), (1, 3), "smaller", "stronger"),
        ((1, 3), (2, 4), "larger", "stronger"),
        ((1, 2), (2, 2.5), "smaller", "weaker"),  # they touch: one value may be both
        ((1, 3), (2, 3), "smaller", "same"),  # what is guaranteed did not move
        ((None, 2), (None, 3), "smaller", "weaker"),
        ((1, None), (3, None), "smaller", "same"),  # nothing was guaranteed, nothing is
        ((1, 2), (1, None), "smaller", "weaker"),
        ((1, None), (1, 2), "smaller", "stronger"),
        ((1, 2), (3, None), "smaller", "worse"),
        ((1, 2), (float("inf"), float("inf")), "smaller", "worse"),
        ((float("inf"), float("inf")), (1, 2), "smaller", "better"),
        ((float("inf"), float("inf")), (float("inf"), float("inf")), "smaller", "same"),
        ((0, 0), (0, 0), "smaller", "same"),
        ((0, 0), (1e-300, 1), "smaller", "worse"),
        ((1, 1), (1 + 1e-12, 1 + 1e-12), "smaller", "same"),  # two machines
        ((1, 2), (2, 3), None, "moved"),
        ((1, 2), (1, 2), None, "same"),
        (None, (1, 2), "smaller", "only after"),
        ((1, 2), None, "smaller", "only before"),
    ],
)
def test_verdicts(before: Any, after: Any, better: Any, verdict: Verdict) -> None:
    old, new = (None if ends is None else Quantity("constant", "L", *ends, better) for ends in (before, after))
    assert Change(old, new).verdict == verdict
    assert Change(old, new).to_dict()["verdict"] == verdict
    json.dumps(Change(old, new).to_dict(), allow_nan=False)


def test_every_verdict_has_its_words_and_place() -> None:
    assert set(WORDS) == set(ORDER)


def test_tolerance_and_how_far() -> None:
    old, new = Quantity("constant", "L", 1.0, 2.0, "smaller"), Quantity("constant", "L", 2.2, 3.0, "smaller")
    change = Change(old, new)
    assert change.least == pytest.approx(0.1)
    assert change.moved == pytest.approx(0.5)
    assert Change(old, new, tolerance=0.2).verdict == "weaker"
    assert Change(old, new, tolerance=0.6).verdict == "same"


# Questions


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"norm": Norm("inf", "inf")}, "input norm"),
        ({"norm": Norm("2", "inf")}, "output norm"),
        ({"output": "0"}, "output"),
        ({"region": {"kind": "box", "lower": [0], "upper": [1]}}, "region"),
        ({"model": model("b", input_shape=[1, 3])}, "input shape"),
        ({"model": model("b", units={"mean": [0.5]})}, "input units (mean, std)"),
        ({"model": model("b", input_name="z")}, "input name"),
        ({"model": model("b", output_name="z")}, "output name"),
        ({"command": "layers"}, "command"),
    ],
)
def test_different_questions_are_named(changes: dict[str, Any], field: str) -> None:
    old, new = bound(1, 2), bound(5, 6, "b")
    values = {name: getattr(new, name) for name in ("command", "model", "norm", "region", "output", "results")}
    with pytest.raises(UsageError, match=f"different questions: {field.replace('(', '.').replace(')', '.')} is "):
        lipcert.compare(old, Report(**{**values, **changes}))


def test_other_names_are_allowed_where_asked() -> None:
    other = bound(5, 6, "b", model=model("b", input_name="input.1"))
    with pytest.raises(UsageError, match="--other-names"):
        lipcert.compare(bound(1, 2), other)
    assert lipcert.compare(bound(1, 2), other, other_names=True).worse()


def test_a_whole_question_in_the_report_is_compared(tmp_path: Path) -> None:
    paths = written(tmp_path, bound(1, 2), bound(1, 2, "b"))
    for place, path in enumerate(paths):
        data = json.loads(Path(path).read_text())
        scope = data["scope"]
        asked = Question.of(
            "bound", data["model"], "cd" * 32, Norm(**data["norm"]), scope["region"], scope["output"], {"seed": place}
        )
        theta = {"dtype": "int64", "shape": [], "sha256": str(place) * 64, "values": [place]}
        data["model"]["fixed"] = {"theta": theta}
        data["question"] = asked.to_dict() | {"fixed": {"theta": held_words(theta)}}
        Path(path).write_text(json.dumps(data))
        if not place:  # the other one was written before reports had questions
            with pytest.raises(UsageError, match=rf"{paths[1]}: it does not say which question"):
                lipcert.compare(*paths)
    with pytest.raises(UsageError, match=r"question fixed is \{'theta': '0 \(int64"):
        lipcert.compare(*paths)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"rtol": 0.1, "seed": 3, "methods": ["product"]}, None), ({"cells": [1]}, r"option cells is None")],
)
def test_effort_is_no_question(tmp_path: Path, options: dict[str, Any], says: str | None) -> None:
    """Other models and more effort can be compared; whatever else an option is cannot."""
    paths = written(tmp_path, bound(1, 2), bound(3, 4, "b"))
    for path, more in zip(paths, ({}, options), strict=True):
        data = json.loads(Path(path).read_text())
        scope, graph = data["scope"], data["model"]["sha256"]
        asked = Question.of("bound", data["model"], graph, Norm(**data["norm"]), scope["region"], scope["output"], more)
        Path(path).write_text(json.dumps(data | {"question": asked.to_dict()}))
    if says is None:
        assert lipcert.compare(*paths).counts == {"worse": 1}
    else:
        with pytest.raises(UsageError, match=says):
            lipcert.compare(*paths)


def test_reports_without_values_are_refused() -> None:
    with pytest.raises(UsageError, match="not of inspect"):
        lipcert.compare(Report("inspect", model()), Report("inspect", model()))


def test_every_command_with_values_is_there() -> None:
    from lipcert.cli.main import COMMANDS

    assert set(QUANTITIES) == {"bound", "layers", "local", "jacobian", "radius"} <= set(COMMANDS)


# What can be wrong with a report


def test_two_reports_of_one_model_that_contradict_each_other() -> None:
    with pytest.raises(SelfCheckFailed, match="constant L"):
        lipcert.compare(bound(1, 2), bound(3, 4))
    lipcert.compare(bound(1, 3), bound(2, 4))


def test_reports_that_cannot_be_used(tmp_path: Path) -> None:
    good, bad = written(tmp_path, bound(1, 2), bound(1, 2, "b"))
    data = json.loads(Path(bad).read_text())

    def spoilt(**changes: Any) -> str:
        Path(bad).write_text(json.dumps({**data, **changes}))
        return bad

    with pytest.raises(UsageError, match="interrupted"):
        lipcert.compare(good, spoilt(warnings=["interrupted: the results are incomplete"]))
    with pytest.raises(UsageError, match="self-check"):
        lipcert.compare(good, spoilt(self_check={"passed": False}))
    with pytest.raises(UsageError, match="schema"):
        lipcert.compare(good, spoilt(schema="lipcert.report/9"))
    with pytest.raises(UnreadableError, match="as the schema says"):
        lipcert.compare(good, spoilt(results=[{}]))
    with pytest.raises(UnreadableError, match="cannot read"):
        lipcert.compare(good, str(tmp_path / "none.json"))
    with pytest.raises(UsageError, match="tolerance"):
        lipcert.compare(good, good, tolerance=-1)


# What reports say


def rows(name: str, of: Report) -> dict[str, Quantity]:
    return {q.name: q for q in quantities(of.to_dict()) if q.group == name}


def test_radii_and_accuracies_are_brackets() -> None:
    def point(index: int, radius: float, attacked: float | None, status: str = "certified") -> dict[str, Any]:
        return {"index": index, "radius": radius, "attacked": attacked, "status": status}

    certified = [{"eps": 0.1, "certified_accuracy": 0.5, "attacked_accuracy": 0.75}]
    report = Report(
        "radius",
        model(),
        points=[point(0, 0.2, 0.3), point(1, 0.1, None), point(2, 0.0, None, "misclassified")],
        summary={"accuracy": 0.8, "certified": certified, "asked": {"samples": 3}},
    )
    samples = rows("samples", report)
    assert [(q.lower, q.upper) for q in samples.values()] == [(0.2, 0.3), (0.1, None), (0.0, 0.0)]
    assert (robust := rows("accuracy", report)["robust at eps 0.1"]).better == "larger"
    assert (robust.lower, robust.upper) == (0.5, 0.75)
    assert rows("radius", report)["median radius"].lower == 0.1
    assert rows("radius", report)["median radius"].upper == 0.3
    assert rows("radius", report)["mean radius"].upper is None


def test_layers_of_one_name_are_kept_apart() -> None:
    layer = {"name": "fc", "kind": "linear", "lower": 1.0, "upper": 2.0, "status": "bounded"}
    jump = {"name": "sign", "kind": "sign", "lower": None, "upper": None, "status": "unbounded"}
    found = rows("layers", Report("layers", model(), layers=[layer, layer, jump]))
    assert list(found) == ["fc", "fc (2)", "sign"]
    assert found["sign"].word == "unbounded"
    assert found["sign"].guarantee is None


def test_cells_are_named_by_place() -> None:
    values = {"lower": [1, 2, 3, 4, 5, 6], "upper": [1, 2, 3, 4, 5, None]}
    report = Report("local", model(), summary={"grid": {"shape": [2, 3], **values}})
    assert list(rows("cells", report))[-1] == "cell 1,2"


def test_details_do_not_decide() -> None:
    """One of many samples always moves; the mean, the median and the accuracy tell."""

    def report(sha: str, uppers: list[float]) -> Report:
        pairs = [{"pair": f"0-{k}", "lower": 1.0, "upper": value} for k, value in enumerate(uppers, 1)]
        return bound(1, 9, sha, output="pairs", summary={"pairs": pairs})

    found = lipcert.compare(report("a", [2, 3]), report("b", [2, 4]))
    assert [change.verdict for change in found.changes if change.what.group == "pairs"] == ["same", "weaker"]
    assert found.counts == {"same": 1}
    assert not found.worse(also_weaker=True)


# The command


def test_exit_statuses(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    base, worse, weaker, same = written(tmp_path, bound(1, 2), bound(3, 4, "b"), bound(1.5, 2.5, "c"), bound(1, 2, "d"))
    assert run(base, worse) == 0
    assert "worse by at least 50 %" in capfd.readouterr().out
    assert run(base, worse, "--fail-on", "worse") == 1
    assert run(base, weaker, "--fail-on", "worse") == 0
    assert run(base, weaker, "--fail-on", "weaker") == 1
    assert run(base, weaker, "--fail-on", "weaker", "--tolerance", "30") == 0
    assert run(base, same, "--fail-on", "weaker") == 0
    assert run(base, same, worse, "--fail-on", "worse") == 1
    assert run(base) == 2
    assert run(base, same, "--fail-on", "anything") == 2
    assert run(base, same, "--json", "-", "--markdown", "-") == 2
    assert run(base, written(tmp_path, bound(1, 2), bound(3, 4, "a"))[1]) == 4


def test_a_lost_bound_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    paths = written(tmp_path, bound(1, 2), bound(1, None, "b"))
    assert run(*paths, "--fail-on", "worse") == 0
    assert ">= 1 refused" in capfd.readouterr().out
    assert run(*paths, "--fail-on", "weaker") == 1


def test_outputs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    paths = written(tmp_path, bound(1, 2), bound(3, 4, "b"))
    assert run(*paths, "--json", "-") == 0
    found = json.loads(capfd.readouterr().out)
    assert found["schema"] == "lipcert.compare/1"
    assert found["counts"] == {"worse": 1}
    assert found["changes"][0]["value_moved_at_least"] == 0.5
    assert run(*paths, "--markdown", str(tmp_path / "c.md"), "--json", str(tmp_path / "c.json")) == 0
    assert (tmp_path / "c.md").read_text().startswith("### lipcert bound: 1 worse")
    assert run(*paths, paths[0], "--json", "-") == 0
    capfd.readouterr()
    assert run(*paths, "--markdown", str(tmp_path / "no" / "c.md")) == 2


@pytest.mark.parametrize("columns", ["80", "120"])
def test_hostile_names_are_inert(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)

    def report(sha: str, upper: float) -> Report:
        layer = {"name": EVIL, "kind": "linear", "lower": 1.0, "upper": upper, "status": "bounded"}
        return Report("layers", model(sha), layers=[layer])

    assert run(*written(tmp_path, report("a", 2.0), report("b", 3.0))) == 0
    out = capfd.readouterr().out
    assert not set(out) & {"\x1b", "\u202e"}
    assert max(map(len, out.splitlines())) <= int(columns)
    text = comparison_markdown([lipcert.compare(report("a", 2.0), report("b", 3.0))])
    assert not set("<`@") & set(text)
    assert "](" not in text


@pytest.fixture(scope="module")
def real() -> Callable[[str], Report]:
    examples = Path(__file__).resolve().parents[2] / "examples"
    loaded = lipcert.load(examples / "two_moons.onnx")
    x = np.array([[0.0, 0.0], [1.0, 0.5]])
    made = {
        "bound": lambda: lipcert.bound(loaded, methods=["product", "sampled"]),
        "layers": lambda: lipcert.layers(loaded),
        "local": lambda: lipcert.local(loaded, x[:1], [0.01, 0.1], methods=["jacobian"]),
        "jacobian": lambda: lipcert.jacobian(loaded, x),
        "radius": lambda: lipcert.radius(loaded, x, np.array([0, 1]), eps=[0.01], methods=["global"]),
    }
    return lambda name: made[name]()


@pytest.mark.parametrize("name", QUANTITIES)
def test_a_real_report_equals_itself(name: str, real: Callable[[str], Report], tmp_path: Path) -> None:
    report = real(name)
    found = lipcert.compare(report, written(tmp_path, report)[0])
    assert found.changes
    assert {change.verdict for change in found.changes} == {"same"}
    assert repr(found).startswith(f"Comparison({name}: ")
