"""What long work says of itself."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float | None, float | None], None]  # what is done, how far, of how much
