"""`.pt2` archives of torch.export.save, read without trusting them.

torch.export.load runs code that a file brings along: it unpickles `sample_inputs` and weights marked `use_pickle`,
gives every `expr_str` to sympy (which evaluates it), compiles `guards_code`, and calls whatever Python function a
node's `target` names, under names it pastes into source code. So nothing is loaded from the file itself: what is
loaded is a copy of it, rebuilt in memory from the parts that the rules below have recognised.
"""

from __future__ import annotations

import copy
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._export.serde import schema
from torch.export import ExportedProgram

from lipcert.load.archive import TENSOR_GLOBALS, TEXT_LIMIT, TOTAL_LIMIT, Archive, check_pickle, open_archive
from lipcert.load.call.arguments import one_type
from lipcert.load.call.joined import Joined
from lipcert.load.call.program import TensorInput, arguments_of, check_numbers, entries
from lipcert.load.call.state import changed_by, with_states
from lipcert.load.choose import choose
from lipcert.load.exported_schema import checked
from lipcert.load.fingerprint import quiet
from lipcert.load.inputs import NOTHING, InputChoice
from lipcert.load.original import references, rows
from lipcert.load.pick import Pick, pick
from lipcert.load.source import Source
from lipcert.sandbox.child import step
from lipcert.terms.errors import LipcertError, UnreadableError, printable

_WEIGHTS = "data/weights/"
_CONSTANTS = "data/constants/"
_SAMPLES = "data/sample_inputs/"

_GUARDED = re.compile(r"L\[(?:'\w+'|\"\w+\")\]")  # conditions on the shapes of inputs, such as L['x'].size()[0] >= 2
_GUARD_WORDS = frozenset(("size", "ndim", "shape", "and", "or", "not"))
_FILE = re.compile(r"(?:weight|constant|tensor)_\d+")


def read_exported(path: Path, wanted: InputChoice = NOTHING, *, seconds: float = 60.0) -> Source:
    """Dynamic axes take the shape given, else their lowest admitted size.

    Raises UnreadableError, RefusedModel or UsageError. `seconds`: for each run of the file's code.
    """
    archive = open_archive(path)
    model = scan(archive)
    taken = entries(path, model, _dtype)
    if not any(isinstance(one, TensorInput) for one in taken):
        raise UnreadableError(f"{path}: the program has no input: it is a constant")
    with quiet():
        arguments, warnings = arguments_of(path, taken, wanted, model)
        rebuilt = _rebuilt(archive, model, arguments.zeros())
        with step(f"{path}: torch.export.load", seconds, UnreadableError):
            program = torch.export.load(io.BytesIO(rebuilt))
        module: torch.nn.Module = program.module()
        with step(f"{path}: evaluating the program", seconds):
            states = changed_by(module, *arguments.zeros())
        arguments = with_states(arguments, module, states)
        chosen = choose(path, arguments.declared, wanted)
        check_numbers(path, taken, chosen)
        example = torch.zeros(chosen.shape, dtype=one_type(path, chosen))
        if len(taken) == 1 and not states and arguments.positional and arguments.plain:
            module = module if wanted.output is None else Pick(module, wanted.output)
        else:
            module = Joined(module, arguments, chosen, wanted.output, states)

    def run(points: np.ndarray, kind: torch.dtype) -> np.ndarray:
        with step(f"{path}: evaluating the program", seconds):
            return _evaluate(program, module, points, kind, wanted.output)

    return Source(
        module=module,
        example=example,
        format="pt2",
        input_name=chosen.name,
        output_name=wanted.output or "output",
        references=references("torch", run, example),
        warnings=warnings,
        assumptions=chosen.notes,
        inputs=chosen.described(),
    )


def scan(archive: Archive) -> dict[str, Any]:
    """The program's JSON, all of it recognised. Raises UnreadableError for what could run code, or is damaged."""
    path, where = archive.path, "models/model.json"
    for name in archive.sizes:
        if name.startswith(_SAMPLES):
            _check_samples(archive, name)
    for folder in (_WEIGHTS, _CONSTANTS):
        _check_config(archive, folder)
    model = _json(archive, where)
    guards = model.get("guards_code") or []
    for guard in guards if isinstance(guards, list) else [guards]:
        if not set(re.findall(r"[A-Za-z_]\w*", _GUARDED.sub("", str(guard)))) <= _GUARD_WORDS:
            raise UnreadableError(
                f"{path}: guards_code would run {printable(str(guard))[:80]!r} when loaded. Not loaded"
            )
    return checked(path, schema.ExportedProgram, model, where)


def _check_samples(archive: Archive, name: str) -> None:
    """Never loaded, yet judged: a hostile pickle here means a hostile file."""
    try:
        with zipfile.ZipFile(io.BytesIO(archive.read(name, TOTAL_LIMIT))) as inner:
            pickles = [member for member in inner.infolist() if member.filename.endswith(".pkl")]
            if any(member.file_size > TEXT_LIMIT for member in pickles):
                raise UnreadableError(f"{archive.path}: {name} holds a pickle that is too large")
            contents = [(f"{name}/{member.filename}", inner.read(member)) for member in pickles]
    except LipcertError:
        raise
    except Exception as problem:
        raise UnreadableError(f"{archive.path}: {name} is not what torch writes ({problem})") from problem
    for member, data in contents:
        check_pickle(archive.path, member, data, TENSOR_GLOBALS)


