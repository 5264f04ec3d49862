"""`--scheduler local | ADDRESS`: Dask distributed (extra `lipcert[cluster]`).

The model is sent once, by its hash, to every worker; a worker that dies is replaced by others, and a scheduler that is
started again is found again. Dask pickles what it sends: everybody who reaches a scheduler can run code on its workers.
"""

from __future__ import annotations

import contextlib
import os
import time
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any

from lipcert.tasks.workers.stream import perform
from lipcert.terms.clock import left, tick
from lipcert.terms.errors import UsageError, WorkersLost
from lipcert.terms.version import __version__

if TYPE_CHECKING:
    from lipcert.tasks.shards import Data

INSTALL = "pip install 'lipcert[cluster]'"
CONNECT = 10.0  # seconds
PATIENCE = 120.0  # seconds for a scheduler that is started again, and for its workers
RETRIES = 10  # deaths of workers that one shard survives
COUNTED = 1.0  # seconds until workers are counted again
BEYOND = 2  # shards per thread: one at work, one at hand


class Cluster:
    def __init__(self, address: str, device: str = "cpu"):
        try:
            import distributed
        except ImportError:
            raise UsageError(f"--scheduler {address}: Dask is not installed: {INSTALL}") from None
        self.address, self.resources = address, {"GPU": 1} if device.startswith("cuda") else {}
        self.lost: tuple[type[BaseException], ...] = (
            CancelledError,
            distributed.client.FutureCancelledError,
            distributed.scheduler.KilledWorker,
            distributed.comm.CommClosedError,
            OSError,
        )
        self.own: Any = None
        self.client: Any = None
        self.data = b""
        self.threads, self.counted = 1, -COUNTED

    def start(self, work: bytes) -> None:
        self.data = work
        if self.own is None and self.address.split(":")[0] == "local":
            self.own = _local(self.address)
        self._connect(CONNECT)
        _same_version(self.client, self.address)
        self._send()

    def _connect(self, seconds: float) -> None:
        from distributed import Client

        where, end = self.own if self.own is not None else self.address, time.monotonic() + seconds
        while True:
            tick()
            try:
                self.client = Client(where, timeout=min(seconds, left()), set_as_default=False)
                return
            except (OSError, ValueError, TimeoutError) as problem:  # also where a scheduler ends while it answers
                if isinstance(problem, ValueError) or time.monotonic() > end:
                    raise UsageError(f"--scheduler {self.address}: cannot be reached: {problem}") from problem
                time.sleep(0.2)

    def _send(self) -> None:
        end = time.monotonic() + PATIENCE
        while not self.client.nthreads():
            tick()
            if time.monotonic() > end:
                raise UsageError(
                    f"--scheduler {self.address}: no worker has joined in {PATIENCE:g} s: start some (dask worker)"
                )
            time.sleep(0.1)
        [self.sent] = self.client.scatter([self.data], hash=True, broadcast=True)
        self.executor = self.client.get_executor(pure=False, retries=RETRIES, resources=self.resources or None)

    @property
    def window(self) -> int:
        """Threads are counted once in a second: each time is a question to the scheduler."""
        if time.monotonic() > self.counted + COUNTED:
            self.threads, self.counted = sum(self.client.nthreads().values()), time.monotonic()
        return max(1, BEYOND * self.threads)

    def submit(self, what: Any, seconds: float | None) -> Future[Data | None]:
        return self.executor.submit(perform, self.sent, what, seconds)

    def restart(self) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            tick()
            self._hang_up()
            try:
                self._connect(CONNECT)
                return self._send()
            except (UsageError, OSError, CancelledError) as problem:
                if time.monotonic() > end:
                    raise WorkersLost(
                        f"--scheduler {self.address}: lost, and not found again in {PATIENCE:g} s: {problem}"
                    ) from problem
                time.sleep(0.5)

    def _hang_up(self) -> None:
        if self.client is not None:
            with contextlib.suppress(OSError, TimeoutError):
                self.client.close(timeout=1)
            self.client = None

    def close(self) -> None:
        self._hang_up()
        if self.own is not None:
            self.own.close(timeout=5)
            self.own = None

    def __str__(self) -> str:
        return f"the workers of {self.address}"


def _local(address: str) -> Any:
    from distributed import LocalCluster

    _, _, count = address.partition(":")
    if count and (not count.isdecimal() or int(count) < 1):
        raise UsageError(f"--scheduler {address}: write local, or local:N with N workers")
    workers = int(count) if count else len(os.sched_getaffinity(0))
    return LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)


def _same_version(client: Any, address: str) -> None:
    """Proofs of two versions are not mixed."""
    import torch

    here = (__version__, torch.__version__)
    for worker, there in client.run(versions).items():
        if there != here:
            told = "lipcert {} with torch {}"
            raise UsageError(
                f"--scheduler {address}: worker {worker} has {told.format(*there)}, here it is {told.format(*here)}; "
                "install the same versions"
            )


def versions() -> tuple[str, str]:
    import torch

    return __version__, torch.__version__
