"""Mutants of model files: bits, splices, zip members, protobuf fields, spellings of code, JSON values, lies about sizes.

Each maker takes the bytes of an honest file and a random generator, and gives the bytes of a mutant.
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import json
import pickletools
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
    "torch.ops.aten.warn.default",
    "torch.ops.prim.Print.default",
    "torch.ops.aten.save.default",
    "torch.ops.aten.set_.source_Storage",
    "torch.ops.aten.rand.default",
    "torch.ops.aten.sin.default",
    "torch.ops.higher_order.wrap_with_set_grad_enabled",
    "math.trunc",
    "_operator.add",
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
            other = draw.choice(holders)
            found = copy.deepcopy(draw.choice((*_VALUES, other[1], other[0][other[1]])))
            holder[key] = draw.choice(_TARGETS) if key == "target" else found
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


def rewire(data: bytes, draw: Random) -> bytes:
    """Nodes of an ONNX graph with another operator, attribute, order, or ends."""
    import onnx

    model = onnx.ModelProto.FromString(data)
    graph = model.graph
    for _ in range(draw.choice((1, 1, 2))):
        if not graph.node:
            break
        node, other = draw.choice(graph.node), draw.choice(graph.node)
        signals = [name for item in graph.node for name in (*item.input, *item.output)] or [""]
        how = draw.randrange(6)
        if how == 0:
            node.op_type = draw.choice(_OPERATORS)
        elif how == 1 and node.input:
            node.input[draw.randrange(len(node.input))] = draw.choice((*signals, ""))
        elif how == 2:
            name, value = draw.choice(
                (
                    ("axis", -1),
                    ("axis", 7),
                    ("alpha", 1e30),
                    ("alpha", -1.0),
                    ("keepdims", 0),
                    ("mode", "x"),
                    ("perm", [1, 0]),
                    ("to", 1),
                )
            )
            node.attribute.append(onnx.helper.make_attribute(name, value))
        elif how == 3:
            node.CopyFrom(other)
        elif how == 4:
            node.output.append(draw.choice((*signals, "more")))
        else:
            node.input.append(draw.choice(signals))
    return model.SerializeToString()


_OPERATORS = (
    "Relu", "Sigmoid", "Tanh", "Exp", "Sin", "Floor", "Softmax", "Add", "Mul", "Div", "Sub", "MatMul", "Gemm", "Conv", "Concat", "Reshape", "Expand", "Tile",
    "Transpose", "Flatten", "Identity", "Loop", "If", "Scan", "RandomNormal", "Constant", "ConstantOfShape", "Where", "Cast", "Pow", "Clip", "LSTM", "Resize",
    "Pad", "Slice", "Gather", "TopK", "BatchNormalization", "Dropout", "Einsum", "QuantizeLinear", "NonZero", "SequenceInsert", "GridSample", "Print", "",
)  # fmt: skip


def external(data: bytes, draw: Random) -> bytes:
    """Where an external tensor lies, and how much of it is asked for."""
    import onnx

    model = onnx.ModelProto.FromString(data)
    entries = [entry for tensor in model.graph.initializer for entry in tensor.external_data]
    if not entries:
        return fields(data, draw)
    entry = draw.choice(entries)
    if entry.key == "location":
        entry.value = draw.choice(
            ("../secret.bin", "link.bin", "/etc/passwd", "/proc/self/mem", "/dev/zero", "", ".", "..", "weights.bin/", "./weights.bin", "x/../weights.bin",
             "mutant.onnx", "WEIGHTS.BIN", "pipe", "x" * 5000, "\x00", "folder/../../secret.bin", "\\..\\secret.bin")
        )  # fmt: skip
    else:
        entry.value = draw.choice(
            ("-1", "0", "1", "4", str(2**62), "9" * 5000, "", "x", "1.5", " 4", "0x4", "\u0661", "4096", "1_0")
        )
    if draw.random() < 0.2:
        entry.key = draw.choice(("location", "offset", "length", "checksum", "x", ""))
    return model.SerializeToString()


def zip_fields(data: bytes, draw: Random) -> bytes:
    """A field of a local header, of the directory, or of its end: sizes, offsets, methods, flags, lengths."""
    marks = [(match.start(), match.group()) for match in re.finditer(rb"PK(?:\x01\x02|\x03\x04|\x05\x06)", data)]
    if not marks:
        return bits(data, draw)
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2))):
        start, mark = draw.choice(marks)
        offset, size = draw.choice(_ZIP[mark])
        old = int.from_bytes(data[start + offset : start + offset + size], "little")
        new = draw.choice((0, 1, 8, 99, old + 1, max(0, old - 1), 2 ** (8 * size) - 1, 2 ** (8 * size - 1), len(data)))
        changed[start + offset : start + offset + size] = (new % 2 ** (8 * size)).to_bytes(size, "little")
    return bytes(changed)


# Offset and size of the fields (APPNOTE.TXT, 4.3.7, 4.3.12, 4.3.16).
_ZIP = {
    b"PK\x03\x04": ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
    b"PK\x01\x02": (
        (4, 2),
        (6, 2),
        (8, 2),
        (10, 2),
        (16, 4),
        (20, 4),
        (24, 4),
        (28, 2),
        (30, 2),
        (32, 2),
        (34, 2),
        (38, 4),
        (42, 4),
    ),
    b"PK\x05\x06": ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
}


def pickled(data: bytes, draw: Random) -> bytes:
    """Opcodes of a pickle: whole numbers (sizes, offsets, strides), names of globals, dropped and doubled ones."""
    held = members(data)
    places = [i for i, (name, _) in enumerate(held) if name.endswith(".pkl")]
    if not places:
        return in_member(data, draw)
    place = draw.choice(places)
    name, content = held[place]
    try:
        starts = [position or 0 for _, _, position in pickletools.genops(content)] + [len(content)]
    except Exception:
        return in_member(data, draw)
    codes = [content[a:b] for a, b in itertools.pairwise(starts)]
    for _ in range(draw.choice((1, 1, 2))):
        at = draw.randrange(len(codes))
        numbers = [i for i, code in enumerate(codes) if code[:1] in (b"K", b"M", b"J")]
        if numbers and draw.random() < 0.6:
            codes[draw.choice(numbers)] = draw.choice(
                (
                    b"K\x00",
                    b"K\x01",
                    b"K\x07",
                    b"M\xff\xff",
                    b"J\xff\xff\xff\xff",
                    b"J\xff\xff\xff\x7f",
                    b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
                )
            )
        else:
            codes[at : at + draw.randrange(2)] = [draw.choice((draw.choice(codes), *_CODES))]
    held[place] = (name, b"".join(codes))
    return zipped(held)


_CODES = (b"cos\nsystem\n", b"ctorch\nsave\n", b"c__torch__\nNet\n", b"R", b"b", b"0", b"(", b"t", b"]", b"}", b"N", b"\x88", b"\x93", b"\x81", b"i__main__\nx\n", b".", b"Q", b"X\x01\x00\x00\x00x", b"G" + b"\x7f\xf8" + b"\0" * 6)  # fmt: skip


def nodes(data: bytes, draw: Random) -> bytes:
    """Nodes of a `.pt2` graph: a further one with a target and arguments that write, or two changed about."""
    held = members(data)
    places = [i for i, (name, _) in enumerate(held) if name.endswith("model.json")]
    if not places:
        return values(data, draw)
    name, content = held[places[0]]
    tree = json.loads(content)
    graph = tree["graph_module"]["graph"]
    found = graph["nodes"]
    place = draw.randrange(len(found))
    node = copy.deepcopy(found[place])
    how = draw.randrange(4)
    if how == 0:
        node["target"] = draw.choice(_TARGETS)
        node["inputs"] = [
            {"name": "filename", "arg": {"as_string": "MARK"}, "kind": 1},
            {"name": "shared", "arg": {"as_bool": True}, "kind": 2},
            {"name": "size", "arg": {"as_int": draw.choice((4, 2**40))}, "kind": 2},
        ][: draw.randrange(4)] + node["inputs"][: draw.randrange(2)]
        found.insert(place, node)
    elif how == 1:
        found[place]["inputs"] = found[draw.randrange(len(found))]["inputs"]
    elif how == 2:
        found[place]["target"] = draw.choice(_TARGETS)
    else:
        found.insert(draw.randrange(len(found)), node)
    held[places[0]] = (name, json.dumps(tree).encode())
    return zipped(held)


MAKERS: dict[str, tuple[Maker, ...]] = {
    "onnx": (bits, splice, cut, fields, fields, rewire, rewire),
    "external": (external, external, external, fields, rewire),
    "pt": (bits, splice, in_member, names, code, code, code, pickled, pickled, zip_fields),
    "pt2": (bits, splice, in_member, names, values, values, values, nodes, nodes, zip_fields),
}


def mutant(makers: tuple[Maker, ...], data: bytes, draw: Random, mark: str) -> bytes:
    """One mutant of an honest file. `mark`: path of the canary that hostile tokens try to write."""
    made = draw.choice(makers)(data, draw)
    if b"MARK" in made and made[:2] == b"PK":
        with contextlib.suppress(Exception):  # a damaged archive
            made = zipped([(name, content.replace(b"MARK", mark.encode())) for name, content in members(made)])
    return made
