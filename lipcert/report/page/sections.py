"""A report (JSON data) as what the page shows of it: plain values, in the order in which a person asks."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lipcert.report.next_steps import next_step
from lipcert.report.page.geometry import Ruler, accuracy_curve, bars, heat_map, histogram, short
from lipcert.report.page.neutral import neutral
from lipcert.report.plots import ONE_COLOUR, apart
from lipcert.report.report import Report
from lipcert.report.sections.jacobian import PLACES, WORDS
from lipcert.report.tables import percent
from lipcert.terms.digits import digits
from lipcert.terms.question import region_words

Data = Mapping[str, Any]
MOST_ROWS = 200  # of a table; the JSON report has all of them
FEW_INPUTS = 6  # whose intervals fit on a line
QUANTILES = ("0.05", "0.5", "0.95")


def units(report: Report) -> str:
    """Said where they are not the model's own: numbers in raw units are other numbers."""
    if report.question is None:
        return ""
    return report.question.weighted + (f", in {report.question.units()}" if report.question.raw else "")


def section(name: str, data: Data, number: int) -> dict[str, Any]:
    """`name`: the report's file; `number`: its place on the page."""
    report = Report.from_dict(data)
    shown = {
        "id": f"report-{number}",
        "file": name,
        "title": Path(str(report.model.get("path") or "model")).name,
        "command": report.command,
        "scope": f"l{report.norm.input} to l{report.norm.output}, over {region_words(report.region)}, "
        f"output {report.output}" + units(report),
        "status": report.status,
        "exit": report.exit_code,
        "lower": None if report.lower is None else digits(report.lower, "lower"),
        "upper": None if report.upper is None else digits(report.upper, "upper"),
        "checked": report.self_check(),
        "gate": None if report.max_upper is None else {"limit": repr(report.max_upper), "met": report.gate_met},
        "results": results(data),
        "track": track(data),
        "neutral": neutral(report),
        "layers": layers(data["layers"]),
        "refusals": refusals(data),
        "map": local_map(data, f"map-{number}"),
        "balls": balls(data),
        "radius": radius(data),
        "jacobian": jacobian(data),
        "verified": verified(data),
        "warnings": list(report.warnings),
        "assumptions": list(report.assumptions),
        "trusted": list(data["summary"].get("trusted") or ()),
        "provenance": provenance(name, data),
        "again": again(data),
    }
    return shown


def results(data: Data) -> list[dict[str, str]]:
    return [
        {
            "method": row["method"],
            "side": row["side"],
            "rigor": row["rigor"] or "",
            "value": digits(row["value"], row["side"]) if row["status"] == "ok" else row["status"],
            "seconds": f"{row['seconds']:.2f}",
        }
        for row in data["results"]
    ]


def track(data: Data) -> dict[str, Any] | None:
    """Every method's value on one axis, and the bracket that they leave."""
    known = [row for row in data["results"] if row["status"] == "ok"]
    if not known:
        return None
    axis = Ruler.of([row["value"] for row in known])
    lower, upper = data["lower"], data["upper"]
    start, end = axis.place(axis.low if lower is None else lower), axis.place(axis.high if upper is None else upper)
    return {
        "start": start,
        "width": 0 if data["status"] == "unbounded" else max(0.3, round(end - start, 2)),
        "left": short(axis.low),
        "right": short(axis.high),
        "log": axis.log,
        "rows": [
            {
                "method": row["method"],
                "side": row["side"],
                "rigor": row["rigor"],
                "value": digits(row["value"], row["side"]),
                "at": axis.place(row["value"]),
            }
            for row in known
        ],
    }


def layers(rows: Sequence[Data]) -> list[dict[str, Any]]:
    largest = max((row["upper"] for row in rows if row["upper"] is not None), default=0.0) or 1.0
    return [
        {
            "name": row["name"],
            "kind": row["kind"],
            "shape": " to ".join(
                "x".join(map(str, row[key])) for key in ("input_shape", "output_shape") if row.get(key)
            ),
            "lower": "" if row["lower"] is None else digits(row["lower"], "lower"),
            "upper": row["status"] if row["upper"] is None else digits(row["upper"], "upper"),
            "width": 0 if row["upper"] is None else round(100 * row["upper"] / largest, 2),
            "reason": row["reason"] or "",
        }
        for row in rows
    ]


