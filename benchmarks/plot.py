"""python benchmarks/plot.py results-lipsdp.json lipsdp.svg: seconds against hidden neurons, lipcert and its rivals.
python benchmarks/plot.py results-torus.json torus.svg: upper and lower values of convolutional networks. Needs lipcert[plots]."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

CHAINS = (
    "lipsdp-50",
    "lipsdp-64",
    "lipsdp-300",
    "lipsdp-512",
    "lipsdp-1000",
    "lipsdp-3000",
    "lipsdp-10000",
    "lipsdp-20000",
)
VALUES = {  # of convolutional networks: marker and colour
    "product": ("o", "#9aa5b1"),
    "cplip": ("s", "#7b8794"),
    "earlier": ("D", "#d98e04"),
    "torus": ("v", "#1f6feb"),
    "dual": ("|", "#1f6feb"),
    "attained": ("^", "#2da44e"),
}
LABELS = {
    "earlier": "best of all other methods",
    "torus": "lipsdp-torus, proved",
    "dual": "its dual value",
    "attained": "attained",
}


def lines(record: dict[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """Name -> (hidden neurons, seconds); attempts that failed are left out."""
    found: dict[str, list[tuple[int, float]]] = {"lipcert lipsdp, proved": []}
    for name in CHAINS:
        case = record["cases"].get(name, {"failed": "not run"})
        if "failed" in case:
            continue
        neurons = case["values"]["neurons"]
        found["lipcert lipsdp, proved"].append((neurons, case["steps"]["lipsdp"]["median"]))
        for rival in case["rivals"]:
            if rival["status"] == "ok":
                found.setdefault(f"{rival['rival']}, not proved", []).append((neurons, rival["seconds"]))
    return found


def convolutional(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Case -> its values, of those that were asked for lipsdp-torus; the one of most neurons last."""
    done = {name: case["values"] for name, case in record["cases"].items() if "failed" not in case}
    found = [(name, values) for name, values in done.items() if "torus" in values]
    return dict(sorted(found, key=lambda item: item[1]["neurons"]))


def draw_values(axes: Any, cases: dict[str, dict[str, Any]]) -> None:
    """One row per network, constants along a logarithmic axis; the proved bracket is a line."""
    for row, v in enumerate(cases.values()):
        axes.plot(
            [v["attained"] or v["torus"], v["torus"]], [row, row], color="#1f6feb", linewidth=5, alpha=0.2, zorder=0
        )
    for key, (marker, colour) in VALUES.items():
        points = [(v[key], row) for row, v in enumerate(cases.values()) if v[key]]
        axes.scatter(*zip(*points, strict=True), marker=marker, color=colour, label=LABELS.get(key, key), s=36)
    names = [f"{name.removeprefix('torus-')}\n{v['neurons']:,} neurons" for name, v in cases.items()]
    axes.set_yticks(range(len(cases)), names, fontsize=8)
    axes.set(xscale="log", xlabel="Lipschitz constant, l2", title="Convolutional networks on the whole space")


def draw_times(axes: Any, record: dict[str, Any]) -> None:
    for (name, points), marker in zip(lines(record).items(), "os^Dvx", strict=False):
        axes.loglog(
            *zip(*points, strict=True), marker=marker, label=name, linewidth=2.5 if name.startswith("lipcert") else 1
        )
    axes.set(xlabel="hidden neurons", ylabel="seconds", title=f"LipSDP on {record['machine']['cores']} cores")


def main() -> int:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "lipcert"
    import matplotlib.pyplot as plt

    record = json.loads(Path(sys.argv[1]).read_text())
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    cases = convolutional(record)
    if cases:
        draw_values(axes, cases)
    else:
        draw_times(axes, record)
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(sys.argv[2], metadata={"Date": None})
    return 0


if __name__ == "__main__":
    sys.exit(main())
