"""How the time of each hot path grows with its size: CPU seconds at three sizes, and the exponent of the line through their logarithms."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cases import Measured, peak_gb
from regions import MOONS
from sampling import BOX, _grid


@dataclass(frozen=True)
class Path:
    """`make(size)` prepares and returns what is timed; where that returns a number, it is the size (cells that a search met)."""

    size: str
    sizes: Sequence[float]
    expected: str
    make: Callable[[Any], Callable[[], float | None]]


def _mlp(sizes: Sequence[int]) -> Any:
    import networks

    import lipcert

    return lipcert.load(networks.mlp(list(sizes)), input_shape=(1, sizes[0]))


def _asked(model: Any, **words: Any) -> Callable[[], None]:
    import lipcert

    return lambda: (lipcert.bound(model, **words), None)[1]


def _conv(side: int) -> Callable[[], None]:
    import torch

    from lipcert.operators.conv_norm import ConvGeometry
    from lipcert.operators.linear import Conv

    weight = torch.randn(32, 32, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    operator = Conv(weight, ConvGeometry((side, side), (1, 1), ((1, 1), (1, 1)), (1, 1)))
    return lambda: (operator.norm_upper("2", "2"), None)[1]


def _sweep(side: int) -> Callable[[], None]:
    import lipcert
    from lipcert.regions.cells import Cells
    from lipcert.regions.forward.slope import lipschitz_on
    from lipcert.terms.query import Norm

    graph, cells = lipcert.load(MOONS).graph, Cells.boxes(*_grid(side))
    return lambda: (lipschitz_on(graph, cells, Norm("inf", "inf")), None)[1]


def _cells(side: int) -> Callable[[], None]:
    import torch

    import lipcert
    from lipcert.terms.query import Box

    low, high = (torch.tensor([[edge[i] for edge in BOX]], dtype=torch.float64) for i in (0, 1))
    model = lipcert.load(MOONS)
    return lambda: (lipcert.local_grid(model, Box(low, high), (side, side), norm="2", rtol=0.05), None)[1]


def _jacobians(count: int) -> Callable[[], None]:
    import torch

    from lipcert.sampling.jacobian import norms_at

    graph = _mlp((784, 256, 256, 10)).graph
    x = torch.randn(count, 784, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return lambda: ([norms_at(graph, x[i : i + 100]) for i in range(0, count, 100)], None)[1]


def _balls(width: int) -> Callable[[], None]:
    import torch

    import lipcert

    model = _mlp((784, width, width, 10))
    x = torch.rand(4, 784, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    return lambda: (lipcert.local(model, x, 0.01, norm="inf", methods=["linear"]), None)[1]


def _enumerated(side: float) -> Callable[[], float]:
    import torch

    import lipcert
    from lipcert.regions.cells import Cells
    from lipcert.regions.enumeration.constant import constant
    from lipcert.regions.enumeration.tree import prepare
    from lipcert.terms.query import Norm

    prepare()
    graph = lipcert.load(MOONS).graph
    cells = Cells(torch.zeros(1, 2, dtype=torch.float64), torch.full((1, 2), side, dtype=torch.float64))
    return lambda: float(constant(graph, cells, Norm("2", "2"), 1e-9, time.monotonic() + 60.0).cells)


def _loaded(depth: int) -> Callable[[], None]:
    import networks

    import lipcert

    module = networks.mlp([32] * depth)
    return lambda: (lipcert.load(module, input_shape=(1, 32)), None)[1]


PATHS: dict[str, Path] = {
    "product of dense layers": Path("width", (256, 512, 1024), "3", lambda n: _asked(_mlp([n] * 4), methods=["product"])),
    "norm of a 3x3 convolution, 32 channels": Path("side", (14, 28, 56), "2: pixels", _conv),
    "slope sweep": Path("cells a side", (32, 64, 128), "2: cells", _sweep),
    "grid to 5 %": Path("cells a side", (20, 40, 80), "2: cells", _cells),
    "lipsdp, two hidden layers": Path("width", (128, 256, 512), "3", lambda n: _asked(_mlp((64, n, n, 10)), methods=["lipsdp"])),
    "pairs of logits": Path("outputs", (4, 8, 16), "2: pairs", lambda k: _asked(_mlp((64, 50, 50, k)), methods=["lipsdp"], output="pairs")),
    "Jacobian norms, 784-256-256-10": Path("points", (100, 200, 400), "1", _jacobians),
    "local constants, 784-n-n-10": Path("n", (128, 256, 512), "2: weights", _balls),
    "linear regions of two moons": Path("cells met", (0.8, 1.6, 3.2), "1", _enumerated),
    "loading a module": Path("layers", (4, 16, 64), "1", _loaded),
}  # fmt: skip


def growth(repeat: int, smoke: bool) -> Measured:
    """Every path at its sizes, smallest first."""
    rows = []
    for name, path in PATHS.items():
        sizes, seconds = [], []
        for size in path.sizes[: 1 if smoke else None]:
            try:
                run = path.make(size)
            except ImportError:  # the extra [fast]
                break
            if not seconds:
                run()  # imports
                run = path.make(size)
            start = time.process_time()
            met = run()
            seconds.append(time.process_time() - start)
            sizes.append(size if met is None else met)
        rows.append({"path": name, "size": path.size, "sizes": sizes, "cpu": seconds, "expected": path.expected,
                     "exponent": exponent(sizes, seconds)})  # fmt: skip
    return Measured(values={"growth": rows}, peak_gb=peak_gb())


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float | None:
    """Slope of log seconds over log size, by least squares."""
    if len(sizes) < 2 or min(seconds) <= 0:
        return None
    x, y = [math.log(s) for s in sizes], [math.log(t) for t in seconds]
    a, b = sum(x) / len(x), sum(y) / len(y)
    return sum((u - a) * (v - b) for u, v in zip(x, y, strict=True)) / sum((u - a) ** 2 for u in x)


CASES: dict[str, Callable[[int, bool], Measured]] = {"growth": growth}
