"""What a Python caller gives, as the tasks need it: models, data and errors that speak Python."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lipcert.load.model import Model, load
from lipcert.terms.errors import UsageError
from lipcert.terms.query import Norm

# Flags whose Python name is another one; all others are their own name with underscores.
PYTHON_NAMES = {
    "--method": "methods",
    "--box": "region=Box(...)",
    "--at": "region=Ball(...)",
    "--grid": "shape",
    "--data": "x",
    "--from": "from_node",
    "--to": "to_node",
}


def as_model(model: Any, example: Any = None, input_shape: Sequence[int] | None = None) -> Model:
    """A path, a module or a loaded model. `example`: an input or a batch of them, for its shape; `input_shape`: the whole
    shape, batch of 1 included. One of the two is needed for a module, and for a file that does not fix its shape."""
    if example is not None and input_shape is not None:
        raise UsageError("give an example input or input_shape, not both")
    shape = None if input_shape is None else tuple(int(n) for n in input_shape)
    if example is not None:
        shape = tuple(as_array(example, "the example input").shape)
        shape = (1, *shape[1:]) if len(shape) > 1 else shape
    if isinstance(model, Model):
        if shape is not None and shape != model.input_shape:
            raise UsageError(f"the example input is {shape}, and this model was read for inputs {model.input_shape}")
        return model
    if not isinstance(model, str | Path | torch.nn.Module):
        raise UsageError(f"a model is a path, a torch.nn.Module or a lipcert.Model, not a {type(model).__name__}")
    if shape is None and isinstance(model, torch.nn.Module):
        raise UsageError(
            "an nn.Module does not record its input shape: give an example input after it, or input_shape=(1, 3, 32, 32)"
        )
    return load(model, input_shape=shape)


def as_weighted(model: Model, weight_in: Any, weight_out: Any, norm: Norm) -> Model:
    """Lists, arrays or tensors of weights, None for none."""
    if weight_in is None and weight_out is None:
        return model
    from lipcert.load.weights import weighted

    before = None if weight_in is None else as_array(weight_in, "weight_in")
    behind = None if weight_out is None else as_array(weight_out, "weight_out")
    return weighted(model, before, behind, norm)


def as_model_for(model: Any, x: Any, input_shape: Sequence[int] | None) -> Model:
    """The model of samples x (k, ...), whose shape tells the input's where nothing else does."""
    if isinstance(model, torch.nn.Module) and input_shape is None:
        return as_model(model, x)
    return as_model(model, None, input_shape)


def as_array(values: Any, what: str = "x") -> np.ndarray:
    """Lists, arrays and tensors (of any device, with or without gradient) as a numpy array of numbers."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    try:
        found = np.asarray(values)
    except ValueError as problem:  # rows of different lengths
        raise UsageError(f"{what}: not an array: {problem}") from problem
    if found.dtype.kind not in "fiub":
        raise UsageError(f"{what}: numbers are needed, not {found.dtype}")
    return found


def as_norm(norm: Any) -> Norm:
    """ "2", 2, inf, "1->2" or a Norm."""
    return Norm.parse(norm)


def as_labels(y: Any) -> np.ndarray | None:
    return None if y is None else as_array(y, "y").reshape(-1)


@contextmanager
def python_words() -> Iterator[None]:
    """Errors of the command line's words, in those of a Python caller: `--norm 3` is `norm 3`."""
    try:
        yield
    except UsageError as problem:
        words = in_python(str(problem))
        if words == str(problem):
            raise
        raise UsageError(words) from problem


def in_python(text: str) -> str:
    said, semicolon, flags = text.rpartition("; add: ")
    if semicolon:
        return f"{in_python(said)}; add: {_keywords(shlex.split(flags))}"
    return re.sub(r"--[a-z][a-z-]*", lambda found: PYTHON_NAMES.get(found[0], found[0][2:].replace("-", "_")), text)


def _keywords(flags: Sequence[str]) -> str:
    """Options of the command line that choose inputs and outputs, as arguments of `load`."""
    shapes: dict[str, tuple[int, ...]] = {}
    held: dict[str, float] = {}
    said = {}
    for flag, value in zip(flags[::2], flags[1::2], strict=True):
        name, _, last = value.rpartition("=")
        if flag == "--input-shape":
            shapes[name] = tuple(int(n) for n in last.split(","))
        elif flag == "--fix":
            held[name] = int(last)
        else:
            said[flag[2:].replace("-", "_")] = value
    words = [f"{name}={value!r}" for name, value in said.items()]
    words += [f"input_shape={shapes.get('', shapes)!r}"] if shapes else []
    return ", ".join(words + ([f"fix={held!r}"] if held else []))
