"""The search in one cell: settle the hinges of a layer, bound, prune, go a layer deeper or cut the cell in two.

Depth first on a stack of cells, for a number of cells; what is left on the stack goes back to tree.py, which goes on best
first. Nothing in it has to be trusted but the claims of polytope.py: cuts cover the cell whatever the arithmetic does, and
each cell that is done with leaves its upper value.
"""

from __future__ import annotations

import math

import numpy as np

from lipcert.regions.enumeration.affine import enter, leave
from lipcert.regions.enumeration.compiled import compiled, entry, inlined
from lipcert.regions.enumeration.net import (
    BEST,
    CLOSED,
    FACETS,
    FRAMES,
    HIGH,
    INVERSE,
    LOW,
    OFF,
    POOL,
    RADIUS,
    RHO,
    TURNED,
    TWIN,
    VERTICES,
)
from lipcert.regions.enumeration.polytope import ONE, SLACK, bits, cut, keep_half
from lipcert.regions.enumeration.pruning import (
    extremes,
    outputs,
    prove_box,
    prove_least,
    prove_range,
    range_on_box,
    upper_values,
)
from lipcert.regions.enumeration.sizes import EXACTLY

# places of Memory.counts
CELLS, TOP, STATUS, LEAVES, FAILED, STAMP, FORCED, CRAMPED = range(8)
# values of STATUS
DONE, SPENT, STUCK, FULL = range(4)
TOUCH = 1e-12  # relative: nearer to a vertex than this a hyperplane is not known to cut
RESERVE = 4 * VERTICES


@compiled
def copy(source, to):  # type: ignore[no-untyped-def]
    for i in range(len(source)):
        to[i] = source[i]


@compiled
def copy_rows(source, to, rows):  # type: ignore[no-untyped-def]
    for i in range(rows):
        for d in range(source.shape[1]):
            to[i, d] = source[i, d]


@inlined
def settle(net, memory, layer, live, count, stamp, a):  # type: ignore[no-untyped-def]
    """Proves signs of the layer's hinges. Returns (the hinge to cut at or -1, hinges neither proved nor cut)."""
    n, pre = net.n, memory.pre
    best, choice, undecided = 0.0, -1, 0
    for k in range(net.shape[OFF, layer], net.shape[OFF, layer + 1]):
        twin = int(net.hinge[TWIN, k])
        if memory.sign[k] == 0 and twin >= 0 and memory.sign[net.shape[OFF, layer] + twin] != 0:
            memory.sign[k] = np.int8(net.hinge[TURNED, k]) * memory.sign[net.shape[OFF, layer] + twin]
        if memory.sign[k] != 0:
            continue
        rho = memory.pre[RHO, k]
        low, high = range_on_box(n, pre, k, rho, memory.box)
        if low < 0.0 < high:
            least, most, _, _ = extremes(n, pre, k, memory.x, count)
            low, high = prove_range(net, memory, live, count, stamp, pre, k, rho, low, high, a)
            if low < 0.0 < high:
                memory.pre[LOW, k], memory.pre[HIGH, k] = low, high
                scale = abs(pre[n, k])
                for d in range(n):
                    scale += abs(pre[d, k])
                if twin >= 0:
                    continue
                if least < -TOUCH * scale and most > TOUCH * scale:
                    balance = min(-least, most) / max(-least, most)
                    if balance > best:
                        best, choice = balance, k
                else:
                    undecided += 1
                    memory.counts[FAILED] += 1
                continue
        if low >= 0.0:
            memory.sign[k] = 1
        elif high <= 0.0:
            memory.sign[k] = -1
        else:  # NaN
            memory.pre[LOW, k], memory.pre[HIGH, k] = -np.inf, np.inf
            undecided += 1
    return choice, undecided


@inlined
def outside(net, memory, live, count, stamp, a):  # type: ignore[no-untyped-def]
    """Proved: the cell does not meet the ball that is the region."""
    n = net.n
    if not (net.ball < np.inf):
        return False
    total, nearest, vertex = 0.0, np.inf, 0
    for d in range(n):
        gap = max(0.0, max(memory.box[0, d], -memory.box[1, d])) / net.side[INVERSE, d]
        total += gap * gap if net.ball_norm == 2 else gap
    if net.ball_norm == 2:
        total = math.sqrt(total)
    if total * (1.0 - 1e-13) > net.ball:
        return True
    for i in range(count):
        far = from_centre(net, memory.x[i])
        if far < nearest:
            nearest, vertex = far, i
    if not (nearest > net.ball):
        return False
    dual = 0.0  # of g, the functional that is nearest / |nearest| there
    for d in range(n):
        g = memory.x[vertex, d] / net.side[INVERSE, d]
        if net.ball_norm == 1:
            g = 1.0 if g > 0.0 else -1.0
        dual = dual + g * g if net.ball_norm == 2 else 1.0
        a[d] = g / net.side[INVERSE, d]
    if net.ball_norm == 2:
        dual = math.sqrt(dual)
    return prove_least(net, memory, live, vertex, stamp, a, 0.0, 0.0) * (1.0 - 1e-13) > net.ball * dual


