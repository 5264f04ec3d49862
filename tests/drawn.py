"""Random modules as people write them, drawn from a list of layers and functions, and saved in each format that lipcert reads.

`Drawn(seed)` is a chain of steps; a step that does not fit the shape at hand is skipped, so that any part of the chain is a
module as well: what breaks a law is made small by leaving out steps (`smallest`).
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, ...]
Make = Callable[[random.Random, Shape], "nn.Module | None"]
ENTRIES = 400  # of a signal, at most


class Apply(nn.Module):
    """A function of the signal and of constants, which are buffers."""

    def __init__(self, function: Callable[..., Tensor], *constants: Tensor):
        super().__init__()
        self.function, self.count = function, len(constants)
        for k, constant in enumerate(constants):
            self.register_buffer(f"c{k}", constant)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *(getattr(self, f"c{k}") for k in range(self.count)))


class Branches(nn.Module):
    """join(left(x), right(x))."""

    def __init__(self, left: nn.Module, right: nn.Module, join: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.left, self.right, self.join = left, right, join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.left(x), self.right(x))


class First(nn.Module):
    """The outputs of a recurrent layer."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class Attention(nn.Module):
    """Of tokens (1, t, d): products, torch's own function, or nn.MultiheadAttention; with a causal or a padding mask."""

    def __init__(self, dice: random.Random, t: int, d: int):
        super().__init__()
        self.way = dice.choice(["products", "function", "layer"])
        self.mask: str | None = dice.choice([None, "causal", "padding", "bias"])
        if self.way == "layer":
            self.layer = nn.MultiheadAttention(d, dice.choice([h for h in (1, 2) if d % h == 0]), batch_first=True)
        else:
            self.q, self.k, self.v = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        hidden = torch.triu(torch.ones(t, t), 1) > 0
        if self.mask == "padding":
            hidden = torch.zeros(t, t) > 0
            hidden[:, t - 1 :] = t > 1
        bias = torch.zeros(t, t).masked_fill(hidden, -math.inf)
        self.register_buffer("bias", torch.randn(t, t) if self.mask == "bias" else bias)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.mask is None else self.bias
        if self.way == "layer":
            return self.layer(x, x, x, attn_mask=bias, need_weights=False)[0]
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.way == "function":
            return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], attn_mask=bias)[:, 0]
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        return torch.softmax(scores if bias is None else scores + bias, dim=-1) @ v


def weights(module: nn.Module, dice: random.Random) -> nn.Module:
    """Weights of several characters, statistics of BatchNorm as if it had been trained."""
    generator = torch.Generator().manual_seed(dice.randrange(2**31))
    kind = dice.choice(["usual", "usual", "usual", "large", "small", "sparse", "whole"])
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point() or (name.endswith("bias") and tensor.ndim == 2):
            continue
        drawn = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(drawn.abs() + 0.1)
        elif name.endswith("running_mean"):
            tensor.copy_(drawn)
        elif tensor.ndim >= 2 and kind != "usual":
            scaled = {
                "large": 3 * tensor,
                "small": 0.1 * tensor,
                "sparse": tensor * (drawn > 0.3),
                "whole": drawn.round(),
            }
            tensor.copy_(scaled[kind])
    return module


def _axis(dice: random.Random, shape: Shape) -> int:
    return dice.randrange(1, len(shape)) - (len(shape) if dice.random() < 0.5 else 0)


def _is_map(shape: Shape) -> bool:
    return len(shape) == 4


def linear(dice: random.Random, shape: Shape) -> nn.Module:
    return nn.Linear(shape[-1], dice.randint(1, 6), bias=dice.random() < 0.7)


def convolution(dice: random.Random, shape: Shape) -> nn.Module | None:
    if len(shape) < 3:
        return None
    dims, channels = len(shape) - 2, shape[1]
    groups = dice.choice([g for g in (1, 1, 2, channels) if channels % g == 0])
    kernel = tuple(dice.randint(1, min(3, n)) for n in shape[2:])
    options: dict[str, Any] = {
        "stride": dice.randint(1, 2),
        "padding": dice.choice([0, 1, 1]),
        "groups": groups,
        "bias": dice.random() < 0.6,
    }
    if options["padding"] and dice.random() < 0.3:
        options["padding_mode"] = dice.choice(["reflect", "replicate", "circular"])
    outputs = groups * dice.randint(1, 2)
    return (nn.Conv1d, nn.Conv2d)[dims - 1](channels, outputs, kernel, **options) if dims <= 2 else None


