"""Constants and statistics around points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

    from lipcert.load.model import Model
    from lipcert.report.report import Report
    from lipcert.terms.progress import Progress
    from lipcert.terms.query import Box, Norm


def local(
    model: str | Path | nn.Module | Model,
    x: Any,
    eps: float | Sequence[float] | Any,
    *,
    input_shape: Sequence[int] | None = None,
    ball_norm: str | float = "2",
    norm: str | float | tuple[Any, Any] | Norm = "2",
    output: str | int | tuple[int, int] = "vector",
    y: Any = None,
    indices: Sequence[int] | None = None,
    methods: Sequence[str] | None = None,
    rtol: float = 0.01,
    each: float = 1.0,
    budget: float | None = None,
    execution: str | None = None,
    resume: str | Path | Report | None = None,
    seed: int = 0,
    device: str | Any = "cpu",
    weight_in: Any = None,
    weight_out: Any = None,
    workers: int | None = None,
    scheduler: str | None = None,
    journal: str | Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Certified constants in the balls of radii `eps`, in `ball_norm`, around the rows of x (k, ...): `report.points`.

    `y`: labels, for the report. `indices`: the numbers of the rows there. `each`: seconds for each ball, after which
    no further method is begun; `budget`: for all; `rtol`: brackets closer than this need no further method. `execution`: as of `bound`, in each ball. `weight_in`,
    `weight_out`: as of `bound`; then the balls are |W_in (x' - x)| <= eps, and W_in x has to be a float64 number.

    `workers`: processes of this machine; `scheduler`: "local", "local:N" or the address of a Dask scheduler; `journal`: file
    that keeps what is done, from which the same call goes on.
    """
    from lipcert.tasks import balls as local_balls
    from lipcert.tasks import given
    from lipcert.tasks.workers import session

    with given.python_words():
        how = session(progress, given.as_number("budget", budget), workers, scheduler, journal, given.as_device(device))
        read = given.as_model_for(model, x, input_shape)
        samples = given.as_samples(x, read)
        asked = local_balls.BallsRequest(
            x=samples,
            eps=given.as_numbers("eps", eps),
            ball_norm=given.as_norm(ball_norm).input,
            norm=given.as_norm(norm),
            output=given.as_output(output),
            y=given.as_labels(y),
            indices=given.as_indices(indices, samples),
            methods=given.as_methods(methods),
            rtol=given.as_relative(rtol),
            each=given.as_seconds(each),
            execution=execution,
            seed=given.as_seed(seed),
            device=given.as_device(device),
        )
        loaded = given.as_weighted(read, weight_in, weight_out, given.as_norm(norm))
        return local_balls.local(loaded, asked, how, resume)


def local_grid(
    model: str | Path | nn.Module | Model,
    box: Box,
    shape: Sequence[int] | None = None,
    *,
    input_shape: Sequence[int] | None = None,
    norm: str | float | tuple[Any, Any] | Norm = "2",
    output: str | int | tuple[int, int] = "vector",
    rtol: float = 0.01,
    pairs: int = 0,
    jacobians: int = 0,
    plane: Any = None,
    budget: float | None = None,
    execution: str | None = None,
    regions: bool = False,
    certificate: str | Path | None = None,
    resume: str | Path | Report | None = None,
    seed: int = 0,
    device: str | Any = "cpu",
    weight_in: Any = None,
    weight_out: Any = None,
    workers: int | None = None,
    scheduler: str | None = None,
    journal: str | Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Certified constants in each cell of a grid over `box`: `report.summary["grid"]`, and `report.plot()`.

    `shape`: cells along each input (about 2500 in all by default). `pairs`, `jacobians`: samples per cell that raise the
    lower values. `plane`: a `lipcert.network.plane.Plane` in which the box lies. A module takes the shape of the box with a
    batch of 1, unless `input_shape` says another. `regions`: the polygons on which the network is linear, with the norm of
    the Jacobian on each, are `report.summary["regions"]["polygons"]` and `["norms"]`. `certificate`: file from which
    `verify` proves each cell again. `weight_out`: as of `bound`; a grid takes no `weight_in`. `workers`, `scheduler`,
    `journal`: as of `local`.
    """
    from lipcert.tasks import given, grid
    from lipcert.tasks.workers import session

    with given.python_words():
        seconds, place = given.as_number("budget", budget), given.as_device(device)
        how = session(progress, seconds, workers, scheduler, journal, place)
        given.check_box(box)
        example = box.lower.reshape(1, -1) if input_shape is None and box.lower.ndim == 1 else box.lower
        read = given.as_model_for(model, example, input_shape)
        asked = grid.GridRequest(
            box=box,
            shape=given.as_cells(shape),
            norm=given.as_norm(norm),
            output=given.as_output(output),
            rtol=given.as_relative(rtol),
            pairs=pairs,
            jacobians=jacobians,
            plane=plane,
            execution=execution,
            regions=regions,
            certificate=certificate,
            seed=given.as_seed(seed),
            device=place,
        )
        return grid.grid(given.as_weighted(read, weight_in, weight_out, given.as_norm(asked.norm)), asked, how, resume)


def jacobian(
    model: str | Path | nn.Module | Model,
    x: Any = None,
    *,
    input_shape: Sequence[int] | None = None,
    y: Any = None,
    region: Box | None = None,
    samples: int = 1000,
    around: float | None = None,
    between: bool = False,
    per_class: bool = False,
    from_node: str | None = None,
    to_node: str | None = None,
    laplacian: bool = False,
    prove: bool = False,
    budget: float | None = None,
    norm: str | float | tuple[Any, Any] | Norm = "2",
    resume: str | Path | Report | None = None,
    seed: int = 0,
    device: str | Any = "cpu",
    workers: int | None = None,
    scheduler: str | None = None,
    journal: str | Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Statistics of Jacobian norms at the data x (k, ...), or at `samples` random points of the box `region`.

    `around`: also at x with noise of this standard deviation; `between`: also between two data points. `per_class`,
    `laplacian`: with labels y (k,). `from_node`, `to_node`: of a part of the network. `prove`: on all of
    the box, in `budget` seconds (30): ranges of the entries, monotone inputs, smallest singular value and bi-Lipschitz
    constant, in `report.summary["jacobian"]["proved"]`. Results:
    `report.summary["jacobian"]`, and a row per point in `report.points`. They are measurements; `report.lower` alone is
    a bound of L.
    """
    from lipcert.tasks import given
    from lipcert.tasks import jacobian as measure
    from lipcert.tasks.workers import session

    with given.python_words():
        loaded = given.as_model(model, None, input_shape) if x is None else given.as_model_for(model, x, input_shape)
        asked = measure.JacobianRequest(
            x=None if x is None else given.as_samples(x, loaded),
            y=given.as_labels(y),
            region=region,
            samples=samples,
            around=given.as_number("around", around),
            between=between,
            per_class=per_class,
            from_node=from_node,
            to_node=to_node,
            laplacian=laplacian,
            prove=prove,
            norm=given.as_norm(norm),
            seed=given.as_seed(seed),
            device=given.as_device(device),
        )
        seconds, place = given.as_number("budget", budget), given.as_device(device)
        how = session(progress, seconds, workers, scheduler, journal, place)
        return measure.jacobian(loaded, asked, how, resume)
