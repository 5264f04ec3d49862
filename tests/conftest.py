"""Shared fixtures: the folder of models kept outside the repository, seeds, one thread, footprints of hostile files."""

from __future__ import annotations

import gc
import os
import random
import signal
import tempfile
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from thorough import FIRST_CASES, FULL, by_turns

from lipcert.terms import clock

REPOSITORY = Path(__file__).resolve().parents[1]
FOOTPRINTS = ("/tmp/pwned_lipcert", "/tmp/lipcert_ts_wrote")  # what the files of shared/bad try to write

# What takes long begins early, and what mostly waits, for signals and clusters, first of all: others fill that time.
WAITING = ("test_shards.py", "test_surroundings.py", "test_terminated.py")
ROOMS = {name: place for place, name in enumerate(("tasks", "cli", "house", "regions", "laws", "proofs", "load"))}

torch.set_num_threads(1)
hypothesis.settings.register_profile("untimed", deadline=None)  # no test asserts a time, hypothesis neither
hypothesis.settings.load_profile("untimed")
clock.GRACE = 60.0  # no test asserts a time; those of budgets have a clock of their own
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="lipcert-tests-state-")  # the key of seals: not the developer's
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job of a shell: children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def shared_folder() -> Path:
    """The folder named by LIPCERT_SHARED (default: `shared` next to the repository). It may be absent; see `shared`."""
    return Path(os.environ.get("LIPCERT_SHARED", REPOSITORY.parent / "shared"))


def require_shared() -> Path:
    """`shared_folder()`, or a skip that says why; a failure where LIPCERT_REQUIRE_SHARED=1 demands the folder."""
    folder = shared_folder()
    if folder.is_dir():
        return folder
    reason = f"no models: {folder} is absent (set LIPCERT_SHARED)"
    if os.environ.get("LIPCERT_REQUIRE_SHARED") == "1":
        pytest.fail(f"LIPCERT_REQUIRE_SHARED=1 but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared() -> Path:
    return require_shared()


@pytest.fixture(autouse=True)
def seeded() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without LIPCERT_FULL=1: nothing that is `slow`, and of a law's cases the first and every nth after it by turns (`every`);
    with LIPCERT_FIRST_CASES=1 the first alone. A case named on the command line runs. What takes long comes first."""
    items.sort(key=lambda item: ROOMS.get(item.path.parent.name, len(ROOMS)) - (item.path.name in WAITING) * len(ROOMS))
    if FULL or any("[" in argument for argument in config.args):
        return
    laws: dict[str, list[pytest.Item]] = {}
    for item in items:
        laws.setdefault(item.nodeid.partition("[")[0], []).append(item)
    chosen = {item for cases in laws.values() for item in _by_default(cases)}
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]


def _by_default(cases: list[pytest.Item]) -> list[pytest.Item]:
    """Of one law."""
    every = cases[0].get_closest_marker("every")
    step = len(cases) if FIRST_CASES else 1 if every is None else every.args[0]
    cases = [case for case in cases[::step] if case.get_closest_marker("slow") is None]
    return cases if every is None else by_turns(cases)


def pytest_configure(config: pytest.Config) -> None:
    """Workers get few tests at a time, so that none of them is left with a long row at the end."""
    if getattr(config.option, "maxschedchunk", 0) is None:
        config.option.maxschedchunk = 40


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores: tests of clusters, signals and budgets wait most of their time."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is imported by now stays: no collection of garbage need look at it again (torch alone is a million objects)."""
    gc.collect()
    gc.freeze()


def pytest_sessionstart(session: pytest.Session) -> None:
    for footprint in FOOTPRINTS:
        if os.path.exists(footprint):
            pytest.exit(f"{footprint} exists before the tests: remove it and look for what wrote it", returncode=1)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    left = [footprint for footprint in FOOTPRINTS if os.path.exists(footprint)]
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print(f"\nFAILED: a hostile file ran code during the tests, it wrote {', '.join(left)}")
