"""What a mutant may do: be refused in one line, or be read; then everything that is promised of it holds, twice.

`subjects` makes the honest files of each format; `judge` makes a mutant of one, has it read, and looks at the canaries.
"""

from __future__ import annotations

import hashlib
import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import mutants_of_text as text
import numpy as np
import torch
from canaries import Canaries
from fuzz_seeds import SHAPE, external_files, nets, onnx_files, pt2_files, pt_files
from mutants import MAKERS, Maker, mutant

from lipcert import bound, radius, verify
from lipcert.gate.formats.to_junit import to_junit
from lipcert.gate.formats.to_markdown import to_markdown
from lipcert.gate.formats.to_sarif import to_sarif
from lipcert.gate.formats.to_verdicts import to_verdicts
from lipcert.gate.given import read_report
from lipcert.gate.policy import TEMPLATE, read_policy
from lipcert.gate.rules import judge as judge_gate
from lipcert.load.data import read_data
from lipcert.load.model import Model, load
from lipcert.report.formats.comparison import comparison_markdown
from lipcert.report.page.write import html_page
from lipcert.report.to_json import to_json
from lipcert.tasks.compare import compare
from lipcert.terms.errors import CertificateRejected, LipcertError
from lipcert.terms.files import read_json
from lipcert.terms.query import Box

SECONDS = 120  # for one mutant; a file's own code may take 60
Files = dict[str, bytes]  # what lies in the folder; the first one is mutated, or for "external" any

METHODS = ["product", "sampled"]


class Broken(Exception):
    def __init__(self, why: str, mutant: Files | None = None):
        super().__init__(why)
        self.mutant = mutant or {}


@dataclass(frozen=True)
class Subject:
    """`read`: the answer about the first file, plain data; it raises LipcertError where it refuses. `known`: those of
    the honest files; a mutant that is answered so was read as the same network, and that was its second run."""

    seeds: tuple[Files, ...]
    makers: tuple[Maker, ...]
    read: Callable[[Path], Any]
    known: set[str] = field(default_factory=set)

    def learn(self, folder: Path) -> None:
        for files in self.seeds:
            for name, data in files.items():
                (folder / name).write_bytes(data)
            self.known.add(_told(_answer(self, folder / next(iter(files)))))
            for name in files:
                (folder / name).unlink()


def subjects(folder: Path) -> dict[str, Subject]:
    """One of each format, in the order of their names. `folder`: for what is made on the way."""
    folder.mkdir(exist_ok=True)
    models = nets()
    honest = load(models["mlp"], input_shape=SHAPE)
    found = {
        "certificate": _certificates(folder, honest),
        "data": _data(honest),
        "external": Subject(external_files(), MAKERS["external"], _model),
        "gate": _gate(folder, honest),
        "onnx": Subject(onnx_files(), MAKERS["onnx"], _model),
        "policy": _policies(folder, honest),
        "pt": Subject(pt_files(models, folder), MAKERS["pt"], _model),
        "pt2": Subject(pt2_files(models, folder), MAKERS["pt2"], _model),
        "resume": _resumes(honest),
    }
    return dict(sorted(found.items()))


def judge(subject: Subject, draw: Random, canaries: Canaries) -> str:
    """ "refused" or "read". Raises Broken."""
    files = dict(draw.choice(subject.seeds))
    first = next(iter(files))
    victim = draw.choice(list(files)) if draw.random() < 0.3 else first
    makers = subject.makers if victim == first else (text.bits, text.splice, text.cut)
    files[victim] = mutant(makers, files[victim], draw, str(canaries.mark))
    for name, data in files.items():
        (canaries.room / name).write_bytes(data)
    path, begun = canaries.room / first, time.monotonic()
    try:
        with canaries.listening(), _in_time():
            answer = _answer(subject, path)
            answers = [answer]
            if _told(answer) not in subject.known and (answer.startswith("{") or draw.random() < 0.1):
                answers.append(_answer(subject, path))
    except Broken as problem:
        raise Broken(str(problem), files) from problem.__cause__
    finally:
        known = {*files}
        trace = canaries.broken(known)
        for name in files:
            (canaries.room / name).unlink(missing_ok=True)
    if trace is not None:
        raise Broken(trace, files)
    if time.monotonic() - begun > SECONDS:
        raise Broken("it took too long", files)
    if len(set(answers)) != 1:
        raise Broken(f"two runs differ: {_difference(*answers)}", files)
    return "read" if answer.startswith("{") else "refused"


