"""The library from a notebook: what can be given for a model and for data, signatures, reprs, frames, pictures."""

from __future__ import annotations

import inspect as reflection
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import lipcert
from lipcert.load.model import load
from lipcert.report.formats.terminal import as_text
from lipcert.report.report import Report
from lipcert.sampling.attack import Pgd
from lipcert.tasks import balls as local_balls
from lipcert.tasks import grid
from lipcert.tasks import jacobian as measure
from lipcert.tasks import track as tracking
from lipcert.tasks.bound import BoundRequest, bound
from lipcert.tasks.given import as_array, in_python
from lipcert.tasks.inspect import inspect
from lipcert.tasks.layers import layers
from lipcert.tasks.radius import task as robustness
from lipcert.tasks.verify import VerifyRequest, verify
from lipcert.terms.errors import RefusedModel, UnreadableError, UsageError
from lipcert.terms.result import Bound, Refusal

matplotlib.use("agg")
EVIL = "<img src=x onerror=alert(1)>\x1b[31m$x^2$"
X = [[0.2, 0.4], [1.0, -1.0]]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """x -> 3 relu(x) - 3 relu(-x): its constant is 3 (two inputs, two outputs)."""
    model = nn.Sequential(nn.Linear(2, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.cat([torch.eye(2), -torch.eye(2)]))
        model[2].weight.copy_(3 * torch.cat([torch.eye(2), -torch.eye(2)], dim=1))
    return model


@pytest.fixture(scope="module")
def model(net: nn.Module) -> lipcert.Model:
    return lipcert.load(net, X)


# Signatures

BELOW: dict[str, tuple[Callable[..., Any], type | None]] = {  # the function, and what says what is asked of it
    "bound": (bound, BoundRequest),
    "layers": (layers, None),
    "inspect": (inspect, None),
    "verify": (verify, VerifyRequest),
    "load": (load, None),
    "local": (local_balls.local, local_balls.BallsRequest),
    "local_grid": (grid.grid, grid.GridRequest),
    "jacobian": (measure.jacobian, measure.JacobianRequest),
    "radius": (robustness.radius, robustness.RadiusRequest),
    "track": (tracking.track, tracking.TrackRequest),
}
ASKED = {"asked", "request", "session"}  # parameters that carry others
READING = {"input_shape", "input_name", "output_name", "fix", "mean", "std"}  # of `track`, for every checkpoint
OTHER_DEFAULTS = {"methods", "box"}  # literals that the package cannot read without torch
ONLY_HERE = {"example", "input_shape", "weight_in", "weight_out"}  # what makes the model of the function below


@pytest.mark.parametrize("name", BELOW)
def test_signatures_are_spelled_out(name: str) -> None:
    """Nothing that the function below takes is missing or has another default, and nothing is **options."""
    face, (function, request) = reflection.signature(getattr(lipcert, name)).parameters, BELOW[name]
    assert not any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in face.values())
    below = {key: p.default for key, p in reflection.signature(function).parameters.items() if key not in ASKED}
    if request is not None:
        below |= {key: p.default for key, p in reflection.signature(request).parameters.items()} | {"progress": None}
        below.pop("reading", None)
    wanted = {"model" if key == "path_or_module" else key for key in below}
    assert wanted - set(face) == set()
    of_session = {"budget"} if name in ("bound", "local", "local_grid", "jacobian", "radius") else set()
    of_session |= (
        {"workers", "scheduler", "journal"} if name in ("bound", "local", "local_grid", "radius", "jacobian") else set()
    )
    of_session |= {"workers", "scheduler"} if name == "track" else set()
    assert set(face) - wanted <= ONLY_HERE | of_session | (READING if name == "track" else set())
    for key in wanted & set(face) - OTHER_DEFAULTS - {"model", "samples", *(("norm",) if name == "track" else ())}:
        assert face[key].default == below[key], key
    assert getattr(lipcert, name).__doc__


