"""The certificate file `lipcert.certificate/2`: one claim about one network, with what it takes to prove it again.

    {"format": "lipcert.certificate/2",
     "model": {"sha256": hex64,                           of the file
               "input_name": str, "output_name": str, "input_shape": [int], "output_shape": [int],
               "mean": [float] | null, "std": [float] | null},
                                                         of several inputs also "parts" and "fixed": proofs/inputs.py
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

from lipcert.proofs import inputs
from lipcert.proofs.kinds import PROOFS, Proof
from lipcert.proofs.kinds.chain import bound_of
from lipcert.terms.errors import CertificateRejected, UnreadableError, UsageError
from lipcert.terms.files import check_regular
from lipcert.terms.query import NORMS, Norm, Output, Region
from lipcert.terms.strict import (
    count_of,
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
    parts: Any = ()  # of several inputs that move, and what others are held at: see proofs/inputs.py
    fixed: Any = ()
    sorts: int | None = None  # sorts among the nonlinearities, for checkers that know none; None: not said


@dataclass(frozen=True)
class Certificate:
    """`claim`: an upper value of the Lipschitz constant from l_input to l_output over the region (None: the whole input
    space; another one only in format 3, proofs/several.py)."""

    network: Network
    norm: Norm
    output: Output
    claim: float
    proof: Proof
    region: Region = None


def to_text(certificate: Certificate) -> str:
    """Deterministic: the same certificate gives the same bytes."""
    net = certificate.network
    norm = {"input": certificate.norm.input, "output": certificate.norm.output}
    scope = {"region": "global", "output": str(certificate.output)}
    proof = fields_of(certificate.proof)
    fields = {
        "format": FORMAT,
        "model": model_fields(net),
        "norm": norm,
        "scope": scope,
        "claim": certificate.claim,
        "proof": proof,
        "digest": digest(norm, scope, proof),
    }
    return json.dumps(fields, indent=1, allow_nan=False) + "\n"


def fields_of(proof: Proof) -> dict[str, Any]:
    return {"kind": proof.kind, "method": proof.method, **proof.fields()}


def model_fields(network: Network) -> dict[str, Any]:
    said = {"sorts": network.sorts} if network.sorts else {}
    return {name: _plain(getattr(network, name)) for name in MODEL} | inputs.fields_of(network) | said


def digest(norm: dict[str, Any], scope: dict[str, Any], proof: dict[str, Any]) -> str:
    """sha256 of the JSON list of the three: keys sorted, no spaces, ASCII."""
    text = json.dumps([norm, scope, proof], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def contents(path: str | Path) -> bytes:
    """UnreadableError (exit 2) where there is no such file."""
    check_regular(path, str(path))
    try:
        with open(path, "rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as problem:
        raise UnreadableError(f"{path}: cannot read the certificate: {problem.strerror or problem}") from problem


def read(path: str | Path) -> Certificate:
    """UnreadableError (exit 2) where there is no such file, else CertificateRejected (exit 1) with the place."""
    return from_bytes(contents(path))


def from_bytes(data: bytes) -> Certificate:
    """The inverse of `to_text`. CertificateRejected names the field and says what is wrong."""
    return from_fields(fields_from(data))


def fields_from(data: bytes) -> Any:
    """The JSON document of a file that is not too large."""
    if len(data) > MAX_BYTES:
        reject("file", f"larger than {MAX_BYTES >> 20} MiB")
    return load(data)


def from_fields(fields: Any) -> Certificate:
    top = record(fields, "", ("format", "model", "norm", "scope", "claim", "proof", "digest"))
    old = one_of(top["format"], "format", (FORMAT, OLD_FORMAT)) == OLD_FORMAT
    network = network_of(top["model"], MODEL | {"graph": hex64} if old else MODEL)
    norm = record(top["norm"], "norm", ("input", "output"))
    scope = record(top["scope"], "scope", ("region", "output"))
    one_of(scope["region"], "scope.region", ("global",))
    certificate = Certificate(
        network,
        norm_of(norm),
        functional_of(scope["output"], "scope.output"),
        bound_of(top["claim"], "claim"),
        proof_of(top["proof"], old),
    )
    if digest(norm, scope, top["proof"]) != hex64(top["digest"], "digest"):
        reject("digest", "norm, scope or proof was changed or damaged: their digest is another one")
    return certificate


def network_of(value: Any, readers: dict[str, Callable[[Any, str], Any]]) -> Network:
    also = tuple(name for name in (*inputs.OPTIONAL, "sorts") if isinstance(value, dict) and name in value)
    model = record(value, "model", (*readers, *also))
    fields: dict[str, Any] = {name: read_field(model[name], f"model.{name}") for name, read_field in readers.items()}
    sorts = count_of(model["sorts"], "model.sorts") if "sorts" in model else None
    return Network(**(fields | inputs.inputs_of(model)), sorts=sorts)


def norm_of(norm: dict[str, Any]) -> Norm:
    return Norm(one_of(norm["input"], "norm.input", NORMS), one_of(norm["output"], "norm.output", NORMS))  # type: ignore[arg-type]


def functional_of(value: Any, place: str) -> Output:
    text = text_of(value, place)
    try:
        output = Output.parse(text)
    except (UsageError, ValueError) as problem:
        raise CertificateRejected(place, f"{shown(text)} is none of vector, I, I-J") from problem
    if output.many or str(output) != text:
        reject(place, f"{shown(text)} is none of vector, I, I-J")
    return output


def proof_of(value: Any, positions: bool) -> Proof:
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
