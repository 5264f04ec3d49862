"""Certificates in format 3: regions as cells, grids, many outputs, radii. Genuine ones are accepted; whatever makes a claim false, or
the file another one, is rejected with the place."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from two import run, two

from lipcert import bound, radius, verify
from lipcert import local_grid as grid
from lipcert.load.model import Model, load
from lipcert.network.graph import Enclosure
from lipcert.proofs.check import check, check_several
from lipcert.proofs.kinds.lmi import floats_of, in_base64
from lipcert.proofs.radii import margins
from lipcert.proofs.several import Several, digest, from_bytes, read, to_text
from lipcert.regions.cover import SWEEPS
from lipcert.terms.errors import CertificateRejected, UsageError
from lipcert.terms.query import Ball, Box
from lipcert.terms.strict import float_of

BOX = Box([-1.0, -0.5], [1.5, 1.0])
EDIT = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    return load(nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 3)), input_shape=(1, 2))


@pytest.fixture(scope="module")
def files(model: Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("several")
    made = {name: folder / name for name in ("cells", "linear", "ball", "pairs", "grid", "radii", "l1 radii")}
    x = np.random.default_rng(0).normal(size=(5, 2))
    bound(model, methods=["branch"], region=BOX, rtol=0.05, certificate=made["cells"])
    bound(model, methods=["linear"], norm="1->2", region=BOX, certificate=made["linear"])
    bound(model, methods=["jacobian"], region=Ball([0.25, 0.5], 0.125, "2"), output="2-0", certificate=made["ball"])
    bound(model, methods=["product", "lipsdp"], output="pairs", certificate=made["pairs"])
    grid(model, BOX, (3, 4), rtol=0.1, certificate=made["grid"])
    radius(model, x, methods=["pairs"], certificate=made["radii"])
    radius(model, x, methods=["sqrt2"], norm="1", certificate=made["l1 radii"])
    return made


def rejection(fields: dict[str, Any], model: Model) -> str:
    """The place; "" where it is accepted."""
    try:
        made = from_bytes(json.dumps(fields).encode())
        assert isinstance(made, Several)
        check_several(made, model.graph, model.info, sweeps=SWEEPS)
    except CertificateRejected as problem:
        return problem.place
    return ""


def sealed(fields: dict[str, Any]) -> dict[str, Any]:
    return fields | {"digest": digest(fields["norm"], fields["claims"], fields["points"])}


def edited(file: Path, edit: EDIT) -> dict[str, Any]:
    fields = copy.deepcopy(json.loads(file.read_text()))
    edit(fields)
    return fields


@pytest.mark.parametrize("name", ["cells", "linear", "ball", "pairs", "grid", "radii", "l1 radii"])
def test_genuine_ones_are_accepted(name: str, files: dict[str, Path], model: Model) -> None:
    report = verify(files[name], model, explain=True)
    assert report.summary["verdict"] == "accepted", report.summary
    assert report.exit_code == 0
    assert len(report.summary["claims"]) == {"pairs": 3, "radii": 3}.get(name, 1)
    told = [step for step in report.summary["steps"] if step.startswith("sample ")]
    assert len(told) == len(report.summary["points"])
    assert len(report.summary["steps"]) > len(told)
    assert to_text(read(files[name])) == files[name].read_text()


def test_values_are_those_of_the_report(files: dict[str, Path], model: Model) -> None:
    """No looser than what the methods proved, and per cell."""
    report = bound(model, methods=["branch"], region=BOX, rtol=0.05)
    assert report.upper <= verify(files["cells"], model).upper <= report.upper * (1 + 1e-6)
    cells = grid(model, BOX, (3, 4), rtol=0.1).summary["grid"]["upper"]
    (claim,) = read(files["grid"]).claims
    assert claim.claim <= max(cells) * (1 + 1e-6)
    assert len(claim.proof.values) >= 12


def proof(fields: dict[str, Any]) -> dict[str, Any]:
    return fields["claims"][0]["proof"]


def put(*where: Any, value: Any) -> EDIT:
    def edit(fields: dict[str, Any]) -> None:
        inner: Any = fields
        for key in where[:-1]:
            inner = inner[key]
        inner[where[-1]] = value(inner[where[-1]]) if callable(value) else value

    return edit


def moved(fields: dict[str, Any]) -> None:
    """The whole box elsewhere, with its grid."""
    proof(fields)["edges"][0] = [v + 0.25 for v in proof(fields)["edges"][0]]


def moved_with_the_region(fields: dict[str, Any]) -> None:
    moved(fields)
    region = fields["claims"][0]["scope"]["region"]
    region["lower"][0] += 0.25
    region["upper"][0] += 0.25


def other_sample(fields: dict[str, Any]) -> None:
    at = fields["points"][0]
    x = floats_of(at["x"], "x", float_of)
    at["x"]["float64"] = in_base64((x[0] + 1.0, *x[1:]))


def shorter_sample(fields: dict[str, Any]) -> None:
    fields["points"][0]["x"] = {"count": 1, "float64": in_base64((0.5,))}


def least_of_another(fields: dict[str, Any]) -> None:
    """The least claim is said of the pair that moves most."""
    rows = sorted(fields["claims"], key=lambda row: row["claim"])
    rows[0]["scope"]["output"] = rows[-1]["scope"]["output"]


FIRST = ("claims", 0, "proof")
TAMPERED: list[tuple[str, str, EDIT, str]] = [
    ("grid", "smaller value", put(*FIRST, "values", 3, value=lambda v: v * 0.99), "claims[0].proof.values[3]"),
    ("grid", "a cell is dropped", lambda f: proof(f)["values"].pop(), "claims[0].proof.values"),
    ("grid", "a cell and its leaf", lambda f: (proof(f)["values"].pop(0), proof(f)["splits"].pop()), "claims[0].proof.splits"),
    ("grid", "one leaf more", lambda f: proof(f)["splits"].append(0), "claims[0].proof.splits["),
    ("grid", "an axis beyond", put(*FIRST, "splits", 0, value=9), "claims[0].proof.splits[0]"),
    ("grid", "a row of cells", lambda f: proof(f)["edges"][0].pop(0), "claims[0].proof.edges[0]"),
    ("grid", "edges move", moved, "claims[0].proof.edges[0]"),
    ("grid", "edges in disorder", put(*FIRST, "edges", 1, 1, value=-7.0), "claims[0].proof.edges[1]"),
    ("grid", "a larger box", put("claims", 0, "scope", "region", "upper", 1, value=2.0), "claims[0].proof.edges[1]"),
    ("grid", "smaller claim", put("claims", 0, "claim", value=lambda v: v * 0.9), "claims[0].claim"),
    ("grid", "the whole space", put("claims", 0, "scope", "region", value="global"), "claims[0].scope.region"),
    ("grid", "a ball", put("claims", 0, "scope", "region", value={"kind": "ball", "center": [0.0, 0.0], "radius": 1.0, "norm": "2"}), "claims[0].proof.edges"),
    ("grid", "another norm", put("norm", "input", value="inf"), "claims[0].proof.values"),
    ("grid", "another output", put("claims", 0, "scope", "output", value="9"), "claims[0].scope.output"),
    ("grid", "no claim", put("claims", value=[]), "claims"),
    ("grid", "unknown analysis", put(*FIRST, "by", value="hope"), "claims[0].proof.by"),
    ("cells", "a wider region", put("claims", 0, "scope", "region", "lower", 0, value=-9.0), "claims[0].proof.edges[0]"),
    ("linear", "a larger region", put("claims", 0, "scope", "region", "upper", 1, value=9.0), "claims[0].proof.values[0]"),
    ("linear", "split without edges", put(*FIRST, "splits", value=[1, 0, 0]), "claims[0].proof.splits"),
    ("ball", "a larger ball", put("claims", 0, "scope", "region", "radius", value=1.0), "claims[0].proof.values[0]"),
    ("ball", "another centre", put("claims", 0, "scope", "region", "center", value=[-0.5, 0.0]), "claims[0].proof.values[0]"),
    ("ball", "of other inputs", put("claims", 0, "scope", "region", "center", value=[0.0]), "claims[0].scope.region"),
    ("pairs", "smaller claim", put("claims", 2, "claim", value=lambda v: v * 0.9), "claims[2].claim"),
    ("pairs", "another pair", least_of_another, "claims["),
    ("radii", "a larger radius", put("points", 2, "radius", value=lambda r: r * 1.0001), "points[2].radius"),
    ("radii", "another class", put("points", 1, "class", value=lambda c: (c + 1) % 3), "points[1].class"),
    ("radii", "no such class", put("points", 1, "class", value=3), "points[1].class"),
    ("radii", "another sample", other_sample, "points[0]."),
    ("radii", "a shorter sample", shorter_sample, "points[0].x"),
    ("radii", "a constant is gone", lambda f: f["claims"].pop(0), "points["),
    ("radii", "a negative radius", put("points", 0, "radius", value=-1.0), "points[0].radius"),
    ("radii", "another norm", put("norm", value={"input": "inf", "output": "inf"}), "claims[0]."),
    ("l1 radii", "a smaller constant", put("claims", 0, "claim", value=lambda v: v * 0.9), "claims[0].claim"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "what", "edit", "place"), TAMPERED, ids=[f"{row[0]}: {row[1]}" for row in TAMPERED])
def test_tampered_ones_are_rejected(
    name: str, what: str, edit: EDIT, place: str, files: dict[str, Path], model: Model
) -> None:
    fields = edited(files[name], edit)
    assert rejection(fields, model) != ""  # by the digest already
    assert rejection(sealed(fields), model).startswith(place)


def test_a_box_that_moved_is_proved_where_it_is_now(files: dict[str, Path], model: Model) -> None:
    """With its region: another claim, which has to hold there."""
    fields = sealed(edited(files["grid"], moved_with_the_region))
    at = fields["claims"][0]["scope"]["region"]
    true = bound(model, methods=["branch"], region=Box(at["lower"], at["upper"]), rtol=1e-3).lower
    assert rejection(fields, model).startswith("claims[0].proof.values[") or fields["claims"][0]["claim"] >= true


def test_radii_hold(files: dict[str, Path], model: Model) -> None:
    """No input within a radius has another class, and where one output is the class its sign stays."""
    made = read(files["radii"])
    dice = torch.Generator().manual_seed(0)
    for at in made.points:
        step = torch.randn(2000, 2, generator=dice, dtype=torch.float64)
        x = torch.tensor(at.x) + step / step.norm(dim=1, keepdim=True) * at.radius
        assert bool((model.graph.enclose(Enclosure(x)).centre.argmax(dim=1) == at.label).all())
    torch.manual_seed(1)
    alone = load(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)), input_shape=(1, 2))
    file = files["radii"].with_name("one output")
    report = radius(alone, np.random.default_rng(1).normal(size=(6, 2)), methods=["pairs"], certificate=file)
    assert report.exit_code == 0
    assert verify(file, alone).exit_code == 0
    fields = json.loads(file.read_text())
    fields["points"][0]["class"] = 1 - fields["points"][0]["class"]
    assert rejection(sealed(fields), alone) == "points[0].class"


def test_a_margin_is_a_lower_value(model: Model) -> None:
    """Planted: a class that is not the largest has a negative one."""
    x = torch.zeros(1, 2, dtype=torch.float64)
    y = model.graph.enclose(Enclosure(x)).centre[0]
    for c in range(3):
        found = margins(model.graph, x, [c])[0]
        for j in range(3):
            assert found[j] == torch.inf if j == c else found[j] <= y[c] - y[j] + 1e-12
    assert bool((margins(model.graph, x, [int(y.argmin())])[0] <= 0).any())


def test_a_checker_without_range_analysis_accepts_no_cells(files: dict[str, Path], model: Model) -> None:
    made = read(files["grid"])
    assert isinstance(made, Several)
    with pytest.raises(CertificateRejected, match="no range analysis"):
        check_several(made, model.graph, model.info)
    (claim,) = made.claims
    assert check(claim, model.graph, model.info, sweeps=SWEEPS).value <= claim.claim


def test_constants_of_the_whole_space_hold_on_regions(model: Model, tmp_path: Path) -> None:
    report = bound(model, methods=["lipsdp"], region=BOX, certificate=tmp_path / "c")
    (claim,) = read(tmp_path / "c").claims
    assert claim.claim <= report.upper * (1 + 1e-6)
    assert verify(tmp_path / "c", model).exit_code == 0


def test_what_has_no_certificate_is_said(model: Model, tmp_path: Path) -> None:
    x = np.zeros((1, 2))
    for more in ({"execution": "float32"}, {"tolerance": 0.5}):
        with pytest.raises(UsageError, match="certificate: "):
            radius(model, x, certificate=tmp_path / "c", **more)
    with pytest.raises(UsageError, match="certificate: "):
        bound(model, region=BOX, output="pairs", certificate=tmp_path / "c")
    report = radius(model, x, methods=["local"], certificate=tmp_path / "c")
    assert "no certificate was written" in report.warnings[-1]


def test_ends_of_regions_are_not_rounded() -> None:
    assert Box([-0.1], [0.1]).upper.item() == 0.1
    assert Ball([0.1, 1 / 3], 1.0).center.tolist() == [0.1, 1 / 3]


def test_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    net = two(tmp_path)
    data, file = tmp_path / "x.npy", str(tmp_path / "c")
    np.save(data, np.array([[0.5, 1.0], [2.0, 0.25]]))
    grid_of = ["local", net, "--grid", "2x2", "--box=-0.1:0.1,0.9:1.1", "--rtol", "0", "--norm", "inf"]
    of_radii = ["radius", net, "--data", str(data), "--method", "pairs"]
    for made, said in ((grid_of, "over"), (of_radii, "sample 0")):
        assert run(*made, "--certificate", file, "--quiet") == 0
        assert run("verify", file, net, "--quiet") == 0
        shown = capfd.readouterr().out
        assert "certificate accepted" in shown
        assert said in shown
    assert run("verify", file, net, "--norm", "1", "--quiet") == 1
    assert run("local", net, "--at", data, "--eps", "0.1", "--certificate", file) == 2
