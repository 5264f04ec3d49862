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

from lipcert.load.capture import decompose
from lipcert.load.capture.capture import ELEMENT_LIMIT, Captured, capture, constants, quiet
from lipcert.load.fingerprint import graph_fingerprint
from lipcert.load.flat import from_plain, to_plain
from lipcert.load.read import first_bytes, read
from lipcert.load.runtime import onnxruntime
from lipcert.load.source import Format, Reference, Source
from lipcert.sandbox.child import Answer, Child
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
    _ready(archive)
    readable = [path] if archive else [path, path.parent]  # ONNX may keep its weights in files beside it
    child = Child(
        _serve,
        path,
        options,
        readable=readable,
        seconds=CAPTURE_SECONDS,
        gigabytes=_gigabytes(),
        what=printable(str(path)),
    )
    child.start()
    captured = _judged(child.ask("record"), child)
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
    else:
        with contextlib.suppress(ImportError):
            onnxruntime()
    with quiet(), torch.no_grad():
        torch.export.export(torch.nn.ReLU(), (torch.zeros(1, 2),), strict=False).run_decompositions(decompose.table())
        if archive:
            from lipcert.load.from_torchscript import warm

            warm()


# In the child


def _serve(path: Path, options: dict[str, Any]) -> dict[str, Answer]:
    with quiet(), torch.no_grad():
        source = read(path, **options)
        captured = capture(source)
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
