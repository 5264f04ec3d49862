"""The constant of each layer: every affine part between two signals, every nonlinearity (Figure 3 of the seed paper)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from lipcert.activations.jets import Expression
from lipcert.blocks.base import Block
from lipcert.blocks.pointwise import Pointwise
from lipcert.blocks.radial import Radial
from lipcert.methods.failures import RAISED, why
from lipcert.methods.problem import Problem
from lipcert.network.affine import ENCLOSED, Path, linear_ancestors, targets
from lipcert.network.graph import Enclosure, Graph, Input, Linear, Nonlinear
from lipcert.operators.linear import Adjoint, Conv, Dense, Scale, Select
from lipcert.rigor.rounding import div_down, norm_down, norm_up
from lipcert.sampling.directions import ascent, dual_ascent, size, unit
from lipcert.terms.query import P

OPERATOR_NAMES = {Conv: "conv", Dense: "linear", Scale: "scale", Select: "layout", Adjoint: "transposed"}


@dataclass(frozen=True)
class NamedLayer:
    """One affine part (source -> target) or one nonlinear node."""

    name: str
    kind: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    path: Path | None = None
    node: int | None = None


def layers_of(graph: Graph) -> Iterator[NamedLayer]:
    """In the order of the network."""
    ends = set(targets(graph))
    for i, node in enumerate(graph.nodes):
        if i in ends:
            sources, _ = linear_ancestors(graph, i)
            for source in sources:
                path = Path(graph, source, i)
                if path.nodes:
                    shapes = graph.nodes[source].shape, node.shape
                    yield NamedLayer(_name(graph, path), kind_of(graph, path), *shapes, path=path)
        if isinstance(node.what, Nonlinear):
            shape = graph.nodes[node.parents[0]].shape
            yield NamedLayer(node.name, node.what.block.label, shape, node.shape, node=i)


def operators(graph: Graph, path: Path) -> list[Any]:
    whats = [graph.nodes[i].what for i in path.nodes]
    return [what.operator for what in whats if isinstance(what, Linear)]


def kind_of(graph: Graph, path: Path) -> str:
    """What the part is made of: "linear", "conv + scale", "identity"; layout is left out where anything else is there."""
    names = [OPERATOR_NAMES[type(operator)] for operator in operators(graph, path)]
    names = [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
    heavy = [name for name in names if name != "layout"] or names
    shown = heavy if len(heavy) <= 4 else [*heavy[:2], f"{len(heavy) - 3} more", heavy[-1]]
    return " + ".join(shown) or "identity"


def _name(graph: Graph, path: Path) -> str:
    """The name of the weightiest operator: what people call the layer."""
    rank = {Conv: 3, Dense: 3, Adjoint: 3, Scale: 2, Select: 1}
    nodes = [i for i in path.nodes if isinstance(graph.nodes[i].what, Linear)]
    if not nodes:
        return graph.nodes[path.target].name
    best = max(nodes, key=lambda i: rank[type(graph.nodes[i].what.operator)])  # type: ignore[union-attr]
    name = graph.nodes[best].name
    several = len(linear_ancestors(graph, path.target)[0]) > 1
    source = graph.nodes[path.source]
    return f"{name} from {'input' if isinstance(source.what, Input) else source.name}" if several else name


def surely_infinite(block: Block) -> bool:
    """A block without a finite constant has none, as a function on the whole space: products, and rows of the table. Of
    rows made of an expression, and of scalings by a norm, only no finite bound is known."""
    if isinstance(block, Pointwise):
        return not isinstance(block.activation.row.function, Expression)
    return not isinstance(block, Radial)


def layer_row(layer: NamedLayer, problem: Problem) -> dict[str, Any]:
    """name, kind, shapes, proved upper, attained lower (null where not computed), status, reason."""
    row: dict[str, Any] = {
        "name": layer.name,
        "kind": layer.kind,
        "input_shape": list(layer.input_shape),
        "output_shape": list(layer.output_shape),
    }
    try:
        return row | _constants(layer, problem)
    except RAISED as error:  # the other layers go on
        reason = why(error)
        if reason is None:
            raise
        return row | {"upper": None, "lower": None, "rigor": "proved", "status": "refused", "reason": reason}


def _constants(layer: NamedLayer, problem: Problem) -> dict[str, Any]:
    p, q = problem.norm.input, problem.norm.output
    if layer.path is not None:
        upper: float | None = layer.path.norm_upper(p, q)
        lower = attained(layer.path, p, q)
        status, reason = "bounded", None
    else:
        assert layer.node is not None
        node = problem.graph.nodes[layer.node]
        assert isinstance(node.what, Nonlinear)
        block = node.what.block
        upper, lower = max(block.lipschitz(p) if p == q else block.between(p, q)), None
        status, reason = "bounded", None
        if p != q and upper == math.inf > max(block.lipschitz(q)):
            upper, status, reason = None, "refused", f"its constant from l{p} to l{q} is not known"
    if upper is not None and not math.isfinite(upper):
        found = problem.graph.nodes[layer.node].what.block if layer.node is not None else None  # type: ignore[union-attr]
        upper, status = None, "unbounded" if found is not None and surely_infinite(found) else "refused"
        reason = found.reason if found is not None else "overflows float64"
    return {"upper": upper, "lower": lower, "rigor": "proved", "status": status, "reason": reason}


def attained(path: Path, p: P, q: P, steps: int = 30) -> float:
    """||A v||_q / ||v||_p for the best v of a power iteration, rounding subtracted."""
    if 0 in (path.in_size, path.out_size):
        return 0.0
    v = torch.randn(4, path.in_size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    best, top = v[:1], -1.0
    for _ in range(steps):
        v = unit(v, p)
        y = path.mv(v)
        sizes = size(y, q)
        k = int(sizes.argmax())
        if float(sizes[k]) > top * (1 + 1e-12):
            best, top = v[k : k + 1], float(sizes[k])
        v = dual_ascent(path.rmv(ascent(y, q)), p)
    image = path.mv(Enclosure(best), ENCLOSED)
    sure = (image.centre.abs() - image.reach()).clamp(min=0.0)
    sure = torch.nextafter(sure, torch.zeros_like(sure))
    if not bool(torch.isfinite(sure).all()):
        return 0.0
    return float(div_down(float(norm_down(sure[0], q)), float(norm_up(best[0], p))))
