"""The table of public models in audit/README.md, in two steps, because the second must not have torch in its memory:

    python scripts/audit_table.py certificates FOLDER     one for each model of at most 2,000 neurons and method; a tree where few inputs move
    python scripts/audit_table.py audit FOLDER            each audited in a process of its own; writes the table

The models are in the folder `models` of LIPCERT_SHARED (default `../shared`). What is in FOLDER already is not done again.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
MODELS = Path(os.environ.get("LIPCERT_SHARED", REPOSITORY.parent / "shared")) / "models"
README = REPOSITORY / "audit" / "README.md"
BEGIN, END = "<!-- models -->\n", "<!-- /models -->"
HEAD = "| method | accepted | refused by name | rejected | longest, CPU s | largest, MB |\n|---|---:|---:|---:|---:|---:|\n"
METHODS = ("product", "absolute", "cplip", "lipsdp-layer", "lipsdp")
TREES = "regions"  # on the linf ball of RADIUS around 0
NEURONS, INPUTS, RADIUS, NODES = 2000, 6, 0.1, 5000


def certificates(folder: Path) -> None:
    import lipcert
    from lipcert.terms.errors import LipcertError

    for path in sorted(MODELS.glob("*.onnx"), key=lambda p: p.stat().st_size):
        try:
            model = lipcert.load(path)
        except LipcertError as problem:
            print(f"{path.name}: {problem}", file=sys.stderr)
            continue
        for method in METHODS if model.graph.neurons <= NEURONS else ():
            file = folder / f"{path.stem}.{method}.cert"
            if not file.exists():
                lipcert.bound(model, methods=[method], certificate=file)
        file = folder / f"{path.stem}.{TREES}.cert"
        if model.graph.nodes[model.graph.input].size <= INPUTS and not file.exists():
            ball = lipcert.Ball([0.0] * model.graph.nodes[model.graph.input].size, RADIUS, "inf")
            made = folder / "made.cert"
            lipcert.bound(model, region=ball, methods=[TREES], certificate=made)
            proof = json.loads(made.read_text())["claims"][0]["proof"] if made.exists() else {}
            if (
                proof.get("kind") == "tree" and len(proof["splits"]) <= NODES
            ):  # others: of the whole space, or lists of cells
                made.rename(file)


def audited(file: Path) -> dict[str, Any]:
    """One certificate in a child: verdict, seconds of CPU, megabytes."""
    from lipcert_audit.__main__ import audit
    from lipcert_audit.certificate import read

    name, method, _ = file.name.rsplit(".", 2)
    ends, start = os.pipe(), time.perf_counter()
    child = os.fork()
    if child == 0:
        said = "accepted"
        try:
            audit(*read(file), MODELS / f"{name}.onnx")
        except BaseException as problem:
            said = f"{type(problem).__name__}: {problem}"
        os.write(ends[1], said.encode()[:300])
        os._exit(0)
    os.close(ends[1])
    _, _, usage = os.wait4(child, 0)
    with os.fdopen(ends[0], "rb") as end:
        said = end.read().decode() or "died"
    taken = {"cpu": round(usage.ru_utime + usage.ru_stime, 2), "s": round(time.perf_counter() - start, 2)}
    return {"model": name, "method": method, "said": said, "mb": usage.ru_maxrss // 1024, **taken}


def table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for method in (*METHODS, TREES):
        here = [row for row in rows if row["method"] == method]
        good = [row for row in here if row["said"] == "accepted"]
        refused = sum(row["said"].startswith("Refused") for row in here)
        most = [max(good, key=lambda row, key=key: row[key]) for key in ("cpu", "mb")]
        cells = (f"{row[key]:.0f} ({row['model']})" for row, key in zip(most, ("cpu", "mb"), strict=True))
        name = f"{method}, linf ball of {RADIUS}" if method == TREES else method
        lines.append(
            f"| {name} | {len(good)} | {refused} | {len(here) - len(good) - refused} | {' | '.join(cells)} |\n"
        )
    return HEAD + "".join(lines)


def main() -> None:
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "certificates":
        certificates(folder)
        return
    journal = folder / "audit.jsonl"
    journal.touch()
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    done = {(row["model"], row["method"]) for row in rows}
    for file in sorted(folder.glob("*.cert")):
        if tuple(file.name.rsplit(".", 2)[:2]) not in done:
            rows.append(audited(file))
            with journal.open("a") as out:
                print(json.dumps(rows[-1]), file=out)
    text = README.read_text()
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    README.write_text(before + table(rows) + after)


if __name__ == "__main__":
    main()
