"""Certified Lipschitz constants of trained neural networks.

Importing this package is light: torch loads with the first `load`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lipcert.terms.version import __version__ as __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

    from lipcert.load.model import Model as Model
    from lipcert.report.comparison import Comparison as Comparison
    from lipcert.report.report import Report as Report
    from lipcert.terms.progress import Progress
    from lipcert.terms.query import Ball as Ball
    from lipcert.terms.query import Box as Box
    from lipcert.terms.query import Norm as Norm
    from lipcert.terms.result import Bound as Bound
    from lipcert.terms.result import Refusal as Refusal


_LAZY = {
    "Ball": "lipcert.terms.query",
    "Bound": "lipcert.terms.result",
    "Box": "lipcert.terms.query",
    "Comparison": "lipcert.report.comparison",
    "Model": "lipcert.load.model",
    "Norm": "lipcert.terms.query",
    "Refusal": "lipcert.terms.result",
    "Report": "lipcert.report.report",
}
__all__ = [
    "Ball",
    "Bound",
    "Box",
    "Comparison",
    "Model",
    "Norm",
    "Refusal",
    "Report",
    "bound",
    "compare",
    "inspect",
    "jacobian",
    "layers",
    "load",
    "local",
    "local_grid",
    "radius",
    "track",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'lipcert' has no attribute {name!r}")


# `lipcert.load` is also a room. Importing a submodule for the first time sets it as attribute of the package; done here,
# before the function of that name exists, it cannot replace it later.
import_module("lipcert.load")


def load(
    model: str | Path | nn.Module,
    example: Any = None,
    *,
    input_shape: Sequence[int] | None = None,
    input_name: str | None = None,
    output_name: str | None = None,
    reader: str = "own",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Model:
    """Read a model soundly: an .onnx, TorchScript or .pt2 file, or an nn.Module.

    `example`: an input, or a batch of inputs, of the module; or `input_shape`, the whole shape with a batch of 1.
    `input_name`, `output_name`: which one, where the model has several. `mean`, `std`: the network becomes
    f((x - mean) / std), so that constants and radii are in raw input units.

    Raises `UnreadableError` and `UsageError` (a file, an argument), and `RefusedModel`, which names the node.
    """
    from lipcert.load.model import load
    from lipcert.tasks import given

    with given.python_words():
        if example is not None:
            if input_shape is not None:
                raise given.UsageError("give an example input or input_shape, not both")
            shape = given.as_array(example, "the example input").shape
            input_shape = (1, *shape[1:]) if len(shape) > 1 else shape
        names = {"input_name": input_name, "output_name": output_name, "reader": reader}
        return load(model, input_shape=input_shape, mean=mean, std=std, seed=seed, progress=progress, **names)  # type: ignore[arg-type]


def bound(
    model: str | Path | nn.Module | Model,
    example: Any = None,
    *,
    input_shape: Sequence[int] | None = None,
    norm: str | float | Norm = "2",
    methods: Sequence[str] | None = None,
    region: Box | Ball | None = None,
    output: str = "vector",
    budget: float | None = None,
    rtol: float = 1e-6,
    seed: int = 0,
    device: str = "cpu",
    certificate: str | Path | None = None,
    multipliers: str | None = None,
    solver: str | None = None,
    execution: str | None = None,
    resume: str | Path | Report | None = None,
    weight_in: Any = None,
    weight_out: Any = None,
    ranges: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Certified interval `report.lower <= L <= report.upper` in the norms p -> q of `norm` ("1", "2", "inf", "1->2").

    `model`: a path, a module (with `example`, an input or a batch, or `input_shape`) or what `load` gave. `methods`:
    names, None for all. `region`: None for the whole input space. `output`: "vector", one logit "3", a difference
    "3-5", or all "pairs". `budget`: seconds; what is proved by then is kept. `rtol`: brackets on a region are closed to
    this. `certificate`: file from which `verify` proves the upper value again. `resume`: partial report of "pairs".
    `execution`: "float32", "bfloat16" or "float16": `report.summary["execution"]` has a proved bound of what an execution
    in it errs on the region.
    `ranges`: on a region, intervals of the outputs as well, in `report.summary["range"]`.

    `weight_in`, `weight_out`: weights of the norms, |W_out (f(x) - f(x'))| <= L |W_in (x - x')|: one number, one for each
    entry, or in l2 an invertible matrix.

    `upper` is proved in real arithmetic for the stored weights, or None: then `report.status` says unbounded or refused,
    and `report.results` why. Interrupted, it raises KeyboardInterrupt with `partial_report`.
    """
    from lipcert.tasks import given
    from lipcert.tasks.bound import bound

    with given.python_words():
        return bound(
            given.as_weighted(given.as_model(model, example, input_shape), weight_in, weight_out, given.as_norm(norm)),
            norm=given.as_norm(norm),
            methods=methods,
            region=region,
            output=output,
            budget=budget,
            rtol=rtol,
            seed=seed,
            device=device,
            certificate=certificate,
            multipliers=multipliers,
            solver=solver,
            execution=execution,
            resume=resume,
            ranges=ranges,
            progress=progress,
        )


