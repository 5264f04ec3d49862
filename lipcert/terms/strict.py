"""Strict readers of JSON: each takes a value and its place in the file, and returns it typed or rejects it there."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from lipcert.terms.errors import CertificateRejected


def load(data: bytes) -> Any:
    """The JSON document: UTF-8, no NaN, no infinities, no repeated keys."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except RecursionError:
        reject("file", "nested too deeply")
    except json.JSONDecodeError as problem:
        reject(f"line {problem.lineno}, column {problem.colno}", f"not JSON: {problem.msg}")
    except ValueError as problem:  # UTF-8, or a number of more digits than Python converts
        reject("file", f"not JSON: {problem}")


def reject(place: str, reason: str) -> NoReturn:
    raise CertificateRejected(place, reason)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            reject(key, "this field stands twice")
        found[key] = value
    return found


def _no_constant(text: str) -> NoReturn:
    reject("file", f"{text} is not a number of JSON")


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def record(value: Any, place: str, names: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        reject(place or "file", f"an object is needed, not {shown(value)}")
    dot = f"{place}." if place else ""
    for name in names:
        if name not in value:
            reject(f"{dot}{name}", "this field is missing")
    for name in value:
        if name not in names:
            reject(f"{dot}{shown(name)}", "unknown field")
    return value


def text_of(value: Any, place: str) -> str:
    if not isinstance(value, str) or len(value) > 10_000:
        reject(place, f"a text is needed, not {shown(value)}")
    return value


def one_of(value: Any, place: str, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in allowed:
        reject(place, f"{shown(value)} is none of {', '.join(allowed)}")
    return value


def hex64(value: Any, place: str) -> str:
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        reject(place, f"64 hexadecimal digits are needed, not {shown(value)}")
    return value


def count_of(value: Any, place: str) -> int:
    if type(value) is not int or not 0 <= value < 2**53:
        reject(place, f"a whole number is needed, not {shown(value)}")
    return value


def list_of(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        reject(place, f"a list is needed, not {shown(value)}")
    return value


def float_of(value: Any, place: str) -> float:
    if type(value) is not float or not math.isfinite(value):  # 3 is not what `repr` writes of a float
        reject(place, f"a finite float is needed, not {shown(value)}")
    return value


def counts_of(value: Any, place: str) -> tuple[int, ...]:
    return tuple(count_of(item, f"{place}[{i}]") for i, item in enumerate(list_of(value, place)))


def floats_or_null(value: Any, place: str) -> tuple[float, ...] | None:
    if value is None:
        return None
    return tuple(float_of(item, f"{place}[{i}]") for i, item in enumerate(list_of(value, place)))
