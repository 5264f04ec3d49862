"""ONNX Resize and Upsample as exact linear maps, one axis at a time.

Source coordinates are rational numbers. Nearest picks entries (index_select); linear and cubic multiply by a matrix
whose entries are integers over one common integer, so that nothing is rounded here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from lipcert.load.onnx.node import OnnxNode, Op

EXACT_INTEGER = 2**53


def _coordinate(node: OnnxNode, mode: str, i: int, scale: Fraction, n: int, out: int) -> Fraction:
    """Position of output entry i on an input axis of n entries (ONNX Resize, coordinate_transformation_mode)."""
    half = Fraction(1, 2)
    if mode == "half_pixel":
        return (i + half) / scale - half
    if mode == "pytorch_half_pixel":
        return (i + half) / scale - half if out > 1 else Fraction(0)
    if mode == "align_corners":
        return Fraction(i * (n - 1), out - 1) if out > 1 else Fraction(0)
    if mode == "asymmetric":
        return i / scale
    if mode == "half_pixel_symmetric":
        adjustment = out / (scale * n)
        centre = Fraction(n, 2)
        return centre * (1 - adjustment) + (i + half) / scale - half
    node.refuse(f"coordinate_transformation_mode {mode!r} is not known")


def _nearest(node: OnnxNode, how: str, place: Fraction) -> int:
    if how == "floor":
        return math.floor(place)
    if how == "ceil":
        return math.ceil(place)
    if how == "round_prefer_floor":
        return math.ceil(place - Fraction(1, 2))
    if how == "round_prefer_ceil":
        return math.floor(place + Fraction(1, 2))
    node.refuse(f"nearest_mode {how!r} is not known")


def _cubic(node: OnnxNode, t: Fraction) -> list[Fraction]:
    """Weights of the four entries around a place (Keys 1981, eq. 3), a = cubic_coeff_a."""
    a = Fraction(node["cubic_coeff_a"])
    s = 1 - t
    return [
        ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a,
        ((a + 2) * t - (a + 3)) * t * t + 1,
        ((a + 2) * s - (a + 3)) * s * s + 1,
        ((a * (s + 1) - 5 * a) * (s + 1) + 8 * a) * (s + 1) - 4 * a,
    ]


def _kernel(node: OnnxNode, t: Fraction) -> Fraction:
    """Of linear or cubic interpolation, at distance t."""
    t = abs(t)
    if node["mode"] == "linear":
        return max(1 - t, Fraction(0))
    a = Fraction(node["cubic_coeff_a"])
    if t <= 1:
        return ((a + 2) * t - (a + 3)) * t * t + 1
    return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a if t < 2 else Fraction(0)


def _smoothed(node: OnnxNode, places: list[Fraction], scale: Fraction, n: int) -> tuple[list[list[float]], list[float]]:
    """Antialiased: the kernel as wide as an output entry, entries inside the axis only, weights that sum to 1. Integers (out, n)
    and a denominator for each row."""
    shrunk = min(scale, Fraction(1))
    reach = (1 if node["mode"] == "linear" else 2) / shrunk
    rows, wholes = [], []
    for place in places:
        inside = range(max(0, math.ceil(place - reach)), min(n - 1, math.floor(place + reach)) + 1)
        weights = {k: _kernel(node, (k - place) * shrunk) for k in inside}
        total = sum(weights.values(), Fraction(0))
        whole = math.lcm(*(w.denominator for w in weights.values()))
        parts = [weights.get(k, Fraction(0)) * whole for k in range(n)]
        if total <= 0 or abs(total * whole) > EXACT_INTEGER or any(abs(w) > EXACT_INTEGER for w in parts):
            node.refuse("its scale is not a simple fraction: the weights are not float64 numbers. Give sizes instead.")
        rows.append([float(w) for w in parts])
        wholes.append(float(total * whole))
    return rows, wholes


def _matrix(node: OnnxNode, places: list[Fraction], n: int) -> tuple[list[list[float]], float]:
    """Integer matrix (out, n) and a common denominator; entries outside the axis repeat its ends."""
    rows: list[dict[int, Fraction]] = []
    for place in places:
        base = math.floor(place)
        if node["mode"] == "cubic":
            parts = list(zip(range(base - 1, base + 3), _cubic(node, place - base), strict=True))
        else:
            place = min(max(place, Fraction(0)), Fraction(n - 1))
            base = math.floor(place)
            parts = [(base, 1 - (place - base)), (base + 1, place - base)]
        if node["exclude_outside"]:
            parts = [(k, w) for k, w in parts if 0 <= k < n]
            total = sum(w for _, w in parts)
            parts = [(k, w / total) for k, w in parts]
        row: dict[int, Fraction] = {}
        for k, w in parts:
            k = min(max(k, 0), n - 1)
            row[k] = row.get(k, Fraction(0)) + w
        rows.append(row)
    whole = math.lcm(*(w.denominator for row in rows for w in row.values()))
    if whole > EXACT_INTEGER or any(abs(w) * whole > EXACT_INTEGER for row in rows for w in row.values()):
        node.refuse("its scale is not a simple fraction: the weights are not float64 numbers. Give sizes instead.")
    return [[float(row.get(k, Fraction(0)) * whole) for k in range(n)] for row in rows], float(whole)


def _resize_axis(node: OnnxNode, x: Tensor, axis: int, scale: Fraction, out: int, mode: str, how: str) -> Tensor:
    """`mode`: where an output entry lies; `how`: which entry is nearest to a place, for nearest."""
    n = x.shape[axis]
    if scale == 1 and out == n:
        return x
    key = f"axis{axis}"
    if key not in node.held:
        places = [_coordinate(node, mode, i, scale, n, out) for i in range(out)]
        if node["mode"] == "nearest":
            picks = _picks(node, places, n, how, mode == "align_corners" or Fraction(float(np.float32(scale))) == scale)
            node.hold(key, lambda: torch.tensor(picks, dtype=torch.int64))
        else:
            rows, whole = _smoothed(node, places, scale, n) if node["antialias"] else _matrix(node, places, n)
            node.hold(key, lambda: torch.tensor(rows, dtype=torch.float64))
            after = [1] * (x.dim() - axis - 1)  # axes behind the one that is resized
            divisors = torch.tensor(whole, dtype=torch.float64)
            node.hold(f"whole{axis}", lambda: divisors.reshape(-1, *after) if divisors.dim() else divisors)
    if node["mode"] == "nearest":
        return torch.index_select(x, axis, node.held[key])
    # along `axis`: x (..., n) times the transposed matrix (n, out), over the common denominator
    return torch.matmul(x.transpose(axis, -1), node.held[key].t()).transpose(axis, -1) / node.held[f"whole{axis}"]


def _picks(node: OnnxNode, places: list[Fraction], n: int, how: str, exact_scale: bool) -> list[int]:
    """Nearest entries. A runtime computes places in float32: that is exact where the scale is a float32 number and the
    place a binary fraction; elsewhere the choice must not hang on a hair's breadth."""
    picks = []
    for place in places:
        near = [
            min(max(_nearest(node, how, place + d), 0), n - 1) for d in (0, Fraction(-1, 10**4), Fraction(1, 10**4))
        ]
        exact = exact_scale and place.denominator & (place.denominator - 1) == 0
        if not exact and len(set(near)) > 1:
            node.refuse("which entry is nearest depends on rounding")
        picks.append(near[0])
    return picks


