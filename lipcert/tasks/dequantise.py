"""A quantised ONNX file -> the file of its surrogate without rounding (`load/onnx/dequantised.py`), read in the sandbox."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lipcert.load.read import first_bytes
from lipcert.report.to_json import write_atomically
from lipcert.sandbox.child import Child
from lipcert.terms.errors import UnreadableError, UnwritableError
from lipcert.terms.files import reason
from lipcert.terms.printable import printable


@dataclass(frozen=True)
class Dequantised:
    """Of the file that was written; `quantisers`: how many roundings it leaves out."""

    sha256: str
    quantisers: int


def dequantise(path: Path, to: str | Path) -> Dequantised:
    """Writes the surrogate. Raises UnreadableError for what is no ONNX file, RefusedModel
    (the node named) where integers are read by more than their DequantizeLinear, UnwritableError."""
    if first_bytes(path).startswith(b"PK"):
        raise UnreadableError(f"{path}: surrogates are written of ONNX files")
    child = Child(_serve, path, readable=[path], what=printable(str(path)))
    try:
        child.start()
        found: Mapping[str, Any] = child.ask("surrogate")
        content, replaced = np.asarray(found["content"], dtype=np.uint8).tobytes(), int(found["replaced"])
    finally:
        child.close()
    try:
        write_atomically(content, to)
    except OSError as problem:
        raise UnwritableError(f"--to {to}: cannot write it: {reason(problem)}") from problem
    return Dequantised(hashlib.sha256(content).hexdigest(), replaced)


def _serve(path: Path) -> dict[str, Any]:
    from lipcert.load.onnx.dequantised import dequantised

    content, replaced = dequantised(path)
    return {"surrogate": lambda: {"content": np.frombuffer(content, dtype=np.uint8), "replaced": replaced}}
