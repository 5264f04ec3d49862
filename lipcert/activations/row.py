"""One row of the table of nonlinearities, and a row with its parameters bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lipcert.activations.corner import Corner
from lipcert.activations.curve import Curve, Pair, chords
from lipcert.terms.errors import RefusedModel

Params = tuple[float | Tensor, ...]
Range = Callable[..., Pair]  # (lo, hi, *params) -> enclosure
Ramps = tuple[tuple[Pair, Pair], ...]  # enclosures (m, b), from left to right, one more than kinks


def _none(*params: float | Tensor) -> Params:
    return ()


def _admits(*params: float | Tensor) -> str | None:
    return None


@dataclass(frozen=True)
class Activation:
    """What every method may know of a scalar function s. Parameters p: floats, or float64 tensors broadcast to x.

    An interval is a pair of float64 tensors lo <= hi of one shape; +-inf is allowed. Enclosures are rounded outward,
    and are (-inf, inf) where lo or hi is NaN or outside the domain. Slopes are those of s' and, at kinks, of Clarke's
    generalised gradient, so every difference quotient (s(x) - s(y)) / (x - y) with x, y in [lo, hi] is among them
    (mean value theorem); a jump inside [lo, hi] makes one side infinite.
    """

    name: str
    function: Callable[..., Tensor]  # (x, *p), differentiable by autograd where s is
    slopes: Callable[
        ..., tuple[Any, Any]
    ]  # (*p): global [a, b], floats (tensors for tensor parameters), +-inf if unbounded
    slopes_on: Range  # (lo, hi, *p)
    values_on: Range  # (lo, hi, *p)
    chords_on: Callable[..., Pair]  # (center, lo, hi, *p): (s(x) - s(center)) / (x - center) for x in [lo, hi]
    parameters: Mapping[str, float] = field(default_factory=dict)  # name -> torch's default, in the order of p
    monotone: bool = False  # nondecreasing for all admitted parameters
    homogeneous: bool = False  # s(t x) = t s(x) for t >= 0
    kinks: Callable[..., Params] = _none  # where s may fail to be differentiable (steps list none)
    domain: tuple[float, float] = (-math.inf, math.inf)
    exact: bool = False  # comparisons and changes of sign: evaluated without rounding in every float format
    continuous: bool = True  # False: jumps, never Lipschitz on an interval with a jump inside
    refuses: Callable[..., str | None] = _admits  # why these parameters are not admitted
    assumption: str | None = None  # what a report must say when this row is used
    curvatures_on: Range | None = None  # (lo, hi, *p): s'', where s' has no jump; None where it is not written down
    ramps: Callable[..., Ramps] = lambda *p: ()  # (*p): s'(x) = m x + b between two kinks; (): not of this form


def row(name: str, function: Callable[..., Tensor], slope: Any, value: Any, **facts: Any) -> Activation:
    """A row from the ranges of s' and s. Chords come from the slope's own `chords`, or from two curves; otherwise they
    are only known to be slopes."""
    if isinstance(slope, Corner):
        chord: Callable[..., Pair] = slope.chords
    elif isinstance(slope, Curve) and isinstance(value, Curve):
        chord = partial(chords, slope, value)
    else:
        chord = partial(_slope_chords, slope)
    return Activation(name, function, partial(_whole, slope), slope, value, chord, **{"domain": slope.domain, **facts})


def _whole(slope: Any, *params: float | Tensor) -> tuple[Any, Any]:
    lower, upper = slope.whole(*(torch.as_tensor(p, dtype=torch.float64) for p in params))
    if any(isinstance(p, Tensor) for p in params):
        return lower, upper
    return lower.item(), upper.item()


def _slope_chords(slope: Range, center: Tensor, lo: Tensor, hi: Tensor, *params: float | Tensor) -> Pair:
    return slope(torch.minimum(lo, center), torch.maximum(hi, center), *params)


@dataclass(frozen=True, eq=False)
class Elementwise:
    """An activation with its parameters bound. Raises RefusedModel for parameters that the row does not admit."""

    row: Activation
    params: Params = ()

    def __post_init__(self) -> None:
        names = tuple(self.row.parameters)
        if len(self.params) != len(names):
            raise TypeError(f"{self.row.name} takes {len(names)} parameters {names}, got {len(self.params)}")
        for name, value in zip(names, self.params, strict=True):
            if isinstance(value, Tensor) and value.dtype != torch.float64:
                raise TypeError(f"{self.row.name}: {name} is {value.dtype}, not float64")
            if bool(torch.as_tensor(value).isnan().any()):
                raise RefusedModel(f"{self.row.name}: parameter {name} is NaN")
        if reason := self.row.refuses(*self.params):
            raise RefusedModel(f"{self.row.name}: {reason}")

    @property
    def name(self) -> str:
        return self.row.name

    @property
    def continuous(self) -> bool:
        """Also true for a step whose parameters close its jump (threshold with value = threshold)."""
        return self.row.continuous or all(bool(torch.as_tensor(s).isfinite().all()) for s in self.slopes())

    def __call__(self, x: Tensor) -> Tensor:
        return self.row.function(x, *self.params)

    def slopes(self) -> tuple[Any, Any]:
        return self.row.slopes(*self.params)

    def slopes_on(self, lo: Tensor, hi: Tensor) -> Pair:
        return self.row.slopes_on(_float64(lo), _float64(hi), *self.params)

    def values_on(self, lo: Tensor, hi: Tensor) -> Pair:
        return self.row.values_on(_float64(lo), _float64(hi), *self.params)

    def chords_on(self, center: Tensor, lo: Tensor, hi: Tensor) -> Pair:
        """A subset of slopes_on over the hull of center, lo and hi; exact up to rounding where s' is monotone on each
        side of the center."""
        return self.row.chords_on(_float64(center), _float64(lo), _float64(hi), *self.params)

    @property
    def smooth(self) -> bool:
        """The range of s'' is known."""
        return self.row.curvatures_on is not None

    def bends_on(self, center: Tensor, lo: Tensor, hi: Tensor) -> Pair:
        """Enclosure of (s'(x) - s'(center)) / (x - center) over x in [lo, hi]: chords of s', among the values of s''."""
        slope, curvature = self.row.slopes_on, self.row.curvatures_on
        assert curvature is not None
        if isinstance(slope, Curve) and isinstance(curvature, Curve):
            return chords(curvature, slope, center, lo, hi, *self.params)
        return _slope_chords(curvature, center, lo, hi, *self.params)

    def kinks(self) -> Params:
        return self.row.kinks(*self.params)

    def ramps(self) -> Ramps:
        """The pieces of s' where s is piecewise quadratic and its row says so."""
        return self.row.ramps(*(torch.as_tensor(p, dtype=torch.float64) for p in self.params))


def _float64(x: Tensor) -> Tensor:
    if x.dtype != torch.float64:
        raise TypeError(f"interval ends are float64 tensors, got {x.dtype}: convert with .double()")
    return x
