"""Mutants of model files: bits, splices, zip members, protobuf fields, spellings of code, JSON values, lies about sizes.

Each maker takes the bytes of an honest file and a random generator, and gives the bytes of a mutant.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

Maker = Callable[[bytes, Random], bytes]

_TOKENS = (
    "torch", "ops", "aten", "save", "from_file", "self", "x", "getattr", "annotate", "CONSTANTS", "c0", "(", ")", "[", "]", ".", ",", ":",
    "=", "\n", "    ", "\\\n", '"', "'", "#", ";", "print", "warn", "def", "return", "class", "lambda", "import", "with", "__setstate__", "1e999",
    "99999999999999999999", "-1", "None", "True", "fork", "manual_seed", "set_", "resize_", "Tensor", "List", "@", "*", "**", "\u043e", "\t",
    'torch.save(x, "MARK")', 'torch . save(x, "MARK")', 'x = torch.from_file("MARK", True, 4)', 'print("::error::")',
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    10**30,
    1.5,
    float("nan"),
    "",
    "x",
    "\x1b[31m",
    "::error::",
    [],
    {},
    [[]],
    "__import__('os')",
)
_TARGETS = (
    "torch.ops.aten.from_file.default",
    "torch.ops.aten.add_.Tensor",
    "torch.ops.aten._print.default",
    "os.system",
    "torch.ops.aten.relu.default",
)


def bits(data: bytes, draw: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 2, 8, 64))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def splice(data: bytes, draw: Random) -> bytes:
    """A piece cut out, doubled, or put elsewhere."""
    start, size, place = draw.randrange(len(data)), draw.choice((1, 4, 16, 256)), draw.randrange(len(data))
    piece = data[start : start + size]
    how = draw.randrange(3)
    if how == 0:
        return data[:start] + data[start + size :]
    return data[:place] + piece + data[place + (size if how == 1 else 0) :]


def cut(data: bytes, draw: Random) -> bytes:
    return data[: draw.randrange(len(data))]


def members(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def zipped(held: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zipfile, about names written twice
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in held:
                archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def in_member(data: bytes, draw: Random) -> bytes:
    """Bits and splices inside one member, with a directory that fits it."""
    held = members(data)
    place = draw.randrange(len(held))
    name, content = held[place]
    if content:
        held[place] = (name, draw.choice((bits, splice, cut))(content, draw))
    return zipped(held)


def names(data: bytes, draw: Random) -> bytes:
    """A member renamed, doubled, dropped, or in another case."""
    held = members(data)
    place = draw.randrange(len(held))
    name, content = held[place]
    new = draw.choice(
        (
            name.upper(),
            name.title(),
            name + "x",
            "../" + name,
            "/" + name,
            name.replace("/", "\\"),
            draw.choice(held)[0],
        )
    )
    how = draw.randrange(3)
    if how == 0:
        held[place] = (new, content)
    elif how == 1:
        held.insert(draw.randrange(len(held)), (new, content))
    else:
        del held[place]
    return zipped(held)


def code(data: bytes, draw: Random) -> bytes:
    """Tokens put into, or in place of, those of the TorchScript code."""
    held = members(data)
    places = [i for i, (name, _) in enumerate(held) if name.endswith(".py")]
    if not places:
        return bits(data, draw)
    place = draw.choice(places)
    name, content = held[place]
    tokens = re.findall(r"\w+|\s+|[^\w\s]", content.decode())
    for _ in range(draw.choice((1, 1, 2, 4))):
        where = draw.randrange(len(tokens))
        if draw.random() < 0.5:
            tokens[where] = draw.choice((*_TOKENS, draw.choice(tokens)))
        else:
            tokens.insert(where, draw.choice((*_TOKENS, draw.choice(tokens))))
    held[place] = (name, "".join(tokens).encode())
    return zipped(held)


def values(data: bytes, draw: Random) -> bytes:
    """A value of the JSON of a `.pt2`, of another kind or size, or an operator."""
    held = members(data)
    places = [i for i, (name, _) in enumerate(held) if name.endswith(".json")]
    if not places:
        return bits(data, draw)
    place = draw.choice(places)
    name, content = held[place]
    tree = json.loads(content)
    holders: list[tuple[Any, Any]] = []
    stack = [tree]
    while stack:
        item = stack.pop()
        keys = list(item) if isinstance(item, dict) else list(range(len(item)))
        for key in keys:
            holders.append((item, key))
            if isinstance(item[key], dict | list):
                stack.append(item[key])
    for _ in range(draw.choice((1, 1, 2))):
        if holders:
            holder, key = draw.choice(holders)
            holder[key] = draw.choice(_TARGETS) if key == "target" else draw.choice((*_VALUES, draw.choice(holders)[1]))
    held[place] = (name, json.dumps(tree).encode())
    return zipped(held)


def fields(data: bytes, draw: Random) -> bytes:
    """A field of the protobuf of an ONNX file: dropped, doubled, another number, text or size."""
    import onnx
    from google.protobuf.message import Message

    model = onnx.ModelProto.FromString(data)
    held: list[tuple[Message, Any, Any]] = []
    stack: list[Message] = [model]
    while stack:
        message = stack.pop()
        for field, value in message.ListFields():
            held.append((message, field, value))
            if field.message_type is not None:
                stack += [value] if isinstance(value, Message) else list(value)
    message, field, value = draw.choice(held)
    kind = field.cpp_type
    if draw.random() < 0.2:
        message.ClearField(field.name)
    elif isinstance(value, int) and not isinstance(value, bool):
        _assign(message, field.name, draw.choice((0, 1, -1, value + 1, 2**31 - 1, 2**40)))
    elif isinstance(value, str | bytes):
        text = draw.choice(
            (
                b"",
                b"x",
                b"../x",
                b"/etc/passwd",
                b"\x1b[31m",
                b"Relu",
                b"Floor",
                bytes(value[:-1], "utf-8") if isinstance(value, str) else value[:-1],
            )
        )
        _assign(message, field.name, text if isinstance(value, bytes) else text.decode())
    elif not isinstance(value, Message | float) and len(value):
        chosen = draw.randrange(len(value))
        if draw.random() < 0.5:
            del value[chosen]
        elif kind == field.CPPTYPE_MESSAGE:
            value.add().CopyFrom(value[chosen])
        else:
            value.append(value[chosen])
    return model.SerializeToString()


def _assign(message: Any, name: str, value: Any) -> None:
    try:
        setattr(message, name, value)
    except (ValueError, TypeError):  # an enumeration, or out of its range
        message.ClearField(name)


MAKERS: dict[str, tuple[Maker, ...]] = {
    "onnx": (bits, splice, cut, fields, fields, fields),
    "pt": (bits, splice, in_member, in_member, names, code, code, code),
    "pt2": (bits, splice, in_member, in_member, names, values, values, values),
}


def mutant(kind: str, data: bytes, draw: Random, mark: str) -> bytes:
    """One mutant of an honest file of `kind`. `mark`: path of the canary that hostile tokens try to write."""
    made = draw.choice(MAKERS[kind])(data, draw)
    if kind == "pt" and b"MARK" in made:
        made = zipped([(name, content.replace(b"MARK", mark.encode())) for name, content in members(made)])
    return made
