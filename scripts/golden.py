"""Golden values: `python scripts/golden.py --write tests/laws/golden.json`, or `--check` after a change of the house alone.

For each of 40 models (four of ours, the others in LIPCERT_SHARED): the graph's fingerprint and, by question (norm, command),
what was proved and attained, or the sentence of a refusal; of certificates what the verifier says, and their sha256.
`--check` compares byte for byte, as befits a change that moves code on one machine; `tests/laws/test_golden.py` lets numbers
differ as much as another processor's may.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lipcert

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "tests" / "laws" / "golden.json"
OWN = "two_moons.onnx two_moons.pt digits.onnx digits.pt".split()
PUBLIC = (
    "acasxu_dnnv_N_5_3.onnx acasxu_run2a_1_1.onnx marabou_fc_matMul.onnx vnn_test_tiny.onnx eran_mnist_relu_3_50.onnx "
    "go1_actuator_net.pt layerzoo_add.onnx layerzoo_batchnorm.onnx layerzoo_cast_int_to_float.onnx layerzoo_constant.onnx "
    "layerzoo_conv.onnx layerzoo_gemm.onnx layerzoo_leakyRelu.onnx layerzoo_maxpool.onnx layerzoo_transpose.onnx "
    "lsnc_quadrotor2d_state.onnx marabou_KJ_TinyTaxiNet.onnx marabou_fc1.onnx marabou_fc_2_2_3.onnx "
    "marabou_fc_2_2sigmoids_3.onnx marabou_linear2_3_bn1.onnx marabou_mnist2x10.onnx marabou_resize_4dims.onnx "
    "marabou_softmax_last_layer.onnx mlp_L3_W16.onnx mlp_L9_W16.onnx onnxtest_BatchNorm2d_eval.onnx "
    "onnxtest_Conv1d_dilated.onnx onnxtest_ELU.onnx onnxtest_operator_convtranspose.onnx onnxtest_sign_model.onnx "
    "onnxtest_softmax_lastdim.onnx plnn_twin5_inp2_layers5_width1.onnx reach_gcas.onnx reach_vdp.onnx rl_cartpole.onnx "
    "vnn_test_small.onnx"
).split()
SMALL = 600  # neurons: of larger networks the semidefinite program is not asked
LARGE = 2000  # neurons: of larger ones no segments are tried
FEW = 100  # inputs: with more, sweeps over a region are not asked

Question = Callable[[], Any]


def paths(shared: Path) -> dict[str, Path]:
    return {name: ROOT / "examples" / name for name in OWN} | {name: shared / "models" / name for name in PUBLIC}


def questions(model: lipcert.Model) -> Iterator[tuple[str, Question]]:
    """Name and task of everything that is asked of one model. Regions lie around 0.1. No budget in seconds: it would decide
    what is reached."""
    shape, size = model.input_shape, math.prod(model.input_shape)
    x = np.full((2, *shape[1:]), 0.1)
    x[1] += 0.05
    centre = torch.full(shape, 0.1, dtype=torch.float64)
    box = lipcert.Box(centre - 0.05, centre + 0.05)
    everywhere, inside = ["product", "absolute", "sampled"], ["product", "sampled"]
    everywhere += ["cplip"] if model.graph.neurons <= LARGE else []
    inside += ["jacobian", "linear"] if size <= FEW else []
    for norm in ("1", "2", "inf"):
        yield f"bound {norm}", lambda norm=norm: results(lipcert.bound(model, norm=norm, methods=everywhere))
        yield f"box {norm}", lambda norm=norm: results(lipcert.bound(model, norm=norm, region=box, methods=inside))
        yield f"layers {norm}", lambda norm=norm: [layer["upper"] for layer in lipcert.layers(model, norm=norm).layers]
    yield "mixed", lambda: results(lipcert.bound(model, norm="inf->2", methods=everywhere))
    if size <= FEW:
        yield "jacobian", lambda: results(lipcert.jacobian(model, x))
    if model.graph.neurons <= SMALL and size <= 1000:
        yield "lipsdp", lambda: results(lipcert.bound(model, methods=["lipsdp", "lipsdp-layer"]))
        yield "certificate", lambda: certificate(model)
    if math.prod(model.output_shape) > 1:
        yield "radius", lambda: [point["radius"] for point in lipcert.radius(model, x, methods=["pairs"]).points]
        yield "pair", lambda: results(lipcert.bound(model, output="0-1", methods=["product"]))
    if size == 2:
        yield "grid", lambda: cells(lipcert.local_grid(model, box, (3, 3)))


def results(report: lipcert.Report) -> dict[str, Any]:
    """By method: [side, rigor, value], or [side, status, node]."""
    return {
        r.method: [r.side, r.rigor, r.value] if isinstance(r, lipcert.Bound) else [r.side, r.status, r.node]
        for r in report.results
    }


def cells(report: lipcert.Report) -> dict[str, Any]:
    return {side: report.summary["grid"][side] for side in ("lower", "upper")}


def certificate(model: lipcert.Model) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "c.cert")
        claimed = lipcert.bound(model, methods=["product", "lipsdp"], certificate=path).upper
        if not path.exists():
            return {"claimed": claimed, "verdict": None, "sha256": None}
        verdict = lipcert.verify(path, model).summary["verdict"]
        return {"claimed": claimed, "verdict": verdict, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def golden(path: Path, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Everything that is compared of one model (`names`: of these questions); a refusal is its sentence."""
    try:
        model = lipcert.load(path)
    except Exception as problem:
        return {"load": sentence(problem, path)}
    found: dict[str, Any] = {"fingerprint": model.graph.fingerprint()}
    for name, ask in questions(model):
        if names is None or name in names:
            try:
                found[name] = ask()
            except Exception as problem:
                found[name] = sentence(problem, path)
    return json.loads(json.dumps(found))


def sentence(problem: Exception, path: Path) -> str:
    return f"{type(problem).__name__}: {problem}".replace(str(path), path.name)


def differences(old: Any, new: Any, rtol: Callable[[str], float], where: str = "") -> Iterator[str]:
    """Places where two golden values differ, as sentences. `rtol`: how much numbers may, by place."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if key not in old or key not in new:
                yield f"{where}/{key}: only in the {'new' if key in new else 'old'}"
            else:
                yield from differences(old[key], new[key], rtol, f"{where}/{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for a, b in zip(old, new, strict=True):
            yield from differences(a, b, rtol, where)
    elif isinstance(old, float) and isinstance(new, float) and math.isclose(old, new, rel_tol=rtol(where)):
        return
    elif old != new:
        yield f"{where}: {old!r:.200} became {new!r:.200}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    for flag in ("--write", "--check"):
        what.add_argument(flag, type=Path, metavar="FILE", nargs="?", const=FILE)
    parser.add_argument("--only", nargs="*", default=None, help="file names")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    new = {}
    for name, path in paths(Path(os.environ.get("LIPCERT_SHARED", ROOT.parent / "shared"))).items():
        if arguments.only is None or name in arguments.only:
            print(name, file=sys.stderr, flush=True)
            new[name] = golden(path)
    if arguments.write:
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value, sort_keys=True)}" for name, value in new.items())
        arguments.write.write_text(f"{{\n{lines}\n}}\n")
        return 0
    old = {name: value for name, value in json.loads(arguments.check.read_text()).items() if name in new}
    found = list(differences(old, new, lambda where: 0.0))
    print("\n".join(found) or f"{len(old)} models: nothing changed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
