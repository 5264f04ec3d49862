"""A run as Markdown. Pure functions of its JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def markdown(record: dict[str, Any]) -> str:
    """Where and when, times and memory, rivals, floors."""
    cases = {name: case for name, case in record["cases"].items() if "failed" not in case}
    failed = {name: case["failed"] for name, case in record["cases"].items() if "failed" in case}
    parts = [
        _where(record, cases.values()),
        _rows(
            ["case", "target", "asked", "measured", ""],
            [
                _target_row(name, t, case["load"])
                for name, case in cases.items()
                for t in case["targets"]
                if "over" in t
            ],
        ),
        _rows(
            ["case", "step", "median s", "min - max", "CPU s", "target", "peak GB", "target"],
            [row for name, case in cases.items() for row in _step_rows(name, case)],
        ),
        _rows(
            [
                "case",
                "hidden neurons",
                "upper",
                "upper / dual - 1",
                "product / upper",
                "ECLipsE-Fast / upper",
                "sweeps",
                "proofs",
                "added by the proof",
                "multipliers of",
            ],
            [_lipsdp_row(name, case["values"]) for name, case in cases.items() if "gap" in case["values"]],
        ),
        _rows(
            [
                "case",
                "neurons",
                "product",
                "cplip",
                "best of the others",
                "lipsdp-torus",
                "dual",
                "attained",
                "upper / attained",
                "it was",
                "certificate KB",
            ],
            [_torus_row(name, case["values"]) for name, case in cases.items() if "torus" in case["values"]],
        ),
        _rows(
            ["case", "points", "forward Gflop/s", "float32 GEMM Gflop/s", "fraction"],
            [_sampling_row(name, case["values"]) for name, case in cases.items() if "fraction" in case["values"]],
        ),
        _rows(
            ["hot path", "size", "sizes", "CPU s", "exponent", "expected"],
            [_growth_row(row) for case in cases.values() for row in case["values"].get("growth", [])],
        ),
        _rows(
            ["counted work", "of the small questions of CI"],
            [[k, f"{n:,}"] for case in cases.values() for k, n in case["values"].get("counted", {}).items()],
        ),
        _rows(
            ["case", "norm", "point", "eps", "lower", "upper", "leaves", "closed"],
            [row for name, case in cases.items() for row in _bracket_rows(name, case["values"])],
        ),
        _rows(
            ["network", "eps", "method", "lower", "upper", "seconds", "its upper value is"],
            [_method_row(row) for case in cases.values() for row in case["values"].get("methods", [])],
        ),
        _rows(
            ["case", "rival", "its value is", "seconds", "times lipcert's", "its value / lipcert's", "note"],
            [row for name, case in cases.items() for row in _rival_rows(name, case)],
        ),
        _rows(
            ["case", "step", "Gflop", "GB moved", "floor s", "floor / time", "counted"],
            [row for name, case in cases.items() for row in _floor_rows(name, case, record["threads"] == 1)],
        ),
    ]
    parts += [f"{name}: failed, {reason}" for name, reason in failed.items()]
    return "\n\n".join(part for part in parts if part) + "\n"


def one_line(case: dict[str, Any]) -> str:
    """For the terminal, while a run goes on."""
    steps = ", ".join(f"{step} {_seconds(t['median'])} s" for step, t in case["steps"].items())
    missed = [t["what"] for t in case["targets"] if not t["met"]]
    return steps + (f"; MISSED {', '.join(missed)}" if missed else "")


def _where(record: dict[str, Any], cases: Iterable[dict[str, Any]]) -> str:
    machine, versions = record["machine"], record["versions"]
    rates = [case["gemm_gflops"] for case in cases]
    gemm = f"{min(rates):.0f}-{max(rates):.0f}" if rates else "?"
    state = " with local changes" if record["changed"] else ""
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']:g} GB; {record['threads']} threads; "
        f"load {machine['load']:g} before the run; float64 GEMM {gemm} Gflop/s. Python {versions['python']}, "
        f"torch {versions['torch']}. Commit {record['commit']}{state}, {record['created'][:10]}; "
        f"{record['repeat']} repetitions{', smoke sizes' if record['smoke'] else ''}."
    )


def _step_rows(name: str, case: dict[str, Any]) -> list[list[str]]:
    targets = {t["what"]: _target(t, case["load"]) for t in case["targets"] if not t.get("over")}
    rows = []
    for i, (step, t) in enumerate(case["steps"].items()):
        spread = f"{_seconds(t['min'])} - {_seconds(t['max'])}"
        memory = [f"{case['peak_gb']:.2f}", targets.get("peak_gb", "")] if i == 0 and case["peak_gb"] else ["", ""]
        rows.append([name if i == 0 else "", step, _seconds(t["median"]), spread, _seconds(t["cpu"]),
                     targets.get(step, ""), *memory])  # fmt: skip
    return rows


def _target(target: dict[str, Any], load: float) -> str:
    """A missed target shows the machine's load average beside it: wall clock counts what others do."""
    return f"<= {target['limit']:g}: {'met' if target['met'] else f'MISSED at load {load:.1f}'}"


