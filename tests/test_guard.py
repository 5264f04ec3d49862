"""Guard: what untrusted code can do to the process that reads it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
import torch

from lipcert.errors import RefusedModel, UnreadableError, UsageError
from lipcert.load.guard import guarded


def test_result_comes_back_even_when_larger_than_the_pipe() -> None:
    big = guarded(lambda n: np.arange(n), 3_000_000)
    assert big.shape == (3_000_000,)
    assert big[-1] == 2_999_999


def test_endless_loop_is_killed() -> None:
    def forever() -> None:
        while True:
            pass

    with pytest.raises(RefusedModel, match=r"^the model: stopped after the 0\.3 s"):
        guarded(forever, seconds=0.3, what="the model")
    with pytest.raises(ChildProcessError):  # nothing is left to wait for
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize(
    "allocate",
    [lambda: torch.ones(10**12).sum().item(), lambda: np.ones(10**12).sum(), lambda: bytearray(10**13)[0],
     lambda: torch.ones(2**62, 4).sum().item()],
)  # fmt: skip
def test_huge_allocation_is_a_refusal(allocate) -> None:
    with pytest.raises(RefusedModel, match="more than the 1 GB"):
        guarded(allocate, gigabytes=1.0)


def test_half_a_gigabyte_fits() -> None:
    assert guarded(lambda: float(torch.ones(2**26, dtype=torch.float64).sum()), gigabytes=1.0) == 2**26


def test_death_by_signal_is_told() -> None:
    with pytest.raises(RefusedModel, match=r"crashed \(SIGSEGV\)"):
        guarded(lambda: os.kill(os.getpid(), signal.SIGSEGV))


@pytest.mark.parametrize("kind", [RefusedModel, UnreadableError, UsageError])
def test_own_errors_pass_through(kind) -> None:
    def fail() -> None:
        raise kind("node 7 (aten.foo): no")

    with pytest.raises(kind, match=r"^node 7 \(aten.foo\): no$"):
        guarded(fail)


def test_attributes_of_refusals_survive() -> None:
    def fail() -> None:
        raise RefusedModel("floor", node="floor_1", unbounded=True)

    with pytest.raises(RefusedModel) as caught:
        guarded(fail)
    assert (caught.value.node, caught.value.unbounded) == ("floor_1", True)


def test_foreign_errors_take_the_callers_class() -> None:
    with pytest.raises(UnreadableError, match=r"^reading x: ZeroDivisionError: "):
        guarded(lambda: 1 // 0, what="reading x", error=UnreadableError)


def test_result_that_does_not_pickle_is_an_error_not_a_hang() -> None:
    with pytest.raises(RefusedModel, match="pickle"):
        guarded(lambda: threading.Lock())


def test_exit_in_the_child_stays_there() -> None:
    with pytest.raises(RefusedModel, match="SystemExit"):
        guarded(lambda: sys.exit(0))
    with pytest.raises(RefusedModel, match="ended without an answer"):
        guarded(lambda: os._exit(0))


def test_output_of_the_child_is_dropped(capfd) -> None:
    def talk() -> int:
        print("polluting")
        os.write(1, b"polluting")
        os.write(2, b"polluting")
        return 1

    assert guarded(talk) == 1
    assert capfd.readouterr() == ("", "")


def test_state_of_the_parent_is_untouched() -> None:
    seen = [0]
    threads = torch.get_num_threads()
    assert guarded(lambda: seen.append(1) or len(seen)) == 2
    assert seen == [0]
    assert torch.get_num_threads() == threads


def test_works_after_the_parent_used_threads() -> None:
    torch.set_num_threads(2)
    try:
        a = torch.randn(300, 300)
        (a @ a).relu()
        assert guarded(lambda: (a @ a).numpy()).shape == (300, 300)
    finally:
        torch.set_num_threads(1)


def test_interrupt_of_the_parent_kills_the_child(tmp_path) -> None:
    note = tmp_path / "pid"

    def wait() -> None:
        note.write_text(str(os.getpid()))
        time.sleep(60)

    def interrupt() -> None:
        while not (note.exists() and note.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        guarded(wait)
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)
