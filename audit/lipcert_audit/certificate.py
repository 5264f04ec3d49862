"""Reading a certificate: strict JSON, every field checked, nothing else allowed."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from lipcert_audit.network import Question, contents, refuse

FORMATS = ("lipcert.certificate/1", "lipcert.certificate/2")
MOST = 256 * 2**20  # bytes
NORMS = ("1", "2", "inf")
FIELDS = {
    "lmi": ("grouping", "last", "rho", "multipliers"),
    "chain": ("constants",),
    "cplip": ("passed", "constants"),
    "nonnegative": (),
}


class Rejected(Exception):
    """The certificate does not show its claim. `place`: the field at fault."""

    def __init__(self, place: str, reason: str):
        super().__init__(f"{place}: {reason}")


@dataclass(frozen=True)
class Certificate:
    sha256: str
    question: Question
    norm: str
    claim: float
    proof: dict[str, Any]
    positions: bool  # format 1: nonlinearities by positions that only lipcert knows

    def words(self) -> list[str]:
        """The question, for people."""
        asked, p = self.question, {"1": "l1", "2": "l2", "inf": "linf"}[self.norm]
        put = f"(x - {list(asked.mean or (0.0,))}) / {list(asked.std or (1.0,))} put in front"
        units = "the model's own" if asked.std is None else put
        return [
            f"file       sha256 {self.sha256}",
            f"units      {units}",
            f"input      {asked.input_name!r} {list(asked.input_shape)}",
            f"output     {asked.output_name!r} {list(asked.output_shape)}, {asked.functional}",
            f"norm       {p} -> {p}",
            "region     the whole input space",
            f"claim      |f(x) - f(x')| <= {self.claim!r} |x - x'|, in real arithmetic",
            f"proof      {self.proof['kind']}",
        ]


def read(path: Path) -> Certificate:
    data = contents(path)
    if len(data) > MOST:
        reject("file", f"larger than {MOST >> 20} MiB")
    try:
        top = json.loads(data.decode("utf-8"), object_pairs_hook=once)
    except RecursionError:
        reject("file", "nested too deeply")
    except ValueError as problem:
        reject("file", f"not JSON: {problem}")
    return certificate(top)


def certificate(top: Any) -> Certificate:
    fields = record(top, "file", ("format", "model", "norm", "scope", "claim", "proof", "digest"))
    if fields["format"] not in FORMATS:
        reject("format", f"none of {', '.join(FORMATS)}")
    old = fields["format"] == FORMATS[0]
    names = ("sha256", "input_name", "output_name", "input_shape", "output_shape", "mean", "std")
    model = record(fields["model"], "model", (*names, "graph") if old else names)
    norm = record(fields["norm"], "norm", ("input", "output"))
    scope = record(fields["scope"], "scope", ("region", "output"))
    asked = Question(
        text(model["input_name"], "model.input_name"),
        text(model["output_name"], "model.output_name"),
        counts(model["input_shape"], "model.input_shape"),
        counts(model["output_shape"], "model.output_shape"),
        *(
            None if model[k] is None else tuple(real(v, f"model.{k}") for v in array(model[k], f"model.{k}"))
            for k in ("mean", "std")
        ),
        functional(scope["output"]),
    )
    if scope["region"] != "global":
        refuse(f"region {scope['region']!r}: only the whole input space is known")
    if norm["input"] not in NORMS or norm["output"] not in NORMS:
        reject("norm", "none of 1, 2, inf")
    if norm["input"] != norm["output"]:
        refuse(f"norm {norm['input']} -> {norm['output']}: only equal norms are known")
    seal = json.dumps([norm, scope, fields["proof"]], sort_keys=True, separators=(",", ":"))
    if hashlib.sha256(seal.encode()).hexdigest() != fields["digest"]:
        reject("digest", "norm, scope or proof was changed")
    claim = real(fields["claim"], "claim")
    if claim < 0:
        reject("claim", "negative")
    return Certificate(text(model["sha256"], "model.sha256"), asked, norm["input"], claim, proof(fields["proof"]), old)


def proof(value: Any) -> dict[str, Any]:
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind not in FIELDS:
        refuse(f"proof.kind {str(kind)[:40]!r}: known are {', '.join(FIELDS)}")
    fields = record(value, "proof", ("kind", "method", *FIELDS[kind]))
    out = {"kind": kind}
    if kind == "lmi":
        if fields["grouping"] not in ("neuron", "channel", "layer") or fields["last"] not in ("input", "output"):
            reject("proof.grouping", "or proof.last is unknown")
        rows = array(fields["multipliers"], "proof.multipliers")
        out |= {"grouping": fields["grouping"], "last": fields["last"]}
        out["multipliers"] = [floats(row, f"proof.multipliers[{k}]") for k, row in enumerate(rows)]
    if "constants" in FIELDS[kind]:
        out["constants"] = array(fields["constants"], "proof.constants")
    if kind == "cplip":
        out["passed"] = counts(fields["passed"], "proof.passed")
    return out


def constant(row: Any, norm: str, place: str) -> float:
    return real(record(row, place, ("node", norm))[norm], place)


def reject(place: str, reason: str) -> NoReturn:
    raise Rejected(place, reason)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        reject("file", "a field stands twice")
    return dict(pairs)


def record(value: Any, place: str, names: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(names):
        reject(place, f"the fields {', '.join(names)} are needed, and no other")
    return value


def text(value: Any, place: str) -> str:
    return value if isinstance(value, str) else reject(place, "text is needed")


def array(value: Any, place: str) -> list[Any]:
    return value if isinstance(value, list) else reject(place, "a list is needed")


def counts(value: Any, place: str) -> tuple[int, ...]:
    if any(type(v) is not int or not 0 <= v < 2**31 for v in array(value, place)):
        reject(place, "whole numbers are needed")
    return tuple(value)


def real(value: Any, place: str) -> float:
    return value if type(value) is float and math.isfinite(value) else reject(place, "a finite number is needed")


def functional(value: Any) -> str:
    if not re.fullmatch(r"vector|(0|[1-9][0-9]{0,8})(-(0|[1-9][0-9]{0,8}))?", text(value, "scope.output")):
        reject("scope.output", "none of vector, I, I-J")
    return value


def floats(value: Any, place: str) -> np.ndarray:
    fields = record(value, place, ("count", "float64"))
    try:
        numbers = np.frombuffer(base64.b64decode(text(fields["float64"], place), validate=True), dtype="<f8")
    except (binascii.Error, ValueError) as problem:
        reject(place, f"not base64 of binary64 numbers: {problem}")
    if fields["count"] != len(numbers) or not ((numbers >= 2.0**-500) & (numbers <= 2.0**500)).all():
        reject(place, "another count, or a number outside 2^-500 .. 2^500")
    return numbers
