"""`lipcert-audit CERTIFICATE MODEL`: exit 0 accepted, 1 rejected, 2 unreadable, 3 the file says what is not known here."""

import sys
from dataclasses import replace
from pathlib import Path

from lipcert_audit import network
from lipcert_audit.certificate import Claim, Point, read
from lipcert_audit.network import Refused, Unreadable
from lipcert_audit.operators import OPERATORS
from lipcert_audit.proofs import PROOFS
from lipcert_audit.regions import Hinges, radii, tree
from lipcert_audit.strict import Rejected, reject

KINDS = PROOFS | {"tree": (Hinges, tree)}
ENDS = {Rejected: (1, "REJECTED  ", "stdout"), Unreadable: (2, "unreadable", "stderr"), Refused: (3, "refused   ", "stderr")}


def audit(sha256: str, claims: list[Claim], points: list[Point], model: Path) -> None:
    """Rejected, Refused or Unreadable unless each claim is proved of this file, and each radius follows from them."""
    onnx_model, found = network.load(model)
    if sha256 != found:
        reject("model.sha256", f"the certificate is about {sha256}, this file is {found}")
    for claim in claims:
        network_of, prove = KINDS[claim.proof["kind"]]
        taken = network_of(claim)
        try:
            prove(taken, network.read(onnx_model, claim.question, taken, OPERATORS), claim)
        except Rejected as problem:
            raise Rejected(claim.place + problem.place, problem.reason) from problem
    if points:
        asked, hinges = replace(claims[0].question, functional="vector"), Hinges()
        radii(hinges, network.read(onnx_model, asked, hinges, OPERATORS), points, claims)


def plain(text: object) -> str:
    """Names of a file cannot write to a terminal what they like."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(text))


def main(arguments: list[str] | None = None) -> int:
    paths = sys.argv[1:] if arguments is None else arguments
    if len(paths) != 2 or paths[0].startswith("-"):
        print("usage: lipcert-audit CERTIFICATE MODEL.onnx")
        return 0 if "--help" in paths or "-h" in paths else 2
    try:
        sha256, claims, points = read(Path(paths[0]))
        said = (f"file       sha256 {sha256}", *(line for what in (*claims, *points) for line in what.words()))
        print(*map(plain, said), sep="\n")
        audit(sha256, claims, points, Path(paths[1]))
    except (Rejected, Unreadable, Refused) as problem:
        status, word, stream = ENDS[type(problem)]
        print(plain(f"{word} {problem}"), file=getattr(sys, stream))
        return status
    print("accepted   proved in exact arithmetic, from this file")
    return 0


if __name__ == "__main__":
    sys.exit(main())
