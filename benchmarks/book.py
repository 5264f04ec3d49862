"""The book: which cases are measured together, where they are kept, and README between its marks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import table

TARGETS = (
    *("start-up", "load-resnet18", "load-vit-b", "cifar10-resnet-2b", "pairs-45", "certificates-1000"),
    *("jacobians-mlp", "jacobians-conv", "growth", "counted"),
)
READING = ("help", "two-moons", "layer", "mlp-8x128", "conv-small", "conv-stride", "conv-wide")
RESIDUAL = ("resnet18-onnx", "resnet18-torchscript", "resnet50-onnx", "resnet50-torchscript")
LIPSDP = (
    *("lipsdp-50", "lipsdp-64", "lipsdp-300", "lipsdp-1000", "lipsdp-3000", "lipsdp-pairs", "lipsdp-10000"),
    *("lipsdp-residual", "lipsdp-conv", "lipsdp-depth-2", "lipsdp-depth-8", "lipsdp-depth-64", "lipsdp-width-16"),
)
LOCAL = (
    "sweep",
    "two-moons-exact",
    "grid-relu",
    "grid-tanh",
    "auto-lirpa",
    "pairs-2500",
    "mnist-logit",
    "radius",
    "acasxu",
)

TORUS = (
    *("torus-c3-ch8", "torus-c9-ch8", "torus-cifar10-2b", "torus-sri-b", "torus-random-c5-ch16"),
    *("torus-random-c17-ch8", "torus-resnet18", "torus-resnet34-64"),  # ResNet-50 by hand: hours
)


@dataclass(frozen=True)
class Chapter:
    """One run of `cases` with one thread, in a file of its own, so that each says its commit, day and load."""

    file: str
    cases: tuple[str, ...]
    repeat: int


CHAPTERS = (
    Chapter("results-targets.json", TARGETS, 1),
    Chapter("results-cluster.json", ("cluster-balls", "cluster-grid"), 1),
    Chapter("results-local.json", LOCAL, 1),
    Chapter("results.json", (*READING, *RESIDUAL), 1),
    Chapter("results-lipsdp.json", LIPSDP, 1),
    Chapter("results-torus.json", TORUS, 1),
    Chapter("results-regions.json", ("linear-regions", "acasxu-radii", "regions-rivals"), 1),
)


def write(folder: Path) -> None:
    """The tables of every kept run of `folder`, between the marks of its README.md."""
    path = folder / "README.md"
    text = path.read_text()
    for chapter in CHAPTERS:
        kept = folder / chapter.file
        if kept.exists():
            text = between(text, chapter.file, table.markdown(json.loads(kept.read_text())))
    path.write_text(text)


def between(text: str, name: str, tables: str) -> str:
    """`text` with `tables` between <!-- name --> and <!-- /name -->."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"README.md has lost its marks {begin.strip()} .. {end}")
    return f"{head}{begin}{tables}{end}{tail}"