def test_defaults_that_are_written_twice() -> None:
    assert reflection.signature(lipcert.jacobian).parameters["samples"].default == measure.SAMPLES
    assert reflection.signature(lipcert.local).parameters["each"].default == local_balls.EACH
    assert tuple(reflection.signature(lipcert.track).parameters["methods"].default) == tracking.METHODS


# What can be given


@pytest.mark.parametrize("example", [X, X[0], np.array(X), np.array(X, dtype=np.float32), torch.tensor(X), [[1, 2]]])
def test_a_module_with_an_example(net: nn.Module, example: Any) -> None:
    report = lipcert.bound(net, example, methods=["product", "sampled"])
    assert report.lower <= 3.0 <= report.upper


def test_models_data_and_regions_of_every_kind(net: nn.Module, model: lipcert.Model) -> None:
    assert lipcert.layers(net, input_shape=(1, 2)).layers[0]["upper"] == pytest.approx(2**0.5)
    assert lipcert.inspect(model).methods
    for x in (X, np.array(X), torch.tensor(X, requires_grad=True)):
        assert lipcert.jacobian(model, x).lower == pytest.approx(3.0)
        assert lipcert.local(model, x, 0.01, methods=["jacobian"]).upper == pytest.approx(3.0)
        assert len(lipcert.radius(model, x, [1, 0], eps=0.1, methods=["global"]).points) == 2
    for ends in (([1, 1], [2, 2]), (np.full(2, 1.0), np.full(2, 2.0)), (torch.tensor([[1.0, 1.0]]), 2), (1, 2)):
        assert lipcert.bound(model, region=lipcert.Box(*ends), methods=["jacobian"]).upper == pytest.approx(3.0)
    for centre in ([0.5, 0.5], np.array([[0.5, 0.5]]), torch.tensor([0.5, 0.5])):
        assert lipcert.bound(model, region=lipcert.Ball(centre, 0.1), methods=["jacobian"]).upper == pytest.approx(3.0)
    assert lipcert.local_grid(net, lipcert.Box([0.5, 0.5], [1.0, 1.0]), (2, 2)).upper == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda net, model: lipcert.bound(net), "example input after it, or input_shape"),
        (lambda net, model: lipcert.bound([1, 2]), "a path, a torch.nn.Module or a lipcert.Model, not a list"),
        (lambda net, model: lipcert.bound(model, norm="3"), "norm 3"),
        (lambda net, model: lipcert.bound(model, norm=3), "norm 3"),
        (lambda net, model: lipcert.bound(model, output="best"), "output best"),
        (lambda net, model: lipcert.bound(model, methods=["magic"]), "magic"),
        (lambda net, model: lipcert.bound(model, [[1.0, 2.0, 3.0]]), "was read for inputs"),
        (lambda net, model: lipcert.bound(net, X, input_shape=(1, 2)), "not both"),
        (lambda net, model: lipcert.load(net, X, input_shape=(1, 2)), "not both"),
        (lambda net, model: lipcert.bound(model, region=lipcert.Box([0, 0, 0], [1, 1, 1])), "each of the 2 inputs"),
        (lambda net, model: lipcert.bound(model, region=lipcert.Box([1, 1], [0, 0])), "lower <= upper"),
        (lambda net, model: lipcert.Box(["a"], [1]), "Box: lower: not an array of numbers"),
        (lambda net, model: lipcert.Ball(None, 1.0), "Ball: center"),
        (lambda net, model: lipcert.radius(model, [["a", "b"]]), "x: numbers are needed"),
        (lambda net, model: lipcert.radius(model, [[1.0], [1.0, 2.0]]), "x: not an array"),
        (lambda net, model: lipcert.jacobian(model), "give data, or a box"),
    ],
)
def test_errors_speak_python(net: nn.Module, model: lipcert.Model, call: Callable[..., Any], says: str) -> None:
    with pytest.raises(UsageError) as stopped:
        call(net, model)
    assert says in str(stopped.value)
    assert "--" not in str(stopped.value)


