"""One report whoever does the work, and whoever is killed: this process, processes, a Dask cluster, a journal."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from forked import Forked
from thorough import FULL

import lipcert
from lipcert.cli.run import Run, attempt
from lipcert.methods.problem import Problem
from lipcert.report.report import Report
from lipcert.tasks.radius.constants import Constants
from lipcert.tasks.radius.samples import How, OfSamples
from lipcert.tasks.shards import Shard
from lipcert.tasks.task import Session
from lipcert.tasks.workers import Workers
from lipcert.tasks.workers.packing import aligned, packed, unpacked
from lipcert.tasks.workers.processes import Processes
from lipcert.tasks.workers.stream import perform
from lipcert.terms.errors import RefusedModel, UsageError, WorkersLost
from lipcert.terms.query import Box, Norm

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "examples"
KILLS = 60 if FULL else int(os.environ.get("LIPCERT_KILLS", "2"))  # .ci/run: 20
SHARDS = 150
TIMED = ("created", "seconds", "warnings")  # a warning says how many parts the journal had


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: timeless(item) for name, item in value.items() if name not in TIMED}
    return [timeless(item) for item in value] if isinstance(value, list) else value


REGIONS = ["product", *(["regions"] if importlib.util.find_spec("numba") else ["branch"])]


@pytest.fixture(scope="module")
def tasks() -> dict[str, Callable[..., Report]]:
    with np.load(EXAMPLES / "digits_test.npz") as data:
        x, y = data["x"][:30], data["y"][:30]  # two shards of radii
    digits, moons = lipcert.load(EXAMPLES / "digits.onnx"), lipcert.load(EXAMPLES / "two_moons.onnx")
    box = Box(torch.tensor([-2.0, -1.5]), torch.tensor([3.0, 2.0]))
    return {
        "grid": lambda **how: lipcert.local_grid(moons, box, (32, 32), rtol=0.1, pairs=4, **how),
        "balls": lambda **how: lipcert.local(digits, x[:3], [0.02, 0.1], methods=["jacobian"], each=60, **how),
        "radius": lambda **how: lipcert.radius(digits, x, y, methods=["global", "local"], eps=[0.1], **how),
        "jacobian": lambda **how: lipcert.jacobian(digits, x, around=0.1, **how),
        "pairs": lambda **how: lipcert.bound(digits, output="each", methods=["product", "sampled"], **how),
        "regions of pairs": lambda **how: lipcert.bound(moons, region=box, output="each", methods=REGIONS, **how),
    }


@pytest.mark.every(1)
@pytest.mark.parametrize("name", ["grid", "balls", "radius", "jacobian", "pairs", "regions of pairs"])
def test_one_report_whoever_does_the_work(
    name: str, tasks: dict[str, Callable[..., Report]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lipcert.tasks.grid.BLOCK", 256)
    expected = timeless(tasks[name]().to_dict())
    journal = tmp_path / "j"
    ways: list[dict[str, Any]] = [{"workers": 2}, {"journal": journal}, {"journal": journal}]
    for how in [*ways, {"scheduler": "local:2"}] if FULL or name == "radius" else ways:
        found = tasks[name](**how)
        assert timeless(found.to_dict()) == expected, how
    lines = journal.read_text().splitlines()
    assert (
        f"{len(lines) - 1} parts are taken from {journal}, whose seals are this user's"
        in tasks[name](journal=journal).warnings
    )


def test_checkpoints_are_measured_by_whoever(tmp_path: Path) -> None:
    """Two networks, one of them twice, and a file that is no model; Dask is a real cluster of two workers."""
    for k, name in enumerate(("digits", "two_moons", "digits")):
        (tmp_path / f"step_{k}.onnx").write_bytes((EXAMPLES / f"{name}.onnx").read_bytes())
    (tmp_path / "step_3.onnx").write_bytes(b"no model")

    def ask(**how: Any) -> Report:
        return lipcert.track(tmp_path, methods=["product", "sampled"], **how)

    expected = timeless(ask().to_dict())
    rows = expected["summary"]["track"]["checkpoints"]
    assert [row["status"] for row in rows] == ["bounded", "bounded", "bounded", "unreadable"]
    assert rows[0]["methods"] == rows[2]["methods"] != rows[1]["methods"]
    for how in [{"scheduler": "local:2"}, *([{"workers": 2}] if FULL else [])]:
        assert timeless(ask(**how).to_dict()) == expected, how
    spent = ask(budget=0.0, workers=1).summary["track"]["checkpoints"]
    assert [row["status"] for row in spent][:2] == ["timeout", "timeout"]


# The journal.


def test_damaged_lines_are_done_again(tasks: dict[str, Callable[..., Report]], tmp_path: Path) -> None:
    journal = tmp_path / "j"
    expected = timeless(tasks["radius"](journal=journal).to_dict())
    head, *lines = journal.read_bytes().splitlines(keepends=True)
    rows = next(k for k, line in enumerate(lines) if b'"rows"' in line)
    changed = json.loads(lines[rows])
    changed["found"]["rows"][0]["radius"] *= 2.0
    lines[rows] = json.dumps(changed).encode() + b"\n"
    journal.write_bytes(head + b"".join(lines)[:-30])
    found = tasks["radius"](journal=journal)
    assert timeless(found.to_dict()) == expected
    assert any("1 parts of" in warning and "not taken over" in warning for warning in found.warnings)
    assert all(line.endswith(b"\n") and json.loads(line) for line in journal.read_bytes().splitlines(keepends=True))
    assert timeless(tasks["radius"](journal=journal).to_dict()) == expected


def test_a_seal_that_is_not_looked_at_lets_a_changed_line_in(
    tasks: dict[str, Callable[..., Report]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted error of the test above."""
    journal = tmp_path / "j"
    expected = timeless(tasks["radius"](journal=journal).to_dict())
    journal.write_text(journal.read_text().replace('"status":"certified"', '"status":"tie"'))
    monkeypatch.setattr("lipcert.tasks.journal.seal.Seal.holds", lambda *_: True)
    assert timeless(tasks["radius"](journal=journal).to_dict()) != expected


