"""`bound --range`: intervals of the outputs hold at samples, are exact for few inputs, and say so in the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import lipcert
from lipcert.cli.main import main
from lipcert.terms.errors import UsageError


def net(inputs: int, act: nn.Module, seed: int = 0) -> lipcert.Model:
    torch.manual_seed(seed)
    return lipcert.load(
        nn.Sequential(nn.Linear(inputs, 8), act, nn.Linear(8, 8), act, nn.Linear(8, 3)), input_shape=(1, inputs)
    )


@pytest.mark.parametrize(
    ("inputs", "act", "method"),
    [(2, nn.ReLU(), "regions"), (4, nn.LeakyReLU(0.2), "regions"), (3, nn.Tanh(), "linear"), (12, nn.ReLU(), "linear")],
)
def test_samples_lie_between(inputs: int, act: nn.Module, method: str) -> None:
    if method == "regions":
        pytest.importorskip("numba")
    model = net(inputs, act)
    box = lipcert.Box(-torch.ones(1, inputs), torch.ones(1, inputs))
    found = lipcert.bound(model, region=box, methods=["jacobian"], ranges=True).summary["range"]
    assert found["method"] == method
    lower, upper = (torch.tensor(found[side], dtype=torch.float64) for side in ("lower", "upper"))
    dice = torch.Generator().manual_seed(1)
    at = torch.rand(20_000, inputs, generator=dice, dtype=torch.float64) * 2 - 1
    y = model.graph.evaluate(torch.cat([at, at.sign()]))
    assert bool((y >= lower - 1e-12).all())
    assert bool((y <= upper + 1e-12).all())
    low, high = (torch.tensor(found["attained"][side], dtype=torch.float64) for side in ("lower", "upper"))
    assert bool((lower <= low).all() and (high <= upper).all())
    if method == "regions":
        assert bool(((upper - lower) - (high - low) <= 1e-5 * (upper - lower)).all())


def test_pairs_balls_and_refusals() -> None:
    model = net(2, nn.ReLU())
    ball = lipcert.Ball(torch.zeros(1, 2), 1.0, "2")
    one = lipcert.bound(model, region=ball, output="0-1", methods=["jacobian"], ranges=True).summary["range"]
    assert len(one["lower"]) == 1
    t = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = model.graph.evaluate(t / torch.linalg.vector_norm(t, dim=1, keepdim=True))
    assert float((y[:, 0] - y[:, 1]).max()) <= one["upper"][0]
    assert float((y[:, 0] - y[:, 1]).min()) >= one["lower"][0]
    with pytest.raises(UsageError, match="give"):
        lipcert.bound(model, ranges=True)


def test_the_command_line_shows_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    moons, out = Path(__file__).parents[2] / "examples" / "two_moons.onnx", tmp_path / "r.json"
    with pytest.raises(SystemExit) as done:
        main(["bound", str(moons), "--box=0:0.5,0:0.5", "--method", "jacobian", "--range", "--json", str(out)])
    assert done.value.code == 0
    assert "attained" in capfd.readouterr().out
    assert json.loads(out.read_text())["summary"]["range"]["lower"][0] is not None
    with pytest.raises(SystemExit) as done:
        main(["bound", str(moons), "--range"])
    assert done.value.code == 2
