"""Random networks as lists of ATen calls. One list is run by torch (the oracle's side), captured through an nn.Module,
or lowered rule by rule without export (the fast way to hundreds of graphs).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lipcert.activations import ACTIVATIONS
from lipcert.load.lower import RULES
from lipcert.load.lower.builder import Builder, Signal
from lipcert.load.lower.signals import pointwise
from lipcert.network.graph import Graph
from lipcert.rigor.constants import Constant


@dataclass(frozen=True)
class Ref:
    """Value number `index` of a program; 0 is the input."""

    index: int


@dataclass(frozen=True, eq=False)
class Step:
    """`op`: "relu.default", ATen's name; or "row:NAME", a row of the activation table with its default parameters."""

    op: str
    args: tuple[Any, ...]


def _torch_call(step: Step, args: list[Any]) -> Tensor:
    if step.op.startswith("row:"):
        row = ACTIVATIONS[step.op[4:]]
        return row.function(args[0], *row.parameters.values())
    if step.op == "hardsigmoid.default":  # torch's backward multiplies by float32(1/6), 3e-8 above the slope
        return (args[0] + 3).clamp(0, 6) / 6
    packet, overload = step.op.split(".")
    result = getattr(getattr(torch.ops.aten, packet), overload)(*args)
    return result if isinstance(result, Tensor) else result[0]


def _substitute(value: Any, of_ref: Callable[[Ref], Any], of_tensor: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, Ref):
        return of_ref(value)
    if isinstance(value, Tensor):
        return of_tensor(value)
    return [_substitute(v, of_ref, of_tensor) for v in value] if isinstance(value, list) else value


