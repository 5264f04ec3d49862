"""What libraries raise when there is no memory left."""

from __future__ import annotations

WORDS = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory", "bad_alloc")


def out_of_memory(error: BaseException) -> bool:
    """MemoryError, and the RuntimeError that torch raises instead."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(word in said for word in WORDS))
