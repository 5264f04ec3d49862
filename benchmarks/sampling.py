"""Cases of sampling: pairs of points as in Rosca et al. A.1 against nn.Sequential and the float32 GEMM peak of the same run,
and Jacobian norms against torch.func's jacrev under vmap.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from cases import Floor, Measured, Target, peak_gb
from rivals import Attempt

WIDE, PAIRS = (2, 100, 100, 100, 1), 2500
BOX = ((-2.0, 3.0), (-1.5, 2.0))
KEPT = 3.0  # seconds of the rivals, which are slower: on fewer cells, scaled up


def pairs(repeat: int, smoke: bool) -> Measured:
    """2500 pairs in each cell of a 50x50 grid, 2-100-100-100-1, ReLU: screened in float32, winners proved in float64."""
    import networks
    import torch

    import lipcert
    from lipcert.sampling.forward import Forward
    from lipcert.sampling.pairs import largest_ratios
    from lipcert.terms.query import Norm

    side = 3 if smoke else 50
    module = networks.mlp(list(WIDE))
    graph = lipcert.load(module, input_shape=(1, 2)).graph
    lower, upper = _grid(side)
    done = Measured(against="pairs", targets=[] if smoke else [Target("fraction", 0.7, least=True)])
    forward = Forward(graph, "cpu", torch.float32)
    x = forward.ones(forward.columns).uniform_(-1, 1)
    x[-1] = 1.0
    rounds = 1 if smoke else 24
    peaks = []
    with torch.no_grad():
        for _ in range(repeat):
            peaks.append(float32_peak())
            done.clock("forward", lambda: [forward.run(x) for _ in range(rounds)])
            peaks.append(float32_peak())
            found = done.clock("pairs", lambda: largest_ratios(graph, lower, upper, PAIRS, Norm()))
    done.peak_gb = peak_gb()
    cells = len(lower)
    flops = 2 * sum(n * m for n, m in pairwise(WIDE))
    rate = flops * forward.columns * rounds / min(t["wall"] for t in done.times["forward"])
    shown = max(peaks)
    done.values = {
        "upper": float(found.value.max()),  # what a rival's value is divided by; it is a lower one
        "forward gflops": rate / 1e9,
        "peak gflops": shown / 1e9,
        "fraction": rate / shown,
        "points": cells * PAIRS * 2,
    }
    done.rivals = [_sequential(module, lower, upper, together) for together in (1, 100)]
    return done


def _grid(side: int) -> tuple[Any, Any]:
    import torch

    edges = [torch.linspace(low, high, side + 1, dtype=torch.float64) for low, high in BOX]
    lower = torch.cartesian_prod(*(e[:-1] for e in edges))
    upper = torch.cartesian_prod(*(e[1:] for e in edges))
    return lower, upper


def _sequential(module: Any, lower: Any, upper: Any, together: int) -> Attempt:
    """The same question as one writes it down: `together` cells at once, float32, nothing subtracted."""
    import torch

    torch.manual_seed(0)
    start, best, done = time.perf_counter(), 0.0, 0
    low, width = lower.float()[:, None], (upper - lower).float()[:, None]
    with torch.no_grad():
        while done < len(low) and time.perf_counter() - start < KEPT:
            cells = slice(done, done + together)
            x = low[cells] + torch.rand(2, len(low[cells]), PAIRS, 2) * width[cells]
            y = module(x.reshape(-1, 2)).reshape(*x.shape[:3], -1)
            best = max(best, float(((y[0] - y[1]).norm(dim=2) / (x[0] - x[1]).norm(dim=2)).max()))
            done += len(low[cells])
    seconds = (time.perf_counter() - start) * len(low) / done
    note = f"float32, rounding not taken off; {done} of {len(low)} cells, scaled up"
    return Attempt(f"nn.Sequential, {together * PAIRS * 2:,} rows at once", "estimate", "ok", seconds, best, note)


def float32_peak(n: int = 1024, seconds: float = 0.4) -> float:
    """Best float32 matrix product rate of this process, flop/s."""
    import torch

    a, b, c = (torch.rand(n, n) for _ in range(3))
    torch.mm(a, b, out=c)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(a, b, out=c)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


def jacobians(make: Callable[[], Any], count: int, doc: str) -> Callable[[int, bool], Measured]:
    """A case: norms of `count` Jacobians of the module that `make` gives with its input shape."""

    def run(repeat: int, smoke: bool) -> Measured:
        import torch

        import lipcert
        from lipcert.sampling.directions import flops as flops_of_all
        from lipcert.sampling.jacobian import batch, norms_at

        module, shape = make()
        graph = lipcert.load(module, input_shape=shape).graph
        k = 20 if smoke else count
        x = torch.randn(k, graph.nodes[graph.input].size, dtype=torch.float64)
        step = batch(graph)
        done = Measured(against="jacobians")
        for _ in range(repeat):
            norms = done.clock("jacobians", lambda: [norms_at(graph, x[i : i + step]) for i in range(0, k, step)])
        done.peak_gb = peak_gb()
        largest = max(float(found["spectral"].max()) for found in norms)
        done.rivals = [_vmap(module.double(), x, shape, step)]
        flops = 2.0 * k * min(graph.nodes[graph.output].size, x.shape[1]) * flops_of_all(graph)
        done.floors = {"jacobians": Floor(flops, note="one pass back for each output")}
        done.values = {"upper": largest, "points": k}
        return done

    run.__doc__ = doc
    return run


def _vmap(module: Any, x: Any, shape: tuple[int, ...], step: int) -> Attempt:
    import torch
    from torch.func import jacrev, vmap

    of_one = vmap(jacrev(lambda at: module(at.reshape(shape)).reshape(-1)))
    start, largest = time.perf_counter(), 0.0
    for i in range(0, len(x), step):
        J = of_one(x[i : i + step])
        singular = torch.linalg.svdvals(J)
        for size in (torch.linalg.matrix_norm(J, p) for p in (1, float("inf"), "fro")):
            size.max()
        largest = max(largest, float(singular.max()))
    seconds = time.perf_counter() - start
    return Attempt("vmap(jacrev), svdvals, matrix_norm", "lower", "ok", seconds, largest, "float64, the same batches")


def _mnist() -> Any:
    import networks

    return networks.mlp([784, 256, 256, 10]), (1, 784)


def _conv() -> Any:
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10)).eval(), (1, 1, 28, 28)


CASES: dict[str, Callable[[int, bool], Measured]] = {
    "pairs-2500": pairs,
    "jacobians-mlp": jacobians(_mnist, 1000, "784-256-256-10, 1000 Jacobians: all five norms."),
    "jacobians-conv": jacobians(
        _conv, 300, "Two 4x4 convolutions of stride 2 and two dense layers, 28x28, 300 Jacobians."
    ),
}