@dataclass(frozen=True, eq=False)
class Program:
    name: str
    shape: tuple[int, ...]
    steps: tuple[Step, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """One sample of `shape`, by torch alone."""
        values = [x]
        for step in self.steps:
            args = [_substitute(a, lambda r: values[r.index], lambda t: t) for a in step.args]
            values.append(_torch_call(step, args))
        return values[-1]

    def graph(self, rules: Mapping[str, Callable[..., Any]] = RULES) -> Graph:
        """Lowered rule by rule. Other `rules` make wrong readings on purpose."""
        b = Builder(self.shape, "x")
        values: list[Any] = [b.input]
        for i, step in enumerate(self.steps):
            b.where = f"{step.op}_{i}"
            args = [_substitute(a, lambda r: values[r.index], _constant) for a in step.args]
            if step.op.startswith("row:"):
                result: Any = pointwise(b, args[0], step.op[4:])
            else:
                result = rules[f"aten.{step.op}"](b, *args)
            values.append(result if isinstance(result, Signal) else result[0])
        return b.graph(values[-1])

    def module(self) -> nn.Module:
        return _Module(self)

    def __repr__(self) -> str:
        return f"{self.name}: " + " ".join(step.op for step in self.steps)


def _constant(t: Tensor) -> Any:
    return Constant(t) if t.dtype.is_floating_point else t


@dataclass(frozen=True)
class _Buffer:
    """A tensor of a program as an attribute of the module."""

    name: str


class _Module(nn.Module):
    """The same calls with every tensor a buffer, shared ones once, as an exporter meets them."""

    def __init__(self, program: Program):
        super().__init__()
        names: dict[int, str] = {}

        def keep(t: Tensor) -> _Buffer:
            if id(t) not in names:
                names[id(t)] = f"t{len(names)}"
                self.register_buffer(names[id(t)], t)
            return _Buffer(names[id(t)])

        self.steps = [
            Step(step.op, tuple(_substitute(a, lambda r: r, keep) for a in step.args)) for step in program.steps
        ]

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for step in self.steps:
            values.append(_torch_call(step, [self._resolved(a, values) for a in step.args]))
        return values[-1]

    def _resolved(self, value: Any, values: list[Tensor]) -> Any:
        if isinstance(value, _Buffer):
            return getattr(self, value.name)
        if isinstance(value, Ref):
            return values[value.index]
        return [self._resolved(v, values) for v in value] if isinstance(value, list) else value


class Maker:
    """Appends steps and runs them on one sample to know every shape."""

    def __init__(self, name: str, seed: int, shape: tuple[int, ...]):
        self.name, self.shape = name, shape
        self.random = random.Random(f"{name} {seed}")
        self.generator = torch.Generator().manual_seed(self.random.randrange(2**31))
        self.values: list[Tensor] = [self.randn(*shape)]
        self.steps: list[Step] = []
        self.input = Ref(0)

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def weight(self, *shape: int) -> Tensor:
        """Of several characters: normal, positive, sparse, orthogonal rows, integers, one tiny or large scale."""
        kind = self.random.choice(["normal"] * 3 + ["positive", "sparse", "equal", "integer", "tiny", "large"])
        w = self.randn(*shape)
        if kind == "positive":
            return w.abs()
        if kind == "sparse":
            return w * (self.randn(*shape) > 0)
        if kind == "equal" and len(shape) == 2:
            return torch.linalg.qr(self.randn(max(shape), max(shape)))[0][: shape[0], : shape[1]].contiguous()
        if kind == "integer":
            return w.round()
        return w * {"tiny": 1e-4, "large": 1e3}.get(kind, 1.0)

    def add(self, op: str, *args: Any) -> Ref:
        step = Step(op, args)
        values = [_substitute(a, lambda r: self.values[r.index], lambda t: t) for a in args]
        self.values.append(_torch_call(step, values))
        self.steps.append(step)
        return Ref(len(self.values) - 1)

    def shape_of(self, x: Ref) -> tuple[int, ...]:
        return tuple(self.values[x.index].shape)

    def program(self) -> Program:
        return Program(self.name, self.shape, tuple(self.steps))

    # Layers

    def linear(self, x: Ref, outputs: int | None = None) -> Ref:
        n = self.shape_of(x)[-1]
        m = outputs or self.random.randint(1, 6)
        return self.add("linear.default", x, self.weight(m, n), self.randn(m) if self.random.random() < 0.7 else None)

    def activation(self, x: Ref) -> Ref:
        op, *rest = self.random.choice(ACTIVATION_CALLS)
        return self.add(op, x, *rest)

    def conv(self, x: Ref, channels: int | None = None) -> Ref:
        shape, r = self.shape_of(x), self.random
        dims, c = len(shape) - 2, shape[1]
        groups = r.choice([g for g in (1, 2, 3) if c % g == 0])
        out = (channels or r.randint(1, 2) * groups) if not channels or channels % groups == 0 else channels * groups
        kernel = [r.randint(1, min(3, n)) for n in shape[2:]]
        stride = [r.randint(1, 2) for _ in range(dims)]
        padding = [r.randint(0, 2) for _ in range(dims)]
        dilation = [r.choice([1, 1, 2]) if (k - 1) * 2 + 1 <= n else 1 for k, n in zip(kernel, shape[2:], strict=True)]
        bias = self.randn(out) if r.random() < 0.5 else None
        w = self.weight(out, c // groups, *kernel)
        return self.add("convolution.default", x, w, bias, stride, padding, dilation, False, [0] * dims, groups)

    def transposed(self, x: Ref) -> Ref:
        shape, r = self.shape_of(x), self.random
        dims, c = len(shape) - 2, shape[1]
        groups = r.choice([g for g in (1, 2) if c % g == 0])
        stride = [r.randint(1, 2) for _ in range(dims)]
        extra = [r.randint(0, s - 1) for s in stride]
        kernel = [r.randint(2, 3) for _ in range(dims)]
        w = self.weight(c, r.randint(1, 2), *kernel)
        padding = [r.randint(0, 1) for _ in range(dims)]
        return self.add("convolution.default", x, w, None, stride, padding, [1] * dims, True, extra, groups)

    def batch_norm(self, x: Ref) -> Ref:
        c = self.shape_of(x)[1]
        variance = self.randn(c).abs() * self.random.choice([1.0, 1e-6, 1e3])
        eps = self.random.choice([1e-5, 1e-3])
        arguments = (self.randn(c), self.randn(c), self.randn(c), variance, 0.1, eps)
        return self.add("_native_batch_norm_legit_no_training.default", x, *arguments)

    def flat(self, x: Ref) -> Ref:
        return self.add("reshape.default", x, [1, self.values[x.index].numel()])


ACTIVATION_CALLS: list[tuple[Any, ...]] = [
    ("relu.default",),
    ("relu.default",),
    ("leaky_relu.default", 0.2),
    ("leaky_relu.default", -0.5),
    ("leaky_relu.default", 2.0),
    ("elu.default", 1.5),
    ("elu.default", 1.0, 1.05, 1.0),
    ("celu.default", 0.7),
    ("selu.default",),
    ("silu.default",),
    ("mish.default",),
    ("gelu.default",),
    ("hardswish.default",),
    ("hardsigmoid.default",),
    ("hardtanh.default", -0.5, 2.0),
    ("clamp.default", -1.0, 1.0),
    ("clamp_min.default", 0.5),
    ("clamp_max.default", 0.5),
    ("softplus.default", 2.0, 20.0),
    ("sigmoid.default",),
    ("tanh.default",),
    ("abs.default",),
    ("sin.default",),
    ("erf.default",),
    ("atan.default",),
    ("relu6.default",),
]
