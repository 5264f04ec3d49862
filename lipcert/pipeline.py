"""file -> load -> capture -> lower -> graph -> methods -> report. Read this first: each step is one call.

The command line is a thin skin over these functions; they are the Python API as well.
"""

from __future__ import annotations

import hashlib
import html
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lipcert.bound import Bound, Refusal, Result
from lipcert.bounds import METHODS, Problem
from lipcert.bounds.layers import kind_of, layer_row, layers_of, operators, surely_infinite
from lipcert.bounds.run import choose, run, tell
from lipcert.capture import Captured, capture, constants, quiet
from lipcert.certificate import Certificate
from lipcert.certificate import read as read_certificate
from lipcert.certify import certify, check_scope
from lipcert.check import check
from lipcert.errors import CertificateRejected, LipcertError, RefusedModel, UnreadableError, UsageError
from lipcert.foreign import read_file
from lipcert.ir import Graph, Input, Nonlinear
from lipcert.journal.resume import Earlier
from lipcert.journal.resume import resume as go_on
from lipcert.load.read import read
from lipcert.lower import lower
from lipcert.network.claimed import Asked, question_of
from lipcert.network.question import Question
from lipcert.pairs import bound_pairs, methods_asked, resumed
from lipcert.parity import check_parity
from lipcert.parts import Path as LinearPath
from lipcert.parts import linear_ancestors, targets
from lipcert.query import Ball, Box, Norm, Output, Region
from lipcert.ranges.device import available
from lipcert.report.plain import plain, printable
from lipcert.report.report import Report, unread
from lipcert.rounding import keeps_subnormals
from lipcert.sandbox.confine import described
from lipcert.terms.files import ODD_SHAPE, check_regular, reason
from lipcert.terms.memory import out_of_memory
from lipcert.transform import normalised, with_output

REAL_ARITHMETIC = (
    "bounds hold for the network in real arithmetic with the stored weights; float execution is not covered"
)

Progress = Callable[[str, float | None, float | None], None]

ODD_GRAPH = (*ODD_SHAPE, RuntimeError, AssertionError)
_LOADING = threading.RLock()  # torch.export keeps global state, and a fork takes all of it along


@dataclass(frozen=True, eq=False)
class Model:
    """A network that every node of which was claimed by a rule, and that agrees with the original at sampled points.

    `graph` is in the units of the report (input normalisation included). `info`: the report's "model" object.
    """

    graph: Graph
    info: dict[str, Any]
    warnings: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = field(default=(REAL_ARITHMETIC,))

    def __repr__(self) -> str:
        shapes = " -> ".join("x".join(map(str, shape)) or "scalar" for shape in (self.input_shape, self.output_shape))
        sizes = f"{self.info['parameters']:,} parameters, {self.info['neurons']:,} neurons"
        return printable(f"Model({self.name}, {shapes}, {sizes})")

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"

    @property
    def name(self) -> str:
        """The file's name, or "module"."""
        return Path(self.info["path"]).name if self.info["path"] else "module"

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.graph.input_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.graph.output_shape

    def question(
        self,
        task: str,
        norm: Norm,
        region: Mapping[str, Any] | None = None,
        output: str = "vector",
        options: Mapping[str, Any] | None = None,
    ) -> Question:
        """All of what is asked. `region`: as in the report (None: the whole space); `options`: see `Question`."""
        about = plain(region or describe(None)), output, plain(options or {})
        return Question.of(task, self.info, self.graph.fingerprint(), norm, *about)


