"""How much is tried. By default enough to see each law and each oracle fail; with LIPCERT_FULL=1 everything.

`@pytest.mark.slow` stands at what only repeats, larger or longer, what another test of the default suite holds.
`@pytest.mark.every(n)` stands at a law with many cases: the first and every nth after it run by default (conftest.py).
"""

from __future__ import annotations

import os

FULL = os.environ.get("LIPCERT_FULL") == "1"
FIRST_CASES = (
    os.environ.get("LIPCERT_FIRST_CASES") == "1"
)  # where a test is about what each function is given, not about numbers
