"""The table of public models of docs/models.md: `python scripts/model_table.py --write`, or `--check` against the committed one.

Each model is bounded by the command line in a child process of its own, so that one that hangs or is killed is a row
like any other. The models are in the folder `models` of LIPCERT_SHARED (default `../shared`).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import isclose
from pathlib import Path

from lipcert.terms.digits import digits
from lipcert.terms.printable import printable

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs/models.md"
BEGIN, END = "<!-- models -->\n", "<!-- /models -->"
HEAD = "| model | | product upper | lower | why not |\n|---|---|---:|---:|---|\n"
SECONDS = 300  # per model; longer is a row "no answer"
FLAGS = {  # what a file does not say by itself
    "basic_pitch_nmp.onnx": ("--output-name", "StatefulPartitionedCall:1"),
    "carvana_unet_simp_small.onnx": ("--output-name", "42"),  # the network before its ArgMax
    "marabou_multiInput_add.onnx": ("--input-name", "X1,X2", "--output-name", "Y"),
    "mtcnn_pnet.onnx": ("--output-name", "softmax", "--input-shape", "1,24,24,3"),
    "openmm_central.pt": ("--input-shape", "5,3"),
    "rapidocr_cls_mobilenetv3.onnx": ("--input-shape", "1,3,48,192"),
    "silero_vad.onnx": (
        *("--input-name", "input", "--output-name", "output", "--input-shape", "1,512"),
        *("--fix", "state=0", "--fix", "sr=16000"),
    ),
    "silero_vad.jit.pt": (
        *("--input-name", "x", "--input-shape", "1,512"),
        *("--fix", "sr=16000", "--fix", "_state=0", "--fix", "_context=0"),
    ),
    "unitree_g1_motion.pt": (
        *("--input-name", "x", "--input-shape", "1,47"),
        *("--fix", "hidden_state=0", "--fix", "cell_state=0"),
    ),
}
LARGE = ("basic_pitch_nmp.onnx",)  # a million neurons: the search for lower values takes many minutes
UNREADABLE = 2
READY = multiprocessing.get_context("forkserver")  # imports once: of a small model that is most of the time
READY.set_forkserver_preload(["torch", "lipcert.cli.main", "lipcert.tasks.bound"])


@dataclass(frozen=True)
class Row:
    """`upper`, `lower`: shown digits, or a dash."""

    model: str
    status: str
    upper: str
    lower: str
    why: str

    def __str__(self) -> str:
        flags = f" `{' '.join(FLAGS[self.model])}`" if self.model in FLAGS else ""
        return f"| {self.model}{flags} | {self.status} | {self.upper} | {self.lower} | {self.why} |\n"

    @classmethod
    def parse(cls, line: str) -> Row:
        cells = [cell.strip() for cell in line.replace(r"\|", "\0").strip().strip("|").split("|")]
        model, *rest = (cell.replace("\0", r"\|") for cell in cells)
        return cls(model.split(" ")[0], *rest)

    def agrees(self, other: Row) -> bool:
        """Of this run with a row of the page: the same verdict and upper values equal to three digits. Reasons may be worded anew.

        A lower value is what a search found: on another processor, or with other threads, its ascents end on other hills
        (15.98 with one thread and 24.24 with two, of mlp_L9_W16). It may be more; a fifth less is allowed.
        """
        same = (self.model, self.status) == (other.model, other.status)
        return same and _close(self.upper, other.upper, 5e-3) and _not_fallen(other.lower, self.lower, 0.2)


def models(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".onnx", ".pt", ".pt2"))


def measure(path: Path) -> Row:
    """One child process: `lipcert bound PATH` with the methods product and (but for LARGE) sampled, l2."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        methods = ("--method", "product", *(() if path.name in LARGE else ("--method", "sampled")))
        flags = ("--threads", "1", "--quiet", "--json", str(report), *FLAGS.get(path.name, ()))
        told = Path(folder, "stderr.txt")
        child = READY.Process(target=command_line, args=(["bound", str(path), *methods, *flags], told))
        child.start()
        child.join(SECONDS)
        if child.is_alive():
            child.kill()
            child.join()
            return Row(path.name, "no answer", "-", "-", f"not done within {SECONDS} s")
        if not report.exists():
            status = "unreadable" if child.exitcode == UNREADABLE else f"exit {child.exitcode}"
            return Row(path.name, status, "-", "-", _cell(told.read_text(), path))
        return row_of(path, json.loads(report.read_text()))


