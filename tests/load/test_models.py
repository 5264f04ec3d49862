"""Every model of shared/models: read and bounded by the product, or refused with a reason that names the place.

About 150 s of CPU. `sampled` is left to the small ones; an independent lower value comes from onnxruntime on all.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import shared_folder

import lipcert
from lipcert.load.model import Model
from lipcert.terms.errors import LipcertError
from lipcert.terms.result import Refusal

# What is refused, or has no finite constant, and the words that must say why.
REFUSED = {
    "carvana_unet_simp_small.onnx": "ArgMax",
    "layerzoo_dropout_training_mode_true.onnx": "random",
    "marabou_multiInput_add.onnx": "input_name",
    "silero_vad.jit.pt": "sr",
    "silero_vad.onnx": "input_name",
    "unitree_g1_motion.pt": "hidden_state",
}
UNBOUNDED = {
    "basic_pitch_nmp.onnx": "reciprocal",
    "lsnc_quadrotor2d_state.onnx": "product",
    "nn4sys_mscn_128d_dual.onnx": "product",
    "onnxtest_operator_sqrt.onnx": "sqrt",
    "onnxtest_sign_model.onnx": "sign",
    "openmm_central.pt": "square",
    "rapidocr_cls_mobilenetv3.onnx": "product",
    "vit_pgd_2_3_16.onnx": "matmul",
}
# No proof that the output has no constant, though a node has none: products of rectified sums; attention between linear
# maps; a root of entries that are never all positive at once; gates of gates; a quotient that a comparison guards.
UNPROVED = {
    "basic_pitch_nmp.onnx",
    "nn4sys_mscn_128d_dual.onnx",
    "vit_pgd_2_3_16.onnx",
    "onnxtest_operator_sqrt.onnx",
    "rapidocr_cls_mobilenetv3.onnx",
}
SAMPLED_SIZE = 50_000  # bytes: files up to this size get a sampled lower value too


def rows() -> list[dict[str, Any]]:
    listing = shared_folder() / "models" / "models.json"
    return json.loads(listing.read_text())["models"] if listing.is_file() else []


def arguments(row: dict[str, Any]) -> dict[str, Any]:
    """--input-shape where the file leaves dimensions open, the first output where there are several."""
    given: dict[str, Any] = {}
    shape = row["inputs"][0][1]
    if row["kind"] != "onnx" or not all(isinstance(n, int) for n in shape):
        given["input_shape"] = tuple((row.get("in_used") or [shape])[0])
    if len(row["outputs"]) > 1:
        given["output_name"] = row["outputs"][0][0]
    return given


def test_the_folder_is_known(shared: Path) -> None:
    """Names of this file that are not in the folder would hide a regression."""
    assert set(REFUSED) | set(UNBOUNDED) <= {row["file"] for row in rows()}


SLOW = {"basic_pitch_nmp.onnx"}  # half a minute


@pytest.mark.every(12)
@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=pytest.mark.slow) if row["file"] in SLOW else row for row in rows()],
    ids=lambda row: row["file"],
)
def test_model(row: dict[str, Any], shared: Path) -> None:
    name = row["file"]
    path = shared / "models" / name
    if name in REFUSED:
        with pytest.raises(LipcertError) as error:
            lipcert.load(path, **arguments(row))
        assert error.value.exit_code in (2, 3)
        assert REFUSED[name] in str(error.value)
        return
    model = lipcert.load(path, **arguments(row))
    uncompared = any("was not compared with onnxruntime" in warning for warning in model.warnings)
    assert model.info["parity"] or uncompared
    small = os.path.getsize(path) <= SAMPLED_SIZE
    methods = ["product", "sampled"] if small else ["product"]
    for norm in ("2", "inf"):
        report = lipcert.bound(model, norm=norm, methods=methods)
        if name in UNBOUNDED:
            assert report.upper is None
            assert report.status == ("refused" if name in UNPROVED else "unbounded")
            refusal = report.results[0]
            assert isinstance(refusal, Refusal)
            assert refusal.node
            assert UNBOUNDED[name] in refusal.reason
            continue
        assert not report.contradictions
        assert report.upper is not None
        assert np.isfinite(report.upper)
        assert (report.lower or 0.0) <= report.upper
        if row["kind"] == "onnx" and not uncompared:
            assert by_onnxruntime(path, model, norm) <= report.upper


def by_onnxruntime(path: Path, model: Model, norm: str) -> float:
    """The largest difference quotient over a few wide pairs, far more than float32's rounding subtracted."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    draw = np.random.default_rng(0)
    order = {"2": 2, "inf": np.inf}[norm]
    dtype = {"tensor(float)": np.float32, "tensor(double)": np.float64}[session.get_inputs()[0].type]
    best = 0.0
    for scale in (0.1, 1.0):
        x = (scale * draw.standard_normal(model.input_shape)).astype(dtype)
        for step in (scale * draw.standard_normal(x.shape), np.full(x.shape, scale)):
            x2 = (x + step).astype(dtype)
            y, y2 = (_outputs(session, model, v) for v in (x, x2))
            gap, size = (np.linalg.norm(v.reshape(-1), order) for v in (y - y2, y))
            best = max(best, (gap - 1e-3 * size) / np.linalg.norm((x2.astype(np.float64) - x).reshape(-1), order))
    return best


def _outputs(session: Any, model: Model, x: np.ndarray) -> np.ndarray:
    (y,) = session.run([model.info["output_name"]], {session.get_inputs()[0].name: x})
    return y.astype(np.float64)


def test_the_check_by_onnxruntime_can_fail(shared: Path) -> None:
    """It finds a third or more of the constant of a single linear layer."""
    model = lipcert.load(shared / "models" / "layerzoo_gemm.onnx")
    upper = lipcert.bound(model, methods=["product"]).upper
    assert upper is not None
    assert by_onnxruntime(shared / "models" / "layerzoo_gemm.onnx", model, "2") > upper / 3
