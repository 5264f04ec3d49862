"""Proves the claim of a certificate again, of the question that it states."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from lipcert.load.model import Model, file_sha256, load
from lipcert.proofs.check import check
from lipcert.proofs.claimed import Asked, question_of
from lipcert.proofs.file import Certificate
from lipcert.proofs.file import read as read_certificate
from lipcert.report.report import Report, unread
from lipcert.rigor.rounding import keeps_subnormals
from lipcert.terms.errors import CertificateRejected, LipcertError, UsageError
from lipcert.terms.progress import Progress
from lipcert.terms.query import Norm, Output
from lipcert.terms.result import Bound, Refusal, Result


@keeps_subnormals
def verify(
    certificate: str | Path | Certificate,
    model: str | Path | torch.nn.Module | Model,
    *,
    norm: str | Norm | None = None,
    output: str | Output | None = None,
    input_shape: Sequence[int] | None = None,
    input_name: str | None = None,
    output_name: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    reader: str = "own",
    explain: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Prove the claim of a certificate again. `explain`: `summary["steps"]` tells the proof in words.

    What is said here of the question (norm, output, shape, names, units) is compared with the certificate, as is all of
    a `Model`; the rest is read from the certificate, was chosen by the prover, and is listed in `summary["prover_chose"]`.
    `Report.summary["verdict"]` is "accepted" or "rejected" (then with "place" and "reason"; exit status 1). Raises
    UnreadableError where there is no such file, and what `load` raises of a model that cannot be read.
    """
    asked = Asked.of(norm, output, mean, std, (input_name, output_name), input_shape)
    begin = time.perf_counter()
    path = None if isinstance(certificate, Certificate) else str(certificate)
    info = model.info if isinstance(model, Model) else None
    claim: Certificate | None = None
    assumptions: tuple[str, ...] = ()
    try:
        claim = certificate if isinstance(certificate, Certificate) else read_certificate(certificate)
        question = question_of(claim)
        asked.compare(question)
        chosen = asked.chosen_by_prover(question)
        if isinstance(model, Model):  # who loaded it has said how
            chosen = [name for name in chosen if name == "norm" or (name == "output_name" and output is None)]
        loaded = model if isinstance(model, Model) else _load_as(claim, model, reader, seed, progress)
        info, assumptions = loaded.info, loaded.assumptions
        if progress is not None:
            progress("proving the claim", None, None)
        found = check(claim, loaded.graph, loaded.info, explain)
        summary = {"verdict": "accepted", "claim": claim.claim, "proved": found.value, "trusted": list(found.trusted)}
        summary |= {"prover_chose": chosen} | ({"steps": list(found.steps)} if explain else {})
        details = {"certificate": path, "proved": found.value}
        seconds = time.perf_counter() - begin
        result: Result = Bound(claim.proof.method, "upper", "proved", claim.claim, seconds, None, details)
    except CertificateRejected as problem:
        summary = {"verdict": "rejected", "claim": claim and claim.claim, "place": problem.place}
        summary |= {"reason": problem.reason}
        seconds = time.perf_counter() - begin
        result = Refusal("verify", "upper", "refused", f"{problem.place}: {problem.reason}", None, seconds)
    return Report(
        command="verify",
        model=info or unread(None if isinstance(model, torch.nn.Module) else model),
        results=[result],
        summary={"certificate": path, **summary},
        assumptions=list(assumptions),
        **_scope(claim),
    )


def _scope(claim: Certificate | None) -> dict[str, Any]:
    if claim is None:
        return {}
    return {"norm": claim.norm, "output": str(claim.output), "question": question_of(claim)}


def _load_as(
    claim: Certificate, model: str | Path | torch.nn.Module, reader: str, seed: int, progress: Progress | None
) -> Model:
    """The model as the certificate describes it. Where that fails for the very file it names, the certificate is
    at fault."""
    network = claim.network

    def attempt(output_name: str | None) -> Model:
        return load(
            model,
            input_shape=network.input_shape,
            input_name=network.input_name,
            output_name=output_name,
            reader=reader,
            mean=network.mean,
            std=network.std,
            seed=seed,
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
