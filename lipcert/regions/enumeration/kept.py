"""Where Numba finds machine code again: by what the sources say, wherever they lie and whenever they were written, so that
a second environment, another checkout or a newer copy of the same files does not compile for a minute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core.caching import UserProvidedCacheLocator

from lipcert.regions.enumeration.compiled import numba


class BySources(UserProvidedCacheLocator):
    """For `numba.config.CACHE_LOCATOR_CLASSES`. Numba's own locators ask for the path and the time of one source file, which
    says less than the digest of all of them. A Numba that does not know of locators keeps to its own."""

    def __init__(self, function: Callable[..., Any], file: str):
        super().__init__(function, file)
        self._cache_path = str(numba.config.CACHE_DIR)

    def get_source_stamp(self) -> str:
        return Path(self._cache_path).name
