"""Which methods run unasked: what each says of itself gives the ladders that users stand on."""

from __future__ import annotations

import pytest
from torch import nn

import lipcert
from lipcert.methods import METHODS, lipsdp_torus
from lipcert.methods.ladders import everywhere, formulas, groups, on_a_ball, usual
from lipcert.methods.problem import REGION, Method
from lipcert.methods.run import choose
from lipcert.terms.errors import UsageError
from lipcert.terms.query import Norm


def test_the_ladders() -> None:
    assert list(usual(on_a_region=False)) == ["product", "absolute", "cplip", "sampled", "lipsdp-layer", "lipsdp"]
    assert list(usual(on_a_region=True))[6:] == ["local-product", "jacobian", "transfer", "linear", "regions", "branch"]
    assert list(usual(False, Norm("2", "2"))) == list(usual(False))
    assert list(usual(False, Norm("inf", "inf")))[6:] == ["lipsdp-norms"]
    assert everywhere() == ["product", "absolute", "cplip", "lipsdp"]
    assert on_a_ball() == ["local-product", "jacobian", "transfer", "linear", "regions", "lipsdp", "branch"]
    assert groups(Norm("2", "2")) == [["lipsdp"], ["product", "absolute", "cplip"]]
    assert groups(Norm("1", "1")) == groups(Norm("inf", "inf")) == [formulas()]


def test_large_convolutional_networks_are_put_on_a_torus(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = lipcert.load(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()), input_shape=(1, 1, 6, 6)).graph
    assert "lipsdp-torus" not in [m.name for m in choose(None, None, None, graph)]
    monkeypatch.setattr(lipsdp_torus, "FROM", graph.neurons)
    names = [m.name for m in choose(None, None, None, graph)]
    assert names.index("sampled") < names.index("lipsdp-torus") < names.index("lipsdp")  # the dear ones last
    assert "lipsdp-torus" not in [m.name for m in choose(["product"], None, None, graph)]
    monkeypatch.setattr("lipcert.methods.run.UNTIL", graph.neurons - 1)
    (quick,) = (m for m in choose(None, None, None, graph) if m.name == "lipsdp-torus")
    assert quick.sweeps < METHODS["lipsdp-torus"].sweeps  # type: ignore[attr-defined]
    assert choose(["lipsdp-torus"], None, None, graph) == [METHODS["lipsdp-torus"]]
    monkeypatch.setattr(lipsdp_torus, "MOST", graph.neurons - 1)
    assert "lipsdp-torus" not in [m.name for m in choose(None, None, None, graph)]


def test_what_a_method_says_is_of_this_world() -> None:
    for name, method in METHODS.items():
        assert name == method.name
        assert method.where
        assert method.refined_by is None or METHODS[method.refined_by].where & method.where
        for field, values in method.choices.items():
            assert getattr(method, field) in values, (name, field)


def test_a_method_from_outside_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    class Quick(Method):
        name, side, where = "quick", "upper", REGION

    monkeypatch.setitem(METHODS, "quick", Quick())  # type: ignore[abstract]
    assert on_a_ball()[:3] == ["local-product", "jacobian", "quick"]
    assert "quick" not in everywhere()
    assert "quick" in usual(on_a_region=True)


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        (["product"], {"solver": "SCS"}, "give --method lipsdp-cvxpy with it"),
        (["lipsdp-layer"], {"multipliers": "neuron"}, "give --method lipsdp or lipsdp-cvxpy with it"),
        (["lipsdp"], {"multipliers": "neurone"}, "multipliers is one of neuron, channel, layer, mixed"),
        (["nothing"], {}, "methods are product, absolute"),
    ],
)
def test_options_go_to_the_methods_that_offer_them(names: list[str], options: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        choose(names, None, options)
    assert [m.multipliers for m in choose(["lipsdp"], None, {"multipliers": "layer"})] == ["layer"]  # type: ignore[attr-defined]
