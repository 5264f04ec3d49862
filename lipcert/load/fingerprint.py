"""One text for one graph: what gate 3 compares and what a certificate names. And silence for torch while it traces."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch


def graph_fingerprint(graph: torch.fx.Graph, constants: Mapping[str, torch.Tensor]) -> str:
    """sha256 over operators, arguments, dtypes and shapes in order, and the bytes of every constant that is used.

    `constants`: the stored tensor of each placeholder (by its name) or get_attr node (by its target). Names of nodes,
    modules and parameters do not enter.
    """
    number = {node: index for index, node in enumerate(graph.nodes)}
    digest = hashlib.sha256()
    for node in graph.nodes:
        line = [node.op, str(node.target) if node.op in ("call_function", "call_method", "call_module") else ""]
        line.append(_canonical((node.args, node.kwargs), number))
        line += _shown(node)
        key = node.target if node.op == "get_attr" else node.name
        if node.op in ("placeholder", "get_attr") and key in constants and node.users:
            line.append(_sha256(constants[key]))
        digest.update(("|".join(line) + "\n").encode())
    return digest.hexdigest()


def same_steps(
    first: torch.fx.Graph,
    held: Mapping[str, torch.Tensor],
    second: torch.fx.Graph,
    held_too: Mapping[str, torch.Tensor],
) -> bool:
    """The same operators on the same values in the same order, whatever the order and names of the constants.

    `held`, `held_too`: the stored tensor of each placeholder that has one. Their bytes are compared.
    """
    mate: dict[torch.fx.Node, torch.fx.Node] = {}
    back: dict[torch.fx.Node, torch.fx.Node] = {}

    def alike(a: Any, b: Any) -> bool:
        if isinstance(a, torch.fx.Node) and isinstance(b, torch.fx.Node):
            if a not in mate and b not in back and a.op == b.op == "placeholder" and _same_stored(a, held, b, held_too):
                mate[a], back[b] = b, a
            return mate.get(a) is b and back.get(b) is a
        if isinstance(a, tuple | list) and isinstance(b, tuple | list):
            return len(a) == len(b) and all(map(alike, a, b))
        return _canonical(a, {}) == _canonical(b, {})

    steps, others = ([node for node in graph.nodes if node.op != "placeholder"] for graph in (first, second))
    for a, b in zip(steps, others, strict=False):
        if (a.op, a.target) != (b.op, b.target) or _shown(a) != _shown(b) or list(a.kwargs) != list(b.kwargs):
            return False
        if not alike(a.args, b.args) or not alike(tuple(a.kwargs.values()), tuple(b.kwargs.values())):
            return False
        mate[a], back[b] = b, a
    return len(steps) == len(others)


def _same_stored(a: torch.fx.Node, held: Mapping[str, Any], b: torch.fx.Node, held_too: Mapping[str, Any]) -> bool:
    """Both the input, or constants of the same bytes."""
    x, y = held.get(a.name), held_too.get(b.name)
    if x is None or y is None:
        return x is y and _shown(a) == _shown(b)
    return x is y or _sha256(x) == _sha256(y)


def _shown(node: torch.fx.Node) -> list[str]:
    """Types and shapes of what a node gives."""
    values = node.meta.get("val")
    values = values if isinstance(values, tuple | list) else [values]
    return [f"{value.dtype}{list(value.shape)}" for value in values if isinstance(value, torch.Tensor)]


def _canonical(value: Any, number: dict[torch.fx.Node, int]) -> str:
    if isinstance(value, torch.fx.Node):
        return f"%{number[value]}"
    if isinstance(value, tuple | list):
        return "[" + ",".join(_canonical(item, number) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_canonical(value[key], number)}" for key in sorted(value)) + "}"
    if isinstance(value, float):
        return value.hex()
    return repr(value)


def _sha256(tensor: torch.Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    kind = f"{tensor.dtype}{list(tensor.shape)}"
    return kind + (hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest() if flat.numel() else "")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """torch's warnings and logs stay off the user's terminal; what matters is raised."""
    log = logging.getLogger("torch")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
