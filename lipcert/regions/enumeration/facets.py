"""The search in one cell of more inputs, where vertices are too many: a cell is its facets and one vertex, and linear programs
find the others.

From the vertex at hand the simplex method walks to where a function is least (polytope.py), and its multipliers are the proof.
Both halves of a cut have a vertex at once: where the hinge is largest and where it is least. As there, cuts cover the cell
whatever the arithmetic does; hinges of which no sign is proved are cut at. Facets beyond FACETS are forgotten, which
only widens a cell.
"""

from __future__ import annotations

import math

import numpy as np

from lipcert.regions.enumeration.affine import enter, leave, multiply, put_settled
from lipcert.regions.enumeration.ball import from_centre, grown
from lipcert.regions.enumeration.compiled import YES, ZERO, compiled, entry, inlined
from lipcert.regions.enumeration.frames import copy, copy_rows, pull, push, push_whole, put_facet
from lipcert.regions.enumeration.net import (
    BEST,
    CELLS,
    CRAMPED,
    DONE,
    FAILED,
    FORCED,
    FRAMES,
    FULL,
    HIGH,
    INVERSE,
    LEAVES,
    LEFT,
    LOW,
    OFF,
    RADIUS,
    RHO,
    RIGHT,
    SPENT,
    STATUS,
    STUCK,
    TOP,
    TOUCH,
    TURNED,
    TWIN,
)
from lipcert.regions.enumeration.polytope import ONE, SLACK, bits, edges_at, safe_least
from lipcert.regions.enumeration.pruning import outputs, put_crossing, put_open, range_on_box
from lipcert.regions.enumeration.search import close, deeper, nothing, pruned
from lipcert.regions.enumeration.sizes import EXACTLY, SQUARINGS

NARROW = 0.3  # a range that reaches so much less to one side: this side is worth a linear program
HERE, WALKED, LEAST, MOST, FIRST, SECOND = range(6)  # rows of memory.x and memory.mask: vertices


@compiled
def walk(net, memory, live, value):  # type: ignore[no-untyped-def]
    """A proved lower value of s form[:, at] +- error on the cell, `value` = (form, at, error, s), from vertex HERE; the vertex
    where the walk ends is WALKED."""
    n, (form, at, error, s) = net.n, value
    basis, edges, work = memory.basis[len(memory.basis) - 1], memory.edges[len(memory.edges) - 1], memory.work
    a = memory.new_x[0]
    for d in range(n):
        a[d] = s * form[d, at]
        memory.x[WALKED, d] = memory.x[HERE, d]
    memory.mask[WALKED] = memory.mask[HERE]
    if not edges_at(n, memory.facet, memory.mask[HERE] & live, work, basis, edges):
        return -np.inf
    least = safe_least(n, memory.facet, live, net.side[RADIUS], (a, s * form[n, at], error), (basis, edges, work))
    mask = np.uint64(0)
    for j in range(n):
        mask = mask | (ONE << np.uint64(basis[j]))
    memory.mask[WALKED] = mask
    for i in range(n):
        total = 0.0
        for j in range(n):
            total -= edges[i, j] * memory.facet[basis[j], n]
        memory.x[WALKED, i] = total
    return least


@inlined
def take(memory, source, to):  # type: ignore[no-untyped-def]
    """Vertex `to` becomes `source`."""
    memory.mask[to] = memory.mask[source]
    for d in range(memory.x.shape[1]):
        memory.x[to, d] = memory.x[source, d]


@compiled
def bound_box(net, memory, live, y):  # type: ignore[no-untyped-def]
    """The bounding box of the cell, within the one in memory.box, and the mean of the vertices that are met into y (n,)."""
    n, unit = net.n, memory.form  # its first n columns are t
    for d in range(n):
        y[d] = 0.0
    for d in range(n):
        for side in range(2):
            s = 1.0 if side == 0 else -1.0
            least = walk(net, memory, live, (unit, d, 0.0, s))
            if side == 0:
                memory.box[0, d] = max(memory.box[0, d], least)
            else:
                memory.box[1, d] = min(memory.box[1, d], -least)
            for i in range(n):
                y[i] += memory.x[WALKED, i] / (2.0 * n)


@compiled
def beyond(net, memory):  # type: ignore[no-untyped-def]
    """Proved: the box of the cell does not meet the ball that is the region."""
    if not (net.ball < np.inf):
        return False
    total = 0.0
    for d in range(net.n):
        gap = max(0.0, max(memory.box[0, d], -memory.box[1, d])) / net.side[INVERSE, d]
        total = grown(total, gap, net.ball_norm)
    if net.ball_norm == 2:
        total = math.sqrt(total)
    return total * (1.0 - 1e-13) > net.ball


