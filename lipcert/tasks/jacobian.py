"""Measurements at data: `jacobian`. Reports of what the network does at points; the one bound in it is a lower value."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipcert.load.data import fingerprint
from lipcert.load.model import Model
from lipcert.methods.sampled import stored
from lipcert.network.graph import Graph, Nonlinear
from lipcert.network.scope import checked_region, describe
from lipcert.network.subnet import cut, find, layers, prefix
from lipcert.regions.device import available
from lipcert.report.report import Report
from lipcert.sampling import jacobian as measured
from lipcert.sampling.directions import no_derivative
from lipcert.sampling.laplacian import most_samples, smoothness
from lipcert.sampling.pairs import jacobian_norms
from lipcert.sampling.points import Points, batches, point_sets
from lipcert.tasks.journal.resume import Earlier, Resumed
from lipcert.tasks.proved_jacobian import proved_jacobian
from lipcert.tasks.shards import Data, Phase, Shard, Sharded
from lipcert.tasks.task import Session, carry_out
from lipcert.terms.errors import UsageError
from lipcert.terms.query import Box, Norm, Region
from lipcert.terms.result import Bound, Result

AT_POINTS = (
    "Jacobians are those of automatic differentiation, in float64 without an error term; at a kink, what autograd says; "
    "singular values below about 1e-15 of the largest are rounding"
)
MOST = 1_000_000  # points: a report has a row for each, about 1 kB of memory
TOGETHER = 256  # points of a shard, whoever does it: rounding goes with it
WORST = 4  # points whose Jacobian norm is attained by a pair of points
SAMPLES = 1000  # of a box
QUANTITY = {"2": "spectral", "1": "l1", "inf": "linf"}


@dataclass(eq=False, kw_only=True)
class Jacobians(Sharded):
    """`graph`: the part of the network between two signals, or all of it (`whole`). `sets`: the points; `asked`: as in the
    report. `classes_of`: data and labels whose class graphs are measured in every layer."""

    graph: Graph
    whole: bool
    box: Region
    sets: list[Points]
    asked: dict[str, Any]
    per_class: bool
    classes_of: tuple[Tensor, np.ndarray] | None
    device: torch.device
    prove: bool = False
    proved: dict[str, Any] | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    lowers: list[Result] = field(default_factory=list)
    blind: list[Tensor] = field(default_factory=list)  # points where automatic differentiation says nothing
    classes: list[dict[str, Any]] = field(default_factory=list)

    command = "jacobian"
    rows_are = "points"

    @property
    def count(self) -> int:
        return int(self.asked["samples"])

    def take(self, before: Resumed) -> None:
        self.rows = before.rows("points", by=lambda row: (row["set"], row["index"]))

    def phases(self) -> Iterator[Phase]:
        done = {(row["set"], row["index"]) for row in self.rows}
        step = min(measured.batch(self.graph), TOGETHER)
        yield Phase(AtPoints(self.graph, self.device), [Drawn(*b) for b in batches(self.sets, done, step)])
        self.session.say("the largest one, as a pair of points")
        self.lowers += _attained(self.graph, self.sets, self.ordered(), self.norm, self.box, self.session.seconds)
        if self.prove:
            assert isinstance(self.box, Box)
            self.session.say("proved on the box")
            self.proved = proved_jacobian(self.graph, self.box, self.session.deadline)
        if self.classes_of is not None:
            self.measure_classes(*self.classes_of)

    def gather(self, shard: Shard, found: Data) -> None:
        self.session.say("jacobian", len(self.rows), self.count)
        self.rows += [self.before.seal.on(row) for row in found["rows"]]
        self.blind += [torch.tensor(x, dtype=torch.float64) for x in found["blind"]]

    def ordered(self) -> list[dict[str, Any]]:
        place = {group.name: k for k, group in enumerate(self.sets)}
        return sorted(self.rows, key=lambda row: (place[row["set"]], row["index"]))

    def measure_classes(self, inputs: Tensor, labels: np.ndarray) -> None:
        graph = self.graph
        for layer in layers(graph):
            self.session.say(f"class graph of {graph.nodes[layer].name}")
            features = _features(prefix(graph, layer), inputs[: most_samples(graph.nodes[layer].size)])
            found = smoothness(features, labels[: len(features)])
            self.classes.append({"layer": graph.nodes[layer].name, **found})

    def answer(self) -> dict[str, Any]:
        graph, rows = self.graph, self.ordered()
        found: dict[str, Any] = {
            **self.asked,
            "complete": len(rows) == self.count,
            "size": [graph.nodes[graph.input].size, graph.nodes[graph.output].size],
            "quantities": measured.meaning(graph),
            "sets": [_statistics(s, rows, self.per_class) for s in self.sets],
        }
        found |= {} if self.proved is None else {"proved": self.proved}
        of_classes = {} if self.classes_of is None else {"laplacian": self.classes}
        return {
            "results": list(self.lowers) if self.whole else [],
            "points": rows,
            "summary": {"jacobian": found, **of_classes},
            "assumptions": [*self.model.assumptions, AT_POINTS],
            "warnings": [*self.model.warnings, *_steps(graph), *_blind(graph, self.blind), *self.resumed],
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class JacobianRequest:
    """What is asked at the data `x` (k, *input_shape) with labels `y` (k,), or at `samples` random points of a box.

    `around`: also at x + noise of this standard deviation; `between`: also at random points between two data points
    (the three places of eq. 3 of Rosca et al. 2020). `from_node`, `to_node`: of the part of the network between two
    signals; points, noise and interpolations are then those of the features. `prove`: what holds on all of the box as well.
    """

    x: np.ndarray | Tensor | None = None
    y: np.ndarray | Sequence[int] | None = None
    region: Region = None
    samples: int = SAMPLES
    around: float | None = None
    between: bool = False
    per_class: bool = False
    from_node: str | None = None
    to_node: str | None = None
    laplacian: bool = False
    prove: bool = False
    norm: str | Norm = "2"
    seed: int = 0
    device: str = "cpu"

    @property
    def of_data(self) -> bool:
        return self.around is not None or self.between or self.laplacian or self.from_node is not None

    @property
    def of_classes(self) -> bool:
        return self.per_class or self.laplacian


def jacobian(model: Model, request: JacobianRequest, session: Session | None = None, resume: Earlier = None) -> Report:
    """Statistics of Jacobian norms. `resume`: a report of the same question whose points are not measured again.
    Interrupted, it raises KeyboardInterrupt with `partial_report`."""
    norm, around, seed = Norm.parse(request.norm), request.around, request.seed
    inputs, labels = _data(model, request.x, request.y)
    _check_asked(inputs, labels, request)
    region = checked_region(request.region, model.graph)
    graph, inputs = _part(model.graph, request.from_node, request.to_node, inputs)
    sets = point_sets(inputs, labels, region, request.samples, around, request.between, seed)
    count = sum(group.count for group in sets)
    if count > MOST:
        raise UsageError(f"jacobian: {count:,} points; one report holds at most {MOST:,}: split the data")
    asked: dict[str, Any] = {"from": request.from_node, "to": request.to_node, "around": around}
    asked |= {"samples": count, "seed": seed, "data": None if inputs is None else fingerprint(inputs.numpy())}
    more: dict[str, Any] = {"between": request.between, "labels": None if labels is None else fingerprint(labels)}
    more |= {"prove": True} if request.prove else {}
    about = describe(region)
    task = Jacobians(
        model,
        norm,
        model.question("jacobian", norm, about, options=asked | more),
        about,
        graph=graph,
        whole=graph is model.graph,
        box=region,
        sets=sets,
        asked=asked,
        per_class=request.per_class,
        classes_of=(inputs, labels) if request.laplacian and inputs is not None and labels is not None else None,
        device=torch.device(available(request.device)),
        prove=request.prove,
    )
    return carry_out(task, session, resume)


def _part(
    graph: Graph, from_node: str | None, to_node: str | None, inputs: Tensor | None
) -> tuple[Graph, Tensor | None]:
    """The network between two signals, or all of it, and what reaches it of the data."""
    start = graph.input if from_node is None else find(graph, from_node, "--from")
    stop = graph.output if to_node is None else find(graph, to_node, "--to")
    if start == graph.input and stop == graph.output:
        return graph, inputs
    reached = inputs if inputs is None or start == graph.input else _features(prefix(graph, start), inputs)
    return cut(graph, start, stop), reached


def _check_asked(inputs: Tensor | None, labels: np.ndarray | None, request: JacobianRequest) -> None:
    """UsageError where the parts of the question do not go together."""
    region, samples, around = request.region, request.samples, request.around
    odd = {
        "give data, or a box": (inputs is None) == (region is None),
        "the region is a box": region is not None and not isinstance(region, Box),
        "--prove is about a whole box: give --box": request.prove and region is None,
        f"{samples} samples; give 1 or more": samples < 1,
        f"the noise has standard deviation {around}; give a finite number, zero or more": around is not None
        and not (math.isfinite(around) and around >= 0),
        "noise, interpolations, class graphs and features are about data: give data, no box": region is not None
        and request.of_data,
        "classes need labels: an array y beside x in an .npz file": request.of_classes and labels is None,
    }
    for words, wrong in odd.items():
        if wrong:
            raise UsageError(f"jacobian: {words}")


def _data(model: Model, x: Any, y: Any) -> tuple[Tensor | None, np.ndarray | None]:
    if x is None:
        return None, None
    given = torch.as_tensor(x, dtype=torch.float64)
    size = math.prod(model.input_shape)
    if given.ndim == 0 or given.numel() != given.shape[0] * size or given.shape[0] == 0:
        raise UsageError(f"jacobian: data of shape {tuple(given.shape)} are not samples of shape {model.input_shape}")
    if not bool(torch.isfinite(given).all()):
        raise UsageError("jacobian: the data hold NaN or infinity")
    labels = None if y is None else np.asarray(y).reshape(-1)
    if labels is not None and len(labels) != len(given):
        raise UsageError(f"jacobian: {len(given)} samples but {len(labels)} labels")
    return given.reshape(len(given), size), labels


def _features(graph: Graph, x: Tensor) -> Tensor:
    step = measured.batch(graph)
    return torch.cat([graph.evaluate(x[i : i + step]) for i in range(0, len(x), step)])


# Rows.


class Drawn(Shard):
    """Points `first` to `end` of one set. They are drawn when they are wanted: a million of them need not be there at once."""

    def __init__(self, group: Points, first: int, end: int):
        object.__setattr__(self, "key", f"{group.name} {first}-{end - 1}")
        object.__setattr__(self, "rows", range(first, end))
        object.__setattr__(self, "group", group)

    @property
    def what(self) -> tuple[str, int, list[Any], np.ndarray]:
        group: Points = self.group  # type: ignore[attr-defined]
        first, end = self.rows[0], self.rows[-1] + 1
        labels = [None] * (end - first) if group.labels is None else group.labels[first:end].tolist()
        return group.name, first, labels, group.at(first, end).numpy()


@dataclass(frozen=True, eq=False)
class AtPoints:
    """{"rows": of the report, without seals, "blind": points where automatic differentiation says nothing}."""

    graph: Graph
    device: torch.device

    def __call__(self, what: tuple[str, int, list[Any], np.ndarray], session: Session) -> Data:
        name, first, labels, points = what
        x = torch.from_numpy(points)
        moved = self.graph.on(self.device)
        norms = {q: values.cpu().tolist() for q, values in measured.norms_at(moved, x.to(self.device)).items()}
        classes = moved.nodes[moved.output].size > 1
        predicted = moved.evaluate(x.to(self.device)).argmax(dim=1).tolist() if classes else [None] * len(x)
        rows = []
        for k in range(len(x)):
            values = {q: _known(column[k]) for q, column in norms.items()}
            rows.append({"set": name, "index": first + k, "label": labels[k], "predicted": predicted[k], **values})
        return {"rows": rows, "blind": x[measured.blind(self.graph, x)].tolist()}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _statistics(group: Points, rows: Sequence[Mapping[str, Any]], per_class: bool) -> dict[str, Any]:
    mine = [row for row in rows if row["set"] == group.name]
    found: dict[str, Any] = {"set": group.name, "points": group.count, "measured": len(mine)}
    found["statistics"] = {name: _with_worst(name, mine) for name in measured.QUANTITIES}
    if per_class and group.labels is not None:
        labels = sorted({row["label"] for row in mine})
        found["classes"] = [
            {
                "label": label,
                **{
                    name: measured.summary([row[name] for row in mine if row["label"] == label])
                    for name in measured.QUANTITIES
                },
            }
            for label in labels
        ]
    return found


def _with_worst(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The summary, and the index of the worst point: the largest norm, the smallest singular value."""
    known = [row for row in rows if row[name] is not None]
    sign = 1 if name == "smallest" else -1
    worst = min(known, key=lambda row: (sign * row[name], row["index"]), default=None)
    return measured.summary([row[name] for row in rows]) | {"worst": None if worst is None else worst["index"]}


