"""Methods: one file each, one row here. Cheap first: this is the order in which they run."""

from __future__ import annotations

from lipcert.bounds.absolute import Absolute
from lipcert.bounds.lipsdp import Lipsdp
from lipcert.bounds.problem import Method, OutOfTime, Problem
from lipcert.bounds.product import Product
from lipcert.bounds.sampled import Sampled

METHODS: dict[str, Method] = {
    "product": Product(),
    "absolute": Absolute(),
    "sampled": Sampled(),
    "lipsdp-layer": Lipsdp("layer", name="lipsdp-layer"),
    "lipsdp": Lipsdp(),
}

__all__ = ["METHODS", "Method", "OutOfTime", "Problem"]
