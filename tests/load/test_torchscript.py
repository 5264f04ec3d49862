"""TorchScript: hostile files are refused before they are loaded, honest ones are traced whole."""

from __future__ import annotations

import contextlib
import io
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from captured import evaluate
from torch import Tensor, nn

from lipcert.load.capture.capture import capture, constants
from lipcert.load.capture.parity import check_parity
from lipcert.load.foreign import read_file
from lipcert.load.read import read
from lipcert.terms.errors import LipcertError, RefusedModel, UnreadableError, UsageError

# file of ../shared/bad -> (error, words of its message); no shape is given where the file cannot need one
REFUSED = {
    "81_zip_pickle_malicious.pt": (UnreadableError, "pickled.*export"),
    "82_torchsave_malicious.pt": (UnreadableError, "pickled.*export"),
    "84_empty_zip.pt": (UnreadableError, "empty zip"),
    "85_zero_bytes.pt": (UnreadableError, "empty"),
    "87_zip_slip.pt": (UnreadableError, "points outside"),
    "91_truncated_script.pt": (UnreadableError, "truncated"),
    "93_pickled_module.pt": (UnreadableError, r"torch\.onnx\.export"),
    "94_ts_writes_file.pt": (RefusedModel, "reads or writes files"),
    "97_ts_stateful.pt": (UsageError, "n: changed by every call"),
    "99_ts_infinite_loop.pt": (RefusedModel, "stopped after the 3 s"),
    "A0_ts_huge_alloc.pt": (RefusedModel, "more than the"),
    "A2_ts_branch.pt": (RefusedModel, "branches on"),
    "A5_ts_dropout_train.pt": (RefusedModel, "random"),
    "A6_ts_two_inputs.pt": (UsageError, "its inputs are x, y"),
}
# file -> what it computes at x
READ = {
    "88_onnx_renamed.pt": None,
    "90_good_script.pt": None,
    "96_ts_prints.pt": lambda x: 3 * x,
    "A3_ts_detach.pt": lambda x: 101 * x,
    "A8_ts_inplace_input.pt": lambda x: 2 * x,
    "A9_ts_no_input_shape.pt": None,
}
# file of ../shared/models -> (shape to give or None, error or None)
MODELS = {
    "go1_actuator_net.pt": (None, None),
    "openmm_central.pt": ((5, 3), None),
    "rlsar_g1_dance102_policy.pt": (None, None),
    "rlsar_go2_robot_lab_policy.pt": (None, None),
    "silero_vad.jit.pt": ((1, 512), (UsageError, "what sr, _state, _context are held at")),
    "unitree_g1_motion.pt": ((1, 47), (UsageError, "hidden_state, cell_state: changed by every call")),
}


def saved(module: nn.Module, path: Path) -> Path:
    torch.jit.script(module).save(str(path))
    return path


