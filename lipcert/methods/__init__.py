"""Methods: one file each, one row here, in the order in which they run. Where they run unasked they say themselves."""

from __future__ import annotations

from lipcert.methods.absolute import Absolute
from lipcert.methods.branch import Branch
from lipcert.methods.clever import Clever
from lipcert.methods.cplip import CplipBound
from lipcert.methods.eclipse import Eclipse
from lipcert.methods.jacobian import Jacobian
from lipcert.methods.linear import LinearBound
from lipcert.methods.lipsdp import Lipsdp, LipsdpLayer
from lipcert.methods.lipsdp_cvxpy import LipsdpCvxpy
from lipcert.methods.lipsdp_network import LipsdpNetwork
from lipcert.methods.lipsdp_norms import LipsdpNorms
from lipcert.methods.lipsdp_segments import LipsdpSegments
from lipcert.methods.lipsdp_torus import LipsdpTorus
from lipcert.methods.local_product import LocalProduct
from lipcert.methods.problem import Method, Problem
from lipcert.methods.product import ProductBound
from lipcert.methods.regions import Regions
from lipcert.methods.sampled import Sampled
from lipcert.methods.seqlip import Seqlip
from lipcert.methods.transfer import Transfer

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        ProductBound(),
        Absolute(),
        CplipBound(),
        Sampled(),
        LipsdpTorus(),
        LipsdpSegments(),
        LipsdpLayer(),
        Lipsdp(),
        LipsdpNorms(),
        LocalProduct(),
        Jacobian(),
        Transfer(),
        LinearBound(),
        Regions(),
        Branch(),
        Seqlip(),
        Clever(),
        Eclipse(),
        LipsdpCvxpy(),
        LipsdpNetwork(),
    )
}

__all__ = ["METHODS", "Method", "Problem"]
