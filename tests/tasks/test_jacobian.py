"""Jacobian statistics: norms against full Jacobians, parts of a network, sets of points, class graphs, the command."""

from __future__ import annotations

import json
import math
import signal
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import Forked
from helpers import f64, random_graph
from jsonschema import Draft202012Validator
from nets import KINDS, Layer, Net
from torch import Tensor, nn

import lipcert
from lipcert.cli import main
from lipcert.network.graph import Graph
from lipcert.network.subnet import cut, find, layers, prefix
from lipcert.report.report import Report
from lipcert.sampling import jacobian as measured
from lipcert.sampling.jacobian import QUANTITIES, extreme_singular_values, norms_at, summary
from lipcert.sampling.laplacian import smoothness
from lipcert.sampling.points import batches, point_sets
from lipcert.terms.errors import UsageError
from lipcert.terms.query import Box
from lipcert.terms.result import Bound

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MOONS = str(EXAMPLES / "two_moons.onnx")
DIGITS, DIGITS_DATA = str(EXAMPLES / "digits.onnx"), str(EXAMPLES / "digits_test.npz")
SCHEMA = json.loads(resources.files("lipcert.report").joinpath("schema/lipcert.report-1.json").read_text())


model_of = cache(lipcert.load)


def complaints(report: Report) -> list[str]:
    """By the schema; of many points the first and the last hundred (a thousand take it a second)."""
    data = report.to_dict()
    data["points"] = [*data["points"][:100], *data["points"][100:][-100:]]
    return [error.message for error in Draft202012Validator(SCHEMA).iter_errors(data)]


# Norms.


def slow_norms(graph: Graph, x: Tensor) -> dict[str, float]:
    """One point, by numpy, from a Jacobian that torch.func makes."""
    J = torch.func.jacrev(lambda at: graph.evaluate(at[None])[0])(x).numpy()
    singular = np.linalg.svd(J, compute_uv=False)
    return {
        "spectral": singular.max(),
        "frobenius": math.sqrt((J**2).sum()),
        "l1": np.linalg.norm(J, 1),
        "linf": np.linalg.norm(J, np.inf),
        "smallest": singular.min(),
    }


def agree(found: dict[str, Tensor], graph: Graph, x: Tensor) -> bool:
    for k in range(len(x)):
        want = slow_norms(graph, x[k])
        close = 1e-9 * max(want["spectral"], 1e-300)
        if any(abs(float(found[name][k]) - want[name]) > close + 1e-9 * want[name] for name in QUANTITIES):
            return False
    return True


@pytest.mark.every(5)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("seed", range(3))
def test_norms_are_those_of_full_jacobians(kind, seed: int) -> None:
    torch.manual_seed(seed)
    graph = kind(seed).graph()
    x = f64(5, graph.nodes[0].size)
    assert agree(norms_at(graph, x), graph, x)


def test_the_oracle_sees_wrong_norms() -> None:
    graph = Net("t", 3, (Layer({0: f64(8, 3)}, "tanh"),), {1: f64(4, 8)}).graph()
    x = f64(5, 3)
    found = norms_at(graph, x)
    for name in QUANTITIES:
        assert not agree(found | {name: found[name] * (1 + 1e-6)}, graph, x)


def test_random_graphs_of_all_nodes() -> None:
    for seed in range(20):
        graph = random_graph(seed, nonlinear=True)
        x = f64(3, graph.nodes[0].size)
        assert agree(norms_at(graph, x), graph, x)


def test_more_outputs_than_inputs_take_forward_passes() -> None:
    graph = Net("t", 2, (Layer({0: f64(90, 2)}, "silu"),), {1: f64(80, 90)}).graph()
    x = f64(4, 2)
    assert agree(norms_at(graph, x), graph, x)


@pytest.mark.parametrize("act", ["relu", "tanh"])
def test_power_iteration_is_never_too_large(monkeypatch: pytest.MonkeyPatch, act: str) -> None:
    monkeypatch.setattr(measured, "FULL", 4)
    graph = Net("t", 9, (Layer({0: f64(20, 9)}, act), Layer({1: f64(20, 20)}, act)), {2: f64(8, 20)}).graph()
    x = f64(12, 9)
    found = norms_at(graph, x)
    true = [slow_norms(graph, point) for point in x]
    for name, least in (("spectral", 0.999), ("l1", 0.5), ("linf", 0.5)):
        for k, want in enumerate(true):
            assert least * want[name] <= float(found[name][k]) <= (1 + 1e-12) * want[name]
    assert measured.meaning(graph) == {
        "spectral": "lower", "frobenius": None, "l1": "lower", "linf": "lower", "smallest": None
    }  # fmt: skip
    assert bool(found["frobenius"].isnan().all())


