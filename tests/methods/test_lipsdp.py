"""LipSDP against a general solver, published values, exact rational arithmetic, and the laws that it obeys."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import exact, f64
from nets import KINDS, Layer, Net, by_layer, chain, clarabel, concat, conv, dense, residual
from oracles import jacobian
from thorough import FULL
from torch import Tensor

from lipcert.activations import ACTIVATIONS, Elementwise
from lipcert.blocks.pointwise import Pointwise
from lipcert.methods.eclipse import Eclipse
from lipcert.methods.lipsdp import Lipsdp
from lipcert.methods.problem import Method, Problem
from lipcert.methods.product import ProductBound
from lipcert.network.graph import Graph, Input, Linear, Node, Nonlinear, What
from lipcert.operators.linear import Dense
from lipcert.proofs import lmi
from lipcert.proofs.kinds.lmi import Lmi
from lipcert.proofs.lmi import INPUT, coefficients, prove
from lipcert.proofs.normal_form import normal_form
from lipcert.sdp.solve import Settings, solve
from lipcert.terms.query import Norm
from lipcert.terms.result import Bound


def bound(method: Method, graph: Graph) -> Bound:
    with torch.no_grad():
        result = method.run(Problem(graph, Norm()))
    assert isinstance(result, Bound), result
    return result


def lipsdp(net: Net) -> Bound:
    return bound(Lipsdp(net.grouping), net.graph())


# The optimum: a general solver on a problem that was written down independently.

ORACLE: list[tuple[Callable[[int], Net], int]] = [
    *((chain, seed) for seed in range(36)),
    *((residual, seed) for seed in range(26)),
    *((concat, seed) for seed in range(20)),
    *((conv, seed) for seed in range(16)),
    *((by_layer, seed) for seed in range(18)),
]


def test_at_least_100_optima() -> None:
    assert len(ORACLE) >= 100


def agrees(net: Net, value: float) -> None:
    """Clarabel now and then stops above the optimum by 1e-5 ("inaccurate"), never below it by more than its tolerance:
    a proved value under it is right, one above it by 1e-6 is not."""
    best = clarabel(net)
    assert value <= best * (1 + 1e-6), f"{net.name}: {value} > {best}"
    assert value >= best * (1 - 1e-4), f"{net.name}: {value} < {best}"


@pytest.mark.every(5)
@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
@pytest.mark.parametrize(("make", "seed"), ORACLE)
def test_the_optimum_is_that_of_clarabel(make: Callable[[int], Net], seed: int) -> None:
    net = make(seed)
    found = lipsdp(net)
    agrees(net, found.value)
    if net.neurons:
        # The dual value is a lower bound of the optimum: with it the agreement from below is as sharp.
        assert found.details["dual"] * (1 + 1e-6) >= found.value


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
@pytest.mark.parametrize("make", [chain, residual])
def test_the_optimum_of_forty_neurons(make: Callable[..., Net]) -> None:
    agrees(net := make(1, most=40), lipsdp(net).value)


@pytest.mark.parametrize("wrong", ["slopes", "grouping", "shortcut"])
def test_the_oracle_sees_another_problem(wrong: str) -> None:
    """Leaky slopes taken for ReLU, one multiplier too few, a shortcut forgotten: each moves the optimum by far more."""
    torch.manual_seed(3)
    leaky = torch.tensor([-0.5, 0.3, 0.3, -0.5], dtype=torch.float64)
    net = Net("planted", 3, (Layer({0: f64(4, 3)}, leaky), Layer({1: f64(3, 4)})), {0: f64(2, 3), 2: f64(2, 3)})
    value = lipsdp(net).value
    agrees(net, value)
    other = {
        "slopes": replace(net, layers=(Layer(net.layers[0].rows), net.layers[1])),
        "grouping": replace(net, grouping="layer"),
        "shortcut": replace(net, out={2: net.out[2]}),
    }[wrong]
    with pytest.raises(AssertionError):
        agrees(other, value)


# Hundreds of networks of every kind.

COUNT = 27


def test_at_least_400_networks() -> None:
    assert COUNT * len(KINDS) >= 400


@pytest.mark.every(4)
@pytest.mark.parametrize("make", KINDS)
def test_every_network_is_proved_between_sampling_and_product(make: Callable[[int], Net]) -> None:
    for seed in range(1000, 1000 + COUNT):
        net = make(seed)
        graph = net.graph()
        found, product = bound(Lipsdp(net.grouping), graph), bound(ProductBound(), graph)
        assert found.rigor == "proved"
        assert found.value <= product.value * (1 + 1e-9), f"{net.name} {seed}"
        assert found.value >= sampled(graph, net.inputs, seed) * (1 - 1e-9), f"{net.name} {seed}"
        dual = found.details.get("dual", 0.0)
        assert dual <= found.value
        assert found.value <= dual * (1 + 1e-4) or dual == 0.0, f"{net.name} {seed}"


def sampled(graph: Graph, inputs: int, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    best = 0.0
    for scale in (0.1, 1.0, 100.0):
        x = scale * torch.randn(inputs, generator=generator, dtype=torch.float64)
        J = jacobian(lambda at: graph.evaluate(at[None])[0], x)
        if bool(torch.isfinite(J).all()):
            best = max(best, float(torch.linalg.matrix_norm(J, 2)))
    return best


# Published values.


@pytest.mark.parametrize("kind", ["fnn2", "fnn3"])
def test_published_values(shared: Path, kind: str) -> None:
    """GLipSDP's networks on the digits, output 7, on standardised inputs."""
    folder = shared / "models" / "weights"
    rows = json.loads((folder / "reference.json").read_text())
    names = [name for name in rows if name.startswith(f"glipsdp_{kind}")]
    assert len(names) == 6
    for name in names:
        stored = np.load(folder / f"{name}.npz")
        maps = [torch.from_numpy(stored[key]).double() for key in sorted(stored) if key.startswith("W")]
        maps[-1] = maps[-1][rows[name]["output_index"]][None]
        layers = tuple(Layer({k: a}) for k, a in enumerate(maps[:-1]))
        graph = Net(name, maps[0].shape[1], layers, {len(layers): maps[-1]}).graph()
        assert bound(ProductBound(), graph).value == pytest.approx(rows[name]["product"], rel=1e-6)
        value = bound(Lipsdp(), graph).value
        assert value <= rows[name]["lipsdp_neuron"] * (1 + 1e-4)
        assert value >= rows[name]["sampled_lower"]


