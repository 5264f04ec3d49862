"""What a graph computes from its constants alone, whatever operator computes it.

The value is the real number that the stored weights and the casts of the file define (a runtime's own rounding is no
part of the function), in float64 with an enclosure. An operator is met in this order:

  whole numbers and booleans only    run as it is: exact
  casts, creation                    rounded as the file says, then exact
  moves                              centre and radius move alike
  arithmetic, functions, matrices    a rule with its rounding in the enclosure
  nondecreasing and without rounding (maximum, sort, clamp, floor): lower end to lower end, upper to upper
  comparisons and positions          exact of stored numbers; of computed ones where the enclosures decide
  all others                         torch's own decomposition into these; where there is none, a refusal by name
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from lipcert.load.lower import matrices
from lipcert.load.lower.casts import WIDER, cast
from lipcert.load.lower.folded_sums import LINEAR, aten
from lipcert.load.lower.functions import FUNCTIONS
from lipcert.load.lower.signals import Unread
from lipcert.rigor.constants import ARITHMETIC, Constant, constant, from_ends
from lipcert.rigor.rounding import FORMATS, TINY, gamma, up
from lipcert.terms.errors import RefusedModel

LIMIT = 2**28  # entries
BY_HAND = 2**16  # entries of a remainder, taken in exact fractions
HARMLESS = {"memory_format", "layout", "device", "pin_memory", "non_blocking", "copy"}


def _names(text: str) -> frozenset[str]:
    return frozenset(f"aten.{n}" if "." in n else f"aten.{n}.default" for n in text.split())


def _word(name: str) -> str:
    return name.split(".")[1] if "." in name else name


def _twins(name: str) -> tuple[str, ...]:
    """torch's references are written in prims, with the names and the meaning of the operators here."""
    return (f"aten.{_word(name)}.Tensor", f"aten.{_word(name)}.default") if name.startswith("prims.") else ()


CASTS = _names("_to_copy to.dtype") | {"prims.convert_element_type.default"}
CREATES = _names("""full full_like zeros zeros_like ones ones_like new_full new_zeros new_ones arange arange.start
arange.start_step scalar_tensor eye eye.m empty.memory_format""")
MOVES = _names("""clone alias detach contiguous lift_fresh_copy view _unsafe_view reshape permute expand repeat
slice.Tensor select.int unsqueeze squeeze squeeze.dim squeeze.dims flip roll unfold index.Tensor _unsafe_index.Tensor
index_select gather take tril triu reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
replication_pad3d _pad_circular upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
_upsample_nearest_exact2d _upsample_nearest_exact3d pixel_shuffle pixel_unshuffle channel_shuffle diagonal diag_embed
transpose.int t im2col split_with_sizes split.Tensor unbind.int chunk cat stack constant_pad_nd where.self where.ScalarOther
where.ScalarSelf masked_fill.Scalar masked_fill.Tensor slice_scatter select_scatter diagonal_scatter index_put
_unsafe_index_put scatter.src scatter.value index_fill.int_Scalar index_fill.int_Tensor index_copy
repeat_interleave.self_int rot90""") | {
    f"prims.{n}.default" for n in "broadcast_in_dim view_of transpose squeeze clone".split()
}
_FILLS = {"aten.masked_fill.Scalar": 2, "aten.scatter.value": 3, "aten.index_fill.int_Scalar": 3, "aten.constant_pad_nd.default": 2}  # fmt: skip
# Nondecreasing in every float argument, and each result is an argument or a whole number.
NONDECREASING = _names("""maximum minimum fmax fmin amax amin max min max.dim min.dim max.other min.other clamp clamp.Tensor
clamp_min clamp_max clamp_min.Tensor clamp_max.Tensor relu relu6 hardtanh floor ceil round trunc sign sort sort.stable topk
kthvalue median.dim cummax cummin max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool3d""")
ORDERS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    # of enclosures [a, b] and [c, d]: where the comparison is surely true, where it is surely false
    "lt": lambda a, b, c, d: (b < c, a >= d),
    "le": lambda a, b, c, d: (b <= c, a > d),
    "gt": lambda a, b, c, d: (a > d, b <= c),
    "ge": lambda a, b, c, d: (a >= d, b < c),
    "eq": lambda a, b, c, d: ((a == b) & (c == d) & (a == c), (b < c) | (a > d)),
    "ne": lambda a, b, c, d: ((b < c) | (a > d), (a == b) & (c == d) & (a == c)),
}
CHOICES = {  # places of the condition, of what is taken where it holds, and where not
    **dict.fromkeys(("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf"), (0, 1, 2)),
    **dict.fromkeys(("aten.masked_fill.Scalar", "aten.masked_fill.Tensor"), (1, 2, 0)),
}
POSITIONS = _names("""argmax argmin argsort argsort.stable nonzero signbit isnan isinf isfinite logical_not logical_and
logical_or logical_xor any any.dim any.dims all all.dim all.dims bucketize.Tensor searchsorted.Tensor""")
REMAINDERS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "aten.fmod": lambda a, b: a - b * math.trunc(a / b),
    "aten.remainder": lambda a, b: a - b * math.floor(a / b),
    "aten.floor_divide": lambda a, b: Fraction(math.floor(a / b)),
}
MATRICES: dict[str, Callable[..., Any]] = {
    "aten.linalg_householder_product.default": matrices.householder_product,
    "aten.linalg_inv_ex.default": lambda a, check_errors=False: (matrices.inverse(a),),
    "aten.linalg_inv.default": matrices.inverse,
    "aten.inverse.default": matrices.inverse,
    "aten._linalg_solve_ex.default": lambda a, b, *, left=True, check_errors=False: matrices.solve(a, b, left),
    "aten.linalg_solve_triangular.default": matrices.solve_triangular,
    "aten.linalg_matrix_exp.default": matrices.exponential,
    "aten.matrix_exp.default": matrices.exponential,
}


