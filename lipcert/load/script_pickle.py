"""The pickles of a TorchScript archive, read by a stack machine of our own that can name, but never call or build.

It knows the opcodes and globals that torch's serialiser writes and torch's own reader (C++) accepts. What it finds: the
classes that torch would look up in the code, and for each tensor the storage that it reads.
"""

from __future__ import annotations

import math
import pickletools
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch

from lipcert.terms.errors import LipcertError, RefusedModel, UnreadableError, printable

STORAGE_DTYPES: dict[str, torch.dtype] = {
    "torch FloatStorage": torch.float32,
    "torch DoubleStorage": torch.float64,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}
_LISTS = {f"torch.jit._pickle build_{kind}list" for kind in ("int", "double", "bool", "tensor")}
_REBUILD, _TAG, _ORDERED, _DEVICE = (
    "torch._utils _rebuild_tensor_v2",
    "torch.jit._pickle restore_type_tag",
    "collections OrderedDict",
    "torch device",
)
_CLASS = re.compile(r"(__torch__(?:\.\w+)*) (\w+)", re.ASCII)
_CLASS_IN_TYPE = re.compile(r"__torch__(?:\.\w+)+", re.ASCII)
_TYPE_WORDS = frozenset(
    "Tensor int float bool str complex number NoneType None Device Any Optional List Dict Tuple Union".split()
)
_PUSHED = frozenset(
    "BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINSTRING SHORT_BINSTRING".split()
)
_CONSTANT: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_DEPTH = 100_000  # of the stack, and entries of the memo


@dataclass(frozen=True)
class Global:
    name: str  # "module name"


@dataclass(frozen=True)
class Storage:
    key: str
    dtype: torch.dtype
    entries: int

    @property
    def bytes(self) -> int:
        return self.entries * self.dtype.itemsize


@dataclass
class Contents:
    """`classes`: qualified names. `storages`: by key, as declared."""

    classes: dict[str, None] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Made:
    """What a call would make: a tensor, an object of a class, a list."""

    what: str


_MARK = _Made("mark")


def read_pickle(path: object, member: str, data: bytes, found: Contents) -> None:
    """Add to `found`. Raises UnreadableError for everything that torch's serialiser does not write."""
    try:
        _Machine(path, member, found).run(data)
    except LipcertError:
        raise
    except Exception as problem:  # an empty stack, a missing memo, bytes that do not decode: no common base
        raise UnreadableError(
            f"{path}: {member} is not a pickle that torch writes ({printable(str(problem))[:200]})"
        ) from problem


