"""The shipped models are what `examples/train.py` says, in both formats, and the script runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
WIDTHS = {"two_moons": (2, 100, 100, 100, 1), "digits": (64, 64, 32, 10)}


@pytest.fixture(scope="module")
def train() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train", EXAMPLES / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def outputs(folder: Path, name: str, x: torch.Tensor) -> dict[str, np.ndarray]:
    """(k, outputs) of the ONNX file and of the TorchScript file, row by row."""
    session = onnxruntime.InferenceSession(str(folder / f"{name}.onnx"))
    script = torch.jit.load(folder / f"{name}.pt")
    with torch.no_grad():
        return {
            "onnx": np.concatenate([session.run(None, {"x": row[None].numpy()})[0] for row in x]),
            "script": torch.cat([script(row[None]) for row in x]).numpy(),
        }


def assert_parity(folder: Path, name: str, model: torch.nn.Module) -> None:
    x = torch.randn(16, WIDTHS[name][0]) * torch.logspace(-2, 1, 16)[:, None]
    expected = model(x).detach().numpy()
    for got in outputs(folder, name, x).values():
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def shipped(train: ModuleType, name: str) -> torch.nn.Module:
    model = train.mlp(*WIDTHS[name])
    model.load_state_dict(torch.jit.load(EXAMPLES / f"{name}.pt").state_dict())
    return model.eval()


@pytest.mark.parametrize("name", WIDTHS)
def test_both_files_are_the_same_network(train: ModuleType, name: str) -> None:
    assert_parity(EXAMPLES, name, shipped(train, name))


def test_parity_can_fail(train: ModuleType) -> None:
    model = shipped(train, "digits")
    with torch.no_grad():
        model[0].weight[0, 0] += 0.1
    with pytest.raises(AssertionError, match="tolerance"):
        assert_parity(EXAMPLES, "digits", model)


@pytest.mark.parametrize("name", WIDTHS)
def test_onnx_file_is_whole_and_says_nothing_of_the_machine(name: str) -> None:
    file = onnx.load(EXAMPLES / f"{name}.onnx", load_external_data=False)
    onnx.checker.check_model(file)
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in file.graph.initializer)
    for secret in (b"/home/", b"/root/", b"site-packages"):
        assert secret not in (EXAMPLES / f"{name}.onnx").read_bytes()


def test_digits_samples(train: ModuleType) -> None:
    data = np.load(EXAMPLES / "digits_test.npz")
    assert (data["x"].shape, data["y"].shape) == ((360, 64), (360,))
    assert (data["x"].min(), data["x"].max()) == (0.0, 1.0)
    predicted = shipped(train, "digits")(torch.tensor(data["x"])).argmax(1).numpy()
    assert (predicted == data["y"]).mean() > 0.94


def test_small_enough_to_ship() -> None:
    assert sum(file.stat().st_size for file in EXAMPLES.iterdir() if file.is_file()) < 500_000


def test_the_script_runs(train: ModuleType, tmp_path: Path) -> None:
    train.main(tmp_path)  # ends in asserts on the accuracy
    made = {file.name for file in tmp_path.iterdir()}
    assert made == {"two_moons.onnx", "two_moons.pt", "digits.onnx", "digits.pt", "digits_test.npz"}
    fresh = train.mlp(*WIDTHS["digits"])
    fresh.load_state_dict(torch.jit.load(tmp_path / "digits.pt").state_dict())
    assert_parity(tmp_path, "digits", fresh)
