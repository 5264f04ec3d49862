"""Rosca et al. 2020, Figure 5a: smoothness along training depends on the learning rate, at equal accuracy, with no penalty at all.

Trains one MLP of MNIST's size at two learning rates, keeps 20 checkpoints of each, and asks `lipcert track` for the picture:

    python examples/seed_paper/learning_rate.py [FOLDER]
    lipcert track FOLDER/rate0.01 FOLDER/rate0.001 --data FOLDER/test.npz --plot smoothness.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from common import FIGURES, digits, mlp, train
from torch import nn

import lipcert
from lipcert.tasks.track_plot import track_plot

RATES = (0.01, 0.001)
STEPS, CHECKPOINTS = 300, 20


def main(
    folder: Path, methods: tuple[str, ...] = ("product", "sampled", "lipsdp"), checkpoints: int = CHECKPOINTS
) -> None:
    x, y = digits()
    held = len(x) // 5
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "test.npz", x=x[:held].numpy(), y=y[:held].numpy())
    kept = {round(k * STEPS / (checkpoints - 1)) for k in range(checkpoints)}
    for rate in RATES:
        place = folder / f"rate{rate}"
        place.mkdir(exist_ok=True)

        def keep(net: nn.Module, step: int, place: Path = place) -> None:
            if step in kept:
                torch.jit.trace(net, x[:1]).save(place / f"step_{step}.pt")

        train(mlp(784, 64, 32, 10), x[held:], y[held:], rate=rate, steps=STEPS, after=keep)
    report = lipcert.track(
        [folder / f"rate{rate}" for rate in RATES], methods=methods, x=x[:held].numpy()[:200], y=y[:held].numpy()[:200]
    )
    FIGURES.mkdir(exist_ok=True)
    track_plot(FIGURES / "learning_rate.png", report.summary["track"], norm="2")
    check(report)


def check(report: lipcert.Report) -> None:
    """The claim, certified: the two networks are right equally often, and their brackets are apart."""
    rows = report.summary["track"]["checkpoints"]
    large, small = ([row for row in rows if row["series"] == f"rate{rate}"][-1] for rate in RATES)
    for row in (large, small):
        print(f"{row['series']}: accuracy {row['accuracy']:.3f}, {row['lower']:.2f} <= L <= {row['upper']:.2f}")
    assert abs(large["accuracy"] - small["accuracy"]) <= 0.03
    assert large["lower"] > 1.5 * small["upper"]


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))
