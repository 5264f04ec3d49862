"""Lowering: a captured ATen graph becomes a network.graph.Graph, by a whitelist of one rule per operator.

A value is a `Signal` (depends on the input), a `Constant` (float, with its enclosure), a plain tensor of integers or
booleans, or plain Python. What no rule claims is a refusal that names the node.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node as FxNode

from lipcert.load.capture.capture import constants as stored_tensors
from lipcert.load.lower import masks
from lipcert.load.lower.affine import AFFINE
from lipcert.load.lower.builder import Builder, Signal
from lipcert.load.lower.decisions import Decision
from lipcert.load.lower.expressions import fused
from lipcert.load.lower.folding import HARMLESS, LIMIT, fold
from lipcert.load.lower.layout import LAYOUT
from lipcert.load.lower.mixtures import with_mixtures
from lipcert.load.lower.nonlinear import NONLINEAR
from lipcert.load.lower.normalisations import with_norms, with_radials, with_variances
from lipcert.load.lower.pairs import with_pairs
from lipcert.load.lower.rewrite import tidied, troubled
from lipcert.load.lower.signals import Unread
from lipcert.network.graph import Graph
from lipcert.rigor.arithmetic import folding as executed_in  # `folding` is a file of this room
from lipcert.rigor.constants import Constant
from lipcert.rigor.rounding import all_finite
from lipcert.terms.clock import tick
from lipcert.terms.errors import RefusedModel

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from lipcert.load.flat import FlatProgram

RULES: dict[str, Callable[..., Any]] = LAYOUT | AFFINE | NONLINEAR

# On a signal these read the shape alone.
_LIKE = {f"aten.{name}.default" for name in "full_like zeros_like ones_like new_full new_zeros new_ones".split()}


def lower(
    program: ExportedProgram | FlatProgram, output_name: str = "output", labels: Mapping[str, str] | None = None
) -> tuple[Graph, tuple[str, ...]]:
    """The graph of one float input and one float output, and the assumptions that its rules made.

    Raises RefusedModel naming the node for anything that no rule claims.
    """
    stored = stored_tensors(program)
    names = node_names(program, labels or {})
    values: dict[FxNode, Any] = {}
    builder: Builder | None = None
    for node in program.graph.nodes:
        tick()
        if node.op == "placeholder":
            if node.name in stored:
                values[node] = _stored(node.name, stored[node.name])
            elif builder is not None:
                raise RefusedModel(f"the graph has a second input {node.name}", node=node.name)
            else:
                builder = Builder(tuple(node.meta["val"].shape), node.name)
                values[node] = builder.input
        elif node.op == "call_function":
            assert builder is not None
            builder.where = names[node]
            values[node] = _call(builder, node, values)
        elif node.op == "output":
            assert builder is not None
            builder.where = output_name
            outputs = [values[o] if isinstance(o, FxNode) else o for o in node.args[0]]
            if len(outputs) != 1:
                raise RefusedModel(f"the graph has {len(outputs)} outputs: choose one with --output-name")
            graph = builder.graph(_as_signal(builder, outputs[0]))
            # what a runtime evaluates is what the file says, not an equal expression
            return graph if executed_in() else simplified(graph), tuple(builder.assumptions)
        else:
            raise RefusedModel(f"node {node.name}: {node.op} is not part of an exported graph", node=node.name)
    raise RefusedModel("the exported graph has no output")


def simplified(graph: Graph) -> Graph:
    """An equal graph in which maxima and minima of the same entries are one block, expressions of one signal are rows and
    normalisations are blocks. But for the first, graphs that have finite slopes everywhere stay as they are."""
    graph = with_pairs(graph)
    if not troubled(graph):
        return graph
    return with_radials(fused(with_norms(tidied(with_mixtures(with_variances(tidied(graph)))))))


def node_names(program: ExportedProgram | FlatProgram, labels: Mapping[str, str]) -> dict[FxNode, str]:
    """What people call each node: the file's own name (`labels`, by the last part of the module path), else the path of
    the module that it comes from, else torch's name; with torch's name behind it where that is not unique."""
    found: dict[FxNode, str] = {}
    for node in program.graph.nodes:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path = str(stack[-1][0]) if stack else ""
        found[node] = labels.get(path.rpartition(".")[2]) or path or node.name
    uses = Counter(found.values())
    return {node: name if uses[name] == 1 else f"{name} ({node.name})" for node, name in found.items()}


def _as_signal(builder: Builder, value: Any) -> Signal:
    if isinstance(value, Signal):
        return value
    if isinstance(value, Constant):
        return builder.constant_node(builder.finite(value))
    if isinstance(value, Tensor) and not value.dtype.is_floating_point and value.dtype != torch.bool:
        return builder.constant_node(Constant(value.to(torch.float64)))
    if isinstance(value, Unread):
        builder.refuse(f"reads {value.what}", unbounded=value.steps)
    builder.refuse("the output is not a float tensor")


def _stored(target: str, tensor: Tensor) -> Any:
    tensor = tensor.detach().cpu()
    if tensor.is_complex() or tensor.layout != torch.strided or tensor.is_quantized:
        raise RefusedModel(f"{target}: a {tensor.dtype} tensor of layout {tensor.layout} is not treated", node=target)
    if not tensor.dtype.is_floating_point:
        return tensor
    exact = tensor.to(torch.float64)  # float16, bfloat16, float32 are subsets of float64
    if all_finite(exact):
        return Constant(exact)
    bad = ~torch.isfinite(exact) & (exact != masks.MINUS_INF)  # -inf is refused where anything but a softmax reads it
    if bool(bad.any()):
        kind = "NaN" if bool(exact.isnan().any()) else "infinity"
        raise RefusedModel(f"tensor {target} holds {kind}: no constant exists", node=target)
    return Constant(exact)


def _call(b: Builder, node: FxNode, values: dict[FxNode, Any]) -> Any:
    if node.target is operator.getitem:
        source, place = node.args
        assert isinstance(source, FxNode)
        assert isinstance(place, int)
        whole = values[source]
        return whole[place] if place < len(whole) else Unread(f"result {place} of {source}, which no rule claims")
    name = str(node.target)
    args = [_resolve(b, a, values) for a in node.args]
    if name in _LIKE and isinstance(args[0], Signal):
        args[0] = Constant(torch.zeros((), dtype=torch.float64).expand(args[0].shape))
    kwargs = {key: _resolve(b, a, values) for key, a in node.kwargs.items()}
    try:
        if _depends(args) or _depends(list(kwargs.values())):
            result = _signal_call(b, node, name, args, kwargs)
        else:
            result = _constant_call(b, node, name, args, kwargs)
    except RefusedModel as error:
        if error.node:
            raise
        text = f"node {b.where} ({name}): {error}"
        raise RefusedModel(text, node=b.where, unbounded=error.unbounded) from error
    _same_shapes(b, node.meta.get("val"), result)
    return result


def _signal_call(b: Builder, node: FxNode, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    rule = RULES.get(name)
    if rule is None:
        b.refuse(f"no rule for {name}: lipcert makes no claim about it")
    kwargs = {key: v for key, v in kwargs.items() if key not in HARMLESS}
    _refuse_infinite(b, name, [args, list(kwargs.values())])
    if (unread := _unread(rule, args, kwargs)) is not None:
        b.refuse(f"{name} with arguments that its rule does not read: {unread}")
    _empty(b, node)
    if any(isinstance(a, Decision) for a in args) and not name.startswith(("aten.logical_", "aten.bitwise_")):
        result = node.meta.get("val")  # arithmetic of booleans that stays boolean or whole is not that of 0 and 1
        if not (isinstance(result, Tensor) and result.dtype.is_floating_point):
            b.refuse(
                "compares the signal with a threshold: a step function of the input, whose outcome is computed with"
            )
    return rule(b, *args, **kwargs)


def _unread(rule: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> str | None:
    """Why the arguments do not fit the rule's own, or None."""
    try:
        inspect.signature(rule).bind(None, *args, **kwargs)
    except TypeError as error:
        return str(error)
    return None


