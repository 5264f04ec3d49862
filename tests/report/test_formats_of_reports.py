"""Reports as Markdown, comma-separated values and text: what they say, that a hostile name is inert, and a format from outside."""

from __future__ import annotations

import csv
import json
from contextlib import suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from two import two

import lipcert
from lipcert.cli.main import main
from lipcert.report.formats import FORMATS, written
from lipcert.report.formats.terminal import to_table
from lipcert.report.report import Report
from lipcert.report.sections import SECTIONS
from lipcert.report.tables import Item, Sentence
from lipcert.terms.errors import UnreadableError
from lipcert.terms.result import Bound, Refusal

HOSTILE = "=cmd|' /C calc'!A0\x1b[31m <script>alert(1)</script> | [x](http://evil) @all \u202e"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return lipcert.bound(two(tmp_path_factory.mktemp("two")), methods=["product", "sampled", "seqlip"], norm="2")


@pytest.fixture
def hostile(report: Report) -> Report:
    refused = Refusal(HOSTILE, "upper", "refused", HOSTILE, HOSTILE)
    rows = [{"name": HOSTILE, "kind": HOSTILE, "upper": None, "lower": None, "reason": HOSTILE}]
    return replace(report, model={**report.model, "path": HOSTILE}, results=[refused], layers=rows, warnings=[HOSTILE])


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(a) for a in arguments])
    return int(done.value.code or 0)


def test_every_format_from_the_command_line(report: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "r.json"
    file.write_text(json.dumps(report.to_dict()))
    files = [tmp_path / f"r{suffix}" for suffix in FORMATS if suffix != ".mat"]  # test_matlab.py
    assert run("report", file, *(word for path in files for word in ("--out", path))) == 0
    texts = {path.suffix: path.read_text() for path in files}
    assert all("product" in text for text in texts.values())
    assert "1.99999 <= L <= 2.00001" in texts[".txt"]
    assert "**1.99999 &lt;= L &lt;= 2.00001** **bounded**" in " ".join(texts[".md"].split())
    rows = {row["method"]: row for row in csv.DictReader(StringIO(texts[".csv"]))}
    assert float(rows["product"]["value"]) == report.results[0].value  # type: ignore[union-attr]


def test_two_reports_are_one_table(report: Report) -> None:
    text = FORMATS[".csv"]([("a.json", report.to_dict()), ("b.json", report.to_dict())])
    rows = list(csv.DictReader(StringIO(text)))
    assert [row["report"] for row in rows] == ["a.json"] * 3 + ["b.json"] * 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say what to write"),
        (["--out", "r.pdf.exe"], "the suffix says the format: one of .html, .md, .csv, .txt"),
        (["--out", "a.md", "--out", "a.md"], "is the same file"),
        (["--out", "r.json"], "this is the report"),
        (["odd.json", "--out", "o.md"], "odd.json: malformed lipcert.report/1 report"),
    ],
)
def test_wrong_use(
    arguments: list[str], words: str, report: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("r.json").write_text(json.dumps(report.to_dict()))
    Path("odd.json").write_text('{"schema": "lipcert.report/1"}')
    assert run("report", "r.json", *arguments) == 2
    assert words in capsys.readouterr().err


def test_nothing_in_a_report_acts(hostile: Report) -> None:
    data = [("r.json", hostile.to_dict())]
    for suffix in (".md", ".csv", ".txt"):
        text = FORMATS[suffix](data)
        assert all(c.isprintable() or c == "\n" for c in text), suffix
    markdown = FORMATS[".md"](data)
    for part in ("<script", "[x]", "@all", "http://"):
        assert part not in markdown
    cells = [cell for row in csv.reader(StringIO(FORMATS[".csv"](data))) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]


def test_every_section_of_every_command(tmp_path: Path) -> None:
    path = two(tmp_path)
    x = [[0.5, 0.5], [1.0, 2.0]]
    reports = [
        lipcert.inspect(path),
        lipcert.layers(path),
        lipcert.local(path, x, [0.1]),
        lipcert.local_grid(path, lipcert.Box([[0.0, 0.0]], [[1.0, 1.0]]), (2, 2)),
        lipcert.jacobian(path, x, y=[0, 1], per_class=True),
        lipcert.radius(path, x, eps=[0.1], execution="float32"),
        lipcert.bound(path, methods=["product"], certificate=tmp_path / "c"),
        lipcert.verify(tmp_path / "c", path),
    ]
    said = {name for report in reports for name, section in SECTIONS.items() if list(section(report))}
    assert said == set(SECTIONS) - {
        "track",
        "outputs",
        "pairs",
        "ranges",
    }  # test_track, test_many, test_page, test_ranges
    for report in reports:
        for suffix in (".md", ".txt", ".csv"):
            text = FORMATS[suffix]([("r", report.to_dict())])
            assert "None" not in text, (suffix, report.command)
            assert text.isprintable() or "\n" in text


def test_numbers_are_rounded_away_from_the_constant() -> None:
    third = 1 / 3
    assert [Item(third, side).words for side in ("lower", "upper", "estimate")] == ["0.333333", "0.333334", "0.333333"]  # type: ignore[arg-type]
    assert Item(None).words == ""


def test_a_format_and_a_section_from_outside(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One row each."""
    monkeypatch.setitem(FORMATS, ".names", lambda reports: "".join(f"{name}\n" for name, _ in reports))
    monkeypatch.setitem(SECTIONS, "toy", lambda report: iter([Sentence.of(f"toy of {report.command}")]))
    (tmp_path / "r.json").write_text(json.dumps(report.to_dict()))
    assert run("report", tmp_path / "r.json", "--out", tmp_path / "r.names", "--out", tmp_path / "r.txt") == 0
    assert (tmp_path / "r.names").read_text() == f"{tmp_path / 'r.json'}\n"
    assert "toy of bound" in (tmp_path / "r.txt").read_text()


def test_a_value_keeps_its_digits(report: Report) -> None:
    exact = replace(report, results=[Bound("product", "upper", "proved", 0.1 + 0.2)])
    assert "0.30000000000000004" in FORMATS[".csv"]([("r", exact.to_dict())])


@pytest.mark.parametrize(
    "field", ["results", "layers", "parts", "methods", "points", "summary", "warnings", "model", "scope"]
)
@pytest.mark.parametrize("odd", [3, "x", [3], [{"a": 1}], {"grid": 1, "jacobian": [], "local": {}, "track": 2}, None])
def test_a_report_of_any_shape_is_shown_or_refused(report: Report, field: str, odd: object) -> None:
    data = report.to_dict() | {field: odd}
    for suffix in (".md", ".csv", ".txt"):
        with suppress(UnreadableError):
            assert written(suffix, [("r.json", data)])


def test_bars_are_never_folded() -> None:
    """On a narrow terminal all of a column are shortened alike, and the longest is still the longest."""
    layers = [
        {"name": f"a layer with a long name {k}", "kind": "linear", "input_shape": [1, 64], "output_shape": [1, 64]}
        | {"lower": 1.0, "upper": float(k), "status": "bounded", "reason": None, "node": None}
        for k in (1, 5, 10)
    ]
    found = {}
    for width in (60, 80, 120):
        console = Console(width=width, file=StringIO(), force_jupyter=False)
        console.print(to_table(Report("layers", {"path": "m.onnx"}, layers=layers)))
        lines = console.file.getvalue().splitlines()
        bars = [line.count("█") for line in lines if "█" in line]
        assert len(bars) == 3
        assert bars[0] < bars[1] < bars[2]
        found[width] = bars[2]
    assert found[60] <= found[80] <= found[120] == 24