def _target_row(name: str, t: dict[str, Any], load: float) -> list[str]:
    what = f"{t['what']} / {t['over']}" if t["over"] else t["what"]
    unit = "" if t["over"] or t["least"] else " GB" if t["what"] == "peak_gb" else " s"
    asked = f"{'>=' if t['least'] else '<='} {t['limit']:g}{unit}"
    return [name, what, asked, f"{_seconds(t['reached'])}{unit}", "met" if t["met"] else f"MISSED at load {load:.1f}"]


def _growth_row(row: dict[str, Any]) -> list[str]:
    lists = [", ".join(f"{value:.3g}" for value in row[key]) for key in ("sizes", "cpu")]
    return [row["path"], row["size"], *lists, f"{row['exponent']:.2f}" if row["exponent"] else "", row["expected"]]


def _lipsdp_row(name: str, v: dict[str, Any]) -> list[str]:
    """ECLipsE-Fast: lipcert's own, the better of both orientations."""
    return [name, str(v["neurons"]), f"{v['upper']:.7g}", f"{v['gap']:.1e}", f"{v['product'] / v['upper']:.4g}",
            f"{v['eclipse'] / v['upper']:.4g}" if v["eclipse"] else "refused", str(v["sweeps"]), str(v["proofs"]),
            f"{v['inflation']:.0e}" if v["inflation"] is not None else "", v["source"]]  # fmt: skip


def _torus_row(name: str, v: dict[str, Any]) -> list[str]:
    uppers = ["refused" if v[key] is None else f"{v[key]:.5g}" for key in ("product", "cplip")]
    lower = v["attained"]
    ratios = [f"{v[key] / lower:.4g}" if lower else "" for key in ("torus", "earlier")]
    return [name, f"{v['neurons']:,}", *uppers, f"{v['earlier']:.5g} ({v['earlier_method']})", f"{v['torus']:.6g}", f"{v['dual']:.6g}",
            f"{lower:.4g}" if lower is not None else "", *ratios, f"{v['certificate_bytes'] / 1e3:.3g}"]  # fmt: skip


def _sampling_row(name: str, v: dict[str, Any]) -> list[str]:
    rates = [f"{v[key]:.3g}" for key in ("forward gflops", "peak gflops", "fraction")]
    return [name, f"{v['points']:,}", *rates]


def _bracket_rows(name: str, v: dict[str, Any]) -> list[list[str]]:
    return [
        [b.get("network", name), f"l{b['norm']}", str(b["point"]), f"{b['eps']:g}" if b["eps"] else "", f"{b['lower']:.6g}", f"{b['upper']:.6g}",
         f"{b['leaves']:,}", "yes" if b["closed"] else "no"]
        for b in v.get("brackets", [])
    ]  # fmt: skip


def _method_row(row: dict[str, Any]) -> list[str]:
    numbers = ["" if row[side] is None else f"{row[side]:.7g}" for side in ("lower", "upper")]
    return [row["network"], f"{row['eps']:g}", row["method"], *numbers, _seconds(row["seconds"]), row["note"]]


def _rival_rows(name: str, case: dict[str, Any]) -> list[list[str]]:
    rows = []
    for rival in case["rivals"]:
        upper = case["values"].get("upper")
        value = f"{rival['value'] / upper:.6g}" if rival["value"] is not None and upper else ""
        note = rival["note"] if rival["status"] == "ok" else f"{rival['status']}: {rival['note']}"
        ratio = f"{rival['ratio']:.3g}" if rival["ratio"] is not None and rival["status"] != "failed" else ""
        rows.append([name, rival["rival"], rival["claim"], _seconds(rival["seconds"]), ratio, value, note])
    return rows


def _floor_rows(name: str, case: dict[str, Any], alone: bool) -> list[list[str]]:
    """`alone`: with one thread the fraction is of processor time, which what else runs moves less."""

    def fraction(step: str, floor: dict[str, Any]) -> float:
        cpu = case["steps"][step]["cpu"]
        return float(floor["seconds"] / cpu if alone and cpu else floor["fraction"])

    return [
        [name, step, f"{f['flops'] / 1e9:.3g}", f"{f['bytes'] / 1e9:.3g}" if f["bytes"] else "",
         _seconds(f["seconds"]), f"{fraction(step, f):.2g}", f["note"]]
        for step, f in case["floors"].items()
    ]  # fmt: skip


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if value >= 100 else f"{value:.3g}"


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
