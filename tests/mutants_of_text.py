"""Mutants of what is not a model: JSON (reports, certificates), TOML (policies), arrays (npz, npy, csv)."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

from mutants import bits, cut, in_member, members, names, splice, zip_fields, zipped

Maker = Callable[[bytes, Random], bytes]

_TEXTS = (
    "", "x", "\x1b[31m", "::error::", "##[error]", "<script>", "=1+1", "\u202e", "\ud800", "a\nb", "|", "../x", "NaN", "inf", "-1",
    "vector", "pairs", "0-1", "bound", "radius", "2", "\x00", "x" * 5000, "aten::relu", "None", "1e400", "${HOME}",
)  # fmt: skip
_NUMBERS: tuple[Any, ...] = (
    0,
    -0.0,
    -1,
    1,
    0.5,
    5.0,
    1e-320,
    1e300,
    2**31,
    2**53 + 1,
    2**63,
    10**30,
    -(10**30),
    True,
    False,
    None,
)
_RAW = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "9" * 5000,
    "[" * 3000,
    '{"a":' * 3000,
    "1.0e",
    "0x1",
    "\\u0000",
    "'",
    "//",
    "\ufeff",
    "{},",
    "[]",
)
_TOML = (
    "[[rule]]\n", "[rule]\n", "rule = 3\n", "name = ", '"x"', "'x'", '"""', "max_upper = 1\n", "max_upper = nan\n", "max_upper = -inf\n",
    "min = ", "max = ", "= ", "[", "]", "{", "}", "[" * 3000, "a." * 3000, "9" * 5000, "0x" + "f" * 5000, "1979-05-27T07:32:00Z", "true", "\x1b", "\u202e",
    '"\\ud800"', '"\\u001b[31m"', "[tool.lipcert.gate]\n", "tool = 3\n", "#", "\n", "\r", "field = 3\n", 'field = "summary..x"\n', "eps = []\n",
    'model = "**"\n', 'region = {}\n', "norm = 2\n", 'norm = "2"\n', "baseline = 1\n", "require_methods = [1]\n", "percent = -5\n", 'model_sha256 = ""\n',
)  # fmt: skip
_DTYPES = (
    "<f4",
    ">f8",
    "<f2",
    "<f16",
    "<c16",
    "|b1",
    "|u1",
    "<i8",
    ">i2",
    "<u8",
    "O",
    "|O",
    "<U5",
    "|S3",
    "<M8[ns]",
    "<m8[s]",
    "V8",
    "<f8, <i4",
    "f99",
    "",
    "\\x00",
)
_SHAPES = (
    "()",
    "(1,)",
    "(0,)",
    "(-1,)",
    "(1, 4, 0)",
    "(1099511627776,)",
    "(2, 2)",
    "(4,)",
    "(1.5,)",
    "(True,)",
    "((1,),)",
    "[1]",
    "3",
    "()" * 9,
    "(" * 200,
)


