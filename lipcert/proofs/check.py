"""The checker behind `lipcert verify`: is this certificate true of this network?

It takes nothing from whoever wrote the certificate but the claim and the numbers of the proof: the network is the one
that was just read, every inequality is proved anew in float64 with its rounding inside, and the claim holds exactly if
the value proved is not larger. It imports no bound method and no solver (a test walks its imports).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from lipcert.network.edit import with_output
from lipcert.network.graph import Graph
from lipcert.network.scope import checked_region
from lipcert.proofs.file import Certificate
from lipcert.proofs.inputs import same_inputs
from lipcert.proofs.kinds.base import Sweeps, within
from lipcert.proofs.maxima import sorts
from lipcert.proofs.radii import check_points
from lipcert.proofs.several import Several
from lipcert.rigor.rounding import keeps_subnormals
from lipcert.terms.errors import CertificateRejected, UsageError

NO_SWEEPS: Sweeps = {}
READING = (
    "reading the model: lipcert.load (compared with the original at sampled points, see parity)",
    "the graph and its arithmetic: lipcert.network, operators, blocks, activations, rigor",
    "IEEE float64 with round to nearest; matrix products that add up rounded products in some order",
)


@dataclass(frozen=True)
class Verified:
    """`value`: the upper value proved here, not above the claim. `trusted`: what it stands on. `steps`: how, in words."""

    value: float
    trusted: tuple[str, ...]
    steps: tuple[str, ...] = ()


@keeps_subnormals
def check(
    certificate: Certificate,
    graph: Graph,
    model: Mapping[str, Any],
    explain: bool = False,
    sweeps: Sweeps = NO_SWEEPS,
) -> Verified:
    """`graph`: the network in the units of the certificate, as read. `model`: its identity, the report's "model".
    `sweeps`: the range analysis for claims about regions.

    Raises CertificateRejected with the field at fault and the reason.
    """
    _same_network(certificate, graph, model)
    try:
        scoped = with_output(graph, certificate.output)
    except UsageError as problem:
        raise CertificateRejected("scope.output", str(problem)) from problem
    try:
        region = checked_region(certificate.region, graph)
    except UsageError as problem:
        raise CertificateRejected("scope.region", str(problem)) from problem
    try:
        with torch.no_grad():
            value = certificate.proof.prove_within(scoped, certificate.norm, region, sweeps)
    except torch.linalg.LinAlgError as problem:
        raise CertificateRejected("proof", f"it cannot be evaluated: {problem}") from problem
    if not value <= certificate.claim:
        reason = f"{certificate.claim!r} is not proved, the proof shows {value!r}"
        raise CertificateRejected("claim", reason if math.isfinite(value) else "the proof shows no finite value")
    found = Verified(value, (*READING, *certificate.proof.trusted))
    if not explain:
        return found
    words = certificate.proof.steps(scoped, certificate.norm)
    return replace(found, steps=(*words, f"{value!r} <= {certificate.claim!r}: the claim holds"))


@keeps_subnormals
def check_several(
    several: Several, graph: Graph, model: Mapping[str, Any], explain: bool = False, sweeps: Sweeps = NO_SWEEPS
) -> list[Verified]:
    """Each claim in turn, then the points, from the claims about the whole space."""
    found: list[Verified] = []
    known: dict[str, float] = {}
    for k, claim in enumerate(several.claims):
        with within(f"claims[{k}]"):
            found.append(check(claim, graph, model, explain, sweeps))
        if claim.region is None:
            name = str(claim.output)
            known[name] = min(claim.claim, known.get(name, math.inf))
    with torch.no_grad():
        check_points(graph, several.norm.output, known, several.points)
    return found


def _same_network(certificate: Certificate, graph: Graph, model: Mapping[str, Any]) -> None:
    network = certificate.network
    units = model.get("units") or {}
    facts: list[tuple[str, object, object]] = [
        ("sha256", network.sha256, model["sha256"]),
        ("input_name", network.input_name, model["input_name"]),
        ("output_name", network.output_name, model["output_name"]),
        ("input_shape", network.input_shape, tuple(model["input_shape"])),
        ("output_shape", network.output_shape, tuple(model["output_shape"])),
        ("mean", network.mean, _tuple(units.get("mean"))),
        ("std", network.std, _tuple(units.get("std"))),
    ]
    facts += same_inputs(network, model)
    if network.graph is not None:  # format 1
        facts.append(("graph", network.graph, graph.fingerprint()))
    if network.sorts is not None:
        facts.append(("sorts", network.sorts, sorts(graph)))
    for name, claimed, found in facts:
        if claimed != found:
            reason = f"the certificate is about {claimed!r}, this model has {found!r}"
            raise CertificateRejected(f"model.{name}", reason)


def _tuple(values: Any) -> tuple[float, ...] | None:
    return None if values is None else tuple(values)
