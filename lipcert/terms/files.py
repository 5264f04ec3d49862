"""Files that others wrote, read whole or refused with a reason. Raises UnreadableError (exit 2), and nothing else.

`what` begins the message, such as "--policy gate.toml". A named pipe would be waited for without end, and a device never
ends: both are refused before they are opened.
"""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

from lipcert.terms.errors import UnreadableError

DEEPEST = 100  # nested lists and objects; a report has about six
DIGITS = 300  # of a whole number; float64 ends at 309
ODD_SHAPE = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)  # JSON that is not as asked


def odd(problem: Exception) -> str:
    """What is odd in the shape, in one line."""
    return next(iter(str(problem).splitlines()), type(problem).__name__)


def check_regular(path: str | Path, what: str) -> None:
    """Nothing but a regular file, through links."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise UnreadableError(f"{what}: cannot read it: {reason(error)}") from error
    if stat.S_ISREG(mode):
        return
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    kind = next((name for test, name in kinds if test(mode)), "a device")
    raise UnreadableError(f"{what}: this is {kind}, not a file; write what it holds into a file first")


def read_text(path: str | Path, what: str) -> str:
    """The whole file as UTF-8, a byte order mark left out."""
    check_regular(path, what)
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableError(
            f"{what}: not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"
        ) from error
    except (OSError, MemoryError) as error:
        raise UnreadableError(f"{what}: cannot read it: {reason(error)}") from error


def read_json(path: str | Path, what: str) -> dict[str, Any]:
    """One JSON object: finite numbers that float64 holds, no key twice, not deeper than DEEPEST."""
    text = read_text(path, what)
    try:
        data = json.loads(
            text, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole, object_pairs_hook=_unique
        )
    except (RecursionError, MemoryError):
        raise UnreadableError(f"{what}: not a report: it is nested too deeply, or too large") from None
    except ValueError as error:
        raise UnreadableError(f"{what}: not JSON: {error}") from error
    if not isinstance(data, dict):
        raise UnreadableError(f"{what}: not a report: it is no JSON object")
    if depth(data) > DEEPEST:
        raise UnreadableError(f"{what}: not a report: it is nested too deeply")
    return data


def depth(data: Any) -> int:
    """Levels of lists and objects, without recursion."""
    levels, row = 0, [data] if isinstance(data, dict | list) else []
    while row:
        levels += 1
        inside = (value for one in row for value in (one.values() if isinstance(one, dict) else one))
        row = [value for value in inside if isinstance(value, dict | list)]
    return levels


def reason(error: BaseException) -> str:
    """What the system says of a file, without its name and number."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is more than float64 holds")
    return number


def _whole(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a key is given twice")
    return data
