"""Methods: one file each, one row here. Cheap first: this is the order in which they run."""

from __future__ import annotations

from lipcert.bounds.absolute import Absolute
from lipcert.bounds.branch import Branch
from lipcert.bounds.clever import Clever
from lipcert.bounds.cplip import Cplip
from lipcert.bounds.eclipse import Eclipse
from lipcert.bounds.jacobian import Jacobian
from lipcert.bounds.linear import Linear
from lipcert.bounds.lipsdp import Lipsdp
from lipcert.bounds.lipsdp_cvxpy import LipsdpCvxpy
from lipcert.bounds.lipsdp_network import LipsdpNetwork
from lipcert.bounds.problem import Method, OutOfTime, Problem
from lipcert.bounds.product import Product
from lipcert.bounds.regions import Regions
from lipcert.bounds.sampled import Sampled
from lipcert.bounds.seqlip import Seqlip

DEFAULT: dict[str, Method] = {
    "product": Product(),
    "absolute": Absolute(),
    "cplip": Cplip(),
    "sampled": Sampled(),
    "lipsdp-layer": Lipsdp("layer", name="lipsdp-layer"),
    "lipsdp": Lipsdp(),
}
LOCAL: dict[str, Method] = {  # default as well where a region is given
    "jacobian": Jacobian(),
    "linear": Linear(),
    "regions": Regions(),
    "branch": Branch(),
}
ON_REQUEST: dict[str, Method] = {
    "seqlip": Seqlip(),
    "clever": Clever(),
    "eclipse": Eclipse(),
    "lipsdp-cvxpy": LipsdpCvxpy(),
    "lipsdp-network": LipsdpNetwork(),
}
METHODS: dict[str, Method] = DEFAULT | LOCAL | ON_REQUEST

__all__ = ["DEFAULT", "LOCAL", "METHODS", "ON_REQUEST", "Method", "OutOfTime", "Problem"]
