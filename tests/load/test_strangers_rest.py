"""Around the file: descriptors, locks of other threads, weights beside the model, telemetry, memory that ends half-way."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz_seeds import SHAPE, external_files
from thorough import FULL

import lipcert.methods.product
import lipcert.tasks.radius.task
from lipcert import bound, radius, track
from lipcert.cli.main import main
from lipcert.gate.given import read_report
from lipcert.gate.policy import read_policy
from lipcert.gate.rules import judge
from lipcert.load import model as loading
from lipcert.load.data import read_data
from lipcert.load.foreign import GIGABYTES, SHARE, _gigabytes
from lipcert.load.lower import lower
from lipcert.load.model import Model, _beside, load
from lipcert.report.page.write import html_page
from lipcert.report.to_json import to_json
from lipcert.sandbox import child as child_of
from lipcert.sandbox import confine
from lipcert.sandbox.child import Child
from lipcert.tasks.compare import compare
from lipcert.terms.errors import RefusedModel, UnreadableError

MOONS = Path(__file__).resolve().parents[2] / "examples" / "two_moons.onnx"
HEADERS = {0: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), 1: Path("/usr/include/asm-generic/unistd.h")}


@pytest.fixture(scope="module")
def moons() -> Model:
    return load(MOONS)


@pytest.mark.parametrize("column", HEADERS)
def test_numbers_of_system_calls_are_those_of_the_kernel(column: int) -> None:
    """aarch64 has the generic table. Headers older than a call do not have it."""
    if not HEADERS[column].exists():
        pytest.skip("no kernel headers")
    known: dict[str, int] = {}
    for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[column].read_text()):
        known.setdefault(name, int(number))
    rows = confine._DENIED | {"clone": confine._CLONE, "clone3": confine._CLONE3, "open": confine._OPEN}
    rows |= {"openat": confine._OPENAT, "openat2": confine._OPENAT2, "prlimit64": confine._PRLIMIT}
    rows |= {"tgkill": confine._TGKILL, "tkill": confine._TKILL}
    newest = max(known.values())
    for name, numbers in rows.items():
        number = numbers[column]
        if number is None or number <= newest:
            assert known.get(name) == number, name


def test_few_descriptors_are_one_clear_line() -> None:
    command = [sys.executable, "-m", "lipcert", "bound", str(MOONS), "--method", "product"]
    for limit in (8, 16) if FULL else (16,):
        run = subprocess.run(
            ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *command], capture_output=True, text=True
        )
        assert run.returncode == 2, run.stderr
        assert run.stderr.count("\n") == 1
        assert "ulimit -n" in run.stderr


def test_a_lock_of_another_thread_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_of, "STILL", 0.5)
    lock, held, done = threading.Lock(), threading.Event(), threading.Event()

    def holds() -> None:
        with lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=holds)
    thread.start()
    held.wait()

    def serve() -> dict[str, Callable[..., Any]]:
        lock.acquire()
        return {}

    child = Child(serve, what="m.onnx", seconds=300.0)
    try:
        with pytest.raises(UnreadableError, match=r"^m\.onnx: .* stands still, perhaps for a lock"):
            child.start()
    finally:
        done.set()
        thread.join()


def test_a_busy_child_does_not_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_of, "STILL", 0.2)

    def works() -> int:
        total = 0
        for number in range(15_000_000):
            total += number % 3
        return total

    child = Child(lambda: {"call": works}, seconds=300.0)
    try:
        child.start()
        assert child.ask("call") == 15_000_000
    finally:
        child.close()


def test_memory_of_a_child_is_a_share_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 2**20, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert _gigabytes() == round(4 * SHARE, 1)
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 2**40, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert _gigabytes() == GIGABYTES


def test_onnxruntime_keeps_no_diary(tmp_path: Path) -> None:
    """Its telemetry writes into the home folder and starts threads."""
    code = "import sys, lipcert; lipcert.load(sys.argv[1]); import os; print(len(os.listdir('/proc/self/task')))"
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": "", "OMP_NUM_THREADS": "1"}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", code, str(MOONS)], env=environment, check=True, capture_output=True)
    assert not [path for path in tmp_path.rglob("*") if "Microsoft" in str(path)]


@pytest.mark.parametrize(
    "problem", [KeyError("x"), TypeError("t\nwo"), RuntimeError("size mismatch"), AssertionError()]
)
def test_a_graph_that_no_rule_understands_is_refused(problem: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that was taken over can describe one; of a module of one's own it is our error, and stays one."""

    def fails(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr(loading, "lower", fails)
    with pytest.raises(RefusedModel, match="or lipcert errs") as caught:
        load(MOONS)
    assert str(caught.value).isprintable()
    with pytest.raises(type(problem)):
        load(torch.nn.Linear(2, 2), input_shape=(1, 2))
    monkeypatch.setattr(loading, "lower", lower)


# Weights beside the model


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    for name, data in external_files()[0].items():
        (tmp_path / name).write_bytes(data)
    return tmp_path / "mutant.onnx"


def verdict_of(report: Any, value: str, folder: Path) -> Any:
    (folder / "report.json").write_text(to_json(report))
    (folder / "gate.toml").write_text(f'[[rule]]\nmodel_sha256 = "{value}"\n')
    return judge(read_policy(folder / "gate.toml"), [read_report(folder / "report.json")])[0]


def test_the_digest_of_a_file_is_not_that_of_its_weights(beside: Path) -> None:
    before = bound(load(beside, input_shape=SHAPE), methods=["product"])
    assert [row["path"] for row in before.model["files"]] == ["weights.bin"]
    weights = np.frombuffer((beside.parent / "weights.bin").read_bytes(), np.float32)
    (beside.parent / "weights.bin").write_bytes((2 * weights).tobytes())
    after = bound(load(beside, input_shape=SHAPE), methods=["product"])
    assert after.model["sha256"] == before.model["sha256"]
    assert after.model["files"] != before.model["files"]
    for report in (before, after):
        found = verdict_of(report, report.model["sha256"], beside.parent)
        assert (found.status, report.model["graph"] in found.message) == ("not proved", True)
        assert verdict_of(report, report.model["graph"], beside.parent).status == "met"
    assert verdict_of(after, before.model["graph"], beside.parent).status == "violated"


def test_what_a_child_names_is_looked_for_in_the_folder_only(beside: Path, tmp_path: Path) -> None:
    for name in ("../x", "/etc/passwd", "absent", "", ".", "a\0b"):
        with pytest.raises(UnreadableError, match="its data file") as caught:
            _beside(beside, [name])
        assert str(caught.value).isprintable()
    (beside.parent / "link").symlink_to("/etc/passwd")
    with pytest.raises(UnreadableError, match="outside"):
        _beside(beside, ["link"])


# Memory that ends half-way


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., tuple[int, dict[str, Any]]]:
    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        with pytest.raises(SystemExit) as left:
            main([*arguments, "--json", str(tmp_path / "r.json"), "--quiet"])
        return int(left.value.code or 0), json.loads((tmp_path / "r.json").read_text())

    return run


