"""Casts of constants: rounded exactly as the file says, and then exact.

A cast is part of the function that the file stores, unlike the rounding of a runtime's arithmetic: w.half().float() is
the network with the weights of w.half(). A cast between float types that loses nothing, or that repeats the type which
the value has already, is the identity, also of a computed constant (whose real value need not be a number of its type).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.rigor.constants import Constant, from_ends
from lipcert.rigor.rounding import FORMATS, rounded
from lipcert.terms.errors import RefusedModel

WIDER: dict[torch.dtype, tuple[torch.dtype, ...]] = {  # the types that hold every value of the first
    torch.float16: (torch.float16, torch.float32, torch.float64),
    torch.bfloat16: (torch.bfloat16, torch.float32, torch.float64),
    torch.float32: (torch.float32, torch.float64),
    torch.float64: (torch.float64,),
}


def candidates(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What a cast from float64 may give: runtimes go to 16 bits directly, or through float32 (rounding twice)."""
    return rounded(x, dtype), rounded(finite(rounded(x, torch.float32)), dtype)


def finite(x: Tensor) -> Tensor:
    """x, refused where a cast has overflowed."""
    if not bool(torch.isfinite(x).all()):
        raise RefusedModel("a constant is not finite, or too large for its type")
    return x


def cast(value: Constant | Tensor, source: torch.dtype, target: torch.dtype) -> Constant | Tensor:
    """A constant of the file's type `source` cast to `target`. Rounding is monotone, so ends are rounded to ends."""
    if isinstance(value, Tensor):  # whole numbers and booleans
        if not target.is_floating_point:
            return value.to(target)
        direct = value.to(target).to(torch.float64)  # one rounding, by the processor, to 32 and 64 bits
        through = finite(value.to(torch.float32).to(target).to(torch.float64)) if target in FORMATS else direct
        return from_ends(finite(torch.minimum(direct, through)), torch.maximum(direct, through))
    if not target.is_floating_point:
        return _truncated(value, target)
    if target in WIDER.get(source, ()):
        return value
    if target not in FORMATS:
        raise RefusedModel(f"a constant is cast from {source} to {target}")
    hidden = value.centre == -torch.inf  # every type has it
    if bool(hidden.any()):
        rest = cast(Constant(torch.where(hidden, 0.0, value.centre), value.radius), source, target)
        assert isinstance(rest, Constant)
        return Constant(torch.where(hidden, value.centre, rest.centre), rest.radius)
    low, high = candidates(value.lower, target), candidates(value.upper, target)
    return from_ends(finite(torch.minimum(*low)), finite(torch.maximum(*high)))


def _truncated(value: Constant, target: torch.dtype) -> Tensor:
    if target == torch.bool:
        if value.radius is not None and bool(((value.lower <= 0) & (value.upper >= 0)).any()):
            raise RefusedModel("a computed constant is cast to bool, and cannot be told from 0")
        return value.centre != 0
    low, high = value.lower.trunc(), value.upper.trunc()
    if not bool((low == high).all()):
        raise RefusedModel("a computed constant is cast to integers, and lies too close to one to be truncated")
    info = torch.iinfo(target)
    if bool(((low < info.min) | (low > info.max) | (low.abs() > 2**53)).any()):
        raise RefusedModel(f"a constant is cast to {target}, whose range it leaves")
    return low.to(target)