def fold(target: Any, args: Sequence[Any], kwargs: dict[str, Any], recorded: Sequence[Tensor], said: Any = None) -> Any:
    """`target` of constants. `recorded`: the tensors among the arguments as torch recorded them, with the types of the
    file; `said`: the same of the result. Results are `Constant`, tensors of whole numbers, or a list of them. RefusedModel where no
    rule holds."""
    name, sources = str(target), [t.dtype for t in recorded] or [torch.float64]
    kwargs = {key: value for key, value in kwargs.items() if key not in HARMLESS}
    given = list(_leaves([*args, *kwargs.values()]))
    stated = said.dtype if isinstance(said, Tensor) else None
    if name in CASTS and not isinstance(args[0], Undecided):
        kind = kwargs.get("dtype") or next((a for a in args[1:] if isinstance(a, torch.dtype)), None)
        return args[0] if kind is None else cast(args[0], sources[0], kind)
    if name in CREATES:
        return _create(target, name, args, kwargs, stated)
    tensors = [v for v in given if isinstance(v, Constant | Tensor)]
    if any(isinstance(v, Undecided) for v in given):
        return _either(name, args)
    if not any(isinstance(v, Constant) for v in tensors) and not (stated is not None and stated.is_floating_point):
        return _exact(target, args, kwargs)
    if name == "aten.copy.default":  # the second tensor in the first one's type
        return cast(args[1], sources[-1], sources[0])
    kind = kwargs.pop("dtype", None)
    if kind is not None and tensors:  # torch casts first, then sums
        args = [cast(args[0], sources[0], kind), *args[1:]]
        if not any(isinstance(v, Constant) for v in _leaves(args)):
            return _exact(target, args, kwargs)
    elif stated in WIDER and any(t.dim() and stated not in WIDER.get(t.dtype, (stated,)) for t in recorded):
        raise RefusedModel(f"{name} rounds its arguments to {stated}")
    result = _folded(target, name, args, kwargs)
    if not tensors and stated in FORMATS:  # numbers only: they are created in the type of the result
        return cast(result, torch.float64, stated)
    return result


