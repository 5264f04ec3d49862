"""Golden values: `python scripts/golden.py --write FILE`, or `--check FILE` after a change that must not change behaviour.

For each model: graph fingerprint, and by question (norm, command) every result of the report without its times, and
the sha256 of the certificate. Only the public face of the package is used, so that the script outlives a move of files.
`--check` compares byte for byte; with `--rtol` numbers may differ by that much (another processor, another BLAS).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lipcert

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("LIPCERT_SHARED", REPOSITORY.parent / "shared"))
OWN = ("examples/two_moons.onnx", "examples/two_moons.pt", "examples/digits.onnx", "examples/digits.pt")
PUBLIC = (
    "acasxu_run2a_1_1.onnx dnnv_planet_lenet.onnx eran_mnist_relu_3_50.onnx "
    "go1_actuator_net.pt layerzoo_add.onnx layerzoo_batchnorm.onnx layerzoo_cast_int_to_float.onnx layerzoo_constant.onnx "
    "layerzoo_conv.onnx layerzoo_gemm.onnx layerzoo_leakyRelu.onnx layerzoo_maxpool.onnx layerzoo_transpose.onnx "
    "lsnc_quadrotor2d_state.onnx marabou_KJ_TinyTaxiNet.onnx marabou_fc1.onnx marabou_fc_2_2_3.onnx "
    "marabou_fc_2_2sigmoids_3.onnx marabou_linear2_3_bn1.onnx marabou_mnist2x10.onnx marabou_resize_4dims.onnx "
    "marabou_softmax_last_layer.onnx mlp_L3_W16.onnx mlp_L9_W16.onnx onnxtest_BatchNorm2d_eval.onnx "
    "onnxtest_Conv1d_dilated.onnx onnxtest_ELU.onnx onnxtest_operator_convtranspose.onnx onnxtest_sign_model.onnx "
    "onnxtest_softmax_lastdim.onnx plnn_twin5_inp2_layers5_width1.onnx reach_gcas.onnx reach_vdp.onnx rl_cartpole.onnx "
    "vnn_test_small.onnx"
).split()
NORMS = ("1", "2", "inf")
TIMES = ("seconds", "created", "certificate", "path")  # what differs from run to run
SMALL = 800  # neurons and inputs: larger networks are not asked what takes minutes


def questions(model: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name and task of everything that is asked of one model. Regions are around 0.1, of radius 0.05 and 0.01."""
    shape, size = model.input_shape, math.prod(model.input_shape)
    x = np.full((2, *shape[1:]) if shape[:1] == (1,) else (2, *shape), 0.1)
    x[1] += 0.05
    centre = torch.full(tuple(shape), 0.1, dtype=torch.float64)
    box = lipcert.Box(centre - 0.05, centre + 0.05)
    everywhere = ["product", "cplip", "absolute", "sampled"]
    inside = ["product", "jacobian", "linear", "sampled"]
    for norm in NORMS:
        yield f"bound {norm}", lambda norm=norm: lipcert.bound(model, norm=norm, methods=everywhere)
        yield f"box {norm}", lambda norm=norm: lipcert.bound(model, norm=norm, region=box, methods=inside)
        yield f"layers {norm}", lambda norm=norm: lipcert.layers(model, norm=norm)
    yield "mixed", lambda: lipcert.bound(model, norm="inf->2", methods=everywhere)
    yield "jacobian", lambda: lipcert.jacobian(model, x)
    if math.prod(model.output_shape) > 1:
        yield "pair", lambda: lipcert.bound(model, output="0-1", methods=["product"])
    if max(model.graph.neurons, size) <= SMALL:
        yield "lipsdp", lambda: lipcert.bound(model, methods=["lipsdp", "lipsdp-layer"])
        yield "ball", lambda: lipcert.local(model, x, [0.01], ball_norm="2", norm="2")
        yield "radius", lambda: lipcert.radius(model, x)
    if size == 2:
        yield "grid", lambda: lipcert.local_grid(model, box, (3, 3))


def golden(path: Path) -> dict[str, Any]:
    """Everything that is compared of one model; a refusal is its sentence."""
    try:
        model = lipcert.load(path)
    except Exception as problem:
        return {"load": _sentence(problem, path)}
    found: dict[str, Any] = {"fingerprint": model.graph.fingerprint()}
    for name, task in questions(model):
        try:
            found[name] = _timeless(task().to_dict())
        except Exception as problem:
            found[name] = _sentence(problem, path)
    with tempfile.TemporaryDirectory() as folder:
        certificate = Path(folder, "c.cert")
        try:
            lipcert.bound(model, methods=["product", "lipsdp"], certificate=certificate)
            found["certificate"] = hashlib.sha256(certificate.read_bytes()).hexdigest()
            found["verified"] = lipcert.verify(certificate, path).summary["verdict"]
        except Exception as problem:
            found["certificate"] = _sentence(problem, path)
    return found


def _sentence(problem: Exception, path: Path) -> str:
    return f"{type(problem).__name__}: {problem}".replace(str(path), path.name)


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMES}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def differences(old: Any, new: Any, rtol: float, where: str = "") -> Iterator[str]:
    """Places where two golden values differ, as sentences."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if key not in old or key not in new:
                yield f"{where}/{key}: only in the {'new' if key in new else 'old'}"
            else:
                yield from differences(old[key], new[key], rtol, f"{where}/{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from differences(a, b, rtol, f"{where}[{number}]")
    elif isinstance(old, float) and isinstance(new, float) and math.isclose(old, new, rel_tol=rtol):
        return
    elif old != new:
        yield f"{where}: {old!r:.200} became {new!r:.200}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", type=Path, metavar="FILE")
    what.add_argument("--check", type=Path, metavar="FILE")
    parser.add_argument("--rtol", type=float, default=0.0)
    parser.add_argument("--only", nargs="*", default=None, help="file names")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    new = {}
    for path in [REPOSITORY / name for name in OWN] + [SHARED / "models" / name for name in PUBLIC]:
        if arguments.only is None or path.name in arguments.only:
            print(path.name, file=sys.stderr, flush=True)
            new[path.name] = json.loads(json.dumps(golden(path)))
    if arguments.write:
        arguments.write.write_text(json.dumps(new, indent=1, sort_keys=True) + "\n")
        return 0
    old = {name: value for name, value in json.loads(arguments.check.read_text()).items() if name in new}
    found = list(differences(old, new, arguments.rtol))
    print("\n".join(found) or f"{len(old)} models: nothing changed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