@pytest.mark.parametrize("scale", [1.0, 1e-160, 1e150])
@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (3, 7), (7, 3), (4, 4)])
def test_extreme_singular_values(shape: tuple[int, int], scale: float) -> None:
    J = f64(6, *shape) * scale
    J[0] = 0.0
    if min(shape) > 1:
        J[1, 0] = J[1, 1] if shape[0] > 1 else J[1, 0]  # rank deficient
        J[2] = 1e-12 * J[2]
        J[2, 0, 0] = scale
    largest, smallest = extreme_singular_values(J)
    for k in range(6):
        want = np.linalg.svd(J[k].numpy() / scale, compute_uv=False)
        assert float(largest[k]) / scale == pytest.approx(want.max(), rel=1e-12, abs=1e-14)
        assert float(smallest[k]) / scale == pytest.approx(want.min(), rel=1e-6, abs=1e-14 * max(1, want.max()))


def test_summary_is_numpys() -> None:
    values = np.random.default_rng(0).gamma(2, 1, 500)
    found = summary([*values.tolist(), None])
    assert (found["count"], found["missing"]) == (500, 1)
    assert found["mean"] == pytest.approx(values.mean())
    assert found["std"] == pytest.approx(values.std(ddof=1))
    assert all(value == pytest.approx(np.quantile(values, float(q))) for q, value in found["quantiles"].items())
    assert sum(found["histogram"]["counts"]) == 500
    assert found["histogram"]["edges"][-1] == found["max"] == values.max()
    assert summary([2.0])["std"] == 0.0
    assert summary([None, None]) | {"histogram": 1} == {
        "count": 0, "missing": 2, "mean": None, "std": None, "min": None, "max": None, "quantiles": {}, "histogram": 1
    }  # fmt: skip


# Parts.


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_two_halves_make_the_network(kind) -> None:
    for seed in range(6):
        graph = kind(seed).graph()
        x = f64(4, graph.nodes[0].size)
        whole = graph.evaluate(x)
        halves = 0
        for layer in layers(graph):
            try:
                second = cut(graph, layer, graph.output)
            except UsageError:
                continue  # the input goes past this layer
            halves += 1
            assert torch.allclose(second.evaluate(prefix(graph, layer).evaluate(x)), whole, rtol=1e-12, atol=1e-12)
        assert halves >= 1


def test_a_skip_connection_is_not_cut_silently() -> None:
    net = Net("skip", 3, (Layer({0: f64(4, 3)}),), {1: f64(2, 4), 0: f64(2, 3)})
    graph = net.graph()
    with pytest.raises(UsageError, match="past"):
        cut(graph, graph.nonlinear[0], graph.output)
    with pytest.raises(UsageError, match="does not depend"):
        cut(graph, graph.output, graph.nonlinear[0])


def test_nodes_are_found_by_name_or_by_the_name_in_the_file() -> None:
    model = model_of(MOONS)
    for i in layers(model.graph):
        name = model.graph.nodes[i].name
        assert model.graph.nodes[find(model.graph, name, "--to")].name == name
    with pytest.raises(UsageError, match="--to nowhere: no such node; the nodes are"):
        find(model.graph, "nowhere", "--to")


# Points.


def test_points_do_not_depend_on_the_batches() -> None:
    x = f64(50, 3)
    for group in point_sets(x, None, None, 0, 0.5, True, seed=7):
        whole = group.at(0, group.count)
        assert torch.equal(torch.cat([group.at(i, i + 1) for i in range(group.count)]), whole)
        other = next(g for g in point_sets(x, None, None, 0, 0.5, True, seed=8) if g.name == group.name)
        assert torch.equal(other.at(0, 50), whole) == (group.name == "data")


def test_where_the_points_lie() -> None:
    x = f64(400, 3)
    _, around, between = point_sets(x, None, None, 0, 0.25, True, seed=0)
    assert float((around.at(0, 400) - x).std()) == pytest.approx(0.25, rel=0.1)
    y = between.at(0, 400)
    for k in range(0, 400, 40):  # on a segment of two data points: |a - y| + |y - b| = |a - b| for some pair
        to = (x - y[k]).norm(dim=1)
        slack = to[:, None] + to[None, :] - torch.cdist(x, x)
        assert float((slack + torch.eye(400, dtype=torch.float64)).min()) < 1e-9
    low, high = torch.tensor([[-1.0, 2.0]]).double(), torch.tensor([[1.0, 2.0]]).double()
    (box,) = point_sets(None, None, Box(low, high), 100, None, False, seed=0)
    assert bool(((box.at(0, 100) >= low) & (box.at(0, 100) <= high)).all())