def _answer(subject: Subject, path: Path) -> str:
    """The answer as JSON without its times, or the line of the refusal."""
    try:
        return json.dumps(_timeless({"answer": subject.read(path)}), sort_keys=True)
    except (LipcertError, CertificateRejected) as problem:
        said = str(problem)
        if "\n" in said or not said.isprintable() or not said or len(said) > 6000:
            raise Broken(f"a message that is no line: {said[:500]!r}") from problem
        return said
    except Broken:
        raise
    except Exception as problem:
        raise Broken(f"{type(problem).__name__}: {problem}") from problem


def _told(answer: str) -> str:
    """Without what names the file and its bytes."""
    return re.sub(r'"(path|sha256|file)": "[^"]*"', "", answer)


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in ("seconds", "created", "seal")}
    return [_timeless(item) for item in value] if isinstance(value, list | tuple) else value


def _difference(one: str, other: str) -> str:
    place = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
    return f"{one[max(0, place - 80) : place + 80]} | {other[max(0, place - 80) : place + 80]}"


@contextmanager
def _in_time() -> Iterator[None]:
    def late(number: int, frame: object) -> None:
        raise Broken(f"no answer within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# What is read, and what holds of what was read


def _model(path: Path) -> dict[str, Any]:
    shape = (1, 2, 4, 4) if path.stem.endswith("conv") else SHAPE
    model = load(path, input_shape=shape)
    report = bound(model, methods=METHODS)
    if report.upper is not None and report.lower is not None and not report.lower <= report.upper:
        raise Broken(f"lower {report.lower} > upper {report.upper}")
    if not all(record["points"] or record["note"] for record in model.info["parity"]):
        raise Broken("read without parity")
    return dict(json.loads(to_json(report)))


def _data(model: Model) -> Subject:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(3, 4)), np.array([0, 1, 1])

    def read(path: Path) -> dict[str, Any]:
        said = StringIO()
        with redirect_stderr(said):
            found = read_data(path, SHAPE)
        if not said.getvalue().replace("\n", "", 1).isprintable():
            raise Broken(f"printed {said.getvalue()[:200]!r}")
        if found.x.shape[1:] != SHAPE or found.x.dtype != np.float64 or not np.isfinite(found.x).all():
            raise Broken(f"data of shape {found.x.shape}, {found.x.dtype}")
        report = radius(model, found.x[:4], None if found.y is None else found.y[:4], methods=["global"])
        digest = hashlib.sha256(found.x.tobytes() + repr(found.y).encode()).hexdigest()
        return {"data": digest, "points": report.to_dict()["points"]}

    def saved(save: Callable[..., None], *arrays: Any, **named: Any) -> bytes:
        from io import BytesIO

        stream = BytesIO()
        save(stream, *arrays, **named)
        return stream.getvalue()

    seeds: list[tuple[str, bytes, tuple[Maker, ...]]] = [
        ("x.npz", saved(np.savez, x=x, y=y), text.NPZ),
        ("packed.npz", saved(np.savez_compressed, x=x, y=y.astype(np.int8)), text.NPZ),
        ("x.npy", saved(np.save, (100 * np.abs(x)).astype(np.uint8)), text.NPY),
        ("x.csv", "\n".join(",".join(map(repr, map(float, row))) for row in x).encode(), text.CSV),
    ]

    def any_kind(data: bytes, draw: Random) -> bytes:
        makers = text.NPZ if data[:2] == b"PK" else text.NPY if data[:1] == b"\x93" else text.CSV
        return draw.choice(makers)(data, draw)

    return Subject(tuple({name: data} for name, data, _ in seeds), (any_kind,), read)


def _asked(model: Model) -> dict[str, Callable[..., Any]]:
    """Reports that can be resumed, each with a few rows."""
    from lipcert import local_grid as grid

    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(4, 4)), np.array([0, 1, 1, 0])
    return {
        "radius": lambda **o: radius(model, x, y, eps=(0.1,), methods=["pairs", "global"], **o),
        "bound": lambda **o: bound(model, output="pairs", methods=["product"], **o),
        "local": lambda **o: grid(
            model, Box(torch.full(SHAPE, -1.0).double(), torch.full(SHAPE, 1.0).double()), (2, 1, 1, 1), rtol=1.0, **o
        ),
    }


ROWS = ("upper", "lower", "results", "points", "scope", "norm", "model", "self_check", "status")


