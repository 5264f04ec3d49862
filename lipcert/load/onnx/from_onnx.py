"""ONNX file -> Source. The protobuf is read by onnx_file, the operators by onnx_ops, the module is onnx_module."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto

from lipcert.load.inputs import InputChoice
from lipcert.load.onnx.choice import expose
from lipcert.load.onnx.file import OnnxGraph, looks_like_onnx, read_graph
from lipcert.load.onnx.module import OnnxModule, build
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
    TensorProto.INT16: np.int16,
    TensorProto.INT8: np.int8,
    TensorProto.BOOL: np.bool_,
}
_RUNTIME = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}


def read_onnx(
    path: Path,
    *,
    input_shape: Any = None,
    input_name: Any = None,
    output_name: str | None = None,
    fix: Mapping[str, Any] | None = None,
    reader: Literal["own", "onnx2torch"] = "own",
    imports: bool = True,
) -> Source:
    """The network of an ONNX file, over the reals: weights of every float type promoted exactly to float64.

    `input_shape` is needed where the file leaves sizes open (a leading batch axis alone is set to 1); names choose
    among several inputs or outputs; `fix` holds others. `imports`: see `build`. Raises UnreadableError, UsageError, or RefusedModel with the
    node's name.
    """
    wanted = InputChoice.of(input_shape, input_name, output_name, fix)
    graph = read_graph(path, wanted, functools.partial(_runs, path))
    shape = graph.chosen.shape
    module: torch.nn.Module
    notes: tuple[str, ...] = ()
    types = graph.float_types
    if reader == "onnx2torch":
        from lipcert.load.onnx.from_onnx2torch import convert

        if len(graph.chosen.parts) > 1:
            raise UsageError("--reader onnx2torch: it reads models of which one input moves; leave it out")
        module = convert(graph, shape)
    else:
        built = build(graph, imports)
        module, notes, types = built.module, built.assumptions, built.signal_types
    references, warnings = reference(path, graph, shape, types)
    if isinstance(module, OnnxModule):
        references = tuple(replace(r, rounding=_rounding(module, r.dtype)) for r in references)
    return Source(
        module=module,
        example=torch.zeros(shape, dtype=torch.float64),
        format="onnx",
        input_name=",".join(shown(part.name) for part in graph.chosen.parts),
        output_name=shown(graph.raw_output),
        references=references,
        warnings=warnings,
        assumptions=graph.chosen.notes + notes,
        ours=isinstance(module, OnnxModule),
        files=graph.files,
        inputs=graph.chosen.described() | ({"surrogate": graph.surrogate} if graph.surrogate else {}),
    )


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
    if strange := [kind for kind in graph.input_types if kind not in _NUMPY]:
        return (), (f"onnxruntime cannot be fed {type_name(strange[0])}: the file was not compared with it",)
    evaluate = _runtime(path, graph, shape)
    try:
        evaluate(np.zeros((1, *shape)))
    except (LipcertError, MemoryError) as error:
        return (), (f"the file was not compared with onnxruntime, which cannot run it ({str(error).splitlines()[0]})",)
    coarsest = min(types | set(graph.input_types), key=FLOAT_BITS.__getitem__)
    return (
        Reference(
            "onnxruntime",
            evaluate,
            {"float": "float32", "double": "float64"}.get(type_name(coarsest), type_name(coarsest)),
            definition=_definition(path, graph, shape),
        ),
    ), ()


def _feed(graph: OnnxGraph, row: np.ndarray) -> dict[str, np.ndarray]:
    """All that a runtime wants: x in its parts, what is held, zeros for what nothing depends on."""
    fed = {
        name: value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
        for name, value in graph.fed.items()
    }
    types = dict(zip((part.name for part in graph.chosen.parts), graph.input_types, strict=True))
    return fed | {name: part.astype(_NUMPY[types[name]]) for name, part in graph.chosen.split(row).items()}


def _runs(path: Path, shapes: Mapping[str, tuple[int, ...]], held: Mapping[str, torch.Tensor]) -> bool:
    """Whether onnxruntime evaluates the file on zeros of these shapes; True where it is not there to ask."""
    try:
        onnxruntime()
        feed = {name: value.numpy() for name, value in held.items()}
        with step(f"{path}: trying shapes", 20.0):
            session = _session(path)
            types = {value.name: _RUNTIME.get(value.type) for value in session.get_inputs()}
            session.run(None, feed | {name: np.zeros(shape, types[name]) for name, shape in shapes.items()})
    except ImportError:
        return True
    except LipcertError:
        return False
    return True


@functools.cache
def _session(path: Path, output: str | None = None) -> Any:
    """`output`: a tensor that is handed out too, should it lie inside the graph."""
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # the file, not a rewriting of it
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    if output is None or output in [value.name for value in session.get_outputs()]:
        return session
    model = onnx.load(path)
    expose(model.graph, output)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _definition(path: Path, graph: OnnxGraph, shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """The file by the operators of onnx's own evaluator: slow, in numpy, and by the letter. NaN where it has none."""

    def evaluate(rows: np.ndarray) -> np.ndarray:
        from onnx.reference import ReferenceEvaluator

        points = np.asarray(rows, dtype=np.float64).reshape(-1, *shape)
        try:
            with step("onnx's reference evaluator", 60.0), np.errstate(all="ignore"):
                run: Callable[..., Any] = ReferenceEvaluator(str(path)).run
                feeds = [_feed(graph, row) for row in points]
                return np.stack([np.asarray(run([graph.raw_output], feed)[0], dtype=np.float64) for feed in feeds])
        except LipcertError:
            return np.full(len(points), np.nan)

    return evaluate


def _runtime(path: Path, graph: OnnxGraph, shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    def evaluate(rows: np.ndarray) -> np.ndarray:
        """(k, *input_shape) -> (k, *output_shape), float64."""
        outputs = []
        with step(f"{path}: comparing with onnxruntime", 60.0):
            for row in np.asarray(rows, dtype=np.float64).reshape(-1, *shape):
                result = _session(path, graph.raw_output).run([graph.raw_output], _feed(graph, row))
                outputs.append(np.asarray(result[0], dtype=np.float64))
            return np.stack(outputs)

    return evaluate