# Laws.


def transposed(net: Net) -> Net:
    """Of a chain: the layers in reverse order, with the same slopes."""
    maps = [dense(next(iter(rows.values()))).T for rows in (*(layer.rows for layer in net.layers), net.out)][::-1]
    acts = [layer.act for layer in net.layers][::-1]
    layers = tuple(Layer({k: a}, act) for k, (a, act) in enumerate(zip(maps, acts, strict=False)))
    return Net(f"transposed {net.name}", maps[0].shape[1], layers, {len(layers): maps[-1]}, net.grouping)


def permuted(net: Net) -> Net:
    maps = [dense(next(iter(rows.values()))) for rows in (*(layer.rows for layer in net.layers), net.out)]
    layers = []
    for k, layer in enumerate(net.layers):
        order = torch.randperm(layer.size)
        maps[k], maps[k + 1] = maps[k][order], maps[k + 1][:, order]
        act = layer.act[order] if isinstance(layer.act, Tensor) else layer.act
        layers.append(Layer({k: maps[k]}, act))
    return replace(net, layers=tuple(layers), out={len(layers): maps[-1]})


def times(net: Net, factor: float) -> Net:
    return replace(net, out={j: factor * dense(a) for j, a in net.out.items()})


def with_biases(net: Net) -> Net:
    return replace(net, biases=tuple(f64(layer.size) for layer in net.layers))


@pytest.mark.parametrize("seed", range(6))
def test_laws(seed: int) -> None:
    net = chain(seed + 50)
    value = lipsdp(net).value
    for other in (transposed(net), permuted(net), with_biases(net)):
        assert lipsdp(other).value == pytest.approx(value, rel=1e-6)
    for factor in (-1.0, 0.37, 1e-30, 1e30):
        assert lipsdp(times(net, factor)).value == pytest.approx(abs(factor) * value, rel=1e-6)


def test_groups_only_loosen() -> None:
    for seed in range(6):
        net = conv(seed + 20)
        fine, middle, coarse = (lipsdp(replace(net, grouping=g)).value for g in ("neuron", "channel", "layer"))
        assert fine <= middle * (1 + 1e-7)
        assert middle <= coarse * (1 + 1e-7)


