"""Jacobians at points, and the directions in which they are largest. Floating values without an error term."""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.network.graph import VALUES, Graph, Linear, Node
from lipcert.network.walk import forward
from lipcert.sampling.pullback import pulled
from lipcert.terms.query import P

TRIALS = 8
ORDER = {"1": 1.0, "2": 2.0, "inf": float("inf")}


def flops(graph: Graph) -> int:
    """Multiplications and additions of one evaluation."""
    return sum(map(flops_of, graph.nodes))


def flops_of(node: Node) -> int:
    return node.what.operator.flops if isinstance(node.what, Linear) else node.size


def widest(graph: Graph) -> int:
    """Entries of the largest signal."""
    return max(node.size for node in graph.nodes)


def jacobians(graph: Graph, x: Tensor) -> Tensor:
    """J (r, m, n) at x (r, n) in x's dtype, by one pass back per output; 0 at kinks where autograd says so."""
    r, n = x.shape
    m = graph.nodes[graph.output].size
    J = x.new_zeros(r, m, n)
    if r == 0 or m == 0:
        return J
    with torch.enable_grad():
        at = x.detach().requires_grad_(True)
        y = graph.evaluate(at)
    if not y.requires_grad:
        return J
    for i in range(m):
        unit = torch.zeros_like(y)
        unit[:, i] = 1.0
        (row,) = pulled(y, at, unit, keep=i + 1 < m, unused=True)
        if row is not None:
            J[:, i] = row
    return J


def differences(graph: Graph, x: Tensor, width: float = 1e-6) -> Tensor:
    """J (r, m, n) by central differences over `width` times the size of x (1 at least), where autograd gives NaN:
    0 times an infinite derivative, as of sqrt(relu(z)) for z < 0."""
    h = width * x.abs().amax(dim=1, keepdim=True).clamp(min=1.0)
    columns = []
    for j in range(x.shape[1]):
        step = torch.zeros_like(x)
        step[:, j : j + 1] = h
        columns.append((graph.evaluate(x + step) - graph.evaluate(x - step)) / (2 * h))
    return torch.stack(columns, dim=2)


def no_derivative(graph: Graph, x: Tensor) -> str | None:
    """The first node whose own derivative is infinite or NaN at one of the points x (r, n)."""
    values = forward(graph, VALUES, x, keep=True)
    for i in graph.nonlinear:
        node = graph.nodes[i]
        with torch.enable_grad():
            inputs = [values[parent].detach().requires_grad_(True) for parent in node.parents]
            y = node.what.block(*inputs)  # type: ignore[union-attr]
        if y.requires_grad:
            back = pulled(y, inputs, torch.ones_like(y), unused=True)
            if any(one is not None and not bool(torch.isfinite(one).all()) for one in back):
                return node.name
    return None


def best_directions(J: Tensor, p: P, q: P) -> Tensor:
    """argmax ||J v||_q / ||v||_p for Jacobians (r, m, n): closed form for m = 1, p = q = 2, p = 1, q = inf, else a start."""
    if J.shape[1] == 1:
        return dual_ascent(J[:, 0], p)
    if p == "1":
        columns = torch.linalg.vector_norm(J, ord=ORDER[q], dim=1)
        return torch.nn.functional.one_hot(columns.argmax(dim=1), J.shape[2]).to(J.dtype)
    if q == "inf":
        sizes = torch.linalg.vector_norm(J, ord=2 if p == "2" else 1, dim=2)
        rows = J[torch.arange(J.shape[0], device=J.device), sizes.argmax(dim=1)]
        return dual_ascent(rows, p)
    top = torch.linalg.svd(J, full_matrices=False).Vh[:, 0]
    return top if p == "2" else torch.where(top >= 0, 1.0, -1.0).to(J.dtype)


def pushed(graph: Graph, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """f(x) and J(x) v row by row."""
    return torch.func.jvp(graph.evaluate, (x,), (v,))[:2]


def power(graph: Graph, x: Tensor, p: P, q: P, steps: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The best v (r, n) of ||v||_p = 1 and ||J v||_q (r,) that a power iteration meets (Boyd 1974): never too large.

    Two starts: the gradient of the mean output, and noise, for the first may be orthogonal to what is sought.
    """
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(x.shape, generator=random, dtype=torch.float64).to(x)
    with torch.enable_grad():
        at = x.detach().requires_grad_(True)
        y = graph.evaluate(at)
    if not y.requires_grad:
        return unit(noise, p), x.new_zeros(x.shape[0])

    blind = torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)  # rows where autograd gives NaN or infinity

    def lit(u: Tensor) -> Tensor:
        (back,) = pulled(y, at, u, keep=True)
        return seen(back)

    def seen(found: Tensor) -> Tensor:
        bad = ~torch.isfinite(found).all(dim=1)
        blind.logical_or_(bad)
        return torch.where(bad[:, None], 0.0, found)

    best, top = unit(noise, p), x.new_full((x.shape[0],), -1.0)
    for start in (lit(torch.ones_like(y)), noise):
        v = unit(torch.where(start.abs().amax(dim=1, keepdim=True) > 0, start, noise), p)
        for _ in range(steps):
            image = seen(pushed(graph, x, v)[1])
            found = size(image, q)
            better = found > top
            best, top = torch.where(better[:, None], v, best), torch.where(better, found, top)
            v = unit(dual_ascent(lit(ascent(image, q)), p), p)
    if bool(blind.any()):
        best[blind], top[blind] = _by_trial(graph, x[blind], p, q, random)
    return best, top


def _by_trial(graph: Graph, x: Tensor, p: P, q: P, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """The best of TRIALS random directions, by differences of the function."""
    h = 1e-6 * x.abs().amax(dim=1, keepdim=True).clamp(min=1.0)
    best, top = torch.zeros_like(x), x.new_full((x.shape[0],), -1.0)
    for _ in range(TRIALS):
        v = unit(torch.randn(x.shape, generator=random, dtype=torch.float64).to(x), p)
        found = size((graph.evaluate(x + h * v) - graph.evaluate(x - h * v)) / (2 * h), q)
        better = found > top
        best, top = torch.where(better[:, None], v, best), torch.where(better, found, top)
    return best, torch.where(top < 0, torch.nan, top)


def size(y: Tensor, q: P) -> Tensor:
    return torch.linalg.vector_norm(y, ord=ORDER[q], dim=1)


def unit(v: Tensor, p: P) -> Tensor:
    return v / size(v, p)[:, None].clamp(min=1e-30)


def ascent(y: Tensor, q: P) -> Tensor:
    """Gradient of ||y||_q, up to scale."""
    if q == "2":
        return unit(y, "2")
    if q == "1":
        return torch.sign(y)
    return torch.nn.functional.one_hot(y.abs().argmax(dim=1), y.shape[1]).to(y.dtype) * torch.sign(y)


def dual_ascent(z: Tensor, p: P) -> Tensor:
    """argmax <z, v> over ||v||_p <= 1."""
    if p == "2":
        return z
    if p == "inf":
        return torch.where(z >= 0, 1.0, -1.0).to(z.dtype)
    return torch.nn.functional.one_hot(z.abs().argmax(dim=1), z.shape[1]).to(z.dtype) * torch.sign(z)
