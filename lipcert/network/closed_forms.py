"""Affine parts that are one operator: their matrix has a closed form."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from lipcert.network.graph import Add, Concat, Graph, Linear, Offset
from lipcert.operators.compose import add, compose
from lipcert.operators.linear import Dense, Operator, Scale, Select
from lipcert.rigor.rounding import add_up, mul_up, sqrt_up, up
from lipcert.terms.query import P

COMPOSE_FLOPS = 2e11
Form = tuple[int, Operator | None]  # node = operator(anchor); None is the identity


def closed_forms(graph: Graph, nodes: Iterable[int], present: set[int], memo: dict[Any, Any]) -> dict[int, Form]:
    """For each node: the nearest signal of which it is one primitive operator, and that operator.

    `present`: signals that are not zero. Add with one present parent is the identity, Concat an embedding.
    """
    forms: dict[int, Form] = {i: (i, None) for i in present}
    for i in nodes:
        node = graph.nodes[i]
        parents = [parent for parent in node.parents if parent in forms]
        if not parents:
            continue
        match node.what:
            case Linear(operator):
                forms[i] = _closed_after(operator, parents[0], forms, memo)
            case Add():
                forms[i] = _closed_sum(i, [forms[parent] for parent in parents], graph, memo)
            case Concat() if len(parents) == 1:
                start = 0
                for parent in node.parents:
                    if parent == parents[0]:
                        break
                    start += graph.nodes[parent].size
                size = graph.nodes[parents[0]].size
                index = torch.full((node.size,), -1, dtype=torch.int64)
                index[start : start + size] = torch.arange(size)
                forms[i] = _closed_after(Select(index, size), parents[0], forms, memo)
            case Offset():
                forms[i] = forms[parents[0]]
            case _:
                forms[i] = (i, None)
    return forms


def _closed_after(operator: Operator, parent: int, forms: Mapping[int, Form], memo: dict[Any, Any]) -> Form:
    anchor, inner = forms[parent]
    if inner is None:
        return anchor, operator
    key = ("compose", id(operator), id(inner))
    if key not in memo:
        heavy = isinstance(operator, Dense) and isinstance(inner, Dense)
        cost = 2 * operator.weight.shape[1] * inner.weight.numel() if heavy else 0  # type: ignore[attr-defined]
        memo[key] = (None if cost > COMPOSE_FLOPS else compose(operator, inner), operator, inner)  # keeps both alive
    joined = memo[key][0]
    return (parent, operator) if joined is None else (anchor, joined)


def _closed_sum(i: int, terms: list[Form], graph: Graph, memo: dict[Any, Any]) -> Form:
    if len(terms) == 1:
        return terms[0]
    anchors = {anchor for anchor, _ in terms}
    if len(anchors) > 1:
        return i, None
    key = ("add", *(id(op) for _, op in terms), next(iter(anchors)))
    if key not in memo:
        size = graph.nodes[i].size
        identity = Scale(torch.ones(size, dtype=torch.float64)) if any(op is None for _, op in terms) else None
        memo[key] = (add([identity if op is None else op for _, op in terms]), terms, identity)  # type: ignore[misc]
    joined = memo[key][0]
    return (i, None) if joined is None else (anchors.pop(), joined)


def concat_norm(parts: list[float], p: P) -> float:
    """Norm of a stack from the norms of its blocks: sum (l1), sqrt of the sum of squares (l2), max (linf)."""
    if p == "inf":
        return max(parts)
    if p == "1":
        return total(parts)
    top = max(parts)
    if top == 0 or not math.isfinite(top) or len(parts) == 1:
        return top
    scaled = [up(part / top) for part in parts]  # against overflow of the squares
    return mul_up(top, sqrt_up(total([mul_up(s, s) for s in scaled])))


def total(parts: Iterable[float]) -> float:
    """Upper value of a sum of nonnegative numbers."""
    value = 0.0
    for part in parts:
        value = add_up(value, part)
    return value


def times(a: float, b: float) -> float:
    """Upper value of a product of nonnegative constants; a signal that never changes stays so (0 * inf = 0)."""
    return 0.0 if a == 0 or b == 0 else mul_up(a, b)