def _attained(
    graph: Graph, sets: Sequence[Points], rows: Sequence[Mapping[str, Any]], norm: Norm, region: Region, seconds: float
) -> list[Result]:
    """The largest Jacobian norm as a difference quotient of two points, rounding taken off: a lower value of L."""
    by_name = {s.name: s for s in sets}
    quantity = QUANTITY.get(norm.input, "spectral")
    ranked = sorted((r for r in rows if r[quantity] is not None), key=lambda r: -r[quantity])[:WORST]
    if not ranked:
        return []
    x = torch.cat([by_name[r["set"]].at(r["index"], r["index"] + 1) for r in ranked])
    bounds = {}
    if isinstance(region, Box):
        bounds = {
            "lower": region.lower.reshape(1, -1).expand(x.shape),
            "upper": region.upper.reshape(1, -1).expand(x.shape),
        }
    found = jacobian_norms(graph, x, norm, **bounds)
    best = int(found.value.argmax())
    witness = {"x": stored(found.x[best]), "x2": stored(found.x2[best]), "shape": list(graph.input_shape)}
    at = {"set": ranked[best]["set"], "index": ranked[best]["index"]}
    value = float(found.value[best])
    return [Bound("jacobian", "lower", "sampled", value, seconds, witness if value > 0 else None, at)]


def _steps(graph: Graph) -> list[str]:
    """A function that jumps has derivative 0 almost everywhere, and that is no measure of its smoothness."""
    jumps = [node.name for node in graph.nodes if isinstance(node.what, Nonlinear) and node.what.block.steps]
    return [f"{name}: the function jumps there, and derivatives do not see jumps" for name in dict.fromkeys(jumps)]


def _blind(graph: Graph, points: Sequence[Tensor]) -> list[str]:
    """NaN of a gradient says nothing of the function: what was done there, at how many points, and why."""
    if not points:
        return []
    where = no_derivative(graph, torch.stack(list(points[:8])))
    why = f"the derivative of node {where} is infinite there" if where else "it overflows there"
    took = "difference quotients were taken"
    return [f"automatic differentiation gives NaN at {len(points)} points, for {why}: {took} instead"]
