"""A `Program` as flat arrays, and the memory of a search."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from lipcert.regions.enumeration.net import (
    FACETS,
    FIRST,
    FRAMES,
    FREE,
    HEAD,
    NORMS,
    OFF,
    POOL,
    RADIUS,
    ROOM,
    START,
    VERTICES,
    WIDE,
    Memory,
    Net,
    Stack,
)
from lipcert.regions.enumeration.program import HingeLayer, Program
from lipcert.regions.enumeration.sizes import EXACTLY
from lipcert.rigor.rounding import EPS

# Errors are multiplied by no less than this, lest they underflow: an error of exactly 0 says that nothing moves. Those of
# hinges are at least LOST, those of t a rounding of 1.
FAINT, FAINT_AT_INPUT = 2.0**-100, 2.0**-1000


def flat(program: Program, rows: list[int], p: str, q: str, ball: tuple[float, str] | None, asks: int = NORMS) -> Net:
    """`rows`: question i is about the outputs rows[i] .. rows[i + 1]."""
    n, layers = len(program.radius), program.layers
    off = np.cumsum([0, *(layer.size for layer in layers)])
    inexact = any(e is not None for layer in layers for _, _, e in layer.blocks)
    columns, weights, errors, faint, (start, first, wide) = _blocks(layers, n, off, inexact)
    twins = [_twins(layer) for layer in layers]
    longest = max(b - a for a, b in itertools.pairwise(start)) + n + 16
    code = {"1": 1, "2": 2, "inf": 0}

    def joined(parts: list[np.ndarray], kind: type = np.float64) -> np.ndarray:
        return np.ascontiguousarray(np.concatenate([np.zeros(0), *parts]), dtype=kind)

    weight = joined(weights)
    wrong = joined(errors) if inexact else np.zeros_like(weight)
    size = np.where((weight != 0) | (wrong != 0), np.maximum(np.abs(weight), joined(faint)), 0.0)
    rows_of_hinges = [
        [layer.bias for layer in layers],
        [layer.bias_error for layer in layers],
        [layer.left for layer in layers],
        [layer.right for layer in layers],
        [twin for twin, _ in twins],
        [turned for _, turned in twins],
    ]
    shape = np.zeros((4, len(layers) + 1), dtype=np.int64)
    shape[OFF], shape[START], shape[FIRST], shape[WIDE, :-1] = off, start, first, wide
    return Net(
        n,
        len(layers) - 1,
        code[p],
        code[q],
        0 if ball is None else code[ball[1]],
        np.inf if ball is None else ball[0],
        longest * EPS * 1.01,
        inexact,
        asks,
        False,
        FREE,
        shape,
        joined(columns, np.int64),
        np.stack([weight, size, wrong]),
        np.stack([joined(parts) for parts in rows_of_hinges]),
        np.stack([program.radius, 1.0 / program.scale]),
        np.array(rows, dtype=np.int64),
    )


Parts = list[np.ndarray]


def _blocks(
    layers: Sequence[HingeLayer], n: int, off: np.ndarray, inexact: bool
) -> tuple[Parts, Parts, Parts, Parts, tuple[list[int], list[int], list[int]]]:
    """Columns, weights, their errors and least sizes of all blocks, and by layer where they start and how wide their rows are."""
    columns: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    errors: list[np.ndarray] = []
    faint: list[np.ndarray] = []
    start, first, wide = [0], [0], []
    for layer in layers:
        width = -(-layer.size // 4) * 4
        for source, matrix, error in layer.blocks:
            begin = 0 if source < 0 else n + off[source]
            columns.append(np.arange(begin, begin + matrix.shape[1]))
            padded = np.zeros((matrix.shape[1], width))
            padded[:, : layer.size] = matrix.T
            weights.append(padded.ravel())
            faint.append(np.full(padded.size, FAINT_AT_INPUT if source < 0 else FAINT))
            if inexact:
                padded = np.zeros((matrix.shape[1], width))
                if error is not None:
                    padded[:, : layer.size] = error.T
                errors.append(padded.ravel())
        start.append(sum(len(c) for c in columns))
        first.append(sum(len(w) for w in weights))
        wide.append(width)
    return columns, weights, errors, faint, (start, first, wide)


def _twins(layer: HingeLayer) -> tuple[np.ndarray, np.ndarray]:
    """Hinges whose exact rows are multiples of an earlier row of the layer: one sign decides both."""
    twin, turned = np.full(layer.size, -1), np.ones(layer.size)
    if layer.plain_bias is None or any(error is not None for _, _, error in layer.blocks):
        return twin, turned
    parts = [matrix for source, matrix, _ in layer.blocks if source >= 0]
    if layer.front is not None:  # on x, inputs that stay fixed included: nothing is rounded
        parts.append(layer.front)
    rows = np.concatenate([*parts, layer.plain_bias[:, None]], axis=1)
    seen: dict[bytes, list[int]] = {}
    for k in np.flatnonzero((rows != 0).any(axis=1)):
        lead = rows[k, np.flatnonzero(rows[k])[0]]
        with np.errstate(all="ignore"):
            key = (np.round(rows[k] / lead, 9) + 0.0).tobytes()  # near misses are compared exactly
        for first in seen.setdefault(key, []):
            if _proportional(rows[k], rows[first]):
                other = rows[first, np.flatnonzero(rows[first])[0]]
                twin[k], turned[k] = first, np.sign(lead) * np.sign(other)
                break
        else:
            seen[key].append(int(k))
    return twin, turned


def _proportional(a: np.ndarray, b: np.ndarray) -> bool:
    if np.any((a == 0) != (b == 0)):
        return False
    places = np.flatnonzero(a)
    ratio = Fraction(a[places[0]]) / Fraction(b[places[0]])
    return all(Fraction(a[i]) == ratio * Fraction(b[i]) for i in places)


def longest_piece(net: Net) -> int:
    """Numbers of the longest record that `keep_piece` can write."""
    n, outputs = net.n, int(net.question[-1])
    return HEAD + 2 * n + outputs * (n + 2) + VERTICES * n + FACETS * (n + 2)


def memory(net: Net) -> tuple[Memory, Stack]:
    n, off = net.n, net.shape[OFF]
    hinges, outputs = int(off[-1]), int(off[-1] - off[-2])
    questions = len(net.question) - 1
    form = np.zeros((3 * n + 3, n + hinges))
    form[:n, :n] = form[n + 2 : 2 * n + 2, :n] = np.eye(n)  # t itself
    form[n + 1, :n] = net.gamma * net.side[RADIUS]
    form[2 * n + 2 : 3 * n + 2, :n] = net.gamma * np.eye(n)
    mine = Memory(
        form,
        np.zeros((n + 4, hinges)),
        np.zeros(hinges, dtype=np.int8),
        np.zeros((3 * n + 2, int(net.shape[WIDE].max()))),
        np.zeros((VERTICES, n + 1)),
        np.zeros(VERTICES, dtype=np.uint64),
        np.zeros((FACETS, n + 3)),
        np.zeros((2, n)),
        np.zeros((VERTICES, n + 1)),
        np.zeros(VERTICES, dtype=np.uint64),
        np.zeros((VERTICES + 1, n, n)),
        np.zeros((VERTICES + 1, n + 1), dtype=np.int64),
        np.zeros((n + 2, 2 * n + 2)),
        np.zeros((5, outputs, n)),
        np.zeros((2, max(outputs, int(EXACTLY)))),
        np.zeros((questions, n + 2)),
        np.zeros(n + hinges, dtype=np.int64),
        np.zeros(16, dtype=np.int64),
        np.zeros(max(ROOM, 2 * longest_piece(net)) if net.keeps else 1),
        np.zeros(1, dtype=np.int64),
    )
    stack = Stack(
        np.zeros((FRAMES, 2), dtype=np.int64),
        np.zeros(FRAMES, dtype=np.uint64),
        np.zeros((FRAMES, FACETS, n + 3)),
        np.zeros((FRAMES, int((off[1:] - off[:-1]).max())), dtype=np.int8),
        np.zeros((FRAMES, questions)),
        np.zeros((FRAMES, 2, n)),
        np.zeros((POOL, n + 1)),
        np.zeros(POOL, dtype=np.uint64),
    )
    return mine, stack
