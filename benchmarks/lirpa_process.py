"""python lirpa_process.py PROBLEM.npz: auto_LiRPA's linf constants of a ReLU network, one region at a time; prints one line of JSON.

PROBLEM: weights W0, b0, W1, ... of dense layers, `centres` (k, n), `eps` (k,). One region at a time, as its own example
does it (examples/vision/jacobian.py): with more than one in a batch its bounds of ReLU gradients are not valid.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch
from auto_LiRPA import BoundedModule, BoundedTensor
from auto_LiRPA.jacobian import GradNorm, JacobianOP
from auto_LiRPA.perturbations import PerturbationLpNorm
from torch import Tensor, nn


class GradientNorm(nn.Module):
    """||f'(x)||_1, the dual norm of linf, of a network of one output."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.norm = net, GradNorm(norm=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(JacobianOP.apply(self.net(x), x))


def main() -> None:
    torch.set_num_threads(int(sys.argv[2]))
    problem = dict(np.load(sys.argv[1]))
    layers: list[nn.Module] = []
    for k in range(sum(name.startswith("W") for name in problem)):
        weight, bias = (torch.from_numpy(problem[f"{name}{k}"]).float() for name in "Wb")
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight.data, layer.bias.data = weight, bias
        layers += [layer, nn.ReLU()]
    net = nn.Sequential(*layers[:-1]).eval()
    centres, sizes = torch.from_numpy(problem["centres"]).float(), problem["eps"].tolist()
    bounded = BoundedModule(GradientNorm(net), (centres[:1],), device="cpu")
    values: list[float] = []
    for i in range(-1, len(sizes)):  # the first one warms up
        if i == 0:
            start = time.perf_counter()
        ball = PerturbationLpNorm(norm=np.inf, eps=sizes[max(i, 0)])
        x = BoundedTensor(centres[max(i, 0)][None], ball)
        values.append(float(bounded.compute_jacobian_bounds(x, bound_lower=False)[1]))
    print(json.dumps({"values": values[1:], "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