def command_line(arguments: list[str], told: Path) -> None:
    """`lipcert ARGUMENTS` in this process, whose stderr goes to the file `told`."""
    from lipcert.cli.main import main as lipcert

    os.chdir(REPOSITORY)
    stderr, nothing = os.open(told, os.O_WRONLY | os.O_CREAT), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(stderr, 2)
    lipcert(arguments)


def row_of(path: Path, report: dict) -> Row:
    values = {(row["method"], row["side"]): row["value"] for row in report["results"]}
    upper, lower = values.get(("product", "upper")), report["lower"]
    reasons = [row["reason"] for row in report["results"] if row["side"] == "upper" and row["reason"]]
    return Row(
        path.name,
        report["status"],
        "-" if upper is None else digits(upper, "upper"),
        "-" if lower is None else digits(lower, "lower"),
        _cell(reasons[0], path) if upper is None and reasons else "",
    )


def committed() -> list[Row]:
    text = PAGE.read_text()
    table = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    return [Row.parse(line) for line in table.splitlines()[2:]]


def write(rows: list[Row]) -> None:
    text = PAGE.read_text()
    start, stop = text.index(BEGIN) + len(BEGIN), text.index(END)
    PAGE.write_text(text[:start] + HEAD + "".join(map(str, rows)) + text[stop:])


def check(rows: list[Row], *, whole: bool) -> int:
    """The number of rows that differ from the page's, printed; `whole`: it must have no others."""
    known = {row.model: row for row in committed()}
    wrong = [row for row in rows if row.model not in known or not row.agrees(known[row.model])]
    for row in wrong:
        print(f"page:    {known.get(row.model, 'no such row')}now:     {row}")
    gone = known.keys() - {row.model for row in rows} if whole else set()
    for name in gone:
        print(f"page:    {name} is not among the models")
    print(f"{len(rows) - len(wrong)} rows of docs/models.md agree, {len(wrong) + len(gone)} do not")
    return len(wrong) + len(gone)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the rows into docs/models.md")
    parser.add_argument("--check", action="store_true", help="compare with docs/models.md; exit 1 where a row differs")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="*", metavar="MODEL", help="the rows of these alone")
    parser.add_argument("--part", metavar="K/N", default="0/1", help="every Nth model, from the Kth on")
    arguments = parser.parse_args()
    first, step = map(int, arguments.part.split("/"))
    shared = Path(os.environ.get("LIPCERT_SHARED", REPOSITORY.parent / "shared"))
    with ThreadPoolExecutor(arguments.jobs) as pool:
        known = models(shared / "models")
        asked = (
            [path for path in known if path.name in arguments.only] if arguments.only else known[first % step :: step]
        )
        rows = list(pool.map(measure, asked))
    whole = asked == known
    if arguments.write:
        new = {row.model: row for row in rows}
        write(rows if whole else [new.get(row.model, row) for row in committed()])
    elif not arguments.check:
        print(HEAD + "".join(map(str, rows)))
    return 1 if arguments.check and check(rows, whole=whole) else 0


def _not_fallen(page: str, now: str, tolerance: float) -> bool:
    return page == now or ("-" not in (page, now) and float(now) >= float(page) * (1 - tolerance))


def _close(one: str, two: str, tolerance: float) -> bool:
    return one == two or ("-" not in (one, two) and isclose(float(one), float(two), rel_tol=tolerance))


def _cell(reason: str, path: Path) -> str:
    """The first line, short, safe in a Markdown table, without this machine's folders."""
    first = (reason.strip().splitlines() or [""])[0].removeprefix("lipcert: ").replace(f"{path.parent}/", "")
    short = first if len(first) <= 120 else first[:119] + "…"
    return printable(short).replace("|", r"\|").replace("<", "&lt;")


if __name__ == "__main__":
    raise SystemExit(main())