def test_proofs_that_never_close_are_given_up() -> None:
    """Weights of 1e150 and 1e-150: the multipliers settle, and underflow leaves no proof of them."""
    random = torch.Generator().manual_seed(0)
    A, B = (torch.randn(*shape, generator=random, dtype=torch.float64) for shape in ((5, 3), (2, 5)))
    form = normal_form(Net("far", 3, (Layer({0: 1e150 * A}),), {1: 1e-150 * B}).graph(), "neuron", None)
    solution = solve(form, coefficients(form), Settings())
    assert not solution.multipliers
    assert solution.info.sweeps < 200
    assert solution.info.proofs < 200  # one after the other until the sweeps were used up: 8607


@pytest.mark.slow
def test_sixty_four_layers_have_no_floor() -> None:
    """L near 1e-6, where published SDP values are 27-78 times too large: they stop at a solver's absolute tolerance."""
    torch.manual_seed(0)
    maps = [0.63 * f64(16, 16) / 4 for _ in range(65)]
    layers = tuple(Layer({k: a}) for k, a in enumerate(maps[:-1]))
    graph = Net("deep", 16, layers, {64: maps[-1]}).graph()
    deep, fast = bound(Lipsdp(), graph), bound(Eclipse(), graph)
    assert deep.value < 2e-6
    assert deep.value <= deep.details["dual"] * (1 + 2e-4)
    assert deep.value <= 1e-3 * fast.value


# What lmi.prove says, in exact arithmetic.


def exact_matrix(net: Net, multipliers: list[Tensor], rho: float, last: int) -> np.ndarray:
    """The matrix of lmi's docstring in Fractions, variables (x, z_1 .., y), one multiplier per neuron."""
    sizes = [net.inputs, *(layer.size for layer in net.layers), dense(net.out[max(net.out)]).shape[0]]
    edges = np.cumsum([0, *sizes])
    total = int(edges[-1])
    zero = np.full((total, total), Fraction(0), dtype=object)
    M = zero.copy()
    first = 1 if last != INPUT else Fraction(rho)
    for k, weight in ((0, first), (len(sizes) - 1, Fraction(rho) if last != INPUT else 1)):
        for i in range(edges[k], edges[k + 1]):
            M[i, i] += weight

    def rows(maps: dict, n: int) -> np.ndarray:
        out = np.full((n, total), Fraction(0), dtype=object)
        for j, a in maps.items():
            out[:, edges[j] : edges[j + 1]] += exact(dense(a))
        return out

    for k, layer in enumerate(net.layers, start=1):
        v = rows(dict(layer.rows), layer.size)
        low, high = (exact(side) for side in layer.slopes())
        for i in range(layer.size):
            z = np.full(total, Fraction(0), dtype=object)
            z[edges[k] + i] = Fraction(1)
            p, q = z - low[i] * v[i], z - high[i] * v[i]
            M = M + Fraction(float(multipliers[k - 1][i])) * (np.outer(p, q) + np.outer(q, p))
    y = rows(dict(net.out), sizes[-1])
    M[edges[-2] :] -= y
    M[:, edges[-2] :] -= y.T
    return M


def is_psd(M: np.ndarray) -> bool:
    """Exact symmetric elimination: every pivot positive, or zero with a zero row."""
    M = M.copy()
    while len(M):
        pivot = M[0, 0]
        if pivot < 0 or (pivot == 0 and any(entry != 0 for entry in M[0])):
            return False
        M = M[1:, 1:] - (np.outer(M[1:, 0], M[0, 1:]) / pivot if pivot else 0)
    return True


def integers(seed: int) -> Net:
    """Small weights in eighths, leaky and ReLU neurons, a shortcut."""
    generator = torch.Generator().manual_seed(seed)

    def eighths(m: int, n: int) -> Tensor:
        values = torch.randint(-8, 9, (m, n), generator=generator).double()
        return torch.where(values == 0, 1.0, values) / 8

    slopes = torch.tensor([0.25, -0.5, 0.0], dtype=torch.float64)
    layers = Layer({0: eighths(3, 2)}, slopes), Layer({1: eighths(2, 3), 0: eighths(2, 2)})
    return Net("integers", 2, layers, {2: eighths(2, 2), 0: eighths(2, 2)})


def matrix_of(net: Net, found: Bound) -> tuple[np.ndarray, list[Tensor], int]:
    assert isinstance(found.proof, Lmi)
    last, multipliers = found.proof.block(len(net.layers)), found.proof.tensors
    return exact_matrix(net, multipliers, found.value**2 * (1 + 1e-15), last), multipliers, last


