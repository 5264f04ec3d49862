"""`lipcert track`: which files, in which order, and what a row says; a training in small."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import lipcert
from lipcert.cli.main import main
from lipcert.report.sections.track import linear_layers
from lipcert.tasks.checkpoints import natural, series_of
from lipcert.terms.errors import UnreadableError, UsageError


def touched(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


# Which files


def test_natural_order() -> None:
    names = ["step_10.pt", "step_9.pt", "a", "Step_1.pt", "1a", "10", "9"]
    assert sorted(names, key=natural) == ["1a", "9", "10", "a", "Step_1.pt", "step_9.pt", "step_10.pt"]


def test_folders_and_patterns_are_series(tmp_path: Path) -> None:
    one = touched(tmp_path / "lr0.1", "step_100.pt", "step_20.pt", "notes.txt", "step_3.ONNX")
    two = touched(tmp_path / "lr0.01", "b.pt", "a.pt")
    first, second, third = series_of([one, str(two / "*.pt"), two / "a.pt"])
    assert [file.name for file in first.files] == ["a.pt"]  # single files come first, as one series
    assert (second.name, second.steps) == ("lr0.1", (3, 20, 100))
    assert [file.name for file in second.files] == ["step_3.ONNX", "step_20.pt", "step_100.pt"]
    assert [file.name for file in third.files] == ["a.pt", "b.pt"]
    assert third.steps == (0, 1)


def test_steps_are_counted_where_the_names_do_not_count(tmp_path: Path) -> None:
    folder = touched(tmp_path / "s", "x_1_of_3.pt", "x_2_of_3.pt")
    assert series_of([folder])[0].steps == (0, 1)
    assert len(series_of([folder / "x_1_of_3.pt", folder / "x_1_of_3.pt"])[0].files) == 1


def test_a_file_that_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    folder = touched(tmp_path / "s", "a[1].pt", "a1.pt")
    assert [file.name for file in series_of([folder / "a[1].pt"])[0].files] == ["a[1].pt"]


def test_nothing_to_track(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="no model files"):
        series_of([touched(tmp_path / "s", "notes.txt")])
    with pytest.raises(UnreadableError, match="no file has such a name"):
        series_of([tmp_path / "*.pt"])
    with pytest.raises(UnreadableError, match="no such file"):
        series_of([tmp_path / "none.pt"])
    with pytest.raises(UsageError, match="give checkpoints"):
        lipcert.track([])


# What a row says


def written(path: Path, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray]) -> None:
    """An ONNX file 1x2 -> 1x2."""
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, 2)) for name in "xy"]
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x -> step relu(x), its constant growing with the step; one file is damaged, one jumps."""
    folder = tmp_path_factory.mktemp("runs")
    nodes = [
        helper.make_node("MatMul", ["x", "A"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("MatMul", ["b", "B"], ["y"], "last"),
    ]
    for step in (1, 10):
        written(folder / f"step_{step}.onnx", nodes, {"A": np.eye(2), "B": step * np.eye(2)})
    (folder / "step_11.onnx").write_bytes(b"no model")
    written(folder / "step_12.onnx", [helper.make_node("Floor", ["x"], ["y"])], {})
    return folder


def test_a_training_in_small(runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    x, y = np.array([[1.0, 0.5], [0.5, 1.0], [2.0, 1.0]]), np.array([0, 1, 1])
    np.savez(tmp_path / "d.npz", x=x, y=y)
    command = ["track", str(runs), "--data", str(tmp_path / "d.npz"), "--json", str(tmp_path / "t.json")]
    command += ["--plot", str(tmp_path / "t.svg")]
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert not stopped.value.code
    out = capfd.readouterr().out
    rows = json.loads((tmp_path / "t.json").read_text())["summary"]["track"]["checkpoints"]
    assert [row["step"] for row in rows] == [1, 10, 11, 12]
    for row in rows[:2]:
        assert row["lower"] <= row["step"] <= row["upper"] <= row["step"] * 1.001
        assert row["jacobian"]["median"] == pytest.approx(row["step"])
        assert row["accuracy"] == pytest.approx(2 / 3)
    assert len(linear_layers(rows)) == 2
    assert [row["status"] for row in rows] == ["bounded"] * 2 + ["unreadable", "unbounded"]
    assert all(row["reason"] for row in rows[2:])
    assert "unreadable: " in out
    assert "66.7 %" in out
    assert (tmp_path / "t.svg").read_text().count("<path") > 10


def test_a_checkpoint_that_is_written_while_it_is_measured(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row is of the file that was read, and says so: a training writes `last` again and again."""
    from lipcert.tasks import track as task

    last, measured = tmp_path / "last.onnx", task.measured
    last.write_bytes((runs / "step_1.onnx").read_bytes())

    def meanwhile(*given: object) -> dict[str, object]:
        last.write_bytes((runs / "step_10.onnx").read_bytes())
        return measured(*given)

    monkeypatch.setattr(task, "measured", meanwhile)
    (row,) = lipcert.track(last, methods=["product"]).summary["track"]["checkpoints"]
    assert row["upper"] == pytest.approx(1.0)
    assert row["sha256"] == hashlib.sha256((runs / "step_1.onnx").read_bytes()).hexdigest()


def test_nothing_bounded_is_exit_3(runs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["track", str(runs / "step_12.onnx"), "--method", "product"])
    assert stopped.value.code == 3


def test_an_interrupted_track_keeps_its_rows(runs: Path) -> None:
    from lipcert import track

    def stop(text: str, done: float | None = None, total: float | None = None) -> None:
        if text.endswith("step_10.onnx"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        track(runs, methods=["product"], progress=stop)
    found = stopped.value.partial_report.summary["track"]
    assert [row["step"] for row in found["checkpoints"]] == [1]
    assert not found["complete"]
