"""A bounded run of the fuzzing that `benchmarks/fuzz.py` does for hours."""

from __future__ import annotations

import os
import time
from pathlib import Path
from random import Random

import fuzzing
import pytest
from canaries import Canaries
from fuzzing import Broken, Subject, judge, subjects
from thorough import FULL

KINDS = ("certificate", "data", "external", "gate", "onnx", "policy", "pt", "pt2", "resume")
SECONDS = 600.0 if FULL else 0.7  # for each kind


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subject]:
    return subjects(tmp_path_factory.mktemp("seeds") / "made")


@pytest.fixture
def canaries(tmp_path: Path) -> Canaries:
    (tmp_path / "watched").mkdir()
    return Canaries(tmp_path / "watched")


@pytest.mark.parametrize("kind", KINDS)
def test_mutants_keep_every_promise(
    made: dict[str, Subject], canaries: Canaries, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert tuple(made) == KINDS
    end, number = time.monotonic() + SECONDS, 0
    while not number or time.monotonic() < end:
        judge(made[kind], Random(f"{kind} {number}"), canaries)
        number += 1
    assert capfd.readouterr() == ("", "")


def test_honest_files_are_read(made: dict[str, Subject], tmp_path: Path) -> None:
    """A seed that is refused tests nothing."""
    for kind in KINDS if FULL else ("certificate", "data", "external", "gate", "policy", "resume"):
        made[kind].learn(tmp_path)
        assert all(answer.startswith("{") for answer in made[kind].known), kind


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        (lambda path: (path.parent.parent / "mark").write_text("x"), "left a file"),
        (lambda path: path.with_name("more").write_text("x"), "left a file"),
        (lambda path: (path.parent.parent / "secret.bin").read_bytes().hex(), "outside the folder"),
        (lambda path: os.system("echo ::error::"), "it wrote"),
        (lambda path: os.environ.update(LIPCERT_MARK="1"), "not as it was"),
        (lambda path: os.urandom(4).hex(), "two runs differ"),
        (lambda path: 1 / 0, "ZeroDivisionError"),
        (lambda path: time.sleep(9), "within"),
    ],
)
def test_a_broken_promise_is_seen(
    canaries: Canaries, deed: object, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzzing, "SECONDS", 1)
    monkeypatch.setenv("LIPCERT_MARK", "0")
    canaries.environment["LIPCERT_MARK"] = "0"
    subject = Subject(({"x": b"some bytes"},), (lambda data, draw: data,), deed)  # type: ignore[arg-type]
    with pytest.raises(Broken, match=words):
        judge(subject, Random(0), canaries)