def transposed(dice: random.Random, shape: Shape) -> nn.Module | None:
    if len(shape) not in (3, 4):
        return None
    stride = dice.randint(1, 2)
    options = {"stride": stride, "padding": dice.randint(0, 1), "output_padding": dice.randint(0, stride - 1)}
    layer = (nn.ConvTranspose1d, nn.ConvTranspose2d)[len(shape) - 3]
    return layer(shape[1], dice.randint(1, 3), dice.randint(2, 3), **options)


def batch_norm(dice: random.Random, shape: Shape) -> nn.Module | None:
    layer = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}.get(len(shape))
    return None if layer is None else layer(shape[1], affine=dice.random() < 0.7)


def normalisation(dice: random.Random, shape: Shape) -> nn.Module | None:
    kinds: list[Callable[[], nn.Module]] = []
    if shape[-1] > 1:
        kinds += [lambda: nn.LayerNorm(shape[-1]), lambda: nn.RMSNorm(shape[-1], eps=1e-5)]
        kinds += [lambda: Apply(lambda x: F.normalize(x, dim=-1, eps=1e-3))]
    if len(shape) >= 3 and math.prod(shape[2:]) > 1:
        kinds += [lambda: nn.GroupNorm(dice.choice([g for g in (1, 2) if shape[1] % g == 0]), shape[1])]
    if _is_map(shape) and math.prod(shape[2:]) > 1:
        kinds += [lambda: nn.InstanceNorm2d(shape[1]), lambda: nn.LocalResponseNorm(2)]
    return dice.choice(kinds)() if kinds else None


ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, lambda: nn.GELU("tanh"), nn.SiLU,
    nn.Mish, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softshrink,
    nn.Tanhshrink, nn.LogSigmoid, lambda: Apply(torch.sin), lambda: Apply(torch.atan), lambda: Apply(torch.abs),
    lambda: Apply(lambda x: x.clamp(-1.0, 0.5)), lambda: Apply(lambda x: torch.exp(-x.abs())), lambda: Apply(torch.erf),
    lambda: Apply(lambda x: torch.sqrt(x * x + 1)), lambda: Apply(lambda x: x / (1 + x.abs())), lambda: Apply(torch.asinh),
    lambda: Apply(lambda x: torch.log1p(torch.relu(x))), lambda: Apply(lambda x: x * torch.tanh(x)), lambda: Apply(torch.square),
    lambda: Apply(lambda x: torch.where(x > 0, x, 0.2 * x)), lambda: Apply(lambda x: 1 / (1 + x**2)),
)  # fmt: skip


def activation(dice: random.Random, shape: Shape) -> nn.Module:
    return dice.choice(ACTIVATIONS)()


def soft(dice: random.Random, shape: Shape) -> nn.Module | None:
    axis = _axis(dice, shape)
    return dice.choice(
        [
            nn.Softmax(axis),
            nn.LogSoftmax(axis),
            nn.Softmin(axis),
            Apply(lambda x: torch.logsumexp(x, axis, keepdim=True)),
            Apply(lambda x: torch.softmax(3.0 * x, axis)),
        ]
    )


def pool(dice: random.Random, shape: Shape) -> nn.Module | None:
    if len(shape) not in (3, 4) or min(shape[2:]) < 2:
        return None
    two = _is_map(shape)
    stride, ceil = dice.choice([1, 2]), dice.random() < 0.3
    return dice.choice(
        [
            (nn.MaxPool2d if two else nn.MaxPool1d)(2, stride, ceil_mode=ceil),
            (nn.AvgPool2d if two else nn.AvgPool1d)(2, stride, ceil_mode=ceil),
            (nn.AdaptiveAvgPool2d if two else nn.AdaptiveAvgPool1d)(1),
            (nn.MaxPool2d if two else nn.MaxPool1d)(2, stride, padding=1),
            Apply(lambda x: F.lp_pool2d(x.abs() + 1.0, 2.0, 2) if two else x.mean(-1, keepdim=True)),
        ]
    )


def reduce(dice: random.Random, shape: Shape) -> nn.Module | None:
    if len(shape) < 3:
        return None
    axis = _axis(dice, shape)
    functions: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: x.mean(axis, keepdim=True),
        lambda x: x.sum(axis),
        lambda x: x.amax(axis, keepdim=True),
        lambda x: x.amin(axis),
        lambda x: x.max(axis)[0],
        lambda x: torch.sqrt(x.var(axis, keepdim=True, unbiased=False) + 1e-2),
        lambda x: torch.linalg.vector_norm(x, dim=axis, keepdim=True),
    )
    return Apply(dice.choice(functions))


