"""Reading a certificate: strict JSON, every field checked by a reader of its own, nothing else allowed."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from lipcert_audit.network import Question, contents, refuse

MOST = 256 * 2**20  # bytes
NORMS = ("1", "2", "inf")


class Rejected(Exception):
    """The certificate does not show its claim. `place`: the field at fault."""

    def __init__(self, place: str, reason: str):
        super().__init__(f"{place}: {reason}")
        self.place, self.reason = place, reason


@dataclass(frozen=True)
class Claim:
    """|f(x) - f(x')| <= value |x - x'| for all x, x', f with the output functional of the question. `place`: in the file."""

    question: Question
    norm: str
    value: float
    proof: dict[str, Any]
    place: str

    def words(self) -> list[str]:
        asked, p = self.question, {"1": "l1", "2": "l2", "inf": "linf"}[self.norm]
        put = f"(x - {list(asked.mean or (0.0,))}) / {list(asked.std or (1.0,))} put in front"
        return [
            f"units      {put if asked.mean or asked.std else 'those of the model'}",
            f"input      {asked.input_name!r} {list(asked.input_shape)}",
            f"output     {asked.output_name!r} {list(asked.output_shape)}, {asked.functional}",
            f"norm       {p} -> {p}",
            "region     the whole input space",
            f"claim      |f(x) - f(x')| <= {self.value!r} |x - x'|, in real arithmetic",
            f"proof      {self.proof['kind']}",
        ]


def read(path: Path) -> tuple[str, list[Claim]]:
    data = contents(path)
    if len(data) > MOST:
        reject("file", f"larger than {MOST >> 20} MiB")
    try:
        top = json.loads(data.decode("utf-8"), object_pairs_hook=once)
    except (RecursionError, ValueError) as problem:
        reject("file", f"not JSON: {problem}")
    return claims(top)


def claims(top: Any) -> tuple[str, list[Claim]]:
    """(sha256 of the model file, what is claimed of it)."""
    format_ = top.get("format") if isinstance(top, dict) else None
    readers, sealed = FORMATS[one_of(*FORMATS)(format_, "format")]
    found = fields(top, "", readers)
    seal = json.dumps([top[name] for name in sealed], sort_keys=True, separators=(",", ":"))
    if hashlib.sha256(seal.encode()).hexdigest() != found["digest"]:
        reject("digest", f"{', '.join(sealed[:-1])} or {sealed[-1]} was changed")
    p, q = found["norm"].values()
    if p != q:
        refuse(f"norm {p} -> {q}: only equal norms are known")
    sha256, *about = found["model"].values()
    if not (rows := found.get("claims", [found])):
        reject("claims", "there is none")
    places = [f"claims[{k}]." if "claims" in found else "" for k in range(len(rows))]
    asked = [Question(*about, row["scope"]["output"]) for row in rows]
    return sha256, [Claim(a, p, row["claim"], row["proof"], at) for a, row, at in zip(asked, rows, places, strict=True)]


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(pairs) if len(dict(pairs)) == len(pairs) else reject("file", "a field stands twice")


def reject(place: str, reason: str) -> NoReturn:
    raise Rejected(place, reason)


# Readers: each takes a value and its place in the file.

Reader = Callable[[Any, str], Any]


def fields(value: Any, place: str, readers: dict[str, Reader]) -> dict[str, Any]:
    """In the order of `readers`."""
    if not isinstance(value, dict) or set(value) != set(readers):
        reject(place or "file", f"the fields {', '.join(readers)} are needed, and no other")
    return {name: read(value[name], f"{place}.{name}".lstrip(".")) for name, read in readers.items()}


def record(readers: dict[str, Reader]) -> Reader:
    return lambda value, place: fields(value, place, readers)


def list_of(reader: Reader) -> Reader:
    def read(value: Any, place: str) -> list[Any]:
        if not isinstance(value, list):
            reject(place, "a list is needed")
        return [reader(v, f"{place}[{k}]") for k, v in enumerate(value)]

    return read


def one_of(*names: str) -> Reader:
    return lambda value, place: value if value in names else reject(place, f"none of {', '.join(names)}")


def only(known: Any, reason: str) -> Reader:
    return lambda value, place: value if value == known else refuse(f"{place}: {reason}")


def text(value: Any, place: str) -> str:
    return value if isinstance(value, str) else reject(place, "text is needed")


def count(value: Any, place: str) -> int:
    return value if type(value) is int and 0 <= value < 2**31 else reject(place, "a whole number is needed")


def real(value: Any, place: str) -> float:
    return value if type(value) is float and math.isfinite(value) else reject(place, "a finite number is needed")


def bound(value: Any, place: str) -> float:
    return value if real(value, place) >= 0 else reject(place, "negative")


def units(value: Any, place: str) -> list[float] | None:
    return None if value is None else list_of(real)(value, place)


def functional(value: Any, place: str) -> str:
    known = re.fullmatch(r"vector|(0|[1-9][0-9]{0,8})(-(0|[1-9][0-9]{0,8}))?", text(value, place))
    return value if known else reject(place, "none of vector, I, I-J")


def weights(value: Any, place: str) -> np.ndarray:
    given = fields(value, place, {"count": count, "float64": text})
    try:
        numbers = np.frombuffer(base64.b64decode(given["float64"], validate=True), dtype="<f8")
    except (binascii.Error, ValueError) as problem:
        reject(place, f"not base64 of binary64 numbers: {problem}")
    if given["count"] != len(numbers) or not ((numbers >= 2.0**-500) & (numbers <= 2.0**500)).all():
        reject(place, "another count, or a number outside 2^-500 .. 2^500")
    return numbers


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
}
NAMES: dict[str, Reader] = dict.fromkeys(("sha256", "input_name", "output_name"), text)
MODEL = NAMES | dict.fromkeys(("input_shape", "output_shape"), list_of(count)) | dict.fromkeys(("mean", "std"), units)
NORM: dict[str, Reader] = dict.fromkeys(SIDES, one_of(*NORMS))
CLAIM: dict[str, Reader] = {
    "scope": record({"region": only("global", "only the whole input space is known"), "output": functional}),
    "claim": bound,
    "proof": proof,
}
TOP: dict[str, Reader] = {"format": text, "model": model, "norm": record(NORM), "digest": text}
FORMATS = {  # fields, and which of them the digest is of
    "lipcert.certificate/2": (TOP | CLAIM, ("norm", "scope", "proof")),
    "lipcert.certificate/3": (
        TOP | {"claims": list_of(record(CLAIM)), "points": only([], "only constants are known, no radii")},
        ("norm", "claims", "points"),
    ),
}
