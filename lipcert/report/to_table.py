"""The report on a terminal. Every string of the model file goes through `printable` and `Text`: no markup, no codes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from lipcert.report.next_steps import next_step
from lipcert.report.of_jacobian import jacobian_tables
from lipcert.report.of_local import local_tables
from lipcert.report.of_track import track_tables
from lipcert.report.radius_table import radius_table
from lipcert.report.report import Report
from lipcert.terms.digits import digits
from lipcert.terms.printable import printable
from lipcert.terms.question import FLAGS, Question, region_words
from lipcert.terms.result import Bound, Result

STYLES = {
    "bounded": "bold green",
    "unbounded": "bold red",
    "refused": "bold yellow",
    "timeout": "bold yellow",
    None: "bold",
}
BAR = 24


def to_table(report: Report) -> RenderableType:
    """Everything a person asks first, top down: which model, the verdict, what each method said, what is assumed."""
    blocks: list[RenderableType] = [model_line(report.model)]
    if "verdict" in report.summary:
        blocks.append(verification(report))
    elif report.status is not None:
        blocks.append(verdict(report))
    if report.command == "radius" and "certified" in report.summary:
        blocks.append(radius_table(report.summary, report.norm.input, report.attacked_inside))
    if report.parts:
        blocks.append(tree_of_parts(report.parts))
    if report.methods:
        blocks.append(table_of_rows(report.methods))
    if report.layers:
        blocks.append(table_of_layers(report.layers))
    if "jacobian" in report.summary:
        blocks += jacobian_tables(report.summary)
    blocks += local_tables(report.summary, report.points)
    if "track" in report.summary:
        blocks += track_tables(report.summary["track"])
    if report.results and "verdict" not in report.summary:
        blocks.append(table_of_results(report.results))
    blocks += notes("warning", report.warnings, "yellow")
    blocks += notes("trusts", report.summary.get("trusted") or (), "dim")
    blocks += notes("assumes", report.assumptions, "dim")
    blocks += notes("default", map(_default, report.defaults), "dim")
    return Group(*blocks)


def _default(row: Mapping[str, Any]) -> str:
    values = row["value"] if isinstance(row["value"], list) else [row["value"]]
    return f"{row['option']} {', '.join(map(str, values))} from {row['from']}"


def text(value: object, style: str = "") -> Text:
    return Text(printable(str(value)), style=style, overflow="fold")


def model_line(model: Mapping[str, Any]) -> Text:
    line = text(model.get("path") or "model", "bold")
    facts = [model.get("format") or "", _shapes(model)]
    facts += [f"{model[name]:,} {name}" for name in ("parameters", "neurons") if model.get(name) is not None]
    facts += [f"sha256 {model['sha256'][:12]}"] if model.get("sha256") else []
    return line.append(printable("  " + ", ".join(fact for fact in facts if fact)), style="not bold dim")


def interval(lower: float | None, upper: float | None) -> Text:
    """`lower <= L <= upper`, each side rounded away from L."""
    below = f"{digits(lower, 'lower')} <= " if lower is not None else ""
    above = f" <= {digits(upper, 'upper')}" if upper is not None else ""
    known = f"{below}L{above}" if below or above else "nothing is known of L"
    return Text(known, style="bold")


def closing(results: Sequence[Result]) -> Text:
    """The interval as far as `results` close it."""
    report = Report("bound", {}, results=results)
    return interval(report.lower, report.upper)


def verdict(report: Report) -> Panel:
    lines = [interval(report.lower, report.upper).append(f"   {report.status}", style=STYLES[report.status])]
    norms = f"l{report.norm.input} -> l{report.norm.output}"
    lines.append(text(f"{norms}, over {region_words(report.region)}, output {report.output}", "dim"))
    if report.question is not None and report.question.raw:
        lines.append(text(f"in {report.question.units()}", "dim"))
    if report.status is not None and (step := next_step(report.status, report.region)):
        lines.append(text(step, "dim"))
    for low, up in report.contradictions:
        wrong = f"{low.method} attained {low.value!r}, above the upper value {up.value!r} of {up.method}"
        lines.append(text(f"SELF-CHECK FAILED: {wrong}", "bold red"))
    if report.gate_met is not None:
        met = Text("gate met", "green") if report.gate_met else Text("gate NOT met", "bold red")
        lines.append(met.append(f": upper <= {report.max_upper!r}", style="default"))
    return Panel(Group(*lines), expand=False)


def verification(report: Report) -> Panel:
    """What the certificate claims, and whether its proof was followed to the end."""
    summary = report.summary
    accepted = summary["verdict"] == "accepted"
    lines: list[RenderableType] = [
        text("certificate accepted", "bold green") if accepted else text("certificate REJECTED", "bold red")
    ]
    if summary.get("claim") is not None:
        p, q = report.norm.input, report.norm.output
        lines.append(text(f"claim: |f(x) - f(x')|_{q} <= {summary['claim']!r} |x - x'|_{p}"))
    if report.question is not None:
        lines.append(claimed(report.question, summary.get("prover_chose") or ()))
    if accepted:
        by = ", ".join(result.method for result in report.results)
        lines.append(text(f"proved again: L <= {summary['proved']!r}, from the numbers found by {by}", "dim"))
    else:
        lines.append(text(f"at {summary['place']}: {summary['reason']}"))
    return Panel(Group(*lines), expand=False)


def claimed(question: Question, chosen: Collection[str]) -> Table:
    """The whole question, one part on a line; what only the prover has said is marked."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, words in question.scope().items():
        mark = text(f"the prover's choice; compare with {FLAGS[name]}", "yellow") if name in chosen else Text()
        table.add_row(text(PARTS[name], "dim"), text(words), mark)
    return table


