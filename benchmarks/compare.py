"""python benchmarks/compare.py BEFORE.json AFTER.json: what became slower, faster, larger or missed, in one table.

A difference counts where the two ranges (min to max) do not overlap. Runs on different machines or thread counts are
compared all the same, with a line that says so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args()
    before, after = (json.loads(path.read_text()) for path in (options.before, options.after))
    print("\n".join([*caveats(before, after), *differences(before, after)]))
    return 0


def caveats(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    yield f"{before['commit']} ({before['created'][:10]}) -> {after['commit']} ({after['created'][:10]})"
    for what in ("threads", "smoke"):
        if before[what] != after[what]:
            yield f"not alike: {what} {before[what]} -> {after[what]}"
    if before["machine"]["processor"] != after["machine"]["processor"]:
        yield f"not alike: {before['machine']['processor']} -> {after['machine']['processor']}"
    for name in sorted(before["versions"].keys() | after["versions"].keys()):
        old, new = before["versions"].get(name, "absent"), after["versions"].get(name, "absent")
        if old != new:
            yield f"{name} {old} -> {new}"


def differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    yield f"{'case':24}{'step':12}{'before s':>12}{'after s':>12}{'ratio':>8}"
    for name in [*before["cases"], *(n for n in after["cases"] if n not in before["cases"])]:
        old, new = before["cases"].get(name), after["cases"].get(name)
        if old is None or new is None:
            yield f"{name:24}only {'after' if old is None else 'before'}"
        elif "failed" in old or "failed" in new:
            yield f"{name:24}failed: {old.get('failed', 'no')} -> {new.get('failed', 'no')}"
        else:
            yield from _steps(name, old, new)


def _steps(name: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for step in old["steps"].keys() & new["steps"].keys():
        a, b = old["steps"][step], new["steps"][step]
        word = "slower" if b["min"] > a["max"] else "faster" if b["max"] < a["min"] else ""
        yield f"{name:24}{step:12}{a['median']:12.4g}{b['median']:12.4g}{b['median'] / a['median']:8.3g}  {word}".rstrip()
    if old["peak_gb"] and new["peak_gb"] and abs(new["peak_gb"] / old["peak_gb"] - 1) > 0.05:
        yield f"{name:24}{'peak GB':12}{old['peak_gb']:12.4g}{new['peak_gb']:12.4g}{new['peak_gb'] / old['peak_gb']:8.3g}"
    for key in ("upper", "lower"):
        a, b = old["values"].get(key), new["values"].get(key)
        if a is not None and b is not None and a != b:
            yield f"{name:24}{key:12}{a:12.7g}{b:12.7g}{b / a if a else float('nan'):8.3g}  value changed"
    for target in new["targets"]:
        if not target["met"]:
            yield f"{name:24}{target['what']:12}target {target['limit']:g} missed: {target['reached']:.4g}"


if __name__ == "__main__":
    sys.exit(main())
