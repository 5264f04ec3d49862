"""The command line: one row per command. A command parses, calls one function and returns its exit status."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, NamedTuple

import typer

from lipcert.cli import paths, streams
from lipcert.cli.bound import bound
from lipcert.cli.compare import compare
from lipcert.cli.defaults import IN_FORCE, defaults
from lipcert.cli.dequantise import dequantise
from lipcert.cli.doctor import doctor
from lipcert.cli.failure import complain, json_target, tell, tell_json
from lipcert.cli.gate import gate
from lipcert.cli.help import Command, Commands, formatted_by
from lipcert.cli.inspect import inspect
from lipcert.cli.jacobian import jacobian
from lipcert.cli.layers import layers
from lipcert.cli.local import bare_grid, local
from lipcert.cli.radius import radius
from lipcert.cli.report import report
from lipcert.cli.run import FAILED_TO_WRITE, INTERNAL_ERROR, internal_error, show_debug_trace
from lipcert.cli.track import track
from lipcert.cli.typed import TYPED
from lipcert.cli.verify import verify
from lipcert.terms.errors import LipcertError
from lipcert.terms.version import __version__

EXIT_STATUS = """\
Exit status: 0 done and every gate met, 1 a gate is not met or a certificate is rejected,
2 usage, unreadable input, or an output that cannot be written, 3 no finite certified bound (refused, unbounded or out of
time), 4 internal error or failed self-check, 130 interrupted, 143 terminated, 129 hung up."""


HELP = {"-h", "--help", "--version"}  # answered whatever the defaults are


class Listed(NamedTuple):
    function: Callable[..., int]
    example: str


COMMANDS = {
    "inspect": Listed(inspect, "lipcert inspect model.onnx"),
    "bound": Listed(bound, "lipcert bound model.onnx --norm inf --max-upper 20 --json report.json"),
    "layers": Listed(layers, "lipcert layers model.onnx --norm 2"),
    "local": Listed(local, "lipcert local model.onnx --grid 50x50 --box=-1:1 --plot heat.png"),
    "jacobian": Listed(jacobian, "lipcert jacobian model.onnx --data test.npz --per-class"),
    "radius": Listed(radius, "lipcert radius model.onnx --data test.npz --norm inf --eps 0.01"),
    "gate": Listed(gate, "lipcert gate report.json --policy gate.toml --junit gate.xml"),
    "compare": Listed(compare, "lipcert compare old.json new.json --fail-on worse --markdown -"),
    "track": Listed(track, "lipcert track runs/lr0.1 runs/lr0.01 --data test.npz --plot track.png"),
    "report": Listed(report, "lipcert report bound.json radius.json --html page.html"),
    "verify": Listed(verify, "lipcert verify model.cert model.onnx"),
    "dequantise": Listed(dequantise, "lipcert dequantise quantised.onnx --to surrogate.onnx"),
    "doctor": Listed(doctor, "lipcert doctor"),
}


def exiting(function: Callable[..., int], name: str = "") -> Callable[..., None]:
    """The command for Typer, which takes exit statuses only as an exception. Its files are compared first."""

    @wraps(function)
    def command(**arguments: Any) -> None:
        paths.check_model(arguments.get("model"))
        paths.check(name, arguments)
        raise typer.Exit(function(**arguments))

    return command


def _print_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"lipcert {__version__}")
        raise typer.Exit
    return asked


def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


def program(whole: bool = True) -> typer.Typer:
    """What Typer parses; not `whole`: with the names and texts of the commands alone, for the page that lists them."""
    app = typer.Typer(
        cls=Commands,
        name="lipcert",
        help="Certified Lipschitz constants of trained neural networks.",
        epilog=EXIT_STATUS,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name, command in COMMANDS.items():
        app.command(
            name,
            cls=Command,
            help=command.function.__doc__,
            epilog=f"Example: {command.example}",
            no_args_is_help=" " in command.example.removeprefix("lipcert "),  # doctor needs no argument
        )(exiting(command.function, name) if whole else _nothing)
    app.callback()(options)
    return app


def _nothing() -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run the command line, `sys.argv` by default, and exit with its status."""
    given = bare_grid(sys.argv[1:] if arguments is None else arguments)
    with streams.guarded() as standard:
        for stream in standard:
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character gets its escape
        if standard[0].closed_early and json_target(given) == "-":
            complain("--json -: standard output is closed; give a file")
            status = FAILED_TO_WRITE
        else:
            status = answer(given)
        for stream in standard:
            stream.flush()
            if stream.failed and status in (0, 1, 3):
                complain(f"{stream.name}: cannot write to it: {stream.problem}")
                status = FAILED_TO_WRITE
    sys.exit(status)


def answer(arguments: list[str]) -> int:
    """The exit status; everything is said already."""
    TYPED.words = tuple(arguments)
    try:
        listing = arguments[:1] in (["-h"], ["--help"]) and "_LIPCERT_COMPLETE" not in os.environ
        command: Any = typer.main.get_command(program(whole=not listing))
        given = {} if HELP & set(arguments) else defaults(command.commands)
        return command(arguments, prog_name="lipcert", standalone_mode=False, default_map=given) or 0
    except LipcertError as error:
        show_debug_trace(error)
        if error.exit_code == 2:
            tell(str(error), error.kind, arguments)
        else:
            complain(str(error))
        return error.exit_code
    except typer.Abort:
        return 128 + signal.SIGINT
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # a command line that Typer cannot read
            return misread(error, arguments)
        show_debug_trace(error)
        complain(internal_error(error))
        return INTERNAL_ERROR


def misread(error: Any, arguments: list[str]) -> int:
    formatted_by().rich_format_error(error)
    command, parameter = getattr(getattr(error, "ctx", None), "info_name", ""), getattr(error, "param", None)
    place = IN_FORCE.place(command, getattr(parameter, "name", ""))
    if place is not None and not any(word.startswith(place.flag) for word in arguments):
        complain(f"{place.flag} is set in {place.where}")
    if error.format_message():
        context = getattr(error, "ctx", None)
        where = getattr(error, "option_name", None) or getattr(context, "command_path", None) or "lipcert"
        tell_json(error.format_message(), "usage", arguments, where)
    return error.exit_code
