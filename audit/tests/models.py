"""Small ONNX files and certificates about them, made without lipcert."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def floats(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    shape: tuple[Any, ...],
    out: str = "y",
    opset: int = 13,
    **more: Any,
) -> Path:
    """A file with the input x, the given nodes and initialisers, and the output `out`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", more.get("elem", TensorProto.FLOAT), shape)],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, ["any"])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.me", 1)], ir_version=8
    )
    path.write_bytes(model.SerializeToString())
    return path


def node(kind: str, inputs: str, out: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [out], **attributes)


def seal(fields: dict[str, Any]) -> dict[str, Any]:
    names = ("norm", "claims", "points") if "claims" in fields else ("norm", "scope", "proof")
    text = json.dumps([fields[name] for name in names], sort_keys=True, separators=(",", ":"))
    return fields | {"digest": hashlib.sha256(text.encode()).hexdigest()}


def certificate(
    path: Path,
    proof: dict[str, Any],
    claim: float,
    shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    norm: str = "2",
    output: str = "vector",
    **model: Any,
) -> dict[str, Any]:
    """The fields of a certificate about the file `path`."""
    about = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "input_name": "x",
        "output_name": "y",
        "input_shape": list(shape),
        "output_shape": list(out_shape),
        "mean": None,
        "std": None,
    }
    return seal(
        {
            "format": "lipcert.certificate/2",
            "model": about | model,
            "norm": {"input": norm, "output": norm},
            "scope": {"region": "global", "output": output},
            "claim": claim,
            "proof": {"method": "by hand", **proof},
        }
    )


def row(numbers: Any) -> dict[str, Any]:
    data = np.asarray(numbers, dtype="<f8")
    return {"count": len(data), "float64": base64.b64encode(data.tobytes()).decode()}


def lmi(*rows: Any, grouping: str = "neuron", last: str = "input") -> dict[str, Any]:
    return {"kind": "lmi", "grouping": grouping, "last": last, "rho": 1.0, "multipliers": [row(r) for r in rows]}


def chain(*values: float, norm: str = "2", kind: str = "chain", **more: Any) -> dict[str, Any]:
    return {"kind": kind, "constants": [{"node": k, norm: v} for k, v in enumerate(values)], **more}


def several(path: Path, claims: list[dict[str, Any]], points: Any = (), **about: Any) -> dict[str, Any]:
    """Format 3. A claim: output, region, claim, proof; a point: (x, class, radius)."""
    one = certificate(path, {}, 0.0, **about)
    made = [
        {
            "scope": {"region": c.get("region", "global"), "output": c.get("output", "vector")},
            "claim": c["claim"],
            "proof": {"method": "by hand", **c["proof"]},
        }
        for c in claims
    ]
    given = [{"x": row(x), "class": label, "radius": radius} for x, label, radius in points]
    return seal(
        {"format": "lipcert.certificate/3"} | {k: one[k] for k in ("model", "norm")} | {"claims": made, "points": given}
    )


def tree(value: float, *splits: int) -> dict[str, Any]:
    return {"kind": "tree", "value": value, "splits": list(splits)}


def box(lower: list[float], upper: list[float]) -> dict[str, Any]:
    return {"kind": "box", "lower": lower, "upper": upper}


def ball(center: list[float], radius: float, norm: str = "inf") -> dict[str, Any]:
    return {"kind": "ball", "center": center, "radius": radius, "norm": norm}