def test_batches_leave_out_what_is_done() -> None:
    sets = point_sets(f64(20, 2), None, None, 0, 1.0, False, seed=0)
    done = {("data", 3), ("data", 4), ("around", 0), ("around", 19)}
    met = [(g.name, k) for g, first, end in batches(sets, done, 4) for k in range(first, end)]
    assert len(met) == len(set(met)) == 36
    assert not done & set(met)


# Class graphs.


def slow_smoothness(features: np.ndarray, labels: np.ndarray, k: int) -> tuple[float, float]:
    """trace(S' L S) and the sum of all weights, from the matrices."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    A = np.zeros_like(cosine)
    for i, row in enumerate(cosine):
        for j in np.argsort(-row)[:k]:
            A[i, j] = A[j, i] = max(row[j], 0.0)
    S = (labels[:, None] == np.unique(labels)[None]).astype(float)
    L = np.diag(A.sum(axis=1)) - A
    return float(np.trace(S.T @ L @ S)), float(A.sum())


@pytest.mark.parametrize("seed", range(3))
def test_laplacian_smoothness(seed: int) -> None:
    random = np.random.default_rng(seed)
    features, labels = random.normal(size=(80, 5)), random.integers(0, 3, 80)
    found = smoothness(torch.from_numpy(features), labels, 6)
    between, total = slow_smoothness(features, labels, 6)
    assert (found["between"], found["total"]) == (pytest.approx(between), pytest.approx(total))
    assert (found["between"], found["total"]) != (pytest.approx(slow_smoothness(features, labels, 5)[0]), total)
    assert found["ratio"] == pytest.approx(2 / 3, abs=0.15)


def test_separated_classes_have_no_edges_between() -> None:
    labels = np.repeat(["a", "b"], 30)
    features = torch.eye(4, dtype=torch.float64)[torch.from_numpy((labels == "b").astype(int))] + 0.01 * f64(60, 4)
    assert smoothness(features, labels, 10)["ratio"] == 0.0
    assert smoothness(features[:1], labels[:1])["ratio"] is None


# The report.


def moons(count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    return random.uniform(-1, 2, (count, 2)), random.integers(0, 2, count)


def test_a_report_of_everything() -> None:
    model = model_of(MOONS)
    x, y = moons()
    report = lipcert.jacobian(model, x, y=y, around=0.1, between=True, per_class=True, laplacian=True)
    assert complaints(report) == []
    assert [p["index"] for p in report.points] == [*range(300)] * 3
    found = report.summary["jacobian"]
    assert found["complete"]
    assert [s["set"] for s in found["sets"]] == ["data", "around", "between"]
    assert [c["label"] for c in found["sets"][0]["classes"]] == [0, 1]
    assert len(report.summary["laplacian"]) == 4
    top = max(p["spectral"] for p in report.points)
    assert report.lower == pytest.approx(top, rel=1e-3)
    bound = lipcert.bound(model, methods=["product", "lipsdp"])
    assert report.lower <= bound.upper
    assert report.status is None
    assert report.exit_code == 0
    again = lipcert.jacobian(model, x, y=y, around=0.1, between=True, per_class=True, laplacian=True)
    assert again.points == report.points
    assert again.summary == report.summary


@pytest.mark.parametrize("norm", ["1", "inf", "1->2"])
def test_the_lower_value_in_other_norms_and_in_a_box(norm: str) -> None:
    model = model_of(MOONS)
    box = Box(torch.tensor([[-2.0, -1.5]]), torch.tensor([[3.0, 1.5]]))
    report = lipcert.jacobian(model, region=box, norm=norm, samples=100)
    assert complaints(report) == []
    (lower,) = report.results
    assert isinstance(lower, Bound)
    assert (lower.side, lower.rigor) == ("lower", "sampled")
    for side in ("x", "x2"):
        point = torch.tensor(lower.witness[side])
        assert bool(((point >= box.lower.reshape(-1)) & (point <= box.upper.reshape(-1))).all())
    assert 0 < report.lower <= lipcert.bound(model, norm=norm, region=box, methods=["product"]).upper


def test_features() -> None:
    """The statistics of the head are those of the part of the network behind the layer, at the features."""
    model = model_of(DIGITS)
    data = np.load(DIGITS_DATA)
    x = data["x"][:20].reshape(20, -1)
    layer = next(iter(layers(model.graph)))
    name = model.graph.nodes[layer].name
    head = lipcert.jacobian(model, x, from_node=name)
    assert head.results == []  # a constant of the head is no constant of the network
    features = prefix(model.graph, layer).evaluate(torch.from_numpy(x).double())
    want = norms_at(cut(model.graph, layer, model.graph.output), features)
    assert [p["spectral"] for p in head.points] == pytest.approx(want["spectral"].tolist())
    body = lipcert.jacobian(model, x, to_node=name)
    want = norms_at(prefix(model.graph, layer), torch.from_numpy(x).double())
    assert [p["linf"] for p in body.points] == pytest.approx(want["linf"].tolist())


class Stop:
    """Ctrl-C after a number of batches."""

    def __init__(self, batches: int):
        self.left = batches

    def __call__(self, text: str, done: float | None = None, total: float | None = None) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [0, 2, 5])
def test_interrupted_and_resumed(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    monkeypatch.setattr(measured, "ENTRIES", 50 * 100)
    model = model_of(MOONS)
    x, y = moons(170)
    asked = {"y": y, "around": 0.3, "per_class": True}
    whole = lipcert.jacobian(model, x, **asked)
    with pytest.raises(KeyboardInterrupt) as stopped:
        lipcert.jacobian(model, x, **asked, progress=Stop(after))
    partial = stopped.value.partial_report
    assert complaints(partial) == []
    assert not partial.summary["jacobian"]["complete"]
    assert len(partial.points) == {0: 0, 2: 100, 5: 220}[after]  # batches of 50, 50, 50, 20, 50
    read_again = Report.from_dict(json.loads(json.dumps(partial.to_dict())))
    resumed = lipcert.jacobian(model, x, **asked, resume=read_again)
    assert resumed.points == whole.points
    assert resumed.summary == whole.summary


def test_another_question_is_not_resumed() -> None:
    model = model_of(MOONS)
    x, _ = moons(10)
    report = lipcert.jacobian(model, x)
    for change, says in (({"around": 0.1}, "around"), ({"seed": 1}, "seed")):
        with pytest.raises(UsageError, match=says):
            lipcert.jacobian(model, x, resume=report, **change)
    with pytest.raises(UsageError, match="data"):
        lipcert.jacobian(model, x + 1, resume=report)
    with pytest.raises(UsageError, match="lipcert layers"):
        lipcert.jacobian(model, x, resume=lipcert.layers(model))
    with pytest.raises(UsageError, match="model"):
        lipcert.jacobian(lipcert.load(nn.Linear(2, 1), input_shape=(1, 2)), x, resume=report)


class Steps(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.floor(x) + 2 * x


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x @ x.transpose(1, 2), dim=-1) @ x


def test_attention_is_measured() -> None:
    """No finite constant exists; Jacobians at points do."""
    model = lipcert.load(Attention(), input_shape=(1, 3, 2))
    report = lipcert.jacobian(model, np.random.default_rng(0).normal(size=(5, 3, 2)))
    assert complaints(report) == []
    assert all(p["spectral"] > 0 for p in report.points)


def test_odd_models() -> None:
    for module, shape, want in (
        (nn.Identity(), (1, 1), 1.0),
        (nn.Linear(1, 1, bias=False), (1, 1), None),
        (nn.Linear(3, 2).half(), (1, 3), None),
        (nn.Linear(3, 2).double(), (1, 3), None),
    ):
        model = lipcert.load(module, input_shape=shape)
        report = lipcert.jacobian(model, np.ones((2, *shape[1:])), between=True)
        assert complaints(report) == []
        weight = getattr(module, "weight", None)
        want = want or float(torch.linalg.matrix_norm(weight.detach().double(), 2))
        assert report.lower == pytest.approx(want, rel=1e-6)
        assert report.points[0]["spectral"] == pytest.approx(want)

    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(torch.ones(1, 2))

    report = lipcert.jacobian(lipcert.load(Constant(), input_shape=(1, 3)), np.ones((2, 3)))
    assert complaints(report) == []
    assert report.lower == 0.0
    assert report.points[1]["frobenius"] == 0.0


@pytest.mark.parametrize(
    ("x", "options", "says"),
    [
        (np.zeros((0, 2)), {}, "samples"),
        (np.zeros((3, 5)), {}, "samples"),
        (np.full((2, 2), np.nan), {}, "NaN"),
        (np.zeros((2, 2)), {"y": [1]}, "labels"),
        (np.zeros((2, 2)), {"per_class": True}, "labels"),
        (np.zeros((2, 2)), {"around": -1.0}, "around: a finite number from 0"),
        (np.zeros((2, 2)), {"around": math.inf}, "around: a finite number from 0"),
        (np.zeros((2, 2)), {"region": Box(torch.zeros(1, 2), torch.ones(1, 2))}, "data, or a box"),
        (None, {}, "data, or a box"),
        (None, {"region": Box(torch.ones(1, 2), torch.zeros(1, 2))}, "lower <= upper"),
        (None, {"region": Box(torch.zeros(1, 2), torch.ones(1, 2)), "between": True}, "data"),
        (np.zeros((2, 2)), {"from_node": "nowhere"}, "no such node"),
        (None, {"region": Box(torch.zeros(1, 2), torch.ones(1, 2)), "samples": 1_000_001}, "split"),
        (None, {"region": Box(torch.zeros(1, 2), torch.ones(1, 2)), "samples": 0}, "samples"),
    ],
)
def test_what_makes_no_sense(x: np.ndarray | None, options: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        lipcert.jacobian(model_of(MOONS), x, **options)


# The command.


def typed(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main.main(["jacobian", *arguments])
    return int(stopped.value.code or 0)


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, picture = tmp_path / "r.json", tmp_path / "h.png"
    asked = (DIGITS, "--data", DIGITS_DATA, "--around", "0.1", "--between", "--per-class", "--laplacian")
    assert typed(*asked, "--plot", str(picture), "--json", str(out)) == 0
    shown = capfd.readouterr().out
    for words in ("at the data", "around the data (noise 0.1)", "spectral norm", "per class", "class graph"):
        assert words in shown
    assert picture.read_bytes().startswith(b"\x89PNG")
    data = json.loads(out.read_text())
    assert list(Draft202012Validator(SCHEMA).iter_errors(data)) == []
    assert typed(*asked, "--resume", str(out), "--json", str(tmp_path / "again.json")) == 0
    assert json.loads((tmp_path / "again.json").read_text())["points"] == data["points"]
    assert typed(MOONS, "--box=-2:3,-1.5:2", "--samples", "50", "--norm", "inf", "--quiet") == 0
    assert "in the box, 50 points" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((MOONS,), "say where"),
        ((MOONS, "--data", "x.npz", "--box=0:1"), "say where"),
        ((MOONS, "--data", "absent.npz"), "no such data file"),
        ((MOONS, "--data", DIGITS_DATA), "do not fit"),
        ((MOONS, "--data", DIGITS_DATA, "--samples", "5"), "--samples"),
        ((MOONS, "--box=0:1", "--plot", "picture.bmp"), "--plot"),
        ((MOONS, "--box=0:1", "--around", "nan"), "--around"),
        ((MOONS, "--box=0:1", "--resume", "absent.json"), "--resume"),
        ((MOONS, "--box=0:1", "--resume", DIGITS_DATA), "--resume"),
        ((MOONS, "--box=0:1", "--to", "nowhere"), "--to nowhere"),
        ((MOONS, "--box=0:1", "--from", "input"), "data"),
    ],
)
def test_usage(arguments: tuple[str, ...], says: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert typed(*arguments) == 2
    assert says in capfd.readouterr().err


@pytest.mark.parametrize("content", ["nan", "empty", "text", "pickle"])
def test_hostile_data(tmp_path: Path, content: str, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.npz"
    x = {"nan": np.full((3, 2), np.nan), "empty": np.zeros((0, 2)), "text": np.array([["a", "b"]])}
    np.savez(file, x=x.get(content, np.array([[{}, {}]], dtype=object)))
    assert typed(MOONS, "--data", str(file)) == 2
    assert str(file) in capfd.readouterr().err


def test_labels_of_a_file_are_never_terminal_codes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.npz"
    np.savez(file, x=np.zeros((2, 2)), y=np.array(["\x1b[31m[red]", "b"]))
    assert typed(MOONS, "--data", str(file), "--per-class") == 0
    assert "\x1b" not in capfd.readouterr().out


def test_ctrl_c_leaves_a_report_to_go_on_with(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    process = Forked("jacobian", MOONS, "--box=-2:3,-1.5:2", "--json", out, "--samples", "1000000")
    process.until("jacobian: [1-9]")
    process.send_signal(signal.SIGINT)
    assert process.wait(60).returncode == 130
    report = Report.from_dict(json.loads(out.read_text()))
    assert complaints(report) == []
    assert 0 < len(report.points) < 1000000
    assert any("interrupted" in warning for warning in report.warnings)
