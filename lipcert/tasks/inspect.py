"""What was read of a model, and what each method can do with it."""

from __future__ import annotations

import math
from typing import Any

import torch

from lipcert.load.model import Model
from lipcert.methods import METHODS, Method, Problem
from lipcert.methods.layers import kind_of, operators, surely_infinite
from lipcert.network.affine import Path as LinearPath
from lipcert.network.affine import linear_ancestors, targets
from lipcert.network.graph import Graph, Input, Nonlinear
from lipcert.report.report import Report
from lipcert.rigor.rounding import keeps_subnormals
from lipcert.tasks.people import blocks_of
from lipcert.terms.query import Ball, Norm

NEAR = 0.01  # the radius of the ball around 0 for which methods of regions are asked


@keeps_subnormals
def inspect(model: Model) -> Report:
    """What was read: `Report.parts` (a tree), and what each method can do with it: `Report.methods`."""
    graph = model.graph
    return Report(
        command="inspect",
        model=model.info,
        parts=_parts(graph),
        methods=[_method_row(method, graph) for method in METHODS.values()],
        summary={
            "linear_parts": len(targets(graph)),
            "nonlinear": len(graph.nonlinear),
            "neurons": graph.neurons,
            "blocks": blocks_of(graph),
        },
        assumptions=list(model.assumptions),
        warnings=list(model.warnings),
        question=model.question("inspect", Norm()),
    )


def _method_row(method: Method, graph: Graph) -> dict[str, Any]:
    """Whether it can treat the model on the whole space, and where it is made for regions, on one of them: what is refused on
    both is refused for the reason that it has there."""
    refusal, on_region = method.refuses(Problem(graph, Norm())), None
    if "region" in method.where:
        origin = torch.zeros(graph.nodes[graph.input].size, dtype=torch.float64)
        there = method.refuses(Problem(graph, Norm(), Ball(origin, NEAR, "2")))
        on_region = there is None
        refusal = there if refusal is not None and there is not None else refusal
    return {
        "method": method.name,
        "side": method.side,
        "usable": refusal is None,
        "on_region": on_region,
        "node": refusal.node if refusal else None,
        "reason": refusal.reason if refusal else None,
    }


def _parts(graph: Graph) -> list[dict[str, Any]]:
    """One row per signal of the normal form: the affine part with the signals it reads, then the nonlinearity."""
    rows = []
    reads = {i: graph.nodes[i].parents for i in graph.nonlinear}
    for i in (*graph.nonlinear, graph.output):
        if i in reads or not isinstance(graph.nodes[i].what, Nonlinear | Input):
            for target in reads.get(i, (i,)):
                rows.append(_part_row(graph, target))
        if i in reads:
            node = graph.nodes[i]
            assert isinstance(node.what, Nonlinear)
            row = {
                "name": node.name,
                "kind": node.what.block.label,
                "output_shape": list(node.shape),
                "neurons": node.size,
            }
            rows.append(row | _slope_words(node.what))
    return list({(row["name"], row["kind"], str(row.get("reads"))): row for row in rows}.values())


def _slope_words(what: Nonlinear) -> dict[str, Any]:
    constants = what.block.lipschitz("2")
    finite = all(math.isfinite(c) for c in constants)
    words = "unbounded" if surely_infinite(what.block) else "no finite bound is known"
    return {"constant_l2": max(constants) if finite else f"{words}: {what.block.reason}"}


def _part_row(graph: Graph, target: int) -> dict[str, Any]:
    sources, _ = linear_ancestors(graph, target)
    children = []
    for source in sources:
        path = LinearPath(graph, source, target)
        label = "input" if isinstance(graph.nodes[source].what, Input) else graph.nodes[source].name
        ops = operators(graph, path)
        row = {
            "name": f"from {label}",
            "kind": kind_of(graph, path),
            "input_shape": list(graph.nodes[source].shape),
            "output_shape": list(graph.nodes[target].shape),
        }
        children.append(row | ({"operators": len(ops)} if len(ops) > 1 else {}))
    node = graph.nodes[target]
    if len(children) == 1:
        return children[0] | {"name": node.name, "reads": str(children[0]["name"]).removeprefix("from ")}
    return {"name": node.name, "kind": "linear part", "output_shape": list(node.shape), "parts": children}