@pytest.mark.parametrize("scale", [2.0**-540, 2.0**-300, 1.0, 2.0**400])
@pytest.mark.parametrize("slope", [2.0**-1000, -(2.0**-600), 0.25])
@pytest.mark.parametrize("weight", [2.0**-500, 1.0, 2.0**240])
def test_blocks_are_within_their_error(scale: float, slope: float, weight: float) -> None:
    """Also where products of multipliers, slopes and weights leave the normal numbers."""
    net = integers(1)
    layers = tuple(replace(layer, act=torch.full((layer.size,), slope, dtype=torch.float64)) for layer in net.layers)
    net = replace(net, layers=layers, out={k: a * scale for k, a in net.out.items()})
    form = normal_form(net.graph())
    table = coefficients(form)
    multipliers = [weight * torch.rand(layer.size, dtype=torch.float64) for layer in net.layers]
    blocks = lmi.assemble(form, table, multipliers, INPUT, 1.0)
    M = exact_matrix(net, multipliers, 0.0, INPUT)
    edges = np.cumsum([0, *table.sizes])
    S = np.array([Fraction(float(s)) for s in torch.cat(blocks.scales)], dtype=object)
    M = M * S[:, None] * S[None, :]
    for (i, j), part in blocks.parts.items():
        rows, columns = slice(edges[i], edges[i + 1]), slice(edges[j], edges[j + 1])
        M[rows, columns] -= exact(part)
        if i != j:
            M[columns, rows] -= exact(part).T
    worst = max(sum(abs(entry) for entry in row) for row in M)
    assert math.isfinite(blocks.error)
    assert worst <= Fraction(blocks.error)


def overflowing(middle: str) -> Graph:
    """1e-300 phi(1e200 1e200 relu(x)): the product of the matrices is only known to be a real number, and L = 1e100."""
    nodes = [Node(Input(), (), 1, (1, 1), "x")]
    for what in (1.0, "relu", 1e200, 1e200, middle, 1e-300):
        if isinstance(what, str):
            made: What = Nonlinear(Pointwise(Elementwise(ACTIVATIONS[what], ()), 1))
        else:
            made = Linear(Dense(torch.full((1, 1, 1), what, dtype=torch.float64)))
        nodes.append(Node(made, (len(nodes) - 1,), 1, (1, 1), str(what)))
    return Graph(tuple(nodes), len(nodes) - 1)


@pytest.mark.parametrize("middle", ["abs", "relu", "tanh"])
def test_what_overflows_proves_nothing(middle: str) -> None:
    """abs has slopes -1 + 1 = 0 of a radius that is infinite: a NaN, which must not be lost among the other sums."""
    graph = overflowing(middle)
    for weight in (0.1, 1e-3, 1e-6):
        for last in ("input", "output"):
            proof = Lmi("x", "neuron", last, 1.0, ((weight,), (weight,)))
            assert math.isinf(proof.prove(graph, Norm()))


@pytest.mark.parametrize("method", [Lipsdp("neuron"), Lipsdp("neuron", sweeps=20), Eclipse()])
def test_proofs_hold_in_exact_arithmetic(method: Method) -> None:
    for seed in range(8):
        net = integers(seed)
        found = bound(method, net.graph())
        M, multipliers, last = matrix_of(net, found)
        assert is_psd(M)
        # and the oracle can say no: below the optimum nothing is positive semidefinite
        assert not is_psd(exact_matrix(net, multipliers, (0.5 * found.value) ** 2, last))


def without_residual(patch: pytest.MonkeyPatch) -> None:
    """Plant the error that the proof guards against: what is lost in factoring counts for nothing."""
    eliminate, assemble = lmi.eliminate, lmi.assemble
    patch.setattr(lmi, "_proposed_shift", lambda *_: 0.0)
    patch.setattr(lmi, "assemble", lambda *args: replace(assemble(*args), error=0.0))
    patch.setattr(lmi, "eliminate", lambda *args: (found := eliminate(*args)) and replace(found, defect=0.0))


