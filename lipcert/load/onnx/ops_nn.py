"""ONNX convolutions, poolings, normalisations and softmax as torch operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lipcert.load.onnx.node import OnnxNode, Op, Rule

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@dataclass(frozen=True)
class Window:
    """A sliding window per spatial axis. `before`, `after`: explicit padding; `out`: number of window positions."""

    kernel: list[int]
    stride: list[int]
    dilation: list[int]
    before: list[int]
    after: list[int]
    out: list[int]

    @property
    def even(self) -> bool:
        return self.before == self.after


def _spatial(node: OnnxNode, x: Tensor) -> list[int]:
    if x.dim() - 2 not in _CONV:
        node.refuse(f"a tensor of shape {list(x.shape)}: 1 to 3 spatial axes are known")
    return list(x.shape[2:])


def _per_axis(node: OnnxNode, name: str, count: int, default: int) -> list[int]:
    values = [default] * count if node[name] is None else list(node[name])
    if len(values) != count or min(values) < (0 if default == 0 else 1):
        node.refuse(f"{name}={values} does not fit {count} spatial axes")
    return values


def _pads(node: OnnxNode, count: int) -> tuple[list[int], list[int]]:
    pads = _per_axis(node, "pads", 2 * count, 0)
    return pads[:count], pads[count:]


def _window(node: OnnxNode, sizes: Sequence[int], kernel: Sequence[int], ceil: bool = False) -> Window:
    """Padding and output size by the formulas of the ONNX schemas of Conv and MaxPool.

    With ceil, a last window that would start in the padding after the input is dropped (schema, opset 11 and later).
    """
    count = len(sizes)
    stride, dilation = _per_axis(node, "strides", count, 1), _per_axis(node, "dilations", count, 1)
    span = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    mode = node["auto_pad"] or "NOTSET"
    before, after = _pads(node, count)
    if mode != "NOTSET" and any(before + after):
        node.refuse(f"gives pads beside auto_pad={mode!r}: runtimes disagree on which of them holds")
    if mode == "NOTSET":
        pass
    elif mode == "VALID":
        before, after = [0] * count, [0] * count
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        total = [max((-(-n // s) - 1) * s + w - n, 0) for n, s, w in zip(sizes, stride, span, strict=True)]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        before, after = (small, large) if mode == "SAME_UPPER" else (large, small)
    else:
        node.refuse(f"auto_pad={mode!r} is not known")
    out = []
    for n, w, s, low, high in zip(sizes, span, stride, before, after, strict=True):
        room = n + low + high - w
        if room < 0:
            node.refuse(f"the kernel is larger than the padded input of size {n + low + high}")
        positions = (-(-room // s) if ceil else room // s) + 1
        if ceil and (positions - 1) * s >= n + low:
            positions -= 1
        out.append(positions)
    return Window(list(kernel), stride, dilation, before, after, out)


def _padded(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    flat = [amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def _conv(node: OnnxNode, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    sizes = _spatial(node, x)
    if node["kernel_shape"] is not None and list(node["kernel_shape"]) != list(w.shape[2:]):
        node.refuse(f"kernel_shape {list(node['kernel_shape'])} differs from the weight's {list(w.shape[2:])}")
    window = _window(node, sizes, w.shape[2:])
    conv, group = _CONV[len(sizes)], node["group"]
    if window.even:
        return conv(x, w, b, window.stride, window.before, window.dilation, group)
    return conv(_padded(x, window.before, window.after), w, b, window.stride, 0, window.dilation, group)


def _conv_transpose(node: OnnxNode, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """out = stride (n - 1) + output_padding + span - before - after, of the full transposed convolution."""
    sizes = _spatial(node, x)
    count = len(sizes)
    kernel = list(w.shape[2:])
    before, after = _pads(node, count)
    if node["kernel_shape"] is not None and list(node["kernel_shape"]) != kernel:
        node.refuse(f"kernel_shape {list(node['kernel_shape'])} differs from the weight's {kernel}")
    stride, dilation = _per_axis(node, "strides", count, 1), _per_axis(node, "dilations", count, 1)
    extra = _per_axis(node, "output_padding", count, 0)
    full = [s * (n - 1) + d * (k - 1) + 1 for s, n, d, k in zip(stride, sizes, dilation, kernel, strict=True)]
    mode = node["auto_pad"] or "NOTSET"
    if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        node.refuse(f"auto_pad={mode!r} is not known")
    if mode != "NOTSET" and any(before + after):
        node.refuse(f"gives pads beside auto_pad={mode!r}: runtimes disagree on which of them holds")
    if mode.startswith("SAME") or node["output_shape"] is not None:  # which sets the padding, whatever pads say
        wanted = [n * s for n, s in zip(sizes, stride, strict=True)]
        if node["output_shape"] is not None:
            wanted = list(node["output_shape"])[-count:]
        total = [f + e - o for f, e, o in zip(full, extra, wanted, strict=True)]
        if min(total) < 0:
            node.refuse(f"output size {wanted} is larger than the full transposed convolution {full}")
        if any(t % 2 for t in total):
            node.refuse(
                "an odd padding with auto_pad or output_shape: runtimes disagree on its side. Give pads instead."
            )
        before = after = [t // 2 for t in total]
    conv, group = _CONV_TRANSPOSE[count], node["group"]
    if before == after and all(e < max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        return conv(x, w, b, stride, before, extra, group, dilation)
    if any(f + e - p - q < 1 for f, e, p, q in zip(full, extra, before, after, strict=True)):
        node.refuse("its padding leaves nothing")
    y = conv(x, w, None, stride, 0, 0, group, dilation)
    y = _padded(y, [-p for p in before], [e - q for e, q in zip(extra, after, strict=True)])  # negative: crop
    return y if b is None else y + b.reshape(-1, *[1] * count)


def _max_pool(node: OnnxNode, x: Tensor) -> Tensor:
    if len(node.outputs) > 1 and node.outputs[1]:
        node.refuse("its indices are read, which are a step function of the input", unbounded=True)
    sizes = _spatial(node, x)
    window = _window(node, sizes, _per_axis(node, "kernel_shape", len(sizes), 1), bool(node["ceil_mode"]))
    pool = _MAX_POOL[len(sizes)]
    span = [d * (k - 1) + 1 for k, d in zip(window.kernel, window.dilation, strict=True)]
    if any(max(p, q) >= w for p, q, w in zip(window.before, window.after, span, strict=True)):
        node.refuse("a window lies in the padding alone")
    if (
        window.even
        and not node["ceil_mode"]
        and all(2 * p <= k for p, k in zip(window.before, window.kernel, strict=True))
    ):
        return pool(x, window.kernel, window.stride, window.before, window.dilation)
    after = _reach(window, sizes, span)
    if len(sizes) == 1:  # torch pools one axis as two, and nothing may stand between the padding and the pool
        x = _padded(x.unsqueeze(-2), window.before, after, -math.inf)
        return _MAX_POOL[2](x, [1, *window.kernel], [1, *window.stride], 0, [1, *window.dilation]).squeeze(-2)
    x = _padded(x, window.before, after, -math.inf)
    return pool(x, window.kernel, window.stride, 0, window.dilation)


def _reach(window: Window, sizes: Sequence[int], span: Sequence[int]) -> list[int]:
    """Padding after the input such that exactly the window positions of `window` fit."""
    last = [(o - 1) * s + w for o, s, w in zip(window.out, window.stride, span, strict=True)]
    return [end - low - n for end, low, n in zip(last, window.before, sizes, strict=True)]


def _average_pool(node: OnnxNode, x: Tensor) -> Tensor:
    """Sum over the window by the number of entries counted: those of the input, or with count_include_pad also the
    declared padding; entries that only ceil_mode adds are never counted."""
    sizes = _spatial(node, x)
    count = len(sizes)
    window = _window(node, sizes, _per_axis(node, "kernel_shape", count, 1), bool(node["ceil_mode"]))
    if any(d != 1 for d in window.dilation):
        node.refuse("dilations in an average pool are not known")
    pool = _AVG_POOL[count]
    include = bool(node["count_include_pad"])
    if (
        window.even
        and not node["ceil_mode"]
        and all(2 * p <= k for p, k in zip(window.before, window.kernel, strict=True))
    ):
        return pool(x, window.kernel, window.stride, window.before, False, include)
    mean = pool(_padded(x, window.before, _reach(window, sizes, window.kernel)), window.kernel, window.stride)

    def counted() -> Tensor:
        table = torch.ones((), dtype=torch.float64)
        for axis in range(count):
            low, high = window.before[axis], window.after[axis]
            first, past = (0, sizes[axis] + low + high) if include else (low, low + sizes[axis])
            starts = [k * window.stride[axis] for k in range(window.out[axis])]
            row = [min(s + window.kernel[axis], past) - max(s, first) for s in starts]
            if min(row) < 1:
                node.refuse("a window lies in the padding alone")
            table = table.unsqueeze(-1) * torch.tensor(row, dtype=torch.float64)
        return table

    table = node.hold("counted", counted)
    whole = float(math.prod(window.kernel))
    return mean * whole / table  # mean * whole is the sum; both factors are integers


def _global(function: Callable[..., Tensor]) -> Rule:
    def apply(node: OnnxNode, x: Tensor) -> Tensor:
        if x.dim() < 3:
            node.refuse(f"a tensor of shape {list(x.shape)} has no spatial axes")
        return function(x, list(range(2, x.dim())), True)

    return apply


# --- normalisations -----------------------------------------------------------------------------------------------


def _only_first_output(node: OnnxNode) -> None:
    if any(node.outputs[1:]):
        node.refuse("its statistics are read as outputs, which is not known")


def _batch_norm(node: OnnxNode, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    if node["training_mode"]:
        node.refuse("is in training mode. Export the model in evaluation mode.")
    if node.declared[1:]:  # up to opset 13 this alone is training mode, whoever reads them (schemas 7 and 9)
        node.refuse(
            f"is in training mode: it declares the outputs {', '.join(node.declared[1:])}. Export the model in "
            "evaluation mode."
        )
    if node.version < 9 and node["spatial"] != 1:
        node.refuse("spatial=0 is not known")
    return F.batch_norm(x, mean, var, scale, bias, training=False, eps=node["epsilon"])


def _instance_norm(node: OnnxNode, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    # one group per channel: the same function as instance_norm, which torch would decompose as a batch norm in training
    return F.group_norm(x, x.shape[1], scale, bias, node["epsilon"])


def _affine(y: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    y = y * scale
    return y if bias is None else y + bias


def _layer_norm(node: OnnxNode, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    _only_first_output(node)
    shape = list(x.shape[node.axis(node["axis"], x.dim()) :])
    if list(scale.shape) == shape and (bias is None or list(bias.shape) == shape):
        return F.layer_norm(x, shape, scale, bias, node["epsilon"])
    return _affine(F.layer_norm(x, shape, eps=node["epsilon"]), scale, bias)


def _rms_norm(node: OnnxNode, x: Tensor, scale: Tensor) -> Tensor:
    shape = list(x.shape[node.axis(node["axis"], x.dim()) :])
    if list(scale.shape) == shape:
        return F.rms_norm(x, shape, scale, node["epsilon"])
    return F.rms_norm(x, shape, eps=node["epsilon"]) * scale


def _group_norm(node: OnnxNode, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = node["num_groups"]
    if x.dim() < 2 or groups < 1 or x.shape[1] % groups:
        node.refuse(f"num_groups={groups} does not fit a tensor of shape {list(x.shape)}")
    return F.group_norm(x, groups, scale, bias, node["epsilon"])


def _lrn(node: OnnxNode, x: Tensor) -> Tensor:
    size = node["size"]
    if size < 1 or size % 2 == 0:
        node.refuse(f"size {size}: only odd windows are known")
    return F.local_response_norm(x, size, node["alpha"], node["beta"], node["bias"])


def _lp_normalization(node: OnnxNode, x: Tensor) -> Tensor:
    if node["p"] not in (1, 2):
        node.refuse(f"p={node['p']} is not known")
    return x / torch.linalg.vector_norm(x, node["p"], [node.axis(node["axis"], x.dim())], True)


def _mean_variance_normalization(node: OnnxNode, x: Tensor) -> Tensor:
    dims = node.axes(list(node["axes"]), x.dim())
    centred = x - torch.mean(x, dims, True)
    deviation = torch.sqrt(torch.mean(centred * centred, dims, True))
    return centred / (deviation + float(np.float32(1e-9)))  # a float32 constant of the schema


# --- softmax, dropout ---------------------------------------------------------------------------------------------


def _softmax(function: Callable[..., Tensor]) -> Rule:
    def apply(node: OnnxNode, x: Tensor) -> Tensor:
        axis = node.axis(node["axis"], x.dim())
        if node.version >= 13 or axis == x.dim() - 1:
            return function(x, axis)
        # before opset 13: over all axes from `axis` on, seen as one
        return function(x.reshape(*x.shape[:axis], -1), axis).reshape(x.shape)

    return apply


def _dropout(node: OnnxNode, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None) -> Tensor:
    if any(node.outputs[1:]):
        node.refuse("its mask is read as an output, which is not known")
    if node.version < 12 and not 0 <= node["ratio"] <= 1:
        node.refuse(f"ratio={node['ratio']} is not a probability")
    if (
        training is not None
        and node.ints(2, "training_mode") != [0]
        and (ratio is None or node.scalar(1, "ratio") != 0.0)
    ):
        node.refuse("drops at random (training_mode is true). Export the model in evaluation mode.")
    return x


_WINDOW = "auto_pad dilations kernel_shape pads strides"
_STASH = {"stash_type": "the type of a runtime's inner sums; here they are real numbers"}
TABLE: dict[str, Op] = {
    "Conv": Op(_conv, (1, 11, 22), _WINDOW + " group", inputs="B"),
    "ConvTranspose": Op(_conv_transpose, (1, 11, 22), _WINDOW + " group output_padding output_shape", inputs="B"),
    "MaxPool": Op(
        _max_pool,
        (1, 8, 10, 11, 12, 22),
        _WINDOW + " ceil_mode",
        ignored={"storage_order": "how the indices are counted, which are refused"},
        outputs="Indices",
    ),
    "AveragePool": Op(_average_pool, (7, 10, 11, 19, 22), _WINDOW + " ceil_mode count_include_pad"),
    "GlobalAveragePool": Op(_global(torch.mean), (1, 22)),
    "GlobalMaxPool": Op(_global(torch.amax), (1, 22)),
    "BatchNormalization": Op(
        _batch_norm,
        (7, 9, 14, 15),
        "epsilon spatial training_mode",
        ignored={"momentum": "of the running statistics, in training only"},
        outputs="mean var saved_mean saved_var running_mean running_var",
    ),
    "InstanceNormalization": Op(_instance_norm, (6, 22), "epsilon"),
    "LayerNormalization": Op(_layer_norm, (17,), "axis epsilon", ignored=_STASH, inputs="B", outputs="Mean InvStdDev"),
    "GroupNormalization": Op(_group_norm, (21,), "epsilon num_groups", ignored=_STASH),
    "RMSNormalization": Op(_rms_norm, (23,), "axis epsilon", ignored=_STASH),
    "LRN": Op(_lrn, (1, 13), "alpha beta bias size"),
    "LpNormalization": Op(_lp_normalization, (1, 22), "axis p"),
    "MeanVarianceNormalization": Op(_mean_variance_normalization, (9, 13), "axes"),
    "Softmax": Op(_softmax(F.softmax), (1, 11, 13), "axis"),
    "LogSoftmax": Op(_softmax(F.log_softmax), (1, 11, 13), "axis"),
    "Dropout": Op(
        _dropout,
        (7, 10, 12, 13, 22),
        "ratio",
        ignored={"seed": "of what is dropped in training"},
        inputs="ratio training_mode",
        outputs="mask",
    ),
}
