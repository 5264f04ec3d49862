"""ONNX file -> Source. The protobuf is read by onnx_file, the operators by onnx_ops, the module is onnx_module."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from onnx import TensorProto

from lipcert.load.onnx.file import OnnxGraph, looks_like_onnx, read_graph
from lipcert.load.onnx.module import MAX_ENTRIES, OnnxModule, build
from lipcert.load.onnx.tensor import FLOAT_BITS, shown, type_name
from lipcert.load.runtime import onnxruntime
from lipcert.load.source import Reference, Source
from lipcert.sandbox.child import step
from lipcert.terms.errors import LipcertError, UsageError

__all__ = ["looks_like_onnx", "read_onnx"]

NO_RUNTIME = (
    "onnxruntime is not installed: the file was not compared with it, so no second program confirms how lipcert read "
    "it. Where there is a build for this platform: pip install onnxruntime"
)
_NUMPY: dict[int, type] = {  # the types numpy can hand to onnxruntime
    TensorProto.FLOAT16: np.float16,
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.INT64: np.int64,
    TensorProto.INT32: np.int32,
    TensorProto.UINT8: np.uint8,
    TensorProto.BOOL: np.bool_,
}


def read_onnx(
    path: Path,
    *,
    input_shape: tuple[int, ...] | None = None,
    input_name: str | None = None,
    output_name: str | None = None,
    reader: Literal["own", "onnx2torch"] = "own",
    imports: bool = True,
) -> Source:
    """The network of an ONNX file, over the reals: weights of every float type promoted exactly to float64.

    `input_shape` is needed where the file leaves sizes open (a leading batch axis alone is set to 1); names choose
    among several inputs or outputs. `imports`: see `build`. Raises UnreadableError, UsageError, or RefusedModel with the
    node's name.
    """
    graph = read_graph(path, input_name, output_name)
    shape, assumptions = fixed_shape(graph, input_shape)
    module: torch.nn.Module
    notes: tuple[str, ...] = ()
    types = graph.float_types
    if reader == "onnx2torch":
        from lipcert.load.onnx.from_onnx2torch import convert

        module = convert(graph, shape)
    else:
        built = build(graph, shape, imports)
        module, notes, types = built.module, built.assumptions, built.signal_types
    references, warnings = reference(path, graph, shape, types)
    if isinstance(module, OnnxModule):
        references = tuple(replace(r, rounding=_rounding(module, r.dtype)) for r in references)
    return Source(
        module=module,
        example=torch.zeros(shape, dtype=torch.float64),
        format="onnx",
        input_name=shown(graph.raw_input),
        output_name=shown(graph.raw_output),
        references=references,
        warnings=warnings,
        assumptions=assumptions + notes,
        ours=isinstance(module, OnnxModule),
        files=graph.files,
    )


def fixed_shape(graph: OnnxGraph, given: tuple[int, ...] | None) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The input shape, and what was assumed to get it. UsageError where the file leaves it open."""
    name, dims = shown(graph.raw_input), graph.dims
    notes: tuple[str, ...] = ()
    declared = "?" if dims is None else ",".join(str(d) for d in dims)
    if given is not None:
        fits = dims is None or (
            len(given) == len(dims) and all(isinstance(d, str) or d == g for d, g in zip(dims, given, strict=True))
        )
        if not fits or any(g < 1 for g in given):
            raise UsageError(
                f"--input-shape {','.join(map(str, given))} does not fit the input {name!r}, declared [{declared}]"
            )
        shape = tuple(given)
    elif dims is None:
        raise UsageError(f"the file gives no shape for the input {name!r}: pass --input-shape, for example 1,3,32,32")
    else:
        if len(dims) > 1 and isinstance(dims[0], str) and not any(isinstance(d, str) for d in dims[1:]):
            notes = (f"the open first dimension of the input {name!r} is the batch, set to 1",)
            dims = (1, *dims[1:])
        if any(isinstance(d, str) for d in dims):
            raise UsageError(f"the input {name!r} has open dimensions [{declared}]: pass --input-shape")
        shape = tuple(int(d) for d in dims)
    if not 0 < math.prod(shape) <= MAX_ENTRIES:
        raise UsageError(f"the input {name!r} of shape {list(shape)} is empty or too large")
    return shape, notes


