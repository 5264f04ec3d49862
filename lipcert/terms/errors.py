"""Errors a user can act on. Each carries the exit status of the command line (docs/commands.md, "Exit status")."""

from __future__ import annotations

import re


def lasting(text: str) -> str:
    """Printable lines, without the addresses that Python puts into `<object at 0x7f..>`: two runs say the same of one file."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", "\n".join(map(printable, text.split("\n"))))


class LipcertError(Exception):
    """Base: the first line says what, where and what to do."""

    exit_code = 4
    kind = "internal"

    def __init__(self, *said: object):
        super().__init__(*(lasting(word) if isinstance(word, str) else word for word in said))


class UsageError(LipcertError):
    """A flag or argument that makes no sense for this model."""

    exit_code = 2
    kind = "usage"


class UnreadableError(LipcertError):
    """The file is missing, damaged, or not in a format that lipcert reads."""

    exit_code = 2
    kind = "unreadable"


class UnwritableError(UsageError):
    """A report, picture or certificate that cannot be written: a full disk, a folder that is read-only."""

    kind = "unwritable"


class RefusedModel(LipcertError):
    """The file was read, but no rule claims one of its nodes, so nothing true can be said of it.

    `unbounded` marks nodes that are not Lipschitz by themselves (argmax, a branch on data). Of the network that says
    nothing: its report has status refused.
    """

    exit_code = 3

    def __init__(self, message: str, *, node: str | None = None, unbounded: bool = False):
        super().__init__(message)
        self.node = node
        self.unbounded = unbounded


class WorkersLost(RefusedModel):
    """Workers die again and again, or their scheduler is gone: what is known by then stands in the report."""


class SelfCheckFailed(LipcertError):
    """Two results of one scope contradict each other (lower > upper). Never clamped, always exit 4."""

    exit_code = 4


class CertificateRejected(LipcertError):
    """A certificate that is malformed, about another network, or whose claim its proof does not show.

    `place`: the field of the file (`proof.multipliers[2].float64[7]`). `reason`: what is wrong with it.
    """

    exit_code = 1

    def __init__(self, place: str, reason: str):
        super().__init__(f"certificate rejected at {place}: {reason}")
        self.place, self.reason = place, reason


def printable(text: str) -> str:
    """One line without control, format or bidirectional characters: names in a model file may hold any of them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
