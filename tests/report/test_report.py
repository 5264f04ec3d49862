"""The report: verdicts and exit statuses, strict JSON under the schema, digits that stay bounds, hostile names."""

from __future__ import annotations

import io
import json
import math
import os
import stat
from dataclasses import replace
from fractions import Fraction
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lipcert.report.formats.terminal import to_table
from lipcert.report.report import Report
from lipcert.report.sections.bounds import bar
from lipcert.report.to_json import to_json, write_atomically
from lipcert.terms.digits import digits
from lipcert.terms.errors import RefusedModel, UnreadableError
from lipcert.terms.printable import plain, printable
from lipcert.terms.query import Norm
from lipcert.terms.result import Bound, Refusal

MODEL = {
    "path": "m.onnx",
    "format": "onnx",
    "sha256": "0" * 64,
    "input_shape": [1, 4],
    "output_shape": [1, 3],
    "parameters": 67,
    "neurons": 8,
}
PROVED = Bound("product", "upper", "proved", 3.5)
NUMERIC = Bound("solver", "upper", "numeric", 2.5)
LOWER = Bound("sampled", "lower", "sampled", 2.0, witness={"x": np.array([1.0, -0.5])})
ESTIMATE = Bound("seqlip", "estimate", "numeric", 9.0)
REFUSED = Refusal("absolute", "upper", "refused", "no rule", node="softmax_1")
UNBOUNDED = Refusal("product", "upper", "unbounded", "floor is not Lipschitz", node="floor_3")
HOSTILE = "<b>[red]x[/red]\x1b[31m\r\n::error::\u202ename\x07\udc80"
SCHEMA = json.loads(resources.files("lipcert.report").joinpath("schema/lipcert.report-1.json").read_text())


def report(*results: Bound | Refusal, **changes: object) -> Report:
    return replace(Report("bound", MODEL, results=results), **changes)


def schema_errors(data: object) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(data)]


def strict(text: str) -> dict:
    def reject(constant: str) -> None:
        raise AssertionError(f"{constant} in the JSON")

    return json.loads(text, parse_constant=reject)


def shown(report: Report, width: int = 100) -> str:
    """What a terminal would get, colours off."""
    console = Console(file=io.StringIO(), width=width, highlight=False, color_system=None)
    console.print(to_table(report))
    return console.file.getvalue()


# Verdicts


@pytest.mark.parametrize(
    ("made", "status", "upper", "lower", "exit_code"),
    [
        (report(PROVED, LOWER), "bounded", 3.5, 2.0, 0),
        (report(PROVED, replace(PROVED, value=3.0), LOWER, replace(LOWER, value=1.0)), "bounded", 3.0, 2.0, 0),
        (report(PROVED, NUMERIC, LOWER), "bounded", 3.5, 2.0, 0),  # numeric never becomes the upper value
        (report(NUMERIC, LOWER), "refused", None, 2.0, 3),
        (report(ESTIMATE, PROVED), "bounded", 3.5, None, 0),
        (report(REFUSED, LOWER), "refused", None, 2.0, 3),
        (report(REFUSED, UNBOUNDED, LOWER), "unbounded", None, 2.0, 3),
        (report(replace(REFUSED, status="timeout")), "timeout", None, None, 3),
        (report(replace(UNBOUNDED, side="lower"), PROVED), "bounded", 3.5, None, 0),
        (report(), "refused", None, None, 3),
        (report(PROVED, LOWER, max_upper=3.5), "bounded", 3.5, 2.0, 0),
        (report(PROVED, LOWER, max_upper=3.4), "bounded", 3.5, 2.0, 1),
        (report(NUMERIC, LOWER, max_upper=3.0), "refused", None, 2.0, 3),
        (report(PROVED, LOWER, max_upper=0.0), "bounded", 3.5, 2.0, 1),
        (report(PROVED, replace(LOWER, value=3.6)), "refused", None, None, 4),
        (report(PROVED, NUMERIC, replace(LOWER, value=3.0)), "refused", None, None, 4),
        (report(PROVED, replace(LOWER, value=3.5)), "bounded", 3.5, 3.5, 0),
        (Report("inspect", MODEL), None, None, None, 0),
    ],
)
def test_verdict(made: Report, status: str | None, upper: float | None, lower: float | None, exit_code: int) -> None:
    assert (made.status, made.upper, made.lower, made.exit_code) == (status, upper, lower, exit_code)
    data = strict(to_json(made))
    assert (data["status"], data["upper"], data["lower"]) == (status, upper, lower)
    assert schema_errors(data) == []
    shown(made)


