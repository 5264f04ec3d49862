"""`.pt2` archives of torch.export.save, read without trusting them.

torch.export.load runs code that a file brings along: it unpickles `sample_inputs` and weights marked `use_pickle`,
gives every `expr_str` to sympy (which evaluates it), compiles `guards_code`, and calls whatever Python function a
node's `target` names, under names it pastes into source code. So nothing is loaded from the file itself: what is
loaded is a copy of it, rebuilt in memory from the parts that the rules below have recognised.
"""

from __future__ import annotations

import importlib
import io
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from lipcert.errors import LipcertError, RefusedModel, UnreadableError, UsageError
from lipcert.load.archive import TENSOR_GLOBALS, TEXT_LIMIT, TOTAL_LIMIT, Archive, check_pickle, open_archive
from lipcert.load.fingerprint import quiet
from lipcert.load.guard import guarded
from lipcert.load.original import references, rows
from lipcert.load.pick import Pick, pick
from lipcert.load.source import Source

_WEIGHTS = "data/weights/"
_CONSTANTS = "data/constants/"
_SAMPLES = "data/sample_inputs/"

# What torch.export writes; none of it can name a function other than these.
_TARGET = re.compile(
    r"torch\.ops\.(?:aten|prims)\.\w+\.\w+|_operator\.(?:getitem|add|sub|mul|floordiv|mod|neg|eq|ne|lt|le|gt|ge)"
)
_EXPRESSION = re.compile(
    r"(?:Symbol\('\w+'(?:, \w+=(?:True|False))*\)|\b[su]\d+\b|\b(?:Integer|Add|Mul|FloorDiv|Mod|Max|Min|CleanDiv)(?=\()"
    r"|\b\d{1,19}\b|\*(?!\*)|[(), +-]){1,500}"
)
_NAME = re.compile(r"[A-Za-z_0-9.]*")
_NAME_KEYS = frozenset(
    ("name", "parameter_name", "buffer_name", "tensor_constant_name", "user_input_name", "fqn", "target")
)
_GUARDED = re.compile(r"L\[(?:'\w+'|\"\w+\")\]")  # conditions on the shapes of inputs, such as L['x'].size()[0] >= 2
_GUARD_WORDS = frozenset(("size", "ndim", "shape", "and", "or", "not"))
_FILE = re.compile(r"(?:weight|constant|tensor)_\d+")


@dataclass(frozen=True)
class _Input:
    name: str
    sizes: tuple[int | None, ...]  # None: dynamic
    lower: tuple[int, ...]  # the least admitted size of each axis
    upper: tuple[int | None, ...]
    dtype: torch.dtype


def read_exported(
    path: Path,
    *,
    input_shape: tuple[int, ...] | None = None,
    input_name: str | None = None,
    output_name: str | None = None,
    seconds: float = 60.0,
) -> Source:
    """Dynamic axes take the shape given, else their lowest admitted size.

    Raises UnreadableError, RefusedModel or UsageError. `seconds`: for each run of the file's code.
    """
    archive = open_archive(path)
    model = scan(archive)
    entry = _input(path, model, input_name)
    shape, warnings = _shape(path, entry, input_shape)
    example = torch.zeros(shape, dtype=entry.dtype)
    copy = _rebuilt(archive, model, example)
    with quiet():
        for part in ("torch.export._trace", "torch.export.pt2_archive._package"):
            importlib.import_module(part)  # here, rather than in the child and out of its time limit
        guarded(_load, copy, path, seconds=seconds, what=f"{path}: loading", error=UnreadableError)
        program = _load(copy, path)
        module: torch.nn.Module = program.module()
    if output_name is not None:
        module = Pick(module, output_name)

    def run(points: np.ndarray, kind: torch.dtype) -> np.ndarray:
        calls = (_evaluate, program, points, kind, output_name)
        return guarded(*calls, seconds=seconds, what=f"{path}: evaluating the program")

    return Source(
        module=module,
        example=example,
        format="pt2",
        input_name=entry.name,
        output_name=output_name or "output",
        references=references("torch", run, example),
        warnings=warnings,
    )


