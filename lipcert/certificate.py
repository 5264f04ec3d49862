"""The certificate file `lipcert.certificate/1`: one claim about one network, with what it takes to prove it again.

    {"format": "lipcert.certificate/1",
     "model": {"sha256": hex64, "graph": hex64,           of the file; of the graph as lowered, normalisation included
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
    chain        "constants": [{"node": int, "1" | "2" | "inf": float, ..}] for every nonlinearity in the order of the
                 graph and then for the output: the constants of that signal with respect to the input.
                 Each is re-proved from those before it (lipcert/chain.py).
    nonnegative  nothing: the norm of the network of absolute values (lipcert/nonnegative.py).

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from lipcert.errors import CertificateRejected, UnreadableError, UsageError
from lipcert.query import NORMS, Norm, Output

FORMAT = "lipcert.certificate/1"
MAX_BYTES = 256 * 2**20  # 25 million multipliers
# Multipliers and rho: lmi.py scales by powers of two up to 2^250, beyond which it cannot bring a diagonal near 1.
SMALLEST, LARGEST = 2.0**-500, 2.0**500


@dataclass(frozen=True)
class Network:
    """Which network the claim is about. `sha256`: of the model file. `graph`: `Graph.fingerprint()`."""

    sha256: str
    graph: str
    input_name: str
    output_name: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


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
    """`constants`: (node, {norm r: c}) with ||change of the node||_r <= c ||change of the input||_p."""

    method: str
    constants: tuple[tuple[int, dict[str, float]], ...]


@dataclass(frozen=True)
class Nonnegative:
    method: str


Proof = Lmi | Chain | Nonnegative


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
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as problem:
        raise UnreadableError(f"{path}: cannot read the certificate: {problem.strerror or problem}") from problem
    return from_bytes(data)


def from_bytes(data: bytes) -> Certificate:
    """The inverse of `to_text`. CertificateRejected names the field and says what is wrong."""
    if len(data) > MAX_BYTES:
        _reject("file", f"larger than {MAX_BYTES >> 20} MiB")
    try:
        fields = json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except RecursionError:
        _reject("file", "nested too deeply")
    except json.JSONDecodeError as problem:
        _reject(f"line {problem.lineno}, column {problem.colno}", f"not JSON: {problem.msg}")
    except ValueError as problem:  # UTF-8, or a number of more digits than Python converts
        _reject("file", f"not JSON: {problem}")
    top = _record(fields, "", ("format", "model", "norm", "scope", "claim", "proof", "digest"))
    if top["format"] != FORMAT:
        _reject("format", f"this version reads {FORMAT}, not {_shown(top['format'])}")
    model = _record(top["model"], "model", tuple(MODEL))
    network = Network(**{name: read_field(model[name], f"model.{name}") for name, read_field in MODEL.items()})
    norm = _record(top["norm"], "norm", ("input", "output"))
    scope = _record(top["scope"], "scope", ("region", "output"))
    _one_of(scope["region"], "scope.region", ("global",))
    certificate = Certificate(
        network,
        Norm(_one_of(norm["input"], "norm.input", NORMS), _one_of(norm["output"], "norm.output", NORMS)),  # type: ignore[arg-type]
        _functional(scope["output"], "scope.output"),
        _bound(top["claim"], "claim"),
        _proof(top["proof"]),
    )
    if digest(norm, scope, top["proof"]) != _hex(top["digest"], "digest"):
        _reject("digest", "norm, scope or proof was changed or damaged: their digest is another one")
    return certificate


def _reject(place: str, reason: str) -> NoReturn:
    raise CertificateRejected(place, reason)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            _reject(key, "this field stands twice")
        found[key] = value
    return found


def _no_constant(text: str) -> NoReturn:
    _reject("file", f"{text} is not a number of JSON")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _record(value: Any, place: str, names: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        _reject(place or "file", f"an object is needed, not {_shown(value)}")
    dot = f"{place}." if place else ""
    for name in names:
        if name not in value:
            _reject(f"{dot}{name}", "this field is missing")
    for name in value:
        if name not in names:
            _reject(f"{dot}{_shown(name)}", "unknown field")
    return value


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str) or len(value) > 10_000:
        _reject(place, f"a text is needed, not {_shown(value)}")
    return value


def _one_of(value: Any, place: str, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in allowed:
        _reject(place, f"{_shown(value)} is none of {', '.join(allowed)}")
    return value


def _hex(value: Any, place: str) -> str:
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        _reject(place, f"64 hexadecimal digits are needed, not {_shown(value)}")
    return value


def _count(value: Any, place: str) -> int:
    if type(value) is not int or not 0 <= value < 2**53:
        _reject(place, f"a whole number is needed, not {_shown(value)}")
    return value


def _list(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        _reject(place, f"a list is needed, not {_shown(value)}")
    return value


def _float(value: Any, place: str) -> float:
    if type(value) is not float or not math.isfinite(value):  # 3 is not what `repr` writes of a float
        _reject(place, f"a finite float is needed, not {_shown(value)}")
    return value


def _bound(value: Any, place: str) -> float:
    number = _float(value, place)
    if number < 0 or math.copysign(1.0, number) < 0:
        _reject(place, f"{number!r} is negative")
    return number


def _weight(value: Any, place: str) -> float:
    number = _float(value, place)
    if not SMALLEST <= number <= LARGEST:
        _reject(place, f"{number!r} is outside 2^-500 .. 2^500")
    return number


def _shape(value: Any, place: str) -> tuple[int, ...]:
    return tuple(_count(item, f"{place}[{i}]") for i, item in enumerate(_list(value, place)))


def _numbers(value: Any, place: str) -> tuple[float, ...] | None:
    if value is None:
        return None
    return tuple(_float(item, f"{place}[{i}]") for i, item in enumerate(_list(value, place)))


def _functional(value: Any, place: str) -> Output:
    text = _text(value, place)
    try:
        output = Output.parse(text)
    except (UsageError, ValueError) as problem:
        raise CertificateRejected(place, f"{_shown(text)} is none of vector, I, I-J") from problem
    if output.kind == "pairs" or str(output) != text:
        _reject(place, f"{_shown(text)} is none of vector, I, I-J")
    return output


def _proof(value: Any) -> Proof:
    if not isinstance(value, dict):
        _reject("proof", f"an object is needed, not {_shown(value)}")
    kind = _one_of(value.get("kind"), "proof.kind", tuple(PROOFS))
    names, read_proof = PROOFS[kind]
    fields = _record(value, "proof", ("kind", "method", *names))
    return read_proof(_text(fields["method"], "proof.method"), fields)


def _read_lmi(method: str, fields: dict[str, Any]) -> Lmi:
    layers = _list(fields["multipliers"], "proof.multipliers")
    return Lmi(
        method,
        _one_of(fields["grouping"], "proof.grouping", ("neuron", "channel", "layer")),
        _one_of(fields["last"], "proof.last", ("input", "output")),
        _weight(fields["rho"], "proof.rho"),
        tuple(_floats_of(layer, f"proof.multipliers[{k}]") for k, layer in enumerate(layers)),
    )


def _floats_of(value: Any, place: str) -> tuple[float, ...]:
    fields = _record(value, place, ("count", "float64"))
    count = _count(fields["count"], f"{place}.count")
    text = fields["float64"]
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError) as problem:
        raise CertificateRejected(f"{place}.float64", f"not base64: {problem}") from problem
    if not isinstance(text, str) or base64.b64encode(data).decode() != text:
        _reject(f"{place}.float64", "not canonical base64")
    if len(data) != 8 * count:
        _reject(f"{place}.count", f"{count} floats are announced, {len(data)} bytes follow")
    numbers = array("d", data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return tuple(_weight(number, f"{place}.float64[{i}]") for i, number in enumerate(numbers))


def _read_chain(method: str, fields: dict[str, Any]) -> Chain:
    constants = []
    for k, row in enumerate(_list(fields["constants"], "proof.constants")):
        place = f"proof.constants[{k}]"
        norms = [name for name in row if name != "node"] if isinstance(row, dict) else []
        _record(row, place, ("node", *(name for name in norms if name in NORMS)))
        values = {name: _bound(row[name], f"{place}.{name}") for name in norms}
        constants.append((_count(row["node"], f"{place}.node"), values))
    return Chain(method, tuple(constants))


def _proof_fields(proof: Proof) -> dict[str, Any]:
    match proof:
        case Lmi(method, grouping, last, rho, multipliers):
            rows = [{"count": len(row), "float64": _base64(row)} for row in multipliers]
            kind = {"kind": "lmi", "method": method, "grouping": grouping, "last": last, "rho": rho}
            return kind | {"multipliers": rows}
        case Chain(method, constants):
            return {"kind": "chain", "method": method, "constants": [{"node": i} | row for i, row in constants]}
        case Nonnegative(method):
            return {"kind": "nonnegative", "method": method}


def _base64(row: tuple[float, ...]) -> str:
    numbers = array("d", row)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


MODEL: dict[str, Callable[[Any, str], Any]] = {
    "sha256": _hex,
    "graph": _hex,
    "input_name": _text,
    "output_name": _text,
    "input_shape": _shape,
    "output_shape": _shape,
    "mean": _numbers,
    "std": _numbers,
}
PROOFS: dict[str, tuple[tuple[str, ...], Callable[[str, dict[str, Any]], Proof]]] = {
    "lmi": (("grouping", "last", "rho", "multipliers"), _read_lmi),
    "chain": (("constants",), _read_chain),
    "nonnegative": ((), lambda method, fields: Nonnegative(method)),
}
