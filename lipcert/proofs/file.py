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

The fields of each kind of proof are described in its file of lipcert/proofs/kinds.

Nothing in the file names an object of this program: nonlinearities come in the order of the model file (docs/certificate.md).
Format 1 is read as well: there "model" has "graph" (hex64, `Graph.fingerprint()`), "node" and "passed" are positions in
that graph.

Text is UTF-8 JSON without NaN, infinities, duplicate or unknown keys; floats are written by `repr`, which is exact.
A file with any field changed is rejected, but for a claim that is raised (it stays true). The digest finds damage, not
malice: who recomputes it leaves the decision to the proof, and of that proof only `method` is informative. This module reads and writes the format and knows nothing of networks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipcert.proofs.kinds import PROOFS, Proof
from lipcert.proofs.kinds.chain import bound_of
from lipcert.terms.errors import CertificateRejected, UnreadableError, UsageError
from lipcert.terms.files import check_regular
from lipcert.terms.query import NORMS, Norm, Output
from lipcert.terms.strict import (
    counts_of,
    floats_or_null,
    hex64,
    load,
    one_of,
    record,
    reject,
    shown,
    text_of,
)

FORMAT, OLD_FORMAT = "lipcert.certificate/2", "lipcert.certificate/1"
MAX_BYTES = 256 * 2**20  # 25 million multipliers


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
    made = certificate.proof
    proof = {"kind": made.kind, "method": made.method, **made.fields()}
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
        bound_of(top["claim"], "claim"),
        _proof(top["proof"], old),
    )
    if digest(norm, scope, top["proof"]) != hex64(top["digest"], "digest"):
        reject("digest", "norm, scope or proof was changed or damaged: their digest is another one")
    return certificate


def _functional(value: Any, place: str) -> Output:
    text = text_of(value, place)
    try:
        output = Output.parse(text)
    except (UsageError, ValueError) as problem:
        raise CertificateRejected(place, f"{shown(text)} is none of vector, I, I-J") from problem
    if output.many or str(output) != text:
        reject(place, f"{shown(text)} is none of vector, I, I-J")
    return output


def _proof(value: Any, positions: bool) -> Proof:
    if not isinstance(value, dict):
        reject("proof", f"an object is needed, not {shown(value)}")
    kind = PROOFS[one_of(value.get("kind"), "proof.kind", tuple(PROOFS))]
    fields = record(value, "proof", ("kind", "method", *kind.names))
    return kind.read(text_of(fields["method"], "proof.method"), fields, positions)


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