def _same_shapes(b: Builder, said: Any, found: Any) -> None:
    """Every rule must produce the shape that torch recorded at the node."""
    if isinstance(found, list | tuple) and isinstance(said, list | tuple):
        for s, f in zip(said, found, strict=False):
            _same_shapes(b, s, f)
    elif (
        isinstance(said, Tensor)
        and isinstance(found, Signal | Constant | Tensor)
        and tuple(said.shape) != tuple(found.shape)
    ):
        b.refuse(f"was read as shape {tuple(found.shape)}, torch has {tuple(said.shape)}; please report it")


def _empty(b: Builder, node: FxNode) -> None:
    value = node.meta.get("val")
    if isinstance(value, Tensor) and math.prod(value.shape) > 2**28:
        b.refuse(f"a result of {math.prod(value.shape)} entries is over the limit of {2**28}")


def _resolve(b: Builder, argument: Any, values: dict[FxNode, Any]) -> Any:
    if isinstance(argument, FxNode):
        value = values[argument]
        if isinstance(value, Unread):
            b.refuse(f"reads {value.what}", unbounded=value.steps)
        return value
    if isinstance(argument, list | tuple):
        return [_resolve(b, a, values) for a in argument]
    return argument


def _depends(value: Any) -> bool:
    return isinstance(value, Signal) or (isinstance(value, list) and any(_depends(v) for v in value))


def _constant_call(b: Builder, node: FxNode, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    said = node.meta.get("val")
    for value in said if isinstance(said, list | tuple) else [said]:
        if isinstance(value, Tensor) and value.numel() > LIMIT:
            b.refuse(f"a constant of {value.numel()} entries is over the limit of {LIMIT}")
    _refuse_infinite(b, name, [args, list(kwargs.values())])
    recorded = [a.meta["val"] for a in node.all_input_nodes if isinstance(a.meta.get("val"), Tensor)]
    result = fold(node.target, args, kwargs, recorded, said)
    if isinstance(result, list):
        return [masks.checked(b, name, args, value) if isinstance(value, Constant) else value for value in result]
    return masks.checked(b, name, args, result) if isinstance(result, Constant) else result


def _refuse_infinite(b: Builder, name: str, arguments: list[Any]) -> None:
    if name not in masks.MOVES and masks.infinite(arguments):
        b.refuse("a constant is not finite (NaN, infinity or an overflow)")
