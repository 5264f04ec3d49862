"""Cells on the stack of a search: how they are put there, taken back, and cut in two."""

from __future__ import annotations

import numpy as np

from lipcert.regions.enumeration.compiled import compiled, inlined
from lipcert.regions.enumeration.net import OFF, RHO, VERTICES
from lipcert.regions.enumeration.polytope import ONE, bits, cut, keep_half


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
def push(net, memory, stack, top, cell, u):  # type: ignore[no-untyped-def]
    """The cell at hand as frame `top`; its vertices and facets are written already. `cell`: (layer, live, count)."""
    layer, live, count = cell
    stack.place[top, 0] = layer
    stack.place[top, 1] = count
    stack.live[top] = live
    copy(u, stack.u[top])
    copy_rows(memory.box, stack.box[top], len(memory.box))
    if layer < net.layers:
        base = net.shape[OFF, layer]
        for k in range(net.shape[OFF, layer + 1] - base):
            stack.sign[top, k] = memory.sign[base + k]


@inlined
def push_whole(net, memory, stack, room, cell, u):  # type: ignore[no-untyped-def]
    """`room`: (top, used), the next frame, and where its vertices begin in the pool."""
    (top, used), count = room, cell[2]
    copy(memory.mask[:count], stack.mask[used:])
    copy_rows(memory.x, stack.x[used:], count)
    copy_rows(memory.facet, stack.facet[top], len(memory.facet))
    push(net, memory, stack, top, cell, u)


@inlined
def pull(net, memory, stack, top, used):  # type: ignore[no-untyped-def]
    """Frame `top`, whose vertices end at `used`, becomes the cell at hand. Returns (layer, live, count)."""
    count, layer = stack.place[top, 1], stack.place[top, 0]
    copy(stack.mask[used - count : used], memory.mask)
    copy_rows(stack.x[used - count :], memory.x, count)
    copy_rows(stack.facet[top], memory.facet, len(memory.facet))
    copy_rows(stack.box[top], memory.box, len(memory.box))
    if layer < net.layers:
        base = net.shape[OFF, layer]
        for k in range(net.shape[OFF, layer + 1] - base):
            memory.sign[base + k] = stack.sign[top, k]
    return layer, stack.live[top], count


@inlined
def put_facet(net, memory, place, side, k):  # type: ignore[no-untyped-def]
    """side v_k >= -rho_k."""
    n = net.n
    for c in range(n + 1):
        memory.facet[place, c] = side * memory.pre[c, k]
    memory.facet[place, n + 1] = memory.pre[RHO, k]
    memory.facet[place, n + 2] = k


@inlined
def put_values(net, memory, count, k):  # type: ignore[no-untyped-def]
    """v_k at the vertices, into their last column. Returns (least or 0, largest or 0)."""
    n = net.n
    low, high = 0.0, 0.0
    for i in range(count):
        total = memory.pre[n, k]
        for d in range(n):
            total += memory.pre[d, k] * memory.x[i, d]
        memory.x[i, n] = total
        low, high = min(low, total), max(high, total)
    return low, high


@inlined
def halve(net, memory, stack, room, cell, u, plane):  # type: ignore[no-untyped-def]
    """Cuts the cell at hinge k, where `plane` is (k, slack, side). One half goes to frame `top`, the other stays at hand: that
    of sign `side`, or where this is 0 the one that reaches farther. Returns (count, live, count of the other half); -1 where
    bits or vertices do not suffice."""
    n, (top, used), (layer, live, count), (k, slack, side) = net.n, room, cell, plane
    low, high = put_values(net, memory, count, k)
    free = ~live
    if free == np.uint64(0):
        return -1, live, 0
    new = free & (~free + ONE)
    place = bits(new - ONE)
    for i in range(count):  # bits are used again
        memory.mask[i] = memory.mask[i] & live
    new_x, new_mask = memory.new_x, memory.new_mask
    made = cut(n, memory.x, memory.mask, count, slack, new, new_x, new_mask)
    if made < 0 or count + made > VERTICES:
        return -1, live, 0
    stay = 1.0 if high > -low else -1.0
    if side != 0:
        stay = 1.0 if side > 0 else -1.0
    copy(memory.mask[:count], stack.mask[used:])
    copy_rows(memory.x, stack.x[used:], count)
    put_facet(net, memory, place, -stay, k)
    there = slice(used, used + count + made)
    points = (new, made, new_x, new_mask)
    half = (stack.x[there], stack.mask[there], count, live)
    other, other_live = keep_half(n, -stay, slack, half, points)
    copy_rows(memory.facet, stack.facet[top], len(memory.facet))
    memory.sign[k] = np.int8(-stay)
    push(net, memory, stack, top, (layer, other_live, other), u)
    put_facet(net, memory, place, stay, k)
    memory.sign[k] = np.int8(stay)
    count, live = keep_half(n, stay, slack, (memory.x, memory.mask, count, live), points)
    return count, live, other
