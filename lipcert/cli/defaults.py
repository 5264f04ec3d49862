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
from typing import Any

from lipcert.cli.paths import READS, WRITES
from lipcert.terms.errors import UsageError
from lipcert.terms.files import read_text

FILE = "pyproject.toml"
PREFIX = "LIPCERT_"
POLICY = "gate"  # [tool.lipcert.gate] holds rules, not defaults
TYPED = {name.rpartition(".")[2] for name in (*READS, *WRITES)} | {"help", "version", "init"}

Defaults = dict[str, dict[str, Any]]  # command -> parameter -> value
Sources = dict[str, dict[str, str]]  # command -> parameter -> where its value comes from


class InForce:
    """What one command line took from here: `rows` of {"option", "value", "from"}, for its report."""

    sources: Sources
    rows: list[dict[str, Any]]

    def __init__(self) -> None:
        self.sources, self.rows = {}, []

    def place(self, command: str, parameter: str) -> str | None:
        return self.sources.get(command, {}).get(parameter)

    def note(self, command: str, taken: Mapping[str, Any]) -> None:
        known = self.sources.get(command, {})
        self.rows = [
            {"option": flag(name), "value": _plain(value), "from": known[name]}
            for name, value in taken.items()
            if name in known
        ]


IN_FORCE = InForce()


def flag(parameter: str) -> str:
    return f"--{parameter.replace('_', '-')}"


def defaults(commands: Mapping[str, Any], folder: Path | None = None) -> Defaults:
    """Typer's `default_map` of these commands. Raises UsageError for a key that is no option, or that is a file."""
    IN_FORCE.sources, IN_FORCE.rows = {}, []
    options = {name: _options(command) for name, command in commands.items()}
    found: Defaults = {command: {} for command in options}
    path, table = _table(Path.cwd() if folder is None else folder)
    where = f"{path}: [tool.lipcert]"
    common = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    for key, value in common.items():
        _add(found, key, value, where, [name for name in options if name != POLICY], options)
    for command, inner in table.items():
        if isinstance(inner, Mapping) and command != POLICY:
            if command not in options:
                raise UsageError(f"{where}: {command} is no command: {', '.join(options)}")
            for key, value in inner.items():
                _add(found, key, value, f"{path}: [tool.lipcert.{command}]", [command], options)
    for key, text in sorted(os.environ.items()):
        name = key.removeprefix(PREFIX).lower()
        if key.startswith(PREFIX) and text and name not in TYPED and any(name in known for known in options.values()):
            values = text.split(",") if any(known.get(name) for known in options.values()) else text
            _add(found, name, values, key, list(options), options)
    return found


def _options(command: Any) -> dict[str, bool]:
    """Names of its options, and whether each may be given several times."""
    return {one.name: bool(one.multiple) for one in command.params if one.param_type_name == "option"}


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


def _add(
    found: Defaults,
    key: str,
    value: Any,
    where: str,
    commands: Sequence[str],
    options: Mapping[str, Mapping[str, bool]],
) -> None:
    name = key.replace("-", "_")
    owners = [command for command in commands if name in options[command]]
    if name in TYPED or not owners:
        known = {option for command in commands for option in options[command]} - TYPED
        near = get_close_matches(name, known, 1)
        meant = f"; did you mean {near[0].replace('_', '-')}?" if near else "; see lipcert COMMAND --help"
        why = "is a file, which is always typed" if name in TYPED else f"is no option{meant}"
        raise UsageError(f"{where}: {key} {why}")
    many = isinstance(value, list)
    if isinstance(value, Mapping) or (many and not all(isinstance(item, str) for item in value)):
        raise UsageError(f"{where}: {key}: a text, a number, true or false is needed, or a list of texts")
    for command in owners:
        several = options[command][name]
        if many and not several:
            raise UsageError(f"{where}: {key}: one value is needed, not a list")
        found[command][name] = (
            (value if many else [str(value)]) if several else value if isinstance(value, bool) else str(value)
        )
        IN_FORCE.sources.setdefault(command, {})[name] = where


def _plain(value: Any) -> Any:
    return (
        list(value)
        if isinstance(value, list | tuple)
        else value
        if isinstance(value, bool | int | float)
        else str(value)
    )
