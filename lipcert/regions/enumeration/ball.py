"""Regions that are balls around the centre of the box: cells that do not meet them, and points of cells inside them."""

from __future__ import annotations

import math

import numpy as np

from lipcert.regions.enumeration.compiled import ZERO, compiled, inlined
from lipcert.regions.enumeration.net import INVERSE
from lipcert.regions.enumeration.pruning import prove_least

WEIGHINGS = 200
STILL_LESS = 1e-9  # relative: what the square of a distance may still lose
DRAWN = 40


@compiled
def grown(total, size, norm):  # type: ignore[no-untyped-def]
    """The norm (of l2: its square) with one more coordinate."""
    if norm == 0:
        return max(total, size)
    return total + size * size if norm == 2 else total + size


@compiled
def from_centre(net, t):  # type: ignore[no-untyped-def]
    """Norm of the ball of x - centre."""
    total = 0.0
    for d in range(net.n):
        total = grown(total, abs(t[d]) / net.side[INVERSE, d], net.ball_norm)
    return math.sqrt(total) if net.ball_norm == 2 else total


@inlined
def nearest_vertex(net, memory, count):  # type: ignore[no-untyped-def]
    nearest, vertex = np.inf, ZERO
    for i in range(count):
        far = from_centre(net, memory.x[i])
        if far < nearest:
            nearest, vertex = far, i
    return nearest, vertex


@inlined
def nearest_point(net, memory, count, vertex, y):  # type: ignore[no-untyped-def]
    """The point of the cell that is nearest to the centre in l2, in x, into y (n,), floating, from a vertex on: weight goes from
    the vertex that is farthest along y to the one that is least far (Mitchell, Demyanov & Malozemov 1974). Weights are kept
    in the last column of memory.x. Returns the vertex that is least far along y."""
    n, x = net.n, memory.x
    for i in range(count):
        x[i, n] = 0.0
    x[vertex, n] = 1.0
    for d in range(n):
        y[d] = x[vertex, d] / net.side[INVERSE, d]
    first = vertex
    for _ in range(WEIGHINGS):
        least, most, size, last = np.inf, -np.inf, 0.0, vertex
        for d in range(n):
            size += y[d] * y[d]
        for i in range(count):
            along = 0.0
            for d in range(n):
                along += y[d] * x[i, d] / net.side[INVERSE, d]
            if along < least:
                least, first = along, i
            if along > most and x[i, n] > 0.0:
                most, last = along, i
        apart = 0.0
        for d in range(n):
            apart += ((x[first, d] - x[last, d]) / net.side[INVERSE, d]) ** 2
        if not (size - least > STILL_LESS * size) or not (apart > 0.0):
            break
        step = min(x[last, n], (most - least) / apart)
        x[last, n] -= step
        x[first, n] += step
        for d in range(n):
            y[d] += step * (x[first, d] - x[last, d]) / net.side[INVERSE, d]
    return first


@compiled
def outside(net, memory, live, count, stamp, a, y):  # type: ignore[no-untyped-def]
    """Proved: the cell does not meet the ball that is the region."""
    n = net.n
    if not (net.ball < np.inf):
        return False
    total = 0.0
    for d in range(n):
        gap = max(0.0, max(memory.box[0, d], -memory.box[1, d])) / net.side[INVERSE, d]
        total = grown(total, gap, net.ball_norm)
    if net.ball_norm == 2:
        total = math.sqrt(total)
    if total * (1.0 - 1e-13) > net.ball:
        return True
    nearest, vertex = nearest_vertex(net, memory, count)
    if not (nearest > net.ball):
        return False
    # |x| >= g.x / dual norm of g; g is y where it is nearest in l2, and the signs of a vertex in l1; in linf the box has said it
    if net.ball_norm == 0:
        return False
    if net.ball_norm == 2:
        vertex = nearest_point(net, memory, count, vertex, y)
    dual = 0.0
    for d in range(n):
        g = y[d]
        if net.ball_norm == 1:
            g = 1.0 if memory.x[vertex, d] > 0.0 else -1.0
        dual = dual + g * g if net.ball_norm == 2 else 1.0
        a[d] = g / net.side[INVERSE, d]
    if net.ball_norm == 2:
        dual = math.sqrt(dual)
        if not (dual > net.ball):
            return False
    return prove_least(net, memory, live, vertex, stamp, a, 0.0, 0.0) * (1.0 - 1e-13) > net.ball * dual


@inlined
def inner_point(net, memory, count, a, y):  # type: ignore[no-untyped-def]
    """The mean of the vertices into a (n,), drawn into the ball where that is the region. False: not found there."""
    n = net.n
    for d in range(n):
        a[d] = 0.0
        for i in range(count):
            a[d] += memory.x[i, d] / count
    if not (net.ball < np.inf) or from_centre(net, a) < net.ball * (1.0 - 1e-12):
        return True
    _, vertex = nearest_vertex(net, memory, count)
    nearest_point(net, memory, count, vertex, y)
    for d in range(n):
        y[d] *= net.side[INVERSE, d]
    if not (from_centre(net, y) < net.ball):
        for d in range(n):
            y[d] = memory.x[vertex, d]
    for _ in range(DRAWN):
        for d in range(n):
            a[d] = y[d] + 0.7 * (a[d] - y[d])
        if from_centre(net, a) < net.ball * (1.0 - 1e-12):
            return True
    return False