def test_an_eigenvalue_just_below_zero_is_not_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One neuron read by many outputs w: at x = 0, z = 1, y = w the form is 2 lambda - |w|^2, whatever rho is. With
    lambda between the floating and the true value of |w|^2 / 2 the floating Cholesky does not see that it is negative."""
    fooled = 0
    for seed in range(40 if FULL else 10):
        torch.manual_seed(seed)
        net = Net("one neuron", 1, (Layer({0: torch.ones(1, 1).double()}),), {1: f64(60, 1)})
        true = sum(Fraction(float(w)) ** 2 for w in dense(net.out[1])[:, 0])
        below = torch.tensor([float(true / 2)], dtype=torch.float64)
        if 2 * Fraction(float(below)) >= true:
            below = torch.nextafter(below, torch.zeros_like(below))
        at = np.array([Fraction(0), Fraction(1), *exact(dense(net.out[1])[:, 0])], dtype=object)
        assert at @ exact_matrix(net, [below], 1e300, INPUT) @ at < 0
        form = normal_form(net.graph())
        table = coefficients(form)
        for shift in (None, 0.0, 1e-300):  # whatever is proposed, the residual decides
            with monkeypatch.context() as patch:
                if shift is not None:
                    patch.setattr(lmi, "_proposed_shift", lambda *_, shift=shift: shift)
                assert prove(form, table, [below], last=INPUT, rho=float(true)) == math.inf
        with monkeypatch.context() as patch:
            without_residual(patch)
            fooled += math.isfinite(prove(form, table, [below], last=INPUT, rho=float(true)))
    assert fooled > 0


@pytest.mark.parametrize(("routine", "sign"), [("cholesky_ex", 1), ("solve_triangular", -1)])
def test_a_wrong_factor_proves_nothing_false(routine: str, sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """LAPACK is not trusted: with perturbed factors and solutions every value proved still holds in exact arithmetic, and
    the residual is what sees it."""
    right = getattr(torch.linalg, routine)
    false = {True: 0, False: 0}  # by whether the residual counts
    refused = 0
    for seed, size in itertools.product(range(4), (1e-1, 1e-3, 1e-6, 1e-9)):
        net = integers(seed)
        found = bound(Lipsdp("neuron"), net.graph())
        _, multipliers, last = matrix_of(net, found)
        form = normal_form(net.graph())
        table = coefficients(form)
        for counted in (True, False):
            generator = torch.Generator().manual_seed(seed)

            def wrong(
                *args: object, generator: torch.Generator = generator, size: float = size, **options: object
            ) -> object:
                result = right(*args, **options)
                values = result if isinstance(result, Tensor) else result[0]
                noise = 1 + sign * size * torch.rand(values.shape, generator=generator, dtype=torch.float64)
                return values * noise if isinstance(result, Tensor) else (values * noise, result[1])

            with monkeypatch.context() as patch:
                patch.setattr(torch.linalg, routine, wrong)
                if not counted:
                    without_residual(patch)
                value = prove(form, table, multipliers, last=last, rho=found.value**2)
            refused += value == math.inf
            if math.isfinite(value):
                false[counted] += not is_psd(exact_matrix(net, multipliers, value, last))
    assert false[True] == 0
    assert false[False] > 0
    assert refused > 0


@pytest.mark.parametrize("seed", range(4))
def test_nudged_multipliers_prove_less(seed: int) -> None:
    """At the optimum every other multiplier is refused or proves a larger value, never one below the dual."""
    net = integers(seed)
    found = bound(Lipsdp("neuron"), net.graph())
    _, multipliers, last = matrix_of(net, found)
    form = normal_form(net.graph())
    table = coefficients(form)
    assert math.sqrt(prove(form, table, multipliers, last=last, rho=found.value**2)) <= found.value * (1 + 1e-12)
    risen = 0
    for k, layer in enumerate(multipliers):
        for i in range(layer.numel()):
            for factor in (0.8, 1.25, 0.0, -1.0, math.nan):
                nudged = [m.clone() for m in multipliers]
                nudged[k][i] *= factor
                again = prove(form, table, nudged, last=last, rho=found.value**2)
                assert again >= found.details["dual"] ** 2 * (1 - 1e-9)
                if factor < 0 or math.isnan(factor):
                    assert again == math.inf
                risen += again > found.value**2 * (1 + 1e-6)
    assert risen > 0


@pytest.mark.parametrize("size", [1e100, 1e200])
def test_certificates_of_large_affine_networks_can_be_read(size: float) -> None:
    """The square of the constant is beyond the numbers of a certificate, or of float64; it is a scaling only."""
    nodes = (
        Node(Input(), (), 2, (1, 2), "x"),
        Node(Linear(Dense(torch.eye(2, dtype=torch.float64)[None] * size)), (0,), 2, (1, 2), "y"),
    )
    graph = Graph(nodes, 1)
    for method in (Lipsdp("neuron"), Eclipse()):
        found = bound(method, graph)
        assert isinstance(found.proof, Lmi)
        again = Lmi.read("x", json.loads(json.dumps(found.proof.fields())), False)
        assert size <= again.prove(graph, Norm()) <= found.value <= size * (1 + 1e-6)
