"""What every kind of proof has: how it is written, read and proved again, and what it stands on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from lipcert.terms.errors import CertificateRejected
from lipcert.terms.query import Norm, Region

if TYPE_CHECKING:  # the file format is read without torch
    from torch import Tensor

    from lipcert.network.graph import Graph

NORMS = "norms of linear parts: lipcert.rigor (matrix_norms, psd), lipcert.operators (conv_norm, torus_norm)"


# What range analysis proves on cells of a region, by name: (graph, region, lower and upper ends (k, n) of its cells, norm) ->
# upper values (k,). Ends None: the region is one cell. "tree" has (cuts, value) instead of ends, and gives what the tree shows;
# inf where it shows nothing. This room has no such analysis itself; who calls the checker hands it in.
Sweeps = Mapping[str, Callable[["Graph", Region, Any, Norm], "Tensor"]]


@dataclass(frozen=True)
class Proof:
    """`method`: who found it; nothing depends on it."""

    method: str

    kind: ClassVar[str]
    names: ClassVar[tuple[str, ...]] = ()  # its fields in the file, besides kind and method
    trusted: ClassVar[tuple[str, ...]]  # what must be right for the proof to be one

    def shows(self, value: float, norm: Norm) -> float:
        """The claim of a bound of this value: with slack, where other machines add up in another order."""
        return value

    @classmethod
    def read(cls, method: str, fields: Mapping[str, Any], positions: bool) -> Proof:
        """The inverse of `fields`. CertificateRejected names the field. `positions`: format 1 counts nodes of the graph."""
        return cls(method)

    def fields(self) -> dict[str, Any]:
        """JSON data of `names`."""
        return {}

    def prove(self, graph: Graph, norm: Norm) -> float:
        """An upper value of the constant of `graph` (output functional included), with its rounding inside.
        CertificateRejected where the proof does not show one."""
        raise NotImplementedError

    def prove_within(self, graph: Graph, norm: Norm, region: Region, sweeps: Sweeps) -> float:
        """`prove`, over `region` (None: the whole space). What holds on the whole space holds on each region."""
        return self.prove(graph, norm)

    def steps(self, graph: Graph, norm: Norm) -> list[str]:
        """The proof in words, one inequality each, in the order in which they are proved. For people: nothing stands on it."""
        return []


def no_ranges() -> NoReturn:
    """Interval ranges of signals would be more to trust: constants that need them have no certificate."""
    raise CertificateRejected("proof.kind", "a nonlinearity has no global constant, only one on the range of its input")


@contextmanager
def within(place: str) -> Iterator[None]:
    """What is rejected in here is a field of `place`."""
    try:
        yield
    except CertificateRejected as problem:
        raise CertificateRejected(f"{place}.{problem.place}", problem.reason) from problem
