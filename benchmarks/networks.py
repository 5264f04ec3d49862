"""Networks that the benchmarks measure, in plain torch.nn: seeded weights, BatchNorm statistics of random data.

    python benchmarks/networks.py resnet18 FOLDER [--side 224]      writes FOLDER/resnet18.onnx

The residual shapes are those of He et al. 2016 (Table 1, and the 1x1 projection shortcuts of option B).
"""

from __future__ import annotations

import argparse
import sys
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn


def mlp(sizes: list[int], seed: int = 0) -> nn.Sequential:
    """Linear layers with ReLU between them, torch's default initialisation."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for n, m in pairwise(sizes):
        layers += [nn.Linear(n, m), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def _conv(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(c_out))


class Block(nn.Module):
    """relu(body(x) + shortcut(x)): two 3x3 convolutions, or 1x1, 3x3, 1x1 with four times the channels (bottleneck)."""

    def __init__(self, c_in: int, width: int, stride: int, bottleneck: bool):
        super().__init__()
        c_out = 4 * width if bottleneck else width
        if bottleneck:
            convs = [_conv(c_in, width, 1), _conv(width, width, 3, stride), _conv(width, c_out, 1)]
        else:
            convs = [_conv(c_in, width, 3, stride), _conv(width, width, 3)]
        between = [layer for conv in convs for layer in (conv, nn.ReLU())]
        self.body = nn.Sequential(*between[:-1])
        self.shortcut = nn.Identity() if (c_in, stride) == (c_out, 1) else _conv(c_in, c_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """(1, 3, side, side) -> (1, classes); `width`: channels of the first stage."""

    def __init__(self, depths: tuple[int, ...], bottleneck: bool, width: int = 64, classes: int = 1000):
        super().__init__()
        self.stem = nn.Sequential(_conv(3, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        blocks, c_in = [], width
        for stage, depth in enumerate(depths):
            for i in range(depth):
                blocks.append(Block(c_in, width, 2 if stage and i == 0 else 1, bottleneck))
                c_in = 4 * width if bottleneck else width
            width *= 2
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c_in, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


RESNETS: dict[str, tuple[tuple[int, ...], bool, int]] = {
    "resnet18": ((2, 2, 2, 2), False, 64),
    "resnet34": ((3, 4, 6, 3), False, 64),
    "resnet50": ((3, 4, 6, 3), True, 64),
    "resnet6": ((1, 1), False, 8),  # for smoke runs
}


def resnet(name: str, seed: int = 0) -> ResNet:
    """He initialisation; BatchNorm scales and shifts drawn about (1, 0), running statistics those of random images."""
    torch.manual_seed(seed)
    net = ResNet(*RESNETS[name])
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0.0, 0.2)
            norm.momentum = None  # the plain average over the batches seen
        for _ in range(2):  # statistics hardly depend on the resolution: small images will do
            net.train()(torch.randn(4, 3, 96, 96))
    return net.eval()


def export(net: nn.Module, shape: tuple[int, ...], path: Path) -> Path:
    """Written as ONNX or TorchScript, by the ending of `path` (.onnx, .pt)."""
    x = torch.zeros(shape)
    with torch.no_grad():
        if path.suffix == ".onnx":
            torch.onnx.export(net, (x,), str(path), dynamo=False, opset_version=17)
        else:
            torch.jit.save(torch.jit.trace(net, x), str(path))
    return path


def two_moons(activation: type[nn.Module], steps: int = 100) -> nn.Sequential:
    """2-100-100-100-1 trained on two interleaved half circles with noise 0.1, as examples/train.py trains the shipped one."""
    torch.manual_seed(0)
    angle, kind = torch.rand(500) * torch.pi, torch.arange(500) % 2
    upper, lower = (torch.stack(side, dim=1) for side in (
        (angle.cos(), angle.sin()), (1 - angle.cos(), 0.5 - angle.sin())
    ))  # fmt: skip
    x = torch.where(kind[:, None] == 0, upper, lower) + 0.1 * torch.randn(500, 2)
    net = nn.Sequential(*(activation() if isinstance(m, nn.ReLU) else m for m in mlp([2, 100, 100, 100, 1])))
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2, weight_decay=1e-4)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(net(x)[:, 0], kind.float()).backward()
        optimiser.step()
    return net.eval()


class ResidualMlp(nn.Module):
    """x <- x + W2 relu(W1 x), then four outputs."""

    def __init__(self, width: int, blocks: int):
        super().__init__()
        self.inner = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(blocks))
        self.outer = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(blocks))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = x + outer(torch.relu(inner(x)))
        return self.head(x)


def residual_mlp(width: int, blocks: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return ResidualMlp(width, blocks).eval()


def conv_chain(depth: int, width: int, seed: int = 0) -> nn.Module:
    """3x3 convolutions of `width` channels with leaky ReLU, the mean of each channel, ten outputs: the shape of GLipSDP's
    networks cnn_C{depth}_CH{width} (Pauli et al. 2024) on one channel."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for n in (1, *[width] * (depth - 1)):
        layers += [nn.Conv2d(n, width, 3, padding=1), nn.LeakyReLU(0.1)]
        nn.init.kaiming_normal_(layers[-2].weight, nonlinearity="relu")  # type: ignore[arg-type]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)).eval()


def small_conv(seed: int = 0) -> nn.Module:
    """One channel of 8x8, two convolutions, ten outputs."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(128, 10),
    ).eval()  # fmt: skip


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.into, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        b, t, n = x.shape
        q, k, v = self.into(self.first(x)).reshape(b, t, 3, self.heads, n // self.heads).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, n))
        return x + self.mlp(self.second(x))


class VisionTransformer(nn.Module):
    """(1, 3, side, side) -> (1, 1000), patches of 16x16; ViT-B: depth 12, width 768, 12 heads, side 224."""

    def __init__(self, depth: int, width: int, heads: int, side: int):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.places = nn.Parameter(torch.randn(1, (side // 16) ** 2, width) / width**0.5)
        self.blocks = nn.Sequential(*(Attention(width, heads) for _ in range(depth)), nn.LayerNorm(width))
        self.head = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.blocks(x).mean(dim=1))


def vision_transformer(depth: int, width: int, heads: int, side: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return VisionTransformer(depth, width, heads, side).eval()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(RESNETS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=224, help="of the images, 224")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    print(export(resnet(given.name), (1, 3, given.side, given.side), given.folder / f"{given.name}.onnx"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
