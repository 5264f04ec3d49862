"""The command line: one row per command. A command parses, calls one function and returns its exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, NamedTuple

import typer

import lipcert
from lipcert.cli.bound import bound
from lipcert.cli.compare import compare
from lipcert.cli.gate import gate
from lipcert.cli.inspect import inspect
from lipcert.cli.jacobian import jacobian
from lipcert.cli.layers import layers
from lipcert.cli.local import bare_grid, local
from lipcert.cli.radius import radius
from lipcert.cli.run import INTERNAL_ERROR, complain, internal_error, show_debug_trace
from lipcert.cli.verify import verify
from lipcert.errors import LipcertError

EXIT_STATUS = """\
Exit status: 0 done and every gate met, 1 a gate is not met or a certificate is rejected,
2 usage or unreadable input, 3 no finite certified bound (refused or unbounded), 4 internal error or failed self-check,
130 interrupted."""


class Command(NamedTuple):
    function: Callable[..., int]
    example: str


COMMANDS = {
    "inspect": Command(inspect, "lipcert inspect model.onnx"),
    "bound": Command(bound, "lipcert bound model.onnx --norm inf --max-upper 20 --json report.json"),
    "layers": Command(layers, "lipcert layers model.onnx --norm 2"),
    "local": Command(local, "lipcert local model.onnx --grid 50x50 --box=-1:1 --plot heat.png"),
    "jacobian": Command(jacobian, "lipcert jacobian model.onnx --data test.npz --per-class"),
    "radius": Command(radius, "lipcert radius model.onnx --data test.npz --norm inf --eps 0.01"),
    "gate": Command(gate, "lipcert gate report.json --policy gate.toml --junit gate.xml"),
    "compare": Command(compare, "lipcert compare old.json new.json --fail-on worse --markdown -"),
    "verify": Command(verify, "lipcert verify model.cert model.onnx"),
}

app = typer.Typer(
    name="lipcert",
    help="Certified Lipschitz constants of trained neural networks.",
    epilog=EXIT_STATUS,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def exiting(function: Callable[..., int]) -> Callable[..., None]:
    """The command for Typer, which takes exit statuses only as an exception."""

    @wraps(function)
    def command(**arguments: Any) -> None:
        raise typer.Exit(function(**arguments))

    return command


for _name, _command in COMMANDS.items():
    app.command(_name, epilog=f"Example: {_command.example}", no_args_is_help=True)(exiting(_command.function))


def _print_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"lipcert {lipcert.__version__}")
        raise typer.Exit
    return asked


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run the command line, `sys.argv` by default, and exit with its status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character gets its escape
    try:
        app(bare_grid(sys.argv[1:] if arguments is None else arguments), prog_name="lipcert")
    except LipcertError as error:
        show_debug_trace()
        complain(str(error))
        sys.exit(error.exit_code)
    except Exception as error:
        show_debug_trace()
        complain(internal_error(error))
        sys.exit(INTERNAL_ERROR)
