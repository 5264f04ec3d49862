"""Reading a certificate: every field is checked by a reader of its own, and no other is allowed."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lipcert_audit.network import Question, contents, refuse
from lipcert_audit.places import POINT, Point, region
from lipcert_audit.strict import (
    NORMS,
    Reader,
    bound,
    count,
    fields,
    list_of,
    numbers,
    one_of,
    real,
    record,
    reject,
    such,
    text,
    whole,
)

MOST = 256 * 2**20  # bytes


@dataclass(frozen=True)
class Claim:
    """|f(x) - f(x')| <= value |x - x'| for all x, x' of the region, f with the output functional of the question. `region`: None, the
    whole space; or of a box (lower, upper, unit), integers in units of 2^-unit. `place`: in the file."""

    question: Question
    norm: str
    value: float
    proof: dict[str, Any]
    place: str
    region: Any

    def words(self) -> list[str]:
        asked, p = self.question, {"1": "l1", "2": "l2", "inf": "linf"}[self.norm]
        put = f"(x - {list(asked.mean or (0.0,))}) / {list(asked.std or (1.0,))} put in front"
        return [
            f"units      {put if asked.mean or asked.std else 'those of the model'}",
            f"input      {asked.input_name!r} {list(asked.input_shape)}",
            f"output     {asked.output_name!r} {list(asked.output_shape)}, {asked.functional}",
            f"norm       {p} -> {p}",
            "region     the whole input space" if self.region is None else f"region     {self.region[3]}",
            f"claim      |f(x) - f(x')| <= {self.value!r} |x - x'|, in real arithmetic",
            f"proof      {self.proof['kind']}",
        ]


def read(path: Path) -> tuple[str, list[Claim], list[Point]]:
    data = contents(path)
    if len(data) > MOST:
        reject("file", f"larger than {MOST >> 20} MiB")
    try:
        top = json.loads(data.decode("utf-8"), object_pairs_hook=once)
    except (RecursionError, ValueError) as problem:
        reject("file", f"not JSON: {problem}")
    return claims(top)


def claims(top: Any) -> tuple[str, list[Claim], list[Point]]:
    """(sha256 of the model file, what is claimed of it)."""
    readers, sealed = FORMATS[one_of(*FORMATS)(top.get("format") if isinstance(top, dict) else None, "format")]
    found = fields(top, "", readers)
    seal = json.dumps([top[name] for name in sealed], sort_keys=True, separators=(",", ":"))
    if hashlib.sha256(seal.encode()).hexdigest() != found["digest"]:
        reject("digest", f"{', '.join(sealed[:-1])} or {sealed[-1]} was changed")
    p, q = found["norm"].values()
    if p != q:
        refuse(f"norm {p} -> {q}: only equal norms are known")
    sha256, *about = found["model"].values()
    rows = found.get("claims", [found]) or reject("claims", "there is none")
    places = [f"claims[{k}]." if "claims" in found else "" for k in range(len(rows))]
    scopes = [(row["scope"]["region"], Question(*about, row["scope"]["output"])) for row in rows]
    made = [Claim(a, p, v["claim"], v["proof"], at, here) for v, at, (here, a) in zip(rows, places, scopes, strict=True)]
    points = [Point(*v.values(), p, f"points[{k}].") for k, v in enumerate(found.get("points", []))]
    return sha256, made, points


INDEX = re.compile(r"vector|(0|[1-9][0-9]{0,8})(-(0|[1-9][0-9]{0,8}))?")
functional = such(lambda v: isinstance(v, str) and INDEX.fullmatch(v), "vector, I or I-J")


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(pairs) if len(dict(pairs)) == len(pairs) else reject("file", "a field stands twice")


def units(value: Any, place: str) -> list[float] | None:
    return None if value is None else list_of(real)(value, place)


def weights(value: Any, place: str) -> np.ndarray:
    found = numbers(value, place)
    return found if ((found >= 2.0**-500) & (found <= 2.0**500)).all() else reject(place, "a number outside 2^-500 .. 2^500")


def constants(value: Any, place: str) -> dict[str, Any]:
    return fields(value, place, {"node": count} | {n: bound for n in NORMS if isinstance(value, dict) and n in value})


def model(value: Any, place: str) -> dict[str, Any]:
    several = isinstance(value, dict) and {"parts", "fixed", "sorts"} & value.keys()
    return refuse(f"{place}: several inputs, one that is held, or sorts") if several else fields(value, place, MODEL)


def proof(value: Any, place: str) -> dict[str, Any]:
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind not in KINDS:
        refuse(f"{place}.kind {str(kind)[:40]!r}: known are {', '.join(KINDS)}")
    return fields(value, place, {"kind": text, "method": text} | KINDS[kind])


SIDES, GROUPS = ("input", "output"), ("neuron", "channel", "layer")
KINDS: dict[Any, dict[str, Reader]] = {
    "lmi": {"grouping": one_of(*GROUPS), "last": one_of(*SIDES), "rho": real, "multipliers": list_of(weights)},
    "chain": {"constants": list_of(constants)},
    "cplip": {"passed": list_of(count), "constants": list_of(constants)},
    "nonnegative": {},
    "tree": {"value": bound, "splits": list_of(whole)},
}
NAMES: dict[str, Reader] = dict.fromkeys(("sha256", "input_name", "output_name"), text)
MODEL = NAMES | dict.fromkeys(("input_shape", "output_shape"), list_of(count)) | dict.fromkeys(("mean", "std"), units)
NORM: dict[str, Reader] = dict.fromkeys(SIDES, one_of(*NORMS))
CLAIM: dict[str, Reader] = {"scope": record({"region": region, "output": functional}), "claim": bound, "proof": proof}
TOP: dict[str, Reader] = {"format": text, "model": model, "norm": record(NORM), "digest": text}
SEVERAL = {"claims": list_of(record(CLAIM)), "points": list_of(record(POINT))}
FORMATS = {  # fields, and which of them the digest is of
    "lipcert.certificate/2": (TOP | CLAIM, ("norm", "scope", "proof")),
    "lipcert.certificate/3": (TOP | SEVERAL, ("norm", "claims", "points")),
}
