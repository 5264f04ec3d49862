"""TorchScript: loaded from a copy of what was recognised in it (`script_archive`), traced on fake tensors.

A trace on fake tensors cannot bake values of data into the graph: whatever asks for one raises.
"""

from __future__ import annotations

import copy
import functools
import io
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import make_fx

from lipcert.load.archive import open_archive
from lipcert.load.call.arguments import one_type
from lipcert.load.call.joined import Joined, read_state
from lipcert.load.call.script import ScriptCall, script_call, widths
from lipcert.load.choose import choose
from lipcert.load.fingerprint import graph_fingerprint, quiet
from lipcert.load.inputs import NOTHING, Chosen, InputChoice, Part
from lipcert.load.original import references, rows
from lipcert.load.script_archive import rebuilt
from lipcert.load.source import Source
from lipcert.sandbox.child import step
from lipcert.terms.errors import LipcertError, RefusedModel, UnreadableError, UsageError, printable


def read_torchscript(path: Path, wanted: InputChoice = NOTHING, *, seconds: float = 60.0) -> Source:
    """`seconds`: for each run of the file's code.

    Raises UnreadableError, RefusedModel, or UsageError where a shape, a name or a value has to be given.
    """
    archive = rebuilt(open_archive(path))
    with quiet():
        with step(f"{path}: torch.jit.load", seconds, UnreadableError):
            module = torch.jit.load(io.BytesIO(archive), map_location="cpu").eval()
        kinds = [tensor.dtype for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()]
        with step(f"{path}: reading forward", seconds):
            call = script_call(path, module, wanted, kinds[0] if kinds else torch.float32)
        if not any(one.state for one in call.arguments.declared) and call.others:
            raise RefusedModel("forward writes to its own attributes, so it is not a function of its input alone")
        wanted, warnings = _with_first_shape(module, call, wanted)
        runs = functools.partial(_runs, path, module, call)
        chosen = choose(path, call.arguments.declared, wanted, runs=runs, widths=widths(module))
        example = torch.zeros(chosen.shape, dtype=one_type(path, chosen))
        joined = Joined(module, call.arguments, chosen, wanted.output, call.states, call.others)
        with step(f"{path}: tracing forward", seconds):
            traced = _traced(joined, example)

    def run(points: np.ndarray, kind: torch.dtype) -> np.ndarray:
        with step(f"{path}: evaluating forward", seconds):
            return _evaluate(joined, points, kind)

    kept = ", ".join(f"{printable(name)} = {printable(str(read_state(module, name)))}" for name in call.others)
    return Source(
        module=traced,
        example=example,
        format="torchscript",
        input_name=chosen.name,
        output_name=wanted.output or "output",
        references=references("torchscript", run, example),
        warnings=warnings,
        assumptions=chosen.notes + ((f"every call finds what the file stores: {kept}",) if kept else ()),
        inputs=chosen.described(),
    )


def _with_first_shape(module: Any, call: ScriptCall, wanted: InputChoice) -> tuple[InputChoice, tuple[str, ...]]:
    """The shape of the one tensor that moves, where the first layer tells it."""
    tensors = [one for one in call.arguments.declared if one.dims is None and not one.optional]
    if wanted.shapes or len(tensors) != 1:
        return wanted, ()
    shape, where = _shape_from_first_linear(module)
    if shape is None:
        return wanted, ()
    said = f"input shape {shape} taken from {where}; another one can be given with --input-shape"
    return replace(wanted, shapes={tensors[0].name: shape}), (said,)


def _runs(
    path: Path,
    module: Any,
    call: ScriptCall,
    shapes: Mapping[str, tuple[int, ...]],
    held: Mapping[str, torch.Tensor],
) -> bool:
    """Whether forward runs on zeros of these shapes."""
    kinds = {one.name: getattr(torch, one.dtype) for one in call.arguments.declared if one.name in shapes}
    parts = tuple(Part(name, shape, str(kinds[name]).removeprefix("torch.")) for name, shape in shapes.items())
    joined = Joined(module, call.arguments, Chosen(parts, held), states=call.states, others=call.others)
    try:
        with step(f"{path}: trying shapes", 20.0), torch.no_grad(), quiet():
            joined(torch.zeros(joined.chosen.shape, dtype=kinds[parts[0].name]))
    except UsageError:  # of its outputs: it runs
        return True
    except LipcertError:
        return False
    return True


def warm() -> None:
    """Tracing imports much of torch on first use."""
    _trace(torch.relu, torch.zeros(1))


def _trace(module: Any, example: torch.Tensor) -> torch.fx.GraphModule:
    """forward as a flat ATen graph. The input is cloned first: a module may change it in place."""

    def call(x: torch.Tensor) -> Any:
        return module(x.clone())

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
    found = {target: getattr(traced, target) for target in targets}
    if any(isinstance(tensor, FakeTensor) for tensor in found.values()):
        raise RefusedModel("forward takes a value out of the trace: it cannot be followed")
    return found


def _refuse_changed_state(module: Joined, example: torch.Tensor) -> None:
    """Gate 1 on the object itself, for it can name the buffer: one call may change nothing that the file stores."""
    before = {name: tensor.clone() for name, tensor in module.module.state_dict().items()}
    with torch.no_grad():
        module(example.clone())
    for name, tensor in module.module.state_dict().items():
        same = (tensor == before[name]) | (tensor.isnan() & before[name].isnan())
        if tensor.shape != before[name].shape or not bool(same.all()):
            raise RefusedModel(f"{name}: changed by every call, so the model is not a function of its input", node=name)


def _restore_names(traced: torch.fx.GraphModule, module: Joined) -> None:
    """Constants of the trace take the names they have in the file, for reports; the fingerprint does not see names."""
    inside = module.module
    names = {_key(tensor): name for name, tensor in (*inside.named_buffers(), *inside.named_parameters())}
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


def _traced(module: Joined, example: torch.Tensor) -> torch.fx.GraphModule:
    """The trace, where two are the same and no call changes the module."""
    _refuse_changed_state(module, example)
    first, second = (_trace(module, example) for _ in range(2))
    if graph_fingerprint(first.graph, _attributes(first)) != graph_fingerprint(second.graph, _attributes(second)):
        raise RefusedModel("two traces of forward differ: it is not a function of its input alone")
    _restore_names(first, module)
    return first


def _evaluate(module: Joined, points: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """On a copy in `dtype`: the trace holds the tensors of the module itself."""
    with quiet(), torch.no_grad():
        promoted = copy.deepcopy(module).to(dtype)
    return rows(promoted, points, dtype)


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
