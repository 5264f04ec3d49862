"""Readers of JSON: each takes a value and its place in the file, and returns the value or rejects it. Nothing else is allowed."""

import base64
import binascii
import math
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

NORMS = ("1", "2", "inf")


class Rejected(Exception):
    """The certificate does not show its claim. `place`: the field at fault."""

    def __init__(self, place: str, reason: str):
        super().__init__(f"{place}: {reason}")
        self.place, self.reason = place, reason


def reject(place: str, reason: str) -> NoReturn:
    raise Rejected(place, reason)


Reader = Callable[[Any, str], Any]


def fields(value: Any, place: str, readers: dict[str, Reader]) -> dict[str, Any]:
    """In the order of `readers`."""
    if not isinstance(value, dict) or set(value) != set(readers):
        reject(place or "file", f"the fields {', '.join(readers)} are needed, and no other")
    return {name: read(value[name], f"{place}.{name}".lstrip(".")) for name, read in readers.items()}


def record(readers: dict[str, Reader]) -> Reader:
    return lambda value, place: fields(value, place, readers)


def such(good: Callable[[Any], Any], needed: str) -> Reader:
    return lambda value, place: value if good(value) else reject(place, f"{needed} is needed")


def list_of(reader: Reader) -> Reader:
    return lambda value, place: [reader(v, f"{place}[{k}]") for k, v in enumerate(array(value, place))]


def one_of(*names: str) -> Reader:
    return such(lambda v: v in names, f"one of {', '.join(names)}")


array = such(lambda v: isinstance(v, list), "a list")
text = such(lambda v: isinstance(v, str), "text")
whole = such(lambda v: type(v) is int and abs(v) < 2**31, "a whole number")
count = such(lambda v: type(v) is int and 0 <= v < 2**31, "a whole number that is not negative")
real = such(lambda v: type(v) is float and math.isfinite(v), "a finite number")
bound = such(lambda v: type(v) is float and 0 <= v < math.inf, "a finite number that is not negative")


def numbers(value: Any, place: str) -> np.ndarray:
    given = fields(value, place, {"count": count, "float64": text})
    try:
        found = np.frombuffer(base64.b64decode(given["float64"], validate=True), dtype="<f8")
    except (binascii.Error, ValueError) as problem:
        reject(place, f"not base64 of binary64 numbers: {problem}")
    return found if given["count"] == len(found) and np.isfinite(found).all() else reject(place, "another count, or infinities")
