"""Lowering: a captured ATen graph becomes an ir.Graph, by a whitelist of one rule per operator.

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

from lipcert.capture import constants as stored_tensors
from lipcert.errors import RefusedModel
from lipcert.ir import Graph
from lipcert.lower.affine import AFFINE
from lipcert.lower.builder import Builder, Signal
from lipcert.lower.constants import ARITHMETIC, Constant
from lipcert.lower.layout import LAYOUT, move_constant
from lipcert.lower.nonlinear import NONLINEAR, Unread

if TYPE_CHECKING:
    from torch.export import ExportedProgram

RULES: dict[str, Callable[..., Any]] = LAYOUT | AFFINE | NONLINEAR

# On constants only: exact, or correctly rounded from exact whole numbers.
CREATORS = """full full_like arange.default arange.start arange.start_step scalar_tensor eye eye.m zeros ones zeros_like
ones_like empty.memory_format lift_fresh_copy detach clone alias _to_copy""".split()
WHOLE = """add.Tensor add.Scalar sub.Tensor sub.Scalar mul.Tensor mul.Scalar neg abs eq.Scalar eq.Tensor ne.Scalar ne.Tensor
lt.Scalar lt.Tensor le.Scalar le.Tensor gt.Scalar gt.Tensor ge.Scalar ge.Tensor logical_not logical_and logical_or
bitwise_not bitwise_and.Tensor bitwise_or.Tensor floor_divide remainder.Scalar remainder.Tensor sum sum.dim_IntList cumsum
maximum minimum where.self where.ScalarOther where.ScalarSelf max min amax amin any any.dim all all.dim nonzero argsort
sort floor ceil round trunc sign div.Tensor_mode""".split()


def _name(short: str) -> str:
    return f"aten.{short}" if "." in short else f"aten.{short}.default"


_CREATES = {_name(short) for short in CREATORS}
_WHOLE = {_name(short) for short in WHOLE}
_ROUNDS = {
    _name(short) for short in ("cumsum", "remainder.Scalar", "remainder.Tensor", "floor_divide", "div.Tensor_mode")
}


def lower(
    program: ExportedProgram, output_name: str = "output", labels: Mapping[str, str] | None = None
) -> tuple[Graph, tuple[str, ...]]:
    """The graph of one float input and one float output, and the assumptions that its rules made.

    Raises RefusedModel naming the node for anything that no rule claims.
    """
    stored = stored_tensors(program)
    names = node_names(program, labels or {})
    values: dict[FxNode, Any] = {}
    builder: Builder | None = None
    for node in program.graph.nodes:
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
            return builder.graph(_as_signal(builder, outputs[0])), tuple(builder.assumptions)
        else:
            raise RefusedModel(f"node {node.name}: {node.op} is not part of an exported graph", node=node.name)
    raise RefusedModel("the exported graph has no output")


def node_names(program: ExportedProgram, labels: Mapping[str, str]) -> dict[FxNode, str]:
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
    bad = ~torch.isfinite(exact)
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
    kwargs = {key: v for key, v in kwargs.items() if key not in _HARMLESS}
    if (unread := _unread(rule, args, kwargs)) is not None:
        b.refuse(f"{name} with arguments that its rule does not read: {unread}")
    _empty(b, node)
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


_CHOOSE = {f"aten.{name}" for name in ("where.self", "where.ScalarOther", "where.ScalarSelf",
           "masked_fill.Scalar", "masked_fill.Tensor")}  # fmt: skip
_HARMLESS = {"memory_format", "layout", "device", "pin_memory", "non_blocking", "copy"}


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


def _floats(value: Any) -> bool:
    return isinstance(value, Constant | float) or (isinstance(value, list) and any(_floats(v) for v in value))


def _constant_call(b: Builder, node: FxNode, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    result = node.meta.get("val")
    float_result = isinstance(result, Tensor) and result.dtype.is_floating_point
    if isinstance(result, Tensor) and result.numel() > 2**28:
        b.refuse(f"a constant of {result.numel()} entries is over the limit of {2**28}")
    if name in _CREATES:
        return _create(node, name, args, kwargs, float_result)
    if name in ARITHMETIC and float_result:
        if (unread := _unread(ARITHMETIC[name], args[1:], kwargs)) is not None:
            b.refuse(f"{name} with arguments that its rule on constants does not read: {unread}")
        return b.finite(ARITHMETIC[name](*args, **kwargs))
    if name in LAYOUT and name not in _CHOOSE:
        if _floats(args[0]) or any(isinstance(a, Constant) for a in args):
            if name in ("aten._to_copy.default", "aten.clone.default"):
                return args[0]
            plain = {key: v for key, v in kwargs.items() if key not in _HARMLESS}
            return move_constant(name, args, plain)
        return node.target(*args, **{k: v for k, v in kwargs.items() if k not in ("device", "layout", "pin_memory")})  # type: ignore[operator]
    if name in _WHOLE and not (float_result and name in _ROUNDS):
        return _whole(node, args, kwargs)
    b.refuse(f"no rule for {name} on constants")


def _create(node: FxNode, name: str, args: list[Any], kwargs: dict[str, Any], float_result: bool) -> Any:
    first = args[0] if args else None
    if isinstance(first, Constant) and name.split(".")[1] in (
        "_to_copy",
        "clone",
        "detach",
        "alias",
        "lift_fresh_copy",
    ):
        dtype = kwargs.get("dtype")
        if dtype is None or dtype.is_floating_point:
            return first  # float to float: the stored coefficient itself, as in real arithmetic
        if first.radius is not None:
            raise RefusedModel("a computed constant is cast to integers")
        return first.centre.to(dtype)
    plain = [a.centre if isinstance(a, Constant) else a for a in args]
    keywords = {k: v for k, v in kwargs.items() if k not in ("device", "layout", "pin_memory", "memory_format")}
    if float_result:
        keywords["dtype"] = torch.float64
    value = node.target(*plain, **keywords)  # type: ignore[operator]
    return Constant(value) if value.dtype.is_floating_point else value


def _whole(node: FxNode, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Whole numbers and comparisons of exact constants: torch's own result, exact."""

    def bare(value: Any) -> Any:
        if isinstance(value, Constant):
            if value.radius is not None:
                raise RefusedModel(f"{node.target} of a computed constant")
            return value.centre
        return [bare(v) for v in value] if isinstance(value, list) else value

    value = node.target(*(bare(a) for a in args), **kwargs)  # type: ignore[operator]

    def wrap(result: Any) -> Any:
        if isinstance(result, tuple | list):
            return [wrap(r) for r in result]
        return Constant(result) if isinstance(result, Tensor) and result.dtype.is_floating_point else result

    return wrap(value)