def parity(captured) -> None:
    """Against every reference if the captured graph can be promoted to float64, else against the one in its dtype."""
    references, dtype = captured.source.references, captured.source.example.dtype
    fixed = any(isinstance(part, torch.dtype) for node in captured.program.graph.nodes for part in node.kwargs.values())
    if not fixed:
        dtype = torch.float64

    def rows(points: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.stack([evaluate(captured, torch.from_numpy(p.copy()).to(dtype)).double().numpy() for p in points])

    records = check_parity(references[:1] if fixed else references, rows, tuple(captured.source.example.shape))
    assert len(records) in (4, 8)
    assert all(record.points for record in records)


@pytest.mark.parametrize("name", REFUSED)
def test_bad_files(shared, name) -> None:
    kind, words = REFUSED[name]
    with pytest.raises(kind, match=words) as caught:
        read_file(shared / "bad" / name, input_shape=(1, 4), seconds=3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", READ)
def test_odd_files(shared, name) -> None:
    captured = capture(read(shared / "bad" / name, input_shape=(1, 4)))
    if READ[name] is not None:
        x = torch.randn(1, 4)
        assert torch.allclose(evaluate(captured, x.clone()), READ[name](x))
    if captured.source.format == "torchscript":
        parity(captured)


def test_every_bad_script_has_a_row(shared) -> None:
    assert {path.name for path in (shared / "bad").glob("*.pt")} == set(REFUSED) | set(READ)
    assert {path.name for path in (shared / "models").glob("*.pt")} == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_models(shared, name) -> None:
    shape, refused = MODELS[name]
    if refused is None:
        parity(capture(read(shared / "models" / name, input_shape=shape)))
        return
    with pytest.raises(refused[0], match=refused[1]):
        capture(read(shared / "models" / name, input_shape=shape))


def test_torchscript_is_found_by_content(shared) -> None:
    assert read(shared / "bad" / "89_torchscript_renamed.onnx", input_shape=(1, 4)).format == "torchscript"


def test_missing_files_and_folders(tmp_path) -> None:
    for path in (tmp_path / "absent.pt", tmp_path):
        with pytest.raises(UnreadableError) as caught:
            read(path)
        assert "\n" not in str(caught.value)


# The input shape


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


def test_shape_is_taken_from_a_first_linear_layer_and_said(tmp_path) -> None:
    source = read(saved(Net(), tmp_path / "net.pt"))
    assert tuple(source.example.shape) == (1, 4)
    assert "input shape (1, 4) taken from first.weight" in source.warnings[0]


class Sum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


class Twice(nn.Module):
    """The input is used twice: the linear layer alone does not fix the shape."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + x.sum()


@pytest.mark.parametrize("module", [Sum(), Twice(), nn.Sequential(nn.Conv2d(3, 4, 3))])
def test_shape_is_asked_for(tmp_path, module) -> None:
    with pytest.raises(UsageError, match="--input-shape"):
        read(saved(module, tmp_path / "net.pt"))


# Names, dtypes, kinds of layers


def test_names_of_parameters_survive(tmp_path) -> None:
    captured = capture(read(saved(Net(), tmp_path / "net.pt")))
    names = {name.removeprefix("b_") for name in constants(captured.program)}
    assert names == {"first_weight", "first_bias", "last_weight", "last_bias"}


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


@pytest.mark.every(3)
@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)), (1, 2, 6, 6)),
        (nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), nn.GELU()), (1, 2, 6, 6)),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Dropout(), nn.Softmax(-1)), (1, 4)),
        (nn.Sequential(nn.Upsample(scale_factor=2.0, mode="bilinear"), nn.PReLU()), (1, 2, 3, 3)),
        (Recurrent(), (1, 3, 4)),
        (Net().double(), (1, 4)),
        (Net().half(), (1, 4)),
        (Net().bfloat16(), (1, 4)),
    ],
    ids=["convolutional", "circular", "normalising", "upsampling", "lstm", "float64", "float16", "bfloat16"],
)
def test_scripted_and_traced_modules_agree_with_themselves(tmp_path, module, shape) -> None:
    module.eval()
    parity(capture(read(saved(module, tmp_path / "scripted.pt"), input_shape=shape)))
    example = torch.zeros(shape, dtype=next(module.parameters()).dtype)
    torch.jit.trace(module, example).save(str(tmp_path / "traced.pt"))
    parity(capture(read(tmp_path / "traced.pt", input_shape=shape)))


def test_modules_saved_in_training_mode_are_read_in_eval_mode(tmp_path) -> None:
    path = saved(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train(), tmp_path / "net.pt")
    parity(capture(read(path, input_shape=(1, 4))))


class TwoOutputs(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"twice": 2 * x, "thrice": 3 * x}


def test_outputs_are_chosen_by_name(tmp_path) -> None:
    path = saved(TwoOutputs(), tmp_path / "net.pt")
    with pytest.raises(UsageError, match=r"several outputs.*twice.*thrice"):
        read(path, input_shape=(1, 4))
    captured = capture(read(path, input_shape=(1, 4), output_name="thrice"))
    assert torch.equal(evaluate(captured, torch.ones(1, 4)), 3 * torch.ones(1, 4))
    parity(captured)


class WithDefault(nn.Module):
    def forward(self, x: Tensor, scale: float = 3.0) -> Tensor:
        return scale * x


class Second(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y


def test_inputs(tmp_path) -> None:
    captured = capture(read(saved(WithDefault(), tmp_path / "default.pt"), input_shape=(1, 4)))
    assert torch.equal(evaluate(captured, torch.ones(1, 4)), 3 * torch.ones(1, 4))
    path = saved(Second(), tmp_path / "two.pt")
    with pytest.raises(UsageError, match="its inputs are x, y"):
        read(path, input_shape=(1, 4))
    with pytest.raises(UsageError, match="what y is held at"):
        read(path, input_shape=(1, 4), input_name="x")
    with pytest.raises(UsageError, match="--input-name z"):
        read(path, input_shape=(1, 4), input_name="z")


# State that no buffer shows


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class Lists(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen: list[float] = [1.0]

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(2.0)
        return x * float(len(self.seen))


class Words(nn.Module):
    """10 x at every call but the first."""

    def __init__(self):
        super().__init__()
        self.mode = "first"

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "first":
            self.mode = "later"
            return x
        return 10 * x


class Later(nn.Module):
    """5 x at every call but the first."""

    def __init__(self):
        super().__init__()
        self.kept = torch.jit.Attribute(None, Tensor | None)

    def forward(self, x: Tensor) -> Tensor:
        kept = self.kept
        if kept is None:
            self.kept = torch.full((4,), 5.0)
            return x
        return kept * x


class Within(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = Words()

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x)


@pytest.mark.parametrize("module", [Counts(), Lists(), Words(), Later(), Within()], ids=lambda m: type(m).__name__)
def test_state_in_attributes(tmp_path, module) -> None:
    with pytest.raises(RefusedModel, match="not a function of its input"):
        read(saved(module, tmp_path / "net.pt"), input_shape=(1, 4))


# Numbers taken out of data


class ToList(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        values: list[float] = x.flatten().tolist()
        return x * values[0]


class Item(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * float(x.sum())


class Shape(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0]


class While(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while bool(x.sum() < 10):
            x = x * 2 + 1
        return x


@pytest.mark.parametrize("module", [ToList(), Item(), Shape(), While()])
def test_values_of_data_are_never_baked_in(tmp_path, module) -> None:
    with pytest.raises(RefusedModel):
        capture(read(saved(module, tmp_path / "net.pt"), input_shape=(1, 4)))


class Stored(nn.Module):
    """A branch on a stored number: harmless, yet it cannot be told from one on data."""

    def __init__(self):
        super().__init__()
        self.register_buffer("w", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        if bool(self.w.sum() > 0):
            return 2 * x
        return 3 * x


def test_branch_on_a_stored_number_is_not_guessed(tmp_path) -> None:
    with pytest.raises(RefusedModel, match="branches on"):
        read(saved(Stored(), tmp_path / "net.pt"), input_shape=(1, 4))


# Hostile archives of our own


class RunsAtLoad(nn.Module):
    def __init__(self):
        super().__init__()
        self.k = 1

    @torch.jit.export
    def __getstate__(self) -> int:
        return self.k

    @torch.jit.export
    def __setstate__(self, k: int) -> None:
        self.k = k
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        return x * self.k


class FromFile(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.from_file("/tmp/pwned_lipcert", shared=True, size=4)


class Seeds(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return x


@pytest.mark.parametrize(
    ("module", "words"), [(RunsAtLoad(), "when loaded"), (FromFile(), "files"), (Seeds(), "state of torch")]
)
def test_forbidden_code(tmp_path, module, words) -> None:
    with pytest.raises(RefusedModel, match=words):
        read(saved(module, tmp_path / "net.pt"), input_shape=(1, 4))


class Touch:
    def __reduce__(self):
        return (open, ("/tmp/pwned_lipcert", "w"))


def changed(path: Path, target: Path, **members: bytes) -> Path:
    """A copy of an archive with members replaced (`data_pkl` for data.pkl) or added."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        prefix = old.namelist()[0].split("/")[0]
        replaced = {f"{prefix}/{name.replace('_', '.')}": data for name, data in members.items()}
        for name in old.namelist():
            new.writestr(name, replaced.pop(name, None) or old.read(name))
        for name, data in replaced.items():
            new.writestr(name, data)
    return target


@pytest.mark.parametrize("member", ["data_pkl", "constants_pkl"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_pickles_inside(tmp_path, member, protocol) -> None:
    path = saved(Net(), tmp_path / "net.pt")
    hostile = changed(path, tmp_path / "hostile.pt", **{member: pickle.dumps(Touch(), protocol)})
    with pytest.raises(UnreadableError, match=r"when loaded|opcode"):
        read(hostile, input_shape=(1, 4))


def test_the_scan_above_lets_honest_pickles_through(tmp_path) -> None:
    assert read(changed(saved(Net(), tmp_path / "net.pt"), tmp_path / "same.pt")).format == "torchscript"


def test_archives_that_two_readers_read_differently(tmp_path) -> None:
    path = saved(Net(), tmp_path / "net.pt")
    twice = changed(path, tmp_path / "twice.pt", DATA_PKL=b"x")
    with pytest.raises(UnreadableError, match="twice"):
        read(twice)
    shutil.copy(path, tmp_path / "tail.pt")
    with open(tmp_path / "tail.pt", "ab") as file:
        file.write(b"PK tail")
    with pytest.raises(UnreadableError, match="zip"):
        read(tmp_path / "tail.pt")


@pytest.mark.parametrize("name", ["../up", "/abs", "a/../../up", "C:/x", "..\\up"])
def test_members_that_climb(tmp_path, name) -> None:
    with zipfile.ZipFile(tmp_path / "slip.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"x")
        archive.writestr(name, b"x")
    with pytest.raises(UnreadableError, match="outside the archive"):
        read(tmp_path / "slip.pt")


def test_a_bomb_is_not_unpacked(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/constants.pkl", b"\x80\x02).")
        archive.writestr("a/version", "10")
        archive.writestr("a/data.pkl", b"\x80\x02).")
        archive.writestr("a/code/__torch__/x.py", b" " * 100 * 2**20)
    with pytest.raises(UnreadableError, match="bytes; at most"):
        read(tmp_path / "bomb.pt", input_shape=(1, 4))


def test_damaged_members(tmp_path) -> None:
    path = saved(Net(), tmp_path / "net.pt")
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for trial in range(12):  # wherever a bit flips, the answer is a LipcertError or a model, never a traceback
        broken = bytearray(data)
        for place in rng.integers(0, len(data), 20):
            broken[place] ^= 1 << int(rng.integers(8))
        (tmp_path / f"{trial}.pt").write_bytes(broken)
        with contextlib.suppress(LipcertError):
            read_file(tmp_path / f"{trial}.pt", input_shape=(1, 4), seconds=5)


def test_legacy_pickles_and_text(tmp_path) -> None:
    torch.save(Net().state_dict(), tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Touch()))
    (tmp_path / "text.pt").write_text("hello, this is not a model\n")
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    for name, words in [("legacy", "export"), ("pickle", "export"), ("text", "neither"), ("zip", "neither")]:
        with pytest.raises(UnreadableError, match=words):
            read(tmp_path / f"{name}.pt")


def test_state_dicts(tmp_path) -> None:
    buffer = io.BytesIO()
    torch.save(Net().state_dict(), buffer)
    (tmp_path / "state.pt").write_bytes(buffer.getvalue())
    with pytest.raises(UnreadableError, match=r"state dict.*torch\.onnx\.export"):
        read(tmp_path / "state.pt")
