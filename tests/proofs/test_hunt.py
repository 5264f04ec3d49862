"""A hunt for disagreements of the two checkers: genuine certificates both accept, false ones both reject. Random ONNX files of all
operators that both read, made without torch; the long form takes 2,000 of them."""

from __future__ import annotations

import copy
import functools
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from test_audit_agrees import METHODS, audited, made, verified
from thorough import FULL

from lipcert.load.model import Model, load
from lipcert.network.graph import Enclosure
from lipcert.proofs.file import digest

ACTIVATIONS = "Relu Tanh Sigmoid LeakyRelu Elu Softplus Clip Abs Atan Sin Softsign HardSwish".split()
MUTATIONS = 2  # of each certificate


class Drawn:
    """A random file: nodes and constants appended one by one. `shape`: of the last tensor."""

    def __init__(self, seed: int):
        self.dice, self.rng = random.Random(seed), np.random.default_rng(seed)
        self.image = self.dice.random() < 0.4
        self.start = self.shape = (1, 2, 5, 5) if self.image else (1, self.dice.randint(1, 6))
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.last = "x"

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, *shape: int) -> str:
        value = self.rng.standard_normal(shape) / max(1, int(np.prod(shape[1:]))) ** 0.5
        value[self.rng.random(shape) < 0.1] = 0.0
        return self.constant(value.astype(np.float32))

    def add(self, kind: str, *more: str, **attributes: Any) -> str:
        out = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [self.last, *more], [out], **attributes))
        self.last = out
        return out

    def activation(self) -> None:
        kind = self.dice.choice(ACTIVATIONS)
        ends = [np.float32(-self.dice.random()), np.float32(self.dice.random())][: self.dice.randint(0, 2)]
        self.add(kind, *(self.constant(v) for v in ends if kind == "Clip"))

    def gemm(self, width: int) -> None:
        self.add("Gemm", self.weight(width, self.shape[1]), self.weight(width), transB=1)
        self.shape = (1, width)

    def block(self) -> None:
        """One of: plain, residual, joined, scaled."""
        before, width = self.last, self.shape[1]
        how = self.dice.choice(["plain", "residual", "joined", "scaled"])
        self.gemm(width if how == "residual" else self.dice.randint(1, 6))
        self.activation()
        if how == "residual":
            self.add(self.dice.choice(["Add", "Sub"]), before)
        if how == "joined":
            self.add("Concat", before, axis=1)
            self.shape = (1, self.shape[1] + width)
        if how == "scaled":
            self.add(self.dice.choice(["Mul", "Div"]), self.constant(np.float32(self.dice.uniform(0.3, 2))))

    def convolution(self) -> None:
        pad = self.dice.randint(0, 1)
        self.add("Conv", self.weight(3, 2, 3, 3), self.weight(3), pads=[pad] * 4, kernel_shape=[3, 3])
        if self.dice.random() < 0.5:
            spread = self.constant(abs(self.rng.standard_normal(3)).astype(np.float32) + 0.1)
            self.add("BatchNormalization", self.weight(3), self.weight(3), self.weight(3), spread)
        self.activation()
        pool = self.dice.choice(["MaxPool", "AveragePool", "GlobalAveragePool", "none"])
        size = 3 + 2 * pad
        if pool in ("MaxPool", "AveragePool"):
            self.add(pool, kernel_shape=[2, 2], strides=[self.dice.randint(1, 2)] * 2)
            size = (size - 2) // self.nodes[-1].attribute[1].ints[0] + 1
        if pool == "GlobalAveragePool":
            self.add(pool)
            size = 1
        self.add("Flatten")
        self.shape = (1, 3 * size * size)

    def save(self, path: Path) -> Path:
        if self.image:
            self.convolution()
        for _ in range(self.dice.randint(0 if self.image else 1, 3)):
            self.block()
        self.gemm(self.dice.randint(1, 3))
        if self.shape[1] > 1 and self.dice.random() < 0.1:
            self.add("Softmax", axis=1)
        ends = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
            for n, s in (("x", self.start), (self.last, self.shape))
        ]
        graph = helper.make_graph(self.nodes, "g", ends[:1], ends[1:], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
        path.write_bytes(model.SerializeToString())
        return path


def attained(model: Model, norm: str, seed: int) -> float:
    """A difference quotient, less what float64 may err: no claim below it is true."""
    dice = torch.Generator().manual_seed(seed)
    n = model.graph.nodes[model.graph.input].size
    x, step = (torch.randn(200, n, generator=dice, dtype=torch.float64) for _ in range(2))
    step = step * torch.logspace(-3, 0.5, 200, dtype=torch.float64)[:, None]
    with torch.no_grad():
        y, z = (model.graph.enclose(Enclosure(at)).centre for at in (x, x + step))
    order = {"1": 1, "2": 2, "inf": torch.inf}[norm]
    length = torch.linalg.vector_norm((x + step) - x, ord=order, dim=1)
    return float((torch.linalg.vector_norm(y - z, ord=order, dim=1) / length).max()) * (1 - 1e-6)


def false(fields: dict[str, Any], lower: float, rng: random.Random) -> dict[str, Any]:
    """A claim below `lower`, with a proof that was changed in any of the ways that somebody may try."""
    out = copy.deepcopy(fields)
    out["claim"] = lower * rng.choice([rng.uniform(0.2, 1.0), 0.999, 0.9])
    proof = out["proof"]
    if rng.random() < 0.1:
        proof = out["proof"] = {"kind": "nonnegative", "method": "absolute"}
    scale = rng.choice([1.0, 0.5, out["claim"] / fields["claim"], rng.uniform(0.0, 2.0)])
    for row in proof.get("constants", []):
        for key in row:
            row[key] *= 1 if key == "node" else scale
    if proof.get("constants"):
        proof["constants"][-1] |= dict.fromkeys(fields["norm"].values(), out["claim"])
    if proof["kind"] == "cplip" and proof["passed"]:
        proof["passed"] = rng.choice([proof["passed"], proof["passed"][1:], []])
    if proof["kind"] == "lmi":
        proof["last"] = rng.choice(["input", "output"])
        proof["rho"] = max(out["claim"] ** 2, 2.0**-400)
        rng.shuffle(proof["multipliers"])
    return out | {"digest": digest(out["norm"], out["scope"], out["proof"])}


def hunt(seed: int, folder: Path, found: Counter[str]) -> None:
    path = Drawn(seed).save(folder / f"n{seed}.onnx")
    model, rng = load(path), random.Random(seed)
    lowest = functools.cache(lambda asked: attained(model, asked, seed))
    norm = ("2", "1", "inf")[seed % 3]
    for method in METHODS:
        asked = "2" if method.startswith("lipsdp") else norm
        fields = made(model, method, asked)
        if fields is None:
            found["no certificate"] += 1
            continue
        assert verified(fields, model), f"{seed} {method} {asked}: verify rejects"
        said = audited(fields, path)
        assert said is not False, f"{seed} {method} {asked}: verify accepts, audit rejects"
        found["refused" if said is None else "accepted by both"] += 1
        lower = lowest(asked)
        for k in range(MUTATIONS if said and lower > 0 else 0):
            wrong = false(fields, lower, rng)
            both = verified(wrong, model), audited(wrong, path)
            assert both[0] is False, f"{seed} {method} {asked}, mutation {k}: verify accepts {wrong['claim']}"
            assert not both[1], f"{seed} {method} {asked}, mutation {k}: audit accepts {wrong['claim']}"
            found["rejected by both" if both[1] is False else "rejected and refused"] += 1
    path.unlink()


@pytest.fixture(autouse=True)
def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is read anew for each proof in `audit`, but parsed and checked once."""
    from lipcert_audit.network import load as parsed

    monkeypatch.setattr("lipcert_audit.network.load", functools.lru_cache(1)(parsed))


def test_hunt(tmp_path: Path) -> None:
    found = Counter[str]()
    for seed in range(2000 if FULL else 2):
        hunt(seed, tmp_path, found)
    assert found["refused"] <= found["accepted by both"] // 5, found
    assert found["accepted by both"] >= (6000 if FULL else 8), found
    assert found["rejected by both"] >= (10_000 if FULL else 15), found


# What the hunt found: a batch normalisation with a scale of 0; constants of several signals, some of them concatenated.
@pytest.mark.parametrize("seed", [14, 1971])
def test_found_before(seed: int, tmp_path: Path) -> None:
    hunt(seed, tmp_path, Counter())


def test_a_checker_that_accepts_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: an audit that believes everything."""
    monkeypatch.setattr("test_hunt.audited", lambda fields, path: True)
    with pytest.raises(AssertionError, match="audit accepts"):
        hunt(0, tmp_path, Counter())
