"""Every file of shared/bad through the command line: exit status, words, values; no traceback, no code run, no result.

`EXPECT` is bad.json's `expect` column as a table. In one process, but for files that try to hang or fill memory.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import forked
import pytest
from conftest import FOOTPRINTS
from thorough import FULL

from lipcert.cli.main import main
from lipcert.load.read import read


@dataclass(frozen=True)
class Expected:
    """`statuses`: allowed exit statuses. `words`: all must be on stderr. `upper`: range of the proved value, if any."""

    statuses: tuple[int, ...]
    words: tuple[str, ...] = ()
    upper: tuple[float, float] | None = None
    alone: bool = False  # in a process of its own, with a limit of time and memory


UNREADABLE = (2,)
REFUSED = (3,)
EITHER = (2, 3)
CONTROL = (3.2, 3.4)
SCRIPT = (0.7, 0.8)


def value(low: float, high: float, *words: str) -> Expected:
    return Expected((0,), words, (low, high))


# What a file's code may take, which it does take to the end: by default a thirtieth of it.
SECONDS = 60 if FULL else 2

EXPECT: dict[str, Expected] = {
    "00_good_mlp.onnx": value(*CONTROL),
    "01_empty.onnx": Expected(UNREADABLE, ("empty",)),
    "03_text_renamed.onnx": Expected(UNREADABLE, ("neither ONNX",)),
    "04_truncated_half.onnx": Expected(UNREADABLE),
    "06_bitflips.onnx": Expected(EITHER),
    "07_nan_weight.onnx": Expected(REFUSED, ("W1", "NaN")),
    "09_huge_weights.onnx": value(1e50, 1e51),
    "10_subnormal_weights.onnx": value(1e-60, 1e-59),
    "12_ext_absolute.onnx": Expected(UNREADABLE, ("W1", "relative")),
    "13_ext_missing.onnx": Expected(UNREADABLE, ("13_does_not_exist.bin", "missing")),
    "14_ext_short.onnx": Expected(UNREADABLE, ("14_ext_short.bin",)),
    "15_ext_negative_offset.onnx": Expected(UNREADABLE, ("offset",)),
    "17_cyclic.onnx": Expected(UNREADABLE, ("cycle",)),
    "18_undefined_input.onnx": Expected(UNREADABLE, ("nowhere",)),
    "20_output_not_made.onnx": Expected(UNREADABLE, ("output",)),
    "21_no_nodes.onnx": value(1.0, 1.0 + 1e-9),
    "23_constant_output.onnx": value(0.0, 0.0),
    "24_shape_mismatch.onnx": Expected(UNREADABLE, ("Gemm",)),
    "26_negative_dim.onnx": Expected(UNREADABLE, ("negative",)),
    "27_huge_shape_no_data.onnx": Expected(UNREADABLE, alone=True),
    "29_expand_bomb.onnx": Expected(EITHER, ("Expand",), alone=True),
    "32_recursive_function.onnx": Expected(UNREADABLE, ("calls itself",), alone=True),
    "33_local_function.onnx": value(2.0, 2.0 + 1e-9),
    "35_symbolic_all.onnx": Expected(UNREADABLE, ("--input-shape",)),
    "36_no_shape.onnx": Expected(UNREADABLE, ("--input-shape",)),
    "38_int_input.onnx": Expected(REFUSED, ("not real-valued",)),
    "39_uint8_cast_input.onnx": Expected(REFUSED, ("not real-valued",)),
    "41_if.onnx": Expected(REFUSED, ("If",)),
    "42_loop.onnx": Expected(REFUSED, ("Loop",)),
    "44_custom_domain.onnx": Expected(EITHER, ("FancyAct", "com.acme")),
    "45_unknown_op.onnx": Expected(EITHER, ("Reluu",)),
    "47_ir_999.onnx": Expected(UNREADABLE, ("999",)),
    "48_opset_1.onnx": value(1.0, 1.0 + 1e-9),
    "50_float16.onnx": value(*CONTROL),
    "51_float64.onnx": value(*CONTROL),
    "53_mixed_cast_fp16.onnx": value(1.0, 1.0 + 1e-9),
    "54_dropout_train.onnx": Expected(REFUSED, ("random",)),
    "56_random_normal.onnx": Expected(REFUSED, ("random",)),
    "57_sqrt.onnx": Expected(REFUSED),
    "59_exp.onnx": Expected(REFUSED),
    "60_floor.onnx": Expected(REFUSED),
    "62_sign.onnx": Expected(REFUSED),
    "63_where_step.onnx": Expected(REFUSED),
    "65_log.onnx": Expected(REFUSED),
    "66_l2norm.onnx": Expected(REFUSED),
    "68_qdq.onnx": Expected(REFUSED, ("Quantize",)),
    "69_needle.onnx": value(1e5, 1e6),
    "71_unused_big_branch.onnx": value(1.0, 1.0 + 1e-9),
    "72_hostile_names.onnx": value(1.0, 1.0 + 1e-9),
    "74_complex_input.onnx": Expected(EITHER, ("not real-valued",)),
    "75_sequence_output.onnx": Expected(EITHER, ("sequence",)),
    "77_state_input.onnx": Expected(EITHER, ("choose one",)),
    "78_name_injection.onnx": value(1.0, 1.0 + 1e-9),
    "81_zip_pickle_malicious.pt": Expected(EITHER),
    "82_torchsave_malicious.pt": Expected(EITHER),
    "84_empty_zip.pt": Expected(UNREADABLE, ("empty",)),
    "85_zero_bytes.pt": Expected(UNREADABLE, ("empty",)),
    "87_zip_slip.pt": Expected(EITHER, ("outside",)),
    "88_onnx_renamed.pt": value(*CONTROL),
    "89_torchscript_renamed.onnx": value(*SCRIPT),
    "90_good_script.pt": value(*SCRIPT),
    "91_truncated_script.pt": Expected(UNREADABLE),
    "93_pickled_module.pt": Expected(EITHER, ("export",)),
    "94_ts_writes_file.pt": Expected(REFUSED, ("files",)),
    "96_ts_prints.pt": value(3.0, 3.0 + 1e-6),
    "97_ts_stateful.pt": Expected(UNREADABLE, ("n: changed by every call", "--fix n=0")),
    "99_ts_infinite_loop.pt": Expected(REFUSED, (f"{SECONDS} s",), alone=True),
    "A0_ts_huge_alloc.pt": Expected(EITHER, ("GB",), alone=True),
    "A2_ts_branch.pt": Expected(REFUSED, ("branches",)),
    "A3_ts_detach.pt": value(101.0, 101.0 + 1e-6),
    "A5_ts_dropout_train.pt": Expected(REFUSED, ("random",)),
    "A6_ts_two_inputs.pt": Expected(EITHER, ("x", "y")),
    "A8_ts_inplace_input.pt": value(2.0, 2.0 + 1e-9),
    "A9_ts_no_input_shape.pt": value(*SCRIPT),
}
STEPS_AND_POLES = (  # status "unbounded", with a node
    "57_sqrt.onnx", "59_exp.onnx", "60_floor.onnx", "62_sign.onnx", "63_where_step.onnx", "65_log.onnx",
    "66_l2norm.onnx",
)  # fmt: skip
ELSEWHERE = {"30_deep_chain.onnx"}  # 10,000 nodes take minutes to export: `test_a_deep_chain`
SHAPED = {"90_good_script.pt", "A9_ts_no_input_shape.pt", "89_torchscript_renamed.onnx"}
ARGUMENTS = ("--json", "-", "--quiet", "--method", "product", "--method", "sampled")


def arguments(path: Path) -> list[str]:
    shape = ["--input-shape", "1,4"] if path.suffix == ".pt" or path.name in SHAPED else []
    return ["bound", str(path), *ARGUMENTS, *shape]


def test_the_table_is_complete(shared: Path) -> None:
    rows = json.loads((shared / "bad" / "bad.json").read_text())
    files = {row["file"] for row in rows if not row["file"].endswith(".bin")}
    assert files == set(EXPECT) | ELSEWHERE


def judge(name: str, expected: Expected, status: int, out: str, err: str) -> None:
    assert status in expected.statuses, f"{name}: exit {status}\n{err}"
    assert "Traceback" not in err + out
    assert not any(os.path.exists(footprint) for footprint in FOOTPRINTS)
    if status == 2:
        assert set(json.loads(out)) == {"error"}  # nothing that looks like a result
    else:
        judge_report(name, expected, status, json.loads(out))
    if status == 2 or name not in STEPS_AND_POLES:
        told = err if status == 2 else err + out
        assert all(word in told for word in expected.words), err
    if status == 2:
        first, *more = err.strip().split("\n")
        assert first.startswith("lipcert: ")
        assert all(line.startswith("  | ") for line in more)
        assert all(character.isprintable() for character in first)


def judge_report(name: str, expected: Expected, status: int, report: dict[str, object]) -> None:
    if status == 3:
        assert report["upper"] is None
        assert report["status"] == ("unbounded" if name in STEPS_AND_POLES else "refused")
        refusals = [r for r in report["results"] if r["side"] == "upper"]  # type: ignore[attr-defined]
        assert all(r["reason"] for r in refusals)
        if name in STEPS_AND_POLES:
            assert any(r["node"] for r in refusals)
        return
    upper, lower = report["upper"], report["lower"]
    assert isinstance(upper, float)
    assert isinstance(lower, float)
    assert math.isfinite(upper)
    assert 0 <= lower <= upper
    assert expected.upper is not None
    assert expected.upper[0] <= upper <= expected.upper[1]


@pytest.mark.parametrize("name", [name for name, row in EXPECT.items() if not row.alone])
def test_hostile_file(name: str, shared: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    before = set(os.listdir("."))
    with pytest.raises(SystemExit) as stop:
        main(arguments(shared / "bad" / name))
    out, err = capfd.readouterr()
    judge(name, EXPECT[name], int(stop.value.code or 0), out, err)
    assert set(os.listdir(".")) == before


@pytest.mark.parametrize("name", [name for name, row in EXPECT.items() if row.alone])
def test_file_that_hangs_or_fills_memory(
    name: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by lipcert itself, well before the limits here."""
    monkeypatch.setitem(read.__kwdefaults__, "seconds", float(SECONDS))
    addresses = 24 << 30  # torch reserves several
    done = forked.lipcert(*arguments(shared / "bad" / name), cwd=tmp_path, addresses=addresses)
    judge(name, EXPECT[name], done.returncode, done.stdout, done.stderr)
    assert not list(tmp_path.iterdir())


def test_names_from_a_file_reach_no_terminal(shared: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """72: HTML, ANSI escapes and newlines in names are shown escaped, in the table as well as on stderr."""
    for command in ("inspect", "layers"):
        with pytest.raises(SystemExit) as stop:
            main([command, str(shared / "bad" / "72_hostile_names.onnx"), "--quiet"])
        out, err = capfd.readouterr()
        assert not stop.value.code
        assert "\x1b" not in out + err
        assert "Traceback" not in err


@pytest.mark.skipif(os.environ.get("LIPCERT_SLOW") != "1", reason="minutes: 10,000 nodes; set LIPCERT_SLOW=1")
def test_a_deep_chain(shared: Path) -> None:
    """Analysed (L = 1) or stopped with a message, and no RecursionError."""
    command = [sys.executable, "-m", "lipcert", *arguments(shared / "bad" / "30_deep_chain.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    judge("30_deep_chain.onnx", Expected((0, 2, 3), (), (1.0, 1.0 + 1e-9)), done.returncode, done.stdout, done.stderr)
