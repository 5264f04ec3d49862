"""What the examples share: two moons, digits, small networks, and how they are trained. Needs lipcert[plots] and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits, make_moons
from torch import Tensor, nn

FIGURES = Path(__file__).resolve().parents[2] / "docs" / "figures"
Penalty = Callable[[nn.Module, Tensor], Tensor]
Step = Callable[[nn.Module, int], None]


def moons(scale: float = 1.0, samples: int = 600) -> tuple[Tensor, Tensor]:
    """x (n, 2), y (n,) in {0, 1}; `scale` multiplies the inputs."""
    x, y = make_moons(samples, noise=0.1, random_state=0)
    return torch.tensor(x, dtype=torch.float32) * scale, torch.tensor(y)


def digits(side: int = 28) -> tuple[Tensor, Tensor]:
    """x (1797, side^2) in [0, 1], y (1797,): 8 x 8 images, enlarged to MNIST's size where side is 28."""
    x, y = load_digits(return_X_y=True)
    images = torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    return F.interpolate(images, size=side, mode="bilinear").flatten(1), torch.tensor(y)


def mlp(*widths: int, seed: int = 0) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 300,
    rate: float = 1e-2,
    penalty: Penalty | None = None,
    after: Step | None = None,
) -> nn.Module:
    """Adam on the cross entropy of all samples, plus `penalty`; `after` is called with the network before the first and after every step."""
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    for step in range(steps + 1):
        if after is not None:
            after(net, step)
        if step == steps:
            break
        out = net(x)
        one = out.shape[1] == 1  # one logit, read by its sign
        loss = F.binary_cross_entropy_with_logits(out[:, 0], y.float()) if one else F.cross_entropy(out, y)
        loss = loss if penalty is None else loss + penalty(net, x)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.eval()


def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        out = net(x)
    predicted = out[:, 0] > 0 if out.shape[1] == 1 else out.argmax(1)
    return float((predicted == y).float().mean())


def gradient_penalty(weight: float, K: float = 0.0, dense: bool = False) -> Penalty:
    """weight E max(0, |J(x)|_F - K)^2 at the data, or between and around them (`dense`): Rosca et al. 2020, section 3."""

    def penalty(net: nn.Module, x: Tensor) -> Tensor:
        if dense:
            t = torch.rand(len(x), 1)
            x = t * x + (1 - t) * x[torch.randperm(len(x))] + 0.3 * torch.randn_like(x)
        x = x.detach().requires_grad_()
        rows = [torch.autograd.grad(out.sum(), x, create_graph=True)[0] for out in net(x).T]
        norm = torch.stack(rows).square().sum((0, 2)).add(1e-12).sqrt()
        return weight * (norm - K).clamp(min=0).square().mean()

    return penalty


def normalise_spectra(K: float = 1.0) -> Step:
    """W <- K^(1/layers) W / max(K^(1/layers), |W|_2) after every step: the product of the layers is at most K."""

    def after(net: nn.Module, step: int) -> None:
        layers = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
        target = K ** (1 / len(layers))
        with torch.no_grad():
            for layer in layers:
                norm = torch.linalg.matrix_norm(layer.weight, 2)
                layer.weight.mul_(torch.clamp(target / norm, max=1.0) * (1 - 1e-6))

    return after
