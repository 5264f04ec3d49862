"""`--workers N`: processes of this machine, one thread each, so that they share the cores and not fight for them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

import torch

from lipcert.tasks.workers.stream import perform

if TYPE_CHECKING:
    from lipcert.tasks.shards import Data

PRELOADED = ("torch", "lipcert.tasks.workers.processes")
_given = b""  # of this process, which is a worker


class Processes:
    lost: tuple[type[BaseException], ...] = (BrokenProcessPool,)

    def __init__(self, count: int):
        self.count = count
        self.data = b""
        self.pool: ProcessPoolExecutor | None = None

    @property
    def window(self) -> int:
        return 2 * self.count

    def start(self, work: bytes) -> None:
        self.data = work
        context = multiprocessing.get_context(
            "forkserver"
        )  # a fork of this process would take its threads' locks along
        context.set_forkserver_preload(list(PRELOADED))
        self.pool = ProcessPoolExecutor(self.count, mp_context=context, initializer=_begin, initargs=(work,))

    def submit(self, what: Any, seconds: float | None) -> Future[Data | None]:
        assert self.pool is not None
        try:
            return self.pool.submit(_perform, what, seconds)
        except BrokenProcessPool as problem:  # found out between two results
            lost: Future[Data | None] = Future()
            lost.set_exception(problem)
            return lost

    def restart(self) -> None:
        self.close()
        self.start(self.data)

    def close(self) -> None:
        if self.pool is not None:
            doomed = list((getattr(self.pool, "_processes", None) or {}).values())
            self.pool.shutdown(wait=False, cancel_futures=True)
            for process in doomed:  # what they still do is for nobody
                process.kill()
            self.pool = None

    def __str__(self) -> str:
        return f"{self.count} processes"


def _begin(work: bytes) -> None:
    global _given
    _given = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C of a terminal reaches all; the client decides
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_the_client, daemon=True).start()


def _end_with_the_client() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _perform(what: Any, seconds: float | None) -> Data | None:
    return perform(_given, what, seconds)
