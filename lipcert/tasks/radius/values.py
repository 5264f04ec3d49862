"""Radii from values: the largest ball on which each margin is proved to stay positive, without a Lipschitz constant (MATH section 10).

Of a functional g = c'f, with ahead > 0 the proved lower value of its margin at the sample: a radius r is certified where

    drop(r) = g(x) - min over the closed ball B(x, r) of g < ahead,

strictly. The minimum is bounded from below by backward linear bounds (CROWN, Zhang et al. 2018) where all blocks act entry by entry,
else by the expansion about the centre (regions/transfer). `largest_held` looks for r; what it finds was proved at that very r. Where
activations have a corner at 0, `grown` goes on from there with optimised slopes and splits (regions/branch_and_bound/splits.py).

Where only inputs in a range [lo, hi]^n count, a ball of linf is cut to the box that it shares with them; balls of l1 and l2 are
taken whole, so that their radii hold for those inputs too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from lipcert.methods.transfer import obstacle as not_expanded
from lipcert.network.graph import Enclosure, Graph, enclose_linear
from lipcert.network.intervals import propagated
from lipcert.operators.linear import DUAL, Dense
from lipcert.regions.backward.adjoint import obstacle as not_backward
from lipcert.regions.backward.affordable import flops
from lipcert.regions.backward.linear import linear_ranges, upper_values
from lipcert.regions.branch_and_bound.splits import SplitEffort, split_values, splittable
from lipcert.regions.cells import Cells
from lipcert.regions.transfer.deviations import values
from lipcert.regions.transfer.functionals import is_kink, least
from lipcert.rigor.rounding import add_up, keeps_subnormals, sub_down, sub_up
from lipcert.tasks.radius.crossing import grown, largest_held
from lipcert.tasks.radius.margins import Margins
from lipcert.terms.errors import RefusedModel
from lipcert.terms.query import P

BEGIN = {"linear": 0.5, "transfer": 0.2}  # of the radius where the linear model at the sample loses its margin
STEPS = {"linear": 8, "transfer": 6}  # balls for a sample, at most
WORK = 1e9  # flops for the linear ranges of one ball
GROWING = 4  # balls with splits, at most
EFFORT = SplitEffort()
SPLITTING = 2e10  # flops for the parts of one ball
TOGETHER = 2**21  # balls times the inputs and the widest signal
Valid = tuple[float, float]  # the range of every entry of an input


def in_the_way(graph: Graph) -> str | None:
    """Why there are no radii by values; None: there are."""
    if not_backward(graph) is None or (blocked := not_expanded(graph)) is None:
        return None
    return blocked[1]


@keeps_subnormals
def value_radii(
    graph: Graph,
    x: Tensor,
    found: Margins,
    norm: P,
    regression: bool,
    beyond: Tensor | None = None,
    valid: Valid | None = None,
) -> tuple[Tensor, Tensor]:
    """Certified radii (b,) of the samples x (b, n), and the functional that limits each, (b,). 0: nothing is certified.
    `beyond` (b,): distances of inputs of another class, inf: none is known. There is nothing to look for so far out. `valid`: only
    inputs whose entries lie in it count; those of x do."""
    seeds = found.seeds(graph.nodes[graph.output].size)
    if not regression and seeds.shape[1:] == (1, 1):  # one logit below 0 may not rise
        seeds = torch.where(found.predicted[:, None, None] == 0, -seeds, seeds)
    if regression:  # neither may it fall nor rise
        seeds = torch.cat([seeds, -seeds], dim=1)
    ahead = torch.cat([found.value, found.value], dim=1) if regression else found.value
    drop, steps = (_backward, "linear") if not_backward(graph) is None else (_expanded, "transfer")
    first = _first(graph, x, seeds, ahead, norm)

    def lost(rows: Tensor, radius: Tensor) -> Tensor:
        return drop(graph, x[rows], seeds[rows], _cells(x[rows], radius, norm, valid))

    def split(rows: Tensor, radius: Tensor) -> Tensor:
        return _split(graph, x[rows], seeds[rows], ahead[rows], _cells(x[rows], radius, norm, valid))

    radius, limit = largest_held(lost, ahead, first * BEGIN[steps], STEPS[steps])
    if steps == "linear" and splittable(graph):
        unknown = torch.full_like(radius, math.inf)
        radius, limit = grown(split, ahead, (radius, limit), unknown if beyond is None else beyond, GROWING)
    return radius, limit % found.value.shape[1]


def _first(graph: Graph, x: Tensor, seeds: Tensor, ahead: Tensor, norm: P) -> Tensor:
    """Where the gradients at the samples use the margins up, (b,): floating values, a place to begin."""
    with torch.enable_grad():
        at = x.clone().requires_grad_()
        outputs = torch.einsum("bkm,bm->kb", seeds, graph.evaluate(at)).sum(dim=1)
        rows = torch.stack([torch.autograd.grad(g, at, retain_graph=True)[0] for g in outputs], dim=1)
    slope = torch.linalg.vector_norm(rows, float(DUAL[norm]), dim=2)
    ceiling = 16 * (1 + (x.abs().amax(dim=1) if x.shape[1] else x.new_zeros(len(x))))
    return torch.minimum((ahead.clamp(min=0.0) / slope).nan_to_num(math.inf, math.inf).amin(dim=1), ceiling)


def _cells(x: Tensor, radius: Tensor, norm: P, valid: Valid | None) -> Cells:
    ball = Cells(x, radius[:, None].expand_as(x).contiguous(), norm)
    if valid is None or norm != "inf":
        return ball
    low, high = ball.ends()
    return Cells.boxes(low.clamp(min=valid[0]), high.clamp(max=valid[1]))


def _backward(graph: Graph, x: Tensor, seeds: Tensor, cells: Cells) -> Tensor:
    """Upper values (b, k) of the drops, by backward linear bounds."""
    b, k, m = seeds.shape
    most = max(1, TOGETHER // max(1, x.shape[1] * max(node.size for node in graph.nodes)))
    parts = []
    for start in range(0, b, most):
        here = slice(start, start + most)
        some, rows = cells[here], seeds[here].reshape(-1, m)
        ranges, lines = linear_ranges(graph, some, WORK)
        home = torch.arange(len(some)).repeat_interleave(k)
        falls = upper_values(graph, some, _negative(rows), home, graph.output, ranges, lines)
        parts.append(falls.reshape(-1, k))
    return add_up(_at_the_samples(graph, x, seeds), torch.cat(parts))


def _split(graph: Graph, x: Tensor, seeds: Tensor, ahead: Tensor, cells: Cells) -> Tensor:
    """The same by branch and bound, as far as it takes to see that nothing is lost."""
    above = _at_the_samples(graph, x, seeds)
    each = 3 * EFFORT.steps * max(1, flops(graph))
    effort = replace(EFFORT, parts=int(min(EFFORT.parts, SPLITTING / each)))
    most = max(1, TOGETHER // max(1, x.shape[1] * max(node.size for node in graph.nodes)))
    parts = [
        split_values(graph, cells[here], -seeds[here], sub_down(ahead[here], above[here]), effort)
        for here in (slice(start, start + most) for start in range(0, len(x), most))
    ]
    return add_up(above, torch.cat(parts))


def _negative(rows: Tensor) -> Callable[[slice], Tensor]:
    return lambda part: -rows[part]


def _expanded(graph: Graph, x: Tensor, seeds: Tensor, cells: Cells) -> Tensor:
    """The same by expansions about the centres, ball by ball."""
    above = _at_the_samples(graph, x, seeds)
    drops = torch.full_like(above, math.inf)
    for s in range(len(x)):
        one = cells[s : s + 1]
        try:
            found = values(graph, one, propagated(graph, one.ends()), is_kink)
        except RefusedModel:
            continue
        drops[s] = sub_up(above[s], least(graph, found, seeds[s]))
    return drops


def _at_the_samples(graph: Graph, x: Tensor, seeds: Tensor) -> Tensor:
    """Upper values (b, k) of g(x)."""
    found = graph.enclose(Enclosure(x))
    each = [
        enclose_linear(Dense(seeds[s : s + 1]), Enclosure(found.centre[s : s + 1], found.reach()[s : s + 1]))
        for s in range(len(x))
    ]
    return torch.cat([one.upper for one in each]) if each else seeds.new_zeros(seeds.shape[:2])
