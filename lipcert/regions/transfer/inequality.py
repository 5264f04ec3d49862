"""The norm of all Jacobians by one matrix inequality (MATH section 10, B).

For the signals of a direction v, out = N_0 (v; y) and w_t = N_t (v; y), where ||y_{t,g}|| <= ||w_{t,g}|| for each group g. With
multipliers s_g^2 on rows, c_g^-2 on columns, s_g c_g >= 1, and d_j on the input,

    || diag(1, s) N diag(d^-1/2, c) ||_2 <= 1

gives ||out||^2 + sum_g s_g^2 ||w_g||^2 <= v' diag(d) v + sum_g c_g^-2 ||y_g||^2 <= v' diag(d) v + sum_g s_g^2 ||w_g||^2, so that
||out||^2 <= sum_j d_j v_j^2: at most max d for ||v||_2 <= 1 (and ||v||_1 <= 1), sum d for ||v||_inf <= 1. It is the S-procedure of
LipSDP for blocks of bounded norm (Fazlyab et al. 2019; Doyle 1982, the structured singular value). `multipliers` proposes s, c, d;
only this file decides.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.regions.transfer.deviations import Spread, X
from lipcert.regions.transfer.recursion import Recursion
from lipcert.rigor.matrix_norms import is_contraction
from lipcert.rigor.rounding import EPS, div_up, norm_up, up


@dataclass(frozen=True, eq=False)
class Inequality:
    """N: `centre`, `radius` (rows, n + columns), rows (out; w_1; w_2; ..), columns (x; y_1; y_2; ..). Groups of rows and columns
    are numbered from 1; 0 stands for the outputs, and for the input. `start` (groups + 1,): logarithms of multipliers."""

    centre: Tensor
    radius: Tensor
    outputs: int
    inputs: int
    row_group: Tensor
    column_group: Tensor
    start: Tensor
    depth: Tensor  # (groups + 1,), from 1 at the output end upward

    def of_output(self, index: int) -> Inequality:
        """The same with one output."""
        rows = torch.cat([torch.tensor([index]), torch.arange(self.outputs, len(self.centre))])
        found = self.centre[rows], self.radius[rows], 1, self.inputs, self.row_group[rows], self.column_group
        return Inequality(*found, self.start, self.depth)


def inequality(found: Spread, known: Recursion) -> Inequality | None:
    """None: there are no terms, or their recursion has no finite value."""
    weights = known.weights()
    terms = [t for t in found.terms if known.reached[t.key] > 0 and weights[t.key] > 0]
    if not terms or not all(
        map(torch.isfinite, torch.tensor([known.value, *weights.values(), *known.reached.values()]))
    ):
        return None
    outputs = next(iter(found.output.values())).centre.shape[1]
    columns: dict[Hashable, int] = {X: len(found.moving)} | {t.key: t.term.outer.centre.shape[0] for t in terms}
    first = dict(zip(columns, torch.tensor([0, *columns.values()]).cumsum(0).tolist(), strict=False))
    heights = [outputs, *(len(t.term.inner_group) for t in terms)]
    centre, radius = (torch.zeros(sum(heights), sum(columns.values()), dtype=torch.float64) for _ in range(2))
    top = 0
    for rows, height in zip([found.output, *(t.rows for t in terms)], heights, strict=True):
        for key, known_rows in rows.items():
            if key in columns:
                place = slice(top, top + height), slice(first[key], first[key] + columns[key])
                centre[place], radius[place] = known_rows.centre.mT, known_rows.reach().mT
        top += height
    row_group, column_group, start, depth = [torch.zeros(outputs)], [torch.zeros(columns[X])], [0.0], [0.0]
    for number, t in enumerate(terms):
        row_group.append(t.term.inner_group + len(start))
        column_group.append(t.term.outer_group + len(start))
        value = torch.log(torch.tensor(known.value * weights[t.key] / known.reached[t.key], dtype=torch.float64))
        start += [float(value)] * t.term.groups
        depth += [float(len(terms) - number)] * t.term.groups
    groups = torch.cat(row_group).long(), torch.cat(column_group).long()
    logarithms = (torch.tensor(side, dtype=torch.float64) for side in (start, depth))
    return Inequality(centre, radius, outputs, columns[X], *groups, *logarithms)


def proved(question: Inequality, multipliers: Tensor, d: Tensor, boxed: bool) -> float:
    """Upper value of the constant if the inequality holds, else inf. `multipliers` (groups + 1,) and d (n,): positive floats, any;
    `boxed`: ||v||_inf <= 1."""
    c = 1 / multipliers.sqrt()
    s = div_up(torch.ones_like(c), c)
    s[0] = 1.0
    by_row = s[question.row_group]
    of_input = 1 / d.sqrt()
    by_column = torch.cat([of_input, c[question.column_group[question.inputs :]]])
    centre = question.centre * by_row[:, None] * by_column
    radius = up(question.radius * by_row[:, None] * by_column * (1 + 8 * EPS) + 4 * EPS * centre.abs()) + 1e-300
    if not is_contraction(centre, radius):
        return torch.inf
    root = div_up(torch.ones_like(of_input), of_input)  # >= d^1/2 as it was used
    return float(norm_up(root, "2")) if boxed else float(root.max())
