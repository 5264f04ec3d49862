"""README's table of public models: `python scripts/model_table.py --write`, or `--check` against the committed one.

Each model is bounded by the command line in a child process of its own, so that one that hangs or is killed is a row
like any other. The models are in the folder `models` of LIPCERT_SHARED (default `../shared`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import isclose
from pathlib import Path

from lipcert.report.digits import digits
from lipcert.report.plain import printable

REPOSITORY = Path(__file__).resolve().parents[1]
README = REPOSITORY / "README.md"
BEGIN, END = "<!-- models -->\n", "<!-- /models -->"
HEAD = "| model | | product upper | lower | why not |\n|---|---|---:|---:|---|\n"
SECONDS = 300  # per model; longer is a row "no answer"
FLAGS: dict[str, tuple[str, ...]] = {}  # what a file does not say by itself
UNREADABLE = 2


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
        """The same verdict, and values equal to three digits. Reasons may be worded anew."""
        numbers = [(self.upper, other.upper), (self.lower, other.lower)]
        return (self.model, self.status) == (other.model, other.status) and all(_close(a, b) for a, b in numbers)


def models(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".onnx", ".pt", ".pt2"))


def measure(path: Path) -> Row:
    """One child process: `lipcert bound PATH` with the methods product and sampled, l2."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        methods = ("--method", "product", "--method", "sampled")
        flags = ("--threads", "1", "--quiet", "--json", str(report), *FLAGS.get(path.name, ()))
        command = [sys.executable, "-m", "lipcert", "bound", str(path), *methods, *flags]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, cwd=REPOSITORY)
        except subprocess.TimeoutExpired:
            return Row(path.name, "no answer", "-", "-", f"not done within {SECONDS} s")
        if not report.exists():
            status = "unreadable" if done.returncode == UNREADABLE else f"exit {done.returncode}"
            return Row(path.name, status, "-", "-", _cell(done.stderr, path))
        return row_of(path, json.loads(report.read_text()))


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
    text = README.read_text()
    table = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    return [Row.parse(line) for line in table.splitlines()[2:]]


def write(rows: list[Row]) -> None:
    text = README.read_text()
    start, stop = text.index(BEGIN) + len(BEGIN), text.index(END)
    README.write_text(text[:start] + HEAD + "".join(map(str, rows)) + text[stop:])


def check(rows: list[Row]) -> int:
    """The number of rows that differ from README's, printed; models must be the same."""
    known = {row.model: row for row in committed()}
    wrong = [row for row in rows if row.model not in known or not row.agrees(known[row.model])]
    for row in wrong:
        print(f"README:  {known.get(row.model, 'no such row')}now:     {row}")
    gone = known.keys() - {row.model for row in rows}
    for name in gone:
        print(f"README:  {name} is not among the models")
    print(f"{len(rows) - len(wrong)} rows of README's table agree, {len(wrong) + len(gone)} do not")
    return len(wrong) + len(gone)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    parser.add_argument("--check", action="store_true", help="compare with README.md; exit 1 where a row differs")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    shared = Path(os.environ.get("LIPCERT_SHARED", REPOSITORY.parent / "shared"))
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(measure, models(shared / "models")))
    if arguments.write:
        write(rows)
    elif not arguments.check:
        print(HEAD + "".join(map(str, rows)))
    return 1 if arguments.check and check(rows) else 0


def _close(one: str, two: str) -> bool:
    return one == two or ("-" not in (one, two) and isclose(float(one), float(two), rel_tol=5e-3))


def _cell(reason: str, path: Path) -> str:
    """The first line, short, safe in a Markdown table, without this machine's folders."""
    first = (reason.strip().splitlines() or [""])[0].removeprefix("lipcert: ").replace(f"{path.parent}/", "")
    short = first if len(first) <= 120 else first[:119] + "…"
    return printable(short).replace("|", r"\|").replace("<", "&lt;")


if __name__ == "__main__":
    raise SystemExit(main())
