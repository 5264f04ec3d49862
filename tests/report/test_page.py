"""The HTML page: what it says, that nothing in a report can act in it, and how a real browser shows it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Page, browser

from lipcert.cli.main import main
from lipcert.report.next_steps import CLOSER, far_off, next_step
from lipcert.report.page.geometry import Ruler, bars, heat_map, histogram, shade, ticks
from lipcert.report.page.write import html_page
from lipcert.report.report import Report
from lipcert.terms.errors import UnreadableError
from lipcert.terms.result import Bound, Refusal

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '" onfocus="alert(1)" autofocus="',
    "{{ 7*7 }}{% raw %}",
    "javascript:alert(1)//https://e.vil/a.js",
    "</style><style>*{display:none}</style>",
    "a\x1b[31m\x00\u202e\n\u2028-->",
    "$(touch /tmp/x)`;'&|",
)
EVIL = " ".join(HOSTILE)
FACTS = {"format": "onnx", "sha256": "a" * 64, "input_shape": [1, 2], "output_shape": [1, 3], "parameters": 5}


def model(path: str) -> dict[str, Any]:
    parity = [{"reference": "onnxruntime", "points": 4, "difference": 0.0, "allowed": 1.0}]
    names = {"graph": "b" * 64, "input_name": path, "output_name": path, "neurons": 3, "parity": parity}
    return {"path": path, **FACTS, **names, "units": {"input": "raw", "mean": [0.5], "std": [0.2]}}


def point(index: int, radius: float, attacked: float | None, name: str) -> dict[str, Any]:
    known = {"index": index, "label": 1, "predicted": 1, "margin": 1.0, "limited_by": name, "method": name}
    return {**known, "radius": radius, "status": "certified", "attacked": attacked, "radii": {name: radius}}


def statistics(name: str) -> dict[str, Any]:
    row = {"count": 3, "missing": 0, "mean": 1.0, "std": 0.1, "min": 0.5, "max": 2.0, "quantiles": {"0.5": 1.0}}
    row |= {"histogram": {"edges": [0.5, 1.0, 2.0], "counts": [2, 1]}, "worst": 1}
    kinds = ("spectral", "frobenius", "l1", "linf", "smallest")
    group = {"set": "data", "points": 3, "measured": 3, "statistics": dict.fromkeys(kinds, row)}
    group["classes"] = [{"label": name, **dict.fromkeys(kinds, row)}]
    known = {"from": name, "to": None, "around": None, "samples": 3, "seed": 0, "data": None, "complete": True}
    graph = {"layer": name, "samples": 3, "neighbours": 2, "between": 1.0, "total": 2.0, "ratio": 0.5}
    found = {**known, "size": [2, 3], "quantities": dict.fromkeys(kinds, "value"), "sets": [group]}
    return {"jacobian": found, "laplacian": [graph]}


GRID = {
    "shape": [2, 3], "edges": [[0, 1, 2], [0, 1, 2, 3]], "plane": None, "rtol": 0.01, "pairs": 0, "jacobians": 1,
    "lower": [1, 2, 3, 4, 5, None], "upper": [1.5, 2.5, 3.5, 4.5, 5.5, None], "ratio": [1.5, 1.25, 1.2, 1.1, 1.1, None],
    "done": [True] * 6, "closed": [False] * 6, "seed": 0,
}  # fmt: skip


def reports(name: str) -> list[tuple[str, dict[str, Any]]]:
    """One of every kind, with `name` wherever a report holds words of others."""
    upper = Bound(name, "upper", "proved", 3.0, 0.1, None, {"certificate": name})
    lower, guess = Bound("sampled", "lower", "sampled", 2.0), Bound("clever", "estimate", "sampled", 2.5)
    refusal = Refusal("lipsdp", "upper", "refused", name, name)
    layer = {"name": name, "kind": name, "input_shape": [1, 2], "output_shape": [1, 3], "upper": 2.0, "lower": 1.9}
    flat = layer | {"upper": None, "lower": None, "status": "unbounded", "reason": name}
    ball = {"index": 0, "eps": 0.1, "upper": None, "lower": 1.0, "method": None, "results": []}
    certified = [{"eps": 0.1, "certified_accuracy": 0.5, "attacked_accuracy": None}]
    radii = {"samples": 2, "status": {name: 2}, "accuracy": 1.0, "radius": {"mean": 0.2}, "certified": certified}
    made = [
        Report("bound", model(name), results=[upper, lower, guess, refusal], max_upper=2.5, warnings=[name], assumptions=[name]),
        Report("bound", model(name), results=[Refusal("product", "upper", "unbounded", name, name), lower]),
        Report("layers", model(name), layers=[layer | {"status": "bounded", "reason": None}, flat]),
        Report("local", model(name), results=[lower, upper], summary={"grid": GRID}),
        Report("local", model(name), points=[ball, ball | {"upper": 1.5, "method": name}], summary={"local": {"norm": "2"}}),
        Report("radius", model(name), points=[point(0, 0.2, 0.3, name), point(1, 0.1, None, name)], summary=radii),
        Report("jacobian", model(name), results=[lower], summary=statistics(name)),
        Report("verify", model(name), results=[refusal], summary={"verdict": "rejected", "claim": 3.0, "place": name, "reason": name}),
        Report("verify", model(name), results=[upper], summary={"verdict": "accepted", "claim": 3.0, "proved": 2.9, "trusted": [name]}),
    ]  # fmt: skip
    verdict = {
        "rule": name,
        "check": "field",
        "status": "not proved",
        "message": name,
        "report": name,
        "samples": [1, 2],
    }
    gate = {"schema": "lipcert.gate/1", "passed": False, "verdicts": [verdict]}
    return [*((name, report.to_dict()) for report in made), (name, gate)]


# What it says


def test_every_kind_of_report_is_shown() -> None:
    page = html_page(reports("net.onnx"))
    for words in (
        *(
            "Every method's value",
            "What has no value, and what to do",
            "Layers",
            "Local constants",
            "Constants in l2 balls",
        ),
        *("Certified radii", "Certified accuracy", "Jacobians, 3 x 2", "Class graph", "certificate REJECTED"),
        *("certificate accepted", "Gate NOT met", "What is assumed", "What is trusted", "To check it again"),
        *(
            "lipcert verify net.onnx net.onnx",
            "lipcert-audit net.onnx net.onnx",
            "4 points, onnxruntime",
            "gate NOT met",
            "upper &le; 2.5",
        ),
        *("Ask about a region", "Another method may still give a value", "estimate, no bound"),
    ):
        assert words in page, words
    assert "2 &le; <i>L</i> &le; 3" in page


def test_what_has_no_picture_of_its_own_is_a_table() -> None:
    rows = [{"pair": f"0-{k}", "upper": float(k) or None, "lower": None, "results": []} for k in range(13)]
    page = html_page([("r.json", Report("bound", model("m"), output="pairs", summary={"pairs": rows}).to_dict())])
    assert "Differences of two outputs" in page
    assert page.index(">0-0<") < page.index(">0-12<") < page.index(">0-4<")  # without a value, then the steepest
    assert ">0-3<" not in page
    assert "and 3 more, in the report" in page
    layer = {"name": EVIL, "upper": 2.0, "lower": 1.0}
    row = {"series": EVIL, "step": 3, "status": "refused", "reason": EVIL, "lower": None, "upper": None}
    row |= {"methods": {}, "layers": [layer], "jacobian": None, "accuracy": 0.5}
    known = row | {"status": "bounded", "lower": 1.0, "upper": 2.0, "reason": None}
    track = {"checkpoints": [row, known], "methods": ["product"], "complete": False}
    page = html_page([("t.json", Report("track", model("m"), summary={"track": track}).to_dict())])
    for words in ("Along training", "50.0 %", "the track is not complete"):
        assert words in page
    assert "<img" not in page


def test_a_closed_bracket_is_a_mark() -> None:
    ruler = Ruler.of([54.1324, 54.1325])
    assert ruler.place(54.1325) - ruler.place(54.1324) < 1
    grid = GRID | {"ratio": [1.0001] * 6, "lower": [1.0] * 6, "upper": [1.0001] * 6}
    page = html_page([("r.json", Report("local", model("m"), summary={"grid": grid}).to_dict())])
    assert "upper / lower" not in page  # one colour says nothing
    assert "differ by less than 0.2 % everywhere" in page


def test_a_verdict_says_what_to_do() -> None:
    verdict = {
        "rule": "r",
        "status": "not proved",
        "message": "m",
        "report": "r.json",
        "samples": [],
        "step": "do <this>",
    }
    page = html_page([("g", {"schema": "lipcert.gate/1", "passed": False, "verdicts": [verdict]})])
    assert "do &lt;this&gt;" in page


def test_radii_without_an_attack() -> None:
    radii = {"samples": 1, "status": {}, "accuracy": 1.0, "radius": {"mean": 0.2}, "certified": []}
    page = html_page(
        [("r.json", Report("radius", model("m"), points=[point(0, 0.2, None, "m")], summary=radii).to_dict())]
    )
    assert "Certified accuracy" in page


def test_it_is_self_contained() -> None:
    page = html_page(reports("net.onnx"))
    assert not re.search(r"(?:src|href)=\"(?!#|data:,)", page)
    assert not re.search(r"url\(|@import|https?://", page)
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_values_are_rounded_outward() -> None:
    results = [Bound("a", "upper", "proved", 1 / 3), Bound("b", "lower", "sampled", 1 / 7)]
    page = html_page([("r", Report("bound", model("m"), results=results).to_dict())])
    assert "0.142857 &le; <i>L</i> &le; 0.333334" in page


def test_wrong_files_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name, good = reports("net.onnx")[0]
    for bad in (
        {},
        {"schema": "x"},
        good | {"results": [{}]},
        good | {"summary": {"jacobian": {"size": []}}},
        good | {"model": 3},
    ):
        with pytest.raises(UnreadableError, match=r"net\.onnx: not as the schema"):
            html_page([(name, bad)])
    with pytest.raises(UnreadableError, match="verdicts"):
        html_page([("g", {"schema": "lipcert.gate/1", "verdicts": [3]})])
    verdict = {"rule": "r", "check": "max_upper", "status": "met", "message": "m", "report": "r.json"}
    with pytest.raises(UnreadableError, match=r"verdicts says: .*samples"):
        html_page([("g", {"schema": "lipcert.gate/1", "passed": True, "verdicts": [verdict]})])
    with pytest.raises(UnreadableError, match="g: not as the schema says"):
        html_page([("g", {"schema": "lipcert.gate/1", "passed": True, "verdicts": [verdict | {"samples": 3}]})])
    file = tmp_path / "r.json"
    for text in ("[]", '{"a": NaN}', "no"):
        file.write_text(text)
        with pytest.raises(SystemExit) as stopped:
            main(["report", str(file), "--html", str(tmp_path / "p.html")])
        assert stopped.value.code == 2
    assert not (tmp_path / "p.html").exists()
    file.write_text(json.dumps(good))
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(file), "--html", str(file)])
    assert stopped.value.code == 2
    assert json.loads(file.read_text()) == good
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(file), "--html", "-"])
    assert not stopped.value.code
    assert capfd.readouterr().out.startswith("<!DOCTYPE html>")


def test_each_missing_answer_has_a_next_step() -> None:
    for status in ("unbounded", "refused", "timeout"):
        assert next_step(status, {"kind": "global"}, ["product"]).endswith(".")
    assert "smaller" in next_step("unbounded", {"kind": "box"}, ["product"])
    assert "--output-name" in next_step("refused", {"kind": "global"}, ["load"])
    assert next_step("ok", {"kind": "global"}, ["product"]) == ""


def test_a_bound_that_says_little_has_one_too() -> None:
    assert all(
        "closer" in far_off(0.5, 1e6, {"kind": kind}) or "together" in far_off(0.5, 1e6, {"kind": kind})
        for kind in CLOSER
    )
    assert "2e+06 times" in far_off(0.5, 1e6, {"kind": "global"})
    for lower, upper in ((0.5, 1.0), (None, 1.0), (0.5, None), (0.0, 1.0), (5e-324, 1e300)):
        assert bool(far_off(lower, upper, {"kind": "ball"})) == (lower == 5e-324)


# Geometry


def test_axes() -> None:
    assert ticks(0.0, 1.0) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(2.0, 2.0) == [2.0]
    assert Ruler.of([1.0, 100.0]).log
    assert not Ruler.of([0.0, 100.0]).log
    assert not Ruler.of([10.0, 11.0]).log
    for values in ([], [0.0], [5.0, 5.0], [1e-300, 1e300], [0.0, 1e-310]):
        places = [Ruler.of(values).place(value) for value in values]
        assert all(0 <= place <= 100 for place in places)
    assert Ruler.of([1.0, 2.0]).place(1.0) < Ruler.of([1.0, 2.0]).place(2.0)


def test_pictures_of_odd_values() -> None:
    assert histogram([], "x") is None
    assert len(histogram([3.0, 3.0], "x")["bars"]) == 1
    assert sum(int(bar["words"].split(": ")[1]) for bar in histogram([1, 2, 2.5, 9], "x")["bars"]) == 4
    assert bars([0, 1], [0], "x")["bars"] == []
    nothing = heat_map("t", [None] * 4, [[0, 1, 2], [0, 1, 2]], False)
    assert [colour for colour, _ in nothing["paths"]] == [""]
    assert {colour for colour, _ in heat_map("t", [2.0] * 4, [[0, 1, 2], [0, 1, 2]], False)["paths"]} == {"#440154"}
    assert shade(-1.0, ("#000000", "#ffffff")) == "#000000"
    assert shade(0.5, ("#000000", "#ffffff")) == "#808080"


# A real browser


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    if CHROMIUM is None:
        if os.environ.get("LIPCERT_REQUIRE_BROWSER") == "1":
            pytest.fail("LIPCERT_REQUIRE_BROWSER=1 but there is no Chromium")
        pytest.skip("no Chromium (Debian: apt-get install chromium)")
    with browser() as found:
        yield found


@pytest.fixture
def opened(page: Page, tmp_path: Path) -> Iterator[Page]:
    """A page of ordinary reports, on a desk, and no complaint at the end."""
    page.complaints.clear()
    file = tmp_path / "page.html"
    file.write_text(html_page(reports("net.onnx")))
    page.look(1400)
    page.open(file)
    yield page
    assert page.complaints == []


def test_complaints_are_heard(page: Page, tmp_path: Path) -> None:
    """The oracle of the tests below: an error, a network request and a script that the policy forbids."""
    good = html_page(reports("net.onnx"))
    for planted, word in (
        ("<script>alert(1)</script>", "Content Security Policy"),
        ('<p style="color:red">x</p>', "Content Security Policy"),
        ('<img src="http://127.0.0.1:9/x.png">', "Content Security Policy"),
    ):
        page.complaints.clear()
        (tmp_path / "p.html").write_text(good.replace("<h1>", planted + "<h1>"))
        page.open(tmp_path / "p.html")
        page.run("1")
        assert any(word in complaint for complaint in page.complaints), planted
    page.complaints.clear()
    (tmp_path / "p.html").write_text(
        "<script>console.log('here'); nowhere()</script><img src='http://127.0.0.1:9/x.png'>"
    )
    page.open(tmp_path / "p.html")
    page.run("1")
    assert {complaint.split(":")[0] for complaint in page.complaints} >= {"console.log", "exception", "network"}


def test_hostile_names_are_inert(page: Page, tmp_path: Path) -> None:
    page.complaints.clear()
    tags = (
        "JSON.stringify([...document.querySelectorAll('*')].map(e => e.tagName + [...e.attributes].map(a => a.name)))"
    )
    found = []
    for name in ("net.onnx", EVIL):
        (tmp_path / "p.html").write_text(html_page(reports(name)))
        page.open(tmp_path / "p.html")
        found.append(page.run(tags))
    assert found[0] == found[1]  # the same elements with the same attributes, whatever they are called
    text = page.run("document.body.textContent")
    assert "</script><script>alert(1)</script>" in text
    assert "{{ 7*7 }}{% raw %}" in text
    assert not {"\x1b", "\x00", "\u202e", "\u2028"} & set(text)
    assert page.complaints == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1400])
def test_it_fits_the_screen(opened: Page, width: int, dark: bool) -> None:
    opened.look(width, dark=dark)
    assert opened.run("document.documentElement.scrollWidth") <= width
    ground = [int(part) for part in re.findall(r"\d+", opened.run("getComputedStyle(document.body).backgroundColor"))]
    assert (sum(ground) < 200) == dark
    assert opened.run("document.querySelector('.tracks').getBoundingClientRect().width") > 0.5 * min(width, 900)


def test_paper_shows_everything_on_white(opened: Page) -> None:
    opened.look(1000, dark=True, paper=True)
    assert opened.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert opened.run("document.querySelector('details dl').getBoundingClientRect().height") > 50


def test_the_keyboard_reaches_everything(opened: Page) -> None:
    """Every link, map, scrolling table and fold in the order of the page; a fold opens with Enter."""
    wanted = opened.run("document.querySelectorAll('a, summary, [tabindex]').length")
    opened.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    seen = []
    for _ in range(wanted):
        opened.press("Tab")
        seen.append(opened.run("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
    assert len(set(seen)) == wanted
    assert seen == sorted(seen)
    opened.run("document.querySelector('summary').focus()")
    opened.press("Enter")
    assert opened.run("document.querySelector('details').open") is False


def test_maps_tell_the_value_of_a_cell(opened: Page) -> None:
    said = "document.querySelector('.readout').textContent"
    opened.run("document.querySelector('[data-map]').focus()")
    assert opened.run(said) == "x0 0 to 1, x1 0 to 1: 1.00000 ≤ L ≤ 1.50000"
    opened.press("ArrowRight")
    opened.press("ArrowUp")
    assert opened.run(said) == "x0 1 to 2, x1 1 to 2: 5.00000 ≤ L ≤ 5.50000"
    opened.press("ArrowUp")
    opened.press("ArrowUp")
    assert opened.run(said) == "x0 1 to 2, x1 2 to 3: ? ≤ L ≤ ?"
    box = opened.run(
        "(() => { const m = document.querySelector('[data-map]'); m.scrollIntoView({block: 'center'}); const r = m.getBoundingClientRect();"
        " return [r.left, r.top, r.width, r.height] })()"
    )
    opened.move(box[0] + box[2] * 100 / 420, box[1] + box[3] * 200 / 250)
    assert opened.run(said) == "x0 0 to 1, x1 0 to 1: 1.00000 ≤ L ≤ 1.50000"
