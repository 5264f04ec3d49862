"""Certificates in format 3: of a region, of many outputs, of the cells of a grid. None is written that the checker has not
accepted."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lipcert.load.model import Model
from lipcert.methods.problem import Problem
from lipcert.network.graph import Graph
from lipcert.proofs.check import check_several
from lipcert.proofs.file import Certificate
from lipcert.proofs.kinds import CellList, CutTree
from lipcert.proofs.maxima import sorts
from lipcert.proofs.several import Point, Several, from_bytes, to_text
from lipcert.regions.cover import SWEEPS, grown, preorder
from lipcert.report.to_json import write_atomically
from lipcert.rigor.rounding import mul_up
from lipcert.tasks.certify import SLACK, certificate_of, least_with_proof, network_of
from lipcert.terms.errors import CertificateRejected, RefusedModel, SelfCheckFailed, UsageError
from lipcert.terms.query import Ball, Box, Norm, Output, Region
from lipcert.terms.result import Bound, Result

LEAVES = 100_000  # of a region: more are slow to check
SECONDS = 30.0  # to find them
MUCH = 1 + 1e-6  # by which a claim exceeds what was proved before that is said


def written(
    path: str | Path, model: Model, norm: Norm, claims: Sequence[Certificate], points: Sequence[Point] = ()
) -> None:
    """UsageError where the file cannot be written, SelfCheckFailed where the checker does not accept it."""
    text = to_text(Several(network_of(model.info, sorts(model.graph)), norm, tuple(claims), tuple(points)))
    try:
        made = from_bytes(text.encode())
        assert isinstance(made, Several)
        check_several(made, model.graph, model.info, sweeps=SWEEPS)
    except CertificateRejected as problem:
        raise SelfCheckFailed(f"its own certificate was not accepted, {problem}") from problem
    try:
        write_atomically(text, path)
    except OSError as problem:
        raise UsageError(f"--certificate {path}: cannot write it: {problem.strerror}") from problem


def certify_region(
    path: str | Path, results: Sequence[Result], model: Model, problem: Problem, output: Output
) -> tuple[list[Result], list[str]]:
    """The least claim about the region of `problem` that has a proof: by a constant of the whole space, by linear bounds of
    the region, by a list of cells. (results with the path in the row, warnings)."""
    whole, least = least_with_proof(results)
    if least is None:
        return list(results), [f"no certificate was written to {path}: there is no proved upper value"]
    about = network_of(model.info, sorts(model.graph)), problem.norm, output
    found = (
        []
        if whole is None
        else [replace(certificate_of(whole, model.graph, model.info, problem.norm, output), region=problem.region)]
    )
    tree = tree_of(problem, least)
    for proof in region_proofs(problem, least.value, results) if tree is None else ():
        claim = max(proof.values)
        if math.isfinite(claim):
            found.append(Certificate(*about, claim, proof, problem.region))
    if tree is not None:
        found.append(Certificate(*about, tree.value, tree, problem.region))
    if not found:
        return list(results), [f"no certificate was written to {path}: no list of cells shows a finite value"]
    best = min(found, key=lambda made: made.claim)
    begin = time.perf_counter()
    written(path, model, problem.norm, [best])
    size = {"bytes": Path(path).stat().st_size, "check_seconds": time.perf_counter() - begin}
    if isinstance(best.proof, CutTree):
        size["nodes"] = len(best.proof.splits)
    details = {"certificate": str(path), "claim": best.claim, "certificate_size": size}
    marked = replace(least, details={**least.details, **details})
    warnings = []
    if best.claim > least.value * MUCH:
        by = f"by {best.proof.kind}" if best.proof.kind == "cells" else f"that of {best.proof.method}"
        warnings.append(f"the certificate, {by}, claims {best.claim!r}: {least.method}, which is less, has none")
    return [marked if result is least else result for result in results], warnings


def tree_of(problem: Problem, least: Bound) -> CutTree | None:
    """Where linear regions gave the least value: their tree, searched again to be written down. None for quadratic ones."""
    if least.method != "regions" or problem.region is None:
        return None
    from lipcert.regions.enumeration import constant, trace

    cells, end = constant.cells_of(problem.region), _end(problem.deadline, 4 * least.seconds + SECONDS)
    try:
        made = trace.written(problem.graph, cells, problem.norm, least.value, end)
    except RefusedModel:
        return None
    return None if made is None else CutTree(least.method, mul_up(made[1], SLACK), tuple(made[0]))


def region_proofs(problem: Problem, value: float, results: Sequence[Result]) -> list[CellList]:
    """Of a region on which `value` was proved."""
    region, graph, norm = problem.region, problem.graph, problem.norm
    found = []
    linear = next((r for r in results if isinstance(r, Bound) and r.method == "linear"), None)
    if linear is not None:
        found.append(CellList("linear", "linear", None, (0,), (mul_up(linear.value, SLACK),)))
        if linear.value <= value:
            return found
    if isinstance(region, Ball):
        alone = float(SWEEPS["slopes"](graph, region, None, norm))
        return [*found, CellList("slopes", "slopes", None, (0,), (mul_up(alone, SLACK),))]
    assert isinstance(region, Box)
    low, high = region.lower.reshape(1, -1), region.upper.reshape(1, -1)
    end = _end(problem.deadline, SECONDS)
    return [*found, cells_of(graph, (low, high), None, norm, torch.tensor([value], dtype=torch.float64), end)]


def _end(deadline: float | None, seconds: float) -> float:
    """Of the search for a certificate: a budget counts for it too."""
    return time.monotonic() + seconds if deadline is None else deadline


def cells_of(
    graph: Graph,
    ends: tuple[Tensor, Tensor],
    edges: Sequence[Sequence[float]] | None,
    norm: Norm,
    values: Tensor,
    deadline: float,
) -> CellList:
    """Of the boxes `ends` (b, n), the grid of `edges` (None: one box), each halved until it is not above `values` (b,)."""
    trees = grown(graph, *ends, norm, values * (1 + 2.0**-40), max(LEAVES, 8 * len(values)), deadline)
    splits, shown = preorder(trees, SLACK)
    if edges is None:
        edges = list(zip(ends[0][0].tolist(), ends[1][0].tolist(), strict=True))
    return CellList("slopes", "slopes", tuple(map(tuple, edges)), splits, shown)


def certify_outputs(path: str | Path, found: Mapping[str, Sequence[Result]], model: Model, norm: Norm) -> list[str]:
    """One claim for each difference of outputs, or for each output. Warnings."""
    claims, missing, less = [], [], []
    for name, results in found.items():
        bound, least = least_with_proof(results)
        if bound is None or least is None:
            missing.append(name)
            continue
        claims.append(certificate_of(bound, model.graph, model.info, norm, Output.parse(name)))
        if bound.value > least.value:
            less.append(name)
    if not claims:
        return [f"no certificate was written to {path}: there is no proved upper value with a proof"]
    written(path, model, norm, claims)
    warnings = []
    if missing:
        warnings.append(
            f"the certificate has no claim about {', '.join(missing[:5])}{' ..' if len(missing) > 5 else ''}"
        )
    if less:
        warnings.append(
            f"{len(less)} of {len(claims)} claims are above the values of the report, whose methods have no proof"
        )
    return warnings


def certify_grid(
    path: str | Path,
    model: Model,
    graph: Graph,
    asked: tuple[Norm, Output, Region],
    edges: Sequence[Sequence[float]],
    cells: tuple[Tensor, Tensor, Tensor],
    deadline: float | None,
) -> list[str]:
    """One claim about the box, with a value for each cell. `cells`: lower ends, upper ends (k, n) and proved values (k,).
    `deadline`: of the whole command (monotonic)."""
    norm, output, region = asked
    low, high, values = cells
    if not bool(torch.isfinite(values).all()):
        return [f"no certificate was written to {path}: some cells have no finite value"]
    proof = cells_of(graph, (low, high), edges, norm, values, _end(deadline, SECONDS))
    claim = max(proof.values)
    if not math.isfinite(claim):
        return [f"no certificate was written to {path}: some cells have no finite value by slope sweeps"]
    written(
        path, model, norm, [Certificate(network_of(model.info, sorts(model.graph)), norm, output, claim, proof, region)]
    )
    most = float(values.max())
    return [f"the certificate claims {claim!r}, the report has {most!r}"] if claim > most * MUCH else []
