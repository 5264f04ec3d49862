"""What to do where an answer is missing: one sentence for each word that stands in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STEPS = {
    "unbounded": "No finite constant exists there. Ask about a region (--box, or --at DATA --eps E; a number for DATA is a point with it everywhere), or about the part "
    "of the network before this node, or replace the node.",
    "refused": "Another method may still give a value: leave out --method, or see what each can do with this model in "
    "lipcert inspect.",
    "timeout": "There was no time: give more with --budget, or go on from this report with --resume.",
}
ON_A_REGION = "No finite constant exists there, even on this region: take a smaller one, or replace the node."


def next_step(status: str, region: Mapping[str, Any]) -> str:
    """`status` of a result without a value; `region` of its report. Nothing for words that need no step."""
    if status == "unbounded" and region.get("kind") != "global":
        return ON_A_REGION
    return STEPS.get(status, "")
