"""Seals: whose rows a report holds. The key is private to the user; a seal covers question, version and row."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lipcert.tasks.journal import seal as seals
from lipcert.tasks.journal.seal import Seal, key_file, user_key
from lipcert.terms.query import Norm
from lipcert.terms.question import Question

QUESTION = Question.of("radius", {"sha256": "ab" * 32}, "cd" * 32, Norm(), {"kind": "global"}, "pairs", {"seed": 0})
ROW = {"index": 0, "radius": 0.5, "results": [{"seconds": 1.0, "value": 2.0}]}


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def test_the_key_is_made_once_and_private(state: Path) -> None:
    key = user_key()
    assert key is not None
    assert len(key) == 32
    assert user_key() == key
    assert key_file() == state / "lipcert" / "key"
    assert key_file().stat().st_mode & 0o777 == 0o600
    assert os.listdir(state / "lipcert") == ["key"]


@pytest.mark.parametrize("flaw", ["readable", "short", "link", "folder", "pipe"])
def test_a_key_that_is_not_private_is_no_key(flaw: str, state: Path) -> None:
    user_key()
    path = key_file()
    data = path.read_bytes()
    if flaw == "readable":
        path.chmod(0o640)
    elif flaw == "short":
        path.write_bytes(data[:-1])
    else:
        path.unlink()
        {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "link": lambda: path.symlink_to(state / "other")}[
            flaw
        ]()
        (state / "other").write_bytes(data)
    assert user_key() is None
    assert Seal.of(QUESTION).on(ROW) == ROW
    assert not Seal.of(QUESTION).holds({**ROW, "seal": "0" * 32})


def test_no_place_for_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("/dev/null", "/proc"):
        monkeypatch.setenv("XDG_STATE_HOME", place)
        assert user_key() is None


def test_a_relative_state_folder_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert key_file() == tmp_path / ".local" / "state" / "lipcert" / "key"


def test_a_seal_covers_the_row_but_not_its_times() -> None:
    seal = Seal.of(QUESTION)
    row = seal.on(ROW)
    assert seal.holds(row)
    assert seal.on({**row, "results": [{"seconds": 7.0, "value": 2.0}]})["seal"] == row["seal"]
    for change in ({"radius": 5.0}, {"index": 1}, {"results": []}, {"more": 1}, {"seal": "0" * 32}, {"seal": None}):
        assert not seal.holds(row | change)
    assert not seal.holds({k: v for k, v in row.items() if k != "radius"})


@pytest.mark.parametrize(
    "row", [None, 3, [], "x", {}, {"seal": "é"}, {"seal": 1}, {"a": float("nan"), "seal": "0" * 32}]
)
def test_whatever_else_is_not_sealed(row: Any) -> None:
    assert not Seal.of(QUESTION).holds(row)


def test_another_question_version_or_user_breaks_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row = Seal.of(QUESTION).on(ROW)
    assert not Seal.of(replace(QUESTION, std=(0.01,))).holds(row)
    with monkeypatch.context() as other:
        other.setattr(seals, "__version__", "9.9")
        assert not Seal.of(QUESTION).holds(row)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    assert not Seal.of(QUESTION).holds(row)


def test_a_plain_digest_would_be_forged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a digest whose key everybody knows. Whoever types in a radius makes its seal as well."""
    monkeypatch.setattr(seals, "user_key", lambda: b"")
    forged = Seal.of(QUESTION).on({**ROW, "radius": 5.0})
    assert Seal.of(QUESTION).holds(forged)
    monkeypatch.undo()
    assert not Seal.of(QUESTION).holds(forged)
