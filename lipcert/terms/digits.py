"""Numbers for people. A bound shown with fewer digits is still a bound: rounded up for `upper`, down for `lower`."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal

from lipcert.terms.result import Side

ROUNDING: dict[Side, str] = {"upper": ROUND_CEILING, "lower": ROUND_FLOOR, "estimate": ROUND_HALF_EVEN}


def digits(value: float, side: Side, count: int = 6) -> str:
    """`value` with `count` significant digits: as real numbers text >= value for `upper`, text <= value for `lower`."""
    rounded = Context(prec=count, rounding=ROUNDING[side]).plus(Decimal(value)).normalize()  # Decimal(float) is exact
    if rounded == 0:
        return "0"
    return f"{rounded:f}" if -5 <= rounded.adjusted() < 9 else f"{rounded:e}"
