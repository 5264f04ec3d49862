"""Seals: keyed digests of the rows of a report, by which a later run knows what this user's own lipcert has proved.

A row that decides a verdict is proved, and a resumed run does not prove it again. A plain digest would find damage and no
forger, who computes it anew; so the digest has a key, 32 random bytes in the user's state folder that only the user can
read (`$XDG_STATE_HOME/lipcert/key`, mode 0600). The seal covers the whole question, the version of lipcert, and the row but
for its times: it holds for no other question and no other version. Who can read the key could change lipcert as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipcert.terms.printable import plain
from lipcert.terms.question import Question
from lipcert.terms.version import __version__

FIELD = "seal"
TIMES = ("seconds", FIELD)  # not covered: two runs of one question give one seal
BYTES = 32
DIGITS = 32  # hexadecimal, 128 bits


def key_file() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or ""
    folder = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return folder / "lipcert" / "key"


def user_key() -> bytes | None:
    """The user's key, made at its first use. None where there is no place for one, or others could read or write it."""
    try:
        path = key_file()
        found = _read(path)
        if found is not None:
            return found
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(secrets.token_bytes(BYTES))
            with contextlib.suppress(FileExistsError):  # two runs at once: the first key stands
                os.link(aside, path)
        finally:
            os.unlink(aside)
        return _read(path)
    except (OSError, RuntimeError):  # no home, no room, a file system without links
        return None


def _read(path: Path) -> bytes | None:
    """None where there is no such file. OSError where it is no private key of this user."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        return None
    with os.fdopen(handle, "rb") as stream:
        about = os.fstat(stream.fileno())
        private = os.name != "posix" or (about.st_uid == os.getuid() and not about.st_mode & 0o077)
        if not (stat.S_ISREG(about.st_mode) and private):
            raise PermissionError(f"{path}: not a file of this user alone")
        data = stream.read(BYTES + 1)
    if len(data) != BYTES:
        raise PermissionError(f"{path}: not a key")
    return data


@dataclass(frozen=True)
class Seal:
    """Seals rows of one question. `begun` None: there is no key, nothing is sealed and no seal holds."""

    begun: hmac.HMAC | None

    @classmethod
    def of(cls, question: Question) -> Seal:
        key = user_key()
        if key is None:
            return cls(None)
        return cls(hmac.new(key, _bytes([__version__, question.to_dict()]), hashlib.sha256))

    def digest(self, row: Any) -> str | None:
        if self.begun is None:
            return None
        mac = self.begun.copy()
        mac.update(_bytes(_lasting(plain(row))))
        return mac.hexdigest()[:DIGITS]

    def on(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row with its seal."""
        mark = self.digest(row)
        return dict(row) if mark is None else {**row, FIELD: mark}

    def holds(self, row: Any) -> bool:
        """Whether this user's lipcert wrote this very row, in answer to this very question."""
        if not isinstance(row, Mapping):
            return False
        return self.fits(row, row.get(FIELD))

    def fits(self, row: Any, mark: Any) -> bool:
        if not isinstance(mark, str) or not mark.isascii():
            return False
        try:
            mine = self.digest(row)
        except (ValueError, TypeError, RecursionError):  # no JSON that lipcert writes
            return False
        return mine is not None and hmac.compare_digest(mine, mark)


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _lasting(item) for name, item in value.items() if name not in TIMES}
    return [_lasting(item) for item in value] if isinstance(value, list) else value


def _bytes(value: Any) -> bytes:
    """Each value ends with a line break, which JSON has nowhere else: what follows cannot be taken for a part of it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"
