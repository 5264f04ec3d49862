"""Sweeps of several functionals of one network in step: their networks differ in the last row alone.

P problems of r coupled samples are one network on P r samples, of which norms are taken problem by problem: calls, which are most
of the time of hundreds of neurons, are shared. What comes out is where the search of each (solve.py) begins; nothing here
is proved.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.proofs.normal_form import Layer, NormalForm
from lipcert.sdp.sweep import LEAST, MEMORY, RIDGE, Dual, State
from lipcert.terms.clock import halfway

SWEEPS = 250
ENTRIES = 2**17  # of the states swept at once: with what the acceleration keeps, 16 MiB


@dataclass
class DualInStep(Dual):
    """`rows`: those of each problem. `functionals` (P, m): of the outputs, one problem each. Norms are (P, count)."""

    functionals: Tensor = field(default_factory=lambda: torch.zeros(0, 0))

    def start(self) -> State:
        return self.unit(self.state(self.drawn(len(self.functionals), self.rows * sum(self.sizes))))

    def state(self, flat: Tensor) -> State:
        parts = flat.split([self.rows * n for n in self.sizes], dim=1)
        y0, *u = (part.reshape(-1, n) for part, n in zip(parts, self.sizes, strict=True))
        return State(flat, y0, u)

    def joined(self, y0: Tensor, u: Sequence[Tensor]) -> State:
        P = len(self.functionals)
        return State(torch.cat([part.reshape(P, -1) for part in (y0, *u)], dim=1), y0, list(u))

    def lengths(self, layer: Layer, t: Tensor, weights: Tensor | None = None) -> Tensor:
        t = t.view(len(self.functionals), -1, layer.size)
        norms = torch.linalg.vecdot(t, t, dim=1).sqrt_()
        if weights is not None:
            norms = norms * weights
        if layer.count == layer.size:
            return norms
        return norms.new_zeros(len(norms), layer.count).index_add_(1, layer.groups, norms.square()).sqrt()

    def along(self, layer: Layer, values: Tensor) -> Tensor:
        values = values if layer.count == layer.size else values[:, layer.groups]
        return values.repeat_interleave(self.rows, dim=0)

    def input_size(self, y0: Tensor) -> Tensor:
        sizes = torch.linalg.vector_norm(y0.reshape(len(self.functionals), -1), dim=1)
        return sizes.repeat_interleave(self.rows)[:, None]

    def output_value(self, out: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(P,): |Y_out c|^2 of each functional c, and half the gradient."""
        P, m = self.functionals.shape
        y = torch.bmm(out.view(P, -1, m), self.functionals[:, :, None])
        return y.square().sum(dim=(1, 2)), (y @ self.functionals[:, None]).reshape(-1, m)

    def keep(self, which: Tensor) -> None:
        self.functionals = self.functionals[which]


