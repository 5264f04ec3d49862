"""The sandbox: what code that was taken over by a file can do to the machine, and to the process that asked for it."""

from __future__ import annotations

import ctypes
import io
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lipcert.sandbox.child import Child, step
from lipcert.sandbox.confine import described, support
from lipcert.sandbox.wire import NotData, pack, unpack
from lipcert.terms.errors import LipcertError, RefusedModel, UnreadableError, UsageError


def guarded(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """`function(*arguments)` in a child of its own."""
    child = Child(lambda: {"call": lambda: function(*arguments)}, **options)
    try:
        child.start()
        return child.ask("call")
    finally:
        child.close()


def test_result_comes_back_even_when_larger_than_the_pipe() -> None:
    big = guarded(lambda n: np.arange(n), 3_000_000)
    assert big.shape == (3_000_000,)
    assert big[-1] == 2_999_999


def test_endless_loop_is_killed() -> None:
    def forever() -> None:
        while True:
            pass

    child = Child(lambda: {"call": forever}, seconds=0.3, what="the model")
    child.start()
    with pytest.raises(RefusedModel, match=r"^the model: stopped after the 0\.3 s"):
        child.ask("call")
    with pytest.raises(
        ChildProcessError
    ):  # nothing is left to wait for (of this child: models of other tests have theirs)
        os.waitpid(child.pid, os.WNOHANG)


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
        guarded(lambda: ctypes.string_at(0))


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


def test_result_that_is_no_data_is_an_error_not_a_hang() -> None:
    with pytest.raises(RefusedModel, match="not plain data"):
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


def test_interrupt_of_the_parent_kills_the_child() -> None:
    child = Child(lambda: {"wait": lambda: time.sleep(60)})
    child.start()
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        child.ask("wait")
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


# What the kernel takes away


def _attempts(folder: Path) -> dict[str, Callable[[], Any]]:
    return {
        "write": lambda: (folder / "new").write_text("x"),
        "append": lambda: (folder / "there").open("a"),
        "write to the file that may be read": lambda: (folder / "given").open("r+b"),
        "read another file": lambda: (folder / "there").read_text(),
        "read a system file": lambda: Path("/etc/passwd").read_text(),
        "list a folder": lambda: os.listdir(folder),
        "read another process": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
        "write its own memory": lambda: Path("/proc/self/mem").open("r+b"),
        "terminal": lambda: Path("/dev/tty").read_text(),
        "unlink": lambda: (folder / "there").unlink(),
        "rename": lambda: (folder / "there").rename(folder / "new"),
        "mkdir": lambda: (folder / "new").mkdir(),
        "symlink": lambda: (folder / "new").symlink_to(folder),
        "hard link": lambda: os.link(folder / "given", folder / "new"),
        "fifo": lambda: os.mkfifo(folder / "new"),
        "chmod": lambda: (folder / "there").chmod(0o600),
        "utime": lambda: os.utime(folder / "there"),
        "truncate": lambda: os.truncate(folder / "there", 0),
        "xattr": lambda: os.setxattr(folder / "there", "user.a", b"x"),
        "internet": lambda: socket.socket(),
        "unix socket": lambda: socket.socket(socket.AF_UNIX),
        "socket pair": lambda: socket.socketpair(),
        "fork": lambda: os.fork(),
        "exec": lambda: os.execv("/bin/true", ["true"]),
        "command": lambda: subprocess.run(["true"], check=True),
        "kill": lambda: os.kill(os.getppid(), signal.SIGTERM),
        "signal a thread of the parent": lambda: signal.pidfd_send_signal(os.pidfd_open(os.getppid()), signal.SIGTERM),
        "raise a limit": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1)),
        "shared memory": lambda: shared_memory.SharedMemory(create=True, size=10),
        "ptrace": lambda: _call("ptrace", 16, os.getppid(), 0, 0),
        "unshare": lambda: _call("unshare", 0x10000000),
        "mount": lambda: _call("mount", b"none", b"/", b"tmpfs", 0, None),
        "chroot": lambda: os.chroot(folder),
        "hostname": lambda: socket.sethostname("x"),
        "clock": lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
    }


