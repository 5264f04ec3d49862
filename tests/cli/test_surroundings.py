"""What surrounds a command: files that it reads and writes, standard streams, signals. No output is lost, torn or put over an
input, and the exit status says what happened."""

from __future__ import annotations

import inspect
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
import typing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_cli import MOONS, Ran, shell, typed  # noqa: F401 - the fixture `typed`
from thorough import FULL

from lipcert.cli import main, paths, signals
from lipcert.cli.failure import error_object
from lipcert.cli.run import Run, execute
from lipcert.report.report import Report
from lipcert.report.to_json import to_json
from lipcert.terms.errors import UsageError
from lipcert.terms.query import Norm
from lipcert.terms.question import Question
from lipcert.terms.result import Bound

ASKED = Question.of("bound", {"path": "m.onnx"}, "graph", Norm(), {"kind": "global"}, "vector", {})
DONE = Report("bound", {"path": "m.onnx"}, results=[Bound("product", "upper", "proved", 3.5)], question=ASKED)
POLICY = "[[rule]]\nmax_upper = 4.0\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, data, a report, a certificate, a policy, and other names for them."""
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(Path(MOONS).read_bytes())
    np.savez("d.npz", x=np.zeros((3, 2)), y=np.zeros(3, dtype=int))
    Path("r.json").write_text(to_json(DONE))
    Path("m.cert").write_text("{}")
    Path("gate.toml").write_text(POLICY)
    for name in ("m.onnx", "d.npz", "r.json", "m.cert", "gate.toml"):
        Path(f"link-{name}").symlink_to(name)
        os.link(name, f"hard-{name}")
    Path("sub").mkdir()
    return tmp_path


# What is written over what


MARKS = ("FILE", "DATA", "REPORT", "MODEL", "CERTIFICATE", "CHECKPOINT", "POLICY")
NO_PATH = {"from_node", "to_node"}


def test_every_option_that_takes_a_file_is_compared() -> None:
    for name, command in main.COMMANDS.items():
        for parameter, hint in typing.get_type_hints(command.function, include_extras=True).items():
            if parameter == "return":
                continue
            base, *more = typing.get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
            metavar = str(getattr(more[0], "metavar", None) or "") if more else ""
            takes_a_file = "Path" in str(base) or any(mark in metavar for mark in MARKS)
            known = any(
                key in table for table in (paths.READS, paths.WRITES) for key in (parameter, f"{name}.{parameter}")
            )
            assert known == takes_a_file or parameter in NO_PATH, f"{name} --{parameter}: give it a row in cli/paths.py"
        assert set(inspect.signature(command.function).parameters) >= {"json"}


RADIUS, AT = ("radius", "m.onnx", "--data"), ("local", "m.onnx", "--eps", "0.1", "--at")
TWICE: dict[str, tuple[str, ...]] = {
    "data": (*RADIUS, "d.npz", "--json", "d.npz"),
    "data, ./": (*RADIUS, "d.npz", "--json", "sub/../d.npz"),
    "data, link": (*RADIUS, "d.npz", "--json", "link-d.npz"),
    "data, hard link": (*RADIUS, "hard-d.npz", "--json", "d.npz"),
    "data#1": (*AT, "d.npz#1", "--json", "d.npz"),
    "held": ("bound", "m.onnx", "--fix", "a=b=d.npz", "--json", "d.npz"),
    "held, of a name": ("radius", "m.onnx", "--data", "r.json", "--fix", "h=./d.npz#x", "--json", "hard-d.npz"),
    "data of jacobian": ("jacobian", "m.onnx", "--data", "d.npz", "--json", "./d.npz"),
    "model": ("bound", "link-m.onnx", "--json", "hard-m.onnx"),
    "model and certificate": ("bound", "m.onnx", "--certificate", "./m.onnx"),
    "two outputs": ("bound", "m.onnx", "--certificate", "new", "--json", "sub/../new"),
    "two outputs that exist": ("bound", "m.onnx", "--certificate", "r.json", "--json", "hard-r.json"),
    "picture": (*RADIUS, "d.npz", "--plot", "new.png", "--json", "new.png"),
    "attack": (*RADIUS, "d.npz", "--attack", "--json", "a.json", "--plot", "a.json.adversarial.npz"),
    "certificate": ("verify", "m.cert", "m.onnx", "--json", "link-m.cert"),
    "model of verify": ("verify", "m.cert", "m.onnx", "--json", "m.onnx"),
    "resume": (*RADIUS, "d.npz", "--resume", "r.json", "--plot", "r.json"),
    "report": ("gate", "r.json", "--json", "r.json"),
    "report of several": ("gate", "m.cert", "r.json", "--junit", "link-r.json"),
    "policy": ("gate", "r.json", "--policy", "gate.toml", "--markdown", "gate.toml"),
    "policy not named": ("gate", "r.json", "--sarif", "hard-gate.toml"),
    "baseline": ("gate", "r.json", "--baseline", "m.cert", "--json", "m.cert"),
    "compared report": ("compare", "m.cert", "r.json", "--json", "r.json"),
    "comparison twice": ("compare", "m.cert", "r.json", "--json", "new", "--markdown", "./new"),
    "checkpoint of a folder": ("track", ".", "--json", "m.onnx"),
    "checkpoint of a pattern": ("track", "*.onnx", "--json", "hard-m.onnx"),
    "verdicts twice": ("gate", "r.json", "--json", "new", "--sarif", "new"),
}


