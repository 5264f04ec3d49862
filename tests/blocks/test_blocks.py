"""Constants of the blocks: attained, never exceeded; ranges contain what is sampled, endpoints at infinity included."""

from __future__ import annotations

import importlib
import itertools
import math
import random

import mpmath
import pytest
import torch
from helpers import NORMS, f64, pointwise

from lipcert.activations import ACTIVATIONS
from lipcert.blocks.base import Axis, Block
from lipcert.blocks.normalise import Norm2, Normalise
from lipcert.blocks.pointwise import Pointwise
from lipcert.blocks.product import MatMul, Product
from lipcert.blocks.selection import Selection
from lipcert.blocks.softmax import LogSoftmax, LogSumExp, Softmax
from lipcert.blocks.sort import Sort

ORDER = {"1": 1.0, "2": 2.0, "inf": math.inf}
WINDOWS = torch.tensor([[0, 1, 2], [1, 2, 3], [2, -1, -1]])
CASES: dict[str, tuple[Block, int]] = {
    "relu": (pointwise("relu", 4).block, 4),
    "silu": (pointwise("silu", 3).block, 3),
    "max": (Selection(WINDOWS, 4), 4),
    "min": (Selection(WINDOWS, 4, True), 4),
    "max, nothing shared": (Selection(torch.tensor([[0, 1], [2, 3]]), 4), 4),
    "softmax": (Softmax(1, 3, 1), 3),
    "softmax 2": (Softmax(2, 2, 2), 8),
    "softmax of one": (Softmax(2, 1, 1), 2),
    "log_softmax": (LogSoftmax(1, 4, 1), 4),
    "log_softmax 2": (LogSoftmax(1, 2, 2), 4),
    "log_softmax of one": (LogSoftmax(2, 1, 1), 2),
    "logsumexp": (LogSumExp(1, 3, 2), 6),
    "norm2": (Norm2(2, 3, 1), 6),
    "norm2 of one": (Norm2(3, 1, 1), 3),
    "normalise": (Normalise(1, 3, 2, eps=1e-2), 6),
    "normalise two": (Normalise(1, 2, 1, eps=1.0), 2),
    "normalise one": (Normalise(2, 1, 1, eps=1e-2), 2),
    "rms": (Normalise(1, 3, 1, eps=1e-2, centred=False), 3),
    "rms one": (Normalise(1, 1, 2, eps=1e-2, centred=False), 2),
    "sort": (Sort(2, 3, 1), 6),
    "sort down": (Sort(1, 2, 2, descending=True), 4),
}
case = pytest.mark.parametrize(("block", "size"), CASES.values(), ids=CASES.keys())


def test_every_block_class_has_a_case() -> None:
    rooms = ("normalise", "pointwise", "product", "selection", "softmax", "sort")
    found = (c for room in rooms for c in vars(importlib.import_module(f"lipcert.blocks.{room}")).values())
    classes = {c for c in found if isinstance(c, type) and issubclass(c, Block)}
    assert {type(b) for b, _ in CASES.values()} == classes - {Block, Axis, Product, MatMul}


def points(size: int) -> torch.Tensor:
    """Equal entries, far apart ones, ties, tiny and random ones: where the constants of the blocks are attained."""
    found = [torch.zeros(1, size), torch.eye(size) * 40, -torch.eye(size) * 40, torch.ones(1, size)]
    found += [torch.eye(size) * 1e-7, torch.arange(size)[None] * 0.1, torch.arange(size)[None] * 25.0]
    found += [torch.tensor(list(itertools.product([-30.0, 0.0], repeat=min(size, 4)))).repeat(1, 2)[:, :size]]
    return torch.cat([*(t.double() for t in found), *(f64(20, size) * s for s in (0.01, 1.0, 10.0))])


def jacobians(block: Block, x: torch.Tensor) -> list[torch.Tensor]:
    return [torch.autograd.functional.jacobian(lambda u: block(u[None])[0], row) for row in x]


