"""Smoothness while a network trains: what loggers are given, a plain loop, TensorBoard and Lightning; a track that goes on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from two import run, two

import lipcert
from lipcert.tasks import track as task
from lipcert.tasks.training import Smoothness, lightning_callback, to_mlflow, to_tensorboard, to_wandb
from lipcert.terms.errors import UsageError

NEEDED = "pip install '.[loggers]' into an environment of its own: what the callback gives this logger was NOT tried"


def growing() -> nn.Sequential:
    """x -> relu(x) in two dimensions; `grow` makes its constant k."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    grow(net, 1.0)
    return net


def grow(net: nn.Sequential, k: float) -> None:
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2))
        net[2].weight.copy_(k * torch.eye(2))


def test_a_plain_loop() -> None:
    logged: list[tuple[int, dict[str, float]]] = []
    x, y = torch.tensor([[1.0, 0.5], [0.5, 1.0]]), [0, 1]
    watch = Smoothness(example=x, every=2, x=x, y=y, log=lambda values, step: logged.append((step, values)))
    net = growing()
    net.train()
    for step in range(5):
        grow(net, step + 1.0)
        found = watch(net, 10 * step)
        assert (found is None) == bool(step % 2)
    assert [step for step, _ in logged] == [0, 20, 40]
    for step, values in logged:
        k = step / 10 + 1
        assert values["lipcert/lower"] <= k <= values["lipcert/upper"] <= k * 1.001
        assert values["lipcert/accuracy"] == 1.0
        assert values["lipcert/jacobian/median"] == pytest.approx(k)
        assert all(type(value) is float and math.isfinite(value) for value in values.values())
    assert [row["step"] for row in watch.rows] == [0, 20, 40]
    assert net.training  # left as it was
    assert all(weight.requires_grad and weight.grad is None for weight in net.parameters())


def test_a_network_without_a_bound_is_not_a_crash() -> None:
    class Square(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x

    watch = Smoothness(example=torch.ones(1, 2))
    values = watch(Square()) or {}
    assert "upper" not in values
    assert watch.refusal


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason=NEEDED)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        watch = Smoothness(example=torch.ones(1, 2), methods=("product",), log=to_tensorboard(writer))
        watch(growing(), 7)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (event,) = events.Scalars("lipcert/upper")
    assert (event.step, event.value) == (7, pytest.approx(1.0, rel=1e-5))


def watching(log: object) -> Smoothness:
    return Smoothness(example=torch.ones(1, 2), methods=("product",), log=log)  # type: ignore[arg-type]


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = pytest.importorskip("mlflow", reason=NEEDED)
    pytest.importorskip("sqlalchemy", reason=NEEDED)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    with mlflow.start_run() as run:
        watching(to_mlflow())(growing(), 7)
    named = mlflow.MlflowClient().create_run("0")
    watching(to_mlflow(named.info.run_id))(growing(), 8)  # a run that is not the active one
    for one, step in ((run, 7), (named, 8)):
        (metric,) = mlflow.MlflowClient().get_metric_history(one.info.run_id, "lipcert/upper")
        assert (metric.step, metric.value) == (step, pytest.approx(1.0, rel=1e-5))


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DATA_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    wandb = pytest.importorskip("wandb", reason=NEEDED)
    run = wandb.init(project="lipcert", dir=tmp_path)
    watch = watching(to_wandb(run))
    watch(growing(), 7)
    watch(growing(), 9)
    run.finish()
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    kept = file.read_bytes()  # records of names and of values as JSON
    assert kept.count(b"lipcert/upper") >= 2
    assert kept.count(repr(watch.rows[0]["upper"]).encode()) >= 2


def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch", reason=NEEDED)
    from lightning.pytorch.loggers import CSVLogger

    class Net(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = growing()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

        def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
            return self(batch).square().sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    watch = Smoothness(example=torch.ones(1, 2), methods=("product",))
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    logger = CSVLogger(tmp_path)
    given: dict[str, Any] = {"max_epochs": 2, "accelerator": "cpu", "logger": logger, **quiet}
    trainer = lightning.Trainer(callbacks=[lightning_callback(watch)], **given)
    trainer.fit(Net(), torch.utils.data.DataLoader(torch.ones(2, 2), batch_size=1))
    assert [row["step"] for row in watch.rows] == [2, 4]
    assert watch.rows[-1]["upper"] == pytest.approx(1.0, rel=1e-5)
    assert "lipcert/upper" in (Path(logger.log_dir) / "metrics.csv").read_text()


def test_a_track_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Checkpoints of an earlier report are not measured again; changed rows, other weights and other questions are."""
    folder, out = tmp_path / "runs", tmp_path / "t.json"
    folder.mkdir()
    for step in (1, 2):
        two(folder, float(step + 1)).rename(folder / f"step_{step}.onnx")
    asked = ("track", folder, "--method", "product", "--json", out)
    assert run(*asked) == 0
    first = json.loads(out.read_text())["summary"]["track"]["checkpoints"]
    two(folder, 9.0).rename(folder / "step_3.onnx")
    measured: list[str] = []
    real = task.measured
    monkeypatch.setattr(task, "measured", lambda model, inquiry: (measured.append(model.name), real(model, inquiry))[1])
    assert run(*asked, "--resume", out) == 0
    assert measured == ["step_3.onnx"]
    assert "2 checkpoints are taken from" in " ".join(capsys.readouterr().out.split())
    rows = json.loads(out.read_text())["summary"]["track"]["checkpoints"]
    assert [row["upper"] for row in rows[:2]] == [row["upper"] for row in first]
    data = json.loads(out.read_text())
    data["summary"]["track"]["checkpoints"][0]["upper"] = 0.5  # planted: a smaller constant
    out.write_text(json.dumps(data))
    two(folder, 5.0).rename(folder / "step_2.onnx")  # and other weights under an old name
    measured.clear()
    assert run(*asked, "--resume", out) == 0
    assert measured == ["step_1.onnx", "step_2.onnx"]
    assert run(*asked, "--norm", "1", "--resume", out) == 2  # another question
    with pytest.raises(UsageError, match="another question"):
        lipcert.track(folder, methods=["product", "absolute"], resume=out)
