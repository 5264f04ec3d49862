"""Functions compiled by Numba to machine code: IEEE arithmetic as written (no fastmath), the GIL released.

Machine code is kept on disk in a folder that is named by the sources of this package, so that what was compiled from
other sources is never run: Numba itself looks at one file of several only. The same sources elsewhere find it (kept.py). Loops instead of assignments of whole arrays:
each of those takes seconds to compile.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

numba: Any = import_module("numba")
njit = numba.njit

# What compiled functions are given where a literal would do: each function would be compiled once more for the literal.
ZERO: Any = np.int64(0)
TWO, NO, YES = np.int64(2), np.bool_(False), np.bool_(True)

PACKAGE = __name__.rpartition(".")[0]
F = TypeVar("F", bound=Callable[..., Any])


# every file with compiled functions, and those whose constants they read
SOURCES = ("affine", "ball", "compiled", "facets", "frames", "net", "polytope", "pruning", "search", "settle", "sizes")


def _folder() -> str:
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    kept = os.environ.get("NUMBA_CACHE_DIR") or str(Path(cache) / "lipcert" / "numba")
    return str(Path(kept) / digest.hexdigest()[:32])


def on_disk(facets: bool = False) -> bool:
    """Whether the machine code of the search (by `facets`) is there; else the first search of this process waits for it."""
    return any(Path(_folder()).rglob("facets.search_facets-*.nbi" if facets else "search.search-*.nbi"))


def compiled(function: F) -> F:
    """For functions that other compiled ones call. They allocate nothing and count no references (`_nrt`), which would be
    half of the time: some thirty arrays per call."""
    return njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False)(
        inspect.unwrap(function)
    )


def inlined(function: F) -> F:
    """For functions called in one or two places: each function that is compiled by itself costs about two seconds."""
    return njit(inline="always")(inspect.unwrap(function))


def entry(function: F) -> F:
    """For functions that Python calls: kept on disk, with all that they call."""
    dispatcher = njit(nogil=True, error_model="numpy")(inspect.unwrap(function))
    try:
        with _kept_by_sources():
            dispatcher.enable_caching()
    except RuntimeError:  # no folder that can be written: compiled anew in each process
        return dispatcher

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        if not dispatcher.signatures:
            with alone(Path(dispatcher.stats.cache_path)):
                dispatcher.compile(tuple(map(numba.typeof, arguments)))  # or read from disk
        return dispatcher(*arguments)

    return call  # type: ignore[return-value]


@contextmanager
def _kept_by_sources() -> Iterator[None]:
    """A Numba that does not know CACHE_LOCATOR_CLASSES keeps machine code by the path and the time of a file besides."""
    with ExitStack() as after:
        for name, value in (("CACHE_DIR", _folder()), ("CACHE_LOCATOR_CLASSES", f"{PACKAGE}.kept.BySources")):
            after.callback(setattr, numba.config, name, getattr(numba.config, name, ""))
            setattr(numba.config, name, value)
        yield


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Of processes that start together one compiles, a minute of a core, and the others wait for what it writes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_CREAT | os.O_WRONLY, 0o600)
    except OSError:
        yield
        return
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
