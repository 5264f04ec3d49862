"""`.pt2`: each way in which torch.export.load runs code of a file is built here, shown to work, and refused."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from captured import evaluate
from torch import nn
from torch.export import Dim
from torch.export.pt2_archive._package import PT2ArchiveWriter

from lipcert.load.capture.capture import capture
from lipcert.load.capture.parity import check_parity
from lipcert.load.exported_schema import is_arithmetic
from lipcert.load.read import read
from lipcert.terms.errors import LipcertError, RefusedModel, UnreadableError, UsageError

MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)).eval()


def saved(path: Path, module: nn.Module | None = None, shape=(1, 4), **options) -> Path:
    torch.export.save(torch.export.export(module or net(), (torch.zeros(shape),), **options), path)
    return path


def rewritten(path: Path, target: Path, edit: Callable[[dict[str, bytes]], None]) -> Path:
    """The archive with `edit` applied to its members (without the prefix), written as torch writes it."""
    with zipfile.ZipFile(path) as archive:
        prefix = archive.namelist()[0].split("/")[0] + "/"
        members = {name.removeprefix(prefix): archive.read(name) for name in archive.namelist()}
    edit(members)
    with open(target, "wb") as file, PT2ArchiveWriter(file) as writer:
        for name, data in members.items():
            if name.startswith(("data/", "models/", "extra/")):
                writer.write_bytes(name, data)
    return target


def edited_json(name: str, change: Callable[[dict], object]) -> Callable[[dict[str, bytes]], None]:
    def edit(members: dict[str, bytes]) -> None:
        value = json.loads(members[name])
        change(value)
        members[name] = json.dumps(value).encode()

    return edit


class Touch:
    """Unpickling it creates the file at `path`."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def hostile_samples(mark: Path) -> Callable[[dict[str, bytes]], None]:
    def edit(members: dict[str, bytes]) -> None:
        buffer = io.BytesIO()
        torch.save(((torch.zeros(1, 4), Touch(mark)), {}), buffer)
        members["data/sample_inputs/model.pt"] = buffer.getvalue()

    return edit


def hostile_weights(mark: Path) -> Callable[[dict[str, bytes]], None]:
    def edit(members: dict[str, bytes]) -> None:
        buffer = io.BytesIO()
        torch.save(Touch(mark), buffer)
        config = json.loads(members[WEIGHTS])
        entry = config["config"]["0.weight"]
        entry["use_pickle"] = True
        members["data/weights/" + entry["path_name"]] = buffer.getvalue()
        members[WEIGHTS] = json.dumps(config).encode()

    return edit


def hostile_expression(mark: Path) -> Callable[[dict[str, bytes]], None]:
    def change(model: dict) -> None:
        sizes = model["graph_module"]["graph"]["tensor_values"]["linear"]["sizes"]
        sizes[0] = {
            "as_expr": {"expr_str": f"__import__('pathlib').Path('{mark}').touch() or 1", "hint": {"as_int": 1}}
        }

    return edited_json(MODEL, change)


def hostile_target(mark: Path) -> Callable[[dict[str, bytes]], None]:
    """A node that calls torch.load, weights_only off, on a file of the attacker's."""
    bait = mark.with_suffix(".bait")
    bait.write_bytes(pickle.dumps(Touch(mark)))

    def change(model: dict) -> None:
        node = model["graph_module"]["graph"]["nodes"][1]
        node["target"] = "torch.serialization.pickle.load"

    return edited_json(MODEL, change)


def hostile_guards(mark: Path) -> Callable[[dict[str, bytes]], None]:
    return edited_json(MODEL, lambda model: model.update(guards_code=[f"open('{mark}', 'w') is None"]))


def hostile_name(mark: Path) -> Callable[[dict[str, bytes]], None]:
    def edit(members: dict[str, bytes]) -> None:
        members[MODEL] = members[MODEL].replace(b'["input"]', b"[\"input=open('%s', 'w')\"]" % str(mark).encode())
        assert b"open(" in members[MODEL]

    return edit