def order(dice: random.Random, shape: Shape) -> nn.Module:
    axis = _axis(dice, shape)
    k = dice.randint(1, shape[axis])
    functions: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: torch.sort(x, axis)[0],
        lambda x: torch.topk(x, k, axis)[0],
        lambda x: torch.cumsum(x, axis),
        lambda x: torch.maximum(x, x.flip(axis)),
        lambda x: torch.minimum(x, 0.5 - x),
        lambda x: torch.cat([torch.maximum(x, -x), torch.minimum(x, -x)], axis),
    )
    return Apply(dice.choice(functions))


def move(dice: random.Random, shape: Shape) -> nn.Module:
    axis, n = _axis(dice, shape), len(shape)
    size, order = shape[axis], list(range(1, n))
    dice.shuffle(order)
    places = torch.tensor([dice.randrange(size) for _ in range(dice.randint(1, 4))])
    begin = dice.randrange(size)
    functions: list[Callable[..., Tensor]] = [
        lambda x: x.permute(0, *order),
        lambda x: x.flip(axis),
        lambda x: torch.roll(x, 1, axis),
        lambda x: x.narrow(axis % n, begin, size - begin),
        lambda x: torch.cat([x, x.flip(axis)], axis),
        lambda x: x.flatten(1),
        lambda x: F.pad(x, (1, 0)),
        lambda x: torch.stack([x, 2 * x], axis % n),
        lambda x: x.repeat_interleave(2, axis),
        lambda x, places=places: x.index_select(axis, places),
        lambda x: torch.diff(x, dim=axis) if size > 1 else x,
        lambda x: x.unsqueeze(axis % n),
        lambda x: x.transpose(1, axis),
    ]
    if _is_map(shape):
        functions += [
            lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
            lambda x: F.interpolate(x, size=(3, 4), mode="bilinear", align_corners=False),
            lambda x: F.unfold(x, 2) if min(shape[2:]) > 1 else x,
            lambda x: F.pixel_unshuffle(x, 2) if not shape[2] % 2 and not shape[3] % 2 else x,
            lambda x: F.pixel_shuffle(x, 2) if not shape[1] % 4 else x,
        ]
    return Apply(dice.choice(functions))


def arithmetic(dice: random.Random, shape: Shape) -> nn.Module:
    generator = torch.Generator().manual_seed(dice.randrange(2**31))
    each, last = torch.randn(shape[1:], generator=generator), torch.randn(shape[-1], generator=generator)
    square = torch.randn(shape[-1], shape[-1], generator=generator)
    functions: tuple[tuple[Callable[..., Tensor], tuple[Tensor, ...]], ...] = (
        (lambda x, c: x * c, (each,)),
        (lambda x, c: x + c, (last,)),
        (lambda x, c: c - 2 * x, (each,)),
        (lambda x, c: x / (c.abs() + 1), (last,)),
        (lambda x, c: x @ c, (square,)),
        (lambda x, c: torch.einsum("...i,ji->...j", x, c), (square,)),
        (lambda x, c: torch.where(c > 0, x, 0.5 * x), (each,)),
        (lambda x, c: torch.maximum(x, c), (last,)),
        (lambda x, c: x * (c > 0), (each,)),
        (lambda x: -x, ()),
    )
    function, constants = dice.choice(functions)
    return Apply(function, *constants)


def two_branches(dice: random.Random, shape: Shape) -> nn.Module:
    n = shape[-1]

    def branch() -> nn.Module:
        return nn.Sequential(nn.Linear(n, n), dice.choice(ACTIVATIONS)()) if dice.random() < 0.7 else nn.Identity()

    joins: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
        lambda a, b: a + b,
        lambda a, b: a - 0.5 * b,
        lambda a, b: a * torch.sigmoid(b),
        lambda a, b: torch.tanh(a) * torch.tanh(b),
        lambda a, b: torch.maximum(a, b),
        lambda a, b: torch.cat([a, b], -1),
        lambda a, b: a / (1.5 + torch.sin(b)),
        lambda a, b: a * b,
        lambda a, b: a * torch.softmax(b, -1),
    )
    return Branches(branch(), branch(), dice.choice(joins))


