"""LipSDP of stretches: where networks are cut, values against what is attained and the product, certificates and their errors."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lipcert
from lipcert.methods import METHODS
from lipcert.methods.lipsdp_segments import LipsdpSegments, worth_cutting
from lipcert.methods.problem import Problem
from lipcert.methods.product import ProductBound
from lipcert.methods.run import choose
from lipcert.network.graph import Graph
from lipcert.network.subnet import passed
from lipcert.proofs.kinds import Lmi, Stretches
from lipcert.proofs.kinds.stretches import StretchProof
from lipcert.sdp.cuts import stretches
from lipcert.terms.errors import CertificateRejected
from lipcert.terms.query import Norm
from lipcert.terms.result import Bound, Refusal


class Mixed(nn.Module):
    """Entries in another order: no kernel."""

    def __init__(self, size: int):
        super().__init__()
        self.index = torch.randperm(size, generator=torch.Generator().manual_seed(size)).tolist()

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, self.index].reshape(x.shape)


class Spoilt(nn.Module):
    """Convolutions before and behind a layer that is on no torus; `skip`: a way around it, so that nothing separates."""

    def __init__(self, skip: bool):
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, padding=1)
        self.mix, self.second = Mixed(50), nn.Conv2d(2, 2, 3, padding=1)
        self.third, self.head = nn.Conv2d(4 if skip else 2, 2, 3, padding=1), nn.Linear(50, 3)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        u = torch.relu(self.first(x))
        v = torch.relu(self.second(self.mix(u)))
        w = torch.relu(self.third(torch.cat([u, v], 1) if self.skip else v))
        return self.head(w.flatten(1))


def test_signals_before_a_cut_that_is_no_nonlinearity() -> None:
    """cat(x, s(x)) is a cut; what joins it with what follows is made of x and s(x), which no stretch ends at."""

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(6, 6), nn.Linear(18, 2)

        def forward(self, x: Tensor) -> Tensor:
            u = torch.cat([x, torch.nn.functional.gelu(self.a(x))], 1)
            return self.c(torch.cat([u, torch.nn.functional.elu(self.b(u)), u], 1))

    torch.manual_seed(0)
    graph = lipcert.load(Joined(), input_shape=(1, 3)).graph
    for dense in (1, 4, 100):
        found = LipsdpSegments(dense=dense).run(Problem(graph, Norm()))
        assert isinstance(found, Bound)
        assert isinstance(found.proof, Stretches)
        assert found.proof.prove(graph, Norm()) == pytest.approx(found.value, rel=1e-6)
        assert found.value >= METHODS["sampled"].run(Problem(graph, Norm())).value  # type: ignore[union-attr]


def spoilt(skip: bool, seed: int = 0) -> Graph:
    torch.manual_seed(seed)
    return lipcert.load(Spoilt(skip).double(), input_shape=(1, 1, 5, 5)).graph


def found_for(graph: Graph, **options: Any) -> Bound:
    with torch.no_grad():
        found = LipsdpSegments(**options).run(Problem(graph, Norm()))
    assert isinstance(found, Bound), found
    assert isinstance(found.proof, Stretches)
    return found


@pytest.fixture
def small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for the head, none for what mixes."""
    monkeypatch.setattr("lipcert.proofs.torus_form.DENSE_ENTRIES", 200.0)
    monkeypatch.setattr("lipcert.proofs.torus_form.OUTPUTS", 10)


