"""ONNX operators that create, cast, move, repeat or select entries. Indices, shapes and axes must be constants."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lipcert.load.onnx.node import OnnxNode, Op
from lipcert.load.onnx.tensor import FLOAT_BITS, NARROW, TORCH_TYPE, type_name
from lipcert.load.onnx.types import widens
from lipcert.rigor.rounding import rounded

EXACT_INTEGER = 2**53  # integers up to here are float64 numbers


def _identity(node: OnnxNode, x: Tensor) -> Tensor:
    return x


# --- creation ---------------------------------------------------------------------------------------------------


def _constant(node: OnnxNode) -> Tensor:
    names = "value value_float value_floats value_int value_ints".split()
    given = {name: value for name in names if (value := node[name]) is not None}
    if len(given) != 1:
        node.refuse(f"needs exactly one value, got {sorted(given)}")
    ((name, value),) = given.items()
    if name == "value":
        return node.hold("value", lambda: value)
    if name in ("value_float", "value_floats"):
        return node.hold("value", lambda: torch.tensor(value, dtype=torch.float64))
    return node.hold("value", lambda: torch.tensor(value, dtype=torch.int64))


def _constant_of_shape(node: OnnxNode, shape: Tensor) -> Tensor:
    given = node["value"]
    fill = node.hold("fill", lambda: torch.zeros((), dtype=torch.float64) if given is None else given.reshape(()))
    return fill.expand(node.ints(0, "shape"))


def _shape(node: OnnxNode, x: Tensor) -> Tensor:
    # opset 15: a slice of the shape, ends clamped as Python does
    return torch.tensor(list(x.shape)[node["start"] or 0 : node["end"]], dtype=torch.int64)


def _size(node: OnnxNode, x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64)


def _range(node: OnnxNode, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    first, last, step = (node.scalar(i, w) for i, w in enumerate(("start", "limit", "step")))
    if step == 0 or not all(v == int(v) and abs(v) < EXACT_INTEGER for v in (first, last, step)):
        node.refuse("only ranges of integers are known, with a step other than 0")
    count = max(math.ceil((last - first) / step), 0)
    return (torch.arange(count, dtype=torch.int64) * int(step) + int(first)).to(start.dtype)


def _one_hot(node: OnnxNode, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    if not (node.has(0) and node.has(1) and node.has(2)):
        node.refuse("its indices, depth or values are not constant", unbounded=node.on_data[0])
    size = int(node.scalar(1, "depth"))
    off, on = values.reshape(-1)
    places = torch.tensor(node.ints(0, "indices"), dtype=torch.int64).reshape(indices.shape)
    axis = node.axis(node["axis"], indices.dim() + 1)
    inside = (places >= -size) & (places < size)  # others give a row of `off`
    row = torch.arange(size) == torch.where(inside, places % size, -1).unsqueeze(-1)
    return torch.where(row, on, off).movedim(-1, axis)


def _eye_like(node: OnnxNode, x: Tensor) -> Tensor:
    if x.dim() != 2:
        node.refuse("needs a matrix")
    kind = x.dtype if node["dtype"] is None else _torch_type(node, node["dtype"])
    rows, columns = x.shape
    return (torch.arange(columns).unsqueeze(0) - torch.arange(rows).unsqueeze(1) == (node["k"] or 0)).to(kind)


# --- types ------------------------------------------------------------------------------------------------------


def _torch_type(node: OnnxNode, elem_type: int) -> torch.dtype:
    if elem_type not in TORCH_TYPE:
        node.refuse(f"the type {type_name(elem_type)} is not known")
    return TORCH_TYPE[elem_type]


def _cast(node: OnnxNode, x: Tensor) -> Tensor:
    """To a float type: a constant is rounded to it, a signal stays what it is, with its rounding stated. To integers:
    constants only."""
    return _cast_to(node, x, node["to"])


def _cast_like(node: OnnxNode, x: Tensor, like: Tensor) -> Tensor:
    return _cast_to(node, x, node.elem_types[1])


def _cast_to(node: OnnxNode, x: Tensor, target: int) -> Tensor:
    kind, source = _torch_type(node, target), node.elem_types[0]
    if x.is_floating_point() and kind is torch.float64:
        if widens(source, target):
            return x
        if source not in FLOAT_BITS:
            node.refuse(f"casts to {type_name(target)} from a type that is not known")
        if node.has(0):
            return rounded(x, NARROW[target])
        if not node.on_data[0]:  # computed: the lowering rounds its enclosure
            return x.to(NARROW[target]).to(torch.float64)
        node.assume(f"rounding of the cast at {node} to {type_name(target)} is not covered")
        return x
    if x.is_floating_point():
        if node.on_data[0]:
            node.refuse(f"casts values to {type_name(target)}, which is a step", unbounded=True)
        if (held := node.known[0]) is not None and kind is not torch.bool:
            _refuse_outside(node, held, kind, type_name(target))
        return x.to(kind)
    if kind is torch.float64 and not node.on_data[0] and target in NARROW:
        return x.to(NARROW[target]).to(torch.float64)
    return x.to(kind)


def _refuse_outside(node: OnnxNode, x: Tensor, kind: torch.dtype, name: str) -> None:
    """ONNX leaves open what a number becomes that its integer type does not hold: machines saturate or wrap."""
    values, info = x.numpy(), torch.iinfo(kind)  # numpy: shapes are found first, without values
    ends = (values.min(), values.max()) if values.size else ()
    if not all(math.isfinite(end) and info.min <= math.trunc(end) <= info.max for end in ends):
        node.refuse(f"casts a constant to {name}, whose range it leaves: what it becomes there is not defined")


def _dequantize(node: OnnxNode, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """(x - zero) * scale; integers are exact in float64, the product is left to the graph."""
    if x.is_floating_point() or (zero is not None and zero.is_floating_point()):
        node.refuse("float quantisation is not known")
    if node["block_size"]:
        node.refuse("blocked quantisation (block_size) is not known")
    if node["output_dtype"] not in (None, 0, node.elem_types[1]):
        node.refuse("output_dtype differs from the type of the scale: how it rounds is not known")
    shape = [1] * x.dim()
    axis = 1 if node["axis"] is None else node["axis"]
    if scale.dim() == 1 and scale.numel() > 1:
        shape[node.axis(axis, x.dim())] = scale.numel()
    elif scale.dim() > 1:
        node.refuse(f"a scale of shape {list(scale.shape)} is not known")
    levels = x.to(torch.float64)
    if zero is not None:
        levels = levels - zero.to(torch.float64).reshape(shape)
    return levels * scale.reshape(shape)


# --- shapes -----------------------------------------------------------------------------------------------------


def _reshape(node: OnnxNode, x: Tensor, shape: Tensor) -> Tensor:
    wanted = node.ints(1, "shape")
    if not node["allowzero"]:
        if any(v == 0 and i >= x.dim() for i, v in enumerate(wanted)):
            node.refuse(f"0 in shape {wanted} copies an axis that a tensor of shape {list(x.shape)} lacks")
        wanted = [x.shape[i] if v == 0 else v for i, v in enumerate(wanted)]
    return x.reshape(wanted)


def _flatten(node: OnnxNode, x: Tensor) -> Tensor:
    axis = node["axis"]
    axis = axis + x.dim() if axis < 0 else axis
    if not 0 <= axis <= x.dim():
        node.refuse(f"axis {node['axis']} does not fit a tensor of rank {x.dim()}")
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _axes_of(node: OnnxNode, axes: Tensor | None) -> list[int] | None:
    """Axes are an attribute before opset 13 and an input from then on."""
    if node.version < 13:
        return None if node["axes"] is None else list(node["axes"])
    return None if axes is None else node.ints(1, "axes")


def _squeeze(node: OnnxNode, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = _axes_of(node, axes)
    dims = [i for i, n in enumerate(x.shape) if n == 1] if chosen is None else node.axes(chosen, x.dim())
    if any(x.shape[d] != 1 for d in dims):
        node.refuse(f"squeezes axes {dims} of shape {list(x.shape)}")
    return x.reshape([n for i, n in enumerate(x.shape) if i not in dims])


def _unsqueeze(node: OnnxNode, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = _axes_of(node, axes)
    if chosen is None:
        node.refuse("needs axes")
    rank = x.dim() + len(chosen)
    dims, rest = node.axes(chosen, rank), iter(x.shape)
    return x.reshape([1 if i in dims else next(rest) for i in range(rank)])


def _transpose(node: OnnxNode, x: Tensor) -> Tensor:
    order = list(range(x.dim()))[::-1] if node["perm"] is None else list(node["perm"])
    if sorted(order) != list(range(x.dim())):
        node.refuse(f"perm {order} does not fit a tensor of rank {x.dim()}")
    return x.permute(order)


def _expand(node: OnnxNode, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(np.broadcast_shapes(x.shape, tuple(node.ints(1, "shape"))))


def _tile(node: OnnxNode, x: Tensor, repeats: Tensor) -> Tensor:
    counts = node.ints(1, "repeats")
    if len(counts) != x.dim():
        node.refuse(f"repeats {counts} do not fit a tensor of rank {x.dim()}")
    return x.repeat(counts) if counts else x


def _concat(node: OnnxNode, *xs: Tensor) -> Tensor:
    return torch.cat(xs, node.axis(node["axis"], xs[0].dim()))


def _split(node: OnnxNode, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = node.axis(node["axis"] or 0, x.dim())
    length, parts = x.shape[axis], len(node.outputs)
    if node.version < 13:
        chosen = None if node["split"] is None else list(node["split"])
    else:
        chosen = None if sizes is None else node.ints(1, "split")
    if chosen is None:
        if node.version >= 18 and node["num_outputs"] != parts:
            node.refuse(f"num_outputs={node['num_outputs']} with {parts} outputs")
        each = -(-length // parts)  # opset 18: the last part may be smaller
        chosen = [each] * (parts - 1) + [length - each * (parts - 1)]
        if node.version < 18 and length % parts:
            node.refuse(f"splits {length} entries into {parts} equal parts")
    if sum(chosen) != length or len(chosen) != parts or min(chosen) < 0:
        node.refuse(f"splits {length} entries into {parts} parts of sizes {chosen}")
    return torch.split(x, chosen, axis)


def _slice(node: OnnxNode, x: Tensor, *bounds: Tensor | None) -> Tensor:
    if node.version < 10:
        starts, ends, axes, steps = list(node["starts"]), list(node["ends"]), node["axes"], None
    else:
        given = [len(bounds) > k and bounds[k] is not None for k in range(4)]
        starts, ends = node.ints(1, "starts"), node.ints(2, "ends")
        axes = node.ints(3, "axes") if given[2] else None
        steps = node.ints(4, "steps") if given[3] else None
    dims = node.axes(list(range(len(starts)) if axes is None else axes), x.dim())
    steps = [1] * len(dims) if steps is None else steps
    if not len(starts) == len(ends) == len(dims) == len(steps) or 0 in steps:
        node.refuse("starts, ends, axes and steps do not fit each other")
    for dim, start, end, step in zip(dims, starts, ends, steps, strict=True):
        n = x.shape[dim]
        chosen = range(*slice(start, end, step).indices(n))  # ONNX clamps as Python does
        if step < 0:  # INT_MIN as an end means "past the front", which Python's negative end does not
            chosen = range(_clamp(start, n, 0, n - 1), _clamp(end, n, -1, n - 1), step)
            x = x.flip(dim)
            chosen = range(n - 1 - chosen.start, n - 1 - chosen.stop, -step)
        if not len(chosen):
            x = x.narrow(dim, 0, 0)
            continue
        span = (slice(None),) * dim
        x = x[(*span, slice(chosen[0], chosen[-1] + 1, chosen.step))]
    return x


def _clamp(index: int, n: int, low: int, high: int) -> int:
    return max(low, min(index + n if index < 0 else index, high))


def _pad_source(mode: str, before: int, after: int, n: int) -> list[int] | None:
    """For each entry of the padded axis, the entry it copies. None where the mode has no answer."""
    places = range(-before, n + after)
    if mode == "edge":
        return [min(max(i, 0), n - 1) for i in places]
    if mode == "wrap":
        return [i % n for i in places]
    if mode == "reflect" and max(before, after) < n:
        return [abs(i) if i < n else 2 * (n - 1) - i for i in places]
    return None


def _pad(
    node: OnnxNode, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    if node.version < 11:
        amounts, fill = list(node["pads"]), node["value"] or 0.0
        dims = list(range(x.dim()))
    else:
        amounts = node.ints(1, "pads")
        fill = 0.0 if value is None else node.scalar(2, "value")
        dims = list(range(x.dim())) if axes is None else node.axes(node.ints(3, "axes"), x.dim())
    if len(amounts) != 2 * len(dims):
        node.refuse(f"pads {amounts} do not fit {len(dims)} axes")
    before, after = amounts[: len(dims)], amounts[len(dims) :]
    if node["mode"] == "constant":
        flat = [0] * (2 * x.dim())
        for dim, low, high in zip(dims, before, after, strict=True):
            flat[2 * (x.dim() - 1 - dim) : 2 * (x.dim() - dim)] = [low, high]  # torch counts axes from the last
        return F.pad(x, flat, value=fill) if any(flat) else x
    for dim, low, high in zip(dims, before, after, strict=True):
        if low == high == 0:
            continue
        source = None if min(low, high) < 0 else _pad_source(node["mode"], low, high, x.shape[dim])
        if source is None:
            node.refuse(
                f"mode {node['mode']!r} with {low} and {high} on an axis of {x.shape[dim]} entries is not known"
            )
        x = torch.index_select(x, dim, node.hold(f"axis{dim}", partial(torch.tensor, source)))
    return x


def _depth_to_space(node: OnnxNode, x: Tensor) -> Tensor:
    b = node["blocksize"]
    if x.dim() != 4 or b < 1 or x.shape[1] % (b * b):
        node.refuse(f"blocksize {b} does not fit a tensor of shape {list(x.shape)}")
    n, c, h, w = x.shape
    if node["mode"] not in (None, "DCR", "CRD"):
        node.refuse(f"mode {node['mode']!r} is not known")
    if node["mode"] == "CRD":
        return x.reshape(n, c // (b * b), b, b, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // (b * b), h * b, w * b)
    return x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // (b * b), h * b, w * b)


def _space_to_depth(node: OnnxNode, x: Tensor) -> Tensor:
    b = node["blocksize"]
    if x.dim() != 4 or b < 1 or x.shape[2] % b or x.shape[3] % b:
        node.refuse(f"blocksize {b} does not fit a tensor of shape {list(x.shape)}")
    n, c, h, w = x.shape
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


def _where(node: OnnxNode, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


def _trilu(node: OnnxNode, x: Tensor, k: Tensor | None = None) -> Tensor:
    offset = 0 if k is None else int(node.scalar(1, "diagonal"))
    return torch.triu(x, offset) if node["upper"] else torch.tril(x, offset)


def _move(versions: str) -> tuple[int, ...]:
    return tuple(int(v) for v in versions.split())


_FLOAT8 = dict.fromkeys(("saturate", "round_mode"), "of casts to 8-bit floats, which are refused")
TABLE: dict[str, Op] = {
    "Identity": Op(_identity, _move("1 13 14 16 19 21 23 24 25"), kind="moves"),
    "Constant": Op(
        _constant,
        _move("1 9 11 12 13 19 21 23 24 25"),
        "value value_float value_floats value_int value_ints",
        kind="moves",
        refused="sparse_value value_string value_strings",
    ),
    "ConstantOfShape": Op(_constant_of_shape, _move("9 20 21 23 24 25"), "value", kind="moves"),
    "Shape": Op(_shape, _move("1 13 15 19 21 23 24 25"), "start end", kind="shape"),
    "Size": Op(_size, _move("1 13 19 21 23 24 25"), kind="shape"),
    "Range": Op(_range, (11,), kind="moves"),
    "OneHot": Op(_one_hot, (9, 11), "axis", kind="moves"),
    "EyeLike": Op(_eye_like, (9, 22), "dtype k", kind="shape"),
    "Cast": Op(_cast, _move("6 9 13 19 21 23 24 25"), "to", kind="moves", ignored=_FLOAT8),
    "CastLike": Op(_cast_like, _move("15 19 21 23 24 25"), kind="moves", ignored=_FLOAT8),
    "DequantizeLinear": Op(
        _dequantize, _move("10 13 19 21 23 24 25"), "axis block_size output_dtype", inputs="x_zero_point"
    ),
    "Reshape": Op(_reshape, _move("5 13 14 19 21 23 24 25"), "allowzero", kind="moves"),
    "Flatten": Op(_flatten, _move("1 9 11 13 21 23 24 25"), "axis", kind="moves"),
    "Squeeze": Op(_squeeze, _move("1 11 13 21 23 24 25"), "axes", kind="moves", inputs="axes"),
    "Unsqueeze": Op(_unsqueeze, _move("1 11 13 21 23 24 25"), "axes", kind="moves"),
    "Transpose": Op(_transpose, _move("1 13 21 23 24 25"), "perm", kind="moves"),
    "Expand": Op(_expand, (8, 13), kind="moves"),
    "Tile": Op(_tile, (6, 13), kind="moves"),
    "Concat": Op(_concat, (4, 11, 13), "axis", kind="moves"),
    "Split": Op(_split, (2, 11, 13, 18), "axis split num_outputs", kind="moves", inputs="split"),
    "Slice": Op(_slice, (1, 10, 11, 13), "starts ends axes", kind="moves", inputs="axes steps"),
    "Pad": Op(_pad, _move("2 11 13 18 19 21 23 24 25"), "mode pads value", kind="moves", inputs="constant_value axes"),
    "DepthToSpace": Op(_depth_to_space, (1, 11, 13), "blocksize mode", kind="moves"),
    "SpaceToDepth": Op(_space_to_depth, (1, 13), "blocksize", kind="moves"),
    "Where": Op(_where, (9, 16), kind="moves"),
    "Trilu": Op(_trilu, (14,), "upper", kind="moves", inputs="k"),
}