def induced(J: torch.Tensor, p: str) -> float:
    return float(torch.linalg.matrix_norm(J, {"1": 1, "2": 2, "inf": math.inf}[p]))


def largest(block: Block, size: int, p: str) -> float:
    x = points(size) + f64(1, size) * 1e-12  # off the ties, where torch would share a gradient
    return max(induced(J.nan_to_num(), p) for J in jacobians(block, x))


@pytest.mark.every(2)
@case
@pytest.mark.parametrize("p", NORMS)
def test_constants_hold_for_pairs_and_jacobians(block: Block, size: int, p: str) -> None:
    (bound,) = block.lipschitz(p)
    assert largest(block, size, p) <= bound * (1 + 1e-9)
    a, b = points(size), points(size).flip(0) + f64(1, size)
    for v in (b, a + f64(len(a), size) * 1e-3, a + torch.eye(size, dtype=torch.float64)[0]):
        moved = torch.linalg.vector_norm(block(a) - block(v), ORDER[p], dim=1)
        assert bool((moved <= bound * torch.linalg.vector_norm(a - v, ORDER[p], dim=1) * (1 + 1e-9) + 1e-12).all())


ATTAINED = {  # name -> norms where the constant is the supremum
    "relu": "1 2 inf", "max": "1 2 inf", "min": "1 2 inf", "max, nothing shared": "1 2 inf", "softmax": "1 2 inf",
    "softmax 2": "1 2 inf", "log_softmax": "1 2 inf", "log_softmax 2": "1 2 inf", "logsumexp": "1 2 inf",
    "norm2": "1 2 inf", "normalise": "2", "normalise two": "2", "rms": "2", "rms one": "1 2 inf", "sort": "1 2 inf",
}  # fmt: skip


@pytest.mark.every(2)
@pytest.mark.parametrize(("name", "p"), [(n, p) for n, norms in ATTAINED.items() for p in norms.split()])
def test_constants_are_attained(name: str, p: str) -> None:
    block, size = CASES[name]
    extra = torch.cat([torch.ones(1, size), torch.tensor([[0.0, 0.0, -60.0, -60.0] * 2])[:, :size]]).double()
    if "max" in name or "min" in name:
        sign = -1.0 if "min" in name else 1.0
        extra = torch.eye(size, dtype=torch.float64) * sign
    best = max(largest(block, size, p), *(induced(J.nan_to_num(), p) for J in jacobians(block, extra)))
    assert best >= block.lipschitz(p)[0] * (1 - 1e-6)


def test_the_oracle_sees_a_constant_too_small() -> None:
    assert largest(LogSoftmax(1, 4, 1), 4, "2") > 2.0 * (1 - 1e-6)
    assert largest(Norm2(1, 4, 1), 4, "inf") > 1.9
    assert largest(Selection(WINDOWS, 4), 4, "1") > 1.9


def test_normalise_without_eps_is_unbounded_and_says_so() -> None:
    block = Normalise(1, 3, 1, eps=0.0)
    assert block.lipschitz("2") == (math.inf,)
    assert "eps" in block.reason
    tiny = Normalise(1, 3, 1, eps=1e-12)
    assert 1e6 <= tiny.lipschitz("2")[0] <= 1e6 * (1 + 1e-12)


def test_overlap_counts_entries_of_different_windows() -> None:
    assert Selection(WINDOWS, 4).overlap == 3
    assert Selection(torch.tensor([[0], [1]]), 2).overlap == 1


# Ranges.


def boxes(size: int, dice: random.Random) -> list[tuple[torch.Tensor, torch.Tensor]]:
    found = []
    for scale in (0.0, 1e-6, 0.5, 5.0, 50.0, 600.0):
        centre = f64(1, size) * dice.choice([0.0, 1.0, 30.0])
        found.append((centre - scale * torch.rand(1, size).double(), centre + scale * torch.rand(1, size).double()))
    for side in (0, 1, 2):
        low, high = (t.clone() for t in found[3])
        hit = torch.rand(1, size) < 0.5
        if side != 1:
            low[hit] = -math.inf
        if side != 0:
            high[hit.flip(1)] = math.inf
        found.append((low, high))
    return found