def test_what_is_no_journal_of_this_question(tasks: dict[str, Callable[..., Report]], tmp_path: Path) -> None:
    other, text = tmp_path / "other", tmp_path / "text"
    tasks["balls"](journal=other)
    text.write_text("a letter, without a line break")
    (tmp_path / "lines").write_text("a letter\nof two lines\n")
    (tmp_path / "json").write_text('{"schema":"of something else"}')
    for file, words in (
        (other, "another question: its "),
        (text, "not a journal"),
        (tmp_path / "lines", "not a journal"),
        (tmp_path / "json", "not a journal"),
    ):
        before = file.read_bytes()
        with pytest.raises(UsageError, match=words):
            tasks["radius"](journal=file)
        assert file.read_bytes() == before
    with pytest.raises(UsageError, match="cannot write it"):
        tasks["radius"](journal=tmp_path)
    with pytest.raises(UsageError, match="leave out resume"):
        tasks["balls"](journal=tmp_path / "j", resume=tasks["balls"]())
    begun = tmp_path / "begun"
    begun.write_bytes(other.read_bytes()[:25])  # a run that was killed while it began
    assert tasks["balls"](journal=begun).upper is not None


@pytest.mark.parametrize("name", ["grid", "balls"])
def test_what_a_spent_budget_left_open_is_done_again(
    name: str, tasks: dict[str, Callable[..., Report]], tmp_path: Path
) -> None:
    journal = tmp_path / "j"
    given = {"grid": {"budget": 0.0, "rtol": 1e-3}, "balls": {"budget": 0.0, "methods": ["transfer"]}}[name]
    model = lipcert.load(EXAMPLES / {"grid": "two_moons.onnx", "balls": "digits.onnx"}[name])
    box = Box(torch.tensor([-2.0, -1.5]), torch.tensor([3.0, 2.0]))
    with np.load(EXAMPLES / "digits_test.npz") as data:
        x = data["x"][:3]

    def ask(**more: Any) -> Report:
        how = given | more | {"journal": journal}
        return (
            lipcert.local_grid(model, box, (8, 8), **how) if name == "grid" else lipcert.local(model, x, [0.02], **how)
        )

    first = ask()
    assert len(journal.read_bytes().splitlines()) == 1
    later = ask(budget=60.0)
    assert later.upper is not None
    assert first.upper is None or later.upper < first.upper
    assert len(journal.read_bytes().splitlines()) > 1


def test_a_journal_is_of_one_run_at_a_time(tasks: dict[str, Callable[..., Report]], tmp_path: Path) -> None:
    import fcntl

    tasks["balls"](journal=tmp_path / "j")
    with open(tmp_path / "j", "a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another run writes to it"):
            tasks["balls"](journal=tmp_path / "j")


# Workers.