@pytest.mark.parametrize("name", TWICE)
def test_no_output_is_an_input_or_another_output(name: str, folder: Path, typed: Callable[..., Ran]) -> None:  # noqa: F811
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    ran = typed(*TWICE[name])
    assert ran.status == 2
    assert "give another" in ran.err
    assert ran.err.startswith("lipcert: --")
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_external_weights_are_an_input(folder: Path, typed: Callable[..., Ran]) -> None:  # noqa: F811
    import onnx

    onnx.save(onnx.load(MOONS), "big.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    os.link("w.bin", "hard-w.bin")
    weights = Path("w.bin").read_bytes()
    for target in ("w.bin", "hard-w.bin", "sub/../w.bin"):
        ran = typed("bound", "big.onnx", "--json", target)
        assert (ran.status, "keeps weights in w.bin" in ran.err) == (2, True)
    assert Path("w.bin").read_bytes() == weights
    assert paths.external_data("big.onnx", "r.json") is None


def test_what_may_be_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = {"model": Path("m.onnx"), "attack": False}
    paths.check("radius", common | {"data": "d.npz", "resume": "r.json", "json": "r.json"})  # gone on with in place
    paths.check("bound", common | {"json": "/dev/null", "certificate": "/dev/null"})
    paths.check(
        "bound", common | {"json": "new.json", "certificate": "NEW.json"}
    )  # this file system knows the difference
    paths.check("bound", common | {"json": "-"})
    paths.check("gate", {"init": True, "policy": "gate.toml"})  # never replaces a file
    assert not paths.ignores_case(folder)
    for target in ("no/such/r.json", "sub", "a\0b", "loop"):
        if target == "loop":
            Path("loop").symlink_to("loop")
        with pytest.raises(UsageError, match=r"--json .*cannot write there"):
            paths.check("bound", common | {"json": target})


def test_standard_output_is_compared_too(folder: Path) -> None:
    before = Path("d.npz").read_bytes()
    command = [sys.executable, "-m", "lipcert", *RADIUS, "d.npz"]
    with open("d.npz", "ab") as stream:
        done = subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, Path("d.npz").read_bytes()) == (2, before)
    assert "standard output" in done.stderr


# Errors of exit 2 for machines


def test_the_error_object(folder: Path, typed: Callable[..., Ran]) -> None:  # noqa: F811
    found = error_object("--norm 7: norms are 1, 2 and inf; give one", "usage")
    assert found == {
        "error": {"kind": "usage", "what": "norms are 1, 2 and inf", "where": "--norm 7", "hint": "give one"}
    }
    ran = typed("bound", "absent.onnx", "--json", "-")
    assert (ran.status, json.loads(ran.out)["error"]["kind"]) == (2, "unreadable")
    ran = typed("bound", "m.onnx", "--json=e.json", "--bogus")
    assert (ran.status, json.loads(Path("e.json").read_text())["error"]["where"]) == (2, "--bogus")
    old = Path("r.json").read_bytes()
    typed(*RADIUS, "d.npz", "--resume", "r.json", "--json", "r.json")  # another question: hours of work stay
    assert Path("r.json").read_bytes() == old
    typed("bound", "absent.onnx", "--json", "d.npz")
    assert np.load("d.npz")["x"].shape == (3, 2)
    typed("bound", "absent.onnx", "--json", "r.json")  # an old report would be taken for the answer
    assert "error" in json.loads(Path("r.json").read_text())


# Standard streams and full disks


def bash(command: str, **options: typing.Any) -> Ran:
    line = command.replace("lipcert ", f"{shlex.quote(sys.executable)} -m lipcert ")
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, **options)
    return Ran(done.returncode, done.stdout, done.stderr)


