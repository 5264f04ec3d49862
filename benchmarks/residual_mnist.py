"""A residual network for MNIST, trained from the shared samples: 784-64, 8 blocks h <- relu(h + W2 relu(W1 h)) of 64, 10.

    python benchmarks/residual_mnist.py --data ../shared/data/mnist_test_10000.npz --out residual_mnist.onnx

1,088 neurons, inputs in [0, 1]. With --measure: LipSDP on the whole space, on [0, 1]^784 and on balls around a sample,
each beside the largest attained value (benchmarks/README.md has the table).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

WIDTH, BLOCKS = 64, 8
TRAINED = 9000  # the other thousand samples are for testing


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, h: Tensor) -> Tensor:
        return torch.relu(h + self.outer(torch.relu(self.inner(h))))


def network() -> nn.Sequential:
    blocks = [Residual() for _ in range(BLOCKS)]
    return nn.Sequential(nn.Flatten(), nn.Linear(784, WIDTH), nn.ReLU(), *blocks, nn.Linear(WIDTH, 10))


def trained(x: Tensor, y: Tensor, epochs: int, decay: float, seed: int = 0) -> nn.Sequential:
    """AdamW with a falling rate."""
    torch.manual_seed(seed)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=decay)
    batches = len(x) // 100
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs * batches)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(100)[:batches]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def measure(model: nn.Sequential, sample: Tensor) -> None:
    import lipcert

    loaded = lipcert.load(model, input_shape=(1, 1, 28, 28))
    regions = {"everywhere": None, "[0, 1]^784": lipcert.Box(torch.zeros(784), torch.ones(784))}
    regions |= {f"linf {eps} around a sample": lipcert.Ball(sample.reshape(-1), eps, "inf") for eps in (0.05, 0.02)}
    for name, region in regions.items():
        report = lipcert.bound(loaded, region=region, methods=["lipsdp", "sampled"])
        lipsdp = next(r for r in report.results if r.method == "lipsdp")
        print(f"{name}: lipsdp {lipsdp.value:.3f} ({lipsdp.details['neurons']} neurons), attained {report.lower:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--decay", type=float, default=2.0)
    parser.add_argument("--measure", action="store_true")
    given = parser.parse_args()
    data = np.load(given.data)
    x = torch.from_numpy(data["x"]).float().reshape(-1, 1, 28, 28) / 255
    y = torch.from_numpy(data["y"]).long()
    model = trained(x[:TRAINED], y[:TRAINED], given.epochs, given.decay)
    with torch.no_grad():
        right = float((model(x[TRAINED:]).argmax(1) == y[TRAINED:]).float().mean())
    print(f"accuracy on the rest: {right:.3f}")
    if given.out is not None:
        torch.onnx.export(model, (x[:1],), str(given.out), dynamo=False, opset_version=17)
    if given.measure:
        measure(model, x[0])


if __name__ == "__main__":
    main()
