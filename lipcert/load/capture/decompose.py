"""The vocabulary of captured graphs: which ATen operators stay whole and which are rewritten, as literal tables.

torch's own core decompositions do the rest. The same mathematical operator arrives in one form whether the model came
as an nn.Module, a .pt2 file, an ONNX file or TorchScript, so that lowering needs one row per operator.

What a captured graph may hold, grouped; `[0]` is the first result, taken by `operator.getitem`:

  linear      linear, matmul, mm, addmm, bmm convolution (every convolution,
              transposed ones too), mul / div / add / sub (.Tensor and .Scalar), rsub.Scalar, neg, sum.dim_IntList,
              mean.dim, mean, cumsum, avg_pool2d, avg_pool3d, _adaptive_avg_pool2d, _adaptive_avg_pool3d,
              _native_batch_norm_legit_no_training[0] (BatchNorm in eval mode)
  layout      view, permute, clone, alias, expand, repeat, slice.Tensor, select.int, unsqueeze, squeeze.dims, flip,
              cat, split_with_sizes, unfold, index.Tensor, index_select, gather, tril, triu, slice_scatter,
              select_scatter, constant_pad_nd, reflection_pad{1,2,3}d, replication_pad{1,2,3}d, _pad_circular,
              upsample_nearest{1,2,3}d, _upsample_nearest_exact{1,2,3}d, upsample_{linear1d,bilinear2d,trilinear3d,
              bicubic2d} (all .default), _to_copy (a change of dtype), where.self
  activations relu, silu, mish, gelu, softplus, hardswish, hardsigmoid, hardtanh (ReLU6 too), clamp, _prelu_kernel, elu
              (SELU too), celu, leaky_relu, threshold, glu, sigmoid, tanh, log_sigmoid_forward[0], erf, abs, atan ...
  normalising _softmax, _safe_softmax, _log_softmax, logsumexp, logaddexp, native_layer_norm[0], native_group_norm[0],
              rms_norm, _native_batch_norm_legit.no_stats[0] (instance norm)
  selections  max_pool2d_with_indices[0], max_pool3d_with_indices[0], adaptive_max_pool2d[0], amax, amin, max.dim[0],
              min.dim[0], maximum, minimum, sort[0], topk[0]
  constants   full, full_like, arange.start_step, scalar_tensor, eye, and every operator above on constants only
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
Operator = Any  # torch._ops.OpOverload, which mypy cannot follow

# Core ATen would split these into pieces whose identity the bounds need.
KEPT: tuple[Operator, ...] = (
    aten.linear.default,
    aten.matmul.default,
    aten.silu.default,
    aten.mish.default,
    aten.softplus.default,
    aten.hardswish.default,
    aten.hardsigmoid.default,
    aten._prelu_kernel.default,
    aten.celu.default,
    aten.glu.default,
    aten.threshold.default,
    aten.log_sigmoid_forward.default,
    aten.rms_norm.default,
    aten.logsumexp.default,
    aten.logaddexp.default,
    aten._safe_softmax.default,
    aten.reflection_pad1d.default,
    aten.reflection_pad2d.default,
    aten.reflection_pad3d.default,
    aten.replication_pad1d.default,
    aten.replication_pad2d.default,
    aten.replication_pad3d.default,
    aten._pad_circular.default,
    aten.upsample_nearest1d.default,
    aten.upsample_nearest2d.default,
    aten.upsample_nearest3d.default,
    aten._upsample_nearest_exact1d.default,
    aten._upsample_nearest_exact2d.default,
    aten._upsample_nearest_exact3d.default,
    aten.upsample_linear1d.default,
    aten.upsample_bilinear2d.default,
    aten.upsample_trilinear3d.default,
    aten.upsample_bicubic2d.default,
    aten._upsample_bilinear2d_aa.default,
    aten._upsample_bicubic2d_aa.default,
    aten.tril.default,
    aten.triu.default,
    aten.rsub.Scalar,
)


def _upsample(target: Operator) -> Callable[..., Tensor]:
    """`op.vec(x, output_size, *align_corners, scale_factors)` as `op.default(x, size, *align_corners, *scales)`.

    The size is floor(input size * factor), as at::native::upsample::compute_output_size computes it.
    """

    def upsample(x: Tensor, output_size: list[int] | None, *rest: Any) -> Tensor:
        *align, factors = rest
        size = output_size or [int(n * f) for n, f in zip(x.shape[2:], factors, strict=True)]
        return target(x, size, *align, *(factors or [None] * len(size)))

    return upsample


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    return aten.convolution.default(x, weight, bias, *rest[:6])  # the four left out choose a backend, not a function


def _rrelu(x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: Any = None) -> Any:
    if training:
        return NotImplemented
    return aten.leaky_relu.default(x, (lower + upper) / 2)  # as ATen does in eval mode, in float64


def _lerp(start: Tensor, end: Tensor, weight: Any) -> Tensor:
    return start + weight * (end - start)


def _copy(x: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    return source.to(x.dtype).expand(x.shape)


def _solve(a: Tensor, b: Tensor, *, left: bool = True) -> Tensor:
    return aten._linalg_solve_ex.default(a, b, left=left)[0]


def _inverse(a: Tensor) -> Tensor:
    return aten.linalg_inv_ex.default(a)[0]


def _as_strided(x: Tensor, size: Sequence[int], stride: Sequence[int], offset: int | None = None) -> Any:
    """Where it names the entries of x in their order, or with their axes in another, as pooling to 1 x 1 does of channels
    last. Of others the lowering says that there is no rule."""
    if offset is not None and offset != x.storage_offset():
        return NotImplemented
    wanted = [(n, s) for n, s in zip(size, stride, strict=True) if n != 1]
    axes = [k for k in range(x.dim()) if x.shape[k] != 1]
    held = [(x.shape[k], x.stride(k)) for k in axes]
    if sorted(wanted) != sorted(held) or len(set(held)) < len(held):
        return NotImplemented
    order = [axes[held.index(pair)] for pair in wanted]
    return x.permute(*order, *(k for k in range(x.dim()) if k not in order)).reshape(tuple(size))


def _batch_norm(x: Tensor, *rest: Any) -> Any:
    *statistics, training, momentum, eps = rest
    if training and statistics[2:] == [None, None]:  # as torch.instance_norm calls it
        return aten._native_batch_norm_legit.no_stats(x, *statistics[:2], True, momentum, eps)
    if training:
        return NotImplemented
    return aten._native_batch_norm_legit_no_training.default(x, *statistics, momentum, eps)


# Rewrites of our own: equal in real arithmetic to what they replace.
OWN: dict[Operator, Callable[..., Any]] = {
    aten._convolution.default: _convolution,
    aten.native_batch_norm.default: _batch_norm,
    aten.as_strided.default: _as_strided,
    aten.rrelu.default: _rrelu,
    aten.lerp.Scalar: _lerp,
    aten.lerp.Tensor: _lerp,
    aten.copy.default: _copy,
    # without torch's check for singular matrices, which is a side effect: the lowering proves that there is an inverse
    aten.linalg_solve.default: _solve,
    aten.linalg_inv.default: _inverse,
    aten.inverse.default: _inverse,
    aten.upsample_nearest1d.vec: _upsample(aten.upsample_nearest1d.default),
    aten.upsample_nearest2d.vec: _upsample(aten.upsample_nearest2d.default),
    aten.upsample_nearest3d.vec: _upsample(aten.upsample_nearest3d.default),
    aten._upsample_nearest_exact1d.vec: _upsample(aten._upsample_nearest_exact1d.default),
    aten._upsample_nearest_exact2d.vec: _upsample(aten._upsample_nearest_exact2d.default),
    aten._upsample_nearest_exact3d.vec: _upsample(aten._upsample_nearest_exact3d.default),
    aten.upsample_linear1d.vec: _upsample(aten.upsample_linear1d.default),
    aten.upsample_bilinear2d.vec: _upsample(aten.upsample_bilinear2d.default),
    aten.upsample_trilinear3d.vec: _upsample(aten.upsample_trilinear3d.default),
    aten.upsample_bicubic2d.vec: _upsample(aten.upsample_bicubic2d.default),
    aten._upsample_bilinear2d_aa.vec: _upsample(aten._upsample_bilinear2d_aa.default),
    aten._upsample_bicubic2d_aa.vec: _upsample(aten._upsample_bicubic2d_aa.default),
}


def table() -> dict[Operator, Callable[..., Any]]:
    """torch's core decompositions without `KEPT`, with `OWN`."""
    return dict(_table())  # torch edits the one it is given


@functools.cache
def _table() -> dict[Operator, Callable[..., Any]]:
    decompositions = torch.export.default_decompositions()
    for kept in KEPT:
        decompositions.pop(kept, None)  # some stay whole in some versions of torch anyway
    for operator, rewrite in OWN.items():
        decompositions[operator] = rewrite
    return decompositions.materialize()


def rewrite(operator: Operator) -> Callable[..., Any] | None:
    """What torch.export with `table()` puts in the place of one operator; None: it stays."""
    if operator in OWN:
        return OWN[operator]
    if operator in KEPT:
        return None
    if operator in _core():
        return _core()[operator]
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), "CompositeImplicitAutograd")
    return operator.decompose if composite else None


@functools.cache
def _core() -> dict[Operator, Callable[..., Any]]:
    return torch._decomp._core_aten_decompositions_post_autograd()
