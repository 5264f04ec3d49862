"""Shards through an executor: a bounded number at once, each result once, whoever dies on the way."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import torch

from lipcert.rigor.rounding import keeps_subnormals
from lipcert.tasks.task import Session
from lipcert.tasks.workers.packing import aligned, packed, unpacked
from lipcert.terms.clock import OutOfTime, late, tick, until
from lipcert.terms.errors import WorkersLost
from lipcert.terms.malloc import keep_memory
from lipcert.terms.memory import allowed, within

if TYPE_CHECKING:
    from lipcert.tasks.shards import Data, Shard, Work

SHARE = 0.9  # of the time that is left, for a worker
PAUSE = 0.2  # seconds: how long a signal waits
TRIES = 5  # losses of workers one after another, with nothing done between them


class Engine(Protocol):
    """`lost`: what a future raises when its worker, or the way to it, is gone."""

    lost: tuple[type[BaseException], ...]

    @property
    def window(self) -> int:
        """Shards that are sent before the first comes back: enough to keep all busy, few enough to bound memory."""

    def start(self, work: bytes) -> None: ...

    def submit(self, what: Any, seconds: float | None) -> Future[Data | None]: ...

    def restart(self) -> None:
        """After a loss: new workers, or a new way to them, with the same work."""

    def close(self) -> None: ...

    def __str__(self) -> str: ...


class Workers:
    def __init__(self, engine: Engine):
        self.engine = engine

    def done(self, work: Work, shards: Sequence[Shard], session: Session) -> Generator[tuple[Shard, Data]]:
        """As they come back. WorkersLost where workers die again and again."""
        if not shards:
            return
        session.say(f"waiting for {self.engine}")
        waiting, running, losses, cut = deque(shards), dict[Future[Any], Any](), 0, False
        try:
            lost = self._begin(packed((work, allowed())))
            while (waiting and not late()) or running:
                tick()
                lost = lost or self._send(waiting, running, session)
                for future in wait(running, timeout=PAUSE, return_when=FIRST_COMPLETED).done:
                    try:
                        found = future.result()
                    except self.engine.lost as problem:
                        lost = problem
                        continue
                    losses = 0
                    shard = running.pop(future)
                    if found is not None:
                        yield shard, found
                    cut = cut or found is None
                if lost is not None:
                    losses += 1
                    if losses >= TRIES:
                        raise WorkersLost(
                            f"{self.engine}: workers died {losses} times in a row ({lost or type(lost).__name__}), perhaps "
                            "for want of memory; give fewer of them, or look into their logs"
                        ) from lost
                    waiting.extendleft(reversed(running.values()))
                    running.clear()
                    self.engine.restart()
                    lost = None
        finally:
            self.engine.close()
        if waiting or cut:
            raise OutOfTime

    def _begin(self, work: bytes) -> BaseException | None:
        try:
            self.engine.start(work)
        except self.engine.lost as problem:
            return problem
        return None

    def _send(
        self, waiting: deque[Shard], running: dict[Future[Data | None], Shard], session: Session
    ) -> BaseException | None:
        """As many as the window takes. What was lost on the way is returned; its shard is still waiting."""
        try:
            while waiting and len(running) < self.engine.window and not late():
                running[self.engine.submit(waiting[0].told(), _left(session))] = waiting[0]
                waiting.popleft()
        except self.engine.lost as problem:
            return problem
        return None


def _left(session: Session) -> float | None:
    """Clocks of two machines have nothing in common: what is left is sent, but for the way back."""
    return None if session.deadline is None else max(0.0, SHARE * (session.deadline - time.monotonic()))


@lru_cache(maxsize=2)
def _work(data: bytes) -> tuple[Work, float]:
    keep_memory()
    return unpacked(data)


@keeps_subnormals
def perform(data: bytes, what: Any, seconds: float | None) -> Data | None:
    """In a worker. The work is unpacked once. None: there was no time."""
    session = Session(budget=seconds)
    work, gigabytes = _work(data)
    try:
        with torch.no_grad(), until(session.deadline), within(gigabytes):
            return work(aligned(what), session)
    except OutOfTime:
        return None
