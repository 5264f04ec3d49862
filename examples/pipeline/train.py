"""Train the digits model and export it: `python examples/pipeline/train.py FOLDER [--weight 0.02]`.

`--weight`: of the penalty on the squared spectral norms of the layers (Yoshida & Miyato 2017); 0 trains without it.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

spec = importlib.util.spec_from_file_location("train", Path(__file__).resolve().parents[1] / "train.py")
shipped = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shipped)


def digits(weight: float, steps: int = 150) -> tuple[nn.Module, np.ndarray, np.ndarray]:
    """64-64-32-10 on 8x8 images in [0, 1], and the test samples."""
    torch.manual_seed(0)
    x, y = load_digits(return_X_y=True)
    split = train_test_split(x.astype(np.float32) / 16, y, test_size=0.2, random_state=0, stratify=y)
    x_train, x_test, y_train, y_test = (torch.tensor(part) for part in split)
    model = shipped.mlp(64, 64, 32, 10)
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        penalty = sum(torch.linalg.matrix_norm(layer.weight, 2) ** 2 for layer in layers)
        loss = nn.functional.cross_entropy(model(x_train), y_train) + weight * penalty
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval(), x_test.numpy(), y_test.numpy()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weight", type=float, default=0.02)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model, x, y = digits(asked.weight)
    asked.folder.mkdir(parents=True, exist_ok=True)
    shipped.save(model, 64, asked.folder / "digits")
    np.savez_compressed(asked.folder / "test.npz", x=x[:100], y=y[:100])
    with torch.no_grad():
        accuracy = (model(torch.from_numpy(x)).argmax(1).numpy() == y).mean()
    print(f"accuracy on unseen samples: {accuracy:.3f}")


if __name__ == "__main__":
    main()