@compiled
def from_centre(net, t):  # type: ignore[no-untyped-def]
    """Norm of the ball of x - centre."""
    total = 0.0
    for d in range(net.n):
        size = abs(t[d]) / net.side[INVERSE, d]
        total += size * size if net.ball_norm == 2 else size
    return math.sqrt(total) if net.ball_norm == 2 else total


@inlined
def inner_point(net, memory, count, a):  # type: ignore[no-untyped-def]
    """The mean of the vertices into a (n,), drawn into the ball where that is the region. False: not found there."""
    n = net.n
    for d in range(n):
        a[d] = 0.0
        for i in range(count):
            a[d] += memory.x[i, d] / count
    if not (net.ball < np.inf) or from_centre(net, a) < net.ball * (1.0 - 1e-12):
        return True
    nearest, vertex = np.inf, 0
    for i in range(count):
        far = from_centre(net, memory.x[i])
        if far < nearest:
            nearest, vertex = far, i
    for _ in range(12):
        for d in range(n):
            a[d] = memory.x[vertex, d] + 0.7 * (a[d] - memory.x[vertex, d])
        if from_centre(net, a) < net.ball * (1.0 - 1e-12):
            return True
    return False


@inlined
def leaf(net, memory, count, u, a, matrices):  # type: ignore[no-untyped-def]
    """A cell on which the network is affine: its norm, and whether it beats the best."""
    n, last = net.n, net.shape[OFF, net.layers]
    out = memory.out
    for i in range(net.shape[OFF, net.layers + 1] - last):
        for c in range(n):
            out[n + 2 + c, i] = memory.pre[c, last + i]
            out[2 * n + 2 + c, i] = memory.pre[RHO, last + i] / net.side[RADIUS, c] * (1.0 + SLACK)
    outputs(net, memory, u, matrices, EXACTLY)
    memory.counts[LEAVES] += 1
    inside = inner_point(net, memory, count, a)
    for question in range(len(u)):
        if inside and u[question] > memory.best[question, BEST]:
            memory.best[question, BEST] = u[question]
            copy(a, memory.best[question])


@compiled
def pruned(memory, u, rtol):  # type: ignore[no-untyped-def]
    done = True
    for question in range(len(u)):
        done = done and u[question] <= memory.best[question, BEST] * (1.0 + rtol)
    return done


@compiled
def close(memory, u):  # type: ignore[no-untyped-def]
    for question in range(len(u)):
        memory.best[question, CLOSED] = max(memory.best[question, CLOSED], u[question])


@inlined
def push(net, memory, stack, top, layer, live, used, count, u):  # type: ignore[no-untyped-def]
    """The cell at hand, whose vertices lie in the pool from `used`, as frame `top`; its facets are written already."""
    stack.place[top, 0] = layer
    stack.place[top, 1] = count
    stack.live[top] = live
    copy(u, stack.u[top])
    copy_rows(memory.box, stack.box[top], 2)
    if layer < net.layers:
        base = net.shape[OFF, layer]
        for k in range(net.shape[OFF, layer + 1] - base):
            stack.sign[top, k] = memory.sign[base + k]


@inlined
def push_whole(net, memory, stack, top, layer, live, used, count, u):  # type: ignore[no-untyped-def]
    copy(memory.mask[:count], stack.mask[used:])
    copy_rows(memory.x, stack.x[used:], count)
    copy_rows(memory.facet, stack.facet[top], FACETS)
    push(net, memory, stack, top, layer, live, used, count, u)


@inlined
def pull(net, memory, stack, top, used):  # type: ignore[no-untyped-def]
    """Frame `top`, whose vertices end at `used`, becomes the cell at hand. Returns (layer, live, count)."""
    count, layer = stack.place[top, 1], stack.place[top, 0]
    copy(stack.mask[used - count : used], memory.mask)
    copy_rows(stack.x[used - count :], memory.x, count)
    copy_rows(stack.facet[top], memory.facet, FACETS)
    copy_rows(stack.box[top], memory.box, 2)
    if layer < net.layers:
        base = net.shape[OFF, layer]
        for k in range(net.shape[OFF, layer + 1] - base):
            memory.sign[base + k] = stack.sign[top, k]
    return layer, stack.live[top], count


