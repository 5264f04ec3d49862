"""What a Python caller gives, as the tasks need it: models, data and errors that speak Python."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lipcert.load.model import Model, load
from lipcert.terms.added import added
from lipcert.terms.errors import RefusedModel, UnreadableError, UsageError
from lipcert.terms.query import Box, Norm

WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}
INSTEAD: dict[tuple[str, ...], str] = {  # what people have at hand, and how it becomes a model
    ("OrderedDict", "dict"): ": build the module and give it its weights with module.load_state_dict(...)",
    ("ExportedProgram",): ": save it, torch.export.save(program, 'model.pt2'), and give the path",
    ("ModelProto",): ": save it, onnx.save(model, 'model.onnx'), and give the path",
    ("InferenceSession",): ": give the path of its ONNX file",
    ("class",): ": make one first, such as Net()",
    ("function", "method"): ": put it into the forward of a torch.nn.Module",
}
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
    shape = None if input_shape is None else as_shape(input_shape)
    if example is not None:
        shape = tuple(as_array(example, "the example input").shape)
        shape = (1, *shape[1:]) if len(shape) > 1 else shape
    if isinstance(model, Model):
        if shape is not None and shape != model.input_shape:
            raise UsageError(f"the example input is {shape}, and this model was read for inputs {model.input_shape}")
        return model
    model = as_source(model)
    if shape is None and isinstance(model, torch.nn.Module):
        raise UsageError(
            "an nn.Module does not record its input shape: give an example input after it, or input_shape=(1, 3, 32, 32)"
        )
    return loaded(model, shape, example is not None)


def loaded(model: Any, shape: Any, from_example: bool, **options: Any) -> Model:
    """`load`; where a module cannot be called with the shape of an example, the error says what it was called with."""
    try:
        return load(model, input_shape=shape, **options)
    except RefusedModel as problem:
        if not from_example or not isinstance(model, torch.nn.Module) or not str(problem).startswith("capture: "):
            raise
        told = f"It was called with float numbers of shape {shape}: the example input has one input in each row"
        raise RefusedModel(
            f"{str(problem).rstrip('.')}. {told}; of a single input give x[None]", node=problem.node
        ) from problem


def as_shape(shape: Any) -> tuple[int, ...]:
    try:
        return tuple(int(n) for n in shape)
    except (TypeError, ValueError) as problem:
        raise UsageError(
            f"input_shape: whole numbers, a batch of 1 first, such as (1, 3, 32, 32), not {shape!r}"
        ) from problem


def as_source(model: Any) -> Any:
    """A path or a module, out of the wrappers that training puts around one; UsageError says what to do with the rest."""
    while isinstance(model, torch.nn.Module) and type(model).__name__ in WRAPPERS:
        model = getattr(model, WRAPPERS[type(model).__name__])
    if isinstance(model, torch.nn.Module):
        if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
            raise UsageError("the module is on the meta device: its weights have no values; load them first")
        return model
    if isinstance(model, str | Path):
        if re.match(r"[a-z][a-z0-9+.-]+:/", str(model), re.IGNORECASE) and not Path(model).exists():
            raise UnreadableError(f"{model}: this is an address, and lipcert reads files only; download it first")
        return model
    kind = "class" if isinstance(model, type) else type(model).__name__
    hint = next((hint for names, hint in INSTEAD.items() if kind in names), "")
    raise UsageError(f"a model is a path, a torch.nn.Module or a lipcert.Model, not a {kind}{hint}")


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
        values = values.detach().cpu()
        values = (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()
    if isinstance(values, torch.utils.data.Dataset | torch.utils.data.DataLoader):
        raise UsageError(
            f"{what}: an array or a tensor of inputs, not a {type(values).__name__}; take some out of it first"
        )
    if isinstance(values, str | Path):
        raise UsageError(f"{what}: numbers are needed, not a file; read it first, such as numpy.load({str(values)!r})")
    try:
        found = np.asarray(values)
    except ValueError as problem:  # rows of different lengths
        raise UsageError(f"{what}: not an array: {problem}") from problem
    if found.dtype.kind not in "fiub":
        raise UsageError(f"{what}: numbers are needed, not {found.dtype}")
    return found


def as_samples(x: Any, model: Model) -> np.ndarray:
    """Inputs in rows, (k, ...); a single input of the model's shape is one row."""
    found = as_array(x)
    single = found.shape == model.input_shape[1:] or (found.ndim == 1 and found.shape == model.input_shape)
    found = found[None] if single else found
    if found.size != (len(found) if found.ndim else 0) * math.prod(model.input_shape):
        raise UsageError(f"x: data of shape {found.shape} are not samples of shape {model.input_shape}")
    return found


def as_indices(indices: Any, x: np.ndarray) -> list[int] | None:
    """The numbers by which the rows of x go in the report."""
    if indices is None:
        return None
    found = as_array(indices, "indices").reshape(-1).tolist()
    if len(found) != len(x) or not all(isinstance(n, int) for n in found):
        raise UsageError(f"indices: a whole number for each of the {len(x)} rows of x, got {len(found)}")
    return found


