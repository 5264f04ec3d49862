"""From a proved bound to its certificate. No certificate is written that the checker has not accepted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lipcert.network.graph import Graph
from lipcert.proofs.check import check
from lipcert.proofs.file import Certificate, Network, from_bytes, to_text
from lipcert.proofs.kinds.base import Proof
from lipcert.proofs.maxima import sorts
from lipcert.report.to_json import write_atomically
from lipcert.rigor.rounding import mul_up
from lipcert.terms.errors import CertificateRejected, SelfCheckFailed, UsageError
from lipcert.terms.query import Norm, Output, Region
from lipcert.terms.question import frozen
from lipcert.terms.result import Bound, Result

# Claims are raised by this much, so that a machine whose BLAS adds up in another order proves them as well.
SLACK = 1 + 2.0**-30


def check_scope(region: Region, output: Output) -> None:
    """UsageError for scopes that have no certificate."""
    if region is not None and output.many:
        raise UsageError("--certificate: on a region of one output at a time: give --output vector, I or I-J")


def certify(
    path: str | Path, results: Sequence[Result], graph: Graph, model: Mapping[str, Any], norm: Norm, output: Output
) -> tuple[list[Result], list[str]]:
    """Write the certificate of the least proved upper value; (results with its path in the row, warnings).

    UsageError where the file cannot be written, SelfCheckFailed where the checker does not accept it.
    """
    bound, least = least_with_proof(results)
    if bound is None or least is None:
        return list(results), [f"no certificate was written to {path}: there is no proved upper value with a proof"]
    made = certificate_of(bound, graph, model, norm, output)
    if not math.isfinite(made.claim):
        return list(results), [f"no certificate was written to {path}: {bound.value!r} is too close to overflow"]
    text = to_text(made)
    try:
        check(from_bytes(text.encode()), graph, model)
    except CertificateRejected as problem:
        raise SelfCheckFailed(f"{bound.method}: its own certificate was not accepted, {problem}") from problem
    try:
        write_atomically(text, path)
    except OSError as problem:
        raise UsageError(f"--certificate {path}: cannot write it: {problem.strerror}") from problem
    marked = replace(bound, details={**bound.details, "certificate": str(path), "claim": made.claim})
    warnings = []
    if bound.value > least.value:
        warnings.append(f"the certificate is that of {bound.method}: {least.method}, which is less, has none")
    return [marked if result is bound else result for result in results], warnings


def least_with_proof(results: Sequence[Result]) -> tuple[Bound | None, Bound | None]:
    """(the bound of least proved upper value that carries a proof, the one of least proved upper value)."""
    uppers = [r for r in results if isinstance(r, Bound) and r.side == "upper" and r.rigor == "proved"]
    uppers.sort(key=lambda r: r.value)  # stable: the cheaper method of two equal values
    return next((r for r in uppers if r.proof is not None), None), next(iter(uppers), None)


def certificate_of(bound: Bound, graph: Graph, model: Mapping[str, Any], norm: Norm, output: Output) -> Certificate:
    """`graph`: the whole network in the units of the report, before the output functional. `model`: the report's."""
    assert isinstance(bound.proof, Proof)
    claim = max(mul_up(bound.value, SLACK), bound.proof.shows(bound.value, norm))
    speaks = 0 if bound.proof.kind == "lmi" else sorts(graph)  # a matrix inequality has them as maxima
    return Certificate(network_of(model, speaks), norm, output, claim, bound.proof)


def network_of(model: Mapping[str, Any], speaks_of_sorts: int) -> Network:
    """`model`: the report's."""
    units = model["units"]
    return Network(
        model["sha256"],
        model["input_name"],
        model["output_name"],
        tuple(model["input_shape"]),
        tuple(model["output_shape"]),
        None if units["mean"] is None else tuple(units["mean"]),
        None if units["std"] is None else tuple(units["std"]),
        parts=frozen(model.get("parts") or ()),
        fixed=frozen(model["fixed"]) if model.get("fixed") else (),
        sorts=speaks_of_sorts or None,
    )
