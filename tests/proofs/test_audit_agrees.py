"""The two checkers agree: `lipcert verify` in floating point, `lipcert-audit` in integers, on genuine and on false certificates."""

from __future__ import annotations

import copy
import json
import random
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from thorough import FULL
from torch import nn

from lipcert import bound
from lipcert.load.model import Model, load
from lipcert.methods.cplip import CplipBound
from lipcert.methods.problem import Problem
from lipcert.methods.run import choose, run
from lipcert.proofs.check import check
from lipcert.proofs.file import digest, from_bytes, to_text
from lipcert.tasks.certify import certificate_of, least_with_proof
from lipcert.terms.errors import CertificateRejected
from lipcert.terms.query import Norm, Output

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "audit"))
from lipcert_audit.__main__ import audit, main  # noqa: E402
from lipcert_audit.certificate import claims  # noqa: E402
from lipcert_audit.network import Refused  # noqa: E402
from lipcert_audit.strict import Rejected  # noqa: E402

METHODS = ("product", "absolute", "cplip", "lipsdp-layer", "lipsdp")


def made(model: Model, method: str, norm: str) -> dict[str, Any] | None:
    """A certificate as `lipcert bound` writes it, which nobody has checked yet; None where the method has none."""
    asked = Norm.parse(norm)
    result = run(CplipBound() if method == "cplip" else choose([method])[0], Problem(model.graph, asked))
    least, _ = least_with_proof([result])
    if least is None:
        return None
    text = to_text(certificate_of(least, model.graph, model.info, asked, Output()))
    return json.loads(text)  # type: ignore[no-any-return]


def verified(fields: dict[str, Any], model: Model) -> bool:
    try:
        check(from_bytes(json.dumps(fields).encode()), model.graph, model.info)
    except CertificateRejected:
        return False
    return True


def audited(fields: dict[str, Any], path: Path) -> bool | None:
    """None: refused by name."""
    try:
        audit(*claims(fields), path)
    except Rejected:
        return False
    except Refused:
        return None
    return True


def forged(fields: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A claim that is lower, and constants or multipliers that may go with it."""
    out = copy.deepcopy(fields)
    out["claim"] *= rng.choice([0.5, 0.9, 0.99])
    for row in out["proof"].get("constants", []):
        for key in row:
            row[key] *= 1 if key == "node" else rng.choice([1.0, 0.5, 0.9, 0.99])
    if out["proof"].get("constants"):
        out["proof"]["constants"][-1][fields["norm"]["output"]] = out["claim"]
    if out["proof"]["kind"] == "lmi":
        out["proof"]["last"] = rng.choice(["input", "output"])
    return out | {"digest": digest(out["norm"], out["scope"], out["proof"])}


def agree(path: Path) -> Counter[str]:
    found = Counter[str]()
    model, rng = load(path), random.Random(0)
    attained = {norm: bound(model, methods=["sampled"], norm=norm).lower for norm in ("1", "2", "inf")}
    for method in METHODS:
        for norm in ("2",) if method.startswith("lipsdp") else ("1", "2", "inf"):
            fields = made(model, method, norm)
            if fields is None:
                continue
            assert verified(fields, model), f"{path.name} {method} {norm}: verify rejects"
            said = audited(fields, path)
            assert said is not False, f"{path.name} {method} {norm}: verify accepts, audit rejects"
            found["refused" if said is None else "accepted"] += 1
            for _ in range(20 if FULL else 3):
                false = forged(fields, rng)
                both = verified(false, model), audited(false, path)
                if said and false["claim"] < (attained[norm] or 0.0):
                    assert both == (False, False), f"{path.name} {method} {norm}: {false['claim']} is false, {both}"
                    found["false"] += 1
    return found


def net(seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A random small network of operators that both know."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    act = [nn.ReLU, nn.Tanh, nn.Sigmoid, lambda: nn.LeakyReLU(0.3), nn.ReLU6, nn.ELU]
    if rng.random() < 0.5:
        pool = rng.choice([nn.MaxPool2d(2), nn.AvgPool2d(2), nn.MaxPool2d(3, 1)])
        body = [
            nn.Conv2d(2, 3, 3, padding=rng.choice([0, 1])),
            nn.BatchNorm2d(3),
            rng.choice(act)(),
            pool,
            nn.Flatten(),
        ]
        width = nn.Sequential(*body).eval()(torch.zeros(1, 2, 6, 6)).shape[1]
        return nn.Sequential(*body, nn.Linear(width, 3)).eval(), (1, 2, 6, 6)
    sizes = [rng.randint(2, 5) for _ in range(rng.randint(2, 4))]
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), rng.choice(act)())]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 2)).eval(), (1, sizes[0])


def test_random_networks(tmp_path: Path) -> None:
    total = Counter[str]()
    for seed in range(400 if FULL else 2):
        module, shape = net(seed)
        path = tmp_path / f"n{seed}.onnx"
        torch.onnx.export(module, torch.zeros(shape), str(path), dynamo=False, opset_version=13)
        total += agree(path)
    assert total["refused"] == 0
    assert total["accepted"] >= 20
    assert total["false"] >= 5


def test_rows_that_cancel(tmp_path: Path) -> None:
    """Neurons whose coefficients vanish only when two layers are multiplied out take multipliers for both (in tll networks
    every second one is such)."""
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    first, second = module[0].weight.data, module[1].weight.data
    first[1], second[0] = first[0], torch.tensor([0.7, -0.7, 0.0])
    path = tmp_path / "cancel.onnx"
    torch.onnx.export(module.float(), torch.zeros(1, 2), str(path), dynamo=False, opset_version=13)
    total = agree(path)
    assert total["accepted"] == 11
    assert total["false"] >= 5


class ByHand(nn.Module):
    """MaxMin written with relu: lipcert reads a sort, which `audit` does not know."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.first(x)[:, :2], self.first(x)[:, 2:]
        gap = torch.relu(a - b)
        return self.last(torch.cat([b + gap, a - gap], dim=1))


def test_sorts_written_with_relu(tmp_path: Path) -> None:
    path = tmp_path / "maxmin.onnx"
    torch.onnx.export(ByHand().eval(), torch.zeros(1, 3), str(path), dynamo=False, opset_version=13)
    assert agree(path)["accepted"] >= 2  # matrix inequalities
    model = load(path)
    fields = made(model, "product", "2")
    assert fields is not None
    assert fields["model"]["sorts"] == 1
    assert verified(fields, model)
    assert audited(fields, path) is None
    fields["model"]["sorts"] = 2
    assert not verified(fields, model)


def test_a_kind_that_the_second_checker_does_not_know_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    module, path = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), tmp_path / "net.onnx"
    torch.onnx.export(module, torch.zeros(1, 2), str(path), dynamo=False, opset_version=13)
    for method, kind, status in (("lipsdp-segments", "stretches", 3), ("lipsdp-layer", "lmi", 0)):
        bound(path, methods=[method], certificate=tmp_path / "c.json")
        assert json.loads((tmp_path / "c.json").read_text())["proof"]["kind"] == kind
        assert main([str(tmp_path / "c.json"), str(path)]) == status
        assert (f"proof.kind '{kind}': known are lmi" in capsys.readouterr().err) == (status == 3)


def test_shared_models(shared: Path) -> None:
    names = ("vnn_test_small", "layerzoo_conv")
    files = [shared / "models" / f"{name}.onnx" for name in names]
    total = Counter[str]()
    for path in sorted((shared / "models").glob("*.onnx")) if FULL else files:
        if load(path).graph.neurons <= 2000:
            total += agree(path)
    assert total["accepted"] >= 20