@inlined
def height(net, memory, vertex, k):  # type: ignore[no-untyped-def]
    """v_k at a vertex, floating, relative to its size."""
    total, size = memory.pre[net.n, k], abs(memory.pre[net.n, k])
    for d in range(net.n):
        total += memory.pre[d, k] * memory.x[vertex, d]
        size += abs(memory.pre[d, k])
    return total / size if size > 0.0 else 0.0


@compiled
def settle_by_programs(net, memory, layer, live):  # type: ignore[no-untyped-def]
    """Proves signs of the layer's hinges. Returns (the hinge to cut at or -1, hinges of which nothing is known); the vertices
    where the former is least and largest are FIRST and SECOND."""
    n, pre, best, choice, unknown, forced = net.n, memory.pre, -1.0, -1, 0, memory.counts[FORCED]
    memory.counts[FORCED] = -1
    for k in range(net.shape[OFF, layer], net.shape[OFF, layer + 1]):
        twin = int(net.hinge[TWIN, k])
        if memory.sign[k] == 0 and twin >= 0 and memory.sign[net.shape[OFF, layer] + twin] != 0:
            memory.sign[k] = np.int8(net.hinge[TURNED, k]) * memory.sign[net.shape[OFF, layer] + twin]
        if memory.sign[k] != 0:
            continue
        rho = pre[RHO, k]
        low, high = range_on_box(n, pre, k, rho, memory.box)
        if low < 0.0 < high:
            low = max(low, walk(net, memory, live, (pre, k, rho, 1.0)))
            take(memory, WALKED, LEAST)
        if low < 0.0 < high:
            high = min(high, -walk(net, memory, live, (pre, k, rho, -1.0)))
            take(memory, WALKED, MOST)
        if low >= 0.0:
            memory.sign[k] = 1
        elif high <= 0.0:
            memory.sign[k] = -1
        elif low > -np.inf and high < np.inf:
            pre[LOW, k], pre[HIGH, k] = low, high
            balance = min(-low, high) / max(-low, high)
            if k == forced:
                balance = 2.0
            elif not (height(net, memory, LEAST, k) < -TOUCH and height(net, memory, MOST, k) > TOUCH):
                unknown += 1  # touched, as far as floats tell
                continue
            if twin < 0 and balance > best:
                best, choice = balance, k
                take(memory, LEAST, FIRST)
                take(memory, MOST, SECOND)
        else:
            pre[LOW, k], pre[HIGH, k] = -np.inf, np.inf
            unknown += 1
    return choice, unknown


@compiled
def bound_above(net, memory, layer, live, u):  # type: ignore[no-untyped-def]
    """min(u, bound of the norm) per question into u, as pruning.upper_values does with vertices."""
    n, out = net.n, memory.out
    for k in range(net.shape[OFF, layer], net.shape[OFF, layer + 1]):
        if memory.sign[k] != 0:
            put_settled(net, memory, n + k, k, net.hinge[RIGHT, k] if memory.sign[k] > 0 else net.hinge[LEFT, k])
        elif memory.pre[LOW, k] > -np.inf and memory.pre[HIGH, k] < np.inf:
            slopes = (net.hinge[LEFT, k], net.hinge[RIGHT, k])
            ends = (memory.pre[LOW, k], memory.pre[HIGH, k])
            put_crossing(net, memory, n + k, (memory.pre, k, memory.pre[RHO, k]), ZERO, slopes, ends)
        else:
            return
    for deep in range(layer + 1, net.layers):
        multiply(net, memory, deep, YES)
        base = net.shape[OFF, deep]
        for i in range(net.shape[OFF, deep + 1] - base):
            k, error = base + i, out[n + 1, i]
            low, high = range_on_box(n, out, i, error, memory.box)
            if low < 0.0 < high and -low < NARROW * high:
                low = max(low, walk(net, memory, live, (out, i, error, 1.0)))
            if low < 0.0 < high and high < -NARROW * low:
                high = min(high, -walk(net, memory, live, (out, i, error, -1.0)))
            if not (low > -np.inf and high < np.inf):
                return
            sign = 1 if low >= 0.0 else (-1 if high <= 0.0 else 0)
            put_open(net, memory, n + k, k, i, sign, low, high)
    multiply(net, memory, net.layers, YES)
    outputs(net, memory, u, SQUARINGS)


@inlined
def into_the_middle(net, memory, live, y):  # type: ignore[no-untyped-def]
    """The mean y (n,) of vertices with the one that is farthest from each facet; False: the cell is flat, as far as floats tell."""
    n, rest, count, wide = net.n, live, 1.0, True
    while rest:
        low = rest & (~rest + ONE)
        rest = rest ^ low
        name = memory.facet[bits(low - ONE), n + 2]
        if name >= 0.0:
            k = int(name)
            s = 1.0 if memory.sign[k] > 0 else -1.0
            walk(net, memory, live, (memory.pre, k, memory.pre[RHO, k], -s))
            wide = wide and s * height(net, memory, WALKED, k) > TOUCH
            for d in range(n):
                y[d] += (memory.x[WALKED, d] - y[d]) / (count + 1.0)
            count += 1.0
    return wide


