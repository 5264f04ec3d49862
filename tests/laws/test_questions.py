"""One model asked many questions in any order answers as if each were the first: nothing it remembers is of another one."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from two import fresh, loaded

import lipcert
from lipcert.ir import Graph, Node
from lipcert.pipeline import Model

QUESTIONS = 50
NORMS = ("1", "2", "inf", "1->2", "2->inf", "inf->1")
OUTPUTS = ("vector", "0", "1", "0-1", "1-0", "pairs")
REGIONS: tuple[Any, ...] = (
    None,
    lipcert.Box(torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 1.0])),
    lipcert.Box(torch.tensor([-1.0, 0.5]), torch.tensor([-0.5, 1.0])),
    lipcert.Ball(torch.tensor([0.5, -0.2]), 0.3, "2"),
    lipcert.Ball(torch.tensor([-1.0, -1.0]), 0.5, "1"),
)
GLOBAL, LOCAL = ("product", "absolute", "cplip", "lipsdp-layer"), ("jacobian", "branch", "linear")


def questions(count: int) -> list[dict[str, Any]]:
    dice = random.Random(0)
    found = []
    for _ in range(count):
        region = dice.choice(REGIONS)
        methods = [dice.choice(GLOBAL if region is None else GLOBAL[:2] + 3 * LOCAL), "sampled"]
        asked = {"norm": dice.choice(NORMS), "output": dice.choice(OUTPUTS), "region": region, "methods": methods}
        found.append(asked | {"device": dice.choice(["cpu", "cpu:0"]), "seed": dice.randrange(3), "rtol": 1e-3})
    return found


def strays(model: Model, asked: list[dict[str, Any]]) -> list[str]:
    """Questions whose answer is not that of a model that was asked nothing before."""
    found = []
    for question in asked:
        mine, first = lipcert.bound(model, **question), lipcert.bound(fresh(model), **question)
        same = (mine.upper, mine.lower) == (first.upper, first.lower)
        below = None not in (mine.upper, first.lower) and mine.upper < first.lower  # type: ignore[operator]
        if below or not same:
            found.append(f"{question}: {mine.lower} .. {mine.upper}, asked first {first.lower} .. {first.upper}")
    return found


def test_the_order_of_questions_does_not_matter(tmp_path: Path) -> None:
    assert strays(loaded(tmp_path), questions(QUESTIONS)) == []


def test_raw_units_are_other_questions(tmp_path: Path) -> None:
    model, raw = loaded(tmp_path), loaded(tmp_path, std=[0.01])
    for question in questions(4):
        lipcert.bound(model, **question)
        mine, first = lipcert.bound(raw, **question), lipcert.bound(fresh(raw), **question)
        assert (mine.upper, mine.lower) == (first.upper, first.lower)


def test_another_output_on_another_device(tmp_path: Path) -> None:
    """As it was found: 1 or 2 came out as proved for the difference of two entries, whose constant is sqrt(5)."""
    model = loaded(tmp_path)
    for output, truth in (("vector", 2.0), ("0-1", 5**0.5), ("0", 1.0), ("vector", 2.0)):
        report = lipcert.bound(model, region=REGIONS[1], output=output, device="cpu:0")
        assert report.upper == pytest.approx(truth)
        assert report.lower == pytest.approx(truth)


def test_a_memo_of_another_output_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the memo of old, copied as it is and keyed by the device alone."""

    def then(self: Graph, node: Node) -> Graph:
        more = Graph((*self.nodes, node), len(self.nodes), self.input)
        more.memo.update({key: value for key, value in self.memo.items() if key[0] != "last use"})
        return more

    def on(self: Graph, device: str) -> Graph:
        if device == "cpu":
            return self
        return self.memo.setdefault(("on", device), self.to(device, torch.float64))

    monkeypatch.setattr(Graph, "then", then)
    monkeypatch.setattr(Graph, "on", on)
    asked = {"region": REGIONS[1], "device": "cpu:0", "methods": ["branch", "sampled"]}
    assert len(strays(loaded(tmp_path), [asked, asked | {"output": "0-1"}])) == 1


def test_a_model_is_not_changed_by_training_what_it_was_read_from() -> None:
    for dtype in (torch.float32, torch.float64):
        module = torch.nn.Linear(2, 2).to(dtype)
        model = lipcert.load(module, input_shape=(1, 2))
        before = lipcert.bound(model, methods=["product"]).upper
        with torch.no_grad():
            module.weight.mul_(100.0)
        assert lipcert.bound(fresh(model), methods=["product"]).upper == before
