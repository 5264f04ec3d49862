"""`lipcert-audit CERTIFICATE MODEL`: exit 0 accepted, 1 rejected, 2 unreadable, 3 the file says what is not known here."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from lipcert_audit.certificate import Certificate, Rejected, read, reject
from lipcert_audit.network import Refused, Unreadable, load, refuse
from lipcert_audit.network import read as read_network
from lipcert_audit.operators import OPERATORS
from lipcert_audit.proofs import PROOFS

ENDS = {Rejected: (1, "REJECTED  ", "stdout"), Unreadable: (2, "unreadable", "stderr"), Refused: (3, "refused   ", "stderr")}
USAGE = "usage: lipcert-audit CERTIFICATE MODEL.onnx"


def audit(certificate: Certificate, model: Path) -> None:
    """Rejected, Refused or Unreadable unless the certificate proves its claim of this file."""
    onnx_model, sha256 = load(model)
    if sha256 != certificate.sha256:
        reject("model.sha256", f"the certificate is about {certificate.sha256}, this file is {sha256}")
    kind = certificate.proof["kind"]
    if certificate.positions and kind == "cplip":
        refuse("cplip in format 1: it names positions that only lipcert knows")
    network_of, prove = PROOFS[kind]
    network = network_of(int(np.prod(certificate.question.input_shape, dtype=int)), certificate)
    prove(network, read_network(onnx_model, certificate.question, network, OPERATORS), certificate)


def plain(text: object) -> str:
    """Names of a file cannot write to a terminal what they like."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(text))


def main(arguments: list[str] | None = None) -> int:
    paths = sys.argv[1:] if arguments is None else arguments
    if len(paths) != 2 or paths[0].startswith("-"):
        print(USAGE)
        return 0 if "--help" in paths or "-h" in paths else 2
    try:
        certificate = read(Path(paths[0]))
        for line in certificate.words():
            print(plain(line))
        audit(certificate, Path(paths[1]))
    except (Rejected, Unreadable, Refused) as problem:
        status, word, stream = ENDS[type(problem)]
        print(plain(f"{word} {problem}"), file=getattr(sys, stream))
        return status
    print("accepted   proved in exact arithmetic, from this file")
    return 0


if __name__ == "__main__":
    sys.exit(main())
