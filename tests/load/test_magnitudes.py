"""sqrt(u^2 + v^2) of different signals, such as the magnitude of a Fourier transform, is one norm: 1-Lipschitz."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lipcert
from lipcert.blocks.normalise import Norm2
from lipcert.network.graph import Nonlinear


class Magnitudes(nn.Module):
    """C sqrt(sum_k (A_k x + b_k)^2)"""

    def __init__(self, count: int, spelled: str):
        super().__init__()
        torch.manual_seed(count)
        self.parts = nn.ModuleList([nn.Linear(6, 5) for _ in range(count)])
        self.last = nn.Linear(5, 3)
        self.spelled = spelled

    def forward(self, x: Tensor) -> Tensor:
        if self.spelled == "sliced":
            whole = torch.cat([part(x) for part in self.parts], dim=1)
            u = [whole[:, 5 * k : 5 * k + 5] for k in range(len(self.parts))]
        else:
            u = [part(x) for part in self.parts]
        squares = [v * v if self.spelled == "times" else v**2 for v in u]
        total = squares[0]
        for one in squares[1:]:
            total = one + total
        return self.last(torch.sqrt(total))


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("spelled", ["power", "times", "sliced"])
def test_it_is_the_norm_of_its_parts(count: int, spelled: str) -> None:
    net = Magnitudes(count, spelled).double()
    model = lipcert.load(net, input_shape=(1, 6))
    assert any(isinstance(n.what, Nonlinear) and isinstance(n.what.block, Norm2) for n in model.graph.nodes)
    report = lipcert.bound(model, methods=["product", "sampled"])
    stacked = torch.cat([part.weight for part in net.parts])  # |sqrt(sum u_k^2) - ..| <= |[A_1; A_2; ..] (x - x')|
    theory = float(torch.linalg.matrix_norm(stacked, 2) * torch.linalg.matrix_norm(net.last.weight, 2))
    assert report.lower <= report.upper <= theory * (1 + 1e-6)
    x = torch.randn(64, 6, dtype=torch.float64)
    rows = model.graph.evaluate(x)
    assert torch.allclose(rows, net(x), rtol=1e-12)
    near = lipcert.bound(model, region=lipcert.Ball(x[:1], 0.1, "2"), methods=["jacobian", "product", "sampled"])
    assert near.lower <= near.upper <= report.upper * (1 + 1e-9)


def test_a_square_that_is_not_of_the_sum_stays_out() -> None:
    """sqrt(u^2 + v) is no norm: where v is 0 and u is too, no finite constant holds."""

    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sqrt(x[:, :2] ** 2 + torch.relu(x[:, 2:]))

    report = lipcert.bound(lipcert.load(Odd(), input_shape=(1, 4)), methods=["product"])
    assert report.upper is None
