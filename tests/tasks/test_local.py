"""`lipcert local`: grids and balls against dense sampling, monotone curves, planes, partial and resumed runs."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from dense import DUAL, chain, gradients
from torch import Tensor

import lipcert
from lipcert import local
from lipcert.cli.local import bare_grid
from lipcert.cli.local_tasks import read_grid, split_places
from lipcert.cli.main import main
from lipcert.load.model import Model
from lipcert.network.graph import Graph
from lipcert.network.plane import through_coordinates, through_points
from lipcert.report.report import Report
from lipcert.tasks import grid as grids
from lipcert.tasks.in_balls import InBalls
from lipcert.tasks.in_cells import InCells
from lipcert.terms.errors import UsageError
from lipcert.terms.query import Box, Norm

SCHEMA = json.loads((Path(lipcert.__file__).parent / "report/schema/lipcert.report-1.json").read_text())
MOONS = Path(__file__).parents[2] / "examples/two_moons.onnx"


def model_of(graph: Graph) -> Model:
    nothing = dict.fromkeys(("path", "format", "sha256", "input_shape", "output_shape", "parameters", "neurons"))
    return Model(graph, {**nothing, "graph": graph.fingerprint()})


def square(half: float = 1.0, n: int = 2) -> Box:
    return Box(torch.full((n,), -half).double(), torch.full((n,), half).double())


def on_a_grid(graph: Graph, low: Tensor, high: Tensor, p: str, count: int = 12) -> float:
    lines = [torch.linspace(float(a), float(b), count, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
    x = torch.cartesian_prod(*lines).reshape(-1, len(lines))
    return float(torch.linalg.vector_norm(gradients(graph, x)[:, 0], ord=DUAL[p], dim=1).max())


def checked(report: Report) -> dict[str, Any]:
    data = report.to_dict()
    jsonschema.validate(data, SCHEMA)
    assert "NaN" not in json.dumps(data, allow_nan=False)
    return data


def cells_hold(graph: Graph, report: Report, p: str) -> bool:
    found = report.summary["grid"]
    low, high, _ = grids.cells_of(
        Box(*(torch.tensor(report.region[side], dtype=torch.float64) for side in ("lower", "upper"))), found["shape"]
    )
    return all(
        on_a_grid(graph, a, b, p) <= upper * (1 + 1e-12) and lower <= upper
        for a, b, lower, upper in zip(low, high, found["lower"], found["upper"], strict=True)
    )


# Grids.


@pytest.mark.every(5)
@pytest.mark.parametrize("p", ["1", "2", "inf"])
@pytest.mark.parametrize(("name", "n"), [("relu", 1), ("relu", 2), ("tanh", 2), ("gelu_erf", 3)])
def test_every_cell_holds(name: str, n: int, p: str) -> None:
    graph = chain(n, [n, 8, 8, 1], name)
    report = lipcert.local_grid(
        model_of(graph), square(1.0, n), (4 if n < 3 else 2,) * n, norm=p, rtol=0.05, pairs=8, jacobians=4
    )
    checked(report)
    assert cells_hold(graph, report, p)
    assert report.exit_code == 0
    assert all(report.summary["grid"]["closed"])
    assert all(ratio <= 1.05 * (1 + 1e-9) for ratio in report.summary["grid"]["ratio"] if ratio is not None)
    assert report.upper == max(report.summary["grid"]["upper"])


def test_a_grid_with_a_cell_too_low_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = chain(1, [2, 8, 8, 1], "relu")
    report = lipcert.local_grid(model_of(graph), square(), (3, 3), norm="2")
    report.summary["grid"]["upper"][4] *= 0.9
    assert not cells_hold(graph, report, "2")


def test_the_box_is_the_largest_of_its_cells() -> None:
    graph = chain(4, [2, 10, 10, 1], "relu")
    whole = lipcert.bound(model_of(graph), region=square(), norm="inf", methods=["branch"])
    report = lipcert.local_grid(model_of(graph), square(), (5, 3), norm="inf", rtol=1e-4)
    assert report.upper == pytest.approx(whole.upper, rel=3e-4)
    assert report.lower == pytest.approx(whole.lower, rel=3e-4)


def test_one_sweep_and_no_budget_leave_valid_cells() -> None:
    graph = chain(2, [2, 20, 20, 1], "tanh", 3.0)
    for options in ({"rtol": 0.0}, {"budget": 0.0}):
        report = lipcert.local_grid(model_of(graph), square(), (3, 3), norm="2", **options)  # type: ignore[arg-type]
        assert cells_hold(graph, report, "2")


def test_refused_grids() -> None:
    graph = chain(1, [2, 3, 1], "relu")
    for shape in ((3,), (0, 3), (10_000, 10_000)):
        with pytest.raises(UsageError):
            lipcert.local_grid(model_of(graph), square(), shape)
    with pytest.raises(UsageError, match="plane"):
        lipcert.local_grid(model_of(chain(1, [6, 3, 1], "relu")), square(1.0, 6))
    with pytest.raises(UsageError, match="no width"):
        lipcert.local_grid(model_of(graph), Box(torch.zeros(2).double(), torch.tensor([1.0, 0.0]).double()))


def test_steps_have_no_finite_cell() -> None:
    report = lipcert.local_grid(model_of(chain(1, [1, 4, 1], "sign")), square(1.0, 1), (4,), norm="2", rtol=0.0)
    checked(report)
    assert report.exit_code == 3
    assert report.upper is None


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_an_interrupted_grid_goes_on(monkeypatch: pytest.MonkeyPatch, stop_after: int) -> None:
    graph = chain(3, [2, 8, 8, 1], "relu")
    monkeypatch.setattr(grids, "BLOCK", 4)
    full = lipcert.local_grid(model_of(graph), square(), (4, 3), norm="2", pairs=5)
    partial = interrupted(monkeypatch, InCells, "bracketed", stop_after,
                          lambda: lipcert.local_grid(model_of(graph), square(), (4, 3), norm="2", pairs=5))  # fmt: skip
    data = checked(partial)
    assert partial.upper is None
    assert sum(partial.summary["grid"]["done"]) == 4 * stop_after
    again = lipcert.local_grid(model_of(graph), square(), (4, 3), norm="2", pairs=5, resume=Report.from_dict(data))
    assert again.summary["grid"] == full.summary["grid"]
    with pytest.raises(UsageError, match="its norm is '2', here it is '1'"):
        lipcert.local_grid(model_of(graph), square(), (4, 3), norm="1", pairs=5, resume=partial)
    with pytest.raises(UsageError, match=r"its rtol is 0\.01, here it is 0\.5"):
        lipcert.local_grid(model_of(graph), square(), (4, 3), norm="2", pairs=5, rtol=0.5, resume=partial)


def interrupted(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, after: int, work: Callable[[], Report]
) -> Report:
    """The partial report of `work`, stopped at the call number `after` of module.name."""
    honest, calls = getattr(module, name), []

    def stopping(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return honest(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, stopping)
        with pytest.raises(KeyboardInterrupt) as stop:
            work()
    return stop.value.partial_report  # type: ignore[attr-defined, no-any-return]


# Planes.


def test_planes_are_restrictions() -> None:
    graph = chain(6, [5, 8, 8, 1], "tanh")
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    uv = torch.randn(20, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for plane in (through_coordinates(graph, 1, 3, x[0]), through_points(graph, x, Norm())):
        assert torch.allclose(plane.graph.evaluate(uv), graph.evaluate(plane.points(uv)), atol=1e-12)
        assert torch.allclose(plane.coordinates(plane.points(uv)), uv, atol=1e-9)
        report = lipcert.local_grid(model_of(graph), square(), (3, 3), norm="2", plane=plane)
        checked(report)
        assert cells_hold(plane.graph, report, "2")
        assert any("plane" in words for words in report.assumptions)
    three = through_points(graph, x, Norm())
    assert torch.allclose(three.points(three.coordinates(x)), x, atol=1e-12)
    with pytest.raises(UsageError, match="one line"):
        through_points(graph, torch.stack([x[0], x[1], 2 * x[1] - x[0]]), Norm())
    with pytest.raises(UsageError, match="l2"):
        through_points(graph, x, Norm("inf", "inf"))
    with pytest.raises(UsageError, match="two different"):
        through_coordinates(graph, 1, 1, x[0])


# Balls.


def in_ball(x: Tensor, radius: float, p: str, count: int, dice: torch.Generator) -> Tensor:
    t = torch.rand(count, x.numel(), generator=dice, dtype=torch.float64) * 2 - 1
    order = {"1": 1.0, "2": 2.0, "inf": math.inf}[p]
    return x + radius * t / torch.linalg.vector_norm(t, ord=order, dim=1, keepdim=True).clamp(min=1.0) * (1 - 1e-12)


@pytest.mark.every(4)
@pytest.mark.parametrize("ball", ["1", "2", "inf"])
@pytest.mark.parametrize(("name", "n"), [("relu", 2), ("tanh", 3), ("softplus", 20)])
def test_balls_hold_and_curves_are_monotone(name: str, n: int, ball: str) -> None:
    graph = chain(n, [n, 10, 10, 1], name)
    dice = torch.Generator().manual_seed(n)
    x = torch.randn(3, n, generator=dice, dtype=torch.float64)
    radii = [0.3, 0.0, 0.01]
    for p in ("2", "inf"):
        report = local(model_of(graph), x, radii, ball_norm=ball, norm=p, each=0.02)  # type: ignore[arg-type]
        checked(report)
        assert report.exit_code == 0
        assert len(report.points) == 9
        top = lipcert.bound(model_of(graph), norm=p, methods=["product", "absolute", "cplip"]).upper
        for k in range(3):
            rows = [row for row in report.points if row["index"] == k]
            assert [row["eps"] for row in rows] == sorted(radii)
            assert all(a["upper"] <= b["upper"] and a["lower"] <= b["lower"] for a, b in itertools.pairwise(rows))
            gradient = float(torch.linalg.vector_norm(gradients(graph, x[k : k + 1])[0, 0], ord=DUAL[p]))
            assert rows[0]["upper"] == pytest.approx(gradient, rel=1e-9)
            assert rows[0]["lower"] == pytest.approx(gradient, rel=1e-9)
            assert rows[-1]["upper"] <= top
            for row in rows:
                inside = gradients(graph, in_ball(x[k], row["eps"], ball, 200, dice))[:, 0]
                seen = float(torch.linalg.vector_norm(inside, ord=DUAL[p], dim=1).max())
                assert seen <= row["upper"] * (1 + 1e-9)
                assert row["lower"] <= row["upper"]


def test_interrupted_balls_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from lipcert.tasks import balls as local_balls

    graph = chain(3, [2, 8, 8, 2], "relu")
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def work(resume: Report | None = None) -> Report:
        return local(model_of(graph), x, [0.1, 0.2], norm="2", output="0-1", resume=resume, methods=["jacobian"])

    monkeypatch.setattr(local_balls, "TOGETHER", 1)
    partial = interrupted(monkeypatch, InBalls, "__call__", 2, work)
    data = checked(partial)
    assert partial.upper is None
    assert len(partial.points) == 4
    full, again = work(), work(Report.from_dict(data))
    assert [(r["index"], r["eps"], r["upper"]) for r in again.points] == [
        (r["index"], r["eps"], r["upper"]) for r in full.points
    ]
    assert again.upper == full.upper


def test_wrong_questions() -> None:
    model = model_of(chain(1, [2, 3, 1], "relu"))
    x = torch.zeros(1, 2)
    for arguments in (
        {"eps": []},
        {"eps": [-1.0]},
        {"eps": [0.1], "output": "pairs"},
        {"eps": [0.1], "methods": ["no"]},
    ):
        with pytest.raises(UsageError):
            local(model, x, **arguments)  # type: ignore[arg-type]


# The command.


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return int(stop.value.code or 0)


def test_the_command_over_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, plot = tmp_path / "out.json", tmp_path / "heat.png"
    status = run(
        "local", str(MOONS), "--grid", "6x5", "--box=0:0.5,0:0.5", "--json", str(out), "--plot", str(plot), "--quiet"
    )
    assert status == 0
    assert plot.stat().st_size > 1000
    data = json.loads(out.read_text())
    jsonschema.validate(data, SCHEMA)
    assert data["summary"]["grid"]["shape"] == [6, 5]
    assert "30 bounded" in capsys.readouterr().out


def test_the_command_at_points(tmp_path: Path) -> None:
    out, data = tmp_path / "out.json", tmp_path / "x.npz"
    np.savez(data, x=np.zeros((3, 2)), y=np.arange(3))
    assert run("local", str(MOONS), "--at", f"{data}#2", "--eps", "0.1,0.01", "--json", str(out), "--quiet") == 0
    rows = json.loads(out.read_text())["points"]
    assert [(row["index"], row["label"], row["eps"]) for row in rows] == [(2, 2, 0.01), (2, 2, 0.1)]
    assert run("local", str(MOONS), "--at", str(data), "--eps", "0.1", "--resume", str(out), "--quiet") == 2
    assert run("local", str(MOONS), "--grid", "--data", str(data), "--rtol", "0", "--budget", "0", "--quiet") == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--grid", "5x5"],
        ["--grid", "5x5", "--at", "x.npz"],
        ["--grid", "5by5", "--box", "0:1"],
        ["--at", "x.npz"],
        ["--grid", "5x5", "--box", "0:1", "--plane", "0,1"],
        ["--grid", "5x5", "--box", "0:1", "--plot", "a.tif"],
        ["--at", "x.npz", "--eps", "0.1", "--box", "0:1"],
    ],
)
def test_usage(arguments: list[str]) -> None:
    assert run("local", str(MOONS), *arguments, "--quiet") == 2


def test_a_bare_grid() -> None:
    assert bare_grid(["local", "m.onnx", "--grid", "--box=0:1"]) == ["local", "m.onnx", "--grid=auto", "--box=0:1"]
    assert bare_grid(["local", "--grid", "m.onnx"]) == ["local", "--grid=auto", "m.onnx"]
    assert bare_grid(["local", "m.onnx", "--grid", "3x4"]) == ["local", "m.onnx", "--grid", "3x4"]
    assert bare_grid(["local", "m.onnx", "--grid"]) == ["local", "m.onnx", "--grid=auto"]
    assert bare_grid(["bound", "--grid"]) == ["bound", "--grid"]
    assert read_grid("auto") is None
    assert split_places("a#b.npz#3,4") == ("a#b.npz", [3, 4])
