"""Signs of the hinges of one layer on a cell."""

from __future__ import annotations

import numpy as np

from lipcert.regions.enumeration.compiled import inlined
from lipcert.regions.enumeration.net import FAILED, HIGH, LOW, OFF, RHO, TOUCH, TURNED, TWIN
from lipcert.regions.enumeration.pruning import extremes, prove_range, range_on_box


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
            least, most, first, last = extremes(n, pre, k, memory.x, count)
            low, high = prove_range(net, memory, live, (first, last), stamp, (pre, k, rho), (low, high), a)
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
