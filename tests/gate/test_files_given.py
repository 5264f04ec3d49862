"""Reports and policies of any shape: read, or refused in one line; never waited for, and never an internal error."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_gate import CASES
from thorough import FULL

from lipcert.gate.given import read_report as read_given
from lipcert.gate.policy import read_policy, read_rule
from lipcert.gate.rules import judge
from lipcert.proofs.file import read as read_certificate
from lipcert.tasks.journal.resume import read_earlier
from lipcert.terms.errors import LipcertError, UnreadableError, UsageError
from lipcert.terms.files import DEEPEST, depth, read_json

DEEP = "[" * 5000 + "]" * 5000
TEXTS = {
    "deep": DEEP,
    "deep objects": '{"a":' * 5000 + "1" + "}" * 5000,
    "deeper than reports": '{"a":' + "[" * DEEPEST + "]" * DEEPEST + "}",
    "long integer": '{"upper": ' + "9" * 5000 + "}",
    "integer beyond float64": '{"upper": ' + "9" * 400 + "}",
    "float beyond float64": '{"upper": 1e999}',
    "null": "null",
    "a number": "3",
    "a list": "[]",
    "nothing": "",
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("reader", [read_given, lambda path: read_earlier(path, f"--resume {path}")])
def test_texts_that_are_no_report(name: str, reader: Callable[[Path], object], tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text(TEXTS[name])
    with pytest.raises((UnreadableError, UsageError), match=r"r\.json"):
        reader(file)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(UnreadableError, match="byte 7 is 0xff"):
        read_json(file, "r.json")
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(file, "r.json") == {"a": 1}


def test_depth() -> None:
    assert depth(3) == 0
    assert depth([]) == 1
    assert depth({"a": [{}, 1]}) == 3


@pytest.mark.parametrize(
    "reader",
    [read_given, lambda path: read_earlier(path, f"--resume {path}"), lambda path: read_policy(path), read_certificate],
)
def test_what_is_no_file_is_not_waited_for(reader: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, says in ((tmp_path / "pipe", "a pipe"), (tmp_path, "a folder"), (Path("/dev/zero"), "a device")):
        with pytest.raises(LipcertError, match=says) as found:
            reader(path)
        assert found.value.exit_code == 2
    with pytest.raises(LipcertError, match="null"):
        reader(Path("a\0b"))


POLICIES = {
    "long integer": "[[rule]]\nmax_upper = " + "9" * 5000,
    "integer beyond float64": "[[rule]]\nmax_upper = " + "9" * 400,
    "deep": "x = " + DEEP,
    "deep tables": "\n".join(f"[{'.'.join('a' * k)}]" for k in range(1, 40))
    + "\nx = "
    + "{a=" * 5000
    + "1"
    + "}" * 5000,
    "a date": "[[rule]]\nmax_upper = 1979-05-27",
    "rules in rules": "[[rule]]\n[[rule.rule]]\nmax_upper = 3",
    "a list of names": "[[rule]]\nrequire_methods = [['a']]",
}


@pytest.mark.parametrize("name", POLICIES)
def test_policies_of_any_shape(name: str, tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text(POLICIES[name])
    with pytest.raises((UsageError, UnreadableError), match="--policy") as found:
        read_policy(tmp_path / "gate.toml")
    assert len(str(found.value)) < 500


@pytest.mark.parametrize("text", ["tool = 3", "tool.lipcert = 3", "tool.lipcert.gate = 3", "[[tool]]\nlipcert = 1"])
def test_a_pyproject_of_any_shape(text: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(UsageError, match="is no table"):
        read_policy(tmp_path / "pyproject.toml")


VALUES: list[Any] = [None, True, -1, 0, 1e308, 10**290, "", "inf", "2", [], {}, [[]], [None], {"a": 1}, ["interrupted"]]


def mutants(data: dict[str, Any], count: int, seed: int) -> Iterator[dict[str, Any]]:
    """`data` with one to three places replaced, removed or doubled."""
    chance = random.Random(seed)
    for _ in range(count):
        mutant = copy.deepcopy(data)
        for _ in range(chance.randint(1, 3)):
            places = list(places_of(mutant))
            holder, key = chance.choice(places)
            if chance.random() < 0.15:
                del holder[key]
            else:
                holder[key] = chance.choice([*VALUES, copy.deepcopy(chance.choice(places)[0])])
        yield mutant


def places_of(data: Any) -> Iterator[tuple[Any, Any]]:
    row = [data]
    while row:
        holder = row.pop()
        for key in holder if isinstance(holder, dict) else range(len(holder)):
            yield holder, key
            if isinstance(holder[key], dict | list) and holder[key]:
                row.append(holder[key])


MANY = 2000 if FULL else 5


@pytest.mark.parametrize("place", range(len(CASES)))
def test_reports_of_any_shape(place: int, tmp_path: Path) -> None:
    """Given to gate, as a report and as a baseline: a verdict, and never another exception."""
    rule, data, baseline, _ = CASES[place]
    rules = [read_rule(rule, "rule")]
    good = data if baseline is None else baseline
    for mutant in mutants(data, MANY, place):
        for report, other in ((mutant, good), (data, mutant)):
            given = []
            for name, content in (("r.json", report), ("b.json", other)):
                (tmp_path / name).write_text(json.dumps(content))
                given.append(read_given(tmp_path / name))
            found = judge(rules, given[:1], given[1:])
            assert {verdict.status for verdict in found} <= {"met", "violated", "not proved"}
        try:
            (tmp_path / "r.json").write_text(json.dumps(mutant))
            read_earlier(tmp_path / "r.json", "--resume r.json")
        except UsageError:
            pass
