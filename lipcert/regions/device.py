"""Proved sweeps on another device than the CPU.

The error terms hold for float64 with correctly rounded +, -, *, /, sqrt and dot products summed in any order, with or
without FMA, and for elementary functions to 8 units in the last place. CUDA promises that (Programming Guide, appendix on
floating point; float64 knows no TF32, and its functions err by 2 units at most), but for cuDNN, which may take a
convolution by Winograd or FFT, whose errors are others: so cuDNN is off inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from lipcert.terms.errors import UsageError


def available(device: str) -> str:
    """The same, or UsageError where torch has no such device here."""
    try:
        absent = torch.device(device).type == "cuda" and not torch.cuda.is_available()
    except RuntimeError:  # no name of a device
        absent = True
    if absent:
        raise UsageError(f"--device {device}: torch finds no such device here; give --device cpu")
    return device


@contextmanager
def proving_on(device: str) -> Iterator[None]:
    """Inside, tensors are made on the device, and its convolutions are sums of products."""
    if device == "cpu":
        yield
        return
    with torch.device(device), torch.backends.cudnn.flags(enabled=False):
        yield


def by_device(table: Mapping[str, int], device: torch.device) -> int:
    """An entry for the CPU, where work should stay in the cache, or for devices that want it all at once."""
    return table.get(device.type, table["cuda"])
