"""Two plain forms of a value: strict JSON data, and text that is safe on a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from lipcert.terms.errors import printable as printable


def plain(value: Any) -> Any:
    """`value` as JSON data: dict, list, str, int, finite float, bool or None; arrays and tensors become nested lists.

    A number that JSON cannot hold becomes one of the strings "inf", "-inf", "nan". TypeError for anything unknown.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()  # a lone surrogate is not Unicode text
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, PurePath):
        return plain(str(value))
    if hasattr(value, "tolist"):  # numpy scalar, numpy array, tensor
        return plain(value.tolist())
    raise TypeError(f"a report cannot hold a {type(value).__name__}")
