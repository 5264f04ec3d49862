"""A `Program` and the memory of one search as flat arrays, for the compiled functions."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from lipcert.regions.enumeration.program import Layer, Program
from lipcert.rounding import EPS

FACETS = 64  # of a cell: one bit each
FRAMES = 512  # cells that wait in one search
VERTICES = 4096  # of a cell
POOL = 2**16  # vertices of all cells that wait


OFF, START, FIRST, WIDE = range(4)  # rows of Net.shape
WEIGHT, SIZE, ERROR = range(3)  # of Net.weight: W, |W| and the errors of W
BIAS, BIAS_ERROR, LEFT, RIGHT, TWIN, TURNED = range(6)  # of Net.hinge
RADIUS, INVERSE = range(2)  # of Net.side: of the box in t, and 1 / scale
RHO, LOW, HIGH = -3, -2, -1  # of Memory.pre
DEAD = -1  # of Memory.form
CLOSED, BEST = -2, -1  # columns of Memory.best


class Net(NamedTuple):
    """Few arrays: Numba compiles in time that grows with them.

    Layer k has the hinges OFF[k] .. OFF[k + 1]; signals are t (n), then the outputs of the layers. Its matrix reads the
    signals columns[START[k] .. START[k + 1]]; row j of the transposed matrix begins at FIRST[k] + j WIDE[k], WIDE the size
    rounded up to a multiple of 4. TWIN: an earlier hinge of the layer with a proportional row, or -1; TURNED: +-1, the sign
    of the proportion. Question i is about the outputs question[i] .. question[i + 1]."""

    n: int
    layers: int  # of hinges; layer `layers` is the output
    p: int  # 1, 2, or 0 for inf
    q: int
    ball_norm: int
    ball: float  # radius in x; inf: the region is the box
    gamma: float  # n u / (1 - n u) for the longest sum
    inexact: bool  # some weights have errors
    shape: np.ndarray
    columns: np.ndarray
    weight: np.ndarray
    hinge: np.ndarray
    side: np.ndarray
    question: np.ndarray


class Memory(NamedTuple):
    """What one search works with. `form`: see affine.py; its row DEAD marks signals that are identically zero."""

    form: np.ndarray  # (3 n + 3, signals)
    pre: np.ndarray  # (n + 4, hinges and outputs): v_k (n slopes, constant), its error on the box, proved range
    sign: np.ndarray  # int8: 1, -1, 0 not settled
    out: np.ndarray  # (3 n + 2, widest)
    x: np.ndarray  # (VERTICES, n + 1): vertices of the cell at hand, and a hinge there
    mask: np.ndarray  # uint64: facets it lies on
    facet: np.ndarray  # (FACETS, n + 3): n.t + c >= -rho, and which one it is: a hinge, or -1 - (2 d + side of the box)
    box: np.ndarray  # (2, n) proved
    new_x: np.ndarray
    new_mask: np.ndarray
    edges: np.ndarray  # (VERTICES, n, n)
    basis: np.ndarray  # (VERTICES, n + 1): n facets, and the cell that they are of
    work: np.ndarray
    best: np.ndarray  # (questions, n + 2): a point, the largest upper value of what is done with, the norm at the point
    alive: np.ndarray  # columns that are not dead
    counts: np.ndarray  # int64: see search.py


class Stack(NamedTuple):
    """Cells that wait."""

    place: np.ndarray  # (FRAMES, 2): layer, number of vertices
    live: np.ndarray
    facet: np.ndarray
    sign: np.ndarray
    u: np.ndarray
    box: np.ndarray
    x: np.ndarray  # vertices of all of them, one after the other
    mask: np.ndarray


def flat(program: Program, rows: list[int], p: str, q: str, ball: tuple[float, str] | None) -> Net:
    """`rows`: question i is about the outputs rows[i] .. rows[i + 1]."""
    n, layers = len(program.radius), program.layers
    off = np.cumsum([0, *(layer.size for layer in layers)])
    columns: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    errors: list[np.ndarray] = []
    start, first, wide = [0], [0], []
    inexact = any(e is not None for layer in layers for _, _, e in layer.blocks)
    for layer in layers:
        width = -(-layer.size // 4) * 4
        for source, matrix, error in layer.blocks:
            begin = 0 if source < 0 else n + off[source]
            columns.append(np.arange(begin, begin + matrix.shape[1]))
            padded = np.zeros((matrix.shape[1], width))
            padded[:, : layer.size] = matrix.T
            weights.append(padded.ravel())
            if inexact:
                padded = np.zeros((matrix.shape[1], width))
                if error is not None:
                    padded[:, : layer.size] = error.T
                errors.append(padded.ravel())
        start.append(sum(len(c) for c in columns))
        first.append(sum(len(w) for w in weights))
        wide.append(width)
    twins = [_twins(layer) for layer in layers]
    longest = max(b - a for a, b in itertools.pairwise(start)) + n + 16
    code = {"1": 1, "2": 2, "inf": 0}

    def joined(parts: list[np.ndarray], kind: type = np.float64) -> np.ndarray:
        return np.ascontiguousarray(np.concatenate([np.zeros(0), *parts]), dtype=kind)

    weight = joined(weights)
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
        shape,
        joined(columns, np.int64),
        np.stack([weight, np.abs(weight), joined(errors) if inexact else np.zeros_like(weight)]),
        np.stack([joined(parts) for parts in rows_of_hinges]),
        np.stack([program.radius, 1.0 / program.scale]),
        np.array(rows, dtype=np.int64),
    )


def _twins(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """Hinges whose exact rows are multiples of an earlier row of the layer: one sign decides both."""
    twin, turned = np.full(layer.size, -1), np.ones(layer.size)
    parts = [matrix for _, matrix, _ in layer.blocks] + [layer.bias[:, None]]
    rows = np.concatenate(parts, axis=1)
    inexact = layer.bias_error != 0
    for _, _, error in layer.blocks:
        if error is not None:
            inexact |= (error != 0).any(axis=1)
    seen: dict[bytes, list[int]] = {}
    for k in np.flatnonzero(~inexact & (rows != 0).any(axis=1)):
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


def memory(net: Net) -> tuple[Memory, Stack]:
    n, off = net.n, net.shape[OFF]
    hinges = int(off[-1])
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
        np.zeros((questions, n + 2)),
        np.zeros(n + hinges, dtype=np.int64),
        np.zeros(16, dtype=np.int64),
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
