"""The search in one cell: settle the hinges of a layer, bound, prune, go a layer deeper or cut the cell in two.

Depth first on a stack of cells, for a number of cells; what is left on the stack goes back to tree.py, which goes on best
first. Nothing in it has to be trusted but the claims of polytope.py: cuts cover the cell whatever the arithmetic does, and
each cell that is done with leaves its upper value.
"""

from __future__ import annotations

import numpy as np

from lipcert.regions.enumeration.affine import enter, leave
from lipcert.regions.enumeration.ball import from_centre, inner_point, outside
from lipcert.regions.enumeration.compiled import compiled, entry, inlined
from lipcert.regions.enumeration.frames import copy, halve, pull, push_whole
from lipcert.regions.enumeration.net import (
    AT,
    BEST,
    CELLS,
    CLOSED,
    CRAMPED,
    DONE,
    FLAT,
    FORCED,
    FRAMES,
    FREE,
    FULL,
    HEAD,
    KEPT,
    LEAVES,
    NORMS,
    OFF,
    POOL,
    RADIUS,
    READS,
    RHO,
    SIGNS,
    SPENT,
    STAMP,
    STATUS,
    STUCK,
    TOP,
    TOUCH,
    VALUES,
    VERTICES,
    VIOLATED,
    WRITES,
    WRONG,
)
from lipcert.regions.enumeration.polytope import ONE, SLACK, bits
from lipcert.regions.enumeration.pruning import extremes, largest_values, outputs, prove_box, upper_values
from lipcert.regions.enumeration.settle import settle
from lipcert.regions.enumeration.sizes import EXACTLY

RESERVE = 4 * VERTICES


@inlined
def norm_leaf(net, memory, count, u, a, y):  # type: ignore[no-untyped-def]
    """The norm of a cell on which the network is affine, and whether it beats the best."""
    n, last = net.n, net.shape[OFF, net.layers]
    out = memory.out
    for i in range(net.shape[OFF, net.layers + 1] - last):
        for c in range(n):
            out[n + 2 + c, i] = memory.pre[c, last + i]
            out[2 * n + 2 + c, i] = memory.pre[RHO, last + i] / net.side[RADIUS, c] * (1.0 + SLACK)
    outputs(net, memory, u, EXACTLY)
    inside = inner_point(net, memory, count, a, y)
    for question in range(len(u)):
        if inside and net.trace == FREE and u[question] > memory.best[question, BEST]:
            memory.best[question, BEST] = u[question]
            copy(a, memory.best[question])


@inlined
def value_leaf(net, memory, live, count, stamp, u, a):  # type: ignore[no-untyped-def]
    """The largest outputs on a cell where the network is affine, and the vertices where they beat the best."""
    n, last = net.n, net.shape[OFF, net.layers]
    out = memory.out
    for i in range(net.shape[OFF, net.layers + 1] - last):
        for c in range(n + 1):
            out[c, i] = memory.pre[c, last + i]
        out[n + 1, i] = memory.pre[RHO, last + i]
    largest_values(net, memory, live, count, stamp, u, a)
    if net.asks == VALUES:
        for question in range(len(u)):
            for i in range(net.question[question], net.question[question + 1]):
                _, high, _, vertex = extremes(n, out, i, memory.x, count)
                inside = not (net.ball < np.inf) or from_centre(net, memory.x[vertex]) < net.ball
                if inside and high > memory.best[question, BEST]:
                    memory.best[question, BEST] = high
                    for d in range(n):
                        memory.best[question, d] = memory.x[vertex, d]


@inlined
def keep_piece(net, memory, live, count, u, affine):  # type: ignore[no-untyped-def]
    """The cell at hand as numbers: [how many, affine, vertices, facets, upper value of question 0], its box, v of the
    outputs (n slopes, constant, error), vertices, facets (n + 2). False: there is no room."""
    n, last, to = net.n, net.shape[OFF, net.layers], memory.piece
    outputs = net.shape[OFF, net.layers + 1] - last
    start = memory.counts[KEPT]
    size = HEAD + 2 * n + outputs * (n + 2) + count * n + bits(live) * (n + 2)
    if start + size > len(to):
        return False
    to[start], to[start + 1], to[start + 2] = size, affine, count
    to[start + 3], to[start + 4] = bits(live), u[0]
    at = start + HEAD
    for side in range(2):
        for d in range(n):
            to[at] = memory.box[side, d]
            at += 1
    for i in range(outputs):
        for c in range(n + 1):
            to[at] = memory.pre[c, last + i]
            at += 1
        to[at] = memory.pre[RHO, last + i]
        at += 1
    for i in range(count):
        for d in range(n):
            to[at] = memory.x[i, d]
            at += 1
    rest = live
    while rest:
        low = rest & (~rest + ONE)
        rest = rest ^ low
        for c in range(n + 2):
            to[at] = memory.facet[bits(low - ONE), c]
            at += 1
    memory.counts[KEPT] = at
    return True


