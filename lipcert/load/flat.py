"""A captured graph as plain data, and back: what crosses from the child that read a file to the process that lowers it.

The data can be wrong but not harmful: operators are looked up by name and never called here, values are numbers, words
and shapes, constants are bytes of a stated type. Lowering claims or refuses every node, as for any graph.
"""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.fx import Graph, Node

from lipcert.terms.errors import RefusedModel, UnreadableError, printable

MAX_NODES = 200_000
_ATEN = re.compile(r"(aten|prims)\.([A-Za-z_]\w{0,100})\.([A-Za-z_]\w{0,100})", re.ASCII)
_NAME = re.compile(r"[A-Za-z_]\w{0,1000}", re.ASCII)
_WORD = 1000  # characters of a name that is shown
_KINDS: dict[str, type] = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}


@dataclass(frozen=True, eq=False)
class FlatProgram:
    """`graph`: placeholders, calls of ATen operators and getitem, one output; shapes and dtypes in `meta["val"]`, on the
    meta device. `constants`: the stored tensor of each placeholder but the input, by its name."""

    graph: Graph
    constants: dict[str, torch.Tensor]


# To data


def to_plain(graph: Graph, constants: dict[str, torch.Tensor]) -> dict[str, Any]:
    number = {node: index for index, node in enumerate(graph.nodes)}
    tensors: list[dict[str, Any]] = []
    places: dict[tuple[Any, ...], int] = {}
    held: dict[str, int] = {}
    for name, tensor in constants.items():
        key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()) if tensor.numel() else (name,)
        if key not in places:
            places[key] = len(tensors)
            tensors.append(_tensor_to_plain(name, tensor))
        held[name] = places[key]
    return {"nodes": [_node_to_plain(node, number) for node in graph.nodes], "tensors": tensors, "constants": held}


def _node_to_plain(node: Node, number: dict[Node, int]) -> dict[str, Any]:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return {
        "op": node.op,
        "name": node.name,
        "target": "getitem" if node.target is operator.getitem else str(node.target),
        "args": _to_plain(node.args, number, node.name),
        "kwargs": _to_plain(dict(node.kwargs), number, node.name),
        "value": _shape_to_plain(node.meta.get("val")),
        "path": str(stack[-1][0]) if stack else "",
    }


def _to_plain(value: Any, number: dict[Node, int], where: str) -> Any:
    if isinstance(value, Node):
        return {"node": number[value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_to_plain(item, number, where) for item in value]
    if isinstance(value, dict):
        return {"keys": list(value), "values": [_to_plain(item, number, where) for item in value.values()]}
    if isinstance(value, torch.device):
        return {"device": "cpu"}
    for name, kind in _KINDS.items():
        if isinstance(value, kind):
            return {name: str(value).removeprefix("torch.")}
    raise RefusedModel(f"node {where}: an argument of type {type(value).__name__} is not treated", node=where)


def _shape_to_plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape)}
    if isinstance(value, list | tuple):
        return [_shape_to_plain(item) for item in value]
    return None


def _tensor_to_plain(name: str, tensor: torch.Tensor) -> dict[str, Any]:
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise RefusedModel(f"{name}: a {tensor.dtype} tensor of layout {tensor.layout} is not treated", node=name)
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    content = flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)
    return {**_shape_to_plain(tensor), "bytes": content}


# From data. A value that does not fit raises LookupError, TypeError or ValueError; `from_plain` tells it in one line.


def from_plain(data: Any) -> FlatProgram:
    """Raises UnreadableError where the data is no such graph."""
    try:
        return _from_plain(data)
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
        RuntimeError,
        AssertionError,
    ) as problem:
        raise UnreadableError(
            f"the process that read the model gave no graph ({printable(str(problem))[:200]})"
        ) from problem


def _from_plain(data: dict[str, Any]) -> FlatProgram:
    graph = Graph()
    nodes: list[Node] = []
    if not 0 < len(data["nodes"]) <= MAX_NODES:
        raise ValueError("too many nodes")
    for said in data["nodes"]:
        name, op = said["name"], said["op"]
        if op not in ("placeholder", "call_function", "output") or not _NAME.fullmatch(name):
            raise ValueError(f"a node {name!r} of kind {op!r}")
        target = _target(said["target"]) if op == "call_function" else name
        args = tuple(_value(item, nodes) for item in said["args"]) if op != "placeholder" else ()
        pairs = zip(said["kwargs"]["keys"], said["kwargs"]["values"], strict=True) if op == "call_function" else ()
        kwargs = {_word(key): _value(item, nodes) for key, item in pairs}
        node = graph.create_node(op, target, args, kwargs, name=name)
        node.name = name  # fx renames words of Python, for the sake of source code that is never made of this graph
        node.meta["val"] = _shape(said["value"])
        if path := printable(str(said["path"]))[:_WORD]:
            node.meta["nn_module_stack"] = {"": (path, None)}
        nodes.append(node)
    if len({node.name for node in nodes}) != len(nodes):
        raise ValueError("two nodes of one name")
    tensors = [_tensor(said) for said in data["tensors"]]
    inputs = {node.name for node in nodes if node.op == "placeholder"}
    constants = {name: tensors[_natural(place)] for name, place in data["constants"].items() if name in inputs}
    return FlatProgram(graph, constants)


def _target(name: str) -> Any:
    if name == "getitem":
        return operator.getitem
    found = _ATEN.fullmatch(name)
    if not found:
        raise ValueError(f"the operator {name!r}")
    overload = getattr(getattr(getattr(torch.ops, found[1]), found[2]), found[3])
    if not isinstance(overload, torch._ops.OpOverload) or str(overload) != name:
        raise ValueError(f"the operator {name!r}")
    return overload


def _value(said: Any, nodes: list[Node]) -> Any:
    if said is None or isinstance(said, bool | int | float | str):
        return said
    if isinstance(said, list):
        return [_value(item, nodes) for item in said]
    ((kind, value),) = said.items()
    if kind == "node":
        return nodes[_natural(value)]
    if kind == "device":
        return torch.device("cpu")
    return _named(kind, value)


def _named(kind: str, value: str) -> Any:
    found = getattr(torch, _word(value))
    if not isinstance(found, _KINDS[kind]):
        raise ValueError(f"the {kind} {value!r}")
    return found


def _shape(said: Any) -> Any:
    if isinstance(said, list):
        return tuple(_shape(item) for item in said)
    if said is None:
        return None
    return torch.empty([_natural(size) for size in said["shape"]], dtype=_named("dtype", said["dtype"]), device="meta")


def _tensor(said: dict[str, Any]) -> torch.Tensor:
    dtype, shape, content = _named("dtype", said["dtype"]), [_natural(size) for size in said["shape"]], said["bytes"]
    if not isinstance(content, np.ndarray) or content.dtype != np.uint8:
        raise TypeError("a constant without bytes")
    if content.size != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"a constant of shape {shape} with {content.size} bytes")
    if not content.size:
        return torch.empty(shape, dtype=dtype)
    raw = torch.from_numpy(content)
    return ((raw != 0) if dtype is torch.bool else raw.view(dtype)).reshape(shape)


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**40:
        raise ValueError(f"{value!r} where a size is wanted")
    return value


def _word(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("a word is wanted")
    return value
