"""Data between a parent and its child: JSON and arrays. What the other side says can be wrong, but it is never run.

A frame: 8 bytes (little-endian) with the length of the JSON, the JSON, then the bytes of each array in it, in order. An
array stands in the JSON as {"$array": [dtype, shape]}.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

JSON_LIMIT = 2**28  # bytes
ARRAY_LIMIT = 2**33  # bytes of all arrays of a frame
_DTYPES = frozenset("bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split())
_ARRAY = "$array"


class NotData(ValueError):
    """A value that has no plain form, or bytes that are none."""


def pack(value: Any) -> list[bytes | memoryview]:
    """The pieces of a frame. `value`: None, bool, int, float, str, list, tuple, dict with string keys, or arrays."""
    arrays: list[memoryview] = []
    text = json.dumps(_plain(value, arrays)).encode()
    return [struct.pack("<Q", len(text)), text, *arrays]


def _plain(value: Any, arrays: list[memoryview]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray) and value.dtype.name in _DTYPES:
        array = np.ascontiguousarray(value)
        if array.nbytes:
            arrays.append(array.reshape(-1).view(np.uint8).data)
        return {_ARRAY: [array.dtype.name, list(value.shape)]}
    if isinstance(value, list | tuple):
        return [_plain(item, arrays) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) and key != _ARRAY for key in value):
        return {key: _plain(item, arrays) for key, item in value.items()}
    raise NotData(f"a {type(value).__name__} is not plain data")


def unpack(read: Callable[[int], memoryview]) -> Any:
    """The value of one frame. `read(n)` gives exactly n bytes. Raises NotData for whatever else comes."""
    (length,) = struct.unpack("<Q", read(8))
    if length > JSON_LIMIT:
        raise NotData(f"a frame of {length} bytes")
    try:
        value = json.loads(bytes(read(length)))
    except (ValueError, RecursionError) as problem:
        raise NotData(f"not JSON ({problem})") from problem
    left = ARRAY_LIMIT
    root = {"": value}
    stack: list[tuple[Any, Any]] = [(root, "")]
    found: list[tuple[Any, Any, dict[str, Any]]] = []
    while stack:  # depth first and in order, as `_plain` went
        holder, key = stack.pop()
        item = holder[key]
        if isinstance(item, dict) and _ARRAY in item:
            found.append((holder, key, item))
        elif isinstance(item, dict | list):
            keys = list(item) if isinstance(item, dict) else list(range(len(item)))
            stack += [(item, inner) for inner in reversed(keys)]
    for holder, key, item in found:
        dtype, shape = _described(item)
        size = math.prod(shape) * dtype.itemsize
        left -= size
        if left < 0:
            raise NotData("more arrays than a model has")
        holder[key] = np.frombuffer(read(size), dtype).reshape(shape)
    return root[""]


def _described(item: dict[str, Any]) -> tuple[np.dtype, tuple[int, ...]]:
    said = item[_ARRAY]
    fits = len(item) == 1 and isinstance(said, list) and len(said) == 2 and isinstance(said[1], list)
    if not fits or said[0] not in _DTYPES or len(said[1]) > 64:
        raise NotData("an array that is none")
    if not all(type(size) is int and 0 <= size < 2**40 for size in said[1]):
        raise NotData("an array of no possible shape")
    return np.dtype(said[0]), tuple(said[1])
