"""The certificate of radii: margins at the samples, and the proved constants of the whole network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lipcert.load.model import Model
from lipcert.proofs.radii import largest
from lipcert.proofs.several import Point
from lipcert.tasks.certify import certificate_of
from lipcert.tasks.certify_several import written
from lipcert.tasks.radius.constants import Constants
from lipcert.terms.query import Norm, Output

LEFT = ("certified", "not certified")


def certify_radii(
    path: str | Path, model: Model, norm: Norm, x: np.ndarray, rows: Sequence[Mapping[str, Any]], constants: Constants
) -> list[str]:
    """x (k, n), `rows` as in the report. Samples of which nothing is shown are left out. Warnings."""
    claims = [
        certificate_of(bound, model.graph, model.info, norm, Output.parse(scope))
        for scope, bound in sorted(constants.with_proofs().items())
    ]
    some = [row for row in rows if row["status"] in LEFT]
    known = {str(claim.output): claim.claim for claim in claims}
    labels = [row["predicted"] for row in some]
    at = torch.from_numpy(x[[row["index"] for row in some]])
    radii = largest(model.graph, norm.output, known, at, labels).tolist() if some else []
    points = [Point(tuple(v.tolist()), c, r) for v, c, r in zip(at, labels, radii, strict=True) if r > 0]
    if not points:
        return [f"no certificate was written to {path}: no radius follows from constants that have a proof"]
    written(path, model, norm, claims, points)
    smaller = sum(r < row["radius"] * (1 - 1e-6) for row, r in zip(some, radii, strict=True))
    if not smaller:
        return []
    return [
        f"the certificate holds the radii that follow from global constants: {smaller} of {len(some)} are smaller than in the "
        "report, where they come from local constants or linear regions"
    ]