def _folded(target: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    for table in (ARITHMETIC, FUNCTIONS, MATRICES, LINEAR):
        for spelt in (name, *_twins(name)):
            if spelt in table:
                return _wrapped(table[spelt](*args, **kwargs))
    if name in MOVES:
        return move(target, name, args, kwargs)
    if name in NONDECREASING:
        return _nondecreasing(target, args, kwargs)
    if (word := _word(name)) in ORDERS and len(args) == 2:
        return _order(word, *args)
    if name in POSITIONS:
        return _exact(target, [_stored(a, name) for a in args], {k: _stored(v, name) for k, v in kwargs.items()})
    if name.rpartition(".")[0] in REMAINDERS:
        return _remainder(REMAINDERS[name.rpartition(".")[0]], *map(constant, args))
    return _decomposed(target, name, args, kwargs)


def _leaves(values: Any) -> Any:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _leaves(value)
        else:
            yield value


def _mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    return [_mapped(v, function) for v in value] if isinstance(value, list | tuple) else function(value)


def _wrapped(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _float(value: Any) -> Any:
    float_tensor = isinstance(value, Tensor) and value.dtype.is_floating_point
    return Constant(value.to(torch.float64)) if float_tensor else value


def _exact(target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """torch's own result, of whole numbers and booleans, or of comparisons of exact float64 numbers."""

    try:
        return _mapped(target(*args, **kwargs), _float)
    except RuntimeError as problem:  # division by zero, an index out of range
        raise RefusedModel(f"a constant cannot be evaluated: {str(problem).splitlines()[0]}") from problem


def _create(target: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any], stated: torch.dtype | None) -> Any:
    """A tensor of given numbers, each rounded to the type that it is created in."""
    kind = stated or kwargs.get("dtype") or torch.float64
    plain = _mapped(list(args), lambda a: a.centre if isinstance(a, Constant) else a)
    if not kind.is_floating_point:
        return target(*plain, **{**kwargs, "dtype": kind})
    value = Constant(target(*plain, **{**kwargs, "dtype": torch.float64}))
    steps = [a for a in plain if isinstance(a, int | float)] if "arange" in name else []
    if steps and not all(float(a) == int(a) and abs(a) < 2**53 for a in steps):  # start + i step is computed
        size = sum(abs(float(a)) for a in steps) * (value.centre.numel() + 1)
        value = Constant(value.centre, torch.full_like(value.centre, up(gamma(4) * size)))
    return cast(value, torch.float64, kind)


def move(target: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """An operation that copies entries: it moves centre and radius alike; what it fills in is exact."""
    if name in ("aten.index_put.default", "aten._unsafe_index_put.default") and len(args) > 3 and args[3]:
        raise RefusedModel(f"{name} that adds up")
    if any(isinstance(v, Constant) for v in _leaves(args)) and ".where." in name:
        args = [args[0], *(constant(a) for a in args[1:])]
        target = aten.where.self
    if "view.default" in name:  # of the tensor as the graph has it; ours may lie in memory in another order
        target = aten.reshape.default
    if isinstance(args[0], list | tuple):
        args = [[constant(a) for a in args[0]], *args[1:]]
    centres = _mapped(list(args), lambda a: a.centre if isinstance(a, Constant) else a)
    known = [v for v in _leaves(args) if isinstance(v, Constant)]
    moved = target(*centres, **kwargs)
    if all(v.radius is None for v in known):
        return _mapped(moved, _float)
    reaches = _mapped(list(args), lambda a: a.reach() if isinstance(a, Constant) else a)
    if name in _FILLS and len(reaches) > _FILLS[name]:
        reaches[_FILLS[name]] = 0.0
    widths = target(*reaches, **kwargs)
    if isinstance(moved, Tensor):
        return Constant(moved, widths)
    return [Constant(c, r) for c, r in zip(moved, widths, strict=True)]


def _nondecreasing(target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    every = [_mapped(a, lambda v: constant(v) if isinstance(v, Tensor) else v) for a in args]
    known = [v for v in _leaves(every) if isinstance(v, Constant)]
    low = target(*_mapped(every, lambda a: a.lower if isinstance(a, Constant) else a), **kwargs)
    if all(v.radius is None for v in known):
        return _mapped(low, _float)
    high = target(*_mapped(every, lambda a: a.upper if isinstance(a, Constant) else a), **kwargs)
    if isinstance(low, Tensor):
        return from_ends(low, high)
    return [
        from_ends(a, b) if a.dtype.is_floating_point else Unread("positions among computed constants")
        for a, b in zip(low, high, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class Undecided:
    """A comparison of computed constants that some enclosures leave open: where it surely holds, where surely not."""

    true: Tensor
    false: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.true.shape)


def _order(word: str, a: Any, b: Any) -> Tensor | Undecided:
    x, y = constant(a), constant(b)
    true, false = ORDERS[word](x.lower, x.upper, y.lower, y.upper)
    return true if bool((true | false).all()) else Undecided(true, false)


def _either(name: str, args: Sequence[Any]) -> Constant:
    """A choice by an undecided comparison: where it is open, the hull of both sides (x * (x > 0) at a kink)."""
    if name in CHOICES:
        mask, x, y = (args[i] for i in CHOICES[name])
        x, y = constant(x), constant(y)
        if isinstance(mask, Undecided):
            low = torch.where(mask.true, x.lower, torch.where(mask.false, y.lower, torch.minimum(x.lower, y.lower)))
            high = torch.where(mask.true, x.upper, torch.where(mask.false, y.upper, torch.maximum(x.upper, y.upper)))
            return from_ends(low, high)
    raise RefusedModel("a computed constant lies too close to another to be compared with it")


def _stored(value: Any, name: str) -> Any:
    def bare(item: Any) -> Any:
        if isinstance(item, Constant):
            if item.radius is not None:
                raise RefusedModel(f"{name} of a computed constant")
            return item.centre
        return item

    return _mapped(value, bare)


def _remainder(function: Callable[[Fraction, Fraction], Fraction], a: Constant, b: Constant) -> Constant:
    """In exact fractions: the quotient's rounding could step over a whole number."""
    if a.radius is not None or b.radius is not None or bool((b.centre == 0).any()):
        raise RefusedModel("a remainder of computed constants, or by zero")
    x, y = torch.broadcast_tensors(a.centre, b.centre)
    if x.numel() > BY_HAND:
        raise RefusedModel(f"a remainder of {x.numel()} constants")
    pairs = zip(x.reshape(-1).tolist(), y.reshape(-1).tolist(), strict=True)
    true = [function(Fraction(u), Fraction(v)) for u, v in pairs]
    near = torch.tensor([float(t) for t in true], dtype=torch.float64).reshape(x.shape)
    if all(Fraction(float(t)) == t for t in true):
        return Constant(near)
    return Constant(near, up(near.abs() * 2.0**-52 + TINY))


@functools.cache
def _decompositions() -> dict[Any, Callable[..., Any]]:
    import torch._decomp
    import torch._refs  # registers most of them

    ruled = {*CASTS, *CREATES, *MOVES, *NONDECREASING, *POSITIONS, *ARITHMETIC, *FUNCTIONS, *MATRICES, *LINEAR}
    return {
        op: rule
        for op, rule in torch._decomp.decomposition_table.items()
        if str(op) not in ruled and str(op).rpartition(".")[0] not in REMAINDERS and _word(str(op)) not in ORDERS
    }


def _decomposed(target: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    from torch.fx.experimental.proxy_tensor import make_fx

    table = _decompositions()
    if target not in table:
        raise RefusedModel(f"no rule for {name} on constants")
    flat = [v for v in _leaves([*args, *kwargs.values()]) if isinstance(v, Constant | Tensor)]

    def call(*tensors: Tensor) -> Any:
        left = iter(tensors)

        def place(value: Any) -> Any:
            return next(left) if isinstance(value, Constant | Tensor) else value

        return target(*_mapped(list(args), place), **{key: _mapped(v, place) for key, v in kwargs.items()})

    shapes = [v.centre if isinstance(v, Constant) else v for v in flat]
    try:
        traced = make_fx(call, decomposition_table=table, tracing_mode="fake")(*shapes)
    except Exception as problem:  # torch raises many kinds
        raise RefusedModel(f"no rule for {name} on constants") from problem
    return _run(traced, flat, name)


def _run(traced: Any, flat: Sequence[Any], name: str) -> Any:
    values: dict[Any, Any] = {}
    inputs = iter(flat)
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(inputs)
        elif node.op == "get_attr":
            held = getattr(traced, node.target)
            values[node] = Constant(held.to(torch.float64)) if held.dtype.is_floating_point else held
        elif node.op == "output":
            return _wrapped(_mapped(node.args[0], lambda a: values.get(a) if isinstance(a, torch.fx.Node) else a))
        elif node.target is operator.getitem:
            values[node] = values[node.args[0]][node.args[1]]
        else:
            args = _mapped(list(node.args), lambda a: values[a] if isinstance(a, torch.fx.Node) else a)
            kwargs = {k: _mapped(v, lambda a: values[a] if isinstance(a, torch.fx.Node) else a) for k, v in node.kwargs.items()}  # fmt: skip
            if any(isinstance(v, Unread) for v in _leaves([*args, *kwargs.values()])):
                raise RefusedModel(f"no rule for {name} on computed constants")
            if node.target in _decompositions():  # it was kept whole by its own decomposition
                raise RefusedModel(f"no rule for {node.target} (of {name}) on constants")
            recorded = [a.meta["val"] for a in node.all_input_nodes if isinstance(a.meta.get("val"), Tensor)]
            values[node] = fold(node.target, args, kwargs, recorded, node.meta.get("val"))
    raise AssertionError("a traced graph has an output")
