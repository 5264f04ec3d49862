"""The file format `lipcert.certificate/3`: several claims about one network, and radii of samples that follow from them.

    {"format": "lipcert.certificate/3",
     "model": .., "norm": ..,                                 as in format 2 (proofs/file.py)
     "claims": [{"scope": {"region": .., "output": ..}, "claim": float, "proof": ..}],
     "points": [{"x": {"count", "float64"}, "class": int, "radius": float}],
     "digest": hex64}                                         sha256 of [norm, claims, points] as canonical JSON

    region: "global", {"kind": "box", "lower": [float], "upper": [float]} or
            {"kind": "ball", "center": [float], "radius": float, "norm": "1" | "2" | "inf"}

A point says: every x' with ||x' - x||_p <= radius has the class (proofs/radii.py: the margin at x, and the claims about the
whole space). Its x are the numbers that go into the network of the certificate, in its units, as binary64.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipcert.proofs.file import (
    MODEL,
    Certificate,
    Network,
    contents,
    fields_from,
    fields_of,
    from_fields,
    functional_of,
    model_fields,
    network_of,
    norm_of,
    proof_of,
)
from lipcert.proofs.kinds.base import within
from lipcert.proofs.kinds.chain import bound_of
from lipcert.proofs.kinds.lmi import floats_of, in_base64
from lipcert.terms.query import NORMS, Ball, Box, Norm, Region
from lipcert.terms.strict import count_of, float_of, hex64, list_of, one_of, record, reject

FORMAT = "lipcert.certificate/3"


@dataclass(frozen=True)
class Point:
    """The class of every input within `radius` of `x` (flat), that distance included, is `label`."""

    x: tuple[float, ...]
    label: int
    radius: float


@dataclass(frozen=True)
class Several:
    """Every one of `claims` has this network and this norm."""

    network: Network
    norm: Norm
    claims: tuple[Certificate, ...]
    points: tuple[Point, ...] = ()


def to_text(several: Several) -> str:
    norm = {"input": several.norm.input, "output": several.norm.output}
    claims = [
        {
            "scope": {"region": _region_fields(c.region), "output": str(c.output)},
            "claim": c.claim,
            "proof": fields_of(c.proof),
        }
        for c in several.claims
    ]
    points = [
        {"x": {"count": len(at.x), "float64": in_base64(at.x)}, "class": at.label, "radius": at.radius}
        for at in several.points
    ]
    fields = {
        "format": FORMAT,
        "model": model_fields(several.network),
        "norm": norm,
        "claims": claims,
        "points": points,
        "digest": digest(norm, claims, points),
    }
    return json.dumps(fields, indent=1, allow_nan=False) + "\n"


def digest(norm: Any, claims: Any, points: Any) -> str:
    text = json.dumps([norm, claims, points], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def read(path: str | Path) -> Certificate | Several:
    """As `file.read`, of every format."""
    return from_bytes(contents(path))


def from_bytes(data: bytes) -> Certificate | Several:
    fields = fields_from(data)
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        return from_fields(fields)
    top = record(fields, "", ("format", "model", "norm", "claims", "points", "digest"))
    network = network_of(top["model"], MODEL)
    norm = norm_of(record(top["norm"], "norm", ("input", "output")))
    claims = [_claim(row, k, network, norm) for k, row in enumerate(list_of(top["claims"], "claims"))]
    if not claims:
        reject("claims", "there is none")
    points = [_point(row, f"points[{k}]") for k, row in enumerate(list_of(top["points"], "points"))]
    if digest(top["norm"], top["claims"], top["points"]) != hex64(top["digest"], "digest"):
        reject("digest", "norm, claims or points were changed or damaged: their digest is another one")
    return Several(network, norm, tuple(claims), tuple(points))


def _claim(value: Any, k: int, network: Network, norm: Norm) -> Certificate:
    row = record(value, f"claims[{k}]", ("scope", "claim", "proof"))
    with within(f"claims[{k}]"):
        scope = record(row["scope"], "scope", ("region", "output"))
        return Certificate(
            network,
            norm,
            functional_of(scope["output"], "scope.output"),
            bound_of(row["claim"], "claim"),
            proof_of(row["proof"], False),
            _region(scope["region"], "scope.region"),
        )


def _point(value: Any, place: str) -> Point:
    row = record(value, place, ("x", "class", "radius"))
    x = floats_of(row["x"], f"{place}.x", float_of)
    return Point(x, count_of(row["class"], f"{place}.class"), bound_of(row["radius"], f"{place}.radius"))


def _region(value: Any, place: str) -> Region:
    if value == "global":
        return None
    kind = one_of(value.get("kind") if isinstance(value, dict) else value, f"{place}.kind", ("box", "ball"))
    names = ("lower", "upper") if kind == "box" else ("center", "radius", "norm")
    row = record(value, place, ("kind", *names))
    ends = {
        name: [float_of(v, f"{place}.{name}[{j}]") for j, v in enumerate(list_of(row[name], f"{place}.{name}"))]
        for name in ("lower", "upper", "center")
        if name in row
    }
    if kind == "ball":
        norm = one_of(row["norm"], f"{place}.norm", NORMS)
        return Ball(ends["center"], bound_of(row["radius"], f"{place}.radius"), norm)  # type: ignore[arg-type]
    if len(ends["lower"]) != len(ends["upper"]) or any(
        a > b for a, b in zip(ends["lower"], ends["upper"], strict=True)
    ):
        reject(place, "lower <= upper must hold for each input")
    return Box(ends["lower"], ends["upper"])  # type: ignore[arg-type]


def _region_fields(region: Region) -> Any:
    if region is None:
        return "global"
    from lipcert.network.scope import describe

    return describe(region)
