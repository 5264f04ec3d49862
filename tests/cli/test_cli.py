"""The command line: exit statuses, what goes to stdout and what to stderr, reports written whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from rich.console import Console

from lipcert.cli import main
from lipcert.cli.options import read_norm, read_numbers, read_shape
from lipcert.cli.progress import Live, Progress, ShownProgress
from lipcert.cli.run import Run, execute
from lipcert.report.report import Report
from lipcert.terms.errors import RefusedModel, SelfCheckFailed, UnreadableError, UsageError
from lipcert.terms.query import Norm
from lipcert.terms.result import Bound, Refusal

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MOONS = str(EXAMPLES / "two_moons.onnx")
SCHEMA = json.loads(resources.files("lipcert.report").joinpath("schema/lipcert.report-1.json").read_text())
UPPER = Bound("product", "upper", "proved", 3.5)
LOWER = Bound("sampled", "lower", "sampled", 2.0)
DONE = Report("bound", {"path": "m.onnx"}, results=[UPPER, LOWER])


class Ran(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def typed(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """A command line in this process, as the shell would give it."""

    def run(*arguments: str) -> Ran:
        with pytest.raises(SystemExit) as stopped:
            main.main(list(arguments))
        return Ran(stopped.value.code or 0, *capfd.readouterr())

    return run


@pytest.fixture
def executed(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., tuple[Ran, dict | None]]:
    """`execute` on some work, with a report file."""

    def run(work: Callable[[Progress], Report], **changes: object) -> tuple[Ran, dict | None]:
        file = tmp_path / "report.json"
        status = execute(Run(**{"command": "bound", "model": Path("m.onnx"), "json": str(file), **changes}), work)
        ran = Ran(status, *capfd.readouterr())
        return ran, json.loads(file.read_text()) if file.exists() else None

    return run


def shell(*arguments: str, **options: object) -> Ran:
    """The real thing in a child process."""
    command = [sys.executable, "-m", "lipcert", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    return Ran(done.returncode, done.stdout, done.stderr)


def raising(error: BaseException) -> Callable[[Progress], Report]:
    def work(progress: Progress) -> Report:
        raise error

    return work


# Usage


def test_help_and_version(typed: Callable[..., Ran]) -> None:
    assert typed("--version").out.startswith("lipcert 0")
    ran = typed("--help")
    assert ran.status == 0
    for name, command in main.COMMANDS.items():
        assert name in ran.out
        page = typed(name, "--help")
        assert page.status == 0
        assert command.example in page.out
        assert f"{command.example} ".startswith(f"lipcert {name} ")


def test_the_list_of_commands_is_that_of_the_whole_program(typed: Callable[..., Ran], monkeypatch) -> None:
    """It is made without their options, which takes a third of the time."""
    short, program = typed("--help").out, main.program
    monkeypatch.setattr(main, "program", lambda whole: program())
    assert typed("--help").out == short
    monkeypatch.setattr(main, "program", lambda whole: program(whole=False))
    assert typed("bound", "--help").out != short  # what is compared is what is made


def test_completion_is_on(typed: Callable[..., Ran]) -> None:
    assert "--show-completion" in typed("--help").out
    asked = {"_LIPCERT_COMPLETE": "complete_bash", "COMP_WORDS": "lipcert bound --norm ", "COMP_CWORD": "3"}
    assert shell(env={**os.environ, **asked}).out.split() == ["1", "2", "inf"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("frobnicate",), "frobnicate"),
        (("bound",), "Usage"),
        (("bound", MOONS, "--frobnicate"), "--frobnicate"),
        (("bound", MOONS, "--norm", "2", "--norm-in", "1"), "--norm-in"),
        (("bound", MOONS, "--norm-in", "1"), "--norm-out"),
        (("bound", MOONS, "--output", "best"), "pair such as 3-5"),
        (("bound", MOONS, "--input-shape", "1,x"), "1,28,28"),
        (("bound", MOONS, "--mean", "a"), "--mean"),
        (("bound", MOONS, "--reader", "guess"), "onnx2torch"),
        (("bound", MOONS, "--device", "tpu"), "cuda"),
        (("bound", MOONS, "--box", "0:1", "--at", "x.npy"), "one region"),
        (("bound", MOONS, "--eps", "1"), "--at"),
        (("bound", MOONS, "--at", "x.npy"), "--eps"),
        (("bound", MOONS, "--at", "x.npy", "--eps", "nan"), "--eps"),
        (("bound", MOONS, "--max-upper", "nan"), "--max-upper"),
        (("bound", MOONS, "--max-upper", "-1"), "--max-upper"),
        (("bound", MOONS, "--budget", "inf"), "--budget"),
        (("bound", MOONS, "--threads", "0"), "--threads"),
        (("bound", MOONS, "--json", "no/such/folder/r.json"), "cannot write"),
        (("bound", MOONS, "--json", MOONS), "is the model file"),
        (("inspect", MOONS, "--json", "/"), "cannot write"),
    ],
)
def test_usage_errors(typed: Callable[..., Ran], arguments: tuple[str, ...], says: str) -> None:
    ran = typed(*arguments)
    assert ran.status == 2
    assert says in ran.err + ran.out  # the help page of a command without arguments goes to stdout
    assert "Traceback" not in ran.err


def test_unknown_norm_in_the_shell() -> None:
    """In a child: here beartype would object to the type before `Norm` objects to the value."""
    for arguments in (("bound", MOONS, "--norm", "3"), ("layers", MOONS, "--norm-in", "2", "--norm-out", "0")):
        ran = shell(*arguments)
        assert ran.status == 2
        assert ran.err.startswith("lipcert: ")
        assert "norms are 1, 2 and inf" in ran.err


def test_read_options() -> None:
    assert read_norm(None, None, None) == Norm("2", "2")
    assert read_norm("inf", None, None) == Norm("inf", "inf")
    assert read_norm(None, "1", "inf") == Norm("1", "inf")
    assert read_shape("1,28,28") == (1, 28, 28)
    assert read_shape(None) is None
    assert read_numbers("--mean", "0.5,-1e-3") == (0.5, -0.001)
    for bad in ("", "0", "1,-1", "1.5"):
        with pytest.raises(UsageError):
            read_shape(bad)
    for bad in ("", "nan", "inf", "1,,2"):
        with pytest.raises(UsageError):
            read_numbers("--std", bad)


# The error handler


def test_done(executed: Callable[..., tuple[Ran, dict]]) -> None:
    ran, data = executed(lambda progress: DONE)
    assert (ran.status, data["upper"], data["lower"]) == (0, 3.5, 2.0)
    assert "2 <= L <= 3.5" in ran.out
    assert ran.err == ""


def test_json_alone_on_stdout(executed: Callable[..., tuple[Ran, None]]) -> None:
    """Also when the model prints, in Python or below it."""

    def work(progress: Progress) -> Report:
        print("python prints")
        os.write(1, b"a library prints\n")
        progress.result(UPPER)
        return DONE

    ran, _ = executed(work, json="-")
    assert json.loads(ran.out)["upper"] == 3.5
    for words in ("python prints", "a library prints", "product: upper 3.5 (proved"):
        assert words in ran.err


@pytest.mark.parametrize(
    ("error", "status", "verdict"),
    [
        (RefusedModel("node n1 (Foo): unknown op", node="n1"), 3, "refused"),
        (RefusedModel("node n1 (Floor): a step", node="n1", unbounded=True), 3, "refused"),
        (SelfCheckFailed("lower > upper"), 4, "refused"),
    ],
)
def test_refused_models_are_reported(executed: Callable, error: Exception, status: int, verdict: str) -> None:
    ran, data = executed(raising(error), asked={"norm": Norm("inf", "inf"), "output": "3"})
    assert (ran.status, data["status"], data["norm"]["input"]) == (status, verdict, "inf")
    assert (data["scope"]["output"], data["results"][0]["reason"]) == ("3", str(error))
    assert ran.err == f"lipcert: {error}\n"


@pytest.mark.parametrize("error", [UnreadableError("m.onnx: not a model"), UsageError("--norm: no")])
def test_exit_2_writes_no_report(executed: Callable, tmp_path: Path, error: UsageError | UnreadableError) -> None:
    with pytest.raises(type(error)):
        executed(raising(error))
    assert list(tmp_path.iterdir()) == []


def test_internal_error_leaves_a_log(executed: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ran, data = executed(raising(ZeroDivisionError("oops")))
    assert (ran.status, data["status"]) == (4, "refused")
    assert "Traceback" not in ran.err
    assert ran.err.startswith("lipcert: internal error: ZeroDivisionError: oops\n")
    log = next(tmp_path.glob("lipcert-error-*.log"))
    assert str(log) in ran.err
    text = log.read_text()
    assert "Traceback" in text
    assert "python: 3" in text


def test_even_a_report_that_cannot_be_written_is_no_failed_gate(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Python's own exit status for a crash, 1, means `a gate is not met` here."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    broken = Report("bound", {"path": 1j})
    command = main.exiting(
        lambda: execute(Run("bound", Path("m.onnx"), json=str(tmp_path / "r.json")), lambda progress: broken)
    )

    class Line:
        commands: ClassVar[dict] = {}

        def __call__(self, *_: object, **__: object) -> None:
            command()

    monkeypatch.setattr("typer.main.get_command", lambda _: Line())
    with pytest.raises(SystemExit) as stopped:
        main.main([])
    assert stopped.value.code == 4
    assert "internal error: TypeError" in capfd.readouterr().err


def test_debug_shows_the_traceback(executed: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIPCERT_DEBUG", "1")
    ran, _ = executed(raising(RefusedModel("no")))
    assert "Traceback" in ran.err


def test_interrupted_keeps_what_is_known(executed: Callable) -> None:
    stop = KeyboardInterrupt()
    stop.partial_report = DONE  # type: ignore[attr-defined]
    ran, data = executed(raising(stop))
    assert (ran.status, data["upper"]) == (130, 3.5)
    assert "interrupted" in data["warnings"][0]
    assert "interrupted" in ran.err
    ran, data = executed(raising(KeyboardInterrupt()))
    assert (ran.status, data["status"]) == (130, "timeout")
    assert "before any result" in data["results"][0]["reason"]


def test_gate_and_self_check_decide_the_exit_status(executed: Callable) -> None:
    gated = Report("bound", {"path": "m"}, results=[UPPER, LOWER], max_upper=3.0)
    ran, data = executed(lambda progress: gated)
    assert (ran.status, data["gate"]) == (1, {"max_upper": 3.0, "met": False})
    wrong = Report("bound", {"path": "m"}, results=[UPPER, Bound("sampled", "lower", "sampled", 4.0)])
    ran, data = executed(lambda progress: wrong)
    assert (ran.status, data["upper"], data["self_check"]["passed"]) == (4, None, False)


def test_hostile_errors_stay_on_their_line(executed: Callable) -> None:
    ran, _ = executed(raising(RefusedModel("node a\x1b[31m[red]\r: no\n::error::gotcha")))
    assert ran.err == "lipcert: node a\\x1b[31m[red]\\r: no\n  | ::error::gotcha\n"


def test_quiet(executed: Callable) -> None:
    def work(progress: Progress) -> Report:
        progress("sampling", 1, 2)
        progress.result(UPPER)
        return DONE

    assert executed(work, quiet=True)[0].err == ""
    assert executed(work)[0].err == "product: upper 3.5 (proved, 0.00 s)\n"


def test_live_progress_closes_the_interval() -> None:
    live = Live()
    live("sampling", 1, 2)
    for result in (UPPER, LOWER, Bound("x", "upper", "numeric", 3.0), Refusal("y", "upper", "refused", "[red]")):
        live.result(result)
    console = Console(width=80)
    with console.capture() as captured:
        console.print(live._picture())
    live.stop()
    assert "2 <= L <= 3.5\n" in captured.get()
    assert "sampling" in captured.get()
    assert "[red]" in captured.get()
    with ShownProgress(quiet=False) as progress:
        assert not isinstance(progress, Live)  # stderr of a test is no terminal


# End to end


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_bound_of_the_shipped_model(typed: Callable[..., Ran], norm: str) -> None:
    ran = typed("bound", MOONS, "--norm", norm, "--json", "-", "--quiet", "--budget", "20")
    data = json.loads(ran.out)
    assert list(Draft202012Validator(SCHEMA).iter_errors(data)) == []
    assert (ran.status, data["status"], data["norm"]["input"]) == (0, "bounded", norm)
    assert 0 < data["lower"] <= data["upper"]
    assert ran.err == ""


def test_same_seed_same_report(typed: Callable[..., Ran]) -> None:
    def values() -> list[tuple[str, float | None]]:
        data = json.loads(
            typed("bound", MOONS, "--output", "0", "--json", "-", "--seed", "3", "--method", "sampled").out
        )
        return [(row["method"], row["value"]) for row in data["results"]]

    assert values() == values()


def test_gate(typed: Callable[..., Ran]) -> None:
    upper = json.loads(typed("bound", MOONS, "--json", "-", "--method", "product").out)["upper"]
    assert typed("bound", MOONS, "--method", "product", "--max-upper", repr(upper)).status == 0
    ran = typed("bound", MOONS, "--method", "product", "--max-upper", repr(float(np.nextafter(upper, 0))))
    assert ran.status == 1
    assert "gate NOT met" in ran.out


def test_unknown_method_lists_the_methods(typed: Callable[..., Ran]) -> None:
    ran = typed("bound", MOONS, "--method", "magic")
    assert ran.status == 2
    for name in ("magic", "product", "absolute", "sampled"):
        assert name in ran.err


def test_torchscript_and_onnx_agree(typed: Callable[..., Ran]) -> None:
    flags = ("--json", "-", "--method", "product")
    script = json.loads(typed("bound", str(EXAMPLES / "two_moons.pt"), "--input-shape", "1,2", *flags).out)
    onnx = json.loads(typed("bound", MOONS, *flags).out)
    assert script["upper"] == pytest.approx(onnx["upper"], rel=1e-12)


def test_normalisation_is_in_raw_units(typed: Callable[..., Ran]) -> None:
    plain = json.loads(typed("bound", MOONS, "--json", "-", "--method", "product").out)["upper"]
    flags = ("--mean", "0.5", "--std", "0.25")
    scaled = json.loads(typed("bound", MOONS, "--json", "-", "--method", "product", *flags).out)["upper"]
    assert scaled == pytest.approx(4 * plain, rel=1e-9)


def test_inspect_and_layers(typed: Callable[..., Ran]) -> None:
    ran = typed("inspect", MOONS)
    assert ran.status == 0
    assert "relu" in ran.out.lower()
    data = json.loads(typed("inspect", MOONS, "--json", "-").out)
    assert list(Draft202012Validator(SCHEMA).iter_errors(data)) == []
    assert data["parts"]
    assert {row["method"] for row in data["methods"]} >= {"product", "absolute", "sampled"}
    ran = typed("layers", MOONS)
    assert ran.status == 0
    assert "█" in ran.out
    data = json.loads(typed("layers", MOONS, "--norm", "1", "--json", "-").out)
    assert list(Draft202012Validator(SCHEMA).iter_errors(data)) == []
    assert [row["upper"] > 0 for row in data["layers"]] == [True] * 7


def test_missing_file(typed: Callable[..., Ran], tmp_path: Path) -> None:
    ran = typed("bound", str(tmp_path / "absent.onnx"), "--json", str(tmp_path / "r.json"))
    assert ran.status == 2
    assert ran.err.startswith("lipcert: ")
    assert "Traceback" not in ran.err
    assert [file.name for file in tmp_path.iterdir()] == ["r.json"]
    found = json.loads((tmp_path / "r.json").read_text())["error"]
    assert (found["kind"], found["where"]) == ("unreadable", str(tmp_path / "absent.onnx"))


def test_in_the_shell(tmp_path: Path) -> None:
    """Once as a user does: a file with the report, threads set, a terminal that knows ASCII only."""
    file = tmp_path / "r.json"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    ran = shell(
        "bound", MOONS, "--norm", "inf", "--budget", "20", "--json", str(file), "--threads", "1", env=environment
    )
    assert ran.status == 0, ran.err
    assert ran.out.isascii()
    data = json.loads(file.read_text())
    assert data["lower"] <= data["upper"]


def test_broken_pipe() -> None:
    """`lipcert ... | head -0`: no traceback, and the exit status is still the verdict."""
    command = f"{sys.executable} -m lipcert layers {MOONS} --norm 1 --quiet | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_in_the_shell(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    command = [sys.executable, "-c", "from lipcert.__main__ import main; main()"]
    arguments = ["bound", MOONS, "--method", "sampled", "--budget", "60", "--json", str(file)]
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(1.0)  # importing torch, or already at work: both must end in 130
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    if file.exists():
        assert "interrupted" in json.loads(file.read_text())["warnings"][-1]