HOSTILE = {
    "samples": (hostile_samples, "would run"),
    "weights": (hostile_weights, "use_pickle"),
    "expression": (hostile_expression, "not plain arithmetic"),
    "target": (hostile_target, "not a plain ATen operator"),
    "guards": (hostile_guards, "guards_code"),
    "name": (hostile_name, "is not a name"),
}
SHOWN = ("samples", "weights", "expression")  # these run as soon as torch loads them


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_archives_are_refused_before_they_are_loaded(tmp_path, kind) -> None:
    build, words = HOSTILE[kind]
    mark = tmp_path / "mark"
    path = rewritten(saved(tmp_path / "net.pt2"), tmp_path / "hostile.pt2", build(mark))
    with pytest.raises((UnreadableError, RefusedModel), match=words) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize("kind", SHOWN)
def test_the_attacks_above_are_real(tmp_path, kind) -> None:
    mark = tmp_path / "mark"
    path = rewritten(saved(tmp_path / "net.pt2"), tmp_path / "hostile.pt2", HOSTILE[kind][0](mark))
    try:
        torch.export.load(path)
    except Exception as problem:
        print(f"torch stopped after the fact: {problem}")
    assert mark.exists()


def test_rewriting_alone_changes_nothing(tmp_path) -> None:
    path = saved(tmp_path / "net.pt2")
    same = rewritten(path, tmp_path / "same.pt2", lambda members: None)
    assert capture(read(same)).fingerprint == capture(read(path)).fingerprint


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s31', positive=True, integer=True)",
        "s0",
        "Mul(Integer(2), Symbol('s0'))",
        "2*s0 + 1",
        "FloorDiv(s0, 2)",
    ],
)
def test_expressions_that_torch_writes(text) -> None:
    assert is_arithmetic(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "open('/x')",
        "Symbol('s').__class__",
        "exec('1')",
        "s0.args",
        "9**9**9",
        "lambda: 0",
        "[1]",
        "'a'",
        "eval(s0)",
    ],
)
def test_expressions_that_nobody_needs(text) -> None:
    assert not is_arithmetic(text)


def test_guards_on_shapes_are_let_through_and_dropped(tmp_path) -> None:
    path = saved(tmp_path / "net.pt2")
    guards = ["L['input'].size()[0] >= 1 and not L['input'].size()[1] == 5"]
    edit = edited_json(MODEL, lambda model: model.update(guards_code=guards))
    assert capture(read(rewritten(path, tmp_path / "guarded.pt2", edit))).fingerprint == capture(read(path)).fingerprint


# Honest files