def inside(low: torch.Tensor, high: torch.Tensor, n: int = 60) -> torch.Tensor:
    low = low.clamp(min=-1e3).minimum(high)
    high = high.clamp(max=1e3).maximum(low)
    t = torch.rand(n, low.shape[1], dtype=torch.float64)
    t[: n // 2] = t[: n // 2].round()
    return torch.minimum(torch.maximum(low + t * (high - low), low), high)


@case
def test_ranges_contain_sampled_values(block: Block, size: int) -> None:
    dice = random.Random(0)
    for low, high in boxes(size, dice):
        lower, upper = block.values_on((low, high))
        assert not bool(lower.isnan().any() | upper.isnan().any())
        y = block(inside(low, high))
        slack = 4e-16 * (1 + y.abs())  # of torch's own value
        assert bool(((lower <= y + slack) & (y - slack <= upper)).all())


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_infinite_ranges_of_activations(name: str) -> None:
    try:
        block = pointwise(name, 2).block
    except Exception:  # rows without default parameters are tested in test_activations
        return
    full = (torch.full((1, 2), -math.inf, dtype=torch.float64), torch.full((1, 2), math.inf, dtype=torch.float64))
    lower, upper = block.values_on(full)
    assert not bool(lower.isnan().any() | upper.isnan().any())
    y = block(f64(50, 2) * 10).nan_to_num(0.0)
    if bool(torch.isfinite(lower).all()):
        assert bool((lower <= y + 1e-12).all())
    if bool(torch.isfinite(upper).all()):
        assert bool((y <= upper + 1e-12).all())


def softmax_mp(u: list[float]) -> list[mpmath.mpf]:
    with mpmath.workdps(60):
        e = [mpmath.exp(mpmath.mpf(v)) for v in u]
        return [v / mpmath.fsum(e) for v in e]


@pytest.mark.parametrize("off", [1.0, 30.0, 300.7, 700.3, 744.0, 744.5, 745.1, 800.0])
def test_softmax_ranges_where_exp_underflows(off: float) -> None:
    """The largest entry may be far above on one side of the box, so all other exponentials are subnormal."""
    low = torch.tensor([[-off, -off + 0.3, -off]], dtype=torch.float64)
    high = torch.tensor([[0.0, -off + 0.3, -off]], dtype=torch.float64)
    lower, upper = Softmax(1, 3, 1).values_on((low, high))
    loglower, logupper = LogSoftmax(1, 3, 1).values_on((low, high))
    for u in (low[0].tolist(), high[0].tolist()):
        for i, s in enumerate(softmax_mp(u)):
            assert lower[0, i].item() <= s <= upper[0, i].item()
            assert loglower[0, i].item() <= mpmath.log(s) <= logupper[0, i].item()


def test_softmax_ranges_beside_an_infinite_entry() -> None:
    low = torch.tensor([[-math.inf, 1e5, 1e5 - 300.123]], dtype=torch.float64)
    high = torch.tensor([[-1e300, 1e5, 1e5 - 300.123]], dtype=torch.float64)
    lower, upper = Softmax(1, 3, 1).values_on((low, high))
    for i, s in enumerate(softmax_mp([1e5, 1e5 - 300.123]), 1):
        assert lower[0, i].item() <= s <= upper[0, i].item()


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e-160, 1.0, 1e160, 1e300])
def test_norm_ranges_at_all_magnitudes(scale: float) -> None:
    x = f64(1, 3) * scale
    lower, upper = Norm2(1, 3, 1).values_on((x, x))
    with mpmath.workdps(60):
        true = mpmath.sqrt(mpmath.fsum(mpmath.mpf(v) ** 2 for v in x[0].tolist()))
        assert mpmath.mpf(lower.item()) <= true <= mpmath.mpf(upper.item())


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e-5, 1.0, 1e80, 1e160, 1e300])
def test_normalise_ranges_at_all_magnitudes(scale: float, centred: bool) -> None:
    block = Normalise(1, 3, 1, eps=1e-5, centred=centred)
    for width in (0.0, 0.1):
        x = f64(1, 3) * scale
        lower, upper = block.values_on((x - width * scale, x + width * scale))
        with mpmath.workdps(700):
            u = [mpmath.mpf(v) for v in x[0].tolist()]
            mean = mpmath.fsum(u) / 3 if centred else 0
            c = [v - mean for v in u]
            spread = mpmath.sqrt(mpmath.fsum(v * v for v in c) / 3 + mpmath.mpf(1e-5))
            for i, v in enumerate(c):
                assert mpmath.mpf(lower[0, i].item()) <= v / spread <= mpmath.mpf(upper[0, i].item())


