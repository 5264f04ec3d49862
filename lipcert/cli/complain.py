"""An error in one line on stderr."""

from __future__ import annotations

import sys

from lipcert.terms.printable import printable


def complain(message: str) -> None:
    """A second line only as a marked continuation."""
    first, *more = message.split("\n")
    print(f"lipcert: {printable(first)}", *(f"  | {printable(line)}" for line in more), sep="\n", file=sys.stderr)
