"""One door for every model: the reader is chosen by what a file holds, never by its name."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from lipcert.load.archive import open_archive
from lipcert.load.inputs import InputChoice
from lipcert.load.source import Source
from lipcert.terms.errors import UnreadableError, UsageError

_ZIP = b"PK"
_PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")

Kind = Literal["onnx", "torchscript", "pt2"]

_HOW_TO_EXPORT = (
    "It holds pickled Python objects, which run code when loaded. In the program that made it, export the model: "
    "torch.onnx.export(model, x, 'model.onnx'), or torch.export.save(torch.export.export(model, (x,)), 'model.pt2')"
)


def read(
    path_or_module: str | Path | torch.nn.Module,
    *,
    input_shape: Any = None,
    input_name: Any = None,
    output_name: str | None = None,
    fix: Mapping[str, Any] | None = None,
    reader: Literal["own", "onnx2torch"] = "own",
    seconds: float = 60.0,
    imports: bool = True,
) -> Source:
    """`input_shape`: whole shape, batch included, for models that do not fix it (a tensor: its shape and dtype),
    or such shapes by the names of inputs. `input_name`: A, or "A,B" for several that move together. `fix`: values of others.

    `reader`: for ONNX. `seconds`: limit for each run of code that comes with a file. `imports`: False where what is not
    imported yet cannot be (ONNX; `Unfollowed` is raised then).
    Raises UnreadableError, UsageError or RefusedModel.
    """
    if isinstance(path_or_module, torch.nn.Module) and not isinstance(path_or_module, torch.jit.ScriptModule):
        from lipcert.load.from_module import read_module

        return read_module(
            path_or_module, input_shape=input_shape, input_name=input_name, output_name=output_name, fix=fix
        )
    if not isinstance(path_or_module, str | Path):
        raise UsageError(
            f"{type(path_or_module).__name__}: lipcert reads a path or a torch.nn.Module (save TorchScript to a file)"
        )
    path = Path(path_or_module)
    shape = tuple(input_shape.shape) if isinstance(input_shape, torch.Tensor) else input_shape
    wanted = InputChoice.of(shape, input_name, output_name, fix)
    kind = kind_of(path)
    if reader != "own" and kind != "onnx":
        raise UsageError(f"--reader {reader}: {path} is a {kind} file; there is one reader for it")
    if kind == "torchscript":
        from lipcert.load.from_torchscript import read_torchscript

        return read_torchscript(path, wanted, seconds=seconds)
    if kind == "pt2":
        from lipcert.load.from_exported import read_exported

        return read_exported(path, wanted, seconds=seconds)
    from lipcert.load.onnx.from_onnx import read_onnx

    return read_onnx(
        path,
        input_shape=shape,
        input_name=input_name,
        output_name=output_name,
        fix=fix,
        reader=reader,
        imports=imports,
    )


def first_bytes(path: Path) -> bytes:
    """Of a file that is one. Raises UnreadableError for what is absent, unreadable, empty, a pipe, a device or a folder."""
    try:
        # without O_NONBLOCK, opening a pipe would wait for somebody to write into it
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            mode = os.fstat(file.fileno()).st_mode
            head = file.read(64) if stat.S_ISREG(mode) else None
    except (OSError, ValueError) as problem:  # ValueError: a null character in the path
        raise UnreadableError(f"{path}: {getattr(problem, 'strerror', None) or problem}") from problem
    if head is None:
        raise UnreadableError(f"{path}: a pipe or a device, not a file. Save the model to a file first")
    if not head:
        raise UnreadableError(f"{path}: the file is empty")
    return head


def kind_of(path: Path) -> Kind:
    """By content. Raises UnreadableError for everything that lipcert does not read, saying what it is."""
    head = first_bytes(path)
    if head.startswith(_ZIP):
        return _kind_of_zip(path)
    if head.startswith(_PICKLE):
        raise UnreadableError(f"{path}: a file of torch.save from before torch 1.6, or a pickle. {_HOW_TO_EXPORT}")
    from lipcert.load.onnx.file import looks_like_onnx

    if looks_like_onnx(path):
        return "onnx"
    raise UnreadableError(f"{path}: neither ONNX nor TorchScript nor .pt2, judged by its content")


def _kind_of_zip(path: Path) -> Kind:
    names = open_archive(path).sizes
    if "archive_format" in names and any(name.startswith("models/") for name in names):
        return "pt2"
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return "torchscript"
    if "serialized_exported_program.json" in names:
        raise UnreadableError(f"{path}: a .pt2 file of torch before 2.8: save it again with torch.export.save")
    if "data.pkl" in names:
        raise UnreadableError(f"{path}: a pickled module or state dict, not a model file. {_HOW_TO_EXPORT}")
    raise UnreadableError(f"{path}: a zip archive that is neither TorchScript nor .pt2 (members: {_some(list(names))})")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