# Products of two signals.


def test_products_are_unbounded_without_a_region() -> None:
    for block in (Product(2), MatMul(1, 2, 2, 2)):
        assert block.lipschitz("2") == (math.inf, math.inf)
        assert "bounded" in block.reason


PAIRS: dict[str, tuple[Block, int, int]] = {
    "product": (Product(3), 3, 3),
    "matmul": (MatMul(2, 2, 3, 1), 12, 6),
    "matmul wide": (MatMul(1, 1, 2, 4), 2, 8),
    "matmul tall": (MatMul(1, 4, 1, 2), 4, 2),
}


@pytest.mark.parametrize(("block", "m", "n"), PAIRS.values(), ids=PAIRS.keys())
@pytest.mark.parametrize("p", NORMS)
def test_bilinear_constants_and_ranges_hold_on_boxes(block: Block, m: int, n: int, p: str) -> None:
    for scale in (0.1, 3.0):
        u, v = ((c - scale, c + scale) for c in (f64(1, m), f64(1, n)))
        ku, kv = block.lipschitz(p, (u, v))
        a, b, c, d = inside(*u), inside(*v), inside(*u), inside(*v)
        moved = torch.linalg.vector_norm(block(a, b) - block(c, d), ORDER[p], dim=1)
        du, dv = (torch.linalg.vector_norm(t, ORDER[p], dim=1) for t in (a - c, b - d))
        assert bool((moved <= (ku * du + kv * dv) * (1 + 1e-12) + 1e-12).all())
        only_u = torch.linalg.vector_norm(block(a, b) - block(c, b), ORDER[p], dim=1)
        assert bool((only_u <= ku * du * (1 + 1e-12) + 1e-12).all())
        lower, upper = block.values_on(u, v)
        y = block(a, b)
        assert bool(((lower <= y) & (y <= upper)).all())


def test_products_of_infinite_ranges() -> None:
    zero, line = torch.zeros(1, 1).double(), torch.full((1, 1), math.inf, dtype=torch.float64)
    assert Product(1).values_on((zero, zero), (-line, line))[1].item() < 1e-300
    lower, upper = Product(1).values_on((zero, zero + 1), (-line, line))
    assert (lower.item(), upper.item()) == (-math.inf, math.inf)
    lower, upper = MatMul(1, 1, 1, 1).values_on((zero, zero + 1), (-line, line))
    assert (lower.item(), upper.item()) == (-math.inf, math.inf)
    assert Product(1).lipschitz("2", ((zero, zero + 1), (-line, line))) == (math.inf, 1.0)


@case
def test_blocks_in_float32(block: Block, size: int) -> None:
    moved = block.to("cpu", torch.float32)
    x = f64(2, size)
    assert torch.allclose(moved(x.float()).double(), block(x), atol=1e-5)


