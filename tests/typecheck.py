"""The checker of `--jaxtyping-packages` in pyproject.toml: beartype, where an int is a float as PEP 484 says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep3119Exception

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with arguments and result checked; as it is where a hint is a Protocol that only mypy can check."""
    try:
        return _check(function)
    except BeartypeDecorHintPep3119Exception:
        return function
