"""Cases of shards on Dask, on a scheduler and workers started by hand as docs/howto/cluster.md says: one worker and two on the same work,
this process without any, and `--scheduler local:1`, whose start counts. Wall clock counts: rerun it on a quiet machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from cases import Measured, Target, peak_gb
from machine import ROOT

ONE, TWO, HERE, LOCAL = "one worker", "two workers", "this process", "a worker of its own"
TWICE = Target(ONE, 1.7, over=TWO, least=True, clock="wall")
OVERHEAD = Target(ONE, 1.1, over=HERE, clock="wall")  # of a minute of work


def scaled(name: str, make: Callable[[bool], Callable[..., Any]], *targets: Target) -> Callable[[int, bool], Measured]:
    """`make(smoke)` prepares, and returns what takes `scheduler=`."""

    def run(repeat: int, smoke: bool) -> Measured:
        import torch

        torch.set_num_threads(1)
        ask, once = make(smoke), make(True)
        done = Measured(against=HERE, targets=[] if smoke else list(targets))
        reports = []
        for step, count in ((HERE, 0), (ONE, 1), (TWO, 2)):
            with ExitStack() as cluster:
                who = {"scheduler": cluster.enter_context(by_hand(count))} if count else {}
                once(**who)  # imports, machine code
                reports += [done.clock(step, lambda who=who: ask(**who)) for _ in range(repeat)]
        reports.append(done.clock(LOCAL, lambda: ask(scheduler="local:1")))
        done.values = {"upper": reports[0].upper, "alike": len({report.upper for report in reports}) == 1}
        done.peak_gb = peak_gb()
        return done

    run.__doc__ = f"{name}: in this process, with one Dask worker and with two."
    return run


@contextmanager
def by_hand(workers: int) -> Iterator[str]:
    """The address of a scheduler with so many workers."""
    with socket.socket() as free, ExitStack() as running:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        address, log = f"tcp://127.0.0.1:{port}", running.enter_context(tempfile.TemporaryFile())
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        for name, options in (
            ("scheduler", ("--host", "127.0.0.1", "--port", str(port))),
            ("worker", (address, "--nworkers", str(workers), "--nthreads", "1")),
        ):
            command = [sys.executable, "-m", f"distributed.cli.dask_{name}", *options, "--no-dashboard"]
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            running.callback(process.wait)
            running.callback(process.terminate)
        _joined(address, workers)
        yield address


def _joined(address: str, workers: int) -> None:
    from distributed import Client

    with Client(address, timeout=60, set_as_default=False) as client:
        client.wait_for_workers(workers, timeout=60)


def balls(smoke: bool) -> Callable[..., Any]:
    import networks
    import torch

    import lipcert

    sizes, count = ([16, 8, 4], 4) if smoke else ([784, 256, 256, 10], 100)
    model = lipcert.load(networks.mlp(sizes), input_shape=(1, sizes[0]))
    x = torch.rand(count, sizes[0], generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    return lambda **who: lipcert.local(
        model, x, [0.003, 0.005, 0.008, 0.01, 0.015, 0.02], norm="inf", methods=["linear"], each=60.0, **who
    )


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
    "cluster-balls": scaled("600 balls around 100 images, a minute of work", balls, TWICE, OVERHEAD),
    "cluster-grid": scaled("A grid of 200x200", grid, TWICE),
}
