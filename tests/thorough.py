"""How much is tried. By default enough to see each law and each oracle fail; with LIPCERT_FULL=1 everything.

`@pytest.mark.slow` stands at what only repeats, larger or longer, what another test of the default suite holds.
`@pytest.mark.every(n)` stands at a law with many cases: by default it has the first and every nth after it, which take
turns: the even ones run after one commit, the odd ones after the next (conftest.py), so that two commits run what one
would. `by_turns` says the same of what a test goes through itself.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

FULL = os.environ.get("LIPCERT_FULL") == "1"
FIRST_CASES = (
    os.environ.get("LIPCERT_FIRST_CASES") == "1"
)  # where a test is about what each function is given, not about numbers

T = TypeVar("T")


def _commits() -> int:
    """How many came before; 0 where the tests lie in no repository."""
    count = ["git", "-C", str(Path(__file__).parent), "rev-list", "--count", "HEAD"]
    try:
        return int(subprocess.run(count, capture_output=True, text=True, check=True).stdout)
    except (OSError, subprocess.CalledProcessError):
        return 0


TURN = int(os.environ.setdefault("LIPCERT_TURN", str(_commits())))  # workers of xdist, and who starts them, agree


def by_turns(cases: Sequence[T], turn: int = TURN, full: bool = FULL) -> list[T]:
    """The cases whose turn it is: of two or more, every second one."""
    if FIRST_CASES:
        return list(cases)[:1]
    return list(cases) if full or len(cases) < 2 else list(cases)[turn % 2 :: 2]
