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
        values = node.meta.get("val")
        values = values if isinstance(values, tuple | list) else [values]
        line += [f"{value.dtype}{list(value.shape)}" for value in values if isinstance(value, torch.Tensor)]
        key = node.target if node.op == "get_attr" else node.name
        if node.op in ("placeholder", "get_attr") and key in constants and node.users:
            line.append(_sha256(constants[key]))
        digest.update(("|".join(line) + "\n").encode())
    return digest.hexdigest()


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
