"""Constants of a model, of its layers, and proofs of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from lipcert.load.model import Model
    from lipcert.report.report import Report
    from lipcert.terms.progress import Progress
    from lipcert.terms.query import Ball, Box, Norm


def bound(
    model: str | Path | nn.Module | Model,
    example: Any = None,
    *,
    input_shape: Sequence[int] | None = None,
    norm: str | float | tuple[Any, Any] | Norm = "2",
    methods: Sequence[str] | None = None,
    region: Box | Ball | None = None,
    output: str | int | tuple[int, int] = "vector",
    budget: float | None = None,
    rtol: float = 1e-6,
    seed: int = 0,
    device: str | Any = "cpu",
    certificate: str | Path | None = None,
    multipliers: str | None = None,
    solver: str | None = None,
    execution: str | None = None,
    resume: str | Path | Report | None = None,
    weight_in: Any = None,
    weight_out: Any = None,
    ranges: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
    journal: str | Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Certified interval `report.lower <= L <= report.upper` in the norms p -> q of `norm` ("1", "2", "inf", "1->2").

    `model`: a path, a module (with `example`, an input or a batch, or `input_shape`) or what `load` gave. `methods`:
    names, None for all. `region`: None for the whole input space. `output`: "vector", one logit "3", a difference
    "3-5", or all "pairs". `budget`: seconds; what is proved by then is kept. `rtol`: brackets on a region are closed to
    this. `certificate`: file from which `verify` proves the upper value again. `resume`: partial report of "pairs".
    `execution`: "float32", "bfloat16" or "float16": `report.summary["execution"]` has a proved bound of what an execution
    in it errs on the region. `ranges`: on a region, intervals of the outputs as well, in `report.summary["range"]`.
    `weight_in`, `weight_out`: weights of the norms, |W_out (f(x) - f(x'))| <= L |W_in (x - x')|: one number, one for each
    entry, or in l2 an invertible matrix. `workers`, `scheduler`, `journal`: of "pairs"; `journal` also of `lipsdp-torus`.
    `upper` is proved in real arithmetic, or None: `report.results` say why. Interrupted, KeyboardInterrupt has `partial_report`.
    """
    from lipcert.tasks import given
    from lipcert.tasks.bound import BoundRequest, bound
    from lipcert.tasks.workers import session

    with given.python_words():
        read = given.as_model(model, example, input_shape)
        asked = BoundRequest(
            norm=given.as_norm(norm),
            methods=given.as_methods(methods),
            region=region,
            output=given.as_output(output),
            rtol=given.as_relative(rtol),
            seed=given.as_seed(seed),
            device=given.as_device(device),
            certificate=certificate,
            multipliers=multipliers,
            solver=solver,
            execution=execution,
            ranges=ranges,
        )
        how = session(progress, given.as_number("budget", budget), workers, scheduler, journal, asked.device)
        return bound(given.as_weighted(read, weight_in, weight_out, given.as_norm(norm)), asked, how, resume)


def layers(
    model: str | Path | nn.Module | Model,
    example: Any = None,
    *,
    input_shape: Sequence[int] | None = None,
    norm: str | float | tuple[Any, Any] | Norm = "2",
    weight_in: Any = None,
    weight_out: Any = None,
    progress: Progress | None = None,
) -> Report:
    """The constant of each layer in `report.layers`: lower and upper of linear layers, upper of nonlinearities.

    `weight_in`, `weight_out`: as of `bound`; they count with the first and the last layer."""
    from lipcert.tasks import given
    from lipcert.tasks.layers import layers

    with given.python_words():
        return layers(
            given.as_weighted(given.as_model(model, example, input_shape), weight_in, weight_out, given.as_norm(norm)),
            norm=given.as_norm(norm),
            progress=progress,
        )


def inspect(
    model: str | Path | nn.Module | Model, example: Any = None, *, input_shape: Sequence[int] | None = None
) -> Report:
    """What was read: `report.parts`, and what each method can do with it: `report.methods`."""
    from lipcert.tasks import given
    from lipcert.tasks.inspect import inspect

    with given.python_words():
        return inspect(given.as_model(model, example, input_shape))


def verify(
    certificate: str | Path,
    model: str | Path | nn.Module | Model,
    *,
    norm: str | Norm | None = None,
    output: str | None = None,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    input_name: str | None = None,
    output_name: str | None = None,
    fix: Mapping[str, Any] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    reader: str = "own",
    explain: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Prove the claim of a certificate file again, without any solver: `report.summary["verdict"]`.

    What is said here of the question is compared with the certificate; the rest is read from it, was chosen by the
    prover, and is listed in `report.summary["prover_chose"]`. `explain`: `report.summary["steps"]`, the proof in words. A module is read with the shape of the certificate.
    """
    from lipcert.tasks import given
    from lipcert.tasks.verify import VerifyRequest, verify

    with given.python_words():
        request = VerifyRequest(
            norm=norm,
            output=output,
            input_shape=input_shape,
            input_name=input_name,
            output_name=output_name,
            fix=fix,
            mean=mean,
            std=std,
            reader=reader,
            explain=explain,
            seed=seed,
        )
        given.check_file("certificate", certificate)
        return verify(certificate, model, request, progress)