@compiled
def pruned(net, memory, u, rtol):  # type: ignore[no-untyped-def]
    """`rtol`: relative for norms, absolute for values. Of signs the best is 0, and 0 what can be lost."""
    if net.keeps or (net.trace == READS and memory.code[memory.counts[AT]] != 0):
        return False
    done = True
    for question in range(len(u)):
        best = memory.best[question, BEST]
        done = done and u[question] <= (best * (1.0 + rtol) if net.asks == NORMS else best + rtol)
    return done


@compiled
def close(memory, u):  # type: ignore[no-untyped-def]
    for question in range(len(u)):
        memory.best[question, CLOSED] = max(memory.best[question, CLOSED], u[question])


@inlined
def write(net, memory, code):  # type: ignore[no-untyped-def]
    """The node at hand is done with: a leaf (0), or cut."""
    if net.trace == WRITES:
        memory.code[memory.counts[AT]] = code
    if net.trace != FREE:
        memory.counts[AT] += 1


@compiled
def deeper(net, memory, layer):  # type: ignore[no-untyped-def]
    """Every hinge of the layer is settled: the next one, of which nothing is."""
    leave(net, memory, layer)
    enter(net, memory, layer + 1)
    if layer + 1 < net.layers:
        for k in range(net.shape[OFF, layer + 1], net.shape[OFF, layer + 2]):
            memory.sign[k] = 0


@inlined
def nothing(u):  # type: ignore[no-untyped-def]
    for question in range(len(u)):
        u[question] = -np.inf


@inlined
def leaf(net, memory, live, count, stamp, u, a, y):  # type: ignore[no-untyped-def]
    """A cell on which the network is affine; returns its status."""
    memory.counts[LEAVES] += 1
    status = DONE
    if net.asks == NORMS:
        norm_leaf(net, memory, count, u, a, y)
    else:
        value_leaf(net, memory, live, count, stamp, u, a)
        if net.asks == SIGNS and not (u[0] <= 0.0):
            status = VIOLATED
    return status


@inlined
def first_choice(memory, choice):  # type: ignore[no-untyped-def]
    """The neuron to split by, and the one that a bound asked for, which goes first: (choice, forced)."""
    forced = memory.counts[FORCED]
    memory.counts[FORCED] = -1
    if forced >= 0 and memory.sign[forced] == 0:
        choice = forced
    return choice, forced


@inlined
def told(net, memory, layer, choice):  # type: ignore[no-untyped-def]
    """The neuron and the side that a tree says where one is read, else `choice` and 0. -1: it is of another layer, or settled."""
    side = 0
    if net.trace == READS:
        side = memory.code[memory.counts[AT]]
        choice = abs(side) - 1
        if not (net.shape[OFF, layer] <= choice < net.shape[OFF, layer + 1]) or memory.sign[choice] != 0:
            choice = -1
    return choice, side


@inlined
def concluded(net, memory, status, live, count, u, affine):  # type: ignore[no-untyped-def]
    """What a cell's status is for the search: a flat one is done with unless signs are asked for, or a tree is read; one
    whose piece is to be kept needs room for it."""
    if status == FLAT:
        memory.counts[CRAMPED] += 1
    if net.trace == READS and (status == FLAT or (status == DONE and memory.code[memory.counts[AT]] != 0)):
        status = WRONG
    if status == FLAT and net.asks != SIGNS:
        status = DONE
    if net.keeps and status == DONE and not keep_piece(net, memory, live, count, u, affine):
        status = FULL
    return status


@inlined
def mass(rows, count, column):  # type: ignore[no-untyped-def]
    total = 0.0
    for c in range(count):
        total += abs(rows[c, column])
    return total


