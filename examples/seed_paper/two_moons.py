"""Rosca et al. 2020, Figures 2 and 3: the deep MLP on two moons, six times.

No regularisation; a gradient penalty at the data; spectral normalisation with K = 1 and K = 10; and scaled data, free and with
K = 1. Prints certified constants of the network and of its layers, draws both figures, and ends in asserts of what the
paper says, as far as brackets that are apart can prove it.

    python examples/seed_paper/two_moons.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from common import FIGURES, accuracy, gradient_penalty, mlp, moons, normalise_spectra, train
from torch import nn

import lipcert

SCALE = 10.0
# name -> (scale of the data, how it is trained)
MODELS: dict[str, tuple[float, dict[str, Any]]] = {
    "no regularisation": (1.0, {}),
    "gradient penalty": (1.0, {"penalty": gradient_penalty(0.005)}),
    "spectral norm, K = 1": (1.0, {"after": normalise_spectra(1.0)}),
    "spectral norm, K = 10": (1.0, {"after": normalise_spectra(10.0)}),
    "scaled data": (SCALE, {}),
    "scaled data, K = 1": (SCALE, {"after": normalise_spectra(1.0)}),
}


@dataclass
class Found:
    net: nn.Module
    scale: float
    accuracy: float
    loss: float
    bracket: lipcert.Report
    layers: list[float]


def measured(scale: float, how: dict[str, Any]) -> Found:
    x, y = moons(scale)
    net = train(mlp(2, 100, 100, 100, 1), x[:100], y[:100], steps=150, **how)
    with torch.no_grad():
        loss = float(nn.functional.binary_cross_entropy_with_logits(net(x[100:])[:, 0], y[100:].float()))
    model = lipcert.load(net, input_shape=(1, 2))
    rows = [row for row in lipcert.layers(model).layers if row["lower"] is not None]
    bracket = lipcert.bound(model, methods=["product", "lipsdp", "sampled"])
    return Found(net, scale, accuracy(net, x[100:], y[100:]), loss, bracket, [row["upper"] for row in rows])


def main() -> None:
    found = {name: measured(scale, how) for name, (scale, how) in MODELS.items()}
    for name, one in found.items():
        layers = ", ".join(f"{value:.3g}" for value in one.layers)
        bracket = f"{one.bracket.lower:8.3f} <= L <= {one.bracket.upper:8.3f}"
        print(f"{name:24} accuracy {one.accuracy:.3f}  loss {one.loss:.3f}  {bracket}  layers {layers}")
    FIGURES.mkdir(exist_ok=True)
    draw(found)
    check(found)


def draw(found: dict[str, Found]) -> None:
    """Figure 2: sigma(f) over the plane; Figure 3: the constants of the layers."""
    figure, axes = plt.subplots(2, 3, figsize=(9, 6), layout="constrained")
    for axis, (name, one) in zip(axes.ravel(), found.items(), strict=True):
        u, v = np.meshgrid(np.linspace(-2, 3, 150), np.linspace(-1.5, 2, 150))
        plane = torch.tensor(np.stack([u.ravel(), v.ravel()], 1) * one.scale, dtype=torch.float32)
        with torch.no_grad():
            axis.contourf(
                u, v, one.net(plane)[:, 0].sigmoid().reshape(u.shape), levels=np.linspace(0, 1, 21), cmap="RdBu_r"
            )
        x, y = moons()
        axis.scatter(*x[:100].T, c=y[:100], cmap="RdBu_r", edgecolors="white", linewidths=0.5, s=14)
        axis.set_title(f"{name}\nL <= {one.bracket.upper:.3g}", fontsize=9)
    figure.savefig(FIGURES / "two_moons.png", dpi=110)
    plt.close(figure)
    figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
    for k, (name, one) in enumerate(found.items()):
        axis.bar(np.arange(len(one.layers)) + k * 0.13, one.layers, 0.12, label=name)
    axis.set(
        yscale="log", xticks=np.arange(4) + 0.33, xticklabels=[f"layer {k}" for k in range(1, 5)], ylabel="constant"
    )
    axis.legend(fontsize=7)
    figure.savefig(FIGURES / "layers.svg", metadata={"Date": None})
    plt.close(figure)


def check(found: dict[str, Found]) -> None:
    free, penalised, one, ten, _, scaled_one = found.values()
    assert one.bracket.upper <= 1 + 1e-6  # the constraint holds, certified
    assert ten.bracket.upper <= 10 + 1e-5
    assert penalised.bracket.upper < free.bracket.lower  # a penalty at the data makes the whole network smoother ...
    assert penalised.accuracy >= free.accuracy - 0.1  # ... and costs little
    assert one.loss > 2 * ten.loss  # K = 1 is too stiff for this task; K = 10 is not
    assert ten.accuracy >= free.accuracy - 0.1
    assert scaled_one.loss < one.loss / 2  # K = 1 on scaled data is another constraint: a constant needs its units
    assert scaled_one.bracket.upper <= 1 + 1e-6


if __name__ == "__main__":
    main()