@dataclass(frozen=True)
class Dies:
    """Work that ends its process: at shard 2 the first time, or every time."""

    mark: str
    always: bool

    def __call__(self, what: int, session: Session) -> dict[str, Any]:
        if what == 2 and (self.always or not os.path.exists(self.mark)):
            open(self.mark, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        if what == 3:
            raise UsageError("three is refused")
        return {"square": what * what, "left": session.budget}


def squares(work: Dies, places: range, budget: float | None = None) -> Counter[int]:
    shards = [Shard(str(k), k) for k in places]
    found = Workers(Processes(2)).done(work, shards, Session(budget=budget))
    return Counter(data["square"] for _, data in found)


def test_deaths_of_workers(tmp_path: Path) -> None:
    assert squares(Dies(str(tmp_path / "a"), False), range(3)) == Counter([0, 1, 4])
    with pytest.raises(RefusedModel, match="workers died 5 times in a row"):
        squares(Dies(str(tmp_path / "b"), True), range(2, 3))
    with pytest.raises(UsageError, match="three is refused"):
        squares(Dies(str(tmp_path / "a"), False), range(2, 5))


def test_what_is_known_outlives_the_workers(
    tasks: dict[str, Callable[..., Report]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler is gone for good after the first result."""

    def gone(self: Workers, work: object, shards: Sequence[Shard], session: Session) -> Iterator[Any]:
        with torch.no_grad():
            yield shards[0], work(shards[0].what, session)  # type: ignore[operator]
        raise WorkersLost("the workers of tcp://somewhere: gone")

    monkeypatch.setattr(Workers, "done", gone)
    monkeypatch.setattr("lipcert.tasks.grid.BLOCK", 256)
    with pytest.raises(WorkersLost) as stop:
        tasks["grid"](workers=2)
    partial = stop.value.partial_report  # type: ignore[attr-defined]
    assert sum(value is not None for value in partial.summary["grid"]["upper"]) == 256
    assert partial.upper is None
    run = Run("local", Path("digits.onnx"), quiet=True)

    def work(_: object) -> Report:
        raise stop.value

    report, status = attempt(run, work)
    assert status == 3
    assert report.summary == partial.summary
    assert any("gone" in warning for warning in report.warnings)


def test_wrong_use(tasks: dict[str, Callable[..., Report]]) -> None:
    for how, words in (
        ({"workers": 0}, "one or more"),
        ({"workers": 2, "scheduler": "local"}, "leave it out"),
        ({"scheduler": "local:two"}, "local:N"),
        ({"scheduler": "tcp://127.0.0.1:9"}, "cannot be reached"),
        ({"scheduler": "nonsense"}, "cannot be reached"),
    ):
        with pytest.raises(UsageError, match=words):
            tasks["balls"](**how)


def test_shards_of_bound_are_those_of_outputs(tasks: dict[str, Callable[..., Report]], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="for output pairs"):
        lipcert.bound(lipcert.load(EXAMPLES / "two_moons.onnx"), workers=2)
    with pytest.raises(UsageError, match="proofs stay"):
        tasks["pairs"](journal=tmp_path / "j", certificate=tmp_path / "c")


def test_graphs_survive_the_way(shared: Path) -> None:
    for name in ("unbounded_rbf.onnx", "vit.onnx", "act_hswish.onnx", "maxmin_loose.onnx"):
        graph = lipcert.load(shared / "wild" / name).graph
        x = torch.rand(3, graph.nodes[graph.input].size, dtype=torch.float64)
        assert torch.equal(unpacked(packed(graph)).evaluate(x), graph.evaluate(x))


def at_an_odd_byte(numbers: np.ndarray, offset: int) -> np.ndarray:
    """As Dask hands arrays over: read-only, in the middle of a message."""
    message = np.zeros(numbers.nbytes + 64, dtype=np.uint8)
    start = -message.ctypes.data % 64 + offset
    message[start : start + numbers.nbytes] = np.frombuffer(numbers.tobytes(), dtype=np.uint8)
    found = message[start : start + numbers.nbytes].view(numbers.dtype).reshape(numbers.shape)
    found.setflags(write=False)
    return found


@pytest.mark.parametrize("offset", [1, 4, 6])
def test_numbers_at_odd_bytes_give_the_same_rows(shared: Path, offset: int) -> None:
    """MKL adds up in another order there: radii differed in their last digit from those of one process."""
    model = lipcert.load(shared / "models/mnist_fc_256x2.onnx")
    x = np.load(shared / "data/mnist_test_1000.npz")["x"][:25].reshape(25, 784) / 255.0
    work = OfSamples(model.graph, Constants(Problem(model.graph, Norm()), every=True), How("2", ("local",), True))
    odd = at_an_odd_byte(x, offset)
    assert not odd.flags.aligned
    rows = [perform(packed((work, 4.0)), (0, given, None), None) for given in (x, odd)]
    assert rows[0] == rows[1]
    assert all(part.flags.aligned for part in aligned((odd, x)))
    assert aligned((0, x, None))[1] is x


# Kills, on a real cluster that is started as docs/howto/cluster.md says.


@dataclass
class ByHand:
    """`dask scheduler` and `dask worker`, each a process of its own, started again when it ends: workers end with their
    scheduler."""

    folder: Path
    port: int = 0
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    ended: bool = False

    def __post_init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start("scheduler")
        self.start("worker")
        threading.Thread(target=self.look_after, daemon=True).start()

    def look_after(self) -> None:
        while not self.ended:
            for name, process in list(self.processes.items()):
                if process.poll() is not None and not self.ended:
                    self.start(name)
            time.sleep(0.2)

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def start(self, name: str) -> None:
        options = {
            "scheduler": ("--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"),
            "worker": (self.address, "--nworkers", "2", "--nthreads", "1", "--no-dashboard"),
        }[name]
        command = [sys.executable, "-m", "distributed.cli.dask_" + name, *options]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        with open(self.folder / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=self.folder)

    def kill_a_worker(self, dice: random.Random) -> None:
        """Its nanny starts another."""
        with contextlib.suppress(psutil.NoSuchProcess):
            nanny = psutil.Process(self.processes["worker"].pid)
            workers = [child for child in nanny.children() if "spawn_main" in " ".join(child.cmdline())]
            if workers:
                dice.choice(workers).kill()

    def kill_the_scheduler(self) -> None:
        self.processes["scheduler"].kill()

    def end(self) -> None:
        self.ended = True
        time.sleep(0.3)
        for process in self.processes.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ByHand]:
    found = ByHand(tmp_path)
    yield found
    found.end()


@pytest.mark.skipif(KILLS == 0, reason="LIPCERT_KILLS=0: a leg of .ci/run does it, 20 times, beside the others")
def test_kills_at_any_moment(cluster: ByHand, tmp_path: Path) -> None:
    """Client, workers and scheduler, in the middle of the work; the same command, started again, gives the report of a run
    that nobody disturbed, and nothing is done twice."""
    ask = ("local", EXAMPLES / "digits.onnx", "--at", EXAMPLES / "digits_test.npz", "--first", SHARDS, "--threads", "1")
    ask += ("--eps", "0.01,0.03,0.1", "--method", "linear", "--each", "60")
    expected = Forked(*ask, "--json", tmp_path / "expected.json").wait()
    assert expected.returncode == 0, expected.stderr
    report, journal = tmp_path / "r.json", tmp_path / "j"
    there = ("--scheduler", cluster.address, "--journal", journal, "--json", report)
    dice, kills, amid = random.Random(1), Counter[str](), 0
    client = Forked(*ask, *there)
    while kills.total() < KILLS:
        begun = _shards(journal)
        if dice.random() < 0.2:
            time.sleep(dice.uniform(0.0, 1.0))  # perhaps before anything is done
        else:
            _until(client, journal, begun + dice.randint(1, 2 * SHARDS // KILLS))
        if client.poll() is not None:
            check(client, report, tmp_path / "expected.json", journal)
            journal.unlink()
            client = Forked(*ask, *there)
            continue
        what = ["client", "worker", "client", "worker", "scheduler"][kills.total() % 5]
        kills[what] += 1
        amid += _shards(journal) > begun
        if what == "client":
            client.send_signal(signal.SIGKILL)
            client.wait()
            client = Forked(*ask, *there)
        elif what == "worker":
            cluster.kill_a_worker(dice)
        else:
            cluster.kill_the_scheduler()
    client.wait(240)
    check(client, report, tmp_path / "expected.json", journal)
    assert amid >= KILLS // 2 - 1  # while shards were on their way


def _shards(journal: Path) -> int:
    return max(0, journal.read_bytes().count(b"\n") - 1) if journal.exists() else 0


def _until(client: Forked, journal: Path, count: int, seconds: float = 120.0) -> None:
    """So many shards are written down, or the client has ended."""
    end = time.monotonic() + seconds
    while _shards(journal) < count and client.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.05)


def check(client: Forked, report: Path, expected: Path, journal: Path) -> None:
    assert client.returncode == 0, client.err.read_text()
    assert timeless(json.loads(report.read_text())) == timeless(json.loads(expected.read_text()))
    shards = Counter(json.loads(line)["shard"] for line in journal.read_bytes().splitlines()[1:])
    assert len(shards) == SHARDS
    assert shards.total() == SHARDS