STREAMS = {
    "lipcert gate r.json | true; exit ${PIPESTATUS[0]}": 0,
    "lipcert gate r.json --json - | true; exit ${PIPESTATUS[0]}": 0,
    "lipcert gate strict.json | true; exit ${PIPESTATUS[0]}": 1,
    "lipcert gate r.json >&-": 0,
    "lipcert gate r.json >&- 2>&-": 0,
    "lipcert gate r.json <&- >&- 2>&- --json v.json": 0,
    "lipcert gate r.json --json - >&-": 2,
    "lipcert gate r.json > /dev/full": 2,
    "lipcert gate r.json --json - > /dev/full": 2,
    "lipcert gate r.json --json full": 2,
    "GITHUB_STEP_SUMMARY=full lipcert gate r.json --github": 2,
    "GITHUB_STEP_SUMMARY=no/such/file lipcert gate r.json --github": 2,
    "GITHUB_STEP_SUMMARY=sub lipcert gate r.json --github": 2,
    "lipcert gate absent.json 2> /dev/full": 2,
    "lipcert --help | true; exit ${PIPESTATUS[0]}": 0,
    "lipcert --version > /dev/full": 2,
}


@pytest.mark.parametrize("command", STREAMS)
def test_exit_status_of_streams(command: str, folder: Path) -> None:
    Path("full").symlink_to("/dev/full")
    Path("strict.json").write_text(
        to_json(Report("bound", {"path": "m"}, results=[Bound("product", "upper", "proved", 9.0)]))
    )
    ran = bash(command)
    assert ran.status == STREAMS[command], ran.err
    assert "Traceback" not in ran.err
    assert "Exception ignored" not in ran.err
    if ran.status == 2 and "2>" not in command:
        assert ran.err.startswith("lipcert: ")
        assert len(ran.err.splitlines()) == 1
    if "v.json" in command:
        assert json.loads(Path("v.json").read_text())["passed"] is True


def test_talk_that_cannot_be_written(folder: Path) -> None:
    """A closed standard error is a wish; a full one is a failure to write. The report is whole either way."""
    for redirect, status in (("2>&-", 0), ("2> /dev/full", 2)):
        ran = bash(f"lipcert bound m.onnx --method product --json new.json {redirect}")
        assert ran.status == status
        assert json.loads(Path("new.json").read_text())["status"] == "bounded"


def test_a_picture_that_fails_leaves_the_report(folder: Path, typed: Callable[..., Ran]) -> None:  # noqa: F811
    Path("full.png").symlink_to("/dev/full")
    ran = typed(
        "local", "m.onnx", "--grid", "2x2", "--box=-1:1", "--rtol", "0", "--plot", "full.png", "--json", "g.json"
    )
    assert ran.status == 2
    assert "lipcert: --plot full.png: cannot write it: No space left on device" in ran.err
    assert json.loads(Path("g.json").read_text())["status"] == "bounded"
    assert "<= L <=" in ran.out


def test_an_internal_error_without_a_place_for_its_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/no/such/folder")

    def work(progress: object) -> Report:
        raise ZeroDivisionError("oops")

    assert execute(Run("bound", Path("m.onnx")), work) == 4
    assert "no log could be written" in capsys.readouterr().err


