"""A model, from wherever it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from lipcert.load.model import Model
    from lipcert.terms.progress import Progress


def load(
    model: str | Path | nn.Module,
    example: Any = None,
    *,
    input_shape: Sequence[Any] | Mapping[str, Any] | None = None,
    input_name: str | Sequence[str] | None = None,
    output_name: str | None = None,
    fix: Mapping[str, Any] | None = None,
    reader: str = "own",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Model:
    """Read a model soundly: an .onnx, TorchScript or .pt2 file, or an nn.Module.

    `example`: an input, or a batch of inputs, of the module; or `input_shape`, the whole shape with a batch of 1.
    `input_name`, `output_name`: which one, where the model has several; ["state", "action"] move together as one vector, their
    entries one after another. `fix`: what other inputs are held at, such as {"sr": 16000, "state": 0}: a number for all
    entries, or an array; then `input_shape` may be {"x": (1, 512)}, with shapes or example tensors, in nests where an argument
    of a module is one. `mean`, `std`: the network becomes
    f((x - mean) / std), so that constants and radii are in raw input units.

    Raises `UnreadableError` and `UsageError` (a file, an argument), and `RefusedModel`, which names the node.
    """
    from lipcert.tasks import given

    with given.python_words():
        if example is not None:
            if input_shape is not None:
                raise given.UsageError("give an example input or input_shape, not both")
            shape = given.as_array(example, "the example input").shape
            input_shape = (1, *shape[1:]) if len(shape) > 1 else shape
        names = {"input_name": input_name, "output_name": output_name, "fix": fix, "reader": reader}
        options = {**names, "mean": mean, "std": std, "seed": given.as_seed(seed), "progress": progress}
        return given.loaded(given.as_source(model), input_shape, example is not None, **options)