def as_norm(norm: Any) -> Norm:
    """ "2", 2, inf, "1->2", (1, 2) or a Norm; as reports write it, too: "l2", "linf"."""
    if isinstance(norm, tuple | list) and len(norm) == 2:
        norm = f"{norm[0]}->{norm[1]}"
    return Norm.parse(norm)


def as_output(output: Any) -> str:
    """ "vector", "3", "3-5", "pairs" or "each"; numbers: 3, (3, 5)."""
    if isinstance(output, tuple | list) and len(output) == 2:
        return f"{output[0]}-{output[1]}"
    return str(output)


def as_methods(methods: Any) -> Sequence[str] | None:
    return [methods] if isinstance(methods, str) else methods


def as_numbers(name: str, values: Any) -> list[float]:
    """One number or several."""
    if isinstance(values, str):
        raise UsageError(f"{name}: a number or a list of numbers, not {values!r}")
    return as_array(values, name).astype(float).reshape(-1).tolist()


def as_number(name: str, value: Any) -> float | None:
    """A finite number from 0, or None."""
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, int | float | np.number) or not 0 <= value < float("inf"):
        raise UsageError(f"{name}: a finite number from 0, or None, not {value!r}")
    return float(value)


def as_range(name: str, value: Any) -> tuple[float, float] | None:
    """(low, high) with low <= high, either may be infinite; or None."""
    if value is None:
        return None
    try:
        low, high = (float(end) for end in value)
    except (TypeError, ValueError, OverflowError):
        low, high = 1.0, 0.0
    if isinstance(value, str) or not low <= high:
        raise UsageError(f"{name}: two numbers (low, high), or None, not {value!r}")
    return low, high


def as_relative(rtol: Any) -> float:
    found = as_number("rtol", rtol)
    if found is None:
        raise UsageError("rtol: a number, such as 0.01 for 1 %")
    return found


def as_seconds(each: Any) -> float:
    found = as_number("each", each)
    if found is None:
        raise UsageError("each: seconds for each ball, a number")
    return found


def as_seed(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise UsageError(f"seed: a whole number, not {seed!r}")
    return int(seed)


def as_device(device: Any) -> str:
    name = str(device)
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise UsageError(f"device {name}: devices are cpu and cuda (float64 is needed)")
    return name


def as_cells(shape: Any) -> tuple[int, ...] | None:
    """Of a grid: cells along each input."""
    if shape is None:
        return None
    try:
        return tuple(operator.index(n) for n in shape)
    except TypeError as problem:
        raise UsageError(f"shape: cells along each input, such as (50, 50), not {shape!r}") from problem


def as_attack(attack: Any) -> Any:
    from lipcert.sampling.attack import Pgd

    if attack is True:
        return Pgd()
    if attack in (None, False):
        return None
    if not isinstance(attack, Pgd):
        raise UsageError(f"attack: True, or a lipcert.sampling.attack.Pgd, not {attack!r}")
    return attack


def check_box(box: Any) -> None:
    if not isinstance(box, Box):
        raise UsageError(f"box: a lipcert.Box(lower, upper), not a {type(box).__name__}")


def check_file(name: str, path: Any, or_else: str = "") -> None:
    if not isinstance(path, str | Path):
        raise UsageError(f"{name}: the path of a file{' ' + or_else if or_else else ''}, not a {type(path).__name__}")


def as_labels(y: Any) -> np.ndarray | None:
    return None if y is None else as_array(y, "y").reshape(-1)


@contextmanager
def python_words() -> Iterator[None]:
    """Errors of the command line's words, in those of a Python caller: `--norm 3` is `norm 3`."""
    try:
        yield
    except (UsageError, RefusedModel) as problem:
        words = in_python(str(problem)) if isinstance(problem, UsageError) or added(str(problem))[1] else str(problem)
        if words == str(problem):
            raise
        if isinstance(problem, RefusedModel):
            raise RefusedModel(words, node=problem.node, unbounded=problem.unbounded) from problem
        raise UsageError(words) from problem


def in_python(text: str) -> str:
    said, more = added(text)
    if more:
        return f"{in_python(said)}; add, in lipcert.load: {_keywords(more)}"
    return re.sub(r"--[a-z][a-z-]*", lambda found: PYTHON_NAMES.get(found[0], found[0][2:].replace("-", "_")), text)


def _keywords(flags: Sequence[tuple[str, str]]) -> str:
    """Options of the command line that choose inputs and outputs, as arguments of `load`."""
    shapes: dict[str, tuple[int | str, ...]] = {}
    held: dict[str, int | str] = {}
    said = {}
    for flag, value in flags:
        name, _, last = value.rpartition("=")
        if flag == "--input-shape":
            shapes[name] = tuple(map(_number, last.split(",")))
        elif flag == "--fix":
            held[name] = _number(last)
        else:
            said[flag[2:].replace("-", "_")] = value
    words = [f"{name}={value!r}" for name, value in said.items()]
    words += [f"input_shape={shapes.get('', shapes)!r}"] if shapes else []
    return ", ".join(words + ([f"fix={held!r}"] if held else []))


def _number(word: str) -> int | str:
    """What is suggested is whole; a name with the mark of a suggestion in it is none of ours."""
    return int(word) if word.removeprefix("-").isdecimal() else word
