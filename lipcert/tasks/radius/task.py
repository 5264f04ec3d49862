"""`lipcert radius`: samples in batches, each with its certified radius, into one report. `radius` is the Python API."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lipcert.load.data import fingerprint
from lipcert.load.model import Model
from lipcert.methods.problem import Problem
from lipcert.network.scope import describe
from lipcert.regions.backward.adjoint import obstacle
from lipcert.report.report import Report
from lipcert.report.to_json import write_atomically
from lipcert.sampling.attack import Pgd
from lipcert.tasks.execution import OUTPUTS, Execution
from lipcert.tasks.journal.resume import Earlier, Resumed
from lipcert.tasks.radius.certificate import certify_radii
from lipcert.tasks.radius.constants import GLOBAL, Constants, OneConstant, ProvedConstant, norm_for
from lipcert.tasks.radius.margins import read_labels
from lipcert.tasks.radius.regions import NEEDS_NUMBA, REAL, in_the_way
from lipcert.tasks.radius.samples import How, OfSamples, needed
from lipcert.tasks.radius.values import in_the_way as no_values
from lipcert.tasks.shards import CUT, Data, Phase, Shard, Sharded
from lipcert.tasks.task import Session, carry_out
from lipcert.terms.clock import OutOfTime
from lipcert.terms.errors import UsageError
from lipcert.terms.query import Norm
from lipcert.terms.result import Refusal, Result

METHODS = ("pairs", "local", "values", "regions", "global", "sqrt2")
DEFAULT = ("pairs", "local", "values", "regions")
BATCH = 25  # of a shard: a matter of seconds
EXECUTION = (
    "margins are less a bound of the error of a float32 evaluation at the sample; float evaluation elsewhere in the "
    "ball is not covered"
)


@dataclass(eq=False, kw_only=True)
class Radii(Sharded):
    """`x` (k, n), `labels` (k,) or None; `how` each sample is treated; `constants`: proved once, for all samples. `noted`:
    warnings. `adversarial`: file for the inputs that an attack finds inside a certified radius."""

    x: np.ndarray
    labels: torch.Tensor | None
    how: How
    constants: Constants
    asked: dict[str, Any]
    eps: Sequence[float]
    adversarial: str | Path | None
    noted: list[str]
    certificate: str | Path | None = None
    done: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    inside: list[tuple[int, torch.Tensor]] = field(default_factory=list)

    command = "radius"
    rows_are = "samples"

    def take(self, before: Resumed) -> None:
        self.done = _resumed(before, self.constants, len(self.x))
        self.rows += [row for batch in self.done.values() for row in batch]

    def phases(self) -> Iterator[Phase]:
        if self.session.workers is not None or self.session.journal is not None:
            asked = self.scopes()
            if not self.constants.every:
                yield Phase(OneConstant(self.constants.problem), asked[:1])
                asked = self.scopes() if self.constants.hopeful else []
            yield Phase(OneConstant(self.constants.problem), asked)
        yield Phase(OfSamples(self.model.graph, self.constants, self.how), self.batches())
        self.end()
        if any(row.get(CUT) for row in self.rows):
            raise OutOfTime

    def scopes(self) -> list[Shard]:
        """A shard for each constant that the samples need and that is not known."""
        found: dict[str, None] = {}
        for shard in self.batches():
            self.session.say("margins", shard.what[0], len(self.x))
            _, x, y = shard.what
            found |= dict.fromkeys(needed(self.model.graph, x, y, self.how))
        return [Shard(f"constant {scope}", scope) for scope in found if scope not in self.constants.known]

    def batches(self) -> list[Shard]:
        parts = [
            (begin, slice(begin, begin + BATCH)) for begin in range(0, len(self.x), BATCH) if begin not in self.done
        ]
        labels = None if self.labels is None else self.labels.numpy()
        return [
            Shard(f"samples from {begin}", (begin, self.x[part], None if labels is None else labels[part]))
            for begin, part in parts
        ]

    def gather(self, shard: Shard, found: Data) -> None:
        for scope, constant in found["constants"].items():
            self.constants.known.setdefault(scope, ProvedConstant(**constant))
        if "rows" not in found:
            self.session.say("constants", len(self.constants.known))
            return
        self.rows += [self.before.seal.on(row) for row in found["rows"]]
        self.inside += [(index, torch.tensor(at, dtype=torch.float64)) for index, at in found["inside"]]
        rate = (len(self.rows) - self.before.taken) / max(1e-9, self.session.seconds)
        self.session.say(f"samples, {rate:.1f} per second", len(self.rows), len(self.x))

    def end(self) -> None:
        self.rows.sort(key=lambda row: row["index"])
        self.inside.sort(key=lambda found: found[0])
        if self.inside and self.adversarial is not None:
            _save(self.adversarial, self.inside, self.model.input_shape)
            self.noted.append(f"inputs found inside certified radii are in {self.adversarial}")
        if self.certificate is not None:
            self.session.say("certificate")
            self.noted += certify_radii(self.certificate, self.model, self.norm, self.x, self.rows, self.constants)

    def answer(self) -> dict[str, Any]:
        spent = self.session.seconds
        of_all = summary(self.rows, self.eps, self.labels is not None, self.how.attack is not None)
        constants = [self.before.seal.on(row) for row in _rows(self.constants)]
        return {
            "results": _refusals(self.rows, self.constants, spent),
            "points": sorted(self.rows, key=lambda row: row["index"]),
            "summary": {"asked": self.asked, **of_all, "constants": constants, "seconds": spent, **self.executed()},
            "assumptions": self.assumptions(),
            "warnings": [*self.model.warnings, *self.resumed, *self.noted],
        }

    def assumptions(self) -> list[str]:
        stated = [*self.model.assumptions, *_of_valid(self.how)]
        if self.how.execution is not None:
            covered = (
                f"radii hold in real arithmetic, and for the network executed in {self.how.execution.arithmetic.name}"
            )
            return self.how.execution.assumptions(stated, covered)
        return [*stated, *([] if self.how.tolerance is not None else [EXECUTION])]

    def executed(self) -> dict[str, Any]:
        """The largest error over the balls, of the functionals that decide."""
        if self.how.execution is None:
            return {}
        errors = [row["error"] for row in self.rows if row["status"] in ("certified", "not certified")]
        largest = None if None in errors else max(errors, default=0.0)
        return {"execution": self.how.execution.summary(largest, "inf")}


@dataclass(frozen=True, kw_only=True, eq=False)
class RadiusRequest:
    """What is asked of the samples `x` (k, *input_shape) with labels `y` (k,) or None.

    `methods`: of METHODS; the largest radius is taken. `tolerance`: regression, each output moves by at most this much.
    `attack`: PGD beside it; inputs found inside a certified radius go into the file `adversarial` and fail the self-check.
    `execution`: "float32", "bfloat16" or "float16": radii hold for the network executed so as well, its error at the sample
    and everywhere in the ball taken off the margins. `certificate`: file from which `verify` proves the radii again that follow
    from global constants. `valid`: radii and the attack are about inputs alone whose entries lie in this range; where x does not,
    UsageError.
    """

    x: np.ndarray
    y: np.ndarray | None = None
    norm: str | Norm = "2"
    methods: Sequence[str] | None = None
    eps: Sequence[float] = ()
    tolerance: float | None = None
    attack: Pgd | None = None
    adversarial: str | Path | None = None
    execution: str | None = None
    certificate: str | Path | None = None
    valid: tuple[float, float] | None = None
    seed: int = 0

    def as_reported(self, methods: Sequence[str], x: np.ndarray, labels: torch.Tensor | None) -> dict[str, Any]:
        asked: dict[str, Any] = {"methods": list(methods), "tolerance": self.tolerance}
        data = fingerprint(x, None if labels is None else labels.numpy())
        asked |= {"attack": _attack_words(self.attack), "samples": len(x), "data": data, "seed": self.seed}
        asked |= {} if self.execution is None else {"execution": self.execution}
        return asked | ({} if self.valid is None else {"valid": list(self.valid)})


def radius(model: Model, request: RadiusRequest, session: Session | None = None, resume: Earlier = None) -> Report:
    """Certified radii: `Report.points`. `resume`: a `partial_report`, or a file, of the same question."""
    norm, graph, tolerance = norm_for(str(request.norm)), model.graph, request.tolerance
    not_exact = in_the_way(graph) or (None if request.execution is None else REAL)
    chosen = _chosen(request.methods, not_exact)
    size = graph.nodes[graph.output].size
    _check_asked(size, request)
    x = np.asarray(request.x, dtype=np.float64).reshape(len(request.x), math.prod(graph.input_shape))
    request = _within_valid(request, x)
    labels = read_labels(request.y, len(x), size, tolerance)
    blocked = obstacle(graph)
    executed = Execution.required(model, request.execution)
    how = How(norm.input, chosen, blocked is None, tolerance, request.attack, execution=executed, valid=request.valid)
    how = replace(how, regions=not_exact is None, values=no_values(graph) is None, at_sample=_at_sample(model, request))
    constants = Constants(Problem(graph, norm, seed=request.seed), every=bool(request.methods))
    asked = request.as_reported(chosen, x, labels)
    output = "vector" if tolerance is not None or size == 1 else "pairs"
    task = Radii(
        model,
        norm,
        model.question("radius", norm, None, output, asked),
        describe(None),
        output,
        x=x,
        labels=labels,
        how=how,
        constants=constants,
        asked=asked,
        eps=request.eps,
        adversarial=request.adversarial,
        noted=_noted(x, blocked if "local" in chosen else None, _told(not_exact, request.methods)),
        certificate=request.certificate,
    )
    return carry_out(task, session, resume)


def _at_sample(model: Model, request: RadiusRequest) -> Execution | None:
    """What bounds the error at a sample, where that is all that comes off a margin. None: nothing, or margins.py alone."""
    asked = request.execution is not None or request.tolerance is not None
    if asked or model.weights is not None or model.lowered_in is None or math.prod(model.output_shape) > OUTPUTS:
        return None
    found = Execution.of(model, "float32")
    return None if found is None or found.refusal is not None else found


def _check_asked(outputs: int, request: RadiusRequest) -> None:
    tolerance = request.tolerance
    if request.certificate is not None and (request.execution is not None or tolerance is not None):
        raise UsageError("--certificate: it is about classes in real arithmetic; leave out --execution and --tolerance")
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance > 0):
        raise UsageError(f"--tolerance {tolerance}: write a finite number above 0")
    if outputs == 0:
        raise UsageError("lipcert radius: the model has no outputs")


def _within_valid(request: RadiusRequest, x: np.ndarray) -> RadiusRequest:
    """The attack stays where the radii hold: else it would seem to break them."""
    if request.valid is None:
        return request
    low, high = request.valid
    outside = np.flatnonzero(np.isfinite(x).all(axis=1) & ((x < low) | (x > high)).any(axis=1))
    if len(outside):
        raise UsageError(
            f"--valid {low:g}:{high:g}: sample {outside[0]} has entries from {x[outside[0]].min():g} to {x[outside[0]].max():g}; "
            "the range is about inputs as the model takes them, all samples lie in it"
        )
    if request.attack is None:
        return request
    if request.attack.clip not in (None, request.valid):
        raise UsageError("--clip: --valid says which inputs count, for the attack too; leave out one of them")
    return replace(request, attack=replace(request.attack, clip=request.valid))


def _of_valid(how: How) -> list[str]:
    if how.valid is None:
        return []
    return [
        f"radii are about inputs with every entry in [{how.valid[0]!r}, {how.valid[1]!r}]; others may change the class nearer by"
    ]


def _noted(x: np.ndarray, blocked: tuple[str, str] | None, not_exact: str | None) -> list[str]:
    noted = []
    missing = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(missing):
        named = ", ".join(map(str, missing[:5])) + (", .." if len(missing) > 5 else "")
        noted.append(f"{len(missing)} samples hold NaN or infinity and have radius 0: {named}")
    if blocked is not None:
        noted.append(f"no local radii: node {blocked[0]}: {blocked[1]}")
    if not_exact is not None:
        noted.append(f"no radii by linear regions: {not_exact}")
    return noted


def _told(not_exact: str | None, methods: Sequence[str] | None) -> str | None:
    """Why there are no exact radii, where they were asked for or could be had."""
    return not_exact if "regions" in (methods or ()) or (not methods and not_exact == NEEDS_NUMBA) else None


def _chosen(methods: Sequence[str] | None, not_exact: str | None) -> tuple[str, ...]:
    """`regions` without being asked for where it applies."""
    unknown = [name for name in methods or () if name not in METHODS]
    if unknown:
        raise UsageError(f"--method {unknown[0]}: radius methods are {', '.join(METHODS)}")
    usual = DEFAULT if not_exact is None else tuple(name for name in DEFAULT if name != "regions")
    return tuple(name for name in METHODS if name in (methods or usual))


def summary(rows: Sequence[dict[str, Any]], eps: Sequence[float], labelled: bool, attacked: bool) -> dict[str, Any]:
    """Over all samples; a sample that is not certified counts with radius 0."""
    n = len(rows)
    radii = np.array([row["radius"] for row in rows]) if n else np.zeros(0)
    right = np.array([row["status"] in ("certified", "not certified", "tie") for row in rows], dtype=bool)
    found: dict[str, Any] = {"samples": n, "labelled": labelled}
    found["accuracy"] = float(right.mean()) if n and labelled else None
    found["status"] = {word: sum(row["status"] == word for row in rows) for word in sorted({r["status"] for r in rows})}
    found["radius"] = None if not n else {
        "mean": float(radii.mean()),
        "median": float(np.median(radii)),
        "max": float(radii.max()),
    }  # fmt: skip
    methods = rows[0]["radii"] if n else {}
    found["mean_radius"] = {m: float(np.mean([row["radii"][m] for row in rows])) for m in methods}
    found["certified"] = [
        {
            "eps": e,
            "certified_accuracy": float(((radii >= e) & (radii > 0)).mean()) if n else None,
            "attacked_accuracy": float(_survived(rows, e).mean()) if n and attacked else None,
        }
        for e in sorted(set(eps))
    ]
    return found


def _survived(rows: Sequence[dict[str, Any]], eps: float) -> np.ndarray:
    """Right, and no attack was found within eps: at least the certified, at most the true accuracy."""
    return np.array(
        [
            row["status"] in ("certified", "not certified")
            and not (row["attacked"] is not None and row["attacked"] <= eps)
            for row in rows
        ],
        dtype=bool,
    )


def _refusals(rows: Sequence[dict[str, Any]], constants: Constants, seconds: float) -> list[Result]:
    """Where no sample has a radius because no constant is finite: why."""
    if not rows or any(row["radius"] > 0 for row in rows) or not any(r["status"] == "not certified" for r in rows):
        return []
    missing = [c for c in constants.known.values() if c.value is None]
    worst = next((c for c in missing if c.unbounded), missing[0] if missing else None)
    if worst is None:
        return []
    status = "unbounded" if worst.unbounded else "refused"
    return [Refusal("pairs", "upper", status, worst.reason or "no finite constant", worst.node, seconds)]  # type: ignore[arg-type]


def _rows(constants: Constants) -> list[dict[str, Any]]:
    return [
        {"output": scope, "upper": c.value, "method": c.method, "reason": c.reason, "node": c.node, "unbounded": c.unbounded}
        for scope, c in sorted(constants.known.items())
    ]  # fmt: skip


def _attack_words(attack: Pgd | None) -> dict[str, Any] | None:
    if attack is None:
        return None
    return {name: getattr(attack, name) for name in ("restarts", "steps", "rounds", "sizes", "clip", "seed")}


def _resumed(before: Resumed, constants: Constants, count: int) -> dict[int, list[dict[str, Any]]]:
    """By its first sample: each batch of which every row is sealed, for rounding and random starts go with the batch."""
    for row in before.rows("summary.constants", by=lambda row: row["output"], count=False):
        about = (row[name] for name in ("upper", "method", "reason", "node", "unbounded"))
        constants.known[row["output"]] = ProvedConstant(*about)
    rows = before.rows("points", by=lambda row: row["index"], count=False)
    found = {row["index"]: row for row in rows if not row.get(CUT)}
    batches = {}
    for begin in range(0, count, BATCH):
        batch = [found[k] for k in range(begin, min(begin + BATCH, count)) if k in found]
        if len(batch) == min(BATCH, count - begin):
            batches[begin] = batch
            before.note(len(batch), 0)
    return batches


def _save(path: str | Path, inside: list[tuple[int, torch.Tensor]], shape: Sequence[int]) -> None:
    x = np.stack([at.numpy().reshape(tuple(shape)) for _, at in inside])
    stream = io.BytesIO()
    np.savez(stream, x=x, index=np.array([index for index, _ in inside]))
    write_atomically(stream.getvalue(), path)


__all__ = ["DEFAULT", "GLOBAL", "METHODS", "radius", "summary"]
