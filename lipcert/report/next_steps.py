"""What to do where an answer is missing, or where it says little: one sentence each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

STEPS = {
    "unbounded": "No finite constant exists there. Ask about a region (--box, or --at DATA --eps E; a number for DATA is a point with it everywhere), or about the part "
    "of the network before this node, or replace the node.",
    "refused": "Another method may still give a value: leave out --method, or see what each can do with this model in "
    "lipcert inspect.",
    "timeout": "There was no time: give more with --budget, or go on from this report with --resume.",
}
NOT_TAKEN = (
    "No method was asked, for the model was not taken. The reason below names what stands in the way: ask for the network before it "
    "(--output-name), or export the model without it."
)
ON_A_REGION = "No finite constant exists there, even on this region: take a smaller one, or replace the node."

FAR = 1000.0  # times what is attained: a true bound that nobody can use
CLOSER = {
    "global": "around your data it may be far closer: add --at DATA#0 --eps 0.01, or --at 0.5 --eps 0.01 for a point with 0.5 everywhere",
    "ball": "a smaller --eps may bring the two together",
    "box": "a smaller box, or a ball (--at DATA#0 --eps 0.01), may bring the two together",
}


def far_off(lower: float | None, upper: float | None, region: Mapping[str, Any]) -> str:
    """Where a bound is many times what is attained: how to ask for less. Nothing where it is not, or where nothing moves."""
    if upper is None or lower is None or not 0 < lower * FAR < upper or region.get("kind") not in CLOSER:
        return ""
    return f"The bound is {upper / lower:.1g} times what is attained; {CLOSER[region['kind']]}."


def next_step(status: str, region: Mapping[str, Any], methods: Collection[str]) -> str:
    """`status` of results without a value, of these methods; `region` of their report. Nothing for words that need no step."""
    if status == "refused" and set(methods) == {"load"}:
        return NOT_TAKEN
    if status == "unbounded" and region.get("kind") != "global":
        return ON_A_REGION
    return STEPS.get(status, "")
