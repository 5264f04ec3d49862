"""Proved and attained values, fingerprints and certificates are those of before (scripts/golden.py): on every model with
LIPCERT_FULL=1, on small ones otherwise.

After a wanted change: `python scripts/golden.py --write`, and read the difference.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from golden import FILE, OWN, PUBLIC, differences, golden, paths
from thorough import FULL

QUICK = "two_moons.onnx go1_actuator_net.pt marabou_fc_2_2sigmoids_3.onnx onnxtest_ELU.onnx onnxtest_sign_model.onnx reach_vdp.onnx".split()
SHORT = "bound 1|bound 2|box inf|layers 2|certificate|radius|grid".split("|")
OLD: dict[str, Any] = json.loads(FILE.read_text())


def rtol(where: str) -> float:
    """What another processor may change: sums in another order, and where a search or a program stops."""
    if "lipsdp" in where or "certificate" in where:
        return 1e-3
    return 1e-2 if "sampled" in where or "lower" in where else 1e-7


def portable(value: dict[str, Any]) -> dict[str, Any]:
    """Without what only holds on one machine: the bytes of a certificate."""
    found = dict(value)
    if isinstance(found.get("certificate"), dict):
        found["certificate"] = {key: item for key, item in found["certificate"].items() if key != "sha256"}
    return found


def not_fallen(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`new` with what an ascent over the whole space has found as in `old` where it is more: on another processor it may end
    on another hill, and a higher one is no loss. Below it 1e-2 is allowed as elsewhere."""
    found = dict(new)
    for asked in (key for key in new if key.startswith("bound") and key in old):
        mine, theirs = new[asked].get("sampled"), old[asked].get("sampled")
        if mine and theirs and mine[-1] > theirs[-1]:
            found[asked] = {**new[asked], "sampled": theirs}
    return found


@pytest.mark.parametrize("name", [*OWN, *PUBLIC] if FULL else QUICK)
def test_values_are_those_of_before(name: str, request: pytest.FixtureRequest) -> None:
    shared = Path() if name in OWN else request.getfixturevalue("shared")
    names = None if FULL else SHORT
    old = {key: value for key, value in OLD[name].items() if FULL or key in ("fingerprint", "load", *SHORT)}
    assert list(differences(portable(old), portable(not_fallen(old, golden(paths(shared)[name], names))), rtol)) == []


def test_forty_models_and_every_question() -> None:
    assert set(OLD) == {*OWN, *PUBLIC}
    assert len(OLD) >= 40
    asked = {key for value in OLD.values() for key in value}
    assert asked >= {
        "bound 1",
        "box 2",
        "layers inf",
        "mixed",
        "jacobian",
        "lipsdp",
        "certificate",
        "radius",
        "pair",
        "grid",
    }


def test_a_planted_difference_is_seen() -> None:
    old = OLD["two_moons.onnx"]
    for change in (
        {"fingerprint": "0" * 64},
        {"bound 2": old["bound 2"] | {"product": ["upper", "proved", old["bound 2"]["product"][2] * (1 - 1e-6)]}},
        {"bound 2": old["bound 2"] | {"product": ["upper", "numeric", old["bound 2"]["product"][2]]}},
        {"certificate": old["certificate"] | {"verdict": "rejected"}},
        {"grid": "UsageError: no"},
    ):
        assert list(differences(portable(old), portable(old | change), rtol)) != [], change


def test_a_fall_of_what_is_attained_is_seen() -> None:
    old = {"bound 2": {"sampled": ["lower", "sampled", 2.0], "product": ["upper", "proved", 3.0]}}
    for value, count in ((2.5, 0), (1.99, 0), (1.9, 1)):
        new = {"bound 2": {**old["bound 2"], "sampled": ["lower", "sampled", value]}}
        assert len(list(differences(old, not_fallen(old, new), rtol))) == count, value
