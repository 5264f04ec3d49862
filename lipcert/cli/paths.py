"""What a command reads and what it writes, compared before any work: no output is an input, no two outputs are one file.

Files are the same when the system says so (links, hard links, `./`, file systems that ignore case), not when their names are.
A new option that takes a file gets its row here; a test fails while it is missing.
"""

from __future__ import annotations

import contextlib
import glob
import mmap
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lipcert.terms.errors import UnreadableError, UsageError
from lipcert.terms.files import reason

# parameter, or command.parameter -> how the user calls it
READS = {
    "model": "the model file",
    "data": "the data of --data",
    "at": "the data of --at",
    "through": "the data of --through",
    "fix": "the values of --fix",
    "weight_in": "the weights of --weight-in",
    "weight_out": "the weights of --weight-out",
    "resume": "the report of --resume",
    "verify.certificate": "the certificate",
    "gate.reports": "the report",
    "compare.reports": "the report",
    "report.reports": "the report",
    "scale_of": "the report of --scale-of",
    "track.checkpoints": "the checkpoint",
    "gate.policy": "the policy of --policy",
    "gate.baseline": "the report of --baseline",
}
WRITES = {
    "json": "--json",
    "plot": "--plot",
    "journal": "--journal",
    "bound.certificate": "--certificate",
    "radius.certificate": "--certificate",
    "local.certificate": "--certificate",
    "gate.junit": "--junit",
    "gate.sarif": "--sarif",
    "gate.markdown": "--markdown",
    "compare.markdown": "--markdown",
    "report.html": "--html",
    "dequantise.to": "--to",
    "report.out": "--out",
}
MODELS = (READS["model"], READS["track.checkpoints"])
REPLACED_BY = {"resume": "json"}  # a report may be gone on with in place: it is replaced only by a whole one
WITH_PLACES = ("at", "through")  # DATA#3
MODEL_ENDINGS = (".onnx", ".pt", ".pt2", ".pth")
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)

Named = list[tuple[str, str]]  # (how the user calls it, path)


def adversarial_file(json: str | None) -> str:
    """Where `radius --attack` keeps inputs found inside a certified radius."""
    return f"{json}.adversarial.npz" if json not in (None, "-") else "adversarial.npz"


def _of_radius(asked: Mapping[str, Any]) -> tuple[Named, Named]:
    return [], [("--attack", adversarial_file(asked["json"]))] if asked["attack"] else []


def _of_gate(asked: Mapping[str, Any]) -> tuple[Named, Named]:
    from lipcert.gate.policy import FILES

    if asked["init"]:
        return [], []  # it never replaces a file, and nothing else is written
    reads = [("the policy", name) for name in FILES if asked["policy"] is None and Path(name).is_file()][:1]
    summary = os.environ.get("GITHUB_STEP_SUMMARY") if asked["github"] else None
    return reads, [("GITHUB_STEP_SUMMARY", summary)] if summary else []


FURTHER: dict[str, Callable[[Mapping[str, Any]], tuple[Named, Named]]] = {"radius": _of_radius, "gate": _of_gate}


def check(command: str, asked: Mapping[str, Any]) -> None:
    """UsageError that names both files, or the one that cannot be written. `asked`: the command's parameters."""
    if asked.get("init"):
        return
    check_read(command, asked)
    reads, writes = (_named(table, command, asked) for table in (READS, WRITES))
    in_place = [(READS[a], str(asked[a]), WRITES[b]) for a, b in REPLACED_BY.items() if asked.get(a) is not None]
    in_place += [(READS["gate.reports"], path, WRITES["json"]) for path in _old_verdicts(command, asked)]
    more_reads, more_writes = FURTHER.get(command, lambda asked: ([], []))(asked)
    reads, writes = reads + more_reads, writes + more_writes
    for flag, path in writes:
        check_writable(flag, path)
    standard = [("standard output", 1), ("standard error", 2)]
    for flag, path in writes:
        for what, other in reads:
            if same(path, other) and (what, other, flag) not in in_place:
                raise UsageError(f"{flag} {path}: this is {what} {other}, which is read; give another file")
        for what, other in reads:
            if what in MODELS and (data := external_data(other, path)) is not None:
                raise UsageError(f"{flag} {path}: {what} {other} keeps weights in {data}; give another file")
    for place, (flag, path) in enumerate(writes):
        for other_flag, other in writes[:place]:
            if same(path, other):
                raise UsageError(f"{flag} {path}: {other_flag} {other} is the same file; give another one")
    for name, number in standard:
        for what, path in [*writes, *reads]:
            if _is_open(number, path):
                raise UsageError(f"{what} {path}: {name} goes into this file already; give another one")