def local(
    model: str | Path | nn.Module | Model,
    x: Any,
    eps: float | Sequence[float],
    *,
    input_shape: Sequence[int] | None = None,
    ball_norm: str = "2",
    norm: str | float | Norm = "2",
    output: str = "vector",
    y: Any = None,
    indices: Sequence[int] | None = None,
    methods: Sequence[str] | None = None,
    rtol: float = 0.01,
    budget: float = 1.0,
    execution: str | None = None,
    resume: str | Path | Report | None = None,
    seed: int = 0,
    device: str = "cpu",
    weight_in: Any = None,
    weight_out: Any = None,
    progress: Progress | None = None,
) -> Report:
    """Certified constants in the balls of radii `eps`, in `ball_norm`, around the rows of x (k, ...): `report.points`.

    `y`: labels, for the report. `indices`: the numbers of the rows there. `budget`: seconds per point and radius;
    `rtol`: brackets closer than this need no further method. `execution`: as of `bound`, in each ball. `weight_in`,
    `weight_out`: as of `bound`; then the balls are |W_in (x' - x)| <= eps, and W_in x has to be a float64 number.
    """
    from lipcert.tasks import balls as local_balls
    from lipcert.tasks import given

    with given.python_words():
        return local_balls.local(
            given.as_weighted(given.as_model_for(model, x, input_shape), weight_in, weight_out, given.as_norm(norm)),
            given.as_array(x),
            [eps] if isinstance(eps, int | float) else list(eps),
            ball_norm=ball_norm,  # type: ignore[arg-type]
            norm=given.as_norm(norm),
            output=output,
            y=given.as_labels(y),
            indices=indices,
            methods=methods,
            rtol=rtol,
            budget=budget,
            execution=execution,
            resume=resume,
            seed=seed,
            device=device,
            progress=progress,
        )


def local_grid(
    model: str | Path | nn.Module | Model,
    box: Box,
    shape: Sequence[int] | None = None,
    *,
    input_shape: Sequence[int] | None = None,
    norm: str | float | Norm = "2",
    output: str = "vector",
    rtol: float = 0.01,
    pairs: int = 0,
    jacobians: int = 0,
    plane: Any = None,
    budget: float | None = None,
    execution: str | None = None,
    resume: str | Path | Report | None = None,
    seed: int = 0,
    device: str = "cpu",
    weight_in: Any = None,
    weight_out: Any = None,
    progress: Progress | None = None,
) -> Report:
    """Certified constants in each cell of a grid over `box`: `report.summary["grid"]`, and `report.plot()`.

    `shape`: cells along each input (about 2500 in all by default). `pairs`, `jacobians`: samples per cell that raise the
    lower values. `plane`: a `lipcert.network.plane.Plane` in which the box lies. A module takes the shape of the box with a
    batch of 1, unless `input_shape` says another. `weight_out`: as of `bound`; a grid takes no `weight_in`.
    """
    from lipcert.tasks import given, grid

    with given.python_words():
        example = box.lower.reshape(1, -1) if input_shape is None and box.lower.ndim == 1 else box.lower
        return grid.grid(
            given.as_weighted(
                given.as_model_for(model, example, input_shape), weight_in, weight_out, given.as_norm(norm)
            ),
            box,
            shape,
            norm=given.as_norm(norm),
            output=output,
            rtol=rtol,
            pairs=pairs,
            jacobians=jacobians,
            plane=plane,
            budget=budget,
            execution=execution,
            resume=resume,
            seed=seed,
            device=device,
            progress=progress,
        )


def compare(
    before: str | Path | Report, after: str | Path | Report, *, tolerance: float = 0.0, other_names: bool = False
) -> Comparison:
    """What moved between two reports (files or `Report` objects) of one question, beyond the widths of the brackets.

    `tolerance`: relative moves up to it are none (0.01 is 1 %). `other_names`: inputs and outputs may have other names.
    UsageError names the first field in which the two questions differ.
    """
    from lipcert.tasks import compare as task

    return task.compare(before, after, tolerance=tolerance, other_names=other_names)


