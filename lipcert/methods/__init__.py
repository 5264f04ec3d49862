"""Methods: one file each, one row here. Cheap first: this is the order in which they run."""

from __future__ import annotations

from lipcert.methods.absolute import Absolute
from lipcert.methods.branch import Branch
from lipcert.methods.clever import Clever
from lipcert.methods.cplip import CplipBound
from lipcert.methods.eclipse import Eclipse
from lipcert.methods.jacobian import Jacobian
from lipcert.methods.linear import LinearBound
from lipcert.methods.lipsdp import Lipsdp
from lipcert.methods.lipsdp_cvxpy import LipsdpCvxpy
from lipcert.methods.lipsdp_network import LipsdpNetwork
from lipcert.methods.problem import Method, OutOfTime, Problem
from lipcert.methods.product import ProductBound
from lipcert.methods.regions import Regions
from lipcert.methods.sampled import Sampled
from lipcert.methods.seqlip import Seqlip

DEFAULT: dict[str, Method] = {
    "product": ProductBound(),
    "absolute": Absolute(),
    "cplip": CplipBound(),
    "sampled": Sampled(),
    "lipsdp-layer": Lipsdp("layer", name="lipsdp-layer"),
    "lipsdp": Lipsdp(),
}
LOCAL: dict[str, Method] = {  # default as well where a region is given
    "jacobian": Jacobian(),
    "linear": LinearBound(),
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
