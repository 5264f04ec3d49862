"""file -> load -> capture -> lower -> graph: each step is one call."""

from __future__ import annotations

import hashlib
import html
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lipcert.load.capture.capture import Captured, capture, constants
from lipcert.load.capture.parity import check_parity
from lipcert.load.fingerprint import quiet
from lipcert.load.foreign import read_file
from lipcert.load.inputs import said_of
from lipcert.load.lower import lower
from lipcert.load.read import read
from lipcert.network.edit import normalised
from lipcert.network.graph import Graph
from lipcert.network.scope import describe
from lipcert.rigor.arithmetic import FloatFormat, folded_in
from lipcert.rigor.rounding import keeps_subnormals
from lipcert.sandbox.confine import described
from lipcert.terms.errors import RefusedModel, UnreadableError, UsageError
from lipcert.terms.files import ODD_SHAPE, check_regular, reason
from lipcert.terms.memory import out_of_memory
from lipcert.terms.printable import plain, printable
from lipcert.terms.progress import Progress
from lipcert.terms.query import Norm
from lipcert.terms.question import Question

if TYPE_CHECKING:
    from lipcert.load.weights import Weights

REAL_ARITHMETIC = (
    "bounds hold for the network in real arithmetic with the stored weights; float execution is not covered"
)


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
    lowered_in: Callable[[FloatFormat], Graph] | None = field(default=None, repr=False)
    weights: Weights | None = None  # of the norms: then `graph` is that of W_out f(W_in^-1 z), see `weights.py`

    def executed(self, arithmetic: FloatFormat) -> Graph:
        """The graph whose constants hold what a runtime of this format computes of the stored ones as well: what bounds
        of its rounding are made of. Kept."""
        key = ("executed", arithmetic.name)
        if key not in self.graph.memo:
            if self.lowered_in is None:
                raise UsageError(
                    "--execution: this model was not loaded by lipcert.load, and its constants are not known"
                )
            self.graph.memo[key] = self.lowered_in(arithmetic)
        return self.graph.memo[key]

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
    def inputs(self) -> list[dict[str, Any]]:
        """{"name", "shape"} of each input that moves: x is their entries one after another."""
        alone = {"name": self.info.get("input_name", "x"), "shape": list(self.input_shape)}
        return list(self.info.get("parts") or [alone])

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
        also = {} if self.weights is None else {"weights": self.weights.words()}
        about = plain(region or describe(None)), output, plain({**(options or {}), **also})
        return Question.of(task, self.info, self.graph.fingerprint(), norm, *about)


@keeps_subnormals
def load(
    path_or_module: str | Path | torch.nn.Module,
    *,
    input_shape: Sequence[Any] | torch.Tensor | Mapping[str, Any] | None = None,
    input_name: str | Sequence[str] | None = None,
    output_name: str | None = None,
    fix: Mapping[str, Any] | None = None,
    reader: str = "own",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Model:
    """Read a model file or an nn.Module. `mean`, `std`: the network becomes f((x - mean) / std), in raw input units.

    Of several inputs, `input_name` moves: "a", or "a,b" as one vector; `fix` holds others at numbers or arrays, by name;
    `input_shape` may be a mapping of names, for modules with example tensors, in nests. What is held is in `info["fixed"]`, what x consists of in `info["parts"]`.

    Files are read in a sandbox (`info["sandbox"]` says which); modules in this process. One thread loads at a time.
    Raises UnreadableError (exit 2), UsageError (exit 2) or RefusedModel (exit 3, names the node).
    """
    shape = (
        input_shape if input_shape is None or isinstance(input_shape, torch.Tensor | Mapping) else tuple(input_shape)
    )
    names = {"input_name": input_name, "output_name": output_name, "fix": fix, "reader": reader}
    with _LOADING:
        return _load(
            path_or_module,
            shape,
            names,
            mean=mean,
            std=std,
            seed=seed,
            progress=progress,
        )


def _load(
    path_or_module: str | Path | torch.nn.Module,
    shape: Any,
    names: dict[str, Any],
    *,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    seed: int,
    progress: Progress | None,
) -> Model:
    say = progress or (lambda text, done, total: None)
    say("reading", None, None)
    is_module = isinstance(path_or_module, torch.nn.Module)
    before = None if is_module else _written(path_or_module)
    with quiet(), torch.no_grad():
        captured = _captured(path_or_module, shape, names)
        source = captured.source
        with nullcontext() if is_module else _described(path_or_module):
            graph, assumptions = lower(captured.program, labels=captured.labels)
            say("comparing with the original", None, None)
            records = check_parity(
                source.references,
                lambda x: graph.evaluate(torch.from_numpy(x)).numpy().reshape(x.shape[0], *graph.output_shape),
                graph.input_shape,
                seed,
                entries=sum(node.size for node in graph.nodes),
            )
    info = {
        "path": None if is_module else str(path_or_module),
        "format": source.format,
        "sha256": captured.fingerprint if is_module else file_sha256(Path(path_or_module)),  # type: ignore[arg-type]
        "input_shape": list(graph.input_shape),
        "output_shape": list(graph.output_shape),
        "parameters": _parameters(captured),
        "neurons": graph.neurons,
        "graph": captured.fingerprint,
        "files": [] if is_module else _beside(Path(path_or_module), source.files),  # type: ignore[arg-type]
        "input_name": source.input_name,
        **source.inputs,
        "output_name": source.output_name,
        "parity": [record.to_dict() for record in records],
        "units": {"input": "raw" if mean or std else "model", "mean": _plain(mean), "std": _plain(std)},
        "sandbox": None if is_module else described(),
    }

    if before is not None and before != _written(path_or_module):
        raise UnreadableError(f"{path_or_module}: it was written to while it was read; try again when it is complete")

    @keeps_subnormals
    def again(arithmetic: FloatFormat) -> Graph:
        with quiet(), torch.no_grad(), folded_in(arithmetic):
            return normalised(lower(captured.program, labels=captured.labels)[0], mean, std)

    noted = tuple(dict.fromkeys((REAL_ARITHMETIC, *said_of(source.inputs), *source.assumptions, *assumptions)))
    return Model(normalised(graph, mean, std), info, tuple(source.warnings), noted, again)


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
            found.append({"path": printable(name), "sha256": file_sha256(file)})
        except (OSError, ValueError) as problem:
            raise UnreadableError(f"{path}: its data file {printable(name)}: {reason(problem)}") from problem
    return found


def file_sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _written(path: Any) -> tuple[int, ...] | None:
    """What changes when a file is written or replaced: its hash is taken after it was read, and must be of what was read."""
    try:
        found = Path(path).stat()
    except (OSError, TypeError, ValueError):  # said by what reads it
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