class _Machine:
    def __init__(self, path: object, member: str, found: Contents):
        self.path, self.member, self.found = path, member, found
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def refuse(self, why: str) -> NoReturn:
        raise UnreadableError(f"{self.path}: {self.member} {printable(why)[:300]}. Not loaded")

    def run(self, data: bytes) -> None:
        for opcode, argument, position in pickletools.genops(data):
            if len(self.stack) > _DEPTH or len(self.memo) > _DEPTH:
                self.refuse("is larger than any model's")
            if opcode.name == "STOP":
                if position != len(data) - 1 or len(self.stack) != 1:
                    self.refuse("goes on after its end")
                return
            self.step(opcode.name, argument)

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _PUSHED:
            if isinstance(argument, int) and not -(2**63) <= argument < 2**63:
                self.refuse("holds a number of more than 64 bits")
            stack.append(argument)
        elif name in _CONSTANT:
            stack.append(_CONSTANT[name])
        elif name == "GLOBAL":
            stack.append(self.named(argument))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT"):
            stack.append(() if name == "EMPTY_TUPLE" else _Made(name[6:].lower()))
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            parts = self.until_mark() if name == "TUPLE" else [stack.pop() for _ in range(int(name[5:]))][::-1]
            stack.append(tuple(parts))
        elif name in ("APPENDS", "SETITEMS"):
            self.fill(self.until_mark(), name)
        elif name in ("APPEND", "SETITEM"):
            self.fill([stack.pop() for _ in range(1 if name == "APPEND" else 2)], name + "S")
        elif name in ("REDUCE", "NEWOBJ", "BUILD"):
            last = stack.pop()
            first = stack.pop()
            stack.append(self.made(name, first, last))
        elif name == "BINPERSID":
            stack.append(self.storage(stack.pop()))
        elif name != "PROTO" or argument != 2:
            self.refuse(f"is not what torch writes (pickle opcode {name})")

    def named(self, name: str) -> Global:
        if found := _CLASS.fullmatch(name):
            self.found.classes[f"{found[1]}.{found[2]}"] = None
        elif name not in STORAGE_DTYPES and name not in _LISTS and name not in (_REBUILD, _TAG, _ORDERED, _DEVICE):
            self.refuse(f"would run {name.replace(' ', '.')} when loaded; it may be hostile")
        return Global(name)

    def until_mark(self) -> list[Any]:
        place = len(self.stack) - 1 - self.stack[::-1].index(_MARK)
        parts = self.stack[place + 1 :]
        del self.stack[place:]
        return parts

    def fill(self, parts: list[Any], name: str) -> None:
        into = self.stack[-1]
        wanted = "list" if name == "APPENDS" else "dict"
        if not isinstance(into, _Made) or into.what != wanted or (wanted == "dict" and len(parts) % 2):
            self.refuse(f"is not what torch writes ({name} without a {wanted})")

    def made(self, opcode: str, first: Any, last: Any) -> Any:
        """A call of `first` with `last`, or the state `last` of the object `first`."""
        if opcode == "BUILD":
            if isinstance(first, _Made) and first.what == "object" and isinstance(last, _Made) and last.what == "dict":
                return first
            why = "runs code of its own when loaded (state that is not a dictionary of attributes)"
            raise RefusedModel(f"{self.path}: {self.member} {why}. Not loaded", node=self.member)
        if not isinstance(first, Global) or not isinstance(last, tuple):
            self.refuse(f"is not what torch writes ({opcode} of a value)")
        name = first.name
        if _CLASS.fullmatch(name):
            return _Made("object")
        if opcode == "REDUCE" and name == _REBUILD:
            return self.tensor(*last)
        if opcode == "REDUCE" and name == _TAG:
            value, kind = last
            self.type(kind)
            return value
        if opcode == "REDUCE" and name == _ORDERED and not last:
            return _Made("dict")
        if (
            opcode == "REDUCE"
            and name in _LISTS
            and len(last) == 1
            and isinstance(last[0], _Made)
            and last[0].what == "list"
        ):
            return _Made("typed list")
        if opcode == "REDUCE" and name == _DEVICE and len(last) == 1 and isinstance(last[0], str):
            return _Made("device")
        self.refuse(f"would run {name.replace(' ', '.')} when loaded; it may be hostile")

    def type(self, text: Any) -> None:
        if not isinstance(text, str) or len(text) > 10_000:
            self.refuse("is not what torch writes (a type that is no text)")
        classes = _CLASS_IN_TYPE.findall(text)
        rest = _CLASS_IN_TYPE.sub("", text)
        if not re.fullmatch(r"[\w\[\](), ]*", rest, re.ASCII) or not _TYPE_WORDS.issuperset(re.findall(r"\w+", rest)):
            self.refuse(f"is not what torch writes (the type {text[:80]!r})")
        self.found.classes |= dict.fromkeys(classes)

    def storage(self, persistent: Any) -> Storage:
        kind, storage, key, _, entries = persistent
        dtype = STORAGE_DTYPES.get(storage.name) if isinstance(storage, Global) else None
        if kind != "storage" or dtype is None or not isinstance(key, str) or type(entries) is not int or entries < 0:
            self.refuse("is not what torch writes (a persistent id that is no storage)")
        declared = Storage(key, dtype, entries)
        if self.found.storages.setdefault(key, declared) != declared:
            self.refuse(f"declares the storage {key} twice, differently")
        return declared

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, *more: Any) -> _Made:
        shaped = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) and not more
        if not isinstance(storage, Storage) or not shaped or not isinstance(grad, bool) or not isinstance(hooks, _Made):
            self.refuse("is not what torch writes (a tensor)")
        numbers = (offset, *size, *stride)
        if not all(type(number) is int and number >= 0 for number in numbers):
            self.refuse("holds a tensor with a negative size, stride or offset")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) and last >= storage.entries:
            self.refuse(
                f"holds a tensor of shape {list(size)}, stride {list(stride)}, offset {offset}, which reads past the "
                f"{storage.entries} entries of its storage {storage.key}"
            )
        return _Made("tensor")