def test_contradiction_keeps_both_witnesses_and_names_both_methods() -> None:
    made = report(PROVED, replace(LOWER, value=3.6))
    data = made.to_dict()
    contradictions = [{"lower": "sampled", "upper": "product"}]
    assert data["self_check"] == {"passed": False, "contradictions": contradictions, "points": []}
    assert [row["value"] for row in data["results"]] == [3.5, 3.6]
    assert data["results"][1]["witness"] == {"x": [1.0, -0.5]}
    assert "SELF-CHECK FAILED" in shown(made)


def test_refused_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"abc")
    error = RefusedModel("node n1 (Floor): not Lipschitz", node="n1", unbounded=True)
    made = Report.of_refused_model(path, error, "bound", norm=Norm("inf", "2"), max_upper=1.0)
    data = made.to_dict()
    assert (made.status, made.exit_code) == ("refused", 3)  # of the node, not of the network
    assert data["model"]["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (data["results"][0]["node"], data["norm"]) == ("n1", {"input": "inf", "output": "2"})
    assert schema_errors(data) == []
    assert Report.of_refused_model(tmp_path / "absent", "internal error", "bound").status == "refused"


# JSON

finite = st.floats(min_value=0, allow_infinity=False, allow_nan=False)
texts = st.text() | st.just(HOSTILE)
details = st.dictionaries(texts, st.none() | st.booleans() | st.integers() | st.floats() | texts, max_size=3)
bounds = st.builds(
    Bound,
    texts,
    st.sampled_from(["upper", "lower", "estimate"]),
    st.sampled_from(["proved", "numeric", "sampled"]),
    finite,
    finite,
    st.none() | st.fixed_dictionaries({"x": st.lists(finite)}),
    details,
)
refusals = st.builds(
    Refusal,
    texts,
    st.sampled_from(["upper", "lower"]),
    st.sampled_from(["refused", "unbounded", "timeout"]),
    texts,
    st.none() | texts,
    finite,
)
nothing = dict.fromkeys(("input_shape", "output_shape", "lower", "reason"), st.none())
verdicts = st.sampled_from(["bounded", "unbounded", "refused"])
layers = st.fixed_dictionaries(
    {
        "name": texts,
        "kind": texts,
        "upper": st.none() | finite,
        "rigor": st.just("proved"),
        "status": verdicts,
        **nothing,
    }
)
norms = st.builds(Norm, *[st.sampled_from(["1", "2", "inf"])] * 2)
reports = st.builds(
    lambda results, **fields: report(*results, **fields),
    st.lists(bounds | refusals, max_size=4),
    norm=norms,
    max_upper=st.none() | finite,
    warnings=st.lists(texts, max_size=2),
    layers=st.lists(layers, max_size=2),
)


@given(reports)
def test_json_is_strict_valid_ascii_and_reads_back(made: Report) -> None:
    text = to_json(made)
    data = strict(text)
    assert text.isascii()
    assert all(c.isprintable() or c == "\n" for c in text)
    assert schema_errors(data) == []
    again = Report.from_dict(data)
    assert again.to_dict() == data
    assert (again.exit_code, again.upper, again.lower) == (made.exit_code, made.upper, made.lower)


@pytest.mark.parametrize(
    "planted",
    [
        {"status": "bounded", "upper": None},
        {"status": "refused", "upper": 3.5},
        {"upper": -1.0},
        {"schema": "lipcert.report/2"},
        {"norm": {"input": "3", "output": "2"}},
        {"results": [{"method": "product"}]},
        {"layers": [{"name": "a"}]},
        {"parts": [{"name": "a", "kind": "linear", "parts": [{"name": "b"}]}]},
        {"methods": [{"method": "product", "usable": 1}]},
        {"scope": {"region": {"kind": "sphere"}, "output": "vector"}},
    ],
)
def test_schema_rejects(planted: dict) -> None:
    data = report(PROVED, LOWER).to_dict()
    assert schema_errors(data) == []
    assert schema_errors({**data, **planted}) != []


def test_schema_admits_new_fields() -> None:
    assert schema_errors({**report(PROVED).to_dict(), "later": 1}) == []


@pytest.mark.parametrize("data", [{}, {"schema": "lipcert.report/1"}, {"schema": "lipcert.report/2"}])
def test_malformed_report_is_unreadable(data: dict) -> None:
    with pytest.raises(UnreadableError):
        Report.from_dict(data)


def test_malformed_values_are_unreadable() -> None:
    data = report(PROVED).to_dict()
    data["results"][0]["value"] = -1.0
    with pytest.raises(UnreadableError):
        Report.from_dict(data)


def test_plain() -> None:
    value = {"t": torch.tensor([1.0, 2.0]), 3: np.float32(0.5), "s": torch.Size([1, 2]), "i": -math.inf, "n": math.nan}
    assert plain(value) == {"t": [1.0, 2.0], "3": 0.5, "s": [1, 2], "i": "-inf", "n": "nan"}
    assert plain(Path("a/b")) == "a/b"
    with pytest.raises(TypeError, match="complex"):
        plain({"z": 1j})


def test_write_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, link = tmp_path / "report.json", tmp_path / "link.json"
    write_atomically("old", target)
    os.chmod(target, 0o640)
    link.symlink_to(target)
    write_atomically("new", link)
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640

    def torn(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", torn)
    with pytest.raises(OSError, match="disk full"):
        write_atomically("half", target)
    assert target.read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "report.json"]


def test_write_atomically_into_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically("text", pipe)
    assert os.read(reader, 100) == b"text"
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    os.close(reader)


# For people


def is_outward(text: str, value: float, side: str) -> bool:
    """The oracle: exact rational comparison of what is shown with the value."""
    return Fraction(text) >= Fraction(value) if side == "upper" else Fraction(text) <= Fraction(value)


@given(finite, st.sampled_from(["upper", "lower"]))
def test_shown_digits_are_still_a_bound(value: float, side: str) -> None:
    text = digits(value, side)
    assert is_outward(text, value, side)
    assert abs(Fraction(text) - Fraction(value)) <= Fraction(value) / 10**5
    assert len(text) <= 14


def test_is_outward_can_fail() -> None:
    assert not is_outward(f"{1.00000049:.6g}", 1.00000049, "upper")  # what ordinary formatting does
    assert not is_outward(f"{2.99999951:.6g}", 2.99999951, "lower")


def test_digits() -> None:
    shown_uppers = [digits(v, "upper") for v in (0.0, 1.0, 18.42000001, 1e50, 5e-324, 123456789.0)]
    assert shown_uppers == ["0", "1", "18.4201", "1.00001e+50", "4.94066e-324", "123457000"]
    assert digits(18.42999999, "lower") == "18.4299"


def test_hostile_names_on_the_terminal() -> None:
    hostile = report(
        PROVED,
        replace(REFUSED, reason=HOSTILE, node=HOSTILE, method=HOSTILE),
        model={**MODEL, "path": HOSTILE},
        warnings=[HOSTILE],
        assumptions=[HOSTILE],
        parts=[{"name": HOSTILE, "kind": HOSTILE, HOSTILE: HOSTILE, "parts": [{"name": HOSTILE, "kind": "k"}]}],
        methods=[{"method": HOSTILE, HOSTILE: HOSTILE}],
        layers=[{"name": HOSTILE, "kind": HOSTILE, "upper": None, "reason": HOSTILE, "node": HOSTILE}],
    )
    text = shown(hostile, width=1000)
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "[red]x[/red]" in text  # shown as it is, not taken for markup
    assert not any(line.lstrip().startswith("::") for line in text.splitlines())


@given(st.text())
def test_printable(text: str) -> None:
    assert printable(text).isprintable()
    assert printable("héllo [x] 漢") == "héllo [x] 漢"


def test_table_says_the_verdict() -> None:
    text = shown(report(PROVED, REFUSED, replace(LOWER, value=2.00000049), max_upper=3.0, warnings=["odd"]))
    for words in ("2 <= L <= 3.5", "l2 -> l2", "bounded", "gate NOT met", "whole input space", "67 parameters"):
        assert words in text
    assert "softmax_1: no rule" in text
    assert "warning: odd" in text
    assert "unbounded" in shown(report(UNBOUNDED))


def test_table_of_layers_and_parts() -> None:
    layers = [
        {"name": "a", "kind": "linear", "upper": 4.0, "lower": 3.9999, "input_shape": [2], "output_shape": [3]},
        {"name": "b", "kind": "relu", "upper": 1.0},
        {"name": "c", "kind": "floor", "upper": None, "status": "unbounded", "reason": "not Lipschitz"},
    ]
    parts = [{"name": "p", "kind": "linear", "input_shape": [2], "output_shape": [3], "note": "conv + bn"}]
    text = shown(Report("layers", MODEL, layers=layers, parts=parts, methods=[{"method": "m", "can": True}]))
    assert text.count("█") == 24 + 6
    assert "not Lipschitz" in text
    assert "note: conv + bn" in text
    assert "2 -> 3" in text


def test_bar() -> None:
    assert [len(bar(v, 4.0)) for v in (0.0, 2.0, 4.0)] == [0, 12, 24]
    assert bar(0.0, 0.0) == ""