class AndersonEach:
    """`Anderson` (sweep.py) of points (P, D), each by itself."""

    def __init__(self, points: Tensor):
        P, D = points.shape
        self.moves, self.steps = points.new_zeros(P, MEMORY, D), points.new_zeros(P, MEMORY, D)
        self.gram = points.new_zeros(P, MEMORY, MEMORY)
        self.last: tuple[Tensor, Tensor] | None = None
        self.fresh = torch.ones(P, dtype=torch.bool)
        self.count = 0

    def next(self, point: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """(the next points, |T(x) - x| / |x| (P,))."""
        residual = image - point
        size = residual.norm(dim=1) / point.norm(dim=1).clamp(min=LEAST[point.dtype])
        if self.last is not None:
            row = self.count % MEMORY
            self.count += 1
            torch.sub(image, self.last[0], out=self.moves[:, row])
            torch.sub(residual, self.last[1], out=self.steps[:, row])
            if bool(self.fresh.any()):
                self.moves[self.fresh, row] = self.steps[self.fresh, row] = 0.0
        both = torch.stack([self.steps[:, (self.count - 1) % MEMORY], residual], dim=2)
        products = torch.bmm(self.steps, both)  # with the newest step, and with the residual
        if self.last is not None:
            self.gram[:, row] = self.gram[:, :, row] = products[:, :, 0]
        self.last, self.fresh = (image, residual), torch.zeros_like(self.fresh)
        diagonal = self.gram.diagonal(dim1=1, dim2=2)
        ridge = RIDGE[point.dtype] * diagonal.sum(dim=1)
        ridge = torch.where(ridge > 0, ridge, 1.0)  # no differences: their weights are 0
        weights, failed = torch.linalg.solve_ex(
            self.gram + torch.diag_embed(ridge[:, None].expand(-1, MEMORY)), products[:, :, 1]
        )
        weights = weights.masked_fill(failed[:, None] != 0, 0.0)
        return image - torch.bmm(weights[:, None], self.moves)[:, 0], size

    def forget(self, which: Tensor) -> None:
        for part in (self.moves, self.steps, self.gram):
            part[which] = 0.0
        self.fresh[which] = True

    def keep(self, which: Tensor) -> None:
        self.moves, self.steps, self.gram, self.fresh = (
            part[which] for part in (self.moves, self.steps, self.gram, self.fresh)
        )
        if self.last is not None:
            self.last = self.last[0][which], self.last[1][which]


def begun(
    form: NormalForm, functionals: Tensor, rows: int, aim: float, seed: int, deadline: float | None
) -> list[Tensor | None]:
    """States of `rows` samples, flat, one for each of the functionals (P, m) of the outputs of `form`, from which a sweep moves by
    `aim` of their size or little more. None: its value is 0, or no float. They take half of the time until `deadline` at most."""
    end = halfway(deadline)
    each = rows * sum([form.graph.nodes[form.graph.input].size, *(layer.size for layer in form.layers)])
    found: list[Tensor | None] = []
    for some in functionals.split(max(1, ENTRIES // max(1, each))):
        dual = DualInStep(form, rows, seed, functionals=some)
        found += _begun(dual, aim, end)
    return found


def _begun(dual: DualInStep, aim: float, end: float | None) -> list[Tensor | None]:
    state = dual.start()
    found: list[Tensor | None] = [None] * len(dual.functionals)
    at = torch.arange(len(found), device="cpu")  # which of them are still swept
    anderson, value = AndersonEach(state.flat), state.flat.new_zeros(len(found))
    plain, accelerated = state.flat, torch.zeros(len(found), dtype=torch.bool)
    for _ in range(SWEEPS):
        if end is not None and time.monotonic() > end:
            break
        swept = dual.sweep(state)
        image, now = swept.after.flat, torch.as_tensor(swept.value, dtype=value.dtype).expand(len(at)).clone()
        lost = accelerated & (now < value * (1 - 1e-13))  # the accelerated step lost ground: take the plain one
        towards, residual = anderson.next(state.flat, image)
        if bool(lost.any()):
            anderson.forget(lost)
            towards[lost], image[lost], now[lost] = plain[lost], plain[lost], value[lost]
        state = dual.unit(dual.state(towards))
        value, accelerated, plain = now, ~lost, image
        dead = ~(torch.isfinite(now) & (now > 0))
        settled = dead | (~lost & (residual <= aim))
        for k in settled.cpu().nonzero()[:, 0].tolist():
            found[int(at[k])] = None if bool(dead[k]) else image[k].clone()
        if bool(settled.any()):
            left = (~settled).nonzero()[:, 0]
            if not len(left):
                return found
            dual.keep(left)
            anderson.keep(left)
            at, value, accelerated, plain = at[left.cpu()], value[left], accelerated[left], plain[left]
            state = dual.state(state.flat[left])
    for k, flat in zip(at.tolist(), state.flat, strict=True):
        found[k] = flat.clone()
    return found