def _check_config(archive: Archive, folder: str) -> dict[str, Any]:
    """The table of tensors in `folder`: each plain, and stored in as many bytes as it reads."""
    if folder + "model.pt" in archive.sizes:
        raise UnreadableError(
            f"{archive.path}: {folder}model.pt is pickled (an old format). Save it again with a newer torch"
        )
    name = _config_name(folder)
    table = _json(archive, name)
    for key, entry in table["config"].items() if isinstance(table.get("config"), dict) else ():
        if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
            where = f"{archive.path}: {folder}{printable(key)[:80]}"
            raise UnreadableError(f"{where} is marked use_pickle: loading it could run code. Not loaded")
    table = checked(archive.path, schema.PayloadConfig, table, name)
    for key, entry in table["config"].items():
        where = f"{archive.path}: {folder}{key}"
        file = entry["path_name"]
        if not _FILE.fullmatch(file) or entry["tensor_meta"] is None:
            raise UnreadableError(f"{where} is not a plain tensor ({file[:60]})")
        if folder + file not in archive.sizes:
            raise UnreadableError(f"{where} is damaged, or has no data")
        needed = _bytes_needed(where, entry["tensor_meta"])
        if archive.sizes[folder + file] < needed:
            raise UnreadableError(f"{where} has {archive.sizes[folder + file]} bytes, where its shape needs {needed}")
    return table


def _config_name(folder: str) -> str:
    return f"{folder}model_{'weights' if folder == _WEIGHTS else 'constants'}_config.json"


def _bytes_needed(where: str, meta: dict[str, Any]) -> int:
    """Up to the last entry that a tensor of this description reads."""
    axes = [*meta["sizes"], *meta["strides"], meta["storage_offset"]]
    numbers = [axis.get("as_int", -1) for axis in axes]
    sizes, strides = numbers[: len(meta["sizes"])], numbers[len(meta["sizes"]) : -1]
    if min(numbers) < 0 or len(sizes) != len(strides) or meta["layout"] != schema.Layout.Strided:
        raise UnreadableError(f"{where}: its description is damaged")
    if 0 in sizes:
        return 0
    last = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    return (numbers[-1] + last + 1) * _dtype(where, meta["dtype"]).itemsize


def _dtype(where: object, number: int) -> torch.dtype:
    from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE  # the file stores the number of a dtype

    if number not in _SERIALIZE_TO_TORCH_DTYPE:
        raise UnreadableError(f"{where}: a tensor of a type that torch does not know ({number})")
    return _SERIALIZE_TO_TORCH_DTYPE[number]


def _json(archive: Archive, name: str) -> dict[str, Any]:
    if name not in archive.sizes:
        raise UnreadableError(f"{archive.path}: has no {name}; save it again with torch 2.9 or newer")
    try:
        value = json.loads(archive.text(name))
    except (ValueError, RecursionError) as problem:
        raise UnreadableError(f"{archive.path}: {name} is damaged ({problem})") from problem
    if not isinstance(value, dict):
        raise UnreadableError(f"{archive.path}: {name} is damaged")
    return value


def _rebuilt(archive: Archive, model: dict[str, Any], sample: Any) -> bytes:
    """The archive again, from checked parts only: without metadata of nodes, and with a sample input of our own."""
    from torch.export.pt2_archive._package import PT2ArchiveWriter

    _onto_cpu(model)
    entries = model["graph_module"]["module_call_graph"]
    model["graph_module"]["module_call_graph"] = [entry for entry in entries if not entry["fqn"]]  # the whole program
    for node in model["graph_module"]["graph"]["nodes"]:
        if node["target"] == "torch.ops.aten.detach_.default":
            node["target"] = "torch.ops.aten.detach.default"  # the same values; the former cannot be exported again
    samples, buffer = io.BytesIO(), io.BytesIO()
    torch.save(sample, samples)
    with PT2ArchiveWriter(buffer) as writer:
        writer.write_bytes("models/model.json", json.dumps(model).encode())
        writer.write_bytes(f"{_SAMPLES}model.pt", samples.getvalue())
        for folder in (_WEIGHTS, _CONSTANTS):
            config = _check_config(archive, folder)
            _onto_cpu(config)
            writer.write_bytes(_config_name(folder), json.dumps(config).encode())
            for file in sorted({entry["path_name"] for entry in config["config"].values()}):
                writer.write_bytes(folder + file, archive.read(folder + file, TOTAL_LIMIT))
    return buffer.getvalue()


def _onto_cpu(value: Any) -> None:
    """Every device in the JSON becomes the CPU: the function is the same, and there may be no GPU here."""
    if isinstance(value, dict):
        if set(value) == {"type", "index"}:
            value.update(type="cpu", index=None)
        for item in value.values():
            _onto_cpu(item)
    elif isinstance(value, list):
        for item in value:
            _onto_cpu(item)


def _evaluate(
    program: ExportedProgram, module: torch.nn.Module, points: np.ndarray, dtype: torch.dtype, output_name: str | None
) -> np.ndarray:
    """On a copy in `dtype`, called as `module` calls it."""
    copied = copy.deepcopy(program).module()
    if isinstance(module, Joined):
        joined = Joined(copied, module.arguments, module.chosen, output_name, module.states).to(dtype)
        return rows(joined, points, dtype)
    copied = copied.to(dtype)
    return rows(lambda x: pick(copied(x), output_name), points, dtype)
