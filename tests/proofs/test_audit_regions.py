"""The two checkers agree on trees of cuts and on radii, genuine and falsified: one in floating point with its rounding, one in rational numbers."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_audit_agrees import audited
from thorough import FULL
from torch import Tensor, nn

import lipcert
from lipcert.proofs.several import digest

Fields = dict[str, Any]


class Bends(nn.Module):
    """A residual block, a concatenation, absolute values, slopes below zero and a maximum: every hinge that both know."""

    def __init__(self, inputs: int, width: int, outputs: int):
        super().__init__()
        self.first, self.block = nn.Linear(inputs, width), nn.Linear(width, width)
        self.wide, self.last = nn.Linear(width, 2 * width), nn.Linear(2 * width, outputs)
        self.leak = nn.LeakyReLU(0.25)

    def forward(self, x: Tensor) -> Tensor:
        a = self.leak(self.first(x))
        b = a + torch.relu(self.block(a))
        c = torch.cat([torch.abs(b), nn.functional.max_pool1d(b[:, None], 2, 1).flatten(1)], 1)
        return self.last(torch.cat([c, x[:, :1]], 1))


def net(seed: int) -> tuple[nn.Module, int]:
    rng, inputs = random.Random(seed), 1 + seed % 3
    torch.manual_seed(seed)
    width, outputs = rng.randint(2, 5), rng.randint(1, 3)
    if seed % 2:
        return Bends(inputs, width, outputs).eval(), inputs
    layers = [nn.Linear(inputs, width), nn.ReLU(), nn.BatchNorm1d(width), nn.Linear(width, width), nn.PReLU(width)]
    return nn.Sequential(*layers, nn.Linear(width, outputs)).eval(), inputs


def exported(module: nn.Module, inputs: int, path: Path) -> Path:
    torch.onnx.export(module, torch.zeros(1, inputs), str(path), dynamo=False, opset_version=13)
    return path


def sealed(fields: Fields) -> Fields:
    return fields | {"digest": digest(fields["norm"], fields["claims"], fields["points"])}


def verified(fields: Fields, model: lipcert.Model, path: Path) -> bool:
    path.write_text(json.dumps(fields))
    return bool(lipcert.verify(path, model).summary["verdict"] == "accepted")


def test_trees(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    found = Counter[str]()
    for seed in range(120 if FULL else 8):
        module, inputs = net(seed)
        path, certificate = exported(module, inputs, tmp_path / f"n{seed}.onnx"), tmp_path / f"{seed}.cert"
        model, rng = lipcert.load(path), np.random.default_rng(seed)
        centre = rng.normal(size=(1, inputs))
        region: lipcert.Box | lipcert.Ball = lipcert.Ball(centre, 1.0, "inf")
        if seed % 4 < 2:
            width = rng.uniform(0.5, 2, size=(1, inputs)) * (rng.random((1, inputs)) < 0.8)
            region = lipcert.Box(centre, centre + width)
        norm = ("1", "2", "inf")[seed % 3]
        report = lipcert.bound(model, region=region, norm=norm, methods=["regions"], rtol=1e-3, certificate=certificate)
        if not certificate.exists():
            continue
        fields = json.loads(certificate.read_text())
        kind = fields["claims"][0]["proof"]["kind"]
        found[kind] += 1
        if kind != "tree":
            continue
        said = audited(fields, path)
        assert said, f"seed {seed}, {norm}: {said}"
        assert report.lower is not None
        false = copy.deepcopy(fields)
        proof = false["claims"][0]["proof"]
        false["claims"][0]["claim"] = proof["value"] = report.lower * (1 - 1e-6)
        if report.lower > 0:
            assert not verified(sealed(false), model, certificate)
            assert audited(sealed(false), path) is False, f"seed {seed}, {norm}: a false claim is accepted"
            found["false"] += 1
        cut = copy.deepcopy(fields)
        cut["claims"][0]["proof"]["splits"].pop()
        assert audited(sealed(cut), path) is False
    print(found)
    assert found["tree"] >= 6


def test_radii(tmp_path: Path) -> None:
    found = Counter[str]()
    for seed in range(60 if FULL else 6):
        module, inputs = net(seed)
        path, certificate = exported(module, inputs, tmp_path / f"n{seed}.onnx"), tmp_path / f"{seed}.cert"
        units = {"mean": [0.1], "std": [0.3]} if seed % 3 == 1 else {}
        model = lipcert.load(path, **units)
        norm, method = ("1", "2", "inf")[seed % 3], ("sqrt2", "pairs", "global")[seed // 3 % 3]
        x = np.random.default_rng(seed).normal(size=(4, inputs))
        lipcert.radius(model, x, norm=norm, methods=[method], certificate=certificate)
        if not certificate.exists():
            continue
        fields = json.loads(certificate.read_text())
        assert audited(fields, path), f"seed {seed}"
        found["points"] += len(fields["points"])
        for k, point in enumerate(fields["points"]):
            for key, value in (("radius", point["radius"] * 1.01 + 1e-9), ("class", point["class"] + 1)):
                false = copy.deepcopy(fields)
                false["points"][k][key] = value
                both = verified(sealed(false), model, certificate), audited(sealed(false), path)
                assert both == (False, False), f"seed {seed}, points[{k}].{key}: {both}"
    print(found)
    assert found["points"] >= 10