PARTS = {
    "file": "model",
    "input_name": "input",
    "units": "units",
    "output_name": "output",
    "norm": "norm",
    "region": "over",
}


def table_of_results(results: Sequence[Result]) -> Table:
    table = _table("method", "side", "rigor", ">value", ">seconds", "why not")
    for result in results:
        if isinstance(result, Bound):
            shown, why = text(digits(result.value, result.side)), Text()
            rigor = text(result.rigor, "green" if result.rigor == "proved" else "")
        else:
            shown, why = text(result.status, "red"), _reason(result.reason, result.node)
            rigor = Text()
        table.add_row(text(result.method), text(result.side), rigor, shown, text(f"{result.seconds:.2f}"), why)
    return table


def table_of_layers(layers: Sequence[Mapping[str, Any]]) -> Table:
    """One row per layer; the bar is proportional to the layer's upper value."""
    largest = max((row["upper"] for row in layers if row.get("upper") is not None), default=0.0)
    table = _table("layer", "kind", "shape", ">lower", ">upper", "")
    for row in layers:
        upper, lower = row.get("upper"), row.get("lower")
        if upper is None:
            last, shown = _reason(row.get("reason") or "", row.get("node")), text(row.get("status") or "refused", "red")
        else:
            last, shown = Text(bar(upper, largest), style="cyan"), text(digits(upper, "upper"))
        below = text(digits(lower, "lower")) if lower is not None else Text()
        table.add_row(text(row["name"]), text(row["kind"]), text(_shapes(row)), below, shown, last)
    return table


def bar(value: float, largest: float) -> str:
    return "█" * round(BAR * (value / largest)) if largest > 0 else ""


def tree_of_parts(parts: Sequence[Mapping[str, Any]]) -> Tree:
    tree = Tree(Text("parts", style="bold"))
    for part in parts:
        _add_part(tree, part)
    return tree


def table_of_rows(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Any list of flat rows with equal keys, such as `methods` of `inspect`."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = _table(*columns)
    for row in rows:
        table.add_row(*(text(_words(row.get(column))) for column in columns))
    return table


def notes(label: str, lines: Iterable[str], style: str) -> list[RenderableType]:
    return [Text(f"{label}: ", style=style).append_text(text(line)) for line in lines]


def _add_part(tree: Tree, part: Mapping[str, Any]) -> None:
    label = text(part["name"], "bold").append(printable(f"  {part['kind']}  {_shapes(part)}"), style="not bold")
    for key, value in part.items():
        if key not in ("name", "kind", "input_shape", "output_shape", "parts") and value not in (None, "", [], ()):
            label.append(printable(f"  {key}: {_words(value)}"), style="not bold dim")
    branch = tree.add(label)
    for child in part.get("parts") or ():
        _add_part(branch, child)


def _shapes(row: Mapping[str, Any]) -> str:
    pair = [_words(row[key]) or "scalar" for key in ("input_shape", "output_shape") if row.get(key) is not None]
    return " -> ".join(pair)


def _words(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ("x" if all(isinstance(item, int) for item in value) else ", ").join(_words(item) for item in value)
    return str(value)


def _reason(reason: str, node: str | None) -> Text:
    where = f"{node}: " if node and node not in reason else ""
    return text(where + reason)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for column in columns:
        table.add_column(
            text(column.lstrip(">")), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    return table
