"""TorchScript: loaded from a copy of what was recognised in it (`script_archive`), traced on fake tensors.

A trace on fake tensors cannot bake values of data into the graph: whatever asks for one raises.
"""

from __future__ import annotations

import copy
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from lipcert.load.archive import open_archive
from lipcert.load.fingerprint import graph_fingerprint, quiet
from lipcert.load.inputs import ALONE, NOTHING, InputChoice
from lipcert.load.original import references, rows
from lipcert.load.pick import pick
from lipcert.load.script_archive import rebuilt
from lipcert.load.source import Source
from lipcert.sandbox.child import step
from lipcert.terms.errors import LipcertError, RefusedModel, UnreadableError, UsageError


@dataclass(frozen=True)
class _Script:
    """What the file says before anything of it runs."""

    module: Any  # torch.jit.ScriptModule, eval mode, on the CPU
    input_name: str
    dtype: torch.dtype


def read_torchscript(path: Path, wanted: InputChoice = NOTHING, *, seconds: float = 60.0) -> Source:
    """`seconds`: for each run of the file's code.

    Raises UnreadableError, RefusedModel, or UsageError where a shape or a name has to be given.
    """
    archive = rebuilt(open_archive(path))
    wanted.alone(f"{path} (TorchScript)")
    input_shape, input_name, output_name = wanted.shapes.get(ALONE), wanted.names, wanted.output
    with quiet():
        script = _load(path, archive, input_name, seconds)
        warnings: tuple[str, ...] = ()
        if input_shape is None:
            input_shape, where = _shape_from_first_linear(script.module)
            if input_shape is None:
                raise UsageError(f"{path}: TorchScript does not record the input shape: give --input-shape")
            warnings = (f"input shape {input_shape} taken from {where}; another one can be given with --input-shape",)
        example = torch.zeros(input_shape, dtype=script.dtype)
        with step(f"{path}: tracing forward", seconds):
            traced = _traced(script.module, example, output_name)

    def run(points: np.ndarray, kind: torch.dtype) -> np.ndarray:
        with step(f"{path}: evaluating forward", seconds):
            return _evaluate(script.module, points, kind, output_name)

    return Source(
        module=traced,
        example=example,
        format="torchscript",
        input_name=script.input_name,
        output_name=output_name or "output",
        references=references("torchscript", run, example),
        warnings=warnings,
    )


def _load(path: Path, archive: bytes, input_name: str | None, seconds: float) -> _Script:
    with step(f"{path}: torch.jit.load", seconds, UnreadableError):
        module = torch.jit.load(io.BytesIO(archive), map_location="cpu").eval()
    arguments = list(module.forward.schema.arguments)[1:]
    tensors = [argument.name for argument in arguments if str(argument.type) == "Tensor"]
    required = [argument for argument in arguments if not argument.has_default_value()]
    listed = ", ".join(f"{argument.name} ({argument.type})" for argument in arguments)
    if input_name is not None and input_name not in tensors:
        raise UsageError(f"{path}: --input-name {input_name}: forward takes {listed or 'nothing'}")
    chosen = input_name or (tensors[0] if len(tensors) == 1 else None)
    if chosen is None:
        raise UsageError(f"{path}: forward takes {listed or 'nothing'}: lipcert treats one tensor; wrap the model")
    others = [argument.name for argument in required if argument.name != chosen]
    if others or (arguments and arguments[0].name != chosen):
        raise RefusedModel(
            f"{path}: forward takes {listed}; lipcert would have to invent the value of "
            f"{', '.join(others) or 'the others'}. Export a module that fixes it",
            node=(others or [arguments[0].name])[0],
        )
    kinds = [tensor.dtype for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()]
    return _Script(module, chosen, kinds[0] if kinds else torch.float32)


def warm() -> None:
    """Tracing imports much of torch on first use."""
    _trace(torch.relu, torch.zeros(1), None)


def _trace(module: Any, example: torch.Tensor, output_name: str | None) -> torch.fx.GraphModule:
    """forward as a flat ATen graph. The input is cloned first: a module may change it in place."""

    def call(x: torch.Tensor) -> Any:
        return pick(module(x.clone()), output_name)

    options: dict[str, Any] = {"tracing_mode": "fake", "_allow_non_fake_inputs": True}
    with (
        torch.no_grad(),
        torch.jit.optimized_execution(False),  # its optimiser would keep fake tensors as constants for the next run
        torch.backends.mkldnn.flags(enabled=False),  # oneDNN's recurrent layers are one opaque node
    ):
        try:
            return make_fx(call, pre_dispatch=True, **options)(example)  # keeps linear, pads and upsampling whole
        except LipcertError:
            raise
        except Exception:  # some attention code cannot be traced there; one level down the same operators come split
            try:
                return make_fx(call, **options)(example)
            except LipcertError:
                raise
            except Exception as problem:
                raise RefusedModel(f"forward cannot be traced: {_reason(problem)}") from problem


