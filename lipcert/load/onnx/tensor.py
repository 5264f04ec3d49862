"""Tensors of an ONNX file as torch tensors: shape checked against the data before anything is allocated.

Floats of every width become float64 without rounding. External data is read only from inside the model's folder.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import GraphProto, TensorProto

from lipcert.terms.errors import RefusedModel, UnreadableError

MAX_WEIGHTS = 2**33  # bytes of constants, external data included

# Every value becomes one of these without rounding: all floats widen to float64.
TORCH_TYPE: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float64,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float64,
    TensorProto.BFLOAT16: torch.float64,
    TensorProto.BOOL: torch.bool,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
}
# Significand bits of the float types, to tell a widening cast (exact) from a narrowing one.
FLOAT_BITS: dict[int, int] = {
    TensorProto.BFLOAT16: 8,
    TensorProto.FLOAT16: 11,
    TensorProto.FLOAT: 24,
    TensorProto.DOUBLE: 53,
}
# What a cast rounds to. To double nothing is rounded.
NARROW: dict[int, torch.dtype] = {
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.FLOAT: torch.float32,
}
_FIELD: dict[int, str] = {  # where a tensor that has no raw_data keeps its values (onnx.proto, TensorProto)
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
}


def shown(name: str) -> str:
    """The name as it may be printed: control characters and non-ASCII escaped, at most 120 characters."""
    text = name.encode("unicode_escape").decode("ascii")
    return text if len(text) <= 120 else text[:117] + "..."


def type_name(elem_type: int) -> str:
    return TensorProto.DataType.Name(elem_type).lower() if elem_type in TensorProto.DataType.values() else "unknown"


def read_constants(graph: GraphProto, folder: Path, labels: dict[str, str]) -> dict[str, torch.Tensor]:
    """The initialisers as torch tensors. In the proto, external data is replaced by a placeholder-free inline copy."""
    total = 0
    for tensor in graph.initializer:
        total += _declared_bytes(tensor, labels[tensor.name])
        if total > MAX_WEIGHTS:
            raise UnreadableError(f"more than {MAX_WEIGHTS} bytes of constants (at {labels[tensor.name]!r})")
    constants = {}
    for tensor in graph.initializer:
        constants[tensor.name] = tensor_value(tensor, folder, labels[tensor.name])
    return constants


def _declared_bytes(tensor: TensorProto, label: str) -> int:
    """Bytes that the declared shape asks for. Python integers, so nothing overflows and nothing is allocated."""
    count = 1
    for dim in tensor.dims:
        if dim < 0:
            raise UnreadableError(f"the tensor {label!r} has a negative dimension ({dim})")
        count *= dim
    if tensor.data_type not in TORCH_TYPE:
        raise RefusedModel(
            f"the tensor {label!r} has type {type_name(tensor.data_type)}, which lipcert does not read", node=label
        )
    return count * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize


def tensor_value(tensor: TensorProto, folder: Path | None, label: str) -> torch.Tensor:
    """The values of `tensor`, floats widened exactly to float64. External data becomes inline data in the proto.

    UnreadableError where the data does not match the declared shape or lies outside `folder`.
    """
    size = _declared_bytes(tensor, label)
    if tensor.HasField("segment"):
        raise UnreadableError(f"the tensor {label!r} is stored in segments, which lipcert does not read")
    if tensor.data_location == TensorProto.EXTERNAL:
        if folder is None:
            raise UnreadableError(f"the tensor {label!r}: external data is read for initialisers only")
        tensor.raw_data = _external(tensor, folder, label, size)
        tensor.ClearField("data_location")
        del tensor.external_data[:]
    width = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    if tensor.HasField("raw_data"):
        held, wanted, unit = len(tensor.raw_data), size, "bytes"
    else:
        held, wanted, unit = len(getattr(tensor, _FIELD.get(tensor.data_type, "int32_data"))), size // width, "values"
    if held != wanted:
        raise UnreadableError(
            f"the tensor {label!r} is declared {list(tensor.dims)} ({wanted} {unit}) but holds {held}"
        )
    array = onnx.numpy_helper.to_array(tensor)
    kind = TORCH_TYPE[tensor.data_type]
    array = array.astype(np.float64) if kind is torch.float64 else array
    return torch.from_numpy(np.array(array, order="C", copy=True)).to(kind).reshape(tuple(tensor.dims))


def external_files(graph: GraphProto) -> tuple[str, ...]:
    """Where the initialisers that are read lie, each once."""
    held = [t for t in graph.initializer if t.data_location == TensorProto.EXTERNAL]
    return tuple(dict.fromkeys(e.value for t in held for e in t.external_data if e.key == "location"))


def _external(tensor: TensorProto, folder: Path, label: str, size: int) -> bytes:
    """Bytes of an external tensor: a regular file inside the model's folder, offset and length inside that file."""
    entry = {e.key: e.value for e in tensor.external_data}
    location = entry.get("location", "")
    where = f"the tensor {label!r}: its data file {shown(location)!r}"
    if not location or "\0" in location or Path(location).is_absolute() or "\\" in location or ":" in location:
        raise UnreadableError(f"{where} is not a relative path; external data must lie in the model's folder")
    if ".." in Path(location).parts:
        raise UnreadableError(f"{where} leaves the model's folder")
    home = folder.resolve()
    path = (home / location).resolve()
    if not path.is_relative_to(home):
        raise UnreadableError(f"{where} leaves the model's folder through a link")
    if not path.is_file():
        raise UnreadableError(f"{where} is missing (looked in {shown(str(folder))})")
    try:
        offset, length = int(entry.get("offset", "0")), int(entry.get("length", str(size)))
    except ValueError:
        raise UnreadableError(f"{where}: offset or length is not a number") from None
    if offset < 0 or length != size or offset + length > path.stat().st_size:
        raise UnreadableError(
            f"{where} has {path.stat().st_size} bytes; offset {offset} and length {length} do not fit "
            f"the {size} bytes of its shape {list(tensor.dims)}"
        )
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(length)
    if len(data) != length:
        raise UnreadableError(f"{where} ended early")
    return data