def scan(archive: Archive) -> dict[str, Any]:
    """The program's JSON, all of it recognised. Raises UnreadableError for what could run code, or is damaged."""
    path = archive.path
    for name in archive.sizes:
        if name.startswith(_SAMPLES):
            _check_samples(archive, name)
    for folder in (_WEIGHTS, _CONSTANTS):
        _check_config(archive, folder)
    model = _json(archive, "models/model.json")
    _check_values(path, model, "models/model.json")
    for guard in model.get("guards_code") or ():
        if not set(re.findall(r"[A-Za-z_]\w*", _GUARDED.sub("", str(guard)))) <= _GUARD_WORDS:
            raise UnreadableError(f"{path}: guards_code would run {str(guard)[:80]!r} when loaded. Not loaded")
    if _at(path, model, "graph_module", "graph").get("custom_obj_values"):
        raise RefusedModel(f"{path}: the program holds custom objects, which lipcert does not load")
    for node in _at(path, model, "graph_module", "graph", "nodes"):
        target = str(node.get("target"))
        if not _TARGET.fullmatch(target):
            name = str(node.get("name"))
            raise RefusedModel(
                f"{path}: node {name} ({target[:80]}) is not a plain ATen operator. Not loaded", node=name
            )
    return model


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


def _check_config(archive: Archive, folder: str) -> None:
    name = f"{folder}model_{'weights' if folder == _WEIGHTS else 'constants'}_config.json"
    if folder + "model.pt" in archive.sizes:
        raise UnreadableError(
            f"{archive.path}: {folder}model.pt is pickled (an old format). Save it again with a newer torch"
        )
    config = _json(archive, name).get("config")
    if not isinstance(config, dict):
        raise UnreadableError(f"{archive.path}: {name} is damaged")
    for key, entry in config.items():
        where = f"{archive.path}: {folder}{key}"
        if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
            raise UnreadableError(f"{where} is marked use_pickle: loading it could run code. Not loaded")
        if not _FILE.fullmatch(str(entry.get("path_name"))) or not isinstance(entry.get("tensor_meta"), dict):
            raise UnreadableError(f"{where} is not a plain tensor ({str(entry.get('path_name'))[:60]})")
        if not _NAME.fullmatch(key) or f"{folder}{entry['path_name']}" not in archive.sizes:
            raise UnreadableError(f"{where} is damaged, or has no data")
        if archive.sizes[folder + entry["path_name"]] < _bytes_needed(where, entry["tensor_meta"]):
            raise UnreadableError(f"{where} has fewer bytes than its shape needs")


def _bytes_needed(where: str, meta: dict[str, Any]) -> int:
    """Up to the last entry that a tensor of this description reads."""
    try:
        sizes, strides = ([axis["as_int"] for axis in meta[key]] for key in ("sizes", "strides"))
        numbers = [*sizes, *strides, meta["storage_offset"]["as_int"]]
        itemsize = _dtype(meta["dtype"]).itemsize
    except (KeyError, TypeError) as problem:
        raise UnreadableError(f"{where}: its description is damaged") from problem
    if not all(type(number) is int and number >= 0 for number in numbers) or len(sizes) != len(strides):
        raise UnreadableError(f"{where}: its description is damaged")
    if 0 in sizes:
        return 0
    last = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    return (numbers[-1] + last + 1) * itemsize


def _dtype(number: int) -> torch.dtype:
    from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE  # the file stores the number of a dtype

    return _SERIALIZE_TO_TORCH_DTYPE[number]


def _check_values(path: Path, value: Any, where: str) -> None:
    """Names are words and expressions are arithmetic on symbols, everywhere in the JSON."""
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        key, value = stack.pop()
        if isinstance(value, dict):
            stack += value.items()
            if key in ("tensor_values", "range_constraints", "sym_int_values", "sym_bool_values", "sym_float_values"):
                stack += [("name", name) for name in value]
        elif isinstance(value, list):
            stack += [("name" if key == "forward_arg_names" else key, item) for item in value]
        elif isinstance(value, str):
            if key == "expr_str" and not _EXPRESSION.fullmatch(value):
                raise UnreadableError(f"{path}: {where}: the shape {value[:80]!r} is not plain arithmetic. Not loaded")
            if key in _NAME_KEYS and not _NAME.fullmatch(value):
                raise UnreadableError(f"{path}: {where}: {value[:80]!r} is not a name. Not loaded")


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


def _at(path: Path, value: Any, *keys: str) -> Any:
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            raise UnreadableError(f"{path}: models/model.json has no {'.'.join(keys)}")
        value = value[key]
    return value


