"""Cases of shards on Dask: one worker and two on the same work, and this process without any. Wall clock counts: rerun it on a quiet machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cases import Measured, Target, peak_gb

ONE, TWO, HERE = "one worker", "two workers", "this process"


def scaled(name: str, make: Callable[[bool], Callable[..., Any]]) -> Callable[[int, bool], Measured]:
    """`make(smoke)` prepares, and returns what takes `scheduler=`."""

    def run(repeat: int, smoke: bool) -> Measured:
        import torch

        torch.set_num_threads(1)
        ask = make(smoke)
        done = Measured(against=HERE)
        if not smoke:
            done.targets = [Target(ONE, 1.7, over=TWO, least=True, clock="wall"), Target(ONE, 1.1, over=HERE)]
            ask()  # imports
        reports = []
        for _ in range(1 if smoke else repeat):
            reports.append(done.clock(HERE, ask))
            reports.append(done.clock(ONE, lambda: ask(scheduler="local:1")))
            reports.append(done.clock(TWO, lambda: ask(scheduler="local:2")))
        done.values = {"upper": reports[0].upper, "alike": len({report.upper for report in reports}) == 1}
        done.peak_gb = peak_gb()
        return done

    run.__doc__ = f"{name}: in this process, with one Dask worker and with two."
    return run


def balls(smoke: bool) -> Callable[..., Any]:
    import networks
    import torch

    import lipcert

    sizes, count = ([16, 8, 4], 4) if smoke else ([784, 256, 256, 10], 100)
    model = lipcert.load(networks.mlp(sizes), input_shape=(1, sizes[0]))
    x = torch.rand(count, sizes[0], generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    return lambda **who: lipcert.local(model, x, [0.005, 0.01, 0.02], norm="inf", methods=["linear"], each=60.0, **who)


def grid(smoke: bool) -> Callable[..., Any]:
    import torch
    from regions import MOONS
    from sampling import BOX

    import lipcert
    from lipcert.terms.query import Box

    low, high = (torch.tensor([[side[i] for side in BOX]], dtype=torch.float64) for i in (0, 1))
    model, shape = lipcert.load(MOONS), (4, 4) if smoke else (200, 200)
    return lambda **who: lipcert.local_grid(model, Box(low, high), shape, norm="2", rtol=0.05, **who)


CASES: dict[str, Callable[[int, bool], Measured]] = {
    "cluster-balls": scaled("300 balls around 100 images", balls),
    "cluster-grid": scaled("A grid of 200x200", grid),
}
