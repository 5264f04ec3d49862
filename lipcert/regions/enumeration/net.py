"""The arrays that the compiled functions work on: a network, what a search works with, and cells that wait."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

HEAD = 5  # numbers in front of the record of a piece
FACETS = 64  # of a cell: one bit each
FRAMES = 512  # cells that wait in one search
VERTICES = 4096  # of a cell
POOL = 2**16  # vertices of all cells that wait
ROOM = 2**17  # numbers that describe the pieces found by one search


OFF, START, FIRST, WIDE = range(4)  # rows of Net.shape
WEIGHT, SIZE, ERROR = range(3)  # of Net.weight: W, |W| and the errors of W
BIAS, BIAS_ERROR, LEFT, RIGHT, TWIN, TURNED = range(6)  # of Net.hinge
RADIUS, INVERSE = range(2)  # of Net.side: of the box in t, and 1 / scale
RHO, LOW, HIGH = -3, -2, -1  # of Memory.pre
DEAD = -1  # of Memory.form
CLOSED, BEST = -2, -1  # columns of Memory.best
NORMS, VALUES, SIGNS = range(3)  # Net.asks: norms of Jacobians; largest outputs; where an output is above 0
FREE, WRITES, READS = range(3)  # Net.trace: the tree is searched; searched and written down; read (trace.py)
# places of Memory.counts
CELLS, TOP, STATUS, LEAVES, FAILED, STAMP, FORCED, CRAMPED, KEPT, AT = range(10)
# values of STATUS; after the last four, what cannot be gone on with is the top frame
DONE, SPENT, FULL, STUCK, VIOLATED, FLAT, WRONG = range(7)
TOUCH = 1e-12  # relative: nearer to a vertex than this a hyperplane is not known to cut


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
    asks: int  # NORMS, VALUES or SIGNS
    keeps: bool  # nothing is pruned, and every piece is written down (pieces.py)
    trace: int  # FREE, WRITES or READS
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
    matrices: np.ndarray  # (5, outputs, n): a Jacobian and its radii, and what its norm takes (sizes.py)
    vectors: np.ndarray  # (2, outputs or more)
    best: np.ndarray  # (questions, n + 2): a point, the largest upper value of what is done with, the norm at the point
    alive: np.ndarray  # columns that are not dead
    counts: np.ndarray  # int64
    piece: np.ndarray  # records of pieces, one after the other (`keep_piece`)
    code: np.ndarray  # int64: the tree in preorder (trace.py), and counts[AT] the place of the node at hand


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