def _resumes(model: Model) -> Subject:
    """A resumed run gives what a fresh one gives, whatever stands in the report."""
    asked = _asked(model)
    fresh = {name: json.loads(to_json(ask())) for name, ask in asked.items()}

    def told(data: dict[str, Any]) -> Any:
        summary = {
            key: value for key, value in data["summary"].items() if key in ("pairs", "grid", "certified", "clean")
        }
        return _timeless({**{key: data[key] for key in ROWS}, "summary": summary})

    def read(path: Path) -> dict[str, Any]:
        name = path.stem
        found = json.loads(to_json(asked[name](resume=path)))
        if told(found) != told(fresh[name]):
            raise Broken(
                f"resumed, it answers otherwise: {_difference(json.dumps(told(found)), json.dumps(told(fresh[name])))}"
            )
        return found

    seeds = tuple({f"{name}.json": json.dumps(data, indent=1).encode()} for name, data in fresh.items())
    return Subject(seeds, text.JSON, read)


def _judged(reports: list[Path], policy: Path) -> dict[str, Any]:
    verdicts = judge_gate(read_policy(policy), [read_report(path) for path in reports])
    for name, emitted in (
        ("junit", to_junit(verdicts)),
        ("sarif", to_sarif(verdicts)),
        ("verdicts", to_verdicts(verdicts)),
    ):
        ElementTree.fromstring(emitted) if name == "junit" else json.loads(emitted)
        _printable(name, emitted)
    _printable("markdown", to_markdown(verdicts))
    return {"verdicts": to_verdicts(verdicts)}


def _printable(name: str, emitted: str) -> None:
    bad = next((c for c in emitted if not c.isprintable() and c != "\n" and c != "\t"), None)
    if bad is not None:
        raise Broken(f"{name} holds {bad!r}")


def _gate(folder: Path, model: Model) -> Subject:
    """Reports given to gate, compare and report."""
    policy, honest = folder / "gate.toml", {name: ask() for name, ask in _asked(model).items()}
    policy.write_text(POLICY)
    for name, report in honest.items():
        (folder / f"{name}.json").write_text(to_json(report))

    def read(path: Path) -> dict[str, Any]:
        found = _judged([path], policy)
        moved = compare(folder / path.name, path)
        _printable("comparison", comparison_markdown([moved], True))
        page = html_page([(path.name, read_json(path, path.name))])
        _printable("page", page)
        if "<script>" in page.replace("<script>", "", 1):
            raise Broken("a script in the page")
        return found | {"moved": moved.to_dict(), "page": hashlib.sha256(page.encode()).hexdigest()}

    seeds = tuple({f"{name}.json": to_json(report).encode()} for name, report in honest.items())
    return Subject(seeds, text.JSON, read)


POLICY = """
[[rule]]
name = "smooth"
max_upper = 1000
norm = "2"

[[rule]]
min_certified_accuracy = 0.25
eps = 0.01

[[rule]]
field = "summary.accuracy"
min = 0.1

[[rule]]
require_parity = true

[[rule]]
max_ratio = 1e6
"""


def _policies(folder: Path, model: Model) -> Subject:
    reports = []
    for name, ask in _asked(model).items():
        reports.append(folder / f"given-{name}.json")
        reports[-1].write_text(to_json(ask()))
    everything = re.sub(r"(?m)^# (\[\[rule\]\]|\w+ = )", r"\1", TEMPLATE)
    project = POLICY.replace("[[rule]]", "[[tool.lipcert.gate.rule]]")
    seeds = {"gate.toml": POLICY, "all.toml": everything, "pyproject.toml": project}
    return Subject(
        tuple({name: policy.encode()} for name, policy in seeds.items()), text.TOML, lambda path: _judged(reports, path)
    )


def _certificates(folder: Path, model: Model) -> Subject:
    """What is accepted is not below a value that is attained."""
    seeds = []
    for method in ("product", "lipsdp-layer", "absolute"):
        path = folder / f"{method}.cert"
        bound(model, methods=[method], certificate=path)
        seeds.append({path.name: path.read_bytes()})
    attained = bound(model, methods=["sampled"]).lower

    def read(path: Path) -> dict[str, Any]:
        found = verify(path, model).to_dict()
        if found["summary"]["verdict"] == "accepted" and not found["summary"]["claim"] >= attained:
            raise Broken(f"accepted {found['summary']['claim']}, and {attained} is attained")
        return found

    return Subject(tuple(seeds), text.JSON, read)
