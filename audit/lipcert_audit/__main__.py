"""`lipcert-audit CERTIFICATE MODEL`: exit 0 accepted, 1 rejected, 2 unreadable, 3 the file says what is not known here."""

from __future__ import annotations

import sys
from pathlib import Path

from lipcert_audit.certificate import Claim, Rejected, read, reject
from lipcert_audit.network import Refused, Unreadable, load
from lipcert_audit.network import read as read_network
from lipcert_audit.operators import OPERATORS
from lipcert_audit.proofs import PROOFS

ENDS = {Rejected: (1, "REJECTED  ", "stdout"), Unreadable: (2, "unreadable", "stderr"), Refused: (3, "refused   ", "stderr")}


def audit(sha256: str, claims: list[Claim], model: Path) -> None:
    """Rejected, Refused or Unreadable unless each claim is proved of this file."""
    onnx_model, found = load(model)
    if sha256 != found:
        reject("model.sha256", f"the certificate is about {sha256}, this file is {found}")
    for claim in claims:
        network_of, prove = PROOFS[claim.proof["kind"]]
        network = network_of(claim)
        try:
            prove(network, read_network(onnx_model, claim.question, network, OPERATORS), claim)
        except Rejected as problem:
            raise Rejected(claim.place + problem.place, problem.reason) from problem


def plain(text: object) -> str:
    """Names of a file cannot write to a terminal what they like."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(text))


def main(arguments: list[str] | None = None) -> int:
    paths = sys.argv[1:] if arguments is None else arguments
    if len(paths) != 2 or paths[0].startswith("-"):
        print("usage: lipcert-audit CERTIFICATE MODEL.onnx")
        return 0 if "--help" in paths or "-h" in paths else 2
    try:
        sha256, claims = read(Path(paths[0]))
        for line in (f"file       sha256 {sha256}", *(line for claim in claims for line in claim.words())):
            print(plain(line))
        audit(sha256, claims, Path(paths[1]))
    except (Rejected, Unreadable, Refused) as problem:
        status, word, stream = ENDS[type(problem)]
        print(plain(f"{word} {problem}"), file=getattr(sys, stream))
        return status
    print("accepted   proved in exact arithmetic, from this file")
    return 0


if __name__ == "__main__":
    sys.exit(main())
