"""An upper value on a cell, of the norm of the Jacobian or of outputs, from the layer that it has been settled up to.

Hinges that cross on the cell become chords with an error, values as affine forms in t (one form per neuron, no LP), and
Jacobian entries the hull of what either slope makes of them. Ranges come from the proved box of the cell, and where that leaves a
sign open, from its vertices, proved as everything else.
"""

from __future__ import annotations

import numpy as np

from lipcert.regions.enumeration.affine import multiply, put_settled
from lipcert.regions.enumeration.compiled import ZERO, compiled, inlined
from lipcert.regions.enumeration.net import DEAD, HIGH, INVERSE, LEFT, LOW, NORMS, OFF, RADIUS, RHO, RIGHT
from lipcert.regions.enumeration.polytope import LOST, SLACK, edges_at, safe_least
from lipcert.regions.enumeration.sizes import SQUARINGS, largest


@inlined
def extremes(n, form, at, x, count):  # type: ignore[no-untyped-def]
    """Where column `at` of `form` (n slopes, constant) is least and largest among the vertices, and its values there."""
    low, high, first, last = np.inf, -np.inf, ZERO, ZERO
    for i in range(count):
        total = form[n, at]
        for d in range(n):
            total += form[d, at] * x[i, d]
        if total < low:
            low, first = total, i
        if total > high:
            high, last = total, i
    return low, high, first, last


@compiled
def prove_least(net, memory, live, vertex, stamp, a, b, rho):  # type: ignore[no-untyped-def]
    """`safe_least` from a vertex; the edges that leave it are kept for the other claims about this cell."""
    n = net.n
    work = memory.work
    basis, edges = memory.basis[len(memory.basis) - 1], memory.edges[len(memory.edges) - 1]
    if memory.basis[vertex, n] != stamp:
        memory.basis[vertex, n] = stamp
        if not edges_at(n, memory.facet, memory.mask[vertex] & live, work, memory.basis[vertex], memory.edges[vertex]):
            memory.basis[vertex, 0] = -1
    if memory.basis[vertex, 0] < 0:
        return -np.inf
    for i in range(n):
        basis[i] = memory.basis[vertex, i]
        for j in range(n):
            edges[i, j] = memory.edges[vertex, i, j]
    return safe_least(n, memory.facet, live, net.side[RADIUS], (a, b, rho), (basis, edges, work))


@inlined
def range_on_box(n, form, at, error, box):  # type: ignore[no-untyped-def]
    low = high = form[n, at]
    mass = abs(low)
    for d in range(n):
        a = form[d, at]
        first, second = a * box[0, d], a * box[1, d]
        low += min(first, second)
        high += max(first, second)
        mass += max(abs(first), abs(second))
    slack = error + SLACK * (mass + error)
    if mass > 0.0:
        slack += LOST
    return low - slack, high + slack


@compiled
def prove_range(net, memory, live, ends, stamp, value, known, a):  # type: ignore[no-untyped-def]
    """The range on the cell of `value` = (form, at, error): form[:, at] +- error, least and largest at its vertices `ends`;
    `known` = (low, high). `a`: (n,) to work with."""
    n, (first, last), (form, at, error), (low, high) = net.n, ends, value, known
    for d in range(n):
        a[d] = form[d, at]
    low = max(low, prove_least(net, memory, live, first, stamp, a, form[n, at], error))
    for d in range(n):
        a[d] = -form[d, at]
    high = min(high, -prove_least(net, memory, live, last, stamp, a, -form[n, at], error))
    return low, high


@inlined
def prove_box(net, memory, live, count, stamp, a):  # type: ignore[no-untyped-def]
    """The bounding box of the cell, within the one in memory.box."""
    for d in range(net.n):
        first = last = ZERO
        for i in range(count):
            if memory.x[i, d] < memory.x[first, d]:
                first = i
            if memory.x[i, d] > memory.x[last, d]:
                last = i
        for i in range(net.n):
            a[i] = 0.0
        a[d] = 1.0
        memory.box[0, d] = max(memory.box[0, d], prove_least(net, memory, live, first, stamp, a, 0.0, 0.0))
        a[d] = -1.0
        memory.box[1, d] = min(memory.box[1, d], -prove_least(net, memory, live, last, stamp, a, 0.0, 0.0))


@compiled
def put_crossing(net, memory, j, value, jac, slopes, ends):  # type: ignore[no-untyped-def]
    """Signal j is a hinge of slopes (left, right) of `value` = (form, at, error), form[:, at] +- error within `ends` = (low,
    high), low < 0 < high. `jac`: first row of the Jacobian in `form`; its radii follow, or are error / radius where jac = 0
    (then its centres are the slopes)."""
    n, to, (form, at, error), (left, right), (low, high) = net.n, memory.form, value, slopes, ends
    memory.form[DEAD, j] = 0
    chord = (right * high - left * low) / (high - low)
    middle = 0.5 * (right - chord) * high
    # |s(z) - chord z - middle| is largest at low, 0 or high
    width = max(abs((left - chord) * low - middle), max(abs(middle), abs((right - chord) * high - middle)))
    size = abs(left) + abs(right)
    width = width * (1.0 + SLACK) + SLACK * size * max(-low, high)
    to[n, j] = chord * form[n, at] + middle
    mass = abs(chord * form[n, at]) + abs(middle)
    for c in range(n):
        to[c, j] = chord * form[c, at]
        mass += abs(to[c, j]) * net.side[RADIUS, c]
        centre = form[jac + c, at]
        radius = form[jac + n + c, at] if jac > 0 else error / net.side[RADIUS, c] * (1.0 + SLACK)
        first, last = centre - radius, centre + radius
        least = min(min(left * first, left * last), min(right * first, right * last))
        most = max(max(left * first, left * last), max(right * first, right * last))
        to[n + 2 + c, j] = 0.5 * (least + most)
        wide = 0.5 * (most - least) + SLACK * size * (abs(centre) + radius)
        to[2 * n + 2 + c, j] = wide + net.gamma * abs(to[n + 2 + c, j]) + LOST
    error = abs(chord) * error * (1.0 + SLACK) + width + SLACK * mass
    to[n + 1, j] = error + net.gamma * mass + LOST


