"""Deviations as rows: what each source adds to a signal, through exact matrices (MATH section 10).

A signal u is known as u(x) = a + sum_k T_k xi_k(x), the sources xi_k being the input's deviation x - c and what each
nonlinear block adds to its linearisation. `Rows` holds the transposes, (rows, size) with an entrywise radius each: row j
of source k is what a unit of its entry j does to the signal. Affine nodes act on all rows alike, so no interval ever
passes a weight matrix; the rounding of this very computation is in the radii.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

import torch
from torch import Tensor

from lipcert.network.graph import Add, Concat, Linear, Offset, enclose_linear, enclose_sum
from lipcert.network.graph import Enclosure as Known
from lipcert.network.walk import Rules, Visit
from lipcert.operators.linear import Operator
from lipcert.rigor.rounding import EPS, up
from lipcert.terms.errors import RefusedModel

Rows = dict[Hashable, Known]
CENTRE = "centre"  # the one row that Offsets move: a floating centre, and how far the true one may be from it
ENTRIES = 120_000_000  # of all rows over one signal: 1 GB, and its radius as much again


def through(operator: Operator, rows: Mapping[Hashable, Known]) -> Rows:
    """A u for all rows at once. Raises RefusedModel where they would not fit into memory."""
    counts = [known.centre.shape[0] for known in rows.values()]
    if sum(counts) * max(operator.in_size, operator.out_size) > ENTRIES:
        raise RefusedModel(f"{sum(counts)} deviations of {operator.out_size} entries do not fit into memory")
    centre = torch.cat([known.centre for known in rows.values()])
    radius = None
    if any(known.radius is not None for known in rows.values()):
        radius = torch.cat([known.reach() for known in rows.values()])
    image = enclose_linear(operator, Known(centre, radius))
    parts = image.centre.split(counts)
    radii = [None] * len(counts) if image.radius is None else image.radius.split(counts)
    return {key: Known(c, r) for key, c, r in zip(rows, parts, radii, strict=True)}


def added(*signals: Rows | None) -> Rows:
    """The sum of signals; None is the zero signal."""
    given = [rows for rows in signals if rows is not None]
    keys = dict.fromkeys(key for rows in given for key in rows)
    return {key: enclose_sum(*(rows[key] for rows in given if key in rows)) for key in keys}


def _concat(at: Visit, *signals: Rows | None) -> Rows:
    sizes = [at.graph.nodes[parent].size for parent in at.node.parents]
    counts = {key: known.centre.shape[0] for rows in signals if rows is not None for key, known in rows.items()}

    def joined(side: Callable[[Known], Tensor], key: Hashable) -> Tensor:
        return torch.cat(
            [
                side(rows[key]) if rows is not None and key in rows else torch.zeros(counts[key], size).double()
                for rows, size in zip(signals, sizes, strict=True)
            ],
            dim=1,
        )

    return {key: Known(joined(lambda k: k.centre, key), joined(lambda k: k.reach(), key)) for key in counts}


def _offset(at: Visit, *signals: Rows | None) -> Rows | None:
    """A constant moves the centre, and no deviation."""
    value, slack = at.what.value[None], at.what.radius
    reach = torch.zeros_like(value) if slack is None else slack[None]
    if not signals or signals[0] is None:
        return {CENTRE: Known(value, reach)}
    rows = dict(signals[0])
    if CENTRE in rows:
        moved = rows[CENTRE].centre + value
        rows[CENTRE] = Known(moved, up((rows[CENTRE].reach() + reach + EPS * moved.abs()) * (1 + 8 * EPS)))
    return rows


VALUED: Rules = {  # rows with a centre
    Linear: lambda at, rows: through(at.what.operator, rows),
    Add: lambda at, *signals: added(*signals),
    Concat: _concat,
    Offset: _offset,
}
LINEAR: Rules = VALUED | {Offset: lambda at, *signals: signals[0] if signals else None}  # without