def _scale_and_size(
    node: OnnxNode, x: Tensor, scales: list[float] | None, sizes: list[int] | None, dims: list[int]
) -> Iterator[tuple[int, Fraction, int]]:
    """(axis, scale, output size) for each resized axis."""
    if (scales is None) == (sizes is None):
        node.refuse("needs either scales or sizes")
    given = scales if scales is not None else sizes
    assert given is not None
    if len(given) != len(dims) or min(given) <= 0:
        node.refuse(f"scales or sizes {given} do not fit {len(dims)} axes")
    for axis, value in zip(dims, given, strict=True):
        n = x.shape[axis]
        if scales is None:
            yield axis, Fraction(int(value), n), int(value)
        else:
            yield axis, Fraction(value), math.floor(n * Fraction(value))


def _resize(node: OnnxNode, x: Tensor, *inputs: Tensor | None) -> Tensor:
    def given(i: int) -> bool:
        return len(inputs) >= i and (value := inputs[i - 1]) is not None and value.numel() > 0

    # exporters write all of these whatever the mode; each holds for some modes only
    how, place, _ = node["nearest_mode"], node["coordinate_transformation_mode"], node["cubic_coeff_a"]
    if node["mode"] not in ("nearest", "linear", "cubic"):
        node.refuse(f"mode {node['mode']!r} is not known")
    if node["antialias"] and (node["mode"] == "nearest" or not node["exclude_outside"]):
        node.refuse("antialias is known for linear and cubic interpolation with exclude_outside")
    if node["exclude_outside"] and node["mode"] != "cubic" and not node["antialias"]:
        node.refuse("exclude_outside is known for cubic interpolation only")
    if (node["keep_aspect_ratio_policy"] or "stretch") != "stretch":
        node.refuse(f"keep_aspect_ratio_policy {node['keep_aspect_ratio_policy']!r} is not known")
    first = 1 if node.version == 10 else 2  # opset 11 puts roi before scales
    dims = list(range(x.dim())) if node["axes"] is None else node.axes(list(node["axes"]), x.dim())
    scales = node.floats(first, "scales") if given(first) else None
    sizes = node.ints(first + 1, "sizes") if given(first + 1) else None
    for axis, scale, out in _scale_and_size(node, x, scales, sizes, dims):
        if node.version == 10:
            x = _legacy_axis(node, x, axis, scale, out)
        else:
            x = _resize_axis(node, x, axis, scale, out, place, how)
    return x


def _legacy_axis(node: OnnxNode, x: Tensor, axis: int, scale: Fraction, out: int) -> Tensor:
    """Before opset 11 the schema left the coordinates open; runtimes take i / scale, rounded down when enlarging."""
    if node["mode"] == "nearest" and scale < 1 and scale.numerator != 1:
        node.refuse("shrinking to the nearest entry by a fraction is not defined at this opset")
    return _resize_axis(node, x, axis, scale, out, "asymmetric", "floor")


def _upsample(node: OnnxNode, x: Tensor, scales: Tensor | None = None) -> Tensor:
    if node["mode"] not in ("nearest", "linear"):
        node.refuse(f"mode {node['mode']!r} is not known")
    factors = list(node["scales"]) if node.version < 9 else node.floats(1, "scales")
    for axis, scale, out in _scale_and_size(node, x, factors, None, list(range(x.dim()))):
        x = _legacy_axis(node, x, axis, scale, out)
    return x


TABLE: dict[str, Op] = {
    "Resize": Op(
        _resize,
        (10, 11, 13, 18, 19),
        "mode coordinate_transformation_mode cubic_coeff_a exclude_outside nearest_mode antialias axes "
        "keep_aspect_ratio_policy",
        ignored={"extrapolation_value": "of tf_crop_and_resize, which is refused"},
        inputs="roi scales sizes",  # roi: of tf_crop_and_resize only
    ),
    "Upsample": Op(_upsample, (7, 9), "mode scales"),
}
