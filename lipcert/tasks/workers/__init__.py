"""Who does the shards of a task: processes of this machine, or a Dask cluster. Both are `concurrent.futures` executors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lipcert.tasks.task import Session
from lipcert.tasks.workers.stream import Workers
from lipcert.terms.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from lipcert.terms.progress import Progress


def chosen(count: int | None, scheduler: str | None, device: str = "cpu") -> Workers | None:
    """`count`: processes here. `scheduler`: "local", "local:N" or an address such as "tcp://host:8786". None, None: this
    process does the work itself."""
    if count is not None and scheduler is not None:
        raise UsageError(
            "--workers: these are processes of this machine; with --scheduler say local:N, or leave it out"
        )
    if scheduler is not None:
        from lipcert.tasks.workers.cluster import Cluster

        return Workers(Cluster(scheduler, device))
    if count is not None:
        if count < 1:
            raise UsageError(f"--workers {count}: one or more")
        from lipcert.tasks.workers.processes import Processes

        return Workers(Processes(count))
    return None


def session(
    progress: Progress | None,
    budget: float | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    journal: str | Path | None = None,
    device: str = "cpu",
) -> Session:
    """The resources of a task whose shards `workers` or `scheduler` do."""
    return Session(progress, budget, chosen(workers, scheduler, device), journal)


__all__ = ["Workers", "session"]
