"""`inspect` in the words of people: which blocks a network is made of, on one screen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from attentions import Added, D, Plain, T
from torch import Tensor, nn

import lipcert
from lipcert.cli.main import main
from lipcert.report.sections.parts import LINES
from lipcert.tasks.inspect import inspect


def test_blocks_have_the_names_that_people_use() -> None:
    encoder = nn.TransformerEncoderLayer(D, 2, 8, batch_first=True, norm_first=True, dropout=0.0)
    net = nn.Sequential(encoder, Plain(), nn.Linear(D, 2))
    blocks = inspect(lipcert.load(net, input_shape=(1, T, D))).summary["blocks"]
    assert blocks == {"LayerNorm": 2, "attention": 2, "residual block": 3}
    masked = inspect(lipcert.load(Added(), input_shape=(1, T, D))).summary["blocks"]  # several softmaxes, one attention
    assert masked == {"attention": 1, "residual block": 1}
    plain = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    assert inspect(lipcert.load(plain, input_shape=(1, 3))).summary["blocks"] == {}


class Gated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * torch.sigmoid(2 * x.flip(1))
        return y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)


def test_gates_and_root_mean_squares() -> None:
    assert inspect(lipcert.load(Gated(), input_shape=(1, 4))).summary["blocks"] == {"RMSNorm": 1, "gate": 1}


def test_long_networks_fit_on_a_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers = [layer for _ in range(LINES // 2 + 2) for layer in (nn.Linear(2, 2), nn.ReLU())]
    torch.jit.trace(nn.Sequential(*layers), torch.zeros(1, 2)).save(str(tmp_path / "m.pt"))
    shown = {}
    for flags in ((), ("--all",)):
        with pytest.raises(SystemExit):
            main(["inspect", str(tmp_path / "m.pt"), "--input-shape", "1,2", *flags])
        text = capsys.readouterr().out
        shown[flags] = len(re.findall("^[├└]", text, re.M))
        assert ("more parts: --all" in text) == (not flags)
    assert shown[()] <= LINES + 1
    assert shown["--all",] >= LINES + 4


def test_methods_of_regions_say_what_they_would_do_there() -> None:
    """Made for the whole space: nothing is said. A reason that holds on regions too is told in place of "give a region"."""
    rows = {row["method"]: row for row in inspect(lipcert.load(Gated(), input_shape=(1, 4))).methods}
    assert {name: rows[name]["on_region"] for name in ("product", "transfer", "local-product", "linear")} == {
        "product": None,
        "transfer": True,
        "local-product": True,
        "linear": False,
    }
    assert "region" in rows["transfer"]["reason"]
    assert "no rule" in rows["linear"]["reason"]
    assert rows["linear"]["node"]
    assert not any(rows[name]["usable"] for name in ("transfer", "linear"))
