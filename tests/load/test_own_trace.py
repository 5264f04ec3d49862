"""Our own trace of ONNX models: the graph of torch.export without its imports; what it cannot follow is left to that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from onnx_cases import Case, graphs, model

import lipcert
from lipcert.load.capture import decompose, shapes
from lipcert.load.capture.capture import fingerprint
from lipcert.load.capture.export import decomposed, stored
from lipcert.load.capture.shapes import NoShape, results
from lipcert.load.capture.trace import Trace, Unfollowed, retrace, trace, unsplit
from lipcert.load.fingerprint import quiet
from lipcert.load.inputs import shaped
from lipcert.load.onnx.file import read_graph
from lipcert.load.onnx.module import build

aten = torch.ops.aten
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "two_moons.onnx"


def both(module: torch.nn.Module, x: torch.Tensor) -> tuple[str, str]:
    with quiet(), torch.no_grad():
        theirs = decomposed(torch.export.export(module, (x,), strict=False))
        for node in list(theirs.graph.nodes):
            if node.target is aten.alias.default:  # torch.export keeps one here and there
                node.replace_all_uses_with(node.args[0])
                theirs.graph.erase_node(node)
        return fingerprint(trace(module, x)), fingerprint(theirs)


ROWS = list(graphs())


@pytest.mark.every(90)
@pytest.mark.parametrize(("row", "opset"), ROWS, ids=[f"{row.op}-{opset}-{k}" for k, (row, opset) in enumerate(ROWS)])
def test_the_trace_is_the_graph_of_torch_export(row: Case, opset: int, tmp_path: Path) -> None:
    path = tmp_path / "case.onnx"
    path.write_bytes(model(row, opset).SerializeToString())
    module = build(read_graph(path, shaped(row.shape))).module
    ours, theirs = both(module, torch.zeros(row.shape, dtype=torch.float64))
    assert ours == theirs


class Of(torch.nn.Module):
    def __init__(self, function, first: bool = False):
        super().__init__()
        self.function, self.first = function, first

    def forward(self, x):
        return self.function(x)[0] if self.first else self.function(x)


def test_the_comparison_above_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1, 4)
    assert len(set(both(Of(lambda x: x.t()), x))) == 1
    monkeypatch.setattr(decompose, "rewrite", lambda func: None)
    with torch.no_grad():
        assert "aten.t.default" in [str(node.target) for node in trace(Of(lambda x: x.t()), x).graph.nodes]


MODULES = {
    "shared weights": (lambda: Twice(), (1, 4)),
    "normalised": (
        lambda: torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()),
        (1, 3, 6, 6),
    ),
    "recurrent": (lambda: Of(torch.nn.LSTM(4, 5, batch_first=True), first=True), (1, 3, 4)),
    "upsampled": (lambda: torch.nn.Upsample(scale_factor=1.7, mode="bilinear"), (1, 2, 5, 5)),
    "padded": (lambda: torch.nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (1, 2, 5, 5)),
    "pooled": (lambda: torch.nn.MaxPool2d(3, 2, 1, ceil_mode=True), (1, 2, 6, 6)),
    "without gradients": (lambda: Still(), (1, 4)),
}


class Twice(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Linear(4, 4)

    def forward(self, x):
        return self.a(torch.relu(self.a(x))) - x


class Still(torch.nn.Module):
    def forward(self, x):
        with torch.no_grad():
            y = torch.relu(x)
        return x + y


@pytest.mark.every(3)
@pytest.mark.parametrize("name", MODULES)
def test_what_torch_export_gave_is_decomposed_alike(name: str) -> None:
    make, shape = MODULES[name]
    with quiet(), torch.no_grad():
        program = torch.export.export(make().eval(), (torch.zeros(shape),), strict=False)
        assert fingerprint(retrace(program, stored(program))) == fingerprint(decomposed(program))


@pytest.mark.parametrize(
    "function", [lambda x: x.clone().add_(1), lambda x: torch.cat([x, x]).index_fill_(0, torch.tensor([1]), 0.5)]
)
def test_what_writes_is_left_to_torch(function) -> None:
    with quiet(), torch.no_grad():
        program = torch.export.export(Of(function), (torch.zeros(1, 4),), strict=False)
        with pytest.raises(Unfollowed):
            retrace(program, stored(program))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.add_(1),
        lambda x: torch.relu_(x.clone()),
        lambda x: x * float(x.sum()),
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x[torch.nonzero(x)],
        lambda x: (x, x),
        lambda x: torch.zeros(()).numpy(),
    ],
)
def test_what_writes_or_asks_for_values_is_not_followed(function) -> None:
    with torch.no_grad(), pytest.raises(Unfollowed):
        trace(Of(function), torch.zeros(4))


def test_constants_are_those_of_the_module_and_steps_have_names() -> None:
    part = torch.nn.Sequential(torch.nn.Flatten(0), torch.nn.ReLU())
    part.register_buffer("unused", torch.ones(2))
    weight = torch.randn(4, 4)
    with torch.no_grad():
        program = trace(torch.nn.Sequential(part, Of(lambda x: weight @ x)), torch.zeros(2, 2))
    assert [tensor is weight for tensor in program.constants.values()] == [False, True]
    assert [node.name for node in program.graph.nodes][-4:] == ["view", "relu", "matmul", "output"]
    names = [node.meta["nn_module_stack"][""][0] for node in program.graph.nodes if node.op == "call_function"]
    assert names[-2:] == ["0.1", "1"]
    assert all(node.meta["val"].is_meta for node in program.graph.nodes if node.op == "call_function")


def bare(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.float64, device="meta")


CALLS = [
    (aten.linear.default, (bare(2, 3), bare(4, 3), bare(4))),
    (aten.linear.default, (bare(3), bare(4, 3))),
    (aten.matmul.default, (bare(3), bare(3))),
    (aten.matmul.default, (bare(2, 1, 4, 3), bare(5, 3, 6))),
    (aten.matmul.default, (bare(5, 4, 3), bare(3))),
    (aten.matmul.default, (bare(3), bare(5, 3, 2))),
    (aten.mm.default, (bare(2, 3), bare(3, 0))),
    (aten.bmm.default, (bare(7, 2, 3), bare(7, 3, 5))),
    (aten.convolution.default, (bare(1, 4, 9, 8), bare(6, 2, 3, 2), bare(6), [2, 1], [1, 0], [2, 3], False, [0, 0], 2)),
    (aten.convolution.default, (bare(1, 4, 9), bare(4, 3, 3), None, [3], [1], [2], True, [2], 2)),
    (
        aten.convolution.default,
        (bare(2, 1, 1, 1, 1), bare(1, 1, 1, 1, 1), None, [1] * 3, [0] * 3, [1] * 3, False, [0] * 3, 1),
    ),
    (aten.add.Tensor, (bare(3, 1), bare(1, 4))),
    (aten.eq.Tensor, (bare(3, 1), bare(1, 4))),
    (aten.cat.default, ([bare(2, 3), bare(2, 1)], 1)),
    (aten.max.dim, (bare(2, 3), 1)),
    (aten.max_pool2d_with_indices.default, (bare(1, 2, 7, 7), [3, 3], [2, 2], [1, 1], [1, 1], True)),
    (aten.permute.default, (bare(2, 3, 4), [2, 0, 1])),
    (aten.add.Tensor, (bare(3, 1).expand(3, 4), bare(1, 4))),
    (aten.mul.Tensor, (bare(3, 0), bare(3, 1))),
    (aten.div.Tensor_mode, (torch.empty(3, dtype=torch.int64, device="meta"),) * 2),
]


@pytest.mark.parametrize(("func", "args"), CALLS, ids=[str(func) for func, _ in CALLS])
def test_shapes_are_those_of_torch(func, args) -> None:
    kwargs = {"rounding_mode": "floor"} if func is aten.div.Tensor_mode else {}
    found, true = results(func, args, kwargs, imports=False), func(*args, **kwargs)
    if isinstance(true, torch.Tensor):
        found, true = [found], [true]
    assert [(part.shape, part.dtype, part.is_meta) for part in found] == [(p.shape, p.dtype, True) for p in true]


WRONG = [
    (aten.linear.default, (bare(2, 3), bare(4, 2))),
    (aten.linear.default, (bare(2, 3), bare(4, 3), bare(5))),
    (aten.matmul.default, (bare(2, 3), bare(4, 2))),
    (aten.matmul.default, (bare(2, 2, 3), bare(3, 3, 2))),
    (aten.convolution.default, (bare(1, 3, 5), bare(2, 2, 3), None, [1], [0], [1], False, [0], 1)),
    (aten.convolution.default, (bare(1, 2, 2), bare(2, 2, 3), None, [1], [0], [1], False, [0], 1)),
    (aten.add.Tensor, (bare(3), bare(4))),
    (aten.cat.default, ([bare(2, 3), bare(3, 1)], 1)),
]


@pytest.mark.parametrize(("func", "args"), WRONG, ids=[str(func) for func, _ in WRONG])
def test_what_does_not_fit_is_torchs_error(func, args) -> None:
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        results(func, args, {})


def test_only_few_entries_are_computed_with() -> None:
    large = bare(2**15, 2**15)
    assert results(aten.matmul.default, (large, large), {}, imports=False).shape == (2**15, 2**15)
    for call in (
        (aten.relu.default, (large,)),
        (aten.add.Tensor, (bare(2**20, 1), bare(2**20))),
        (aten.sum.default, (large,)),
    ):
        with pytest.raises(NoShape):
            results(*call, {}, imports=False)
    state = Trace(imports=False)
    x = state.placeholder("x", torch.empty(2**15, 2**15, device="meta"))
    with pytest.raises(Unfollowed), unsplit(), state:
        x.relu()


def test_a_file_that_the_trace_cannot_follow_is_exported(tmp_path: Path) -> None:
    """Only Python of torch knows the shape of a gather, so that the first child gives up and a second exports."""
    row, opset = next((row, opset) for row, opset in ROWS if row.op == "GatherElements")
    path = tmp_path / "m.onnx"
    onnx.save(model(row, opset), path)
    with torch.no_grad(), pytest.raises(Unfollowed):
        trace(
            build(read_graph(path, shaped(row.shape)), imports=False).module,
            torch.zeros(row.shape).double(),
            imports=False,
        )
    found = lipcert.load(path)
    module = build(read_graph(path, shaped(row.shape))).module
    assert set(both(module, torch.zeros(row.shape, dtype=torch.float64))) == {found.info["graph"]}


def test_what_a_sandbox_does_not_let_torch_import_is_left_to_the_second_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def imports(*arguments: object) -> None:
        raise FileNotFoundError("No usable temporary directory")

    row, opset = next((row, opset) for row, opset in ROWS if row.op == "Relu")
    path = tmp_path / "m.onnx"
    onnx.save(model(row, opset), path)
    monkeypatch.setattr(shapes, "results", imports)
    with pytest.raises(Unfollowed):
        build(read_graph(path, shaped(row.shape)), imports=False)


def test_reading_and_bounding_onnx_imports_neither_dynamo_nor_sympy() -> None:
    code = (
        "import sys, lipcert; lipcert.bound(lipcert.load(sys.argv[1]), methods=['product', 'sampled', 'lipsdp']); "
        "print(*({'sympy', 'torch._dynamo', 'torch._inductor', 'torch.export._trace', 'scipy', 'cvxpy'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(EXAMPLE)], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""


@pytest.mark.slow  # minutes
def test_every_shared_model(shared: Path) -> None:
    compared = 0
    for path in sorted((*shared.glob("models/*.onnx"), *shared.glob("wild/*.onnx"))):
        try:
            info = lipcert.load(path).info
            module = build(read_graph(path, shaped(info["input_shape"]))).module
        except lipcert.LipcertError:
            continue
        assert set(both(module, torch.zeros(info["input_shape"], dtype=torch.float64))) == {info["graph"]}, path.name
        compared += 1
    assert compared > 60
