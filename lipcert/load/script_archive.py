"""A TorchScript archive, all of it recognised and written again: what torch.jit.load is given is a copy of ours.

torch compares member names without regard to case, looks for old formats under other names and reads storages as long
as they are declared. So the copy holds the members listed here and no others: the code that `script_code` wrote, the
pickles that `script_pickle` followed, and storages of just the bytes that their tensors were declared to have.
"""

from __future__ import annotations

import io
import re
import zipfile

from lipcert.load.archive import TOTAL_LIMIT, Archive
from lipcert.load.script_code import rewritten
from lipcert.load.script_pickle import Contents, read_pickle
from lipcert.terms.errors import UnreadableError, printable

_CODE = re.compile(r"code/__torch__(?:/[A-Za-z0-9_]+)*\.py", re.ASCII)
_KEY = re.compile(r"\d{1,9}", re.ASCII)
_FOLDERS = ("code/", "data/", "constants/")
_VERSION = (".data/version", "version")  # of the format, 10 in torch 2.13; torch reads the first that is there
_SINGLE = frozenset(("data.pkl", "constants.pkl", "byteorder", *_VERSION))


def rebuilt(archive: Archive) -> bytes:
    """The copy. Raises UnreadableError for what torch does not write, RefusedModel for code that may not run."""
    path = archive.path
    _check_names(archive)
    members: dict[str, bytes] = {"version": _version(archive)}
    classes: dict[str, None] = {}
    for pickle, folder in (("data.pkl", "data/"), ("constants.pkl", "constants/")):
        if pickle not in archive.sizes:
            raise UnreadableError(f"{path}: has no {pickle}")
        found = Contents()
        members[pickle] = archive.read(pickle)
        read_pickle(path, pickle, members[pickle], found)
        classes |= found.classes
        for storage in found.storages.values():
            name = folder + storage.key
            if not _KEY.fullmatch(storage.key) or name not in archive.sizes:
                raise UnreadableError(f"{path}: {pickle} names the storage {name[:80]!r}, which the file does not hold")
            if archive.sizes[name] != storage.bytes:
                raise UnreadableError(
                    f"{path}: the storage {name} has {archive.sizes[name]} bytes, where {pickle} declares {storage.bytes}"
                )
            members[name] = archive.read(name, TOTAL_LIMIT)
    texts = {name: archive.text(name) for name in archive.sizes if _CODE.fullmatch(name)}
    members |= {name: text.encode() for name, text in rewritten(path, texts, classes).items()}
    return _written(members)


def _check_names(archive: Archive) -> None:
    """Members that torch would take for another reader's, for want of case, are refused: they are never an accident."""
    for name in archive.sizes:
        plain = name.casefold()
        folder = next((folder for folder in _FOLDERS if plain.startswith(folder)), "")
        code = folder == "code/" and plain.endswith(".py")
        if (
            not name.startswith(folder)
            or (plain in _SINGLE and name not in _SINGLE)
            or (code and not _CODE.fullmatch(name))
        ):
            raise UnreadableError(
                f"{archive.path}: the member {printable(name)[:80]!r} is not spelled as torch spells it. Not loaded"
            )


def _version(archive: Archive) -> bytes:
    found = {archive.text(name).strip() for name in _VERSION if name in archive.sizes}
    version = found.pop() if len(found) == 1 else ""
    if not re.fullmatch(r"\d{1,2}", version, re.ASCII):
        raise UnreadableError(f"{archive.path}: it does not say which version of TorchScript it is")
    if "byteorder" in archive.sizes and archive.text("byteorder") != "little":
        raise UnreadableError(f"{archive.path}: its byte order is not little-endian: save it again on this machine")
    return f"{version}\n".encode()


def _written(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(f"model/{name}"), data)
    return buffer.getvalue()
