"""TorchScript, .pt2 and modules with several arguments: held, moved together, numbers, nests, and what calls change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lipcert
from lipcert.cli.main import main
from lipcert.terms.errors import LipcertError, UsageError

FORMATS = ("module", "torchscript", "pt2")


def first(kind: str) -> Any:
    """All formats; without LIPCERT_FULL this one alone."""
    order = sorted(FORMATS, key=lambda one: one != kind)
    return lambda test: pytest.mark.every(3)(pytest.mark.parametrize("kind", order)(test))


class Critic(nn.Module):
    """q = s A + (s * a) B, a sum beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        self.B = nn.Parameter(torch.tensor([[0.0, 5.0], [7.0, 0.0]]))

    def forward(self, s: Tensor, a: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        q = s @ self.A + (s * a) @ self.B
        return q, {"sum": s + a}


class Rate(nn.Module):
    def forward(self, x: Tensor, sr: int, gain: float = 2.0, loud: bool = True) -> Tensor:
        if sr == 16000:
            return x * gain if loud else x
        return 3 * x


class Nested(nn.Module):
    def forward(self, obs: dict[str, Tensor], pair: tuple[Tensor, Tensor]) -> Tensor:
        return obs["a"] + 2 * obs["b"] + 3 * pair[0] + 4 * pair[1]


class Memory(nn.Module):
    """h <- h / 2 + 3 x and y = 4 h for the new h."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Module()
        self.register_buffer("h", torch.zeros(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        self.h[:] = 0.5 * self.h + 3 * x
        return 4 * self.h


def made(kind: str, module: nn.Module, folder: Path, *example: Any) -> Any:
    """What `lipcert.load` is given, and the shapes that it has to be told."""
    if kind == "module":
        return module
    if kind == "torchscript":
        torch.jit.script(module).save(str(folder / "m.pt"))
        return folder / "m.pt"
    torch.export.save(torch.export.export(module, example, strict=False), folder / "m.pt2")
    return folder / "m.pt2"


def value(model: lipcert.Model, *x: float) -> np.ndarray:
    point = torch.tensor(x, dtype=torch.float64).reshape(1, *model.input_shape)
    return model.graph.evaluate(point).numpy().ravel()


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


@first("torchscript")
def test_critic(kind: str, tmp_path: Path) -> None:
    given = made(kind, Critic(), tmp_path, torch.zeros(1, 2), torch.zeros(1, 2))
    shapes = {} if kind == "pt2" else {"input_shape": {"s": (1, 2), "a": (1, 2)}}
    with pytest.raises(UsageError, match=r"which input moves.*what a is held at"):
        lipcert.load(given, **shapes)
    net = Critic()
    s, a = [0.5, -1.0], [2.0, 3.0]
    q = net(torch.tensor([s]), torch.tensor([a]))[0].detach().numpy().ravel()
    held = lipcert.load(given, input_name="s", fix={"a": [a]}, output_name="0", **shapes)
    assert np.allclose(value(held, *s), q)
    assert held.info["fixed"]["a"]["values"] == a
    both = lipcert.load(given, input_name="a,s", output_name="0", **shapes)
    assert both.input_shape == (4,)
    assert np.allclose(value(both, *a, *s), q)
    total = lipcert.load(given, input_name=["s", "a"], output_name="[1]['sum']", **shapes)
    assert lipcert.bound(total, methods=["product"]).upper == pytest.approx(2**0.5)


@first("module")
def test_numbers_are_held_and_never_invented(kind: str, tmp_path: Path) -> None:
    given = made(kind, Rate(), tmp_path, torch.zeros(1, 3), 16000)
    shapes = {} if kind == "pt2" else {"input_shape": (1, 3)}
    if kind == "pt2":  # the file holds for one value
        assert lipcert.bound(lipcert.load(given), methods=["product"]).upper == pytest.approx(2.0)
        assert lipcert.load(given, fix={"sr": 16000}).info["fixed"]["sr"]["values"] == [16000]
        with pytest.raises(UsageError, match="exported with 16000"):
            lipcert.load(given, fix={"sr": 8000})
        return
    with pytest.raises(UsageError, match=r"what sr is held at"):
        lipcert.load(given, **shapes)
    for held, truth in (({"sr": 16000}, 2), ({"sr": 8000}, 3), ({"sr": 16000, "gain": 5.5}, 5.5)):
        assert lipcert.bound(lipcert.load(given, fix=held, **shapes), methods=["product"]).upper == pytest.approx(truth)
    quiet = lipcert.load(given, fix={"sr": 16000, "loud": False}, **shapes)
    assert lipcert.bound(quiet, methods=["product"]).upper == pytest.approx(1.0)
    with pytest.raises(UsageError, match="does not hold"):
        lipcert.load(given, fix={"sr": 0.5}, **shapes)


@first("pt2")
def test_nests_of_arguments(kind: str, tmp_path: Path) -> None:
    one = torch.zeros(1, 2)
    examples = {"a": one, "b": one.clone()}, (one.clone(), one.clone())  # torch.export takes one object for one input
    given = made(kind, Nested(), tmp_path, *examples)
    names = ["obs.a", "obs.b", "pair.0", "pair.1"]
    if kind == "pt2":
        names = ["obs_a", "obs_b", "pair_0", "pair_1"]
        shapes = {}
    elif kind == "torchscript":
        shapes = {"input_shape": dict.fromkeys(names, (1, 2))}
    else:
        shapes = {"input_shape": {"obs": {"a": (1, 2), "b": one}, "pair": (one, one)}}
    model = lipcert.load(given, input_name=names, **shapes)
    assert np.allclose(value(model, 1, 0, 10, 0, 100, 0, 1000, 0), [4321, 0])
    alone = lipcert.load(given, input_name=names[3], fix=dict.fromkeys(names[:3], 1), **shapes)
    assert np.allclose(value(alone, 1, 0), [10, 6])


@first("torchscript")
def test_what_a_call_changes_is_an_input(kind: str, tmp_path: Path) -> None:
    given = made(kind, Memory(), tmp_path, torch.zeros(1, 2))
    shapes = {} if kind == "pt2" else {"input_shape": {"x": (1, 2)}}
    with pytest.raises(UsageError, match=r"h: changed by every call.*fix=\{'h': 0\}"):
        lipcert.load(given, **shapes)
    alone = lipcert.load(given, input_name="x", fix={"h": [[2.0, 4.0]]}, **shapes)
    assert np.allclose(value(alone, 1, 1), [16, 20])
    assert np.allclose(value(alone, 1, 1), [16, 20])
    both = lipcert.load(given, input_name="x,h", **shapes)
    assert lipcert.bound(both, methods=["product"]).upper == pytest.approx((12**2 + 2**2) ** 0.5, rel=1e-3)
    after = lipcert.load(given, input_name="h", fix={"x": [[1, 1]]}, output_name="h", **shapes)
    assert np.allclose(value(after, 2, 4), [4, 5])
    if kind == "module":
        assert torch.equal(given.h, torch.zeros(1, 2))  # the user's object is left as it was


class Attribute(nn.Module):
    """The state is a plain attribute, empty at first, and a number is changed beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.state = torch.zeros(0)
        self.calls = 0

    def forward(self, x: Tensor, rate: int) -> Tensor:
        if rate not in (8000, 16000):
            raise ValueError("rate")
        if self.state.numel() == 0:
            self.state = torch.zeros_like(x)
        self.state = self.state + x
        self.calls += 1
        return self.state * 2


def test_the_command_that_is_printed_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a file whose state is empty until the first call, with a rate, and two tensors in front of one layer."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 1)

        def forward(self, s: Tensor, a: Tensor) -> Tensor:
            return self.layer(torch.cat([s, a], dim=1))

    for module, said in ((Attribute(), "--fix rate=16000 --fix state=0"), (Pair(), "--input-shape a=1,1 --fix a=0")):
        torch.jit.script(module).save(str(tmp_path / "m.pt"))
        file = tmp_path / "e.json"
        assert run("bound", tmp_path / "m.pt", "--json", file) == 2
        hint = json.loads(file.read_text())["error"]["hint"]
        assert said in hint
        assert run(*hint.split()[1:], "--method", "product", "-q") == 0
        assert json.loads(file.read_text())["status"] == "bounded"
    report = json.loads(file.read_text())
    assert report["question"]["fixed"]["a"]
    torch.jit.script(Attribute()).save(str(tmp_path / "m.pt"))
    held = {"rate": 8000, "state": [[1.0, 2.0]]}
    model = lipcert.load(tmp_path / "m.pt", input_name="x", input_shape=(1, 2), fix=held)
    assert np.allclose(value(model, 1, 1), [4, 6])
    assert any("calls = 0" in line for line in model.assumptions)


def test_values_without_their_history_are_followed(tmp_path: Path) -> None:
    """`x.data` is a constant of a trace; what it holds depends on x all the same."""

    class Data(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 2 * x.data

    torch.jit.script(Data()).save(str(tmp_path / "m.pt"))
    assert np.allclose(value(lipcert.load(tmp_path / "m.pt", input_shape=(1, 1)), 1), [3])


def test_a_state_that_is_missed_is_refused() -> None:
    """Planted: a counter that no tensor shows. The two captures differ."""

    class Counts(nn.Module):
        calls = 0

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            self.calls += 1
            return x * y * self.calls

    with pytest.raises(LipcertError, match=r"differ|changed by every call|attribute"):
        lipcert.load(Counts(), input_name="x", fix={"y": [[1.0, 1.0]]}, input_shape={"x": (1, 2), "y": (1, 2)})
