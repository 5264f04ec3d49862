"""The original object as references for gate 5: in its own arithmetic, and promoted to float64 where it can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from lipcert.load.source import Reference

Run = Callable[[np.ndarray, torch.dtype], np.ndarray]


def references(name: str, run: Run, example: torch.Tensor) -> tuple[Reference, ...]:
    """`run(points, dtype)`: (k, *input_shape) float64 -> (k, *output_shape) float64, evaluated in `dtype`.

    The promoted run shows errors that the rounding of a 16- or 32-bit original would hide. Some originals fix a dtype
    inside and cannot be promoted; then there is one reference.
    """
    kind = str(example.dtype).removeprefix("torch.")
    own = Reference(name, lambda points: run(points, example.dtype), kind)
    if example.dtype == torch.float64:
        return (own,)
    try:
        run(example.double().numpy()[None], torch.float64)
    except Exception:
        return (own,)

    def rounding(points: np.ndarray) -> float:
        return float(np.max(np.abs(run(points, example.dtype) - run(points, torch.float64)), initial=0.0))

    own = replace(own, rounding=rounding)
    return own, Reference(f"{name} in float64", lambda points: run(points, torch.float64), "float64")


def rows(call: Callable[[torch.Tensor], torch.Tensor], points: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """One call for each point, on a tensor of its own: a module may change its input in place."""
    with torch.no_grad():
        return torch.stack([call(torch.from_numpy(point.copy()).to(dtype)).double() for point in points]).numpy()
