"""What every reader hands to capture: a module of one tensor in, one tensor out, and something to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

Format = Literal["onnx", "torchscript", "pt2", "module"]


@dataclass(frozen=True)
class Reference:
    """The original object, evaluated outside lipcert (gate 5 of DESIGN section 5).

    `evaluate`: (k, *input_shape) float64 -> (k, *output_shape) float64, each row one call of the original.
    It runs where the file was read, in a step of its own, and raises LipcertError where the original cannot run.
    """

    name: str  # "onnxruntime", "torch", "torchscript"
    evaluate: Callable[[np.ndarray], np.ndarray]
    dtype: str = "float32"  # arithmetic of the original; sets the tolerance of the comparison
    # (k, *input_shape) -> the largest error that this arithmetic makes at the points, measured; None: it cannot be
    rounding: Callable[[np.ndarray], float] | None = None
    # as `evaluate`, by the format's own definition: where large inputs leave what kernels of `evaluate` can do; None: none
    definition: Callable[[np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True)
class Source:
    module: torch.nn.Module  # eval mode; forward(x) with x of the example's shape and dtype
    example: torch.Tensor  # zeros of the fixed input shape (batch 1 included where the model has one)
    format: Format
    input_name: str
    output_name: str
    references: tuple[Reference, ...] = ()
    warnings: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = field(default_factory=tuple)
    ours: bool = False  # the module's code is lipcert's, so that capture may follow it by its own trace
    files: tuple[str, ...] = ()  # beside the model's, relative to its folder: where its weights lie
    inputs: Mapping[str, Any] = field(default_factory=dict)  # "parts" of x and what is "fixed", see `Chosen.described`
