"""ONNX gathers, scatters and sorts. Indices are constants: an index that depends on the input is a step function."""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.load.onnx.node import OnnxNode, Op


def _indices(node: OnnxNode, position: int, size: int | Tensor) -> Tensor:
    """The constant index tensor, negative entries counted from the end, each inside `size`."""
    if not node.has(position):
        node.refuse("its indices are not constant", unbounded=node.on_data[position])

    def make() -> Tensor:
        raw = node.known[position]
        assert raw is not None
        index = raw.to(torch.int64)
        if bool(((index < -size) | (index >= size)).any()):
            node.refuse("an index is out of range")
        return torch.where(index < 0, index + size, index)

    return node.hold("index", make)


def _gather(node: OnnxNode, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.axis(node["axis"], x.dim())
    index = _indices(node, 1, x.shape[axis])
    if index.dim() == 0:
        return x.select(axis, int(node.ints(1, "indices")[0]))
    picked = torch.index_select(x, axis, index.reshape(-1) if index.dim() != 1 else index)
    if index.dim() == 1:
        return picked
    return picked.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _gather_elements(node: OnnxNode, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.axis(node["axis"], x.dim())
    return torch.gather(x, axis, _indices(node, 1, x.shape[axis]))


def _rows(node: OnnxNode, position: int, lengths: tuple[int, ...]) -> Tensor:
    """Multi-indices (..., k) into the leading k axes, as row numbers of x reshaped to (prod of k axes, rest)."""

    def make() -> Tensor:
        raw = node.known[position]
        assert raw is not None
        size = torch.tensor(lengths, dtype=torch.int64)
        index = raw.to(torch.int64)
        if bool(((index < -size) | (index >= size)).any()):
            node.refuse("an index is out of range")
        index = torch.where(index < 0, index + size, index)
        stride = [1] * len(lengths)
        for k in range(len(lengths) - 2, -1, -1):
            stride[k] = stride[k + 1] * lengths[k + 1]
        return (index * torch.tensor(stride, dtype=torch.int64)).sum(-1).reshape(-1)

    if not node.has(position):
        node.refuse("its indices are not constant", unbounded=node.on_data[position])
    return node.hold("rows", make)


def _gather_nd(node: OnnxNode, x: Tensor, indices: Tensor) -> Tensor:
    if node["batch_dims"]:
        node.refuse("batch_dims other than 0 is not known")
    depth = indices.shape[-1]
    if depth > x.dim():
        node.refuse(f"indices of depth {depth} into a tensor of rank {x.dim()}")
    rows = _rows(node, 1, tuple(x.shape[:depth]))
    flat = x.reshape(-1, *x.shape[depth:])
    return torch.index_select(flat, 0, rows).reshape(*indices.shape[:-1], *x.shape[depth:])


def _scatter_nd(node: OnnxNode, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    depth = indices.shape[-1]
    if depth > x.dim():
        node.refuse(f"indices of depth {depth} into a tensor of rank {x.dim()}")
    rows = _rows(node, 1, tuple(x.shape[:depth]))
    flat = x.reshape(-1, *x.shape[depth:])
    new = updates.reshape(-1, *x.shape[depth:])
    if node["reduction"] == "add":
        return torch.index_add(flat, 0, rows, new).reshape(x.shape)
    if node["reduction"] not in (None, "none"):
        node.refuse(f"reduction={node['reduction']!r} is not known")

    def each_once() -> Tensor:
        if torch.unique(rows).numel() != rows.numel():
            node.refuse("writes one entry twice: the result depends on the order")
        return rows

    node.hold("each once", each_once)
    return torch.index_copy(flat, 0, rows, new).reshape(x.shape)


def _scatter_elements(node: OnnxNode, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis = node.axis(node["axis"], x.dim())
    index = _indices(node, 1, x.shape[axis])
    if node["reduction"] == "add":
        return torch.scatter_add(x, axis, index, updates)
    if node["reduction"] not in (None, "none"):
        node.refuse(f"reduction={node['reduction']!r} is not known")

    def places() -> Tensor:
        grid = torch.meshgrid(*(torch.arange(n) for n in index.shape), indexing="ij")
        grid = (*grid[:axis], index, *grid[axis + 1 :])
        rows = torch.stack([g.reshape(-1) for g in grid], -1)
        if torch.unique(rows, dim=0).shape[0] != rows.shape[0]:
            node.refuse("writes one entry twice: the result depends on the order")
        return rows

    node.hold("places", places)
    return torch.scatter(x, axis, index, updates)


def _top_k(node: OnnxNode, x: Tensor, k: Tensor | None = None) -> Tensor:
    """The k largest (or smallest) entries of an axis in order: over the whole axis it sorts."""
    if len(node.outputs) > 1 and node.outputs[1]:
        node.refuse("its indices are read, which are a step function of the input", unbounded=node.on_data[0])
    axis = node.axis(-1 if node["axis"] is None else node["axis"], x.dim())
    count = node["k"] if k is None else (node.ints(1, "K") or [0])[0]
    if count is None or not 0 <= count <= x.shape[axis]:
        node.refuse(f"takes {count} of {x.shape[axis]} entries")
    if node.version >= 11 and not node["sorted"] and count > 1:
        node.refuse("sorted=0 leaves the order of its results open")
    largest = node.version < 11 or bool(node["largest"])
    return torch.topk(x, count, axis, largest, True).values


TABLE: dict[str, Op] = {
    "Gather": Op(_gather, (1, 11, 13), "axis", kind="moves"),
    "GatherElements": Op(_gather_elements, (11, 13), "axis", kind="moves"),
    "GatherND": Op(_gather_nd, (11, 12, 13), "batch_dims", kind="moves"),
    "TopK": Op(_top_k, (1, 10, 11, 24), "axis k largest sorted", outputs="Indices"),
    "ScatterND": Op(_scatter_nd, (11, 13, 16, 18), "reduction"),
    "ScatterElements": Op(_scatter_elements, (11, 13, 16, 18), "axis reduction"),
}
