"""Proves the claim of a certificate again, of the question that it states."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lipcert.load.model import Model, file_sha256, load
from lipcert.proofs.check import Verified, check, check_several
from lipcert.proofs.claimed import Asked, question_of
from lipcert.proofs.file import Certificate
from lipcert.proofs.inputs import shapes_of, values_of
from lipcert.proofs.several import Several
from lipcert.proofs.several import read as read_certificate
from lipcert.regions.cover import SWEEPS
from lipcert.report.report import Report, unread
from lipcert.rigor.rounding import keeps_subnormals
from lipcert.terms.errors import CertificateRejected, LipcertError, UsageError
from lipcert.terms.progress import Progress, heard
from lipcert.terms.query import Norm, Output
from lipcert.terms.question import thawed
from lipcert.terms.result import Bound, Refusal, Result

OF_ALL = {"pair": "pairs", "logit": "each"}  # what several claims of one kind are about


def _compared(asked: Asked, claims: Sequence[Certificate], model: object, any_output: bool) -> list[str]:
    """What the prover chose of the question. Raises CertificateRejected where a claim is about another one."""
    for claim in claims:
        asked.compare(question_of(claim))
        asked.compare_shapes(claim)
    chosen = asked.chosen_by_prover(claims[0])
    if isinstance(model, Model):  # who loaded it has said how
        chosen = [name for name in chosen if name == "norm" or (name == "output_name" and any_output)]
    return chosen


@dataclass(frozen=True, kw_only=True, eq=False)
class VerifyRequest:
    """What is said of the question (norm, output, shape, names, held inputs, units); None: nothing. `explain`:
    `summary["steps"]` tells the proof in words. `reader`, `seed`: as of `load`."""

    norm: str | Norm | None = None
    output: str | Output | None = None
    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None
    input_name: str | None = None
    output_name: str | None = None
    fix: Mapping[str, Any] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    reader: str = "own"
    explain: bool = False
    seed: int = 0

    @property
    def asked(self) -> Asked:
        names = (self.input_name, self.output_name)
        return Asked.of(self.norm, self.output, self.mean, self.std, names, self.input_shape, self.fix)


@keeps_subnormals
def verify(
    certificate: str | Path | Certificate | Several,
    model: str | Path | torch.nn.Module | Model,
    request: VerifyRequest | None = None,
    progress: Progress | None = None,
) -> Report:
    """Prove the claim of a certificate again.

    What is said of the question is compared with the certificate, as is all of a `Model`; the rest is read from the
    certificate, was chosen by the prover, and is listed in `summary["prover_chose"]`. `Report.summary["verdict"]` is
    "accepted" or "rejected" (with "place" and "reason"). Raises what `load` raises.
    """
    request = request or VerifyRequest()
    explain, asked = request.explain, request.asked
    begin, whole = time.perf_counter(), certificate if isinstance(certificate, Certificate | Several) else None
    path = str(certificate) if whole is None else None
    info = model.info if isinstance(model, Model) else None
    assumptions: tuple[str, ...] = ()
    results: list[Result] = []
    try:
        if isinstance(certificate, str | Path):
            whole = read_certificate(certificate)
        assert whole is not None
        claims = whole.claims if isinstance(whole, Several) else (whole,)
        chosen = _compared(asked, claims, model, asked.output is None)
        loaded = model if isinstance(model, Model) else _load_as(claims[0], model, request, progress)
        info, assumptions = loaded.info, loaded.assumptions
        if progress:
            progress("proving the claim" if len(claims) == 1 else f"proving {len(claims)} claims", None, None)
        about = loaded.graph, loaded.info, explain, SWEEPS
        with heard(progress):
            found = check_several(whole, *about) if isinstance(whole, Several) else [check(whole, *about)]
        summary = _accepted(whole, found, chosen, explain)
        if len(claims) == 1:
            seconds, details = time.perf_counter() - begin, {"certificate": path, "proved": found[0].value}
            results.append(Bound(claims[0].proof.method, "upper", "proved", claims[0].claim, seconds, None, details))
    except CertificateRejected as problem:
        claim_of = whole.claim if isinstance(whole, Certificate) else None
        summary = {"verdict": "rejected", "claim": claim_of, "place": problem.place, "reason": problem.reason}
        why, seconds = f"{problem.place}: {problem.reason}", time.perf_counter() - begin
        results = [Refusal("verify", "upper", "refused", why, None, seconds)]
    return Report(
        command="verify",
        model=info or unread(None if isinstance(model, torch.nn.Module) else model),
        results=results,
        summary={"certificate": path, **summary},
        assumptions=list(assumptions),
        **_scope(whole),
    )


def _scope(whole: Certificate | Several | None) -> dict[str, Any]:
    """Of several claims, what they are all about."""
    if whole is None:
        return {}
    claims = whole.claims if isinstance(whole, Several) else (whole,)
    question = question_of(claims[0])
    if len(claims) > 1:
        kinds = [kind for kind in ("pair", "logit", "vector") if any(claim.output.kind == kind for claim in claims)]
        question = replace(question, output=OF_ALL.get(kinds[0], "vector") if len(kinds) == 1 else "vector")
    region = thawed(question.region)
    return {"norm": whole.norm, "output": question.output, "region": region, "question": question}


def _accepted(
    whole: Certificate | Several, found: Sequence[Verified], chosen: Sequence[str], explain: bool
) -> dict[str, Any]:
    """The report's summary; of format 3 with every claim and with the radii that follow."""
    claims = whole.claims if isinstance(whole, Several) else (whole,)
    alone = len(claims) == 1
    trusted, steps = (list(dict.fromkeys(s for v in found for s in getattr(v, k))) for k in ("trusted", "steps"))
    summary: dict[str, Any] = {"verdict": "accepted", "claim": claims[0].claim if alone else None}
    summary |= {"proved": found[0].value if alone else None, "trusted": trusted, "prover_chose": list(chosen)}
    if isinstance(whole, Several):
        steps += [
            f"sample {k}: class {at.label} stays where |dx|_{whole.norm.input} <= {at.radius!r}: that times the constants above "
            "is less than each margin there"
            for k, at in enumerate(whole.points)
        ]
    summary |= {"steps": steps} if explain else {}
    if not isinstance(whole, Several):
        return summary
    rows = [
        {"output": str(claim.output), "claim": claim.claim, "proved": one.value, "by": claim.proof.kind}
        for claim, one in zip(claims, found, strict=True)
    ]
    radii = [{"class": at.label, "radius": at.radius} for at in whole.points]
    return summary | {"claims": rows, "points": radii}


def _load_as(
    claim: Certificate, model: str | Path | torch.nn.Module, request: VerifyRequest, progress: Progress | None
) -> Model:
    """The model as the certificate describes it. Where that fails for the very file it names, the certificate is
    at fault. What the request holds inputs at goes before the values of the certificate."""
    network = claim.network
    held = {**values_of(network), **(request.fix or {})}

    def attempt(output_name: str | None) -> Model:
        return load(
            model,
            input_shape=shapes_of(network),
            input_name=network.input_name,
            output_name=output_name,
            fix=held,
            reader=request.reader,
            mean=network.mean,
            std=network.std,
            seed=request.seed,
            progress=progress,
        )

    try:
        if network.output_name == "output":  # so formats of torch record an output that is the only one
            with suppress(UsageError):
                loaded = attempt(None)
                if loaded.info["output_name"] == "output":
                    return loaded
        return attempt(network.output_name)
    except LipcertError as problem:
        same = isinstance(model, str | Path) and Path(model).is_file() and file_sha256(Path(model)) == network.sha256
        if isinstance(problem, UsageError) or same:
            raise CertificateRejected("model", f"it cannot be read as the certificate says: {problem}") from problem
        raise