def inspect(
    model: str | Path | nn.Module | Model, example: Any = None, *, input_shape: Sequence[int] | None = None
) -> Report:
    """What was read: `report.parts`, and what each method can do with it: `report.methods`."""
    from lipcert.tasks import given
    from lipcert.tasks.inspect import inspect

    with given.python_words():
        return inspect(given.as_model(model, example, input_shape))


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
    norm: str | float | Norm = "2",
    resume: str | Path | Report | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Report:
    """Statistics of Jacobian norms at the data x (k, ...), or at `samples` random points of the box `region`.

    `around`: also at x with noise of this standard deviation; `between`: also between two data points. `per_class`,
    `laplacian`: with labels y (k,). `from_node`, `to_node`: of a part of the network. Results:
    `report.summary["jacobian"]`, and a row per point in `report.points`. They are measurements; `report.lower` alone is
    a bound of L.
    """
    from lipcert.tasks import given
    from lipcert.tasks import jacobian as measure

    with given.python_words():
        loaded = given.as_model(model, None, input_shape) if x is None else given.as_model_for(model, x, input_shape)
        return measure.jacobian(
            loaded,
            None if x is None else given.as_array(x),
            y=given.as_labels(y),
            region=region,
            samples=samples,
            around=around,
            between=between,
            per_class=per_class,
            from_node=from_node,
            to_node=to_node,
            laplacian=laplacian,
            norm=given.as_norm(norm),
            resume=resume,
            seed=seed,
            device=device,
            progress=progress,
        )


def layers(
    model: str | Path | nn.Module | Model,
    example: Any = None,
    *,
    input_shape: Sequence[int] | None = None,
    norm: str | float | Norm = "2",
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


def radius(
    model: str | Path | nn.Module | Model,
    x: Any,
    y: Any = None,
    *,
    input_shape: Sequence[int] | None = None,
    norm: str | float | Norm = "2",
    methods: Sequence[str] | None = None,
    eps: float | Sequence[float] = (),
    tolerance: float | None = None,
    attack: Any = None,
    adversarial: str | Path | None = None,
    execution: str | None = None,
    resume: str | Path | Report | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Certified robustness radii of samples x (k, ...) with labels y (k,), in the norm of `norm`: `report.points`.

    Every input closer to a sample than its radius keeps the class; radii are rounded down. `eps`: certified accuracy at
    these radii, in `report.summary["certified"]`. `tolerance`: regression, each output moves by at most this much.
    `attack`: a `lipcert.sampling.attack.Pgd` beside it, which bounds the radii from above.
    `execution`: "float32", "bfloat16" or "float16": radii that hold for the network executed so, too.
    """
    from lipcert.tasks import given
    from lipcert.tasks.radius import task as robustness

    with given.python_words():
        return robustness.radius(
            given.as_model_for(model, x, input_shape),
            given.as_array(x),
            given.as_labels(y),
            norm=given.as_norm(norm),
            methods=methods,
            eps=[eps] if isinstance(eps, int | float) else list(eps),
            tolerance=tolerance,
            attack=attack,
            adversarial=adversarial,
            execution=execution,
            resume=resume,
            seed=seed,
            progress=progress,
        )


def track(
    checkpoints: Sequence[str | Path] | str | Path,
    *,
    norm: str | float | Norm = "2",
    methods: Sequence[str] = ("product", "sampled", "lipsdp"),
    x: Any = None,
    y: Any = None,
    budget: float | None = None,
    input_shape: Sequence[int] | None = None,
    input_name: str | None = None,
    output_name: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    resume: str | Path | Report | None = None,
    progress: Progress | None = None,
) -> Report:
    """Layer constants, `methods` and, at data `x` (k, *input_shape), Jacobian statistics along training.

    `checkpoints`: files, folders (each a series) and patterns, in natural order: `report.summary["track"]["checkpoints"]`
    has a row per file. `y`: labels (k,), for the accuracy. `budget`: seconds of the methods for each checkpoint.
    `resume`: an earlier report of it; checkpoints that it has are not measured again.
    """
    from lipcert.tasks import given
    from lipcert.tasks import track as task

    asked = {"input_shape": input_shape, "input_name": input_name, "output_name": output_name, "mean": mean, "std": std}
    with given.python_words():
        return task.track(
            checkpoints,
            norm=given.as_norm(norm),
            methods=methods,
            x=None if x is None else given.as_array(x),
            y=given.as_labels(y),
            budget=budget,
            seed=seed,
            resume=resume,
            progress=progress,
            **asked,  # type: ignore[arg-type]
        )


def verify(
    certificate: str | Path,
    model: str | Path | nn.Module | Model,
    *,
    norm: str | Norm | None = None,
    output: str | None = None,
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
    """Prove the claim of a certificate file again, without any solver: `report.summary["verdict"]`.

    What is said here of the question is compared with the certificate; the rest is read from it, was chosen by the
    prover, and is listed in `report.summary["prover_chose"]`. `explain`: `report.summary["steps"]`, the proof in words. A module is read with the shape of the certificate.
    """
    from lipcert.tasks import given
    from lipcert.tasks.verify import verify

    with given.python_words():
        return verify(
            certificate,
            model,
            norm=norm,
            output=output,
            input_shape=input_shape,
            input_name=input_name,
            output_name=output_name,
            mean=mean,
            std=std,
            reader=reader,
            explain=explain,
            seed=seed,
            progress=progress,
        )