def _rounding(module: OnnxModule, dtype: str) -> Callable[[np.ndarray], float] | None:
    """How far the same operators in `dtype` are from float64: as far as any runtime, which adds up in another order."""
    if dtype != "float32":
        return None

    def measure(points: np.ndarray) -> float:
        rough = copy.deepcopy(module).to(torch.float32)
        for part in rough.order:
            held = {name: t.float() if t.is_floating_point() else t for name, t in part.node.held.items()}
            part.node.held.update(held)
        x = torch.from_numpy(points)
        try:
            with torch.no_grad():
                errors = [(rough(row.float()).double() - module(row)).abs().max() for row in x]
        except RuntimeError:  # an operator that makes float64 of its own
            return 0.0
        return float(torch.stack(errors).nan_to_num(0.0, 0.0).max()) if errors else 0.0

    return measure


# --- the same file in onnxruntime ----------------------------------------------------------------------------------


def reference(
    path: Path, graph: OnnxGraph, shape: tuple[int, ...], types: frozenset[int]
) -> tuple[tuple[Reference, ...], tuple[str, ...]]:
    """onnxruntime on the original file; or none and a warning that says why.

    `types`: element types of the floats that depend on the input; the coarsest is the arithmetic to compare in.
    """
    try:
        onnxruntime()
    except ImportError:
        return (), (NO_RUNTIME,)
    if graph.input_type not in _NUMPY:
        return (), (f"onnxruntime cannot be fed {type_name(graph.input_type)}: the file was not compared with it",)
    evaluate = _runtime(path, graph, shape)
    try:
        evaluate(np.zeros((1, *shape)))
    except (LipcertError, MemoryError) as error:
        return (), (f"the file was not compared with onnxruntime, which cannot run it ({str(error).splitlines()[0]})",)
    coarsest = min(types | {graph.input_type}, key=FLOAT_BITS.__getitem__)
    return (
        Reference(
            "onnxruntime",
            evaluate,
            {"float": "float32", "double": "float64"}.get(type_name(coarsest), type_name(coarsest)),
            definition=_definition(path, graph, shape),
        ),
    ), ()


def _others(graph: OnnxGraph) -> dict[str, np.ndarray]:
    return {
        name: np.zeros([d if isinstance(d, int) else 1 for d in dims], _NUMPY[kind])
        for name, (kind, dims) in graph.other_inputs.items()
        if kind in _NUMPY
    }


def _definition(path: Path, graph: OnnxGraph, shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """The file by the operators of onnx's own evaluator: slow, in numpy, and by the letter. NaN where it has none."""

    def evaluate(rows: np.ndarray) -> np.ndarray:
        from onnx.reference import ReferenceEvaluator

        others, points = _others(graph), np.asarray(rows, dtype=np.float64).reshape(-1, *shape)
        try:
            with step("onnx's reference evaluator", 60.0), np.errstate(all="ignore"):
                run: Callable[..., Any] = ReferenceEvaluator(str(path)).run
                feeds = [{**others, graph.raw_input: row.astype(_NUMPY[graph.input_type])} for row in points]
                return np.stack([np.asarray(run([graph.raw_output], feed)[0], dtype=np.float64) for feed in feeds])
        except LipcertError:
            return np.full(len(points), np.nan)

    return evaluate


def _runtime(path: Path, graph: OnnxGraph, shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    others = _others(graph)

    @functools.cache
    def session() -> Any:
        ort = onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # the file, not a rewriting of it
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def evaluate(rows: np.ndarray) -> np.ndarray:
        """(k, *input_shape) -> (k, *output_shape), float64."""
        outputs = []
        with step(f"{path}: comparing with onnxruntime", 60.0):
            for row in np.asarray(rows, dtype=np.float64).reshape(-1, *shape):
                feed = {**others, graph.raw_input: row.astype(_NUMPY[graph.input_type])}
                outputs.append(np.asarray(session().run([graph.raw_output], feed)[0], dtype=np.float64))
            return np.stack(outputs)

    return evaluate