def parity(captured, module: nn.Module) -> None:
    def rows(points: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.stack([evaluate(captured, torch.from_numpy(p)).numpy() for p in points])

    shape = tuple(captured.source.example.shape)
    assert all(record.points for record in check_parity(captured.source.references, rows, shape))
    with torch.no_grad():
        x = torch.randn(captured.source.example.shape).to(captured.source.example.dtype)
        torch.testing.assert_close(evaluate(captured, x), module(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_plain_files(tmp_path, dtype) -> None:
    module = net().to(dtype)
    torch.export.save(torch.export.export(module, (torch.zeros(1, 4, dtype=dtype),)), tmp_path / "net.pt2")
    captured = capture(read(tmp_path / "net.pt2"))
    assert captured.source.format == "pt2"
    assert captured.source.example.dtype == dtype
    parity(captured, module)


def test_found_by_content(tmp_path) -> None:
    assert read(saved(tmp_path / "net.pt2").rename(tmp_path / "net.onnx")).format == "pt2"


def test_same_fingerprint_as_the_module(tmp_path) -> None:
    module = net()
    from_file = capture(read(saved(tmp_path / "net.pt2", module)))
    assert from_file.fingerprint == capture(read(module, input_shape=(1, 4))).fingerprint


@pytest.mark.parametrize(("low", "taken"), [(0, 1), (1, 1), (2, 2), (3, 3)])
def test_dynamic_batch_takes_its_lower_end(tmp_path, low, taken) -> None:
    module = net()
    batch = Dim("batch", min=low, max=9)
    source = read(saved(tmp_path / "net.pt2", module, (5, 4), dynamic_shapes=({0: batch},)))
    floor = max(taken, 1)
    assert source.example.shape[0] in (floor, 2 if low < 2 else floor)  # torch may specialise 0 and 1 away
    assert "lowest size" in source.warnings[0]
    parity(capture(source), module)


def test_dynamic_batch_by_hand(tmp_path) -> None:
    path = saved(tmp_path / "net.pt2", shape=(5, 4), dynamic_shapes=({0: Dim("batch", min=3, max=9)},))
    assert tuple(read(path, input_shape=(7, 4)).example.shape) == (7, 4)
    for shape in ((2, 4), (10, 4), (5, 3), (4,)):
        with pytest.raises(UsageError, match=r"the program admits \(3\.\.9, 4\)"):
            read(path, input_shape=shape)


def test_convolutions_with_dynamic_images(tmp_path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    sizes = ({2: Dim("height", min=8, max=64), 3: Dim("width", min=8, max=64)},)
    path = saved(tmp_path / "net.pt2", module, (1, 3, 16, 16), dynamic_shapes=sizes)
    assert tuple(read(path).example.shape) == (1, 3, 8, 8)
    captured = capture(read(path, input_shape=(1, 3, 12, 10)))
    parity(captured, module)


class Buffers(nn.Module):
    """Persistent, transient and lifted constants."""

    def __init__(self):
        super().__init__()
        self.register_buffer("a", torch.randn(4))
        self.register_buffer("b", torch.randn(4), persistent=False)
        self.shared = nn.Linear(4, 4)

    def forward(self, x):
        return self.shared(self.shared(x) * self.a) + self.b + torch.tensor([1.0, 2.0, 3.0, 4.0])


def test_constants_of_every_kind(tmp_path) -> None:
    module = Buffers().eval()
    parity(capture(read(saved(tmp_path / "net.pt2", module))), module)


class TwoOutputs(nn.Module):
    def forward(self, x):
        return 2 * x, 3 * x


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return x * y


def test_inputs_and_outputs(tmp_path) -> None:
    path = saved(tmp_path / "outputs.pt2", TwoOutputs())
    with pytest.raises(UsageError, match="2 outputs"):
        capture(read(path))
    captured = capture(read(path, output_name="1"))
    assert torch.equal(evaluate(captured, torch.ones(1, 4)), 3 * torch.ones(1, 4))
    torch.export.save(torch.export.export(TwoInputs(), (torch.zeros(1), torch.zeros(1))), tmp_path / "inputs.pt2")
    with pytest.raises(UsageError, match="its inputs are x, y"):
        read(tmp_path / "inputs.pt2")
    with pytest.raises(UsageError, match="--input-name z"):
        read(tmp_path / "inputs.pt2", input_name="z")


@pytest.mark.parametrize("module", [nn.Dropout(0.5).train(), nn.Sequential(nn.BatchNorm1d(4)).train()])
def test_exported_in_training_mode(tmp_path, module) -> None:
    with pytest.raises(RefusedModel, match=r"random|changed by every call"):
        capture(read(saved(tmp_path / "net.pt2", module, (2, 4))))


def test_integer_inputs(tmp_path) -> None:
    program = torch.export.export(nn.Embedding(4, 2), (torch.zeros(1, dtype=torch.long),))
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(RefusedModel, match="not real-valued"):
        read(tmp_path / "net.pt2")


@pytest.mark.parametrize("name", [MODEL, WEIGHTS, "data/weights/weight_0", "data/sample_inputs/model.pt"])
@pytest.mark.parametrize("how", ["gone", "empty", "cut"])
def test_damaged_members(tmp_path, name, how) -> None:
    def edit(members: dict[str, bytes]) -> None:
        if how == "gone":
            members.pop(name)
        else:
            members[name] = b"" if how == "empty" else members[name][: len(members[name]) // 2]

    path = rewritten(saved(tmp_path / "net.pt2"), tmp_path / "damaged.pt2", edit)
    if name.endswith("model.pt") and how == "gone":  # never loaded, so not missed
        assert read(path).format == "pt2"
        return
    with pytest.raises(LipcertError) as caught:
        capture(read(path))
    assert "\n" not in str(caught.value)


def test_old_and_foreign_archives(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("version", "5.1")
        archive.writestr("serialized_exported_program.json", "{}")
    with pytest.raises(UnreadableError, match=r"before 2\.8"):
        read(tmp_path / "old.pt2")
