"""The checker behind `lipcert verify`: is this certificate true of this network?

It takes nothing from whoever wrote the certificate but the claim and the numbers of the proof: the network is the one
that was just read, every inequality is proved anew in float64 with its rounding inside, and the claim holds exactly if
the value proved is not larger. It imports no bound method and no solver (a test walks its imports).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from lipcert.network.affine import Constants, Path
from lipcert.network.edit import with_output
from lipcert.network.graph import Graph
from lipcert.proofs.chain import Infinite, link, links, start
from lipcert.proofs.file import Certificate, Chain, Cplip, Lmi, Nonnegative, Proof
from lipcert.proofs.lmi import INPUT, MEMORY_ENTRIES, coefficients, entries, prove
from lipcert.proofs.nonnegative import absolute_norm, obstacle
from lipcert.proofs.normal_form import NormalForm, normal_form
from lipcert.proofs.segments import cut, passable, segment_link
from lipcert.rigor.rounding import keeps_subnormals, sqrt_up
from lipcert.terms.errors import CertificateRejected, RefusedModel, UsageError
from lipcert.terms.query import Norm

READING = (
    "reading the model: lipcert.load (compared with the original at sampled points, see parity)",
    "the graph and its arithmetic: lipcert.network, operators, blocks, activations, rigor",
    "IEEE float64 with round to nearest; matrix products that add up rounded products in some order",
)
NORMS = "norms of linear parts: lipcert.rigor (matrix_norms, psd), lipcert.operators (conv_norm, torus_norm)"
LMI = "the LipSDP matrix inequality and its proof by a factor whose residual is bounded: lipcert.proofs (normal_form, lmi), lipcert.rigor.psd"
CHAIN = "one inequality per signal: lipcert.proofs.chain"
CPLIP = "one inequality per signal between cuts: lipcert.proofs (segments, chain)"
NONNEGATIVE = "the network of absolute values: lipcert.proofs.nonnegative, lipcert.rigor.matrix_norms"


@dataclass(frozen=True)
class Verified:
    """`value`: the upper value proved here, not above the claim. `trusted`: what it stands on."""

    value: float
    trusted: tuple[str, ...]


@keeps_subnormals
def check(certificate: Certificate, graph: Graph, model: Mapping[str, Any]) -> Verified:
    """`graph`: the network in the units of the certificate, as read. `model`: its identity, the report's "model".

    Raises CertificateRejected with the field at fault and the reason.
    """
    _same_network(certificate, graph, model)
    try:
        scoped = with_output(graph, certificate.output)
    except UsageError as problem:
        raise CertificateRejected("scope.output", str(problem)) from problem
    prove_again, trusted = PROOFS[type(certificate.proof)]
    try:
        with torch.no_grad():
            value = prove_again(scoped, certificate.norm, certificate.proof)
    except torch.linalg.LinAlgError as problem:
        raise CertificateRejected("proof", f"it cannot be evaluated: {problem}") from problem
    if not value <= certificate.claim:
        reason = f"{certificate.claim!r} is not proved, the proof shows {value!r}"
        raise CertificateRejected("claim", reason if math.isfinite(value) else "the proof shows no finite value")
    return Verified(value, (*READING, *trusted))


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
    if network.graph is not None:  # format 1
        facts.append(("graph", network.graph, graph.fingerprint()))
    for name, claimed, found in facts:
        if claimed != found:
            reason = f"the certificate is about {claimed!r}, this model has {found!r}"
            raise CertificateRejected(f"model.{name}", reason)


def _tuple(values: Any) -> tuple[float, ...] | None:
    return None if values is None else tuple(values)


def _prove_lmi(graph: Graph, norm: Norm, proof: Lmi) -> float:
    if norm != Norm("2", "2"):
        raise CertificateRejected("norm", f"the matrix inequality bounds the constant from l2 to l2, not {norm}")
    try:
        form = normal_form(graph, proof.grouping)
    except RefusedModel as problem:
        raise CertificateRejected("proof.kind", str(problem)) from problem
    counts, given = [layer.count for layer in form.layers], [len(row) for row in proof.multipliers]
    if counts != given:
        raise CertificateRejected("proof.multipliers", f"the layers take {counts} multipliers, the file has {given}")
    if not form.layers:
        return _affine_norm(form)
    if entries(form) > MEMORY_ENTRIES:
        raise CertificateRejected("proof.kind", f"{form.neurons} neurons are too many for one matrix inequality")
    multipliers = [torch.tensor(row, dtype=torch.float64) for row in proof.multipliers]
    last = INPUT if proof.last == "input" else len(form.layers) + 1
    return sqrt_up(prove(form, coefficients(form), multipliers, last=last, rho=proof.rho))


def _affine_norm(form: NormalForm) -> float:
    return Path(form.graph, form.graph.input, form.graph.output).norm_upper("2", "2")


def _prove_chain(graph: Graph, norm: Norm, proof: Chain) -> float:
    return _follow(graph, norm, proof, lambda node, known: link(graph, node, known, _no_ranges))


def _prove_cplip(graph: Graph, norm: Norm, proof: Cplip) -> float:
    nonlinear = graph.nonlinear
    passed = proof.passed if proof.positions else tuple(nonlinear[k] for k in proof.passed if k < len(nonlinear))
    if len(passed) != len(proof.passed) or list(passed) != sorted(set(passed) & set(passable(graph))):
        raise CertificateRejected("proof.passed", "these are not different pointwise nodes of this network in order")
    try:
        segments = cut(graph, passed, {norm.input, norm.output}, _no_ranges)
    except Infinite as problem:
        raise CertificateRejected("proof.kind", problem.reason) from problem
    return _follow(segments, norm, proof, lambda node, known: segment_link(segments, node, known))


def _follow(
    graph: Graph,
    norm: Norm,
    proof: Chain | Cplip,
    step: Callable[[int, dict[int, Constants]], Constants],
) -> float:
    """Induction over the signals: each claimed constant follows from the claimed constants before it."""
    order = links(graph)
    given = tuple(node for node, _ in proof.constants)
    wanted = order if proof.positions else tuple(range(len(order)))
    if given != wanted:
        reason = f"the signals of this network are {_few(wanted)}, not {_few(given)}"
        raise CertificateRejected("proof.constants", reason)
    known = start(graph, norm)
    for k, (node, (_, claimed)) in enumerate(zip(order, proof.constants, strict=True)):
        place = f"proof.constants[{k}]"
        if set(claimed) != {norm.input, norm.output}:
            raise CertificateRejected(place, f"constants in the norms {norm.input} and {norm.output} are needed")
        try:
            shown = step(node, known)
        except Infinite as problem:
            raise CertificateRejected(place, problem.reason) from problem
        for r in shown:
            if not shown[r] <= claimed[r]:
                raise CertificateRejected(f"{place}.{r}", f"{claimed[r]!r} does not follow, {shown[r]!r} does")
        known[node] = {r: claimed[r] for r in shown}
    return known[graph.output][norm.output]


def _prove_nonnegative(graph: Graph, norm: Norm, proof: Nonnegative) -> float:
    found = obstacle(graph, _no_ranges)
    if found is not None:
        raise CertificateRejected("proof.kind", found[2])
    value = absolute_norm(graph, norm, _no_ranges)
    if value is None:
        raise CertificateRejected("norm", f"the norm {norm} needs too large a matrix")
    return value


def _no_ranges() -> NoReturn:
    """Interval ranges of signals would be more to trust: constants that need them have no certificate."""
    raise CertificateRejected("proof.kind", "a nonlinearity has no global constant, only one on the range of its input")


def _few(items: tuple[int, ...]) -> str:
    return str(list(items)) if len(items) <= 12 else f"{list(items[:12])} .. ({len(items)})"


PROOFS: dict[type[Proof], tuple[Callable[[Graph, Norm, Any], float], tuple[str, ...]]] = {
    Lmi: (_prove_lmi, (LMI, NORMS)),
    Chain: (_prove_chain, (CHAIN, NORMS)),
    Cplip: (_prove_cplip, (CPLIP, NORMS)),
    Nonnegative: (_prove_nonnegative, (NONNEGATIVE,)),
}
