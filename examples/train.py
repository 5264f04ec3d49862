"""Train the two shipped models and write them as ONNX and TorchScript: `python examples/train.py [FOLDER]`.

Needs the extra `test` (scikit-learn, onnxscript). Seeded and on one thread; another machine or another torch may still
round differently, so a new run gives models that are as good, not the same bytes.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits, make_moons
from sklearn.model_selection import train_test_split
from torch import nn

HERE = Path(__file__).resolve().parent


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of the given widths with ReLU between them."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def fit(model: nn.Module, loss: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int) -> nn.Module:
    """Full-batch Adam. `x`: (n, inputs), `y`: what `loss` takes."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-4)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(model(x).squeeze(-1), y).backward()
        optimiser.step()
    return model.eval()


def two_moons() -> tuple[nn.Module, float]:
    """The deep MLP of Rosca et al. 2020, section 5: 2-100-100-100-1, one logit. With its accuracy on unseen points."""
    torch.manual_seed(0)
    x, y = (torch.tensor(a, dtype=torch.float32) for a in make_moons(1000, noise=0.1, random_state=0))
    model = fit(mlp(2, 100, 100, 100, 1), nn.BCEWithLogitsLoss(), x[:500], y[:500], steps=100)
    return model, _accuracy((model(x[500:]).squeeze(-1) > 0).float(), y[500:])


def digits() -> tuple[nn.Module, float, np.ndarray, np.ndarray]:
    """64-64-32-10 on 8x8 images in [0, 1], with its accuracy and the test samples x (360, 64), y (360,)."""
    torch.manual_seed(0)
    x, y = load_digits(return_X_y=True)
    split = train_test_split(x.astype(np.float32) / 16, y, test_size=0.2, random_state=0, stratify=y)
    x_train, x_test, y_train, y_test = (torch.tensor(a) for a in split)
    model = fit(mlp(64, 64, 32, 10), nn.CrossEntropyLoss(), x_train, y_train, steps=150)
    return model, _accuracy(model(x_test).argmax(1), y_test), x_test.numpy(), y_test.numpy()


def save(model: nn.Module, inputs: int, stem: Path) -> None:
    """`stem`.onnx (weights inside) and `stem`.pt (TorchScript)."""
    example = torch.zeros(1, inputs)
    torch.jit.trace(model, example).save(f"{stem}.pt")
    program = torch.onnx.export(model, (example,), input_names=["x"], output_names=["y"], dynamo=True, verbose=False)
    file = program.model_proto
    for node in file.graph.node:
        del node.metadata_props[:]  # stack traces with paths of this machine
        node.doc_string = ""
    for value in [*file.graph.value_info, *file.graph.input, *file.graph.output]:
        del value.metadata_props[:]
    del file.graph.metadata_props[:]
    onnx.save(file, f"{stem}.onnx")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    moons, moons_accuracy = two_moons()
    save(moons, 2, folder / "two_moons")
    digit, digit_accuracy, x, y = digits()
    save(digit, 64, folder / "digits")
    np.savez_compressed(folder / "digits_test.npz", x=x, y=y)
    print(f"accuracy on unseen samples: two_moons {moons_accuracy:.3f}, digits {digit_accuracy:.3f}")
    assert moons_accuracy > 0.98
    assert digit_accuracy > 0.94


def _accuracy(predicted: torch.Tensor, labels: torch.Tensor) -> float:
    return (predicted == labels).float().mean().item()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
