"""What is answered before Typer is imported, which brings pydantic and takes longer than all of our own modules: a model file that
is not there. The same words and status as the whole command line gives; where it would do more than print them, it does it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

ABOUT_A_MODEL = ("inspect", "bound", "layers", "local", "jacobian", "radius")
SEVERAL = ("inspect", "bound", "layers")  # also patterns
LEAVE_IT = ("-h", "--help", "--version")


def missing_model(arguments: Sequence[str]) -> int | None:
    """The exit status where the first word after the command is a file that cannot be found; None leaves it to Typer."""
    if len(arguments) < 2 or arguments[0] not in ABOUT_A_MODEL or "_LIPCERT_COMPLETE" in os.environ:
        return None
    if arguments[1].startswith("-") or any(word in LEAVE_IT or word.startswith("--json") for word in arguments):
        return None
    if os.path.lexists(arguments[1]) or sys.stdout is None or sys.stderr is None:
        return None
    from lipcert.cli import paths, streams
    from lipcert.terms.errors import UnreadableError

    try:
        paths.check_model([arguments[1]] if arguments[0] in SEVERAL else arguments[1])
    except UnreadableError as error:
        from lipcert.cli.complain import complain

        with streams.guarded():
            complain(str(error))
        return error.exit_code
    return None