def test_out_of_memory_is_no_internal_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for error in (MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")):

        def work(progress: object, error: Exception = error) -> Report:
            raise error

        assert execute(Run("bound", Path("m.onnx"), json=str(tmp_path / "r.json")), work) == 3
        assert capsys.readouterr().err.startswith("lipcert: out of memory")


# The words of a file are data


def test_no_text_becomes_a_command_of_a_ci(folder: Path, typed: Callable[..., Ran]) -> None:  # noqa: F811
    hostile = "::error::gotcha\n  ::set-env name=A::1 ##[error]x ##vso[task.complete]"
    Path("bad.json").write_text(
        to_json(Report("bound", {"path": hostile}, warnings=[hostile])).replace("report/1", "report/2")
    )
    Path("named.toml").write_text(f"[[rule]]\nmax_upper = 4.0\nname = {json.dumps(hostile)}\n")
    for command in (
        ("gate", "bad.json", "--policy", "named.toml"),
        ("bound", "::error::absent.onnx"),
        ("bound", "absent.onnx", "::error::gotcha"),
        ("bound", "m.onnx", "--output-name", hostile, "--method", "product"),
    ):
        ran = typed(*command)
        for line in (ran.out + ran.err).splitlines():
            assert not line.strip().startswith("::"), line
            assert "##[" not in line
            assert "##vso[" not in line
    ran = typed("gate", "bad.json", "--policy", "named.toml", "--json", "-")
    assert json.loads(ran.out)["verdicts"][0]["rule"] == hostile  # the same data, otherwise written
    assert "##[" not in ran.out
    ran = typed("gate", "bad.json", "--policy", "named.toml", "--github")
    assert ran.out.startswith("::warning ")  # ours
    assert ran.out.count("\n") == 1


# Signals

GRID = ("local", MOONS, "--grid", "60x60", "--box=-3:3", "--rtol", "1e-9", "--json", "g.json", "--quiet")


def killed(arguments: tuple[str, ...], number: int, delay: float, folder: Path) -> tuple[int, str]:
    """Counted from the moment when Python runs: what comes before is not ours."""
    script = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # the tests may run under nohup
    script += "print(flush=True)\nfrom lipcert.__main__ import main\nmain()"
    command = [sys.executable, "-c", script, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(delay)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    return process.returncode, err


@pytest.mark.every(1)
@pytest.mark.parametrize("k", range(200 if FULL else 4))
def test_a_signal_at_any_moment(k: int, tmp_path: Path) -> None:
    chance = random.Random(k)
    number = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[k % 3]
    delay = 0.03 + (chance.random() * 0.5 if k % 4 == 0 else chance.random() * 5)
    status, err = killed(GRID, number, delay, tmp_path)
    assert status == 128 + number, err
    assert "Traceback" not in err
    assert err.splitlines()[-1] == f"lipcert: {signals.WORDS[number]}"
    left = list(tmp_path.iterdir())
    assert [file.name for file in left] in ([], ["g.json"])  # whole, or not there; nothing aside
    if left:
        report = json.loads(left[0].read_text())
        assert report["status"] == "timeout"
        assert report["warnings"][-1].startswith("interrupted")


def test_an_ignored_signal_stays_ignored(folder: Path) -> None:
    """nohup: the terminal may go."""
    script = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    script += "from lipcert.__main__ import main\nsignal.raise_signal(signal.SIGHUP)\n"
    script += "import os\nos.kill(os.getpid(), signal.SIGHUP)\nmain()"
    done = subprocess.run([sys.executable, "-c", script, "gate", "r.json"], capture_output=True, check=False)
    assert done.returncode == 0


STEPS = """
import os, signal, sys
from pathlib import Path
from lipcert.cli import run, signals
from lipcert.terms.result import Bound
from lipcert.report.report import Report
signals.install()
done = Report("bound", {"path": "m"}, results=[Bound("product", "upper", "proved", 3.5)])
def now(number=signal.SIGTERM):
    os.kill(os.getpid(), number)
class Dies:
    def __del__(self):
        now()
def work(progress):
    case = sys.argv[1]
    if case == "raised":
        now()
    if case == "turned":
        try:
            now()
        except KeyboardInterrupt as error:
            raise ImportError("numpy: bad magic") from None
    if case == "swallowed":
        try:
            now()
        except BaseException:
            pass
    if case == "again":
        try:
            now()
        except KeyboardInterrupt as stop:
            now()
            now(signal.SIGINT)
            stop.partial_report = done
            raise
    if case == "importing":
        Path("slow_module.py").write_text(
            "import os, signal\\nos.kill(os.getpid(), signal.SIGTERM)\\n"
            "import time\\nend = time.monotonic() + 0.2\\nwhile time.monotonic() < end:\\n    pass\\n"
            "open('loaded', 'w').close()\\n"
        )
        sys.path.insert(0, "")
        import slow_module
        import time
        time.sleep(60)
    if case == "dropped":
        Dies()
        import time
        time.sleep(60)
    return done
if sys.argv[1] == "while writing":
    before = run.pieces
    def pieces(report):
        for piece in before(report):
            now()
            yield piece
    run.pieces = pieces
sys.exit(run.execute(run.Run("bound", Path("m.onnx"), "r.json"), work))
"""


@pytest.mark.parametrize("case", ["raised", "turned", "swallowed", "again", "dropped", "importing", "while writing"])
def test_a_signal_where_it_hurts(case: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STEPS, case], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 143, done.stderr
    assert done.stderr == "lipcert: terminated\n"
    report = json.loads((tmp_path / "r.json").read_text())
    left = {file.name for file in tmp_path.iterdir()}
    if case == "importing":  # no exception inside an import: C++ would end the process
        assert left - {"__pycache__"} == {"r.json", "slow_module.py", "loaded"}
    else:
        assert left == {"r.json"}
    assert report["upper"] == (3.5 if case in ("swallowed", "again", "while writing") else None)
    assert ("interrupted" in str(report["warnings"])) == (case != "while writing")
