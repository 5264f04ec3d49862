"""Signals of the network on a cell, as affine forms with errors and Jacobian columns with radii.

Row layout of `form`: slopes (n), constant, error, centres of the Jacobian (n), its radii (n). The row of errors holds
e + gamma (|H| R + |h_0|), and the rows of radii R + gamma |C|: what the next product must multiply by |W| (Higham,
Accuracy and Stability, eq. 3.5), so that a product needs no pass of its own for rounding.
"""

from __future__ import annotations

from lipcert.regions.enumeration.compiled import NO, compiled, inlined
from lipcert.regions.enumeration.net import (
    BIAS,
    BIAS_ERROR,
    DEAD,
    ERROR,
    FIRST,
    LEFT,
    OFF,
    RADIUS,
    RHO,
    RIGHT,
    SIZE,
    START,
    WEIGHT,
    WIDE,
)
from lipcert.regions.enumeration.polytope import LOST, SLACK


@compiled
def multiply(net, memory, layer, whole):  # type: ignore[no-untyped-def]
    """W form into memory.out for one layer. `whole`: Jacobian rows as well. Four terms at a time, for the memory's sake."""
    n, out, form, columns, alive = net.n, memory.out, memory.form, net.columns, memory.alive
    wide, start = net.shape[WIDE, layer], net.shape[START, layer]
    base = net.shape[FIRST, layer] - start * wide
    count = 0
    for k in range(start, net.shape[START, layer + 1]):
        if form[DEAD, columns[k]] == 0.0:
            alive[count] = k
            count += 1
    for c in range(3 * n + 2 if whole else n + 2):
        weight = net.weight[SIZE if c == n + 1 or c >= 2 * n + 2 else WEIGHT]
        row, entry = out[c], form[c]
        for i in range(wide):
            row[i] = 0.0
        for g in range(0, count - 3, 4):
            k0, k1, k2, k3 = alive[g], alive[g + 1], alive[g + 2], alive[g + 3]
            a0, a1, a2, a3 = entry[columns[k0]], entry[columns[k1]], entry[columns[k2]], entry[columns[k3]]
            w0 = weight[base + k0 * wide : base + (k0 + 1) * wide]
            w1 = weight[base + k1 * wide : base + (k1 + 1) * wide]
            w2 = weight[base + k2 * wide : base + (k2 + 1) * wide]
            w3 = weight[base + k3 * wide : base + (k3 + 1) * wide]
            for i in range(wide):
                row[i] += (a0 * w0[i] + a1 * w1[i]) + (a2 * w2[i] + a3 * w3[i])
        for g in range(count - count % 4, count):
            k0 = alive[g]
            a0 = entry[columns[k0]]
            w0 = weight[base + k0 * wide : base + (k0 + 1) * wide]
            for i in range(wide):
                row[i] += a0 * w0[i]
    if net.inexact:
        for g in range(count):
            _inexact(net, memory, base + alive[g] * wide, wide, columns[alive[g]], whole)
    _finish(net, memory, layer, whole)


@inlined
def _inexact(net, memory, at, wide, j, whole):  # type: ignore[no-untyped-def]
    """E times what the entries may be."""
    n, out, form = net.n, memory.out, memory.form
    mass = abs(form[n, j]) + form[n + 1, j]
    for c in range(n):
        mass += abs(form[c, j]) * net.side[RADIUS, c]
    for i in range(wide):
        out[n + 1, i] += mass * net.weight[ERROR, at + i]
    if whole:
        for c in range(n):
            mass = abs(form[n + 2 + c, j]) + form[2 * n + 2 + c, j]
            for i in range(wide):
                out[2 * n + 2 + c, i] += mass * net.weight[ERROR, at + i]


@inlined
def _finish(net, memory, layer, whole):  # type: ignore[no-untyped-def]
    """Biases, and errors rounded up. Exact zeros stay exact."""
    n, out = net.n, memory.out
    grow = 1.0 + 4.0 * net.gamma
    base = net.shape[OFF, layer]
    for i in range(net.shape[OFF, layer + 1] - base):
        bias = net.hinge[BIAS, base + i]
        out[n, i] += bias
        error = (
            out[n + 1, i] + net.hinge[BIAS_ERROR, base + i] + net.gamma * (abs(bias) if out[n + 1, i] > 0.0 else 0.0)
        )
        out[n + 1, i] = error * grow + LOST if error > 0.0 else 0.0
        if whole:
            for c in range(2 * n + 2, 3 * n + 2):
                if out[c, i] > 0.0:
                    out[c, i] = out[c, i] * grow + LOST


@compiled
def put_settled(net, memory, j, k, slope):  # type: ignore[no-untyped-def]
    """Signal j is slope times v_k, with its Jacobian."""
    n, form, pre = net.n, memory.form, memory.pre
    if slope == 0.0:
        memory.form[DEAD, j] = 1
        for c in range(3 * n + 2):
            form[c, j] = 0.0
        return
    mass, some = abs(slope * pre[n, k]), memory.pre[RHO, k]
    for c in range(n):
        form[c, j] = form[n + 2 + c, j] = slope * pre[c, k]
        mass += abs(form[c, j]) * net.side[RADIUS, c]
        some += abs(pre[c, k])
    form[n, j] = slope * pre[n, k]
    if mass == 0.0 and some == 0.0:
        memory.form[DEAD, j] = 1
        for c in range(3 * n + 2):
            form[c, j] = 0.0
        return
    memory.form[DEAD, j] = 0
    rounding = 0.0 if abs(slope) == 1.0 else SLACK
    rho = abs(slope) * memory.pre[RHO, k] * (1.0 + SLACK) + rounding * mass
    form[n + 1, j] = rho + net.gamma * mass + LOST
    for c in range(n):
        form[2 * n + 2 + c, j] = (rho / net.side[RADIUS, c] + net.gamma * abs(form[c, j])) * (1.0 + SLACK) + LOST


@compiled
def enter(net, memory, layer):  # type: ignore[no-untyped-def]
    """v of one layer, from signals that are all affine on the cell."""
    n = net.n
    multiply(net, memory, layer, NO)
    base = net.shape[OFF, layer]
    for i in range(net.shape[OFF, layer + 1] - base):
        for c in range(n + 1):
            memory.pre[c, base + i] = memory.out[c, i]
        memory.pre[RHO, base + i] = memory.out[n + 1, i]


@compiled
def leave(net, memory, layer):  # type: ignore[no-untyped-def]
    """z of a layer whose hinges are all settled."""
    for k in range(net.shape[OFF, layer], net.shape[OFF, layer + 1]):
        put_settled(net, memory, net.n + k, k, net.hinge[RIGHT, k] if memory.sign[k] > 0 else net.hinge[LEFT, k])