@inlined
def halve(net, memory, stack, top, layer, live, used, count, u, k, slack):  # type: ignore[no-untyped-def]
    """Cuts the cell at hinge k. One half goes to frame `top`, the other stays at hand. Returns (count, live, count of the
    other half); -1 where bits or vertices do not suffice."""
    n = net.n
    low, high = 0.0, 0.0
    for i in range(count):
        total = memory.pre[n, k]
        for d in range(n):
            total += memory.pre[d, k] * memory.x[i, d]
        memory.x[i, n] = total
        low, high = min(low, total), max(high, total)
    free = ~live
    if free == np.uint64(0):
        return -1, live, 0
    new = free & (~free + ONE)
    place = bits(new - ONE)
    for i in range(count):  # bits are used again
        memory.mask[i] = memory.mask[i] & live
    made = cut(n, memory.x, memory.mask, count, slack, new, memory.new_x, memory.new_mask)
    if made < 0 or count + made > VERTICES:
        return -1, live, 0
    stay = 1.0 if high > -low else -1.0
    copy(memory.mask[:count], stack.mask[used:])
    copy_rows(memory.x, stack.x[used:], count)
    for c in range(n):
        memory.facet[place, c] = -stay * memory.pre[c, k]
    memory.facet[place, n] = -stay * memory.pre[n, k]
    memory.facet[place, n + 1] = memory.pre[RHO, k]
    memory.facet[place, n + 2] = k
    room = slice(used, used + count + made)
    other, other_live = keep_half(
        n,
        -stay,
        stack.x[room],
        stack.mask[room],
        count,
        slack,
        new,
        made,
        memory.new_x,
        memory.new_mask,
        memory.facet,
        live,
    )
    copy_rows(memory.facet, stack.facet[top], FACETS)
    memory.sign[k] = np.int8(-stay)
    push(net, memory, stack, top, layer, other_live, used, other, u)
    for c in range(n + 1):
        memory.facet[place, c] = -memory.facet[place, c]
    memory.sign[k] = np.int8(stay)
    count, live = keep_half(
        n,
        stay,
        memory.x,
        memory.mask,
        count,
        slack,
        new,
        made,
        memory.new_x,
        memory.new_mask,
        memory.facet,
        live,
    )
    return count, live, other


@entry
def search(net, memory, stack, rtol, budget):  # type: ignore[no-untyped-def]
    """From the frames in `memory` (memory.sign holds what is settled in the layers before that of frame 0). Stops after
    `budget` cells, when a cell is stuck (it is the top frame then), or when memory is short."""
    n, counts = net.n, memory.counts
    questions = len(net.question) - 1
    u, a = np.zeros(questions), np.zeros(n)
    matrices = np.zeros((2, net.shape[OFF, net.layers + 1] - net.shape[OFF, net.layers], n))
    top, used, spent = counts[TOP], 0, 0
    for f in range(top):
        used += stack.place[f, 1]
    for layer in range(stack.place[0, 0] + 1):
        enter(net, memory, layer)
        if layer < stack.place[0, 0]:
            leave(net, memory, layer)
    counts[STATUS] = DONE
    while top > 0:
        if spent >= budget:
            counts[STATUS] = SPENT
            break
        if top > FRAMES - 4 or used > POOL - RESERVE:
            counts[STATUS] = FULL
            break
        top -= 1
        layer, live, count = pull(net, memory, stack, top, used)
        used -= count
        copy(stack.u[top], u)
        while True:
            if pruned(memory, u, rtol):
                close(memory, u)
                break
            if count <= n:  # flat as far as vertices tell, which is no proof
                counts[CRAMPED] += 1
                close(memory, u)
                break
            counts[STAMP] += 1
            spent += 1
            stamp = counts[STAMP]
            prove_box(net, memory, live, count, stamp, a)
            if outside(net, memory, live, count, stamp, a):
                break
            if layer == net.layers:
                leaf(net, memory, count, u, a, matrices)
                close(memory, u)
                break
            choice, undecided = settle(net, memory, layer, live, count, stamp, a)
            forced = counts[FORCED]
            counts[FORCED] = -1
            if forced >= 0 and memory.sign[forced] == 0:
                choice = forced
            upper_values(net, memory, layer, live, count, stamp, u, matrices, a)
            if pruned(memory, u, rtol):
                close(memory, u)
                break
            if choice < 0 and undecided > 0:
                push_whole(net, memory, stack, top, layer, live, used, count, u)
                used += count
                top += 1
                counts[STATUS] = STUCK
                break
            if choice < 0:
                leave(net, memory, layer)
                layer += 1
                enter(net, memory, layer)
                if layer < net.layers:
                    for k in range(net.shape[OFF, layer], net.shape[OFF, layer + 1]):
                        memory.sign[k] = 0
                continue
            if top > FRAMES - 4 or used > POOL - RESERVE:
                push_whole(net, memory, stack, top, layer, live, used, count, u)
                used += count
                top += 1
                counts[STATUS] = FULL
                break
            slack = abs(memory.pre[n, choice])
            for d in range(n):
                slack += abs(memory.pre[d, choice])
            slack = 0.0 if choice == forced else slack * TOUCH
            left, new_live, other = halve(net, memory, stack, top, layer, live, used, count, u, choice, slack)
            if left < 0:
                counts[CRAMPED] += 1
                close(memory, u)
                break
            count, live = left, new_live
            top += 1
            used += other
        if counts[STATUS] == STUCK or counts[STATUS] == FULL:
            break
    counts[CELLS] += spent
    counts[TOP] = top


@entry
def probe(net, memory, points, values):  # type: ignore[no-untyped-def]
    """Floating norms (k, questions) of the Jacobians at `points` (k, n)."""
    n, last = net.n, net.shape[OFF, net.layers]
    u = np.zeros(len(net.question) - 1)
    matrices = np.zeros((2, net.shape[OFF, net.layers + 1] - last, n))
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
        outputs(net, memory, u, matrices, EXACTLY)
        copy(u, values[i])
