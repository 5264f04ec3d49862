"""Every linear piece of a network on a box: nothing is pruned, and each cell that the search is done with is written down.

The pieces cover the box, and so do they together with the cells that are still open when the time is over. On a piece the
network is affine, with a Jacobian known up to its error; few cells, flat as far as floats tell, have an upper value alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lipcert.network.graph import Graph
from lipcert.regions.cells import Cells
from lipcert.regions.enumeration.constant import reads
from lipcert.regions.enumeration.net import HEAD
from lipcert.regions.enumeration.program import Program
from lipcert.regions.enumeration.tree import Cell, Outcome, Tree
from lipcert.terms.query import Norm

MOST = 200_000  # pieces


@dataclass(frozen=True, eq=False)
class Piece:
    """In t: the proved box (2, n), rows of the outputs (m, n + 2) as n slopes, constant and error, vertices (k, n), and facets
    (j, n + 2): n.t + c >= -error holds on the piece. `upper`: of the norm. `affine`: the rows say what the network is."""

    upper: float
    affine: bool
    box: np.ndarray
    outputs: np.ndarray
    corners: np.ndarray
    facets: np.ndarray


@dataclass(frozen=True, eq=False)
class Pieces:
    """`left`: cells that are not cut further, for the time was over; of them nothing is known but `upper`."""

    program: Program
    norm: Norm
    found: list[Piece]
    left: list[Piece]

    @property
    def all(self) -> list[Piece]:
        return [*self.found, *self.left]

    def __getstate__(self) -> dict[str, Any]:
        """Sent to workers as one array of numbers: a hundred thousand small arrays take as long as finding them."""
        parts = [part for piece in self.found for part in (piece.box, piece.outputs, piece.corners, piece.facets)]
        heads = [(p.upper, p.affine, *(len(a) for a in (p.box, p.outputs, p.corners, p.facets))) for p in self.found]
        widths = [part.shape[1] for part in parts[:4]]
        numbers = np.concatenate([part.ravel() for part in parts]) if parts else np.zeros(0)
        return {**vars(self), "found": (np.array(heads), widths, numbers)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        heads, widths, numbers = state["found"]
        found, start = [], 0
        for upper, affine, *lengths in heads.tolist():
            arrays = []
            for length, width in zip(lengths, widths, strict=True):
                end = start + int(length) * width
                arrays.append(numbers[start:end].reshape(-1, width))
                start = end
            found.append(Piece(upper, bool(affine), *arrays))
        vars(self).update({**state, "found": found})

    def points(self, t: np.ndarray) -> np.ndarray:
        """(k, n) of the coordinates that move."""
        return self.program.centre + self.program.scale * t

    def slopes(self, piece: Piece) -> np.ndarray:
        """The Jacobian (m, n), floating."""
        return piece.outputs[:, :-2] / self.program.scale


class Everything(Tree):
    keeps = True

    def _take(self, outcome: Outcome) -> None:
        self.pieces.extend(_records(outcome.pieces, self.net.n, self.outputs))
        super()._take(outcome)

    def _order(self, cell: Cell) -> float:
        """The deepest first: little waits."""
        return -float(cell.layer)

    def _enough(self) -> np.ndarray:
        return np.full(len(self.closed), -1.0)

    @property
    def outputs(self) -> int:
        return int(self.program.layers[-1].size)

    @property
    def pieces(self) -> list[Piece]:
        return self.__dict__.setdefault("kept", [])


def pieces(
    graph: Graph,
    cells: Cells,
    norm: Norm,
    deadline: float | None,
    *,
    most: int = MOST,
    report: Callable[[int], None] | None = None,
) -> Pieces:
    """All of the one box in `cells`, unless the deadline comes first, or there are more than `most`. Raises RefusedModel as
    `reads` does."""
    made = reads(graph, cells)
    tree = Everything(made, [0, made.layers[-1].size], norm, 0.0, threads=torch.get_num_threads())

    def tell(upper: np.ndarray, best: np.ndarray) -> None:
        if report is not None:
            report(len(tree.pieces))

    tree.run(deadline, tell, stop=lambda: len(tree.pieces) > most)
    nothing = np.zeros((tree.outputs, tree.net.n + 2))
    left = [
        Piece(float(cell.u[0]), False, cell.box, nothing, cell.x, cell.facets[:, : tree.net.n + 2])
        for _, _, cell in tree.heap
    ]
    return Pieces(made, norm, tree.pieces, left)


def _records(numbers: np.ndarray, n: int, outputs: int) -> list[Piece]:
    """As `search.keep_piece` wrote them."""
    found, start = [], 0
    while start < len(numbers):
        size, affine, corners, facets = (int(v) for v in numbers[start : start + HEAD - 1])
        shapes = ((2, n), (outputs, n + 2), (corners, n), (facets, n + 2))
        ends = np.cumsum([start + HEAD, *(a * b for a, b in shapes)])
        parts = [numbers[a:b].reshape(shape) for a, b, shape in zip(ends[:-1], ends[1:], shapes, strict=True)]
        found.append(Piece(float(numbers[start + HEAD - 1]), bool(affine), *parts))
        start += size
    return found
