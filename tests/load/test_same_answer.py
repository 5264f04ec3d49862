"""Two runs of one file give one report, apart from times: processes of their own, other hash seeds, other folders of work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lipcert import load
from lipcert.terms.errors import UnreadableError

TIMES = ("created", "seconds")
MOONS = Path(__file__).resolve().parents[2] / "examples" / "two_moons.onnx"
COMMANDS: dict[str, tuple[str, ...]] = {
    "bound": ("--method", "product", "--method", "absolute", "--method", "sampled"),
    "layers": (),
    "inspect": (),
}


def answer(command: str, path: Path, folder: Path, seed: int) -> tuple[int, Any, list[str]]:
    """Exit status, report without times, and the lines of an error."""
    folder.mkdir(exist_ok=True)
    target = folder / "r.json"
    shape = ["--input-shape", "1,784"] if path.suffix == ".pt" else []
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "lipcert",
            command,
            str(path),
            *shape,
            *COMMANDS[command],
            "--json",
            str(target),
            "--quiet",
        ],
        env={**os.environ, "PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": str(1 + seed % 2)},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    found = json.loads(target.read_text()) if target.exists() else None
    target.unlink(missing_ok=True)
    return run.returncode, timeless(found), run.stderr.splitlines()


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in TIMES}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def same(command: str, path: Path, folder: Path) -> int:
    first, second = (answer(command, path, folder / str(seed), seed) for seed in (1, 2))
    assert first == second, f"{command} {path.name}"
    return first[0]


def test_one_file_one_answer(tmp_path: Path) -> None:
    assert same("bound", MOONS, tmp_path) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bad", "models"])
def test_every_file_one_answer(shared: Path, tmp_path: Path, kind: str) -> None:
    for path in sorted((shared / kind).iterdir()):
        if path.suffix in (".onnx", ".pt", ".pt2") and path.stat().st_size < 2_000_000:
            for command in COMMANDS if kind == "models" else ("bound",):
                same(command, path, tmp_path)


def test_times_alone_are_left_out() -> None:
    assert timeless({"a": [{"seconds": 1, "b": 2}], "created": 3}) == {"a": [{"b": 2}]}


def test_a_file_that_is_written_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hash is taken at the end: it would be that of another network."""
    from lipcert.load import model

    file, lower = tmp_path / "m.onnx", model.lower
    file.write_bytes(MOONS.read_bytes())

    def meanwhile(*given: Any, **named: Any) -> Any:
        file.write_bytes((MOONS.parent / "digits.onnx").read_bytes())
        return lower(*given, **named)

    monkeypatch.setattr(model, "lower", meanwhile)
    with pytest.raises(UnreadableError, match="while it was read"):
        load(file)
