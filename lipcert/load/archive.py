"""Look into a zip archive without running, extracting or unpickling anything in it."""

from __future__ import annotations

import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path

from lipcert.terms.errors import UnreadableError

MEMBER_LIMIT = 200_000
TOTAL_LIMIT = 64 * 2**30  # bytes after decompression
TEXT_LIMIT = 64 * 2**20  # bytes of one member that is read whole: code, JSON, a pickle without its tensors

_END_OF_DIRECTORY = b"PK\x05\x06"


@dataclass(frozen=True)
class Archive:
    """A zip file whose members are harmless to name.

    `prefix`: the folder every member lies in (torch writes one). `sizes`: name without it -> bytes, decompressed.
    """

    path: Path
    prefix: str
    sizes: dict[str, int]

    def read(self, name: str, limit: int = TEXT_LIMIT) -> bytes:
        """One member, whole. Raises UnreadableError where it is larger than `limit` bytes, or damaged."""
        if self.sizes[name] > limit:
            raise UnreadableError(
                f"{self.path}: {name} has {self.sizes[name]} bytes; at most {limit} are expected there"
            )
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(self.prefix + name)
        except Exception as problem:  # BadZipFile, zlib.error, OSError, NotImplementedError: no common base
            raise UnreadableError(f"{self.path}: {name} is damaged ({problem})") from problem

    def text(self, name: str) -> str:
        try:
            return self.read(name).decode("utf-8")
        except UnicodeDecodeError as problem:
            raise UnreadableError(f"{self.path}: {name} is not text") from problem


def open_archive(path: Path) -> Archive:
    """Raises UnreadableError for a damaged zip, or one that two readers could read differently."""
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 22))
            tail = file.read()
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as problem:
        raise UnreadableError(f"{path}: a damaged or truncated zip archive ({problem})") from problem
    if tail[:4] != _END_OF_DIRECTORY:  # a comment or trailing bytes could hide a second directory from one reader
        raise UnreadableError(f"{path}: the zip archive has bytes after its directory")
    if not members:
        raise UnreadableError(f"{path}: an empty zip archive")
    if len(members) > MEMBER_LIMIT or sum(member.file_size for member in members) > TOTAL_LIMIT:
        raise UnreadableError(f"{path}: the zip archive unpacks to more than lipcert reads")
    for member in members:
        _check_name(path, member.filename)
    names = [member.filename for member in members if not member.filename.endswith("/")]
    if len({name.casefold() for name in names}) != len(names):  # torch compares names without case
        raise UnreadableError(f"{path}: the zip archive holds one name twice")
    prefixes = {name.split("/")[0] for name in names}
    prefix = f"{prefixes.pop()}/" if len(prefixes) == 1 and all("/" in name for name in names) else ""
    return Archive(path, prefix, {m.filename[len(prefix) :]: m.file_size for m in members if m.filename in set(names)})


def _check_name(path: Path, name: str) -> None:
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or "\0" in name or ":" in name[:3]:
        raise UnreadableError(f"{path}: a hostile zip archive: its member {name!r} points outside the archive")


# Opcodes that torch.save and torch.jit.save write; among the absent: STACK_GLOBAL, INST, OBJ, EXT*, buffers, strings of
# protocol 0, and REDUCE's relatives that hide what they call.
# fmt: off
_OPCODES = frozenset((
    "PROTO", "STOP", "MARK", "POP", "GLOBAL", "REDUCE", "BUILD", "NEWOBJ", "NONE", "NEWTRUE", "NEWFALSE", "INT",
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING",
    "SHORT_BINSTRING", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "LIST",
    "EMPTY_DICT", "SETITEM", "SETITEMS", "DICT", "BINPERSID", "PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET",
    "LONG_BINGET", "FRAME", "MEMOIZE",
))
# fmt: on

_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")

TENSOR_GLOBALS = frozenset(
    ["torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "collections OrderedDict", "torch Size"]
    + [f"torch {kind}Storage" for kind in _STORAGES]
)


def check_pickle(
    path: Path, name: str, data: bytes, allowed: frozenset[str], allowed_prefixes: tuple[str, ...] = ()
) -> None:
    """Raise UnreadableError unless the pickle uses only known opcodes and names only known globals.

    Nothing is unpickled. `allowed`: "module name" pairs; `allowed_prefixes`: how others may begin.
    """
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name not in _OPCODES:
                raise UnreadableError(
                    f"{path}: {name} is not what torch writes (pickle opcode {opcode.name}); not loaded"
                )
            if opcode.name == "GLOBAL" and argument not in allowed:
                if str(argument).startswith(allowed_prefixes):
                    continue
                called = str(argument).replace(" ", ".")
                raise UnreadableError(f"{path}: {name} would run {called} when loaded; it may be hostile. Not loaded")
    except UnreadableError:
        raise
    except Exception as problem:
        raise UnreadableError(f"{path}: {name} is not a pickle that torch writes ({problem})") from problem