def refusals(data: Data) -> list[dict[str, Any]]:
    """Each reason once, with the methods that give it."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in data["results"]:
        if row["status"] != "ok":
            key = row["status"], row["reason"]
            entry = found.setdefault(key, {"status": key[0], "reason": key[1], "node": row["node"], "methods": []})
            entry["methods"].append(row["method"])
    for entry in found.values():
        entry["step"] = next_step(entry["status"], data["scope"]["region"], entry["methods"])
        entry["methods"] = ", ".join(entry["methods"])
    return list(found.values())


def local_map(data: Data, identity: str) -> dict[str, Any] | None:
    """Two maps: the proved upper values, and how far the attained ones are below them where one can see it."""
    grid = data["summary"].get("grid")
    if not grid or len(grid["shape"]) != 2:
        return None
    plane = grid["plane"] or {}
    names = [f"x{i}" for i in plane.get("coordinates") or (0, 1)] if "basis" not in plane else ["u", "v"]
    maps = [heat_map("upper (proved)", grid["upper"], grid["edges"], False)]
    if apart(grid["ratio"]):
        maps.append(heat_map("upper / lower", grid["ratio"], grid["edges"], True))
    for one in maps:
        one["x_name"], one["y_name"] = names
    values = {name: grid[name] for name in ("shape", "edges", "lower", "upper")}
    cells = f"{grid['shape'][0]} x {grid['shape'][1]} cells, {sum(grid['closed'])} closed to {100 * grid['rtol']:g} %"
    cells += (
        ""
        if len(maps) > 1
        else f"; upper and attained values differ by less than {100 * (ONE_COLOUR - 1):.2g} % everywhere"
    )
    return {"id": identity, "maps": maps, "data": values | {"names": names}, "words": cells}


def balls(data: Data) -> dict[str, Any] | None:
    found = data["summary"].get("local")
    if not found:
        return None
    axis = Ruler.of([row[side] for row in data["points"] for side in ("lower", "upper") if row[side] is not None])
    rows = [
        {
            "index": row["index"],
            "eps": repr(row["eps"]),
            "lower": digits(row["lower"], "lower"),
            "upper": "-" if row["upper"] is None else digits(row["upper"], "upper"),
            "method": row["method"] or "",
            "start": axis.place(row["lower"]),
            "end": 100 if row["upper"] is None else axis.place(row["upper"]),
        }
        for row in data["points"][:MOST_ROWS]
    ]
    ends = {"left": short(axis.low), "right": short(axis.high)}
    return {"norm": found["norm"], "rows": rows, "more": len(data["points"]) - len(rows), **ends}


def radius(data: Data) -> dict[str, Any] | None:
    summary, points = data["summary"], data["points"]
    if data["command"] != "radius" or "certified" not in summary:
        return None
    weakest = sorted(points, key=lambda row: (row["radius"], row["index"]))[:MOST_ROWS]
    facts = [("samples", str(summary["samples"])), *((word, str(count)) for word, count in summary["status"].items())]
    facts += [("accuracy", percent(summary["accuracy"]))] if summary.get("accuracy") is not None else []
    facts += [(f"{word} radius", digits(value, "lower")) for word, value in (summary["radius"] or {}).items()]
    norm = data["norm"]["input"]
    return {
        "facts": facts,
        "curve": accuracy_curve(points, norm),
        "radii": histogram([row["radius"] for row in points if row["radius"] > 0], f"certified radius (l{norm})"),
        "accuracies": [
            (repr(row["eps"]), percent(row["certified_accuracy"]), percent(row["attacked_accuracy"]))
            for row in summary["certified"]
        ],
        "weakest": [
            {
                **{key: row[key] for key in ("index", "label", "predicted", "status", "limited_by", "method")},
                "radius": digits(row["radius"], "lower"),
                "attacked": "" if row["attacked"] is None else digits(row["attacked"], "upper"),
            }
            for row in weakest
        ],
        "more": len(points) - len(weakest),
    }


def jacobian(data: Data) -> dict[str, Any] | None:
    found = data["summary"].get("jacobian")
    if not found:
        return None
    return {
        "size": f"{found['size'][1]} x {found['size'][0]}",
        "least": "lower" in found["quantities"].values(),
        "sets": [_set(group, found["quantities"]) for group in found["sets"]],
        "graphs": data["summary"].get("laplacian") or [],
    }


def _set(group: Data, kinds: Data) -> dict[str, Any]:
    names = [name for name in WORDS if kinds[name] is not None]
    table = []
    for name in names:
        row = group["statistics"][name]
        values = [row["mean"], *(row["quantiles"].get(q) for q in QUANTILES), row["max"]]
        table.append((WORDS[name], [_measured(value) for value in values]))
    drawn = []
    for name in names:
        counts = group["statistics"][name]["histogram"]
        if counts and counts["counts"]:
            drawn.append(bars(counts["edges"], counts["counts"], WORDS[name]))
    classes = [
        (str(row["label"]), [_measured(row[name]["mean"]) for name in names] + [_measured(row["spectral"]["max"])])
        for row in group.get("classes") or ()
    ]
    words = f"{PLACES[group['set']]}: {group['measured']} of {group['points']} points"
    return {"words": words, "table": table, "pictures": drawn, "classes": classes, "names": [WORDS[n] for n in names]}


def _measured(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def verified(data: Data) -> dict[str, Any] | None:
    summary = data["summary"]
    if "verdict" not in summary:
        return None
    return {key: summary.get(key) for key in ("verdict", "claim", "proved", "place", "reason", "certificate")}


def provenance(name: str, data: Data) -> list[tuple[str, str]]:
    """What is needed to ask the same again, and to see what was compared with the original."""
    model = data["model"]
    units = model.get("units") or {}
    compared = [row for row in model.get("parity") or () if row.get("points")]
    parity = f"{sum(row['points'] for row in compared)} points, {', '.join(sorted({r['reference'] for r in compared}))}"
    rows = [
        ("report", name),
        ("made", f"{data['created']} by lipcert {data['tool']['version']}"),
        ("model", model.get("path")),
        ("format", model.get("format")),
        ("sha256", model.get("sha256")),
        ("graph", model.get("graph")),
        ("input", _signal(model, "input")),
        ("output", _signal(model, "output")),
        ("region", _region(data["scope"]["region"])),
        ("input units", units.get("input")),
        ("mean, std", None if not units.get("mean") and not units.get("std") else f"{units['mean']}, {units['std']}"),
        ("parameters", model.get("parameters")),
        ("neurons", model.get("neurons")),
        ("equal to the original at", parity if compared else None),
        (
            "seconds of the methods",
            f"{sum(row['seconds'] for row in data['results']):.2f}" if data["results"] else None,
        ),
    ]
    for kind in ("asked", "grid", "local", "jacobian"):
        asked = data["summary"].get(kind) or {}
        for key in (
            "methods",
            "samples",
            "tolerance",
            "attack",
            "seed",
            "rtol",
            "pairs",
            "jacobians",
            "around",
            "data",
        ):
            if asked.get(key) not in (None, [], {}):
                rows.append((key, _words(asked[key])))
    return [(key, str(value)) for key, value in rows if value is not None and value != ""]


def _region(region: Data) -> str | None:
    """The numbers of a box of a few inputs, or what was typed."""
    lower, upper = region.get("lower"), region.get("upper")
    if region["kind"] == "box" and lower and upper and len(lower) <= FEW_INPUTS:
        return " x ".join(f"[{low!r}, {high!r}]" for low, high in zip(lower, upper, strict=True))
    return region.get("asked")


def _signal(model: Data, side: str) -> str | None:
    shape = model.get(f"{side}_shape")
    if shape is None:
        return None
    return f"{model.get(f'{side}_name') or ''} {'x'.join(map(str, shape)) or 'scalar'}".strip()


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(part)}" for key, part in value.items() if part is not None)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def again(data: Data) -> list[str]:
    """Commands for a shell: certificates are proved again, and the same question is asked again."""
    path = data["model"].get("path")
    if not path:
        return []
    model = shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))
    files = dict.fromkeys(str(row["certificate"]) for row in data["results"] if row.get("certificate"))
    found = [f"lipcert verify {shlex.quote(file)} {model}" for file in files]
    if data["model"].get("format") == "onnx":  # what the exact checker reads
        found += [f"lipcert-audit {shlex.quote(file)} {model}" for file in files]
    if data["command"] in ("bound", "layers"):
        norm = data["norm"]
        flags = f" --norm-in {norm['input']} --norm-out {norm['output']}"
        if norm["input"] == norm["output"]:
            flags = f" --norm {norm['input']}"
        flags += f" --output {data['scope']['output']}" if data["scope"]["output"] != "vector" else ""
        units = data["model"].get("units") or {}
        for word in ("mean", "std"):
            flags += f" --{word} {','.join(map(repr, units[word]))}" if units.get(word) else ""
        if data["scope"]["region"]["kind"] == "global":
            found.append(f"lipcert {data['command']} {model}{flags}")
    if data["model"].get("sha256"):
        found.append(f"sha256sum {model}  # {data['model']['sha256']}")
    return found
