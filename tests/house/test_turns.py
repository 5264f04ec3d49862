"""What two commits in a row run is what one would without turns, and no law is ever left out."""

from __future__ import annotations

import os

import pytest
from thorough import TURN, by_turns


@pytest.mark.parametrize("count", range(6))
def test_two_turns_are_all_cases(count: int) -> None:
    cases = list(range(count))
    first, second = (by_turns(cases, turn, full=False) for turn in (6, 7))
    assert sorted({*first, *second}) == cases
    assert bool(first) == bool(second) == bool(cases)
    assert by_turns(cases, 7, full=True) == cases
    assert count < 2 or not set(first) & set(second)


def test_processes_that_the_tests_start_have_the_same_turn() -> None:
    """A commit that is made meanwhile must not change what the workers of xdist collect."""
    assert os.environ["LIPCERT_TURN"] == str(TURN)