@inlined
def norm_at_leaf(net, memory, live, u, y):  # type: ignore[no-untyped-def]
    n, last, out = net.n, net.shape[OFF, net.layers], memory.out
    for i in range(net.shape[OFF, net.layers + 1] - last):
        for c in range(n):
            out[n + 2 + c, i] = memory.pre[c, last + i]
            out[2 * n + 2 + c, i] = memory.pre[RHO, last + i] / net.side[RADIUS, c] * (1.0 + SLACK)
    outputs(net, memory, u, EXACTLY)
    inside = into_the_middle(net, memory, live, y)
    inside = inside and (not (net.ball < np.inf) or from_centre(net, y) < net.ball * (1.0 - 1e-12))
    for question in range(len(u)):
        if inside and u[question] > memory.best[question, BEST]:
            memory.best[question, BEST] = u[question]
            copy(y, memory.best[question])


@inlined
def cut_in_two(net, memory, stack, room, cell, u, k):  # type: ignore[no-untyped-def]
    """One half goes to frame `top`, with vertex FIRST or SECOND; the one that reaches farther stays at hand. Returns the live
    facets, 0: none can be forgotten."""
    (top, used), (layer, live) = room, cell
    if ~live == np.uint64(0):
        rest = live & ~(memory.mask[FIRST] | memory.mask[SECOND])
        if rest == np.uint64(0):
            return rest
        memory.counts[FAILED] += 1
        live = live & ~(rest & (~rest + ONE))
    free = ~live
    new = free & (~free + ONE)
    place = bits(new - ONE)
    stay = 1.0 if memory.pre[HIGH, k] > -memory.pre[LOW, k] else -1.0
    put_facet(net, memory, place, -stay, k)
    memory.sign[k] = np.int8(-stay)
    take(memory, FIRST if stay > 0.0 else SECOND, HERE)
    copy(memory.mask[:1], stack.mask[used:])
    copy(memory.x[HERE], stack.x[used])
    copy_rows(memory.facet, stack.facet[top], len(memory.facet))
    push(net, memory, stack, top, (layer, live | new, 1), u)
    put_facet(net, memory, place, stay, k)
    memory.sign[k] = np.int8(stay)
    take(memory, SECOND if stay > 0.0 else FIRST, HERE)
    return live | new


@compiled
def follow_facets(net, memory, stack, room, cell, work, rtol):  # type: ignore[no-untyped-def]
    """As search.follow. Returns (top, used, cells)."""
    counts, status, spent = memory.counts, DONE, 0
    (top, used), (layer, live, _), (u, y) = room, cell, work
    while not pruned(net, memory, u, rtol):
        spent += 1
        bound_box(net, memory, live, y)
        if beyond(net, memory):
            nothing(u)
            break
        if layer == net.layers:
            counts[LEAVES] += 1
            norm_at_leaf(net, memory, live, u, y)
            break
        choice, unknown = settle_by_programs(net, memory, layer, live)
        bound_above(net, memory, layer, live, u)
        if pruned(net, memory, u, rtol):
            break
        if choice < 0 and unknown == 0:
            deeper(net, memory, layer)
            layer += 1
            continue
        if top > FRAMES - 4:
            status = FULL
            break
        if choice < 0:
            status = STUCK
            break
        left = cut_in_two(net, memory, stack, (top, used), (layer, live), u, choice)
        if left == np.uint64(0):
            counts[CRAMPED] += 1
            break
        live, top, used = left, top + 1, used + 1
    if status == DONE:
        close(memory, u)
    else:
        push_whole(net, memory, stack, (top, used), (layer, live, 1), u)
        top, used = top + 1, used + 1
    counts[STATUS] = status
    return top, used, spent


@entry
def search_facets(net, memory, stack, rtol, budget):  # type: ignore[no-untyped-def]
    """As search.search, of cells with one vertex each."""
    counts, questions = memory.counts, len(net.question) - 1
    for layer in range(stack.place[0, 0] + 1):
        enter(net, memory, layer)
        if layer < stack.place[0, 0]:
            leave(net, memory, layer)
    u, y = np.zeros(questions), np.zeros(net.n)
    top, spent = counts[TOP], 0
    counts[STATUS] = DONE
    while top > 0 and counts[STATUS] == DONE:
        if spent >= budget:
            counts[STATUS] = SPENT
        elif top > FRAMES - 4:
            counts[STATUS] = FULL
        else:
            top -= 1
            cell = pull(net, memory, stack, top, top + 1)
            copy(stack.u[top], u)
            top, _, cells = follow_facets(net, memory, stack, (top, top), cell, (u, y), rtol)
            spent += cells
    counts[CELLS] += spent
    counts[TOP] = top
