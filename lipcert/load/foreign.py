"""A model file, read and captured in a child that can do nothing else; what comes back is data, judged here.

The child lives as long as the `Captured` that it gave: the references of its source (gate 5) are questions to it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lipcert.load.capture.capture import Captured, capture, constants
from lipcert.load.capture.gates import ELEMENT_LIMIT
from lipcert.load.capture.trace import Unfollowed, trace
from lipcert.load.fingerprint import graph_fingerprint, quiet
from lipcert.load.flat import from_plain, to_plain
from lipcert.load.inputs import described
from lipcert.load.read import first_bytes, read
from lipcert.load.runtime import onnxruntime
from lipcert.load.source import Format, Reference, Source
from lipcert.sandbox.child import Answer, Child
from lipcert.terms.clock import tick
from lipcert.terms.errors import RefusedModel, UnreadableError, printable

CAPTURE_SECONDS = 1800.0  # of torch.export on thousands of nodes; code of the file has its own limits
GIGABYTES = 16.0  # at most, and no more than this share of the machine: a file must not take it from others
SHARE = 0.7
_FORMATS: dict[str, Format] = {"onnx": "onnx", "torchscript": "torchscript", "pt2": "pt2"}
_ARITHMETIC = ("float16", "bfloat16", "float32", "float64")


class Elsewhere(torch.nn.Module):
    """Stands for a module that stays in the child."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RefusedModel("the module of a file is not held in this process")


def read_file(path: Path, **options: Any) -> Captured:
    """`options`: of `lipcert.load.read.read`. Raises UnreadableError, UsageError or RefusedModel, as reading and
    capture do; RefusedModel too where the child died or took too long."""
    archive = first_bytes(path).startswith(b"PK")
    quick = not archive and options.get("reader", "own") == "own"
    captured = _captured(path, options, archive, imports=False) if quick else None
    return captured or _captured(path, options, archive, imports=True)  # type: ignore[return-value]


def _captured(path: Path, options: dict[str, Any], archive: bool, imports: bool) -> Captured | None:
    """`imports`: with all that torch.export needs, seconds of imports; else None where the file turns out to need it."""
    _ready(archive)
    if imports:
        _ready_to_export(archive)
    child = Child(
        _serve,
        path,
        options,
        imports,
        readable=[path] if archive else [path, path.parent],  # ONNX may keep its weights in files beside it
        seconds=CAPTURE_SECONDS,
        gigabytes=_gigabytes(),
        what=printable(str(path)),
    )
    child.start()
    record = child.ask("record")
    if not imports and record is None:
        child.close()
        return None
    captured = _judged(record, child)
    weakref.finalize(captured, child.close)
    return captured


def _gigabytes() -> float:
    try:
        held = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (AttributeError, OSError, ValueError):
        return GIGABYTES
    return min(GIGABYTES, round(SHARE * held, 1))


@functools.cache
def _ready(archive: bool) -> None:
    """Import and try here, once, what every child would otherwise import again."""
    if archive:
        for name in ("lipcert.load.from_torchscript", "lipcert.load.from_exported"):
            importlib.import_module(name)
        return
    tick()  # each of these imports takes a good part of a second
    importlib.import_module("lipcert.load.onnx.from_onnx")
    tick()
    with contextlib.suppress(ImportError):
        onnxruntime()
    tick()
    with torch.no_grad():
        trace(torch.nn.ReLU(), torch.zeros(1, 2), imports=False)


@functools.cache
def _ready_to_export(archive: bool) -> None:
    from lipcert.load.capture.export import decomposed, exported

    relu, x = torch.nn.ReLU(), torch.zeros(1, 2)
    with quiet(), torch.no_grad():
        exported(relu, x, users=False)
        decomposed(torch.export.export(relu, (x,), strict=False))
        if archive:
            from lipcert.load.from_torchscript import warm

            warm()


# In the child


def _serve(path: Path, options: dict[str, Any], imports: bool) -> dict[str, Answer]:
    """`imports`: whether what is not imported yet can be; where not, `record` may be None."""
    with quiet(), torch.no_grad():
        try:
            source = read(path, imports=imports, **options)
            captured = capture(source, imports)
        except Unfollowed:
            return {"record": lambda: None}
    return {
        "record": lambda: _record(captured),
        "evaluate": lambda number, points: source.references[number].evaluate(points),
        "rounding": lambda number, points: (source.references[number].rounding or _unknown)(points),
        "definition": lambda number, points: (source.references[number].definition or _nothing)(points),
    }


def _unknown(points: np.ndarray) -> float:
    return 0.0


def _nothing(points: np.ndarray) -> np.ndarray:
    return np.full(len(points), np.nan)


def _record(captured: Captured) -> dict[str, Any]:
    source = captured.source
    return {
        "program": to_plain(captured.program.graph, constants(captured.program)),
        "labels": dict(captured.labels),
        "dtype": str(source.example.dtype).removeprefix("torch."),
        "shape": list(source.example.shape),
        "format": source.format,
        "input_name": source.input_name,
        "output_name": source.output_name,
        "references": [[r.name, r.dtype, r.rounding is not None, r.definition is not None] for r in source.references],
        "warnings": list(source.warnings),
        "assumptions": list(source.assumptions),
        "files": list(source.files),
        "inputs": dict(source.inputs),
    }


# In the parent


def _judged(record: Any, child: Child) -> Captured:
    """A child that was taken over can at most describe another model."""
    try:
        program = from_plain(record["program"])
        kinds = {name: getattr(torch, name) for name in _ARITHMETIC}
        references = tuple(_reference(child, number, *said) for number, said in enumerate(record["references"]))
        source = Source(
            module=Elsewhere(),
            example=torch.zeros(_shape(record["shape"]), dtype=kinds[record["dtype"]]),
            format=_FORMATS[record["format"]],
            input_name=_text(record["input_name"]),
            output_name=_text(record["output_name"]),
            references=references,
            warnings=tuple(_text(line) for line in record["warnings"]),
            assumptions=tuple(_text(line) for line in record["assumptions"]),
            files=tuple(str(name) for name in record["files"]),
            inputs=described(record["inputs"]),
        )
        labels = {_text(step): _text(name) for step, name in record["labels"].items()}
        fingerprint = graph_fingerprint(program.graph, program.constants)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as problem:
        child.close()
        raise UnreadableError(f"{child.what}: the process that read it described no model") from problem
    return Captured(program, fingerprint, source, labels)


def _reference(child: Child, number: int, name: str, dtype: str, measured: bool, defined: bool) -> Reference:
    def evaluate(points: np.ndarray) -> np.ndarray:
        return np.asarray(child.ask("evaluate", number, points), dtype=np.float64)

    def rounding(points: np.ndarray) -> float:
        return float(child.ask("rounding", number, points))

    def definition(points: np.ndarray) -> np.ndarray:
        return np.asarray(child.ask("definition", number, points), dtype=np.float64)

    if dtype not in _ARITHMETIC:
        raise ValueError(dtype)
    measure, define = (rounding if measured is True else None), (definition if defined is True else None)
    return Reference(_text(name), evaluate, dtype, measure, define)


def _shape(sizes: list[int]) -> list[int]:
    if not all(type(size) is int and size >= 0 for size in sizes) or math.prod(sizes) > ELEMENT_LIMIT:
        raise ValueError(sizes)
    return sizes


def _text(value: str) -> str:
    return printable(value)[:10_000]
