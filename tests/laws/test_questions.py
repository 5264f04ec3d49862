"""One model asked many questions in any order answers as if each were the first: nothing it remembers is of another one."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from two import fresh, loaded, two

import lipcert
from lipcert.load.model import Model
from lipcert.network.graph import Graph, Node
from lipcert.terms.errors import UsageError

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


def test_equal_files_with_other_weights_beside_them(tmp_path: Path) -> None:
    """ONNX with external data: two checkpoints whose files are equal to the byte, and whose weights are not."""
    for name, second in (("a", 2.0), ("b", 200.0)):
        (tmp_path / name).mkdir()
        net = onnx.load(two(tmp_path / name, second))
        where = {"all_tensors_to_one_file": True, "location": "net.data", "size_threshold": 0}
        onnx.save_model(net, tmp_path / name / "net.onnx", save_as_external_data=True, **where)
    first, other = (tmp_path / name / "net.onnx" for name in ("a", "b"))
    assert first.read_bytes() == other.read_bytes()
    found = lipcert.track([first, other], methods=["product"]).summary["track"]["checkpoints"]
    assert [row["upper"] for row in found] == pytest.approx([2.0, 200.0])
    before = lipcert.bound(lipcert.load(first), output="pairs", methods=["product"])
    with pytest.raises(UsageError, match="network as read"):
        lipcert.bound(lipcert.load(other), output="pairs", methods=["product"], resume=before)