def check_read(command: str, asked: Mapping[str, Any]) -> None:
    """What cannot be read for what it is, told in words: standard input, addresses, models in place of reports."""
    for name, value in asked.items():
        what = READS.get(f"{command}.{name}", READS.get(name))
        if what is None or name in ("model", "fix", "weight_in", "weight_out"):
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            path = "" if one is None else str(one)
            if path == "-" or path.startswith("-#"):
                raise UnreadableError(f"-: {what} is not read from standard input; write it into a file")
            check_address(path)
            if name == "reports" and path.lower().endswith(MODEL_ENDINGS):
                raise UnreadableError(
                    f"{path}: this is a model, not a report of one: lipcert bound {path} --json FILE writes one"
                )


def check_address(path: str) -> None:
    if ADDRESS.match(path) and not os.path.exists(path):
        shown = re.sub(r"^(\w+:)/(?!/)", r"\1//", path)  # a Path has taken the second slash away
        raise UnreadableError(f"{shown}: this is an address, and lipcert reads files only; download it first")


def check_model(model: object) -> None:
    """Told at once: reading a model begins with importing torch, which takes seconds. UnreadableError."""
    if isinstance(model, list | tuple):
        for one in model:
            if not is_pattern(str(one)):
                check_model(one)
        return
    if model is None:
        return
    path = str(model)
    if path == "-":
        raise UnreadableError("-: models are not read from standard input; write it into a file")
    check_address(path)
    try:
        os.stat(path)
    except (OSError, ValueError) as error:
        raise UnreadableError(f"{path}: {reason(error)}") from error


def is_pattern(path: str) -> bool:
    """A name with *, ? or [ that is not that of a file."""
    return re.search(r"[*?\[]", path) is not None and not os.path.lexists(path)


def _old_verdicts(command: str, asked: Mapping[str, Any]) -> list[str]:
    """`lipcert gate *.json --json v.json` for the second time: old verdicts are skipped, not read, and new ones replace them."""
    if command != "gate":
        return []
    from lipcert.gate.given import read_report

    found = []
    for path in [file for one in asked.get("reports") or () for file in files_of(str(one))]:
        with contextlib.suppress(UnreadableError):
            found += [path] if read_report(path).verdicts else []
    return found


def _named(table: Mapping[str, str], command: str, asked: Mapping[str, Any]) -> Named:
    found: Named = []
    for name, value in asked.items():
        flag = table.get(f"{command}.{name}", table.get(name))
        for one in value if isinstance(value, list | tuple) else [value]:
            if flag is not None and one is not None and str(one) != "-":
                text = str(one)
                if name == "fix":
                    found += [(flag, file) for file in held_in(text)]
                    continue
                head, mark, places = text.rpartition("#")
                cut = name in WITH_PLACES and mark and set(places) <= set("0123456789,")
                found += [(flag, file) for file in (files_of(text) if table is READS else [head if cut else text])]
                found += [(flag, head)] if cut and table is READS else []
    return found


def held_in(text: str) -> list[str]:
    """The files that NAME=FILE or NAME=FILE#KEY may mean, of those that are there; a name may hold "=" itself."""
    ends = [text[place + 1 :] for place, letter in enumerate(text) if letter == "="]
    return [file for end in ends for file in (end, end.rpartition("#")[0]) if file and os.path.lexists(file)]