def test_words_of_the_command_line_become_python() -> None:
    assert in_python("--norm-in 3: give --box LO:HI") == "norm_in 3: give region=Box(...) LO:HI"
    assert in_python("1 -- 2, a-b") == "1 -- 2, a-b"
    assert as_array(torch.ones(2, requires_grad=True)).tolist() == [1.0, 1.0]


# What is seen


def test_reprs_are_one_line(model: lipcert.Model) -> None:
    assert repr(model) == "Model(module, 1x2 -> 1x2, 16 parameters, 4 neurons)"
    assert repr(lipcert.Box([0, 0], [1, 2])) == "Box([0.0, 0.0], [1.0, 2.0])"
    assert repr(lipcert.Box(torch.zeros(64), torch.ones(64))) == "Box(64 inputs within [0, 1])"
    assert repr(lipcert.Ball([0, 0], 0.1)) == "Ball([0.0, 0.0], 0.1, norm='2')"
    bounded = Report(
        "bound", {"path": "a/m.onnx"}, results=[Bound("p", "upper", "proved", 2.0), Bound("s", "lower", "sampled", 1.0)]
    )
    assert repr(bounded) == "Report(bound of m.onnx: 1 <= L <= 2, l2 -> l2)"
    refused = Report("bound", {"path": EVIL}, results=[Refusal("p", "upper", "unbounded", "why")])
    assert repr(refused).endswith(": unbounded, l2 -> l2)")
    assert "\x1b" not in repr(refused)
    track = {"track": {"checkpoints": [{}] * 12}}
    assert repr(Report("track", {"path": "runs"}, summary=track)) == "Report(track of runs: 12 checkpoints)"
    assert repr(lipcert.layers(model)) == "Report(layers of module: 3 layers)"


