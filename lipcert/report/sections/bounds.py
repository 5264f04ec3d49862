"""The interval, what each method said of it, and the constants of the layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lipcert.report.next_steps import far_off, next_step
from lipcert.report.report import Report
from lipcert.report.sections.parts import shapes
from lipcert.report.tables import Framed, Item, Piece, Sentence, Table, Tone, known
from lipcert.terms.digits import digits
from lipcert.terms.printable import printable
from lipcert.terms.question import region_words
from lipcert.terms.result import Bound, Result

TONES: dict[str | None, Tone] = {"bounded": "good", "unbounded": "bad", "refused": "warning", "timeout": "warning"}
BAR = 24
SHOWN = 10  # pairs


def verdict(report: Report) -> Iterator[Piece]:
    if report.status is None or "verdict" in report.summary:
        return
    status = Item(f"   {report.status}", tone=TONES[report.status])
    lines = [Sentence((*interval(report.lower, report.upper).items, status))]
    norms = f"l{report.norm.input} -> l{report.norm.output}"
    lines.append(Sentence.of(f"{norms}, over {region_words(report.region)}, output {report.output}", "dim"))
    if report.question is not None and report.question.weighted:
        lines.append(Sentence.of(report.question.weighted.removeprefix(", "), "dim"))
    if report.question is not None and report.question.raw:
        lines.append(Sentence.of(f"in {report.question.units()}", "dim"))
    if step := next_step(report.status, report.region, [result.method for result in report.results]):
        lines.append(Sentence.of(step, "dim"))
    if step := far_off(report.lower, report.upper, report.region):
        lines.append(Sentence.of(step, "dim"))
    if report.upper is None and "--at " in report.suggestion:
        ball = printable(report.suggestion[report.suggestion.rfind("--at ") :])
        lines.append(
            Sentence.of(f"A ball has a finite bound: add {ball}, or --at DATA#0 for one around your data", "dim")
        )
    for low, up in report.contradictions:
        wrong = f"{low.method} attained {low.value!r}, above the upper value {up.value!r} of {up.method}"
        lines.append(Sentence.of(f"SELF-CHECK FAILED: {wrong}", "bad"))
    if report.gate_met is not None:
        met = Item("gate met", tone="good") if report.gate_met else Item("gate NOT met", tone="bad")
        lines.append(Sentence((met, Item(f": upper <= {report.max_upper!r}{beyond(report)}"))))
    yield Framed(lines)


def beyond(report: Report) -> str:
    """Whether a gate that is not met is violated, or only not proved."""
    if report.gate_met is not False or report.lower is None or report.max_upper is None:
        return ""
    attained = digits(report.lower, "lower")
    return (
        f"; violated: {attained} is attained" if report.lower > report.max_upper else "; not proved, and not violated"
    )


def interval(lower: float | None, upper: float | None) -> Sentence:
    """`lower <= L <= upper`, each side rounded away from L."""
    below = f"{digits(lower, 'lower')} <= " if lower is not None else ""
    above = f" <= {digits(upper, 'upper')}" if upper is not None else ""
    return Sentence.of(f"{below}L{above}" if below or above else "nothing is known of L", "strong")


def closing(results: Sequence[Result]) -> Sentence:
    """The interval as far as `results` close it."""
    report = Report("bound", {}, results=results)
    return interval(report.lower, report.upper)


def results(report: Report) -> Iterator[Piece]:
    if report.results and "verdict" not in report.summary:
        yield table_of_results(report.results)


def table_of_results(found: Sequence[Result]) -> Table:
    rows = []
    for result in found:
        if isinstance(result, Bound):
            rigor = Item(result.rigor, tone="good" if result.rigor == "proved" else "")
            said = rigor, Item(result.value, result.side), ""
        else:
            said = Item(), Item(result.status, tone="bad"), reason(result.reason, result.node)
        rows.append(
            (Item(result.method), Item(result.side), said[0], said[1], Item(f"{result.seconds:.2f}"), Item(said[2]))
        )
    return Table(("method", "side", "rigor", ">value", ">seconds", "why not"), rows)


def layers(report: Report) -> Iterator[Piece]:
    """One row per layer; the bar is proportional to the layer's upper value."""
    if not report.layers:
        return
    largest = max((row["upper"] for row in report.layers if row.get("upper") is not None), default=0.0)
    rows = []
    for row in report.layers:
        upper, lower = row.get("upper"), row.get("lower")
        if upper is None:
            last = Item(reason(row.get("reason") or "", row.get("node")))
            shown = Item(row.get("status") or "refused", tone="bad")
        else:
            last, shown = Item(bar(upper, largest), tone="picture"), Item(upper, "upper")
        rows.append((Item(row["name"]), Item(row["kind"]), Item(shapes(row)), Item(lower, "lower"), shown, last))
    yield Table(("layer", "kind", "shape", ">lower", ">upper", ""), rows)


def outputs(report: Report) -> Iterator[Piece]:
    """`--output each`: the constant (the gain) of every output by itself."""
    found = report.summary.get("outputs")
    if not found:
        return
    largest = max((row["upper"] for row in found if row["upper"] is not None), default=0.0)
    rows = []
    for row in found:
        why = next((result["reason"] for result in row["results"] if result.get("reason")), "")
        last = Item(why) if row["upper"] is None else Item(bar(row["upper"], largest), tone="picture")
        rows.append((Item(row["output"]), known(row["lower"], "lower"), known(row["upper"], "upper"), last))
    yield Table((">output", ">lower", ">upper", ""), rows)


def pairs(report: Report) -> Iterator[Piece]:
    """`--output pairs`: the differences of two outputs, the steepest first; those without a value before them."""
    found = report.summary.get("pairs")
    if not found:
        return
    steepest = sorted(found, key=lambda row: (row["upper"] is not None, -(row["upper"] or 0.0)))
    largest = max((row["upper"] for row in found if row["upper"] is not None), default=0.0)
    rows = []
    for row in steepest[:SHOWN]:
        last = Item(tone="picture") if row["upper"] is None else Item(bar(row["upper"], largest), tone="picture")
        rows.append((Item(row["pair"]), known(row["lower"], "lower"), known(row["upper"], "upper"), last))
    yield Table((">pair", ">lower", ">upper", ""), rows)
    if len(found) > SHOWN:
        yield Sentence.of(f"and {len(found) - SHOWN} more, in the report", "dim")


def bar(value: float, largest: float) -> str:
    return "█" * round(BAR * (value / largest)) if largest > 0 else ""


def reason(words: str, node: str | None) -> str:
    return f"{node}: {words}" if node and node not in words else words