def tokens(dice: random.Random, shape: Shape) -> nn.Module | None:
    if len(shape) != 3 or shape[1] > 12 or shape[2] > 12:
        return None
    kind = dice.choice(["attention", "residual", "lstm", "gru", "rnn"])
    if kind in ("lstm", "gru", "rnn"):
        layer = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[kind]
        return First(layer(shape[2], 3, batch_first=True, bidirectional=dice.random() < 0.3))
    attention = Attention(dice, shape[1], shape[2])
    if kind == "attention":
        return attention
    return Branches(nn.Identity(), nn.Sequential(nn.LayerNorm(shape[2]), attention), lambda a, b: a + b)


KINDS: tuple[tuple[Make, int], ...] = (
    (linear, 6), (convolution, 8), (transposed, 2), (batch_norm, 3), (normalisation, 4), (activation, 12), (soft, 3),
    (pool, 3), (reduce, 2), (order, 4), (move, 6), (arithmetic, 5), (two_branches, 5), (tokens, 5),
)  # fmt: skip
SHAPES: tuple[Shape, ...] = (
    (1, 3),
    (1, 5),
    (1, 1),
    (1, 2, 6),
    (1, 4, 4),
    (1, 2, 4, 4),
    (1, 1, 5, 6),
    (1, 4, 3, 3),
    (1, 3, 1, 1),
)


class Drawn(nn.Module):
    """Steps number `kept` (None: all that fit) of the chain of this seed."""

    def __init__(self, seed: int, kept: Sequence[int] | None = None):
        super().__init__()
        dice = random.Random(seed)
        self.shape = dice.choice(SHAPES)
        drawn = [
            (make, dice.randrange(2**31)) for make in dice.choices(*zip(*KINDS, strict=True), k=dice.randint(2, 8))
        ]
        self.kept: list[int] = []
        self.words: list[str] = []
        layers: list[nn.Module] = []
        x = torch.randn(self.shape, generator=torch.Generator().manual_seed(seed))
        for k, (make, own) in enumerate(drawn):
            if kept is not None and k not in kept:
                continue
            torch.manual_seed(own)
            layer = make(random.Random(own), tuple(x.shape))
            if layer is None:
                continue
            layer = weights(layer, random.Random(own)).eval()
            try:
                with torch.no_grad():
                    y = layer(x)
            except (RuntimeError, ValueError):  # a kernel larger than its input
                continue
            if not 0 < y.numel() <= ENTRIES or not y.is_floating_point():
                continue
            self.kept.append(k)
            self.words.append(f"{make.__name__} {tuple(y.shape)}")
            layers.append(layer)
            x = y
        self.layers = nn.Sequential(*layers)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def __str__(self) -> str:
        return f"{self.shape} -> " + " -> ".join(self.words) + f" (steps {self.kept})"


def smallest(seed: int, breaks: Callable[[Drawn], bool]) -> Drawn:
    """With as many steps left out as can be while `breaks` holds."""
    module = Drawn(seed)
    again = True
    while again:
        again = False
        for k in module.kept:
            fewer = Drawn(seed, [other for other in module.kept if other != k])
            if breaks(fewer):
                module, again = fewer, True
                break
    return module


def as_torchscript(module: Drawn, folder: Path) -> Path:
    path = folder / "m.pt"
    torch.jit.trace(module, torch.zeros(module.shape), check_trace=False).save(str(path))
    return path


def as_exported(module: Drawn, folder: Path) -> Path:
    path = folder / "m.pt2"
    torch.export.save(torch.export.export(module, (torch.zeros(module.shape),)), path)
    return path


def as_onnx(module: Drawn, folder: Path, dynamo: bool) -> Path:
    path = folder / ("new.onnx" if dynamo else "old.onnx")
    stream = io.BytesIO()
    example = (torch.zeros(module.shape),)
    if dynamo:
        program = torch.onnx.export(module, example, dynamo=True, verbose=False)
        assert program is not None
        program.save(path)
        return path
    torch.onnx.export(module, example, stream, dynamo=False, opset_version=17)
    path.write_bytes(stream.getvalue())
    return path


FORMATS: dict[str, Callable[[Drawn, Path], Any]] = {
    "module": lambda module, _: module,
    "torchscript": as_torchscript,
    "exported": as_exported,
    "onnx": lambda module, folder: as_onnx(module, folder, dynamo=True),
    "onnx (old exporter)": lambda module, folder: as_onnx(module, folder, dynamo=False),
}
