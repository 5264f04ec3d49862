"""The certificate file `lipcert.certificate/2`: one claim about one network, with what it takes to prove it again.

    {"format": "lipcert.certificate/2",
     "model": {"sha256": hex64,                           of the file
               "input_name": str, "output_name": str, "input_shape": [int], "output_shape": [int],
               "mean": [float] | null, "std": [float] | null},
     "norm": {"input": "1" | "2" | "inf", "output": ...},
     "scope": {"region": "global", "output": "vector" | "I" | "I-J"},
     "claim": float,                                      ||f(x) - f(x')||_q <= claim ||x - x'||_p for all x, x'
     "proof": {"kind": ..., "method": str, ...},          method: who found it; nothing depends on it
     "digest": hex64}                                     sha256 of [norm, scope, proof] as canonical JSON

Kinds of proof:

    lmi          "grouping": "neuron" | "channel" | "layer", "last": "input" | "output", "rho": float (scaling of the
                 last block, about claim^2), "multipliers": [{"count": int, "float64": base64}] one per layer of the
                 normal form, little-endian IEEE binary64. Re-proved by lipcert/lmi.py.
    chain        "constants": [{"node": int, "1" | "2" | "inf": float, ..}] for every nonlinearity and then for the
                 output: the constants of that signal with respect to the input. "node" counts 0, 1, ..
                 Each is re-proved from those before it (lipcert/chain.py).
    cplip        "passed": [int], which nonlinearities are passed through a linear centre, counted from 0, and
                 "constants" as above for the graph of segments between cuts (lipcert/segments.py).
    nonnegative  nothing: the norm of the network of absolute values (lipcert/nonnegative.py).

Nothing in the file names an object of this program: nonlinearities come in the order of the model file (docs/certificate.md).
Format 1 is read as well: there "model" has "graph" (hex64, `Graph.fingerprint()`), "node" and "passed" are positions in
that graph.

Text is UTF-8 JSON without NaN, infinities, duplicate or unknown keys; floats are written by `repr`, which is exact.
A file with any field changed is rejected, but for a claim that is raised (it stays true). The digest finds damage, not
malice: who recomputes it leaves the decision to the proof, and of that proof only `method` is informative. This module reads and writes the format and knows nothing of networks.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lipcert.errors import CertificateRejected, UnreadableError, UsageError
from lipcert.query import NORMS, Norm, Output
from lipcert.strict import (
    count_of,
    counts_of,
    float_of,
    floats_or_null,
    hex64,
    list_of,
    load,
    one_of,
    record,
    reject,
    shown,
    text_of,
)
from lipcert.terms.files import check_regular

FORMAT, OLD_FORMAT = "lipcert.certificate/2", "lipcert.certificate/1"
MAX_BYTES = 256 * 2**20  # 25 million multipliers
# Multipliers and rho: lmi.py scales by powers of two up to 2^250, beyond which it cannot bring a diagonal near 1.
SMALLEST, LARGEST = 2.0**-500, 2.0**500


@dataclass(frozen=True)
class Network:
    """Which network the claim is about. `sha256`: of the model file. `graph`: `Graph.fingerprint()` in format 1."""

    sha256: str
    input_name: str
    output_name: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    graph: str | None = None


@dataclass(frozen=True)
class Lmi:
    """Multipliers of the LipSDP matrix inequality, one tuple per layer of the normal form."""

    method: str
    grouping: str
    last: str
    rho: float
    multipliers: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Chain:
    """`constants`: (node, {norm r: c}) with ||change of the node||_r <= c ||change of the input||_p. `node`: which of the
    signals; `positions`: its position in the graph instead (format 1)."""

    method: str
    constants: tuple[tuple[int, dict[str, float]], ...]
    positions: bool = False


@dataclass(frozen=True)
class Cplip:
    """`passed`: which nonlinearities. `constants`: as in `Chain`, of the graph made by `segments.cut`. `positions`: both
    are positions in the graph (format 1)."""

    method: str
    passed: tuple[int, ...]
    constants: tuple[tuple[int, dict[str, float]], ...]
    positions: bool = False


@dataclass(frozen=True)
class Nonnegative:
    method: str


Proof = Lmi | Chain | Cplip | Nonnegative


@dataclass(frozen=True)
class Certificate:
    """`claim`: an upper value of the Lipschitz constant from l_input to l_output over the whole input space."""

    network: Network
    norm: Norm
    output: Output
    claim: float
    proof: Proof


def to_text(certificate: Certificate) -> str:
    """Deterministic: the same certificate gives the same bytes."""
    net = certificate.network
    norm = {"input": certificate.norm.input, "output": certificate.norm.output}
    scope = {"region": "global", "output": str(certificate.output)}
    proof = _proof_fields(certificate.proof)
    fields = {
        "format": FORMAT,
        "model": {name: _plain(getattr(net, name)) for name in MODEL},
        "norm": norm,
        "scope": scope,
        "claim": certificate.claim,
        "proof": proof,
        "digest": digest(norm, scope, proof),
    }
    return json.dumps(fields, indent=1, allow_nan=False) + "\n"


def digest(norm: dict[str, Any], scope: dict[str, Any], proof: dict[str, Any]) -> str:
    """sha256 of the JSON list of the three: keys sorted, no spaces, ASCII."""
    text = json.dumps([norm, scope, proof], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def read(path: str | Path) -> Certificate:
    """UnreadableError (exit 2) where there is no such file, else CertificateRejected (exit 1) with the place."""
    check_regular(path, str(path))
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as problem:
        raise UnreadableError(f"{path}: cannot read the certificate: {problem.strerror or problem}") from problem
    return from_bytes(data)


def from_bytes(data: bytes) -> Certificate:
    """The inverse of `to_text`. CertificateRejected names the field and says what is wrong."""
    if len(data) > MAX_BYTES:
        reject("file", f"larger than {MAX_BYTES >> 20} MiB")
    fields = load(data)
    top = record(fields, "", ("format", "model", "norm", "scope", "claim", "proof", "digest"))
    old = one_of(top["format"], "format", (FORMAT, OLD_FORMAT)) == OLD_FORMAT
    readers = MODEL | {"graph": hex64} if old else MODEL
    model = record(top["model"], "model", tuple(readers))
    network = Network(**{name: read_field(model[name], f"model.{name}") for name, read_field in readers.items()})
    norm = record(top["norm"], "norm", ("input", "output"))
    scope = record(top["scope"], "scope", ("region", "output"))
    one_of(scope["region"], "scope.region", ("global",))
    certificate = Certificate(
        network,
        Norm(one_of(norm["input"], "norm.input", NORMS), one_of(norm["output"], "norm.output", NORMS)),  # type: ignore[arg-type]
        _functional(scope["output"], "scope.output"),
        _bound(top["claim"], "claim"),
        _proof(top["proof"], old),
    )
    if digest(norm, scope, top["proof"]) != hex64(top["digest"], "digest"):
        reject("digest", "norm, scope or proof was changed or damaged: their digest is another one")
    return certificate


def _bound(value: Any, place: str) -> float:
    number = float_of(value, place)
    if number < 0 or math.copysign(1.0, number) < 0:
        reject(place, f"{number!r} is negative")
    return number


def _weight(value: Any, place: str) -> float:
    number = float_of(value, place)
    if not SMALLEST <= number <= LARGEST:
        reject(place, f"{number!r} is outside 2^-500 .. 2^500")
    return number


def _functional(value: Any, place: str) -> Output:
    text = text_of(value, place)
    try:
        output = Output.parse(text)
    except (UsageError, ValueError) as problem:
        raise CertificateRejected(place, f"{shown(text)} is none of vector, I, I-J") from problem
    if output.kind == "pairs" or str(output) != text:
        reject(place, f"{shown(text)} is none of vector, I, I-J")
    return output


def _proof(value: Any, positions: bool) -> Proof:
    if not isinstance(value, dict):
        reject("proof", f"an object is needed, not {shown(value)}")
    kind = one_of(value.get("kind"), "proof.kind", tuple(PROOFS))
    names, read_proof = PROOFS[kind]
    fields = record(value, "proof", ("kind", "method", *names))
    proof = read_proof(text_of(fields["method"], "proof.method"), fields)
    return replace(proof, positions=positions) if isinstance(proof, Chain | Cplip) else proof


def _read_lmi(method: str, fields: dict[str, Any]) -> Lmi:
    layers = list_of(fields["multipliers"], "proof.multipliers")
    return Lmi(
        method,
        one_of(fields["grouping"], "proof.grouping", ("neuron", "channel", "layer")),
        one_of(fields["last"], "proof.last", ("input", "output")),
        _weight(fields["rho"], "proof.rho"),
        tuple(_floats_of(layer, f"proof.multipliers[{k}]") for k, layer in enumerate(layers)),
    )


def _floats_of(value: Any, place: str) -> tuple[float, ...]:
    fields = record(value, place, ("count", "float64"))
    count = count_of(fields["count"], f"{place}.count")
    text = fields["float64"]
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError) as problem:
        raise CertificateRejected(f"{place}.float64", f"not base64: {problem}") from problem
    if not isinstance(text, str) or base64.b64encode(data).decode() != text:
        reject(f"{place}.float64", "not canonical base64")
    if len(data) != 8 * count:
        reject(f"{place}.count", f"{count} floats are announced, {len(data)} bytes follow")
    numbers = array("d", data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return tuple(_weight(number, f"{place}.float64[{i}]") for i, number in enumerate(numbers))


def _read_chain(method: str, fields: dict[str, Any]) -> Chain:
    return Chain(method, _constants(fields))


def _read_cplip(method: str, fields: dict[str, Any]) -> Cplip:
    return Cplip(method, counts_of(fields["passed"], "proof.passed"), _constants(fields))


def _constants(fields: dict[str, Any]) -> tuple[tuple[int, dict[str, float]], ...]:
    constants = []
    for k, row in enumerate(list_of(fields["constants"], "proof.constants")):
        place = f"proof.constants[{k}]"
        norms = [name for name in row if name != "node"] if isinstance(row, dict) else []
        record(row, place, ("node", *(name for name in norms if name in NORMS)))
        values = {name: _bound(row[name], f"{place}.{name}") for name in norms}
        constants.append((count_of(row["node"], f"{place}.node"), values))
    return tuple(constants)


def _proof_fields(proof: Proof) -> dict[str, Any]:
    match proof:
        case Lmi(method, grouping, last, rho, multipliers):
            rows = [{"count": len(row), "float64": _base64(row)} for row in multipliers]
            kind = {"kind": "lmi", "method": method, "grouping": grouping, "last": last, "rho": rho}
            return kind | {"multipliers": rows}
        case Chain(method, constants, _):
            return {"kind": "chain", "method": method, "constants": _rows(constants)}
        case Cplip(method, passed, constants, _):
            return {"kind": "cplip", "method": method, "passed": list(passed), "constants": _rows(constants)}
        case Nonnegative(method):
            return {"kind": "nonnegative", "method": method}


def _rows(constants: tuple[tuple[int, dict[str, float]], ...]) -> list[dict[str, float]]:
    return [{"node": i, **row} for i, row in constants]


def _base64(row: tuple[float, ...]) -> str:
    numbers = array("d", row)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


MODEL: dict[str, Callable[[Any, str], Any]] = {
    "sha256": hex64,
    "input_name": text_of,
    "output_name": text_of,
    "input_shape": counts_of,
    "output_shape": counts_of,
    "mean": floats_or_null,
    "std": floats_or_null,
}
PROOFS: dict[str, tuple[tuple[str, ...], Callable[[str, dict[str, Any]], Proof]]] = {
    "lmi": (("grouping", "last", "rho", "multipliers"), _read_lmi),
    "chain": (("constants",), _read_chain),
    "cplip": (("passed", "constants"), _read_cplip),
    "nonnegative": ((), lambda method, fields: Nonnegative(method)),
}
