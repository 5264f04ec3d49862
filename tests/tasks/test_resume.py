"""`--resume`: a complete report resumes to itself, one of another question is refused by the name of what differs, and
what was typed into one is proved again."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from two import loaded, run, two

import lipcert
from lipcert import local_grid as grid
from lipcert.load.model import Model
from lipcert.network.plane import through_coordinates
from lipcert.report.report import Report
from lipcert.sampling.attack import Pgd
from lipcert.tasks.journal import resume as resuming
from lipcert.tasks.journal.seal import Seal
from lipcert.terms.errors import UsageError
from lipcert.terms.question import Question

X = np.array([[0.5, 0.5], [1.0, 3.0], [2.0, 0.1]])
Y = np.array([1, 1, 0])
BOX = lipcert.Box(torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 1.0]))


def _box(model: Model, low: float = -1.0, shape: tuple[int, int] = (2, 3), **options: Any) -> Report:
    return grid(model, lipcert.Box(torch.full((2,), low), torch.ones(2)), shape, **{"rtol": 0.0, **options})


def _balls(model: Model, shift: float = 0.0, eps: tuple[float, ...] = (0.1, 0.2), **options: Any) -> Report:
    return lipcert.local(model, X + shift, list(eps), **{"methods": ["jacobian"], "y": Y, **options})


def _jacobian(model: Model, shift: float = 0.0, **options: Any) -> Report:
    return lipcert.jacobian(model, X + shift, **{"y": Y, **options})


def _radius(model: Model, shift: float = 0.0, y: Any = Y, **options: Any) -> Report:
    return lipcert.radius(model, X + shift, y, **{"methods": ["pairs", "sqrt2"], **options})


def _pairs(model: Model, **options: Any) -> Report:
    return lipcert.bound(model, **{"output": "pairs", "methods": ["product", "sampled"], **options})


TASKS: dict[str, Callable[..., Report]] = {
    "grid": _box,
    "balls": _balls,
    "jacobian": _jacobian,
    "radius": _radius,
    "pairs": _pairs,
}
# one option changed at a time, and the word of the message that names it
CHANGES: dict[str, list[tuple[dict[str, Any], str]]] = {
    "grid": [
        ({"norm": "1"}, "norm"),
        ({"output": "0"}, "--output"),
        ({"rtol": 0.5}, "rtol"),
        ({"pairs": 3}, "pairs"),
        ({"jacobians": 3}, "jacobians"),
        ({"seed": 1}, "seed"),
        ({"low": -2.0}, "region"),
        ({"shape": (3, 2)}, "edges"),
    ],
    "balls": [
        ({"norm": "inf"}, "norm"),
        ({"output": "1"}, "--output"),
        ({"rtol": 0.5}, "rtol"),
        ({"seed": 1}, "seed"),
        ({"ball_norm": "inf"}, "region"),
        ({"eps": (0.1, 0.3)}, "region"),
        ({"eps": (0.15, 0.2)}, "radii"),
        ({"methods": ["branch"]}, "methods"),
        ({"y": None}, "data"),
        ({"shift": 0.1}, "data"),
        ({"indices": [3, 4, 5]}, "data"),
    ],
    "jacobian": [
        ({"norm": "1"}, "norm"),
        ({"seed": 1}, "seed"),
        ({"around": 0.1}, "around"),
        ({"between": True}, "between"),
        ({"y": Y[::-1]}, "labels"),
        ({"to_node": "MatMul node 'linear'"}, "to"),
        ({"shift": 0.1}, "data"),
    ],
    "radius": [
        ({"norm": "inf"}, "norm"),
        ({"methods": ["pairs"]}, "methods"),
        ({"tolerance": 0.1, "y": None}, "--output"),
        ({"attack": Pgd(steps=2, restarts=2)}, "attack"),
        ({"seed": 1}, "seed"),
        ({"y": None}, "data"),
        ({"shift": 0.1}, "data"),
    ],
    "pairs": [
        ({"norm": "1"}, "norm"),
        ({"seed": 1}, "seed"),
        ({"methods": ["product"]}, "methods"),
        ({"region": BOX}, "region"),
    ],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return loaded(tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def reports(model: Model) -> dict[str, Report]:
    return {name: ask(model) for name, ask in TASKS.items()}


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in ("seconds", "created", "warnings")}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def written(report: dict[str, Any], folder: Path) -> Path:
    (folder / "r.json").write_text(json.dumps(report))
    return folder / "r.json"


@pytest.mark.parametrize("task", TASKS)
def test_a_complete_report_resumes_to_itself(
    task: str, model: Model, reports: dict[str, Report], tmp_path: Path
) -> None:
    before = reports[task].to_dict()
    for earlier in (written(before, tmp_path), reports[task]):
        again = TASKS[task](model, resume=earlier)
        assert timeless(again.to_dict()) == timeless(before)
        assert [word for word in again.warnings if "are taken from" in word]
        assert not [word for word in again.warnings if "not taken over" in word]


@pytest.mark.parametrize("task", TASKS)
def test_every_other_question_is_refused_by_name(
    task: str, model: Model, reports: dict[str, Report], tmp_path: Path
) -> None:
    path = written(reports[task].to_dict(), tmp_path)
    for change, word in CHANGES[task]:
        with pytest.raises(UsageError, match=rf"^(--)?resume \S+: another question: its \S*{word.lstrip('-')}"):
            TASKS[task](model, resume=path, **change)


@pytest.mark.parametrize("task", TASKS)
def test_other_models_and_units_are_refused_by_name(
    task: str, reports: dict[str, Report], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("others")
    for options, word in (({"std": [0.01]}, "std"), ({"mean": [0.5]}, "mean")):
        with pytest.raises(UsageError, match=f"another question: its (--)?{word} is None, here it is"):
            TASKS[task](loaded(folder, **options), resume=reports[task])
    with pytest.raises(UsageError, match="another question: its model file"):
        TASKS[task](lipcert.load(two(folder, second=200.0)), resume=reports[task])


def test_another_plane_is_another_question() -> None:
    """Two inputs move and the third is held: at another value, or in another order, it is another function."""
    model = lipcert.load(torch.nn.Linear(3, 2), input_shape=(1, 3))
    x = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    first, other = through_coordinates(model.graph, 0, 1, x), through_coordinates(model.graph, 0, 1, 2 * x)
    before = _box(model, plane=first)
    assert _box(model, plane=first, resume=before).upper == before.upper
    for plane in (other, through_coordinates(model.graph, 1, 0, x)):
        with pytest.raises(UsageError, match="another question: its plane"):
            _box(model, plane=plane, resume=before)


def test_other_options_of_a_method_are_another_question(model: Model) -> None:
    before = _pairs(model, methods=["lipsdp"], multipliers="layer")
    assert _pairs(model, methods=["lipsdp"], multipliers="layer", resume=before).upper == before.upper
    for multipliers in ("neuron", None):
        with pytest.raises(UsageError, match="another question: its methods"):
            _pairs(model, methods=["lipsdp"], multipliers=multipliers, resume=before)


def test_reports_of_other_commands_are_refused(model: Model, reports: dict[str, Report]) -> None:
    for task, ask in TASKS.items():
        for other, report in reports.items():
            if other != task:
                with pytest.raises(UsageError, match=r"this is a report of|another question"):
                    ask(model, resume=report)


JUNK: list[str] = ["", "null", "3", "[]", "{", "{}", "NaN", "[" * 100_000, '"x"', '{"schema": "lipcert.report/1"}']


@pytest.mark.parametrize("task", TASKS)
def test_whatever_is_no_report_is_a_usage_error(task: str, model: Model, tmp_path: Path) -> None:
    for text in JUNK:
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(UsageError, match=r"^(--)?resume "):
            TASKS[task](model, resume=tmp_path / "r.json")
    (tmp_path / "r.json").write_bytes(b"\xff\xfe{}")
    for path in (tmp_path / "r.json", tmp_path / "absent", tmp_path):
        with pytest.raises(UsageError, match=r"^(--)?resume "):
            TASKS[task](model, resume=path)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, item in items for place in places(item, (*at, key)))]


def put(data: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    data = copy.deepcopy(data)
    inner = data
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return data


@pytest.mark.parametrize("task", TASKS)
def test_a_report_of_any_shape_gives_the_answer_or_a_usage_error(
    task: str, model: Model, reports: dict[str, Report], tmp_path: Path
) -> None:
    """Any one field replaced by other JSON: refused, or computed again, and never another value."""
    whole = json.loads(json.dumps(reports[task].to_dict()))
    every = [place for place in places(whole) if place]
    some = [place for place in every if place[0] in ("points", "summary", "question", "model", "norm", "scope")]
    for k, place in enumerate(some[:: max(1, len(some) // 7)]):
        value: Any = [None, 3, "x", [], {}, [[]], 5.0][k % 7]
        with contextlib.suppress(UsageError):
            again = TASKS[task](model, resume=written(put(whole, place, value), tmp_path))
            assert (again.upper, again.lower) == (reports[task].upper, reports[task].lower), place
            assert timeless(again.to_dict())["points"] == timeless(whole)["points"], place


@pytest.mark.parametrize("task", TASKS)
def test_an_older_report_is_refused_with_the_reason(task: str, model: Model, reports: dict[str, Report]) -> None:
    older = Report.from_dict({k: v for k, v in reports[task].to_dict().items() if k != "question"})
    with pytest.raises(UsageError, match="does not say which question it answers"):
        TASKS[task](model, resume=older)


TYPED: dict[str, tuple[Any, ...]] = {
    "grid": ("summary", "grid", "upper", 5),
    "balls": ("points", 0, "upper"),
    "jacobian": ("points", 1, "spectral"),
    "radius": ("points", 0, "radius"),
    "pairs": ("summary", "pairs", 0, "results", 0, "value"),
}


@pytest.mark.parametrize("task", TASKS)
def test_values_typed_in_are_proved_again(task: str, model: Model, reports: dict[str, Report], tmp_path: Path) -> None:
    whole = reports[task].to_dict()
    again = TASKS[task](model, resume=written(put(whole, TYPED[task], 5e-3), tmp_path))
    assert timeless(again.to_dict())["points"] == timeless(whole)["points"]
    assert timeless(again.to_dict())["summary"] == timeless(whole)["summary"]
    assert [word for word in again.warnings if "changed or damaged" in word]


def test_constants_typed_in_are_proved_again(model: Model, reports: dict[str, Report], tmp_path: Path) -> None:
    """Radii that are not in the report yet are made with them."""
    whole = reports["radius"].to_dict() | {"points": []}
    typed = put(whole, ("summary", "constants", 0, "upper"), 1e-9)
    again = TASKS["radius"](model, resume=written(typed, tmp_path))
    assert again.points == reports["radius"].points


def test_the_witness_of_a_grid_is_not_lost(model: Model, reports: dict[str, Report], tmp_path: Path) -> None:
    for value in (None, {"value": 1e9, "witness": None}):
        typed = put(reports["grid"].to_dict(), ("summary", "grid", "witness"), value)
        again = TASKS["grid"](model, resume=written(typed, tmp_path))
        assert again.lower == reports["grid"].lower


def test_rows_of_another_user_are_proved_again(
    model: Model, reports: dict[str, Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    again = TASKS["radius"](model, resume=reports["radius"])
    assert [row["radius"] for row in again.points] == [row["radius"] for row in reports["radius"].points]
    assert [word for word in again.warnings if "another user, machine or version" in word]


def test_a_row_that_stands_twice_counts_once(model: Model, reports: dict[str, Report], tmp_path: Path) -> None:
    for task in ("balls", "jacobian", "radius"):
        whole = reports[task].to_dict()
        twice = whole | {"points": [whole["points"][0], *whole["points"]]}
        again = TASKS[task](model, resume=written(twice, tmp_path))
        assert timeless(again.to_dict())["points"] == timeless(whole)["points"]


def test_units_on_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As it was found: with the report of the model's units, 2.00001 came out as proved where the truth is 200."""
    net, data = two(tmp_path), tmp_path / "d.npz"
    np.savez(data, x=X, y=Y)
    asked = ("local", net, "--at", data, "--eps", "0.1", "--quiet", "--json", tmp_path / "a.json")
    assert run(*asked) == 0
    raw = ("local", net, "--at", data, "--eps", "0.1", "--quiet", "--json", tmp_path / "b.json", "--std", "0.01")
    assert run(*raw, "--resume", tmp_path / "a.json") == 2
    assert "another question: its --std is None, here it is [0.01]" in capfd.readouterr().err
    assert run(*raw) == 0
    assert json.loads((tmp_path / "b.json").read_text())["upper"] >= 200.0
    grids = ("local", net, "--grid", "3x2", "--box=-1:1", "--quiet", "--json", tmp_path / "g.json")
    assert run(*grids) == 0
    assert run(*grids, "--resume", tmp_path / "g.json") == 0  # complete: it died with an IndexError


def test_a_comparison_in_part_gives_false_values(
    model: Model, reports: dict[str, Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: without the question in comparison and seal, the report in the model's units answers for raw ones."""
    raw, begun = loaded(tmp_path, std=[0.01]), Seal.of(reports["balls"].question or pytest.fail("no question"))
    monkeypatch.setattr(resuming, "_compare", lambda *given: None)
    monkeypatch.setattr(Seal, "of", lambda question: begun)
    stale = TASKS["balls"](raw, resume=reports["balls"])
    truth = TASKS["balls"](raw)
    assert stale.upper is not None
    assert truth.lower is not None
    assert stale.upper < truth.lower


def test_the_question_is_in_every_report(model: Model, reports: dict[str, Report]) -> None:
    more = [lipcert.inspect(model), lipcert.layers(model), lipcert.bound(model, methods=["product"])]
    for report in (*reports.values(), *more):
        data = report.to_dict()
        assert Question.from_dict(data["question"]) == report.question
        assert Question.from_dict(data["question"]).at_odds(data) is None
        assert Report.from_dict(data).question == report.question
