"""What a search on a torus keeps for the next run of the same question: multipliers when they are to be proved, and every
family of frequencies once it is proved.

A family is kept under a digest of all numbers that its proof reads, so that it is found again by the same inequality alone;
the values are those of `proofs.torus.family`, to the last bit. A journal gives back only what this user's lipcert wrote (its
seals), as with every other row. Multipliers are proposals, as always.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipcert.proofs.torus import Proved, TorusInequality, family
from lipcert.proofs.torus_form import TorusForm
from lipcert.terms.kept import Kept


@dataclass
class KnownFamilies:
    """`family`, of which those that are kept are not proved again."""

    kept: Kept
    newest: tuple[TorusInequality, str] | None = field(default=None, init=False)

    def __call__(self, problem: TorusInequality, frequencies: Tensor) -> Proved | None:
        key = f"torus families {self.digest(problem)} {frequencies.tolist()}"
        found = self.kept.get(key)
        if found is not None:
            blocks = {(row["at"][0], row["at"][1]): read(row) for row in found["blocks"]}
            return blocks, float(found["shift"])
        proved = family(problem, frequencies)
        if proved is not None:
            rows = [{"at": list(at), **written(block)} for at, block in proved[0].items()]
            self.kept.add(key, {"blocks": rows, "shift": proved[1]})
        return proved

    def digest(self, problem: TorusInequality) -> str:
        if self.newest is None or self.newest[0] is not problem:
            self.newest = problem, digest(problem)
        return self.newest[1]


def digest(problem: TorusInequality) -> str:
    """Of all that `family` reads."""
    found, form = hashlib.sha256(), problem.form
    sites = [(s.channels, s.level, s.fold) for s in form.sites]
    found.update(repr((sites, form.coarse, form.outputs, form.ends_on_map, problem.sizes, problem.error)).encode())
    for name, parts in (("couplings", problem.couplings), ("squares", problem.squares)):
        for c in parts:
            found.update(repr((name, c.k, c.j, tuple(c.taps.shape), c.places.tolist())).encode())
            found.update(c.taps.contiguous().numpy().tobytes())
            found.update(b"" if c.window is None else c.window.contiguous().numpy().tobytes())
    for diagonal in problem.diagonals:
        found.update(diagonal.contiguous().numpy().tobytes())
    return found.hexdigest()


@dataclass(frozen=True, eq=False)
class Proposal:
    """Multipliers of s_y = 1 after so many sweeps, the value L^2 at them, and the largest dual L so far."""

    sweeps: int
    value: float
    dual: float
    multipliers: Sequence[Tensor]

    def fields(self) -> dict[str, Any]:
        rows = [written(m) for m in self.multipliers]
        return {"sweeps": self.sweeps, "value": self.value, "dual": self.dual, "multipliers": rows}

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Proposal:
        found = [read(m) for m in row["multipliers"]]
        return cls(int(row["sweeps"]), float(row["value"]), float(row["dual"]), found)


@dataclass
class Proposals:
    """Of one search, in their order, under the network and all options. They are no part of any proof."""

    kept: Kept
    name: str
    count: int = field(default=0, init=False)

    @classmethod
    def of(cls, kept: Kept, form: TorusForm, *options: float) -> Proposals:
        return cls(kept, f"torus multipliers {form.graph.fingerprint()} {len(form.maps)} {list(options)}")

    def earlier(self) -> Iterator[Proposal]:
        while (row := self.kept.get(f"{self.name} {self.count}")) is not None:
            self.count += 1
            yield Proposal.of(row)

    def add(self, proposal: Proposal) -> None:
        if math.isfinite(proposal.value) and math.isfinite(proposal.dual):
            self.kept.add(f"{self.name} {self.count}", proposal.fields())
            self.count += 1


def written(t: Tensor) -> dict[str, Any]:
    """float64, to the last bit."""
    data = t.contiguous().numpy().astype("<f8").tobytes()
    return {"shape": list(t.shape), "float64": base64.b64encode(data).decode()}


def read(row: Mapping[str, Any]) -> Tensor:
    data = np.frombuffer(base64.b64decode(row["float64"]), "<f8").astype("=f8")
    return torch.from_numpy(data.reshape(row["shape"]))
