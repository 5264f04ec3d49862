"""Defaults of options: [tool.lipcert] of pyproject.toml, then LIPCERT_* variables; what is typed wins over both.

    [tool.lipcert]                 for every command that has the option
    threads = 2
    [tool.lipcert.bound]           for one command, over the table above
    norm = "inf"
    method = ["product", "lipsdp"]

    LIPCERT_NORM=1 LIPCERT_METHOD=product,lipsdp      over both, for every command that has the option

The nearest pyproject.toml at or above the working folder that has the table is read. A key that is no option is an error, and files
to read or write are always typed. The report says what was in force (`defaults`).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from lipcert.cli.paths import READS, WRITES
from lipcert.terms.errors import UsageError
from lipcert.terms.files import read_text

FILE = "pyproject.toml"
PREFIX = "LIPCERT_"
POLICY = "gate"  # [tool.lipcert.gate] holds rules, not defaults
TYPED = {name.rpartition(".")[2] for name in (*READS, *WRITES)} | {"help", "version", "init"}
# parameter -> those that say the same in another way: what is nearer the user puts it out of force
INSTEAD: dict[str, tuple[str, ...]] = {
    "norm": ("norm_in", "norm_out"),
    "norm_in": ("norm",),
    "norm_out": ("norm",),
    "box": ("at",),
    "grid": ("at",),
}

Defaults = dict[str, dict[str, Any]]  # command -> parameter -> value


class Option(NamedTuple):
    parameter: str
    several: bool  # may be given several times


Options = dict[str, dict[str, Option]]  # command -> option as it is typed, without dashes


class Place(NamedTuple):
    flag: str
    where: str


class InForce:
    """What one command line took from here: `rows` of {"option", "value", "from"}, for its report."""

    def __init__(self) -> None:
        self.places: dict[tuple[str, str], Place] = {}  # of (command, parameter)
        self.rows: list[dict[str, Any]] = []

    def place(self, command: str, parameter: str) -> Place | None:
        return self.places.get((command, parameter))

    def settle(self, context: Any) -> None:
        """Notes what `context` takes from here, and takes back what a typed option says in another way."""

        def source(name: str) -> str:
            return getattr(context.get_parameter_source(name), "name", "")

        self.rows = []
        for one in context.command.params:
            place = self.place(context.info_name, one.name)
            if place is None or source(one.name) != "DEFAULT_MAP":
                continue
            if any(source(other) == "COMMANDLINE" for other in INSTEAD.get(one.name, ())):
                context.params[one.name] = one.default
                continue
            self.rows.append({"option": place.flag, "value": _plain(context.params[one.name]), "from": place.where})


IN_FORCE = InForce()


def defaults(commands: Mapping[str, Any], folder: Path | None = None) -> Defaults:
    """Typer's `default_map` of these commands. Raises UsageError for a key that is no option, or that is a file."""
    IN_FORCE.places, IN_FORCE.rows = {}, []
    options = {name: _options(command) for name, command in commands.items()}
    found: Defaults = {command: {} for command in options}
    path, table = _table(Path.cwd() if folder is None else folder)
    where = f"{path}: [tool.lipcert]"
    for key, value in table.items():
        if not isinstance(value, Mapping):
            _add(found, key, value, where, [name for name in options if name != POLICY], options)
    for command, inner in table.items():
        if isinstance(inner, Mapping) and command != POLICY:
            if command not in options:
                raise UsageError(f"{where}: {command} is no command: {', '.join(options)}")
            for key, value in inner.items():
                _add(found, key, value, f"{path}: [tool.lipcert.{command}]", [command], options)
    for key, text in sorted(os.environ.items()):
        name = key.removeprefix(PREFIX).lower().replace("_", "-")
        known = [of_command[name] for of_command in options.values() if name in of_command]
        if key.startswith(PREFIX) and text and known and known[0].parameter not in TYPED:
            _add(found, name, text.split(",") if known[0].several else text, key, list(options), options)
    return found


def _options(command: Any) -> dict[str, Option]:
    made = (one for one in command.params if one.param_type_name == "option")
    return {max(one.opts, key=len).lstrip("-"): Option(one.name, bool(one.multiple)) for one in made}


def _table(folder: Path) -> tuple[Path, Mapping[str, Any]]:
    for path in (parent / FILE for parent in (folder, *folder.parents)):
        if path.is_file():
            try:
                tool = tomllib.loads(read_text(path, str(path))).get("tool", {})
            except (ValueError, RecursionError) as problem:
                raise UsageError(f"{path}: not TOML: {problem}") from problem
            table = tool.get("lipcert") if isinstance(tool, Mapping) else None
            if table is not None:
                if not isinstance(table, Mapping):
                    raise UsageError(f"{path}: tool.lipcert is no table")
                return path, table
    return folder / FILE, {}


def _add(found: Defaults, key: str, value: Any, where: str, commands: Sequence[str], options: Options) -> None:
    name = key.replace("_", "-")
    owners = {command: options[command][name] for command in commands if name in options[command]}
    if not owners:
        known = {option for command in commands for option, of in options[command].items() if of.parameter not in TYPED}
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else "see lipcert COMMAND --help"
        raise UsageError(f"{where}: {key} is no option; {hint}")
    many = isinstance(value, list)
    if isinstance(value, Mapping) or (many and not all(isinstance(item, str) for item in value)):
        raise UsageError(f"{where}: {key}: a text, a number, true or false is needed, or a list of texts")
    for command, option in owners.items():
        if option.parameter in TYPED:
            raise UsageError(f"{where}: {key} is a file, which is always typed")
        if many and not option.several:
            raise UsageError(f"{where}: {key}: one value is needed, not a list")
        one = value if isinstance(value, bool) or many else str(value)
        for other in INSTEAD.get(option.parameter, ()):
            found[command].pop(other, None)
        found[command][option.parameter] = [one] if option.several and not many else one
        IN_FORCE.places[command, option.parameter] = Place(f"--{name}", where)


def _plain(value: Any) -> Any:
    return (
        list(value)
        if isinstance(value, list | tuple)
        else value
        if isinstance(value, bool | int | float)
        else str(value)
    )