@inlined
def put_open(net, memory, j, k, at, sign, low, high):  # type: ignore[no-untyped-def]
    """Signal j from memory.out[:, at]: settled, or a crossing hinge."""
    n, out, to = net.n, memory.out, memory.form
    if sign == 0:
        slopes = (net.hinge[LEFT, k], net.hinge[RIGHT, k])
        put_crossing(net, memory, j, (out, at, out[n + 1, at]), n + 2, slopes, (low, high))
        return
    slope = net.hinge[RIGHT, k] if sign > 0 else net.hinge[LEFT, k]
    memory.form[DEAD, j] = 1 if slope == 0.0 else 0
    mass = abs(slope * out[n, at])
    rounding = 0.0 if slope == 0.0 or abs(slope) == 1.0 else SLACK
    for c in range(n):
        to[c, j] = slope * out[c, at]
        mass += abs(to[c, j]) * net.side[RADIUS, c]
        to[n + 2 + c, j] = slope * out[n + 2 + c, at]
        wide = abs(slope) * out[2 * n + 2 + c, at] * (1.0 + SLACK)
        to[2 * n + 2 + c, j] = wide + (rounding + net.gamma) * abs(to[n + 2 + c, j]) + (0.0 if slope == 0.0 else LOST)
    to[n, j] = slope * out[n, at]
    error = abs(slope) * out[n + 1, at] * (1.0 + SLACK) + (rounding + net.gamma) * mass
    to[n + 1, j] = error + (0.0 if slope == 0.0 else LOST)


@compiled
def largest_values(net, memory, live, count, stamp, u, a):  # type: ignore[no-untyped-def]
    """min(u, largest value on the cell of the forms in memory.out) per question."""
    n, out = net.n, memory.out
    for question in range(len(net.question) - 1):
        most = -np.inf
        for i in range(net.question[question], net.question[question + 1]):
            error = out[n + 1, i]
            _, high = range_on_box(n, out, i, error, memory.box)
            if high > most:
                _, _, _, last = extremes(n, out, i, memory.x, count)
                for d in range(n):
                    a[d] = -out[d, i]
                proved = -prove_least(net, memory, live, last, stamp, a, -out[n, i], error)
                if proved < high:
                    high = proved
            if high > most:
                most = high
            elif not (high <= most):  # NaN
                return
        if most < u[question]:
            u[question] = most


@inlined
def upper_values(net, memory, layer, live, count, stamp, u, a):  # type: ignore[no-untyped-def]
    """min(u, bound) per question into u. `a` (n,) to work with."""
    n = net.n
    for k in range(net.shape[OFF, layer], net.shape[OFF, layer + 1]):
        if memory.sign[k] != 0:
            put_settled(net, memory, n + k, k, net.hinge[RIGHT, k] if memory.sign[k] > 0 else net.hinge[LEFT, k])
        elif memory.pre[LOW, k] > -np.inf and memory.pre[HIGH, k] < np.inf:
            rho, low, high = memory.pre[RHO, k], memory.pre[LOW, k], memory.pre[HIGH, k]
            slopes = (net.hinge[LEFT, k], net.hinge[RIGHT, k])
            put_crossing(net, memory, n + k, (memory.pre, k, rho), ZERO, slopes, (low, high))
        else:
            return
    for deep in range(layer + 1, net.layers):
        multiply(net, memory, deep, net.asks == NORMS)
        base = net.shape[OFF, deep]
        for i in range(net.shape[OFF, deep + 1] - base):
            k = base + i
            error = memory.out[n + 1, i]
            low, high = range_on_box(n, memory.out, i, error, memory.box)
            if low < 0.0 < high:
                least, most, first, last = extremes(n, memory.out, i, memory.x, count)
                if least > error or most < -error:  # worth a proof; of those that cross the box says enough
                    value = (memory.out, i, error)
                    low, high = prove_range(net, memory, live, (first, last), stamp, value, (low, high), a)
            if not (low > -np.inf and high < np.inf):
                return
            sign = 1 if low >= 0.0 else (-1 if high <= 0.0 else 0)
            put_open(net, memory, n + k, k, i, sign, low, high)
    multiply(net, memory, net.layers, net.asks == NORMS)
    if net.asks == NORMS:
        outputs(net, memory, u, SQUARINGS)
    else:
        largest_values(net, memory, live, count, stamp, u, a)


@inlined
def outputs(net, memory, u, squarings):  # type: ignore[no-untyped-def]
    """min(u, norm of memory.out) per question, in the units of x."""
    n, out, matrices = net.n, memory.out, memory.matrices
    for question in range(len(net.question) - 1):
        first = net.question[question]
        rows = net.question[question + 1] - first
        for i in range(rows):
            for c in range(n):
                matrices[0, i, c] = out[n + 2 + c, first + i] * net.side[INVERSE, c]
                matrices[1, i, c] = out[2 * n + 2 + c, first + i] * net.side[INVERSE, c]
        u[question] = min(u[question], largest(matrices, memory.vectors, rows, n, net.p, net.q, squarings))