def test_pointwise_slopes_follow_the_ranges() -> None:
    block = pointwise("relu", 3).block
    assert isinstance(block, Pointwise)
    low = torch.tensor([[-2.0, 1.0, -1.0]]).double()
    high = torch.tensor([[-1.0, 2.0, 1.0]]).double()
    a, b = block.slopes(((low, high),))
    assert (a.tolist(), b.tolist()) == ([0.0, 1.0, 0.0], [0.0, 1.0, 1.0])
    assert block.lipschitz("2", ((low[:, :1].expand(1, 3), high[:, :1].expand(1, 3)),)) == (0.0,)


@pytest.mark.parametrize("minimum", [False, True])
@pytest.mark.parametrize("at_once", [1, 100, 10**6])
def test_wide_windows_are_taken_in_parts(at_once: int, minimum: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lipcert.blocks.selection.AT_ONCE", at_once)
    draw = torch.Generator().manual_seed(0)
    windows = torch.randint(-1, 200, (3, 150), generator=draw)
    u = torch.randn(2, 200, generator=draw, dtype=torch.float64)
    kept = [u[:, row[row >= 0]] for row in windows]
    best = torch.stack([part.amin(1) if minimum else part.amax(1) for part in kept], dim=1)
    block = Selection(windows, 200, minimum)
    assert torch.equal(block(u), best)
    assert torch.equal(block(u[:0]), best[:0])


# From one norm to another.

MIXED = [(p, q) for p in NORMS for q in NORMS if p != q]
EXACT = ("relu", "silu", "softmax", "softmax 2", "log_softmax", "log_softmax 2", "logsumexp", "norm2", "norm2 of one")
MIXED_EXACT = [(name, p, q) for name in EXACT for p, q in MIXED]


def between(J: torch.Tensor, p: str, q: str) -> float:
    """||J||_{p->q} by its extreme points: columns of l1, signs of linf; to linf and l1 from l2 by rows and signs."""
    n, m = J.shape[1], J.shape[0]
    if p == "1":
        return float(torch.linalg.vector_norm(J, ORDER[q], dim=0).max())
    if p == "inf":
        signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=n)), dtype=torch.float64)
        return float(torch.linalg.vector_norm(signs @ J.T, ORDER[q], dim=1).max())
    if q == "inf":
        return float(torch.linalg.vector_norm(J, dim=1).max())
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=m)), dtype=torch.float64)
    return float(torch.linalg.vector_norm(signs @ J, dim=1).max())


def largest_between(block: Block, size: int, p: str, q: str) -> float:
    halves = [torch.zeros(size), torch.tensor([0.0, 0.0, -60.0, -60.0] * 2)[:size]]
    near = torch.tensor([0.0, 0.0, -60.0, 0.0, -60.0, 0.0] * 2)[:size]
    x = torch.cat([points(size), torch.stack([*halves, near, torch.ones(size) * 1.5]).double()]) + f64(1, size) * 1e-9
    return max(between(J.nan_to_num(), p, q) for J in jacobians(block, x))


@pytest.mark.every(7)
@pytest.mark.parametrize(("name", "p", "q"), [(name, p, q) for name in CASES for p, q in MIXED])
def test_constants_between_norms_hold(name: str, p: str, q: str) -> None:
    block, size = CASES[name]
    (bound,) = block.between(p, q)  # type: ignore[arg-type]
    assert largest_between(block, size, p, q) <= bound * (1 + 1e-9)


@pytest.mark.every(7)
@pytest.mark.parametrize(("name", "p", "q"), MIXED_EXACT)
def test_constants_between_norms_are_attained(name: str, p: str, q: str) -> None:
    block, size = CASES[name]
    (bound,) = block.between(p, q)  # type: ignore[arg-type]
    assert largest_between(block, size, p, q) >= bound * (1 - (1e-6 if name != "silu" else 0.2))


def test_a_constant_between_norms_that_is_too_small_is_noticed() -> None:
    assert largest_between(Softmax(1, 3, 1), 3, "inf", "1") > 0.99
    assert largest_between(LogSoftmax(1, 4, 1), 4, "2", "1") > 3.4