def _reason(problem: BaseException) -> str:
    """The cause and the line of the file's code; TorchScript's own message runs over a page."""
    text = str(problem)
    places = re.findall(r'File "(code/[^"]+)", line (\d+)', text)
    where = f" ({places[-1][0]}:{places[-1][1]})" if places else ""
    if "DataDependent" in type(problem).__name__ + text:
        return f"it branches on, or takes numbers out of, the values of a tensor{where}"
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    causes = [line for line in lines if re.match(r"(?:\w+\.)*\w*(?:Error|Exception)\b", line)]
    return f"{type(problem).__name__}{where}: {(causes or lines)[0]}"[:400]


def _attributes(traced: torch.fx.GraphModule) -> dict[str, torch.Tensor]:
    """Tensor of each get_attr node of the trace, by its target."""
    targets = {str(node.target) for node in traced.graph.nodes if node.op == "get_attr"}
    return {target: getattr(traced, target) for target in targets}


def _refuse_changed_state(module: Any, example: torch.Tensor) -> None:
    """Gate 1 on the object itself, for it can name the buffer: one call may change nothing that the file stores."""
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with torch.no_grad():
        module(example.clone())
    for name, tensor in module.state_dict().items():
        same = (tensor == before[name]) | (tensor.isnan() & before[name].isnan())
        if tensor.shape != before[name].shape or not bool(same.all()):
            raise RefusedModel(f"{name}: changed by every call, so the model is not a function of its input", node=name)


def _restore_names(traced: torch.fx.GraphModule, module: Any) -> None:
    """Constants of the trace take the names they have in the file, for reports; the fingerprint does not see names."""
    names = {_key(tensor): name for name, tensor in (*module.named_buffers(), *module.named_parameters())}
    for node in traced.graph.nodes:
        if node.op != "get_attr" or (key := _key(getattr(traced, node.target))) not in names:
            continue
        name = re.sub(r"\W", "_", names[key])
        if not hasattr(traced, name):
            traced.register_buffer(name, getattr(traced, node.target).detach())
        if _key(getattr(traced, name)) == key:
            node.target = name
    for unused in (set(dict(traced.named_buffers())) | set(dict(traced.named_parameters()))) - set(_attributes(traced)):
        delattr(traced, unused)
    traced.recompile()


def _key(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _traced(module: Any, example: torch.Tensor, output_name: str | None) -> torch.fx.GraphModule:
    """The trace, where two are the same and no call changes the module."""
    frozen = torch.jit.freeze(module, optimize_numerics=False)  # only read; it drops the branches for training
    if "prim::SetAttr" in str(frozen.graph):
        raise RefusedModel("forward writes to its own attributes, so it is not a function of its input alone")
    _refuse_changed_state(module, example)
    first, second = (_trace(module, example, output_name) for _ in range(2))
    if graph_fingerprint(first.graph, _attributes(first)) != graph_fingerprint(second.graph, _attributes(second)):
        raise RefusedModel("two traces of forward differ: it is not a function of its input alone")
    _restore_names(first, module)
    return first


def _evaluate(module: Any, points: np.ndarray, dtype: torch.dtype, output_name: str | None) -> np.ndarray:
    """On a copy in `dtype`: the trace holds the tensors of the module itself."""
    with quiet(), torch.no_grad():
        promoted = copy.deepcopy(module).to(dtype)
    return rows(lambda x: pick(promoted(x), output_name), points, dtype)


def _shape_from_first_linear(module: Any) -> tuple[tuple[int, ...] | None, str]:
    """(1, in_features) where the only thing that forward does with its input is a linear layer; else None."""
    graph = module.forward.inlined_graph if hasattr(module.forward, "inlined_graph") else module.inlined_graph
    inputs = list(graph.inputs())
    uses = inputs[1].uses()
    if len(uses) != 1 or uses[0].user.kind() != "aten::linear" or uses[0].offset != 0:
        return None, ""
    names: list[str] = []
    node = list(uses[0].user.inputs())[1].node()
    while node.kind() == "prim::GetAttr":
        names.insert(0, node.s("name"))
        node = next(node.inputs()).node()
    if node.kind() != "prim::Param" or not names:
        return None, ""
    weight = module
    for name in names:
        weight = getattr(weight, name)
    return (1, weight.shape[1]), ".".join(names)
