"""Sums over groups of entries, as a graph spells them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from lipcert.activations.jets import Uniform
from lipcert.load.lower.rewrite import operator, uniform
from lipcert.network.graph import Node
from lipcert.operators.linear import Dense, Scale, Select

MOST = 2**26  # entries of a table of windows


@dataclass(frozen=True)
class Grouped:
    """A node whose entry g is a product of factors times the sum of `base` over the entries table[g], -1 for none."""

    base: int
    table: Tensor  # int64 (count, n)
    factors: tuple[Uniform, ...]

    @property
    def n(self) -> int:
        return self.table.shape[1]

    @property
    def count(self) -> int:
        return self.table.shape[0]

    @property
    def exact(self) -> Fraction | None:
        total = Fraction(1)
        for factor in self.factors:
            if factor.exact is None:
                return None
            total *= factor.exact
        return total

    def groups(self, size: int) -> Tensor | None:
        """The group of each entry, where every entry is in exactly one, once."""
        flat = self.table.reshape(-1)
        if flat.numel() != size or bool((flat < 0).any()) or torch.unique(flat).numel() != size:
            return None
        found = torch.empty_like(flat)
        found[flat] = torch.arange(size) // self.n
        return found


def factor_of(scale: Scale) -> Uniform | None:
    """The one number by which it multiplies."""
    if scale.divisor is not None:
        return Uniform.of(1 / Fraction(scale.divisor))
    return _number(scale.factor, scale.radius)


def _number(values: Tensor, radius: Tensor | None) -> Uniform | None:
    values, radius = values.reshape(-1), None if radius is None else radius.reshape(-1)
    if not (uniform(values) and uniform(radius)):
        return None
    value = float(values[0])
    if radius is None:
        return Uniform.of(Fraction(value))
    r = float(radius[0])
    return Uniform(math.nextafter(value - r, -math.inf), math.nextafter(value + r, math.inf))


def grouped(nodes: list[Node], i: int) -> Grouped:
    """Follow sums over axes and windows, selections and uniform scales upwards from node i."""
    chain: list[Node] = []
    while True:
        found = operator(nodes[i])
        if isinstance(found, Scale):
            ok = factor_of(found) is not None
        else:
            ok = isinstance(found, Select) or (isinstance(found, Dense) and _sums(found))
        if not ok:
            break
        chain.append(nodes[i])
        i = nodes[i].parents[0]
    table, factors = torch.arange(nodes[i].size)[:, None], []
    for node in reversed(chain):
        found = operator(node)
        if isinstance(found, Scale):
            factors.append(factor_of(found))
        elif isinstance(found, Select):
            table = _rows(table, found.index)
        else:
            windows = _windows(found)
            if windows.numel() * table.shape[1] > MOST:
                return Grouped(i, torch.arange(nodes[i].size)[:, None], ())
            table = _rows(table, windows.reshape(-1)).reshape(windows.shape[0], -1)
            kept = found.weight != 0
            factors.append(_number(found.weight[kept], None if found.radius is None else found.radius[kept]))
    return Grouped(i, table, tuple(f for f in factors if f is not None and f.exact != 1))


def _rows(table: Tensor, index: Tensor) -> Tensor:
    return torch.where(index[:, None] >= 0, table[index.clamp(min=0)], -1)


def _sums(dense: Dense) -> bool:
    """The weights are 0 and one positive number: sums or means over an axis or over windows along it."""
    kept = dense.weight != 0
    if dense.weight.shape[0] != 1 or not bool((dense.weight[kept] > 0).all()) or not bool(kept.any()):
        return False
    if dense.radius is not None and bool((dense.radius[~kept] != 0).any()):
        return False
    return _number(dense.weight[kept], None if dense.radius is None else dense.radius[kept]) is not None


def _windows(dense: Dense) -> Tensor:
    """(out_size, most) entries that each output sums, -1 for none."""
    _, m, n = dense.weight.shape
    kept = dense.weight[0] != 0
    most = int(kept.sum(dim=1).max())
    places = torch.where(kept, torch.arange(n), n).sort(dim=1).values[:, :most]  # (m, most), n for none
    outer, inner = torch.arange(dense.outer)[:, None, None, None], torch.arange(dense.inner)[None, None, :, None]
    found = torch.where(places < n, places, -1)[None, :, None, :]
    table = torch.where(found >= 0, (outer * n + found) * dense.inner + inner, -1)
    return table.reshape(dense.outer * m * dense.inner, most)
