"""Gated activations that exporters spell out as products: x * sigmoid(a x), 0.5 x (1 + erf(k x)), x / (c + |x|) ...

For tightness only: an unrecognised product is still lowered, as a product of two signals. Coefficients are composed as
exact fractions, so what is recognised is the very function of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

from lipcert.activations.saturating import DEVICE
from lipcert.blocks.pointwise import Pointwise
from lipcert.network.graph import Add, Linear, Node, Nonlinear, Offset, What
from lipcert.operators.linear import Scale
from lipcert.rigor.arithmetic import folding
from lipcert.rigor.constants import Constant

ONE, ZERO = Fraction(1), Fraction(0)
LEAST, MOST = Fraction(1, 10**300), Fraction(10**300)  # of a factor: no underflow, no overflow


@dataclass(frozen=True)
class Link:
    """value = scale * act(inner) + shift, act an activation or None (then value = scale * node + shift)."""

    scale: Fraction
    shift: Fraction
    act: Pointwise | None
    node: int  # the node read: the activation's argument, or the root


def _uniform(values: torch.Tensor | None) -> Fraction | None:
    """The one value of a constant vector."""
    if values is None or values.numel() == 0 or not bool((values == values.reshape(-1)[0]).all()):
        return None
    return Fraction(float(values.reshape(-1)[0]))


def _factor(what: What) -> Fraction | None:
    """The one number by which a node scales its parent, where it is known exactly: c, or 1 / c of a division."""
    if not (isinstance(what, Linear) and isinstance(what.operator, Scale)):
        return None
    scale = what.operator
    if scale.radius is None:
        return _uniform(scale.factor)
    return None if scale.divisor is None else 1 / Fraction(scale.divisor)


def read(nodes: list[Node], i: int, root: int | None = None, *, activations: bool = True) -> Link:
    """Follow exact uniform scales and offsets from node i up to an activation (unless told not to),
    to `root`, or as far as they go. Offsets that cancel over the reals do not in a runtime: there each is itself."""
    scale, shift = ONE, ZERO
    while i != root:
        what = nodes[i].what
        if (factor := _factor(what)) is not None:
            scale *= factor
        elif isinstance(what, Offset) and nodes[i].parents and what.radius is None and folding() is None:
            step = _uniform(what.value)
            if step is None:
                break
            shift += scale * step
        elif activations and isinstance(what, Nonlinear) and isinstance(what.block, Pointwise):
            return Link(scale, shift, what.block, nodes[i].parents[0])
        else:
            break
        i = nodes[i].parents[0]
    return Link(scale, shift, None, i)


Known = tuple[int, str, dict[str, Any], Constant]  # root node, row, parameters, factor


def gated(nodes: list[Node], left: int, right: int) -> Known | None:
    """A row r with node(left) * node(right) = factor * r(root), or None."""
    for x, gate in ((left, right), (right, left)):
        link = read(nodes, gate)
        rule = None if link.act is None else RULES.get(link.act.label)
        if rule is None:
            continue
        for root, scale in _multiples(nodes, x):
            found = rule(nodes, root, link)
            if found is not None and LEAST < abs(scale * found[3]) < MOST:
                node, name, given, factor = found
                return node, name, given, exact_constant(scale * factor)
    return None


def _multiples(nodes: list[Node], i: int) -> Iterator[tuple[int, Fraction]]:
    """(r, scale) with node(i) = scale * node(r), nearest first."""
    scale = ONE
    while True:
        yield i, scale
        factor = _factor(nodes[i].what)
        if factor is None or factor == 0:
            return
        i, scale = nodes[i].parents[0], scale * factor


def is_direct(nodes: list[Node], i: int, root: int) -> bool:
    """Node i is the root, or one multiple of it: where an execution is asked for, what is left out of the graph must not
    round more often than what stands for it."""
    return i == root or (_factor(nodes[i].what) is not None and nodes[i].parents[0] == root)


def is_far_softplus(nodes: list[Node], gap: int, x: int, y: int) -> bool:
    """Whether y = s softplus(z) + t, x = s z + t, and gap > 0 exactly where beta z > c for some c >= 20: then the choice of
    x there is softplus as torch evaluates it, and as its exporters spell it (see the row)."""
    soft = read(nodes, y)
    if soft.act is None or soft.act.label != "softplus":
        return False
    beta, threshold = soft.act.activation.params
    if not (isinstance(beta, float) and isinstance(threshold, float) and beta > 0 and threshold >= DEVICE):
        return False
    root = read(nodes, soft.node, activations=False).node
    if folding() is not None and not is_direct(nodes, x, root):
        return False
    z, line, side = (read(nodes, i, root, activations=False) for i in (soft.node, x, gap))
    if line.node != root or side.node != root or side.scale * z.scale <= 0:
        return False
    corner = z.shift - z.scale * side.shift / side.scale
    return (
        line.scale == soft.scale * z.scale
        and line.shift == soft.scale * z.shift + soft.shift
        and Fraction(beta) * corner >= Fraction(DEVICE)
    )


def exact_constant(value: Fraction) -> Constant:
    rounded = float(value)
    error = abs(Fraction(rounded) - value)
    centre = torch.tensor(rounded, dtype=torch.float64)
    return Constant(centre, None if error == 0 else torch.tensor(abs(rounded) * 2.0**-52, dtype=torch.float64))


def _exact(value: Fraction) -> float | None:
    return float(value) if abs(value) < MOST and Fraction(float(value)) == value else None


def _inner(nodes: list[Node], root: int, link: Link) -> tuple[Fraction, Fraction] | None:
    """(k, b) with argument = k * root + b."""
    inside = read(nodes, link.node, root)
    if inside.act is not None or inside.node != root:
        return None
    return inside.scale, inside.shift


Found = tuple[int, str, dict[str, Any], Fraction]  # node the row reads, row, parameters, factor


def _sigmoid(nodes: list[Node], root: int, link: Link) -> Found | None:
    inner = _inner(nodes, root, link)
    if inner is None or inner[0] == 0 or inner[1] != 0 or link.shift != 0:
        return None
    k = _exact(inner[0])
    if k is None or k < 0:  # with z = k x: x sigmoid(z) = silu(z) / k
        return link.node, "silu", {"slope": 1.0}, link.scale / inner[0]
    return root, "silu", {"slope": k}, link.scale


def _erf(nodes: list[Node], root: int, link: Link) -> Found | None:
    inner = _inner(nodes, root, link)  # scale erf(k x) + shift with shift = scale: scale (1 + erf(k x))
    if inner is None or inner[0] == 0 or inner[1] != 0 or link.shift != link.scale:
        return None
    k = _exact(inner[0])
    if k is None or k < 0:  # with z = k x: x (1 + erf(z)) = z (1 + erf(z)) / k
        return link.node, "gelu_erf", {"k": 1.0, "c": 1.0}, 2 * link.scale / inner[0]
    return root, "gelu_erf", {"k": k, "c": 1.0}, 2 * link.scale


def _tanh(nodes: list[Node], root: int, link: Link) -> Found | None:
    inside = read(nodes, link.node, root)
    if inside.act is not None:  # tanh(softplus(x)) x
        plain = inside.act.label == "softplus" and (inside.scale, inside.shift) == (ONE, ZERO) and link.shift == 0
        smooth = plain and inside.act.activation.params == (1.0, 20.0)  # beta, and torch's default threshold
        return (root, "mish", {}, link.scale) if smooth and _inner(nodes, root, inside) == (ONE, ZERO) else None
    if link.shift != link.scale or inside.shift != 0 or not isinstance(nodes[inside.node].what, Add):
        return None
    parents = nodes[inside.node].parents  # 0.5 x (1 + tanh(k (x + c3 x^3)))
    terms = [read(nodes, parent, root) for parent in parents]
    linear = [t for t in terms if t.act is None and t.node == root and t.shift == 0]
    cubes = [t for t in terms if _is_cube(t, nodes, root) and t.shift == 0]
    if len(parents) != 2 or len(linear) != 1 or len(cubes) != 1:
        return None
    k, c3 = _exact(inside.scale * linear[0].scale), _exact(cubes[0].scale / linear[0].scale)
    return (
        None
        if k is None or c3 is None or k <= 0 or c3 < 0
        else (root, "gelu_tanh", {"k": k, "cubic": c3}, 2 * link.scale)
    )


def _square(nodes: list[Node], root: int, link: Link) -> Found | None:
    inner = _inner(nodes, root, link)  # x * (x * x), as exporters write the cube of tanh-GELU
    if inner is None or inner[1] != 0 or link.shift != 0:
        return None
    return root, "pow_int", {"exponent": 3.0}, link.scale * inner[0] ** 2


def _is_cube(link: Link, nodes: list[Node], root: int) -> bool:
    act = link.act
    return act is not None and act.label == "pow_int" and act.activation.params == (3.0,) and link.node == root


def _clipped(nodes: list[Node], root: int, link: Link) -> Found | None:
    """x * clip(x + s, 0, cap) = hardswish with its divisor taken as 1."""
    inner = _inner(nodes, root, link)
    act = link.act
    if inner is None or act is None or inner[0] != 1 or link.shift != 0:
        return None
    low, high = (0.0, 6.0) if act.label == "relu6" else act.activation.params
    if low != 0.0 or not 0 < float(high) < float("inf") or (shift := _exact(inner[1])) is None:
        return None
    return root, "hardswish", {"shift": shift, "cap": float(high), "divisor": 1.0}, link.scale


def _reciprocal(nodes: list[Node], root: int, link: Link) -> Found | None:
    inside = read(nodes, link.node, root)  # x / (c + |x|)
    if inside.act is None or inside.act.label != "abs" or link.shift != 0 or inside.scale != 1:
        return None
    if _inner(nodes, root, inside) not in ((ONE, ZERO), (-ONE, ZERO)) or (c := _exact(inside.shift)) is None or c <= 0:
        return None
    return root, "softsign", {"offset": c}, link.scale


RULES: dict[str, Callable[[list[Node], int, Link], Found | None]] = {
    "sigmoid": _sigmoid,
    "erf": _erf,
    "tanh": _tanh,
    "clamp": _clipped,
    "hardtanh": _clipped,
    "relu6": _clipped,
    "reciprocal": _reciprocal,
    "square": _square,
}