def files_of(text: str) -> list[str]:
    """A folder stands for the files in it, a pattern for those that it matches."""
    if os.path.isdir(text):
        with os.scandir(text) as entries:
            return [entry.path for entry in entries if entry.is_file()]
    return [text] if os.path.lexists(text) else glob.glob(text, recursive=True) or [text]


def report_files(given: Sequence[Path]) -> list[Path]:
    """A folder stands for the reports in it (.json), a pattern in quotes for what it matches. UnreadableError for none."""
    found: list[Path] = []
    for one in given:
        if one.is_dir():
            inside = sorted(one.glob("*.json"))
            if not inside:
                raise UnreadableError(f"{one}: no reports in this folder; they end in .json")
            found += inside
        elif is_pattern(str(one)):
            matched = sorted(Path(name) for name in glob.glob(str(one), recursive=True) if os.path.isfile(name))
            if not matched:
                raise UnreadableError(f"{one}: no file has such a name")
            found += matched
        else:
            found.append(one)
    return found


def check_writable(flag: str, path: str) -> None:
    """Told before hours of work, not after them."""
    target = Path(path)
    try:
        if target.is_dir():
            raise UsageError(f"{flag} {path}: cannot write there: it is a folder; give a file")
        folder = target.resolve().parent
        writable = os.access(folder, os.W_OK | os.X_OK) if not _special(target) else os.access(target, os.W_OK)
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a null character
        raise UsageError(f"{flag} {path}: cannot write there: {error}") from error
    if not writable:
        why = "its folder is not writable" if folder.is_dir() else "its folder does not exist"
        raise UsageError(f"{flag} {path}: cannot write there: {why}; give a file in a folder that is writable")


def _special(target: Path) -> bool:
    """A pipe or a device: it is written, not replaced."""
    return target.exists() and not target.is_file()


def same(one: str, other: str) -> bool:
    if _special(Path(one)) or _special(Path(other)):
        return False
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        pass  # at least one does not exist yet
    if os.path.exists(one) or os.path.exists(other):
        return False
    a, b = (Path(os.path.realpath(path)) for path in (one, other))
    if not (a.parent.is_dir() and b.parent.is_dir() and a.parent.samefile(b.parent)):
        return False
    return a.name == b.name or (a.name.casefold() == b.name.casefold() and ignores_case(a.parent))


def ignores_case(folder: Path) -> bool:
    try:
        with tempfile.NamedTemporaryFile(prefix=".lipcert-case-", dir=folder) as probe:
            return Path(folder, Path(probe.name).name.swapcase()).exists()
    except OSError:
        return False


def _is_open(number: int, path: str) -> bool:
    try:
        here, there = os.fstat(number), os.stat(path)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(here.st_mode) and os.path.samestat(here, there)


def external_data(model: Any, path: str) -> str | None:
    """The name under which an ONNX file keeps weights in `path`. Its text is searched: the file is not read for this."""
    if not isinstance(model, str | Path) or not os.path.isfile(path) or not os.path.isfile(model):
        return None
    folder = Path(model).resolve().parent
    names = {name for name in _aliases(folder, path) if name != Path(model).name}
    if not names or os.path.getsize(model) == 0:
        return None
    with open(model, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return next(
            (name for name in sorted(names) if content.find(name.encode("utf-8", "surrogateescape")) >= 0), None
        )


def _aliases(folder: Path, path: str) -> Iterator[str]:
    """Names that the model may use for the file: its own, below the model's folder, and those of links beside the model."""
    if Path(os.path.realpath(path)).is_relative_to(folder):
        yield Path(os.path.realpath(path)).name
    target = os.stat(path)
    if target.st_nlink > 1 or Path(path).is_symlink() or not Path(os.path.realpath(path)).is_relative_to(folder):
        with os.scandir(folder) as entries:
            for entry in entries:
                if (entry.is_symlink() or entry.inode() == target.st_ino) and same(entry.path, path):
                    yield entry.name
