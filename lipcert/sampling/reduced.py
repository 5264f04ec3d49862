"""The network on one small box: neurons whose slope is one number there are merged into the affine parts.

On a cell of a grid a piecewise linear network has a handful of neurons at work: the slope sweep proves for the others on
which side of their corner they stay. With u the outputs of the unsettled neurons so far, every signal is affine in
(x, 1, u), so a chain of layers becomes

    u_l = act(A_l (x, 1, u_1 .. u_{l-1})),    f(x) = A (x, 1, u_1 .. u_L),

the same function on the cell, for a few rows instead of hundreds. Floating values, as in forward.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.activations.corner import Corner
from lipcert.network.graph import Graph
from lipcert.regions.cells import Cells
from lipcert.regions.forward.slope import rows_per_chunk, sweep
from lipcert.sampling.forward import Stage, activate, chain

FEWEST = 128  # pairs in a cell from which preparing it pays
ENTRIES = 2**22  # of the affine maps of all cells at once
INPUTS = 8
GAIN = 2  # that many times fewer products, or the whole network is run


@dataclass(frozen=True, eq=False)
class Reduced:
    """u_l = act(weight (x, 1, u_1 .. u_{l-1})) for the stages but the last, which gives the output."""

    stages: Sequence[Stage]

    def run(self, x: Tensor, out: Tensor, memory: Tensor) -> None:
        """x (n + 1, k) with ones in the last row -> out (m, k). `memory`: (`rows`, k) at least, written over."""
        *inner, last = self.stages
        at = x.shape[0]
        memory[:at] = x
        for stage in inner:
            u = memory[at : at + stage.weight.shape[0]]
            torch.mm(stage.weight, memory[:at], out=u)
            assert stage.activation is not None
            activate(stage.activation, u)
            at += u.shape[0]
        out.copy_(last.weight @ memory[:at])

    @property
    def rows(self) -> int:
        """n + 1 and the unsettled neurons."""
        return self.stages[-1].weight.shape[1]

    @property
    def products(self) -> int:
        return sum(stage.weight.numel() for stage in self.stages)


def reducible(graph: Graph) -> list[Stage] | None:
    """The stages of a chain with few inputs, whose activations have one corner each; None for other networks. Boxes of
    many inputs are large for most neurons, and their sweeps take a row per input."""
    stages = chain(graph) if graph.nodes[graph.input].size <= INPUTS else None
    acts = [stage.activation for stage in stages or [] if stage.activation is not None]
    return stages if acts and all(isinstance(act.row.slopes_on, Corner) for act in acts) else None


def reduced(graph: Graph, stages: Sequence[Stage], lower: Tensor, upper: Tensor) -> list[Reduced | None]:
    """One for each box [lower, upper] (b, n), float64; None where it would not be much smaller. `stages`: what
    `reducible` found."""
    cells, found = Cells.boxes(lower, upper), []
    widest = max(stage.weight.shape[0] for stage in stages)
    rows = min(rows_per_chunk(graph, 1, lower.device), max(1, ENTRIES // (widest * (2 * lower.shape[1] + 64))))
    for part in cells.chunks(rows):
        found += _reduced(graph, stages, part)
    return found


def _reduced(graph: Graph, stages: Sequence[Stage], cells: Cells) -> list[Reduced | None]:
    b, n = cells.centre.shape
    settled = sweep(graph, cells, torch.ones(b, 1, n, dtype=torch.float64)).slopes
    slopes = iter([settled[i] for i in graph.nonlinear])
    signal = torch.eye(n, n + 1, dtype=torch.float64).expand(b, n, n + 1)  # rows affine in (x, 1, u)
    used = torch.full((b,), n + 1)
    kept: list[list[Stage]] = [[] for _ in range(b)]
    for stage in stages:
        signal = stage.weight[:, :-1] @ signal
        signal[:, :, n] += stage.weight[:, -1]
        if stage.activation is None:
            continue
        low, high = next(slopes)
        cell, neuron = (low != high).nonzero().unbind(dim=1)
        counts = torch.bincount(cell, minlength=b)
        first = (counts.cumsum(0) - counts)[cell]
        place = used[cell] + torch.arange(len(cell)) - first  # the column of its own that each neuron gets
        for k, weight in enumerate(signal[cell, neuron].split(counts.tolist())):
            if len(weight):
                kept[k].append(Stage(weight[:, : int(used[k])].contiguous(), stage.activation))
        used += counts
        wider = int(used.max()) - signal.shape[2]
        signal = torch.nn.functional.pad(signal * low[:, :, None], (0, max(0, wider)))
        signal[cell, neuron] = torch.nn.functional.one_hot(place, signal.shape[2]).double()
    whole = sum(stage.weight.numel() for stage in stages)
    for k in range(b):
        kept[k].append(Stage(signal[k, :, : int(used[k])].contiguous(), None))
    cases = [Reduced(list(some)) for some in kept]
    return [case if GAIN * case.products < whole else None for case in cases]


def cast(case: Reduced | None, dtype: torch.dtype) -> Reduced | None:
    return case and Reduced([Stage(stage.weight.to(dtype), stage.activation) for stage in case.stages])