def _input(path: Path, model: dict[str, Any], input_name: str | None) -> _Input:
    """The one user input of the program: name, sizes with their ranges, dtype."""
    specs = _at(path, model, "graph_module", "signature", "input_specs")
    names = [spec["user_input"]["arg"].get("as_tensor", {}).get("name") for spec in specs if "user_input" in spec]
    if input_name is not None and input_name not in names:
        raise UsageError(f"{path}: --input-name {input_name}: the program takes {names}")
    if len(names) != 1 or names[0] is None:
        raise UsageError(
            f"{path}: the program takes {len(names)} inputs ({names}); lipcert treats one tensor: wrap the model"
        )
    meta = _at(path, model, "graph_module", "graph", "tensor_values")[names[0]]
    ranges = model.get("range_constraints", {})
    sizes: list[int | None] = []
    lower: list[int] = []
    upper: list[int | None] = []
    for size in meta["sizes"]:
        if "as_int" in size:
            sizes.append(size["as_int"])
            lower.append(size["as_int"])
            upper.append(size["as_int"])
            continue
        symbol = re.fullmatch(r"Symbol\('(\w+)'.*\)|(\w+)", size["as_expr"]["expr_str"])
        limits = ranges.get((symbol[1] or symbol[2]) if symbol else "", {})
        sizes.append(None)
        lower.append(max(1, limits.get("min_val") or 0))
        upper.append(limits.get("max_val"))
    dtype = _dtype(meta["dtype"])
    if not dtype.is_floating_point:
        raise RefusedModel(f"{path}: the input {names[0]} is {dtype}, not real-valued", node=names[0])
    return _Input(names[0], tuple(sizes), tuple(lower), tuple(upper), dtype)


def _shape(path: Path, entry: _Input, wanted: tuple[int, ...] | None) -> tuple[tuple[int, ...], tuple[str, ...]]:
    if wanted is None:
        free = [axis for axis, size in enumerate(entry.sizes) if size is None]
        said = (f"dynamic axes {free} of the input taken at their lowest size: {entry.lower}",) if free else ()
        return entry.lower, said
    admitted = ", ".join(
        str(size) if size is not None else f"{low}..{'' if high is None else high}"
        for size, low, high in zip(entry.sizes, entry.lower, entry.upper, strict=True)
    )
    fits = len(wanted) == len(entry.sizes) and all(
        low <= size and (high is None or size <= high)
        for size, low, high in zip(wanted, entry.lower, entry.upper, strict=True)
    )
    if not fits:
        raise UsageError(f"{path}: --input-shape {','.join(map(str, wanted))}: the program admits ({admitted})")
    return tuple(wanted), ()


def _rebuilt(archive: Archive, model: dict[str, Any], example: torch.Tensor) -> bytes:
    """The archive again, from checked parts only: without metadata of nodes, and with sample inputs of our own."""
    from torch.export.pt2_archive._package import PT2ArchiveWriter

    _onto_cpu(model)
    model["guards_code"] = []  # on shapes, which are fixed here
    for node in model["graph_module"]["graph"]["nodes"]:
        node["metadata"] = {}  # stack traces and module names: they end up in generated source code
        if node["target"] == "torch.ops.aten.detach_.default":
            node["target"] = "torch.ops.aten.detach.default"  # the same values; the former cannot be exported again
    samples, buffer = io.BytesIO(), io.BytesIO()
    torch.save(((example,), {}), samples)
    with PT2ArchiveWriter(buffer) as writer:
        writer.write_bytes("models/model.json", json.dumps(model).encode())
        writer.write_bytes(f"{_SAMPLES}model.pt", samples.getvalue())
        for folder in (_WEIGHTS, _CONSTANTS):
            name = f"{folder}model_{'weights' if folder == _WEIGHTS else 'constants'}_config.json"
            config = _json(archive, name)
            _onto_cpu(config)
            writer.write_bytes(name, json.dumps(config).encode())
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


def _load(copy: bytes, path: Path) -> ExportedProgram:
    try:
        return torch.export.load(io.BytesIO(copy))
    except Exception as problem:
        text = (str(problem).strip().splitlines() or ["no message"])[0]
        raise UnreadableError(f"{path}: torch.export.load: {type(problem).__name__}: {text}") from problem


def _evaluate(program: ExportedProgram, points: np.ndarray, dtype: torch.dtype, output_name: str | None) -> np.ndarray:
    module = program.module().to(dtype)
    return rows(lambda x: pick(module(x), output_name), points, dtype)