def walk(tree: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) of a JSON value."""
    holders: list[tuple[Any, Any]] = []
    stack = [tree]
    while stack:
        item = stack.pop()
        for key in list(item) if isinstance(item, dict) else range(len(item)):
            holders.append((item, key))
            if isinstance(item[key], dict | list):
                stack.append(item[key])
    return holders


def tree(data: bytes, draw: Random) -> bytes:
    """Values of another kind or size, fields dropped, doubled or renamed, lists longer and shorter."""
    found = json.loads(data)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        holders = walk(found)
        if not holders:
            break
        holder, key = draw.choice(holders)
        how = draw.random()
        if how < 0.1:
            del holder[key]
        elif how < 0.2:
            again = copy.deepcopy(holder[key])
            holder.update({draw.choice(_TEXTS): again}) if isinstance(holder, dict) else holder.append(again)
        elif how < 0.5 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            holder[key] = draw.choice(
                (holder[key] * 2, holder[key] * 0.5, -holder[key], holder[key] + 1, str(holder[key]))
            )
        else:
            other = draw.choice(holders)
            holder[key] = draw.choice(
                (draw.choice(_TEXTS), draw.choice(_NUMBERS), [], {}, copy.deepcopy(other[0][other[1]]))
            )
    return json.dumps(found).encode()


def raw(data: bytes, draw: Random) -> bytes:
    """Spellings that no JSON value has: beside or in place of a token of the text."""
    return _respelt(data, draw, _RAW)


def toml(data: bytes, draw: Random) -> bytes:
    return _respelt(data, draw, _TOML)


def _respelt(data: bytes, draw: Random, tokens: tuple[str, ...]) -> bytes:
    words = re.findall(r"\w+|\s+|[^\w\s]", data.decode())
    for _ in range(draw.choice((1, 1, 2, 4))):
        place, word = draw.randrange(len(words)), draw.choice((*tokens, draw.choice(words)))
        words[place : place + draw.randrange(2)] = [word]
    return "".join(words).encode("utf-8", "surrogatepass")


def encoding(data: bytes, draw: Random) -> bytes:
    return draw.choice(
        (
            lambda: data.decode().encode("utf-16"),
            lambda: b"\xef\xbb\xbf" + data,
            lambda: data + b"\xff",
            lambda: data + b"\0",
        )
    )()


def header(data: bytes, draw: Random) -> bytes:
    """The header of an .npy: another dtype, shape, order, version or length, in an .npz behind right checksums."""
    if data[:2] != b"PK":
        return _header(data, draw)
    held = members(data)
    place = draw.randrange(len(held))
    held[place] = (held[place][0], _header(held[place][1], draw))
    return zipped(held)


def _header(data: bytes, draw: Random) -> bytes:
    how = draw.randrange(5)
    if how == 0:
        data = re.sub(rb"'descr': '[^']*'", lambda _: f"'descr': '{draw.choice(_DTYPES)}'".encode(), data, count=1)
    elif how == 1:
        data = re.sub(rb"'shape': \([^)]*\)", lambda _: f"'shape': {draw.choice(_SHAPES)}".encode(), data, count=1)
    elif how == 2:
        data = data.replace(b"False", draw.choice((b"True ", b"1    ", b"9**9*", b"None ")), 1)
    else:
        changed = bytearray(data)
        changed[draw.choice((6, 7, 8, 9))] = draw.choice((0, 1, 2, 3, 4, 118, 255))
        return bytes(changed)
    return data


def values(data: bytes, draw: Random) -> bytes:
    """Whole numbers of the array: NaN, infinities, labels that are none."""
    number = draw.choice(
        (b"\0\0\0\0\0\0\xf8\x7f", b"\0\0\0\0\0\0\xf0\xff", b"\xff" * 8, b"\0" * 7 + b"\x80", b"\x01" + b"\0" * 7)
    )
    if data[:2] == b"PK":
        held = members(data)
        place = draw.randrange(len(held))
        name, content = held[place]
        held[place] = (name, _over(content, number, draw))
        return zipped(held)
    return _over(data, number, draw)


def _over(data: bytes, piece: bytes, draw: Random) -> bytes:
    place = 128 + 8 * draw.randrange(max(1, (len(data) - 128) // 8))
    return data[:place] + piece + data[place + 8 :]


def lines(data: bytes, draw: Random) -> bytes:
    return _respelt(
        data,
        draw,
        (
            "nan",
            "inf",
            "1e999",
            ",",
            ",,",
            "\n",
            "#",
            '"',
            "x",
            "1,2",
            "0x1p3",
            "1+2j",
            "\0",
            "\u202e",
            "9" * 5000,
            ";",
            " ",
        ),
    )


JSON: tuple[Maker, ...] = (tree, tree, tree, tree, raw, bits, splice, cut, encoding)
TOML: tuple[Maker, ...] = (toml, toml, toml, toml, bits, splice, cut, encoding)
NPZ: tuple[Maker, ...] = (bits, splice, cut, in_member, names, header, header, header, values, values, zip_fields)
NPY: tuple[Maker, ...] = (bits, splice, cut, header, header, values)
CSV: tuple[Maker, ...] = (lines, lines, lines, bits, splice, cut, encoding)
