"""An error of exit 2: one line on stderr, and for `--json` an object with the same words."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lipcert.cli.complain import complain as complain
from lipcert.cli.typed import CommandLine
from lipcert.report.to_json import write_atomically
from lipcert.terms.added import added
from lipcert.terms.printable import plain

COPY = "copy: "
OURS = (b'"schema": "lipcert.', b'"error": {')  # in the first bytes of every file that --json writes


def error_object(message: str, kind: str, where: str | None = None) -> dict[str, Any]:
    """{"error": {"kind", "what", "where", "hint"}}. Messages read "where: what; hint", unless `where` is given."""
    what, *more = message.split("\n")
    copied = next((line.removeprefix(COPY) for line in more if line.startswith(COPY)), None)
    if where is None and ": " in what:
        where, _, what = what.partition(": ")
    said, semicolon, hint = ("", "", "") if copied else what.rpartition("; ")
    words = {
        "kind": kind,
        "what": said if semicolon else what,
        "where": where,
        "hint": copied or (hint if semicolon else "lipcert COMMAND --help lists what can be given"),
    }
    return {"error": plain(words)}


def with_command(message: str, arguments: Sequence[str]) -> tuple[str, str]:
    """What a message says to add, as a command line to copy: this one, with the options that were missing. The message
    with that line, and the command by itself ("" where nothing is said to be added)."""
    said, more = added(message)
    if not more:
        return message, ""
    again = {flag for flag, _ in more} & {"--input-name", "--output-name", "--reader"}  # the others may be repeated
    copied = CommandLine(arguments).again([word for pair in more for word in pair], tuple(again))
    return f"{said}\n{COPY}{copied}", copied


def tell(message: str, kind: str, arguments: Sequence[str]) -> None:
    """On stderr, and where --json was asked for."""
    message, _ = with_command(message, arguments)
    complain(message)
    tell_json(message, kind, arguments)


def tell_json(message: str, kind: str, arguments: Sequence[str], where: str | None = None) -> None:
    target = json_target(arguments)
    if target is None:
        return
    text = json.dumps(error_object(message, kind, where), indent=1) + "\n"
    if target == "-":
        sys.stdout.write(text)
    elif may_replace(target, arguments):
        with contextlib.suppress(OSError):  # the line on stderr and the exit status have said it
            write_atomically(text, target)


def json_target(arguments: Sequence[str]) -> str | None:
    """What follows --json, also on a command line that was not understood."""
    found = None
    for place, word in enumerate(arguments):
        if word == "--":
            break
        if word == "--json":
            found = arguments[place + 1] if place + 1 < len(arguments) else None
        elif word.startswith("--json="):
            found = word.removeprefix("--json=")
    return found or None


def may_replace(target: str, arguments: Sequence[str]) -> bool:
    """Not where another word of the command line names the file, such as the report of --resume, and nothing that
    `--json` did not write. An old report does not stay: it would be taken for the answer."""
    words = [word for argument in arguments for word in (argument, argument.partition("=")[2])]
    named = [word for word in words if word and os.path.exists(word) and os.path.exists(target)]
    if sum(os.path.samefile(word, target) for word in named) > 1:
        return False
    if not os.path.exists(target):
        return Path(target).resolve().parent.is_dir()
    if not os.path.isfile(target):
        return False
    try:
        with open(target, "rb") as stream:
            start = stream.read(100)
        return any(mark in start for mark in OURS)
    except OSError:
        return False
