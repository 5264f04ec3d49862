"""python benchmarks/plot.py results.json lipsdp.svg: seconds against hidden neurons, lipcert and its rivals. Needs lipcert[plots]."""

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


def main() -> int:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "lipcert"
    import matplotlib.pyplot as plt

    record = json.loads(Path(sys.argv[1]).read_text())
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for (name, points), marker in zip(lines(record).items(), "os^Dvx", strict=False):
        axes.loglog(
            *zip(*points, strict=True), marker=marker, label=name, linewidth=2.5 if name.startswith("lipcert") else 1
        )
    axes.set(xlabel="hidden neurons", ylabel="seconds", title=f"LipSDP on {record['machine']['cores']} cores")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(sys.argv[2], metadata={"Date": None})
    return 0


if __name__ == "__main__":
    sys.exit(main())
