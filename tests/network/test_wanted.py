"""What a rule asks of reports: unsaid, the whole space, the vector, the model's own units."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lipcert.gate.wanted import Wanted
from lipcert.terms.errors import UsageError
from lipcert.terms.query import Norm
from lipcert.terms.question import Question, frozen, held_words

MODEL = {"sha256": "ab" * 32, "input_name": "x", "input_shape": [1, 2], "output_name": "y", "units": {}}
PLAIN = Question.of("bound", MODEL, "cd" * 32, Norm(), {"kind": "global"}, "vector", {})
BOX = frozen({"kind": "box", "lower": [-1.0, -1.0], "upper": [-0.5, -0.5]})
BALL = {"kind": "ball", "center": [0.0, 0.0], "radius": 0.1, "norm": "2"}
OTHERS: dict[str, Question] = {
    "raw": replace(PLAIN, std=(1e6,)),
    "entry": replace(PLAIN, output="0"),
    "box": replace(PLAIN, region=BOX),
    "ball": replace(PLAIN, region=frozen(BALL)),
    "l1": replace(PLAIN, norm=Norm("1", "1")),
    "other input": replace(PLAIN, input_name="z"),
    "held": replace(PLAIN, fixed=frozen({"other": "12"})),
}
ANSWERED: list[tuple[dict[str, Any], set[str]]] = [
    ({}, {"l1", "other input"}),
    ({"norm": "2"}, {"other input"}),
    ({"input": "x"}, {"l1", "held"}),
    ({"input": "z", "norm": "2"}, {"other input"}),
    ({"units": "any", "norm": "2", "input": "x"}, {"raw", "held"}),
    ({"units": "raw"}, {"raw"}),
    ({"units": {"std": 1e6}}, {"raw"}),
    ({"units": {"std": [1e6, 1e6], "mean": 0.0}}, {"raw"}),
    ({"units": {"std": 1e5}}, set()),
    ({"output": "0"}, {"entry"}),
    ({"output": "any", "norm": "2", "input": "x"}, {"entry", "held"}),
    ({"output": "0-1"}, set()),
    ({"region": "box"}, {"box"}),
    ({"region": "box -1:-0.5"}, {"box"}),
    ({"region": "box -1:-0.5,-1:-0.5"}, {"box"}),
    ({"region": "box -1:-0.4"}, set()),
    ({"region": "box -1:-0.5,-1:-0.5,0:1"}, set()),
    ({"region": {"kind": "box", "lower": [-1, -1], "upper": [-0.5, -0.5]}}, {"box"}),
    ({"region": BALL}, {"ball"}),
    ({"region": BALL | {"radius": 0.2}}, set()),
    ({"region": "any", "norm": "2", "input": "x"}, {"box", "ball", "held"}),
]


@pytest.mark.parametrize(
    ("dtype", "values", "same", "others"),
    [
        ("int64", [16000], [16000, 16000.0], [8000, 16000.5, [16000, 1]]),
        ("float32", [0.10000000149011612], [0.1, 0.10000000149011612], [0.2, 1e300]),
        ("float16", [0.0999755859375], [0.1], [1e6]),
        ("float64", [0.1], [0.1], [0.10000000149011612]),
        ("bool", [True], [True, 1], [2, False]),
        ("float32", [0.0, 1.0], [[0, 1]], [[1, 0], 0, 1]),
    ],
)
def test_a_rule_says_what_is_held(dtype: str, values: list[Any], same: list[Any], others: list[Any]) -> None:
    """Numbers as people write them, rounded as the values of that input were."""
    about = {"dtype": dtype, "shape": [len(values)], "sha256": "ef" * 32, "values": values}
    asked = replace(PLAIN, fixed=frozen({"h": held_words(about)}))
    for wanted in [*same, "ef" * 32]:
        assert Wanted.of({"fixed": {"h": wanted}}).miss(asked) is None, wanted
    for wanted in [*others, "ab" * 32]:
        assert "it holds the input h at" in str(Wanted.of({"fixed": {"h": wanted}}).miss(asked)), wanted
    assert Wanted.of({"fixed": "any"}).miss(asked) is None
    assert "it holds the input h" in str(Wanted.of({}).miss(asked))
    assert Wanted.of({"fixed": {"h": same[0], "g": 1}}).miss(asked) == "it does not hold the input g"


@pytest.mark.parametrize(("rule", "answered"), ANSWERED)
def test_which_questions_a_rule_is_about(rule: dict[str, Any], answered: set[str]) -> None:
    wanted = Wanted.of(rule)
    assert {name for name, asked in OTHERS.items() if wanted.miss(asked) is None} == answered
    plain = not rule.keys() & {"region", "output", "units"} and rule.get("input", "x") == "x"
    assert (wanted.miss(PLAIN) is None) == (plain or "any" in rule.values())
    assert str(wanted)


def test_what_is_missed_is_named() -> None:
    said = {name: Wanted.of({"norm": "2", "input": "x"}).miss(asked) for name, asked in OTHERS.items()}
    for name, words in {
        "raw": "1000000.0",
        "entry": "entry 0",
        "box": "the box -1.0:-0.5",
        "ball": "the l2 ball of radius 0.1",
        "l1": "l1 -> l1",
        "other input": "input is z",
    }.items():
        assert words in (said[name] or "")


def test_radii_have_no_output() -> None:
    radii = replace(PLAIN, task="radius", output="pairs")
    assert Wanted.of({}).miss(radii) is None
    assert Wanted.of({"output": "vector"}).miss(radii) is not None
    assert Wanted.of({}).miss(replace(radii, std=(2.0,))) is not None


def test_rules_about_the_report_itself_take_any() -> None:
    assert all(Wanted.of({}, of_values=False).miss(asked) is None for name, asked in OTHERS.items() if name != "held")


@pytest.mark.parametrize(
    "rule",
    [
        {"region": "half"},
        {"region": "box"} | {"region": "box 1:0"},
        {"region": "box nan:1"},
        {"region": {}},
        {"region": {"kind": "box"}},
        {"region": {"kind": "ball", "radius": float("inf")}},
        {"units": "metres"},
        {"units": {}},
        {"units": {"std": True}},
        {"units": {"std": 1.0, "max": 2.0}},
        {"output": "first"},
    ],
)
def test_what_makes_no_sense(rule: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Wanted.of(rule)


@pytest.mark.parametrize(
    ("units", "words"),
    [
        ({"std": 1e6}, "in raw units, std 1000000.0"),
        ({"mean": [0.5, 0.25], "std": 2.0}, "in raw units, mean 0.5, 0.25 and std 2.0"),
        ({"std": 1.0}, "in the model's own units"),
        ("raw", "in raw units"),
    ],
)
def test_units_in_words(units: Any, words: str) -> None:
    assert str(Wanted.of({"units": units})).endswith(words)