def test_a_notebook_shows_a_table_once(model: lipcert.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook a console of rich's displays by itself what is printed on it."""
    shell = type("ZMQInteractiveShell", (), {})
    shown: list[object] = []
    monkeypatch.setattr("builtins.get_ipython", shell, raising=False)
    monkeypatch.setattr("rich.jupyter.display", lambda *given: shown.append(given))
    report = lipcert.bound(model, methods=["product"])
    comparison = lipcert.compare(report, report)
    for found in (report, comparison):
        assert "product" in found._repr_html_()
    as_text([("r", report.to_dict())])
    assert shown == []
    from rich.console import Console

    Console().print("as it would be")  # the stand-in for a notebook works
    assert len(shown) == 1


def test_notebooks_get_html(model: lipcert.Model) -> None:
    report = Report("bound", {"path": EVIL}, results=[Refusal("p", "upper", "unbounded", EVIL)])
    found = report._repr_html_()
    assert found.startswith("<pre")
    assert "unbounded" in found
    assert "<img" not in found
    assert "\x1b" not in found
    assert model._repr_html_() == "<code>Model(module, 1x2 -&gt; 1x2, 16 parameters, 4 neurons)</code>"


@pytest.fixture(scope="module")
def reports(model: lipcert.Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    box = lipcert.Box([0.1, 0.1], [1.0, 1.0])
    return {
        "results": lipcert.bound(model, methods=["product", "sampled"]),
        "layers": lipcert.layers(model),
        "methods": lipcert.inspect(model),
        "cells": lipcert.local_grid(model, box, (2, 3)),
        "points": lipcert.radius(model, X, [1, 0], methods=["global"]),
        "balls": lipcert.local(model, X, [0.01, 0.1], methods=["jacobian"]),
        "jacobian": lipcert.jacobian(model, X),
    }


def test_frames(reports: dict[str, Report]) -> None:
    rows = {"results": 2, "layers": 3, "cells": 6, "points": 2, "balls": 4, "jacobian": 2}
    for name, count in rows.items():
        assert len(reports[name].to_frame()) == count, name
    assert list(reports["results"].to_frame()["method"]) == ["product", "sampled"]
    cells = reports["cells"].to_frame()
    assert cells["x1 to"].tolist()[:3] == pytest.approx([0.4, 0.7, 1.0])
    assert (cells["lower"] <= cells["upper"]).all()
    assert len(reports["cells"].to_frame("results")) == 2
    with pytest.raises(UsageError, match="tables are"):
        reports["cells"].to_frame("nothing")


def test_pictures(reports: dict[str, Report], tmp_path: Path) -> None:
    from matplotlib import pyplot

    low, high = reports["cells"].plot(vmin=0, vmax=9).collections[0].get_clim()
    assert (low, high) == (0, 9)
    for name, ends in (("cells", {"vmin": 2, "vmax": 1}), ("layers", {"vmax": 1}), ("radius", {"vmax": 1})):
        with pytest.raises(UsageError, match="vmin"):
            reports["points" if name == "radius" else name].plot(**ends)
    pyplot.close("all")
    axes = pyplot.subplots()[1]
    for name, report in reports.items():
        if name == "methods":
            with pytest.raises(UsageError, match="no picture"):
                report.plot()
            continue
        drawn = report.plot(ax=axes) if name == "layers" else report.plot()
        assert (drawn is axes) == (name == "layers")
        assert drawn.has_data()
        drawn.figure.savefig(tmp_path / f"{name}.png")
        pyplot.close(drawn.figure)


# What is at hand


TAKEN: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {  # what a caller may write, and what it is
    "norm as reports write it": (lambda m: lipcert.bound(m, norm="l2"), lambda m: lipcert.bound(m, norm="2")),
    "norm of numpy": (lambda m: lipcert.bound(m, norm=np.inf), lambda m: lipcert.bound(m, norm="Linf")),
    "norm as a pair": (lambda m: lipcert.bound(m, norm=(2, "inf")), lambda m: lipcert.bound(m, norm="2->inf")),
    "a logit": (lambda m: lipcert.bound(m, output=1), lambda m: lipcert.bound(m, output="1")),
    "a difference": (lambda m: lipcert.bound(m, output=(0, 1)), lambda m: lipcert.bound(m, output="0-1")),
    "one sample": (
        lambda m: lipcert.local(m, X[0], 0.1, ball_norm=np.inf),
        lambda m: lipcert.local(m, X[:1], [0.1], ball_norm="inf"),
    ),
    "a radius of numpy": (lambda m: lipcert.local(m, X, np.float32(0.5)), lambda m: lipcert.local(m, X, [0.5])),
    "a ball's norm": (
        lambda m: lipcert.bound(m, region=lipcert.Ball(X[1], np.float32(0.5), np.inf)),
        lambda m: lipcert.bound(m, region=lipcert.Ball(X[1], 0.5, "inf")),
    ),
    "one label": (lambda m: lipcert.radius(m, X[0], 0), lambda m: lipcert.radius(m, X[:1], [0])),
    "an attack": (lambda m: lipcert.radius(m, X, attack=True), lambda m: lipcert.radius(m, X, attack=Pgd())),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_people_write_is_understood(model: lipcert.Model, name: str) -> None:
    once, again = (write(model) for write in TAKEN[name])
    assert once.question == again.question
    assert (once.lower, once.upper) == (again.lower, again.upper)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, lambda net: nn.DataParallel(torch.compile(net))])
def test_wrappers_of_training_are_taken_off(net: nn.Module, wrap: Callable[..., Any]) -> None:
    found, plain = (lipcert.bound(one, X, methods=["product"]) for one in (wrap(net), net))
    assert found.model["graph"] == plain.model["graph"]


CALLED_WRONG: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "region of numbers": (lambda n, m: lipcert.bound(m, region=(0, 1)), "region: a lipcert.Box"),  # not the whole space
    "region of words": (lambda n, m: lipcert.jacobian(m, region="0:1"), "the region is a box"),
    "one method misnamed": (lambda n, m: lipcert.bound(m, methods="magic"), "methods magic: methods are"),
    "input_shape": (lambda n, m: lipcert.bound(n, input_shape=2), "input_shape: whole numbers"),
    "a dataset": (lambda n, m: lipcert.jacobian(m, TensorDataset(torch.ones(1))), "x: an array or a tensor of inputs"),
    "a file for data": (lambda n, m: lipcert.jacobian(m, "test.npz"), "numpy.load('test.npz')"),
    "wrong width": (lambda n, m: lipcert.radius(m, [[1.0, 2.0, 3.0]]), "(1, 3) are not samples of shape (1, 2)"),
    "device": (lambda n, m: lipcert.bound(m, device="mps"), "devices are cpu and cuda"),
    "budget": (lambda n, m: lipcert.bound(m, budget=-1), "budget: a finite number from 0"),
    "budget of words": (lambda n, m: lipcert.local(m, X, 0.1, budget="1"), "budget: a finite number"),
    "no time": (lambda n, m: lipcert.local(m, X, 0.1, each=None), "each: seconds"),
    "seed": (lambda n, m: lipcert.bound(m, seed="a"), "seed: a whole number"),
    "rtol": (lambda n, m: lipcert.bound(m, rtol=-1), "rtol: a finite number"),
    "around": (lambda n, m: lipcert.jacobian(m, X, around="a"), "around: a finite number"),
    "eps": (lambda n, m: lipcert.local(m, X, "0.1"), "eps: a number or a list"),
    "indices": (lambda n, m: lipcert.local(m, X, 0.1, indices=[3]), "indices: a whole number for each of the 2 rows"),
    "box of a grid": (lambda n, m: lipcert.local_grid(m, ([0, 0], [1, 1])), "box: a lipcert.Box(lower, upper)"),
    "cells of a grid": (lambda n, m: lipcert.local_grid(m, lipcert.Box(0, 1), 5), "shape: cells along each input"),
    "attack": (lambda n, m: lipcert.radius(m, X, attack="pgd"), "attack: True, or"),
    "radius of a ball": (lambda n, m: lipcert.Ball(X[0], "a"), "Ball: the radius is a number"),
    "verify": (lambda n, m: lipcert.verify(n, "c.cert"), "certificate: the path of a file, not a Sequential"),
    "compare": (lambda n, m: lipcert.compare({}, {}), "before: the path of a file or a Report, not a dict"),
    "track": (lambda n, m: lipcert.track([n]), "checkpoints: the path of a file"),
    "weights alone": (lambda n, m: lipcert.load(n.state_dict()), "module.load_state_dict"),
    "a class": (lambda n, m: lipcert.bound(nn.Linear, X), "not a class: make one first"),
    "a function": (lambda n, m: lipcert.bound(lambda x: x, X), "forward of a torch.nn.Module"),
    "no weights": (lambda n, m: lipcert.bound(nn.Linear(2, 2, device="meta"), X), "meta device"),
    "axes": (lambda n, m: lipcert.layers(m).plot("a.png"), "ax is one matplotlib Axes"),
}


@pytest.mark.skipif(
    "typecheck" in sys.modules, reason="where types are checked at every call, the checker says it first"
)
@pytest.mark.parametrize("name", CALLED_WRONG)
def test_wrong_calls_say_what_to_write(net: nn.Module, model: lipcert.Model, name: str) -> None:
    call, says = CALLED_WRONG[name]
    with pytest.raises(UsageError) as stopped:
        call(net, model)
    assert says in str(stopped.value)
    assert "--" not in str(stopped.value)


def test_addresses_and_examples_of_another_shape(net: nn.Module) -> None:
    with pytest.raises(UnreadableError, match=r"https://x\.org/a\.onnx: this is an address"):
        lipcert.load("https://x.org/a.onnx")
    for call in (lipcert.load, lipcert.bound):
        with pytest.raises(
            RefusedModel, match=r"It was called with float numbers of shape \(1, 3\): .* give x\[None\]"
        ):
            call(net, torch.rand(4, 3))
