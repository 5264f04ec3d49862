"""Regions and points as a certificate writes them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lipcert_audit.exact import integers
from lipcert_audit.network import refuse
from lipcert_audit.strict import NORMS, Reader, bound, count, fields, list_of, numbers, one_of, real, reject, text


@dataclass(frozen=True)
class Point:
    """All x' with |x' - x| <= radius have the class `label`."""

    x: np.ndarray
    label: int
    radius: float
    norm: str
    place: str

    def words(self) -> list[str]:
        return [f"radius     class {self.label} wherever |x' - x| <= {self.radius!r}, x the {self.place[:-1]} of the file"]


def region(value: Any, place: str) -> Any:
    """None: everywhere. Of a box, or of a ball of linf, which is one: (lower, upper, unit, in words)."""
    if value == "global":
        return None
    ball = isinstance(value, dict) and value.get("kind") == "ball"
    given = fields(value, place, BALL if ball else BOX)
    if ball and given["norm"] != "inf":
        refuse(f"{place}: a ball of l{given['norm']}; only those of linf are known")
    first, second = (given["center"], [given["radius"]] * len(given["center"])) if ball else (given["lower"], given["upper"])
    if len(first) != len(second):
        reject(place, "lists of one length are needed")
    found, unit = integers(np.array([first, second]))
    first, second = found.reshape(2, -1)
    return (*((first - second, first + second) if ball else (first, second)), unit, value)


BOX: dict[str, Reader] = {"kind": one_of("box"), "lower": list_of(real), "upper": list_of(real)}
BALL: dict[str, Reader] = {"kind": text, "center": list_of(real), "radius": bound, "norm": one_of(*NORMS)}
POINT: dict[str, Reader] = {"x": numbers, "class": count, "radius": bound}