@keeps_subnormals
def load(
    path_or_module: str | Path | torch.nn.Module,
    *,
    input_shape: Sequence[int] | torch.Tensor | None = None,
    input_name: str | None = None,
    output_name: str | None = None,
    reader: str = "own",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Model:
    """Read a model file or an nn.Module. `mean`, `std`: the network becomes f((x - mean) / std), in raw input units.

    Files are read in a sandbox (`info["sandbox"]` says which); modules in this process. One thread loads at a time.
    Raises UnreadableError (exit 2), UsageError (exit 2) or RefusedModel (exit 3, names the node).
    """
    with _LOADING:
        return _load(
            path_or_module,
            input_shape,
            input_name,
            output_name,
            reader,
            mean=mean,
            std=std,
            seed=seed,
            progress=progress,
        )


def _load(
    path_or_module: str | Path | torch.nn.Module,
    input_shape: Sequence[int] | torch.Tensor | None,
    input_name: str | None,
    output_name: str | None,
    reader: str,
    *,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    seed: int,
    progress: Progress | None,
) -> Model:
    say = progress or (lambda text, done, total: None)
    shape = input_shape if input_shape is None or isinstance(input_shape, torch.Tensor) else tuple(input_shape)
    say("reading", None, None)
    with quiet(), torch.no_grad():
        names = {"input_name": input_name, "output_name": output_name, "reader": reader}
        captured = _captured(path_or_module, shape, names)
        source = captured.source
        is_module = isinstance(path_or_module, torch.nn.Module)
        with nullcontext() if is_module else _described(path_or_module):
            graph, assumptions = lower(captured.program, labels=captured.labels)
            say("comparing with the original", None, None)
            records = check_parity(
                source.references,
                lambda x: graph.evaluate(torch.from_numpy(x)).numpy().reshape(x.shape[0], *graph.output_shape),
                graph.input_shape,
                seed,
            )
    info = {
        "path": None if is_module else str(path_or_module),
        "format": source.format,
        "sha256": captured.fingerprint if is_module else _sha256(Path(path_or_module)),  # type: ignore[arg-type]
        "input_shape": list(graph.input_shape),
        "output_shape": list(graph.output_shape),
        "parameters": _parameters(captured),
        "neurons": graph.neurons,
        "graph": captured.fingerprint,
        "files": [] if is_module else _beside(Path(path_or_module), source.files),  # type: ignore[arg-type]
        "input_name": source.input_name,
        "output_name": source.output_name,
        "parity": [record.to_dict() for record in records],
        "units": {"input": "raw" if mean or std else "model", "mean": _plain(mean), "std": _plain(std)},
        "sandbox": None if is_module else described(),
    }
    noted = tuple(dict.fromkeys((REAL_ARITHMETIC, *source.assumptions, *assumptions)))
    return Model(normalised(graph, mean, std), info, tuple(source.warnings), noted)


@contextmanager
def _described(path: object) -> Iterator[None]:
    """What the process that read a file has described is lowered here: where the rules meet arguments that torch never
    writes, the description is refused, for they are no fault of ours that could be told from a lie of it."""
    try:
        yield
    except ODD_GRAPH as problem:
        if out_of_memory(problem):
            raise
        said = " ".join(f"{type(problem).__name__}: {problem}".split())[:300]
        raise RefusedModel(f"{path}: its graph is not one that torch writes, or lipcert errs: {said}") from problem


def _captured(path_or_module: Any, shape: Any, names: dict[str, Any]) -> Captured:
    """A file by way of the sandbox, a module in this process."""
    if not isinstance(path_or_module, str | Path):
        return capture(read(path_or_module, input_shape=shape, **names))
    given = tuple(shape.shape) if isinstance(shape, torch.Tensor) else shape
    try:
        return read_file(Path(path_or_module), input_shape=given, **names)
    except OSError as problem:  # too few descriptors or processes, for instance
        raise UnreadableError(f"{path_or_module}: {problem.strerror or problem}") from problem


def _plain(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else [float(v) for v in values]


def _parameters(captured: Captured) -> int:
    """Float coefficients that the captured graph reads, shared ones once."""
    found = {
        (t.data_ptr(), tuple(t.shape)): t.numel()
        for t in constants(captured.program).values()
        if t.dtype.is_floating_point
    }
    return sum(found.values())


def _beside(path: Path, names: Sequence[str]) -> list[dict[str, str]]:
    """Files of external data. What the reading process names is looked for in the model's folder only."""
    home, found = path.parent.resolve(), []
    for name in names:
        try:
            file = (home / name).resolve()
            if not file.is_relative_to(home):
                raise UnreadableError(f"{path}: its data file {printable(name)} lies outside its folder")
            check_regular(file, f"{path}: its data file {printable(name)}")
            found.append({"path": printable(name), "sha256": _sha256(file)})
        except (OSError, ValueError) as problem:
            raise UnreadableError(f"{path}: its data file {printable(name)}: {reason(problem)}") from problem
    return found


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@keeps_subnormals
def bound(
    model: Model,
    *,
    norm: str | Norm = "2",
    methods: Sequence[str] | None = None,
    region: Region = None,
    output: str | Output = "vector",
    budget: float | None = None,
    rtol: float = 1e-6,
    seed: int = 0,
    device: str = "cpu",
    certificate: str | Path | None = None,
    multipliers: str | None = None,
    solver: str | None = None,
    resume: Earlier = None,
    progress: Progress | None = None,
) -> Report:
    """The certified interval of one scope. `budget` in seconds: methods stop at it and keep what is proved.
    `multipliers` of the LipSDP methods ("neuron", "channel", "layer", "mixed"), `solver` of lipsdp-cvxpy.
    `rtol`: brackets on a region are closed to this. `certificate`: file to write, from which `verify` proves the least upper value again.
    `resume`: partial report of the same question with output "pairs", whose pairs are taken over where their seals hold.

    Interrupted (Ctrl-C), it raises KeyboardInterrupt with the report so far as `partial_report`.
    """
    norm, functional = Norm.parse(norm), Output.parse(output)
    region = checked_region(region, model.graph)
    chosen = choose(methods, region, {"multipliers": multipliers, "solver": solver})
    if certificate is not None:
        check_scope(region, functional)
    all_of_them = functional.kind == "pairs"
    if resume is not None and not all_of_them:
        raise UsageError("--resume: only --output pairs can be resumed")
    options: dict[str, Any] = {"seed": seed}
    options |= {} if region is None else {"rtol": float(rtol)}
    options |= {"methods": methods_asked(chosen)} if all_of_them else {}  # each pair has a value of each
    question = model.question("bound", norm, describe(region), str(functional), options)
    before = go_on(resume, question)
    pairs = resumed(before)
    deadline = None if budget is None else time.monotonic() + budget
    results: list[Result] = []
    warnings = [*model.warnings, *before.words("pairs")]

    def report() -> Report:
        return Report(
            command="bound",
            model=model.info,
            norm=norm,
            region=describe(region),
            output=str(functional),
            results=list(results),
            summary={"pairs": pairs.rows} if all_of_them else {},
            assumptions=list(model.assumptions),
            warnings=list(warnings),
            question=question,
        )

    graph = with_output(model.graph, functional)
    problem = Problem(graph, norm, region, seed, available(device), deadline, progress, rtol=rtol)
    try:
        if all_of_them:
            bound_pairs(problem, chosen, pairs)
            results.extend(pairs.largest(chosen, problem))
            for result in results:
                tell(progress, result)
        else:
            for method in chosen:
                for result in (run(method, problem), *problem.aside):
                    results.append(result)
                    problem.known.append(result)
                    tell(progress, result)
                problem.aside.clear()
        if certificate is not None:
            results, more = _certified(certificate, results, model, norm, functional)
            warnings += more
    except (KeyboardInterrupt, MemoryError, RuntimeError) as stop:  # torch raises the last where memory ends
        stop.partial_report = report()  # type: ignore[union-attr]
        raise
    return report()


def _certified(
    path: str | Path, results: list[Result], model: Model, norm: Norm, output: Output
) -> tuple[list[Result], list[str]]:
    """`certify`, which proves once more: where there is no memory for that, the bounds stay."""
    try:
        return certify(path, results, model.graph, model.info, norm, output)
    except (MemoryError, RuntimeError) as problem:
        if not out_of_memory(problem):
            raise
        return results, [f"no certificate was written to {path}: out of memory while it was checked"]


@keeps_subnormals
def verify(
    certificate: str | Path | Certificate,
    model: str | Path | torch.nn.Module | Model,
    *,
    norm: str | Norm | None = None,
    output: str | Output | None = None,
    input_shape: Sequence[int] | None = None,
    input_name: str | None = None,
    output_name: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    reader: str = "own",
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Prove the claim of a certificate again.

    What is said here of the question (norm, output, shape, names, units) is compared with the certificate, as is all of
    a `Model`; the rest is read from the certificate, was chosen by the prover, and is listed in `summary["prover_chose"]`.
    `Report.summary["verdict"]` is "accepted" or "rejected" (then with "place" and "reason"; exit status 1). Raises
    UnreadableError where there is no such file, and what `load` raises of a model that cannot be read.
    """
    asked = Asked(
        None if norm is None else Norm.parse(norm),
        None if output is None else Output.parse(output),
        None if mean is None else tuple(float(v) for v in mean),
        None if std is None else tuple(float(v) for v in std),
        input_name,
        output_name,
        None if input_shape is None else tuple(input_shape),
    )
    begin = time.perf_counter()
    path = None if isinstance(certificate, Certificate) else str(certificate)
    info = model.info if isinstance(model, Model) else None
    claim: Certificate | None = None
    assumptions: tuple[str, ...] = ()
    try:
        claim = certificate if isinstance(certificate, Certificate) else read_certificate(certificate)
        question = question_of(claim)
        asked.compare(question)
        chosen = asked.chosen_by_prover(question)
        if isinstance(model, Model):  # who loaded it has said how
            chosen = [name for name in chosen if name == "norm" or (name == "output_name" and output is None)]
        loaded = model if isinstance(model, Model) else _load_as(claim, model, reader, seed, progress)
        info, assumptions = loaded.info, loaded.assumptions
        if progress is not None:
            progress("proving the claim", None, None)
        found = check(claim, loaded.graph, loaded.info)
        summary = {"verdict": "accepted", "claim": claim.claim, "proved": found.value, "trusted": list(found.trusted)}
        summary |= {"prover_chose": chosen}
        details = {"certificate": path, "proved": found.value}
        seconds = time.perf_counter() - begin
        result: Result = Bound(claim.proof.method, "upper", "proved", claim.claim, seconds, None, details)
    except CertificateRejected as problem:
        summary = {"verdict": "rejected", "claim": claim and claim.claim, "place": problem.place}
        summary |= {"reason": problem.reason}
        seconds = time.perf_counter() - begin
        result = Refusal("verify", "upper", "refused", f"{problem.place}: {problem.reason}", None, seconds)
    scope: dict[str, Any] = {}
    if claim is not None:
        scope = {"norm": claim.norm, "output": str(claim.output), "question": question_of(claim)}
    return Report(
        command="verify",
        model=info or unread(None if isinstance(model, torch.nn.Module) else model),
        results=[result],
        summary={"certificate": path, **summary},
        assumptions=list(assumptions),
        **scope,
    )


def _load_as(
    claim: Certificate, model: str | Path | torch.nn.Module, reader: str, seed: int, progress: Progress | None
) -> Model:
    """The model as the certificate describes it. Where that fails for the very file it names, the certificate is
    at fault."""
    network = claim.network

    def attempt(output_name: str | None) -> Model:
        return load(
            model,
            input_shape=network.input_shape,
            input_name=network.input_name,
            output_name=output_name,
            reader=reader,
            mean=network.mean,
            std=network.std,
            seed=seed,
            progress=progress,
        )

    try:
        if network.output_name == "output":  # so formats of torch record an output that is the only one
            with suppress(UsageError):
                loaded = attempt(None)
                if loaded.info["output_name"] == "output":
                    return loaded
        return attempt(network.output_name)
    except LipcertError as problem:
        same = isinstance(model, str | Path) and Path(model).is_file() and _sha256(Path(model)) == network.sha256
        if isinstance(problem, UsageError) or same:
            raise CertificateRejected("model", f"it cannot be read as the certificate says: {problem}") from problem
        raise


def checked_region(region: Region, graph: Graph) -> Region:
    """The region in float64 and the model's shape."""
    if isinstance(region, Box):
        low, high = (_fitted(side, graph.input_shape) for side in (region.lower, region.upper))
        if not bool(((low <= high) & torch.isfinite(low) & torch.isfinite(high)).all()):
            raise UsageError("box: lower <= upper must hold in every coordinate, with finite ends")
        return Box(low.contiguous(), high.contiguous())
    if isinstance(region, Ball):
        if not (math.isfinite(region.radius) and region.radius >= 0):
            raise UsageError(f"ball: the radius is finite and not negative, got {region.radius}")
        centre = torch.as_tensor(region.center, dtype=torch.float64)
        if centre.numel() != math.prod(graph.input_shape) or not bool(torch.isfinite(centre).all()):
            raise UsageError(
                f"ball: the centre needs {math.prod(graph.input_shape)} finite values, got {centre.numel()}"
            )
        Norm(region.norm, region.norm)
        return Ball(centre.reshape(graph.input_shape), float(region.radius), region.norm)
    return None


def _fitted(side: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """One number for all inputs, or one for each; nothing in between, which could mean rows or columns."""
    if side.numel() == 1:
        return side.reshape(()).expand(shape)
    if side.numel() != math.prod(shape):
        raise UsageError(f"box: one end for each of the {math.prod(shape)} inputs, or one for all; got {side.numel()}")
    return side.reshape(shape)


def describe(region: Region) -> dict[str, Any]:
    """The region as the report has it."""
    if isinstance(region, Box):
        return {"kind": "box", "lower": region.lower.reshape(-1).tolist(), "upper": region.upper.reshape(-1).tolist()}
    if isinstance(region, Ball):
        center = region.center.reshape(-1).tolist()
        return {"kind": "ball", "center": center, "radius": region.radius, "norm": region.norm}
    return {"kind": "global"}


@keeps_subnormals
def layers(model: Model, *, norm: str | Norm = "2", progress: Progress | None = None) -> Report:
    """The constant of every layer: `Report.layers`."""
    norm = Norm.parse(norm)
    problem = Problem(model.graph, norm, progress=progress)
    rows: list[dict[str, Any]] = []
    found = list(layers_of(model.graph))

    def report() -> Report:
        return Report(
            command="layers",
            model=model.info,
            norm=norm,
            layers=rows,
            assumptions=list(model.assumptions),
            warnings=list(model.warnings),
            question=model.question("layers", norm),
        )

    try:
        with torch.no_grad():
            for layer in found:
                problem.say("layers", len(rows), len(found))
                rows.append(layer_row(layer, problem))
    except (KeyboardInterrupt, MemoryError, RuntimeError) as stop:  # torch raises the last where memory ends
        stop.partial_report = report()  # type: ignore[union-attr]
        raise
    return report()


@keeps_subnormals
def inspect(model: Model) -> Report:
    """What was read: `Report.parts` (a tree), and what each method can do with it: `Report.methods`."""
    graph = model.graph
    problem = Problem(graph, Norm())
    rows = []
    for name, method in METHODS.items():
        refusal = method.refuses(problem)
        rows.append(
            {
                "method": name,
                "side": method.side,
                "usable": refusal is None,
                "node": refusal.node if refusal else None,
                "reason": refusal.reason if refusal else None,
            }
        )
    return Report(
        command="inspect",
        model=model.info,
        parts=_parts(graph),
        methods=rows,
        summary={"linear_parts": len(targets(graph)), "nonlinear": len(graph.nonlinear), "neurons": graph.neurons},
        assumptions=list(model.assumptions),
        warnings=list(model.warnings),
        question=model.question("inspect", Norm()),
    )


def _parts(graph: Graph) -> list[dict[str, Any]]:
    """One row per signal of the normal form: the affine part with the signals it reads, then the nonlinearity."""
    rows = []
    reads = {i: graph.nodes[i].parents for i in graph.nonlinear}
    for i in (*graph.nonlinear, graph.output):
        if i in reads or not isinstance(graph.nodes[i].what, Nonlinear | Input):
            for target in reads.get(i, (i,)):
                rows.append(_part_row(graph, target))
        if i in reads:
            node = graph.nodes[i]
            assert isinstance(node.what, Nonlinear)
            row = {
                "name": node.name,
                "kind": node.what.block.label,
                "output_shape": list(node.shape),
                "neurons": node.size,
            }
            rows.append(row | _slope_words(node.what))
    return list({(row["name"], row["kind"], str(row.get("reads"))): row for row in rows}.values())


def _slope_words(what: Nonlinear) -> dict[str, Any]:
    constants = what.block.lipschitz("2")
    finite = all(math.isfinite(c) for c in constants)
    words = "unbounded" if surely_infinite(what.block) else "no finite bound is known"
    return {"constant_l2": max(constants) if finite else f"{words}: {what.block.reason}"}


def _part_row(graph: Graph, target: int) -> dict[str, Any]:
    sources, _ = linear_ancestors(graph, target)
    children = []
    for source in sources:
        path = LinearPath(graph, source, target)
        label = "input" if isinstance(graph.nodes[source].what, Input) else graph.nodes[source].name
        ops = operators(graph, path)
        row = {
            "name": f"from {label}",
            "kind": kind_of(graph, path),
            "input_shape": list(graph.nodes[source].shape),
            "output_shape": list(graph.nodes[target].shape),
        }
        children.append(row | ({"operators": len(ops)} if len(ops) > 1 else {}))
    node = graph.nodes[target]
    if len(children) == 1:
        return children[0] | {"name": node.name, "reads": str(children[0]["name"]).removeprefix("from ")}
    return {"name": node.name, "kind": "linear part", "output_shape": list(node.shape), "parts": children}
