"""A second ONNX reader, by the package onnx2torch. Off the certified path: what it gives must pass the parity gate.

It is known to convert some graphs wrongly (DESIGN section 5), and it runs node names as code, so it is handed the
checked graph with safe names and nothing else.
"""

from __future__ import annotations

import importlib
import sys
import types

import torch

from lipcert.load.onnx.file import OnnxGraph
from lipcert.load.onnx.tensor import shown
from lipcert.terms.errors import RefusedModel, UsageError

# Their only use is torchvision's detection operators; an empty module spares importing torchvision.
_NEEDS_TORCHVISION = ("onnx2torch.node_converters.nms", "onnx2torch.node_converters.roialign")


def convert(graph: OnnxGraph, shape: tuple[int, ...]) -> torch.nn.Module:
    """The converted module in eval mode, float64. UsageError where the package is missing, else RefusedModel."""
    dims = graph.model.graph.input[0].type.tensor_type.shape.dim
    del dims[:]
    for size in shape:
        dims.add(dim_value=size)
    try:
        for name in _NEEDS_TORCHVISION:
            sys.modules.setdefault(name, types.ModuleType(name))
        onnx2torch = importlib.import_module("onnx2torch")
    except ImportError as error:
        raise UsageError(
            f"--reader onnx2torch: {shown(str(error))}. Install it with: pip install 'lipcert[onnx2torch]'"
        ) from None
    try:
        module = onnx2torch.convert(graph.model)
    except Exception as error:  # its errors have no common type
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RefusedModel(f"onnx2torch cannot convert this model ({shown(first)}). Use --reader own.") from None
    return module.eval().to(torch.float64)
