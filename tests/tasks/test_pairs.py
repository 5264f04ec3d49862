"""`--output pairs`: the largest pair, resumed from a partial report of the same question and of no other."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lipcert
from lipcert.terms.errors import UsageError

METHODS = ["product", "sampled", "lipsdp-layer"]


@pytest.fixture(scope="module")
def model() -> lipcert.Model:
    torch.manual_seed(1)
    return lipcert.load(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4)), input_shape=(1, 3))


@pytest.fixture
def whole(model: lipcert.Model) -> lipcert.Report:
    return lipcert.bound(model, methods=METHODS, output="pairs")


def partial(report: lipcert.Report, path: Path, keep: int = 4, change: Any = None) -> Path:
    """A report cut off after `keep` pairs, as an interruption leaves it."""
    record = report.to_dict()
    record["summary"]["pairs"] = record["summary"]["pairs"][:keep]
    if change is not None:
        change(record)
    path.write_text(json.dumps(record))
    return path


def test_each_method_reports_its_largest_pair(model: lipcert.Model, whole: lipcert.Report) -> None:
    singles = {row["pair"]: lipcert.bound(model, methods=METHODS, output=row["pair"]) for row in whole.summary["pairs"]}
    assert len(singles) == 6
    assert whole.upper == min(max(single.results[k].value for single in singles.values()) for k in (0, 2))
    for row in whole.summary["pairs"]:
        assert row["upper"] == singles[row["pair"]].upper
        assert row["lower"] == singles[row["pair"]].lower
        assert row["lower"] <= row["upper"]


def test_resumed_is_as_if_never_interrupted(model: lipcert.Model, whole: lipcert.Report, tmp_path: Path) -> None:
    for keep in (0, 1, 4, 6):
        found = lipcert.bound(model, methods=METHODS, output="pairs", resume=partial(whole, tmp_path / "r", keep))
        assert found.summary == whole.summary
        assert [r.value for r in found.results] == [r.value for r in whole.results]
        lower = next(r for r in found.results if r.side == "lower")
        assert lower.witness is not None
        assert any("are taken from" in warning for warning in found.warnings) == (keep > 0)


def test_pairs_that_ran_out_of_time_are_done_again(model: lipcert.Model, whole: lipcert.Report, tmp_path: Path) -> None:
    short = lipcert.bound(model, methods=METHODS, output="pairs", budget=0)
    assert short.upper is None
    found = lipcert.bound(model, methods=METHODS, output="pairs", resume=partial(short, tmp_path / "r", 6))
    assert found.summary == whole.summary


def other_model(record: dict[str, Any]) -> None:
    record["model"]["sha256"] = "0" * 64


def other_norm(record: dict[str, Any]) -> None:
    record["norm"]["input"] = "1"


def other_region(record: dict[str, Any]) -> None:
    record["scope"]["region"] = {"kind": "box", "lower": [0.0] * 3, "upper": [1.0] * 3}


def other_methods(record: dict[str, Any]) -> None:
    record["summary"]["pairs"][0]["results"].pop()


def other_units(record: dict[str, Any]) -> None:
    record["model"]["units"]["std"] = [2.0]


def other_command(record: dict[str, Any]) -> None:
    record["command"] = "layers"


def no_value(record: dict[str, Any]) -> None:
    record["summary"]["pairs"][0]["results"][0]["value"] = None


def negative(record: dict[str, Any]) -> None:
    record["summary"]["pairs"][0]["results"][0]["value"] = -1.0


@pytest.mark.parametrize("change", [other_model, other_norm, other_region, other_units, other_command])
def test_another_question_is_refused(model: lipcert.Model, whole: lipcert.Report, tmp_path: Path, change: Any) -> None:
    with pytest.raises(UsageError, match="resume"):
        lipcert.bound(model, methods=METHODS, output="pairs", resume=partial(whole, tmp_path / "r", 4, change))


@pytest.mark.parametrize("change", [other_methods, no_value, negative])
def test_damaged_pairs_are_done_again(model: lipcert.Model, whole: lipcert.Report, tmp_path: Path, change: Any) -> None:
    found = lipcert.bound(model, methods=METHODS, output="pairs", resume=partial(whole, tmp_path / "r", 4, change))
    assert sorted(map(str, found.summary["pairs"])) == sorted(map(str, whole.summary["pairs"]))
    assert (found.upper, found.lower) == (whole.upper, whole.lower)
    assert "3 pairs are taken" in found.warnings[-2]
    assert "changed or damaged" in found.warnings[-1]


def test_not_a_report(model: lipcert.Model, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no json")
    for path in (tmp_path / "text", tmp_path / "absent"):
        with pytest.raises(UsageError, match="resume"):
            lipcert.bound(model, output="pairs", resume=path)
    with pytest.raises(UsageError, match="only output pairs"):
        lipcert.bound(model, resume=tmp_path / "text")


def test_options_of_methods(model: lipcert.Model) -> None:
    """Coarser multipliers bound from above; an option without its method, or a value it does not have, is refused."""
    values = [
        lipcert.bound(model, methods=["lipsdp"], multipliers=name).upper for name in ("neuron", "channel", "layer")
    ]
    assert values[0] <= values[1] * (1 + 1e-6)
    assert values[1] <= values[2] * (1 + 1e-6)
    assert values[0] < values[2]
    for options in ({"solver": "SCS"}, {"multipliers": "row"}, {"methods": ["product"], "multipliers": "layer"}):
        with pytest.raises(UsageError, match=r"multipliers|solver"):
            lipcert.bound(model, **options)


def test_pairs_from_one_search(model: lipcert.Model) -> None:
    """Method regions answers for all pairs, and for each output, from one tree: the same brackets as one by one."""
    pytest.importorskip("numba")
    box = lipcert.Box([-1.0] * 3, [1.0] * 3)
    for output, word in (("pairs", "pair"), ("each", "output")):
        found = lipcert.bound(model, region=box, norm="inf", methods=["regions"], output=output)
        rows = found.summary[f"{word}s"]
        assert len({result.details["cells"] for result in found.results}) == 1
        for row in rows:
            alone = lipcert.bound(model, region=box, norm="inf", methods=["regions"], output=row[word])
            assert row["lower"] <= row["upper"] <= row["lower"] * (1 + 1e-6)
            assert row["upper"] == pytest.approx(alone.upper, rel=1e-6)
        assert found.upper == max(row["upper"] for row in rows)
        assert found.lower == max(row["lower"] for row in rows)
        lower = next(r for r in found.results if r.side == "lower")
        assert lower.details[word] == max(rows, key=lambda row: row["lower"])[word]


def test_planted_row_of_another_pair_is_found_out(model: lipcert.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in another order: the brackets of a pair no longer meet those of the same pair alone."""
    pytest.importorskip("numba")
    from lipcert.methods import regions

    right = regions.row_of
    monkeypatch.setattr(regions, "row_of", lambda output, size: right(output, size).roll(1))
    box = lipcert.Box([-1.0] * 3, [1.0] * 3)
    found = lipcert.bound(model, region=box, norm="inf", methods=["regions"], output="pairs")
    alone = [
        lipcert.bound(model, region=box, norm="inf", methods=["regions"], output=p["pair"])
        for p in found.summary["pairs"]
    ]
    rows = zip(found.summary["pairs"], alone, strict=True)
    assert any(one.lower > row["upper"] * (1 + 1e-6) or row["lower"] > one.upper * (1 + 1e-6) for row, one in rows)


def test_a_small_budget_leaves_brackets_of_pairs(shared: object, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    from lipcert.regions.enumeration.tree import prepare

    prepare()  # machine code is read once in a process: no part of what the budget is for
    monkeypatch.setattr(time, "monotonic", time.process_time)  # what others do here counts for nobody
    model = lipcert.load(f"{shared}/models/acasxu_run2a_1_1.onnx")
    x = torch.full(model.input_shape, 0.1, dtype=torch.float64)
    region = lipcert.Box(x - 0.2, x + 0.2)
    found = lipcert.bound(model, region=region, norm="inf", methods=["product", "regions"], output="pairs", budget=3.0)
    assert len(found.summary["pairs"]) == 10
    assert all(0 < row["lower"] <= row["upper"] for row in found.summary["pairs"])
    assert any(row["upper"] > 1.01 * row["lower"] for row in found.summary["pairs"])  # the budget was small