def no_memory(*_: object, **__: object) -> None:
    raise MemoryError


def test_a_radius_batch_without_memory_leaves_the_others(
    command: Callable[..., tuple[int, dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(6, 2)))
    treat = lipcert.tasks.radius.samples.treat_known
    calls = []

    def fails_at_the_third(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 7 TiB")
        return treat(*arguments, **options)

    monkeypatch.setattr(lipcert.tasks.radius.task, "BATCH", 2)
    monkeypatch.setattr(lipcert.tasks.radius.samples, "treat_known", fails_at_the_third)
    asked = ("radius", str(MOONS), "--data", str(tmp_path / "d.npz"), "--method", "global")
    status, report = command(*asked)
    assert (status, len(report["points"])) == (3, 4)
    assert "out of memory" in report["warnings"][-1]
    assert judge(read_policy_of(tmp_path), [read_report(tmp_path / "r.json")])[0].status == "not proved"
    os.rename(tmp_path / "r.json", tmp_path / "old.json")
    status, report = command(*asked, "--resume", str(tmp_path / "old.json"))
    assert (status, len(report["points"])) == (0, 6)


def read_policy_of(folder: Path) -> Any:
    (folder / "gate.toml").write_text("[[rule]]\nmin_median_radius = 0.0\n")
    return read_policy(folder / "gate.toml")


def test_a_certificate_without_memory_leaves_the_bound(
    command: Callable[..., tuple[int, dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lipcert.tasks.bound.certify", no_memory)
    status, report = command("bound", str(MOONS), "--method", "product", "--certificate", str(tmp_path / "c"))
    assert status == 0
    assert report["upper"] > 0
    assert "no certificate was written" in report["warnings"][-1]
    assert not (tmp_path / "c").exists()


# What fuzzing found


def test_a_page_of_radii_without_an_attack(moons: Model) -> None:
    report = radius(moons, np.random.default_rng(0).normal(size=(5, 2)), methods=["global"])
    assert "left by the attack" not in html_page([("r.json", json.loads(to_json(report)))])


@pytest.mark.parametrize("odd", [{"a": 1}, [3], "x", True])
def test_numbers_of_a_report_that_are_none(moons: Model, tmp_path: Path, odd: Any) -> None:
    data = json.loads(to_json(bound(moons, methods=["product"])))
    (tmp_path / "old.json").write_text(json.dumps(data))
    data["results"][0]["value"] = odd
    (tmp_path / "new.json").write_text(json.dumps(data))
    with pytest.raises(UnreadableError, match="schema"):
        compare(tmp_path / "old.json", tmp_path / "new.json")


def test_messages_hold_no_addresses(tmp_path: Path) -> None:
    """numpy quotes the tree of a header that is code: two runs of one file would differ."""
    header = b"{'descr': '<f8', 'fortran_order': f(), 'shape': (1, 4), }".ljust(117) + b"\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(32))
    with pytest.raises(UnreadableError, match=r"ast\.Call object") as caught:
        read_data(tmp_path / "x.npy", SHAPE)
    assert "0x" not in str(caught.value)


def test_messages_are_printable_whatever_they_quote() -> None:
    """A key of a report, for one: found by fuzzing `--resume`."""
    for kind in (UnreadableError, RefusedModel):
        assert str(kind("its \u202e\x1b[31m is 0\nmore")).split("\n") == ["its \\u202e\\x1b[31m is 0", "more"]


def test_a_pipe_among_checkpoints_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    report = track([tmp_path / "pipe.onnx", MOONS], methods=["product"])
    found = {Path(row["path"]).name: row["sha256"] for row in report.summary["track"]["checkpoints"]}
    assert found["pipe.onnx"] is None
    assert found[MOONS.name]


def test_a_sample_named_twice(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 2)))
    with pytest.raises(SystemExit) as left:
        main(["local", str(MOONS), "--at", f"{tmp_path / 'd.npz'}#3,1,3", "--eps", "0.1"])
    assert left.value.code == 2
    assert "sample 3 is named twice" in capfd.readouterr().err
