"""A long task cut into shards that know nothing of each other: done here one by one, or by workers (`workers`).

What a shard gives is JSON data, floats to the last bit, so it is the same whether it was handed over, sent, or read back
from the journal (`journal/journal.py`): the report does not depend on who did the work, or in which order.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from lipcert.tasks.journal.journal import Journal
from lipcert.tasks.task import Session, Task
from lipcert.terms.clock import whole

Data = dict[str, Any]
CUT = "cut"  # of what a shard gives: the budget cut it short


class Work(Protocol):
    """What all shards share: graph, norm, region, effort. It is pickled, so nothing in it is local to a process."""

    def __call__(self, what: Any, session: Session) -> Data: ...


@dataclass(frozen=True)
class Shard:
    """`key`: its name in the journal, "samples 0-249". `what`: of it the work is told, small and picklable. `rows`: of the
    report, for `gather`."""

    key: str
    what: Any
    rows: Sequence[int] = ()

    def told(self) -> Any:
        """Asked when the shard is sent, and when it is sent again."""
        return self.what


@dataclass(frozen=True)
class Phase:
    """Shards of one kind. What they need of each other is in the work of a later phase."""

    work: Work
    shards: Sequence[Shard]


class Sharded(Task):
    """A task whose steps are shards."""

    of_journal: Sequence[str] = ()  # warnings

    @property
    def resumed(self) -> list[str]:
        return [*super().resumed, *self.of_journal]

    def phases(self) -> Iterator[Phase]:
        """One after the other: each is asked for when the shards of the one before are gathered."""
        raise NotImplementedError

    def gather(self, shard: Shard, found: Data) -> None:
        """In any order, each shard once."""
        raise NotImplementedError

    def lasts(self, found: Data) -> bool:
        """Whether it is written into the journal; what a spent budget has left open is done again by the next run."""
        return True

    def steps(self) -> Generator[None]:
        with Journal.of(self.session.journal, self.question, self.before.seal) as journal:
            taken = 0
            for phase in self.phases():
                yield
                known = [shard for shard in phase.shards if shard.key in journal.known]
                for shard in known:
                    self._take(shard, journal.known[shard.key])
                taken += len(known)
                self.of_journal = journal.words(taken)
                yield
                todo = [shard for shard in phase.shards if shard.key not in journal.known]
                with closing(done_by(self.session, phase.work, todo)) as done:
                    for shard, found in done:
                        if self.lasts(found) and not found.get(CUT):
                            journal.add(shard.key, found)
                        self._take(shard, found)
                        yield

    def _take(self, shard: Shard, found: Data) -> None:
        with whole():
            self.gather(shard, found)


def done_by(session: Session, work: Work, shards: Sequence[Shard]) -> Generator[tuple[Shard, Data]]:
    """By the workers of the session in any order, or here one by one."""
    if session.workers is not None:
        yield from session.workers.done(work, shards, session)
        return
    for shard in shards:
        yield shard, work(shard.told(), session)