def _call(name: str, *arguments: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.mark.skipif(not support()["landlock"], reason="this kernel has no Landlock")
@pytest.mark.skipif(not support()["seccomp"], reason="this kernel has no seccomp")
def test_a_child_that_was_taken_over_can_do_nothing(tmp_path, capfd) -> None:
    (tmp_path / "there").write_text("x")
    (tmp_path / "given").write_text("given")

    def attempts() -> dict[str, str]:
        found = {}
        for name, attempt in _attempts(tmp_path).items():
            try:
                attempt()
                found[name] = "done"
            except (OSError, ValueError) as problem:
                found[name] = type(problem).__name__
        found["read what it was given"] = (tmp_path / "given").read_text()
        os.write(1, b"text")
        os.write(2, b"text")
        return found

    found = guarded(attempts, readable=[tmp_path / "given"])
    assert found.pop("read what it was given") == "given"
    assert {name for name, how in found.items() if how == "done"} == set()
    assert sorted(os.listdir(tmp_path)) == ["given", "there"]
    assert (tmp_path / "there").read_text() == "x"
    assert capfd.readouterr() == ("", "")


def test_the_attempts_above_are_real(tmp_path) -> None:
    """Outside the sandbox most of them work, so the test above can fail."""
    (tmp_path / "there").write_text("x")
    (tmp_path / "given").write_text("given")
    works = 0
    for name in ("write", "append", "read another file", "list a folder", "chmod", "utime", "internet", "command"):
        _attempts(tmp_path)[name]()
        works += 1
    assert works == 8


def test_open_files_of_the_parent_are_closed(tmp_path) -> None:
    with (tmp_path / "log").open("w") as log:
        number = log.fileno()

        def write() -> None:
            os.write(number, b"x")

        with pytest.raises(RefusedModel, match="Bad file descriptor"):
            guarded(write)
    assert (tmp_path / "log").read_text() == ""


def test_threads_and_torch_work_inside() -> None:
    def work() -> float:
        found: list[float] = []
        thread = threading.Thread(target=lambda: found.append(float((torch.ones(50, 50) @ torch.ones(50, 50)).sum())))
        thread.start()
        thread.join()
        return found[0]

    assert guarded(work) == 50.0**3


def test_it_says_what_it_is() -> None:
    assert ("Landlock" in described()) == bool(support()["landlock"])


# What a child may say


def test_a_step_has_its_own_time_and_words() -> None:
    def forever() -> None:
        with step("turning", 0.3, UnreadableError):
            while True:
                pass

    with pytest.raises(UnreadableError, match=r"^turning: stopped after the 0\.3 s"):
        guarded(forever, seconds=60.0)


def test_death_in_a_step_is_told_by_its_words() -> None:
    def die() -> None:
        with step("dying", 5.0, UnreadableError):
            ctypes.string_at(0)

    with pytest.raises(UnreadableError, match=r"^dying: the code crashed \(SIGSEGV\)"):
        guarded(die)


@pytest.mark.parametrize("value", [None, True, 3, 1.5, "a", [1, [2]], {"a": {"b": None}}, float("inf")])
def test_data_crosses_as_it_is(value) -> None:
    assert guarded(lambda: value) == value


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4)])
def test_arrays_cross_as_they_are(dtype, shape) -> None:
    array = np.arange(int(np.prod(shape, dtype=int))).reshape(shape).astype(dtype)
    found = _through(pack({"a": [array, 1], "b": array.T}))
    assert found["a"][0].dtype == array.dtype
    assert np.array_equal(found["a"][0], array)
    assert np.array_equal(found["b"], array.T)


def _through(pieces: list[Any]) -> Any:
    stream = io.BytesIO(b"".join(bytes(piece) for piece in pieces))
    return unpack(lambda size: memoryview(stream.read(size)))


@pytest.mark.parametrize(
    "text",
    ["", "{", "nul", '{"$array": 3}', '{"$array": ["object", [1]]}', '{"$array": ["float64", [-1]]}', '{"$array": ["float64", ["1"]]}',
     '{"$array": ["float64", [1099511627776, 1099511627776]]}', '{"$array": ["float64", [true]]}', "[" * 10**6, '{"$array": ["float64", [1]], "a": 1}'],
)  # fmt: skip
def test_frames_that_are_none(text) -> None:
    with pytest.raises(NotData):
        _through([struct.pack("<Q", len(text)), text.encode()])


@pytest.mark.parametrize(
    "said",
    [[], 3, None, {}, ["ok"], ["ok", 1, 2], ["error"], [["ok"], 1], [{}], ["RefusedModel", {}, {}, {}], ["step", "a", "b", "c"],
     ["step"], ["step", "a", float("nan"), []], ["UsageError", "a\x1b[31m\nb", None, False], ["memory", None], ["SystemExit", 1, 2, 3]],
)  # fmt: skip
def test_answers_that_are_none(said) -> None:
    """A child that was taken over says what it likes; the parent refuses, in one printable line, within its time."""

    def lie() -> None:
        from lipcert.sandbox import child

        assert child._speaker is not None
        child._speaker.say(said)
        time.sleep(60)

    with pytest.raises(LipcertError) as caught:
        guarded(lie, seconds=1.0)
    assert str(caught.value).isprintable()


def test_noise_is_no_answer() -> None:
    def noise() -> None:
        from lipcert.sandbox import child

        assert child._speaker is not None
        for _ in range(100):
            os.write(child._speaker.writer, os.urandom(4096))

    with pytest.raises(RefusedModel, match=r"no answer|stopped"):
        guarded(noise, seconds=1.0)