def attained(graph: Graph, seed: int = 0) -> float:
    points = torch.randn(8, graph.nodes[0].size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
    jacobians = (torch.autograd.functional.jacobian(lambda u: graph.evaluate(u[None])[0], x) for x in points)
    return max(float(torch.linalg.matrix_norm(J, 2)) for J in jacobians)


@pytest.mark.usefixtures("small_matrices")
@pytest.mark.every(4)
@pytest.mark.parametrize("seed", range(16))
def test_a_layer_that_no_form_takes_spoils_nothing_else(seed: int) -> None:
    skip = seed % 2 == 1
    graph = spoilt(skip, seed)
    found = found_for(graph, dense=3)
    methods = [row["method"] for row in found.details["segments"]]
    assert methods.count("lipsdp-torus") >= 1
    assert ("norms" in methods) == skip
    product = ProductBound().run(Problem(graph, Norm()))
    assert isinstance(product, Bound)
    assert attained(graph, seed) <= found.value <= product.value * (1 + 1e-9)
    assert found.proof.prove(graph, Norm()) <= found.proof.shows(found.value, Norm())  # type: ignore[attr-defined,union-attr]


def test_where_one_form_takes_all_there_is_one_stretch() -> None:
    graph = spoilt(False)
    (part,) = stretches(graph)
    assert (part.start, part.stop) == (graph.input, graph.output)
    assert "dense" in part.forms


@pytest.mark.parametrize("seed", range(20))
def test_what_is_passed_separates(seed: int) -> None:
    """Against the definition: without the signal there is no way from start to stop."""
    how = random.Random(seed)
    torch.manual_seed(seed)
    graph = spoilt(seed % 2 == 0)
    moving = [i for i in range(graph.input, graph.output + 1) if ways(graph, graph.input, i, None)]
    start, stop = sorted(how.sample(moving, 2))
    if not ways(graph, start, stop, None) or (start and ways(graph, graph.input, stop, start)):
        return
    wanted = [i for i in moving if start <= i <= stop and (i in (start, stop) or not ways(graph, start, stop, i))]
    assert passed(graph, start, stop) == wanted


def ways(graph: Graph, start: int, stop: int, without: int | None) -> bool:
    reached = {start} - {without}
    for i, node in enumerate(graph.nodes):
        if i != without and reached.intersection(node.parents):
            reached.add(i)
    return stop in reached


def steps_of(graph: Graph) -> list[StretchProof]:
    proof = found_for(graph, dense=3).proof
    assert isinstance(proof, Stretches)
    return list(proof.parts)


@pytest.mark.usefixtures("small_matrices")
def test_a_tampered_step_is_rejected() -> None:
    graph = spoilt(True)
    parts = steps_of(graph)
    joined = next(k for k, p in enumerate(parts) if p.start is None)
    starts = [k for k, p in enumerate(parts) if p.start is not None]

    def rejected(changed: list[StretchProof], place: str) -> None:
        with pytest.raises(CertificateRejected) as fault:
            Stretches("x", tuple(changed)).prove(graph, Norm())
        assert fault.value.place.startswith(place), fault.value.place

    for k, part in enumerate(parts):
        less = replace(part, constant=part.constant * (1 - 1e-3))
        rejected([*parts[:k], less, *parts[k + 1 :]], f"proof.steps[{k}]")
        rejected([*parts[:k], replace(part, constant=math.nan), *parts[k + 1 :]], f"proof.steps[{k}]")
    rejected(
        [*parts[:joined], replace(parts[joined], stop="nothing"), *parts[joined + 1 :]], f"proof.steps[{joined}].to"
    )
    rejected([parts[joined], *parts[:joined]], "proof.steps[0].to")  # before what it joins
    rejected([parts[starts[1]]], "proof.steps[0].from")  # nothing is known of where it starts
    beside = replace(parts[starts[1]], stop=parts[joined].stop)  # the input reaches it past its start
    rejected([*parts[: starts[1]], replace(beside, start=parts[starts[1] - 1].stop), parts[-1]], "proof.steps")
    assert Stretches("x", tuple(parts[:-1])).prove(graph, Norm()) == math.inf
    with pytest.raises(CertificateRejected, match="l2"):
        Stretches("x", tuple(parts)).prove(graph, Norm("1", "1"))


@pytest.mark.usefixtures("small_matrices")
def test_a_certificate_from_the_command_line_and_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    file, proof = tmp_path / "model.pt2", tmp_path / "model.cert"
    torch.export.save(torch.export.export(Spoilt(True), (torch.zeros(1, 1, 5, 5),)), file)
    report = lipcert.bound(file, methods=["lipsdp-segments"], certificate=proof)
    assert report.upper is not None
    told = lipcert.verify(proof, file, explain=True)
    assert told.summary["verdict"] == "accepted"
    assert any("passes" in line for line in told.summary["steps"])
    fields = json.loads(proof.read_text())["proof"]
    fields.pop("kind"), fields.pop("method")
    for place, change in {
        "proof.steps[0]": {"from": None},
        "proof.steps[0].proof.kind": {"proof": {"kind": "stretches", "steps": []}},
        "proof.steps[0].constant": {"constant": -1.0},
    }.items():
        with pytest.raises(CertificateRejected) as fault:
            Stretches.read("x", {"steps": [fields["steps"][0] | change, *fields["steps"][1:]]}, False)
        assert fault.value.place == place


def test_it_runs_unasked_where_no_form_takes_a_convolutional_network(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = spoilt(False)
    monkeypatch.setattr("lipcert.methods.lipsdp_torus.FROM", 10)
    assert not worth_cutting(graph)
    monkeypatch.setattr("lipcert.proofs.torus_form.DENSE_ENTRIES", 200.0)
    monkeypatch.setattr("lipcert.methods.lipsdp_segments.DENSE", 3)
    assert worth_cutting(graph)
    names = [m.name for m in choose(None, None, None, graph)]
    assert "lipsdp-segments" in names
    assert "lipsdp-torus" not in names


def test_it_has_the_best_of_each_stretch_in_the_time_there_is() -> None:
    graph = spoilt(False)
    cut_off = Problem(graph, Norm(), deadline=0.0)
    with torch.no_grad():
        late = LipsdpSegments().run(cut_off)
    product = ProductBound().run(Problem(graph, Norm()))
    assert isinstance(late, Bound)
    assert isinstance(product, Bound)
    assert late.value == pytest.approx(product.value)
    assert isinstance(LipsdpSegments().run(Problem(graph, Norm("1", "1"))), Refusal)
    whole = found_for(graph)
    assert isinstance(whole.proof.parts[0].proof, Lmi)  # type: ignore[union-attr]
    assert whole.value < product.value


@pytest.mark.usefixtures("small_matrices")
def test_what_never_moves() -> None:
    class Beside(nn.Module):
        """`constant`: all of it; else beside a layer that no form takes."""

        def __init__(self, constant: bool):
            super().__init__()
            self.constant, self.inner = constant, Spoilt(True)

        def forward(self, x: Tensor) -> Tensor:
            still = torch.sigmoid(self.inner.first(torch.ones(1, 1, 5, 5)))
            return still * 2 if self.constant else self.inner.mix(torch.relu(self.inner.second(x[:, [0, 0]] + still)))

    constant, beside = (lipcert.load(Beside(c), input_shape=(1, 1, 5, 5)).graph for c in (True, False))
    found = LipsdpSegments().run(Problem(constant, Norm()))
    assert isinstance(found, Bound)
    assert found.value == 0
    assert found_for(beside, dense=3).value >= attained(beside)


def test_a_join_of_signals_from_before_its_start() -> None:
    """The last concatenation reads what lies inside of an earlier stretch, past the signal where that ends."""

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(3, 3), nn.Linear(6, 6), nn.Linear(18, 1)

        def forward(self, x: Tensor) -> Tensor:
            u = torch.cat([x, torch.tanh(self.first(x))], 1)
            return self.last(torch.cat([u, torch.relu(self.second(u)), u], 1))

    torch.manual_seed(0)
    graph = lipcert.load(Dense(), input_shape=(1, 3)).graph
    found = found_for(graph, dense=4)
    assert len(found.details["segments"]) > 1
    assert found.value >= attained(graph)
    assert found.proof.prove(graph, Norm()) <= found.proof.shows(found.value, Norm())  # type: ignore[attr-defined,union-attr]
