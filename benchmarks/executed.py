"""How much of a certified radius is lost by covering the execution in float32: 1 - r_executed / r_real, sample by sample.

    python benchmarks/executed.py --shared ../shared --samples 200 [--model NAME ..] [--norm 2 --norm inf] [--method local]

`real`: margins in real arithmetic, with no error of any execution taken off; `executed`: as of `lipcert radius --execution
float32`. Both stand on the same constants. Samples: the first of the MNIST test set, correctly classified and certified.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import lipcert
from lipcert.load.model import Model
from lipcert.methods.problem import Problem
from lipcert.tasks.execution import Execution
from lipcert.tasks.radius.constants import Constants
from lipcert.tasks.radius.margins import margins
from lipcert.tasks.radius.samples import How, Samples, deployed, method_radii
from lipcert.terms.query import Norm, P

SCALED, STANDARD = (0.0, 1.0), (0.1307, 0.3081)  # mean and deviation of what the networks were trained on
MODELS = {
    "mnist_fc_256x2.onnx": SCALED,
    "eran_mnist_relu_3_50.onnx": SCALED,
    "marabou_mnist2x10.onnx": SCALED,
    "marabou_mnist5x20_leaky_relu.onnx": SCALED,
    "eran_ffnnSIGMOID_6x200.onnx": STANDARD,
    "mlp_L3_W16.onnx": STANDARD,
    "mlp_L9_W16.onnx": STANDARD,
    "mlp_L33_W16.onnx": STANDARD,
    "mlp_L65_W16.onnx": STANDARD,
    "cnn_C3_CH8.onnx": STANDARD,
    "eran_convSmallRELU_PGDK.onnx": SCALED,
}
BATCH = 10


def lost(model: Model, x: Tensor, labels: Tensor, norm: P, methods: list[str]) -> Tensor:
    """(r,) 1 - executed / real of the samples x (b, n) that have a radius in real arithmetic."""
    execution = Execution.required(model, "float32")
    how = How(norm, methods, local=True, execution=execution)
    constants = Constants(Problem(model.graph, Norm(norm, norm)))
    found = []
    for part in torch.arange(len(x)).split(BATCH):
        real = margins(model.graph, x[part], None, executed=False)
        sure = ((real.value > 0).all(dim=1) & (real.predicted == labels[part])).nonzero()[:, 0]
        if len(sure):
            some = Samples(model.graph, x[part][sure], torch.full((len(sure),), torch.inf), constants, how)
            radii = method_radii(some, real[sure])
            executed, _, _ = deployed(some, real[sure], radii)
            before, after = (torch.stack([r for r, _ in each.values()]).amax(dim=0) for each in (radii, executed))
            found.append((1 - after / before)[before > 0])
    return torch.cat(found)


def samples(shared: Path, count: int, units: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """x (count, 784) of float32 numbers, and labels."""
    with np.load(shared / "data" / "mnist_test_1000.npz") as data:
        x = (data["x"][:count].reshape(count, -1) / 255 - units[0]) / units[1]
        return torch.from_numpy(x.astype(np.float32).astype(np.float64)), torch.from_numpy(
            data["y"][:count].astype(int)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--model", action="append", choices=list(MODELS))
    parser.add_argument("--norm", action="append", choices=["2", "inf"])
    parser.add_argument("--method", action="append", choices=["local", "pairs"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.model or MODELS:
        model = lipcert.load(options.shared / "models" / name)
        x, labels = samples(options.shared, options.samples, MODELS[name])
        for norm in options.norm or ("2", "inf"):
            start = time.process_time()
            with torch.no_grad():
                each = lost(model, x, labels, norm, options.method or ["local"])
            row = {"model": name, "norm": norm, "samples": len(each), "mean": float(each.mean())}
            row |= {"median": float(each.median()), "most": float(each.max()), "cpu": time.process_time() - start}
            rows.append(row)
            print(
                f"| {name} | {norm} | {len(each)} | {row['mean']:.3%} | {row['median']:.3%} | {row['most']:.2%} | "
                f"{row['cpu']:.0f} s |",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