@compiled
def follow(net, memory, stack, room, cell, work, rtol):  # type: ignore[no-untyped-def]
    """The cell at hand (layer, live, count), to its end; halves go to the stack's room (top, used). Returns (top, used, cells)."""
    n, counts, status, spent, affine = net.n, memory.counts, DONE, 0, 0.0
    (top, used), (layer, live, count), (u, a, y) = room, cell, work
    while True:
        if net.trace == READS and counts[AT] >= len(memory.code):
            status = WRONG
            break
        if pruned(net, memory, u, rtol):
            break
        if count <= n:  # flat as far as vertices tell, which is no proof
            status = FLAT
            break
        counts[STAMP] += 1
        spent += 1
        stamp = counts[STAMP]
        prove_box(net, memory, live, count, stamp, a)
        if outside(net, memory, live, count, stamp, a, y):
            nothing(u)
            break
        if layer == net.layers:
            status, affine = leaf(net, memory, live, count, stamp, u, a, y), 1.0
            break
        choice, undecided = settle(net, memory, layer, live, count, stamp, a)
        choice, forced = first_choice(memory, choice)
        if not net.keeps and not (net.trace == READS and memory.code[counts[AT]] != 0):
            upper_values(net, memory, layer, live, count, stamp, u, a)
        if pruned(net, memory, u, rtol):
            break
        if choice < 0:
            if undecided > 0:
                status = STUCK
                break
            deeper(net, memory, layer)
            layer += 1
            continue
        if top > FRAMES - 4 or used > POOL - RESERVE:
            status = FULL
            break
        choice, side = told(net, memory, layer, choice)
        if choice < 0:
            status = WRONG
            break
        slack = 0.0 if choice == forced else TOUCH * mass(memory.pre, n + 1, choice)
        cell = (layer, live, count)
        left, new_live, other = halve(net, memory, stack, (top, used), cell, u, (choice, slack, side))
        if left < 0:
            status = FLAT
            break
        write(net, memory, (choice + 1) * memory.sign[choice])
        count, live, top, used = left, new_live, top + 1, used + other
    status = concluded(net, memory, status, live, count, u, affine)
    if status == DONE:
        close(memory, u)
        write(net, memory, 0)
    else:
        push_whole(net, memory, stack, (top, used), (layer, live, count), u)
        top, used = top + 1, used + count
    counts[STATUS] = status
    return top, used, spent


@entry
def search(net, memory, stack, rtol, budget):  # type: ignore[no-untyped-def]
    """From the frames in `memory` (memory.sign holds what is settled in the layers before that of frame 0). Stops after
    `budget` cells, where a cell cannot be gone on with (it is the top frame then), or when memory is short."""
    n, counts = net.n, memory.counts
    questions = len(net.question) - 1
    u, a, y = np.zeros(questions), np.zeros(n), np.zeros(n)
    top, used, spent = counts[TOP], 0, 0
    for f in range(top):
        used += stack.place[f, 1]
    for layer in range(stack.place[0, 0] + 1):
        enter(net, memory, layer)
        if layer < stack.place[0, 0]:
            leave(net, memory, layer)
    counts[STATUS] = DONE
    while top > 0 and counts[STATUS] == DONE:
        if spent >= budget:
            counts[STATUS] = SPENT
        elif top > FRAMES - 4 or used > POOL - RESERVE:
            counts[STATUS] = FULL
        else:
            top -= 1
            cell = pull(net, memory, stack, top, used)
            used -= cell[2]
            copy(stack.u[top], u)
            top, used, cells = follow(net, memory, stack, (top, used), cell, (u, a, y), rtol)
            spent += cells
    counts[CELLS] += spent
    counts[TOP] = top


@inlined
def values_at(net, memory, point, u):  # type: ignore[no-untyped-def]
    last = net.shape[OFF, net.layers]
    for question in range(len(u)):
        u[question] = -np.inf
        for k in range(net.question[question], net.question[question + 1]):
            total = memory.pre[net.n, last + k]
            for d in range(net.n):
                total += memory.pre[d, last + k] * point[d]
            u[question] = max(u[question], total)


@entry
def probe(net, memory, points, values):  # type: ignore[no-untyped-def]
    """Floating values (k, questions) of what is asked at `points` (k, n)."""
    n, last = net.n, net.shape[OFF, net.layers]
    u = np.zeros(len(net.question) - 1)
    for i in range(len(points)):
        for layer in range(net.layers):
            enter(net, memory, layer)
            for k in range(net.shape[OFF, layer], net.shape[OFF, layer + 1]):
                total = memory.pre[n, k]
                for d in range(n):
                    total += memory.pre[d, k] * points[i, d]
                memory.sign[k] = 1 if total > 0.0 else -1
            leave(net, memory, layer)
        enter(net, memory, net.layers)
        for k in range(net.shape[OFF, net.layers + 1] - last):
            for c in range(n):
                memory.out[n + 2 + c, k] = memory.pre[c, last + k]
                memory.out[2 * n + 2 + c, k] = 0.0
        for question in range(len(u)):
            u[question] = np.inf
        if net.asks == NORMS:
            outputs(net, memory, u, EXACTLY)
        else:
            values_at(net, memory, points[i], u)
        copy(u, values[i])
