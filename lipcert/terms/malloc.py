"""Memory of a process stays with it between two tensors."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from functools import cache

TRIM, MMAP = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of <malloc.h>
LARGE = 32 << 20  # bytes: the most that glibc takes


@cache
def keep_memory() -> None:
    """Tensors under 32 MiB are taken from the heap, and up to 64 MiB at its end are not given back. By default glibc maps and
    clears larger ones anew each time, and learns better by what is freed; under Dask, which sets MALLOC_TRIM_THRESHOLD_, it
    never learns, and a worker takes up to twice as long. For processes of our own: the command line, and workers. Other
    systems and other libraries of C are left as they are."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(MMAP, LARGE)
            mallopt(TRIM, 2 * LARGE)
