"""Where a network is cut so that a form of LipSDP takes what lies between: its stretches (MATH sections 3, 4 and 12).

Everything between two cuts passes both, so that constants multiply. From each cut on, the longest stretch that a form takes:
the torus for convolutions, dense matrices for what is small; where none takes even one step, the step is left to norms, and
of branches that no signal separates each has stretches of its own, which a norm of what joins them puts together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lipcert.network.graph import Graph
from lipcert.network.subnet import cut, moving, named, passed
from lipcert.proofs import lmi, torus_form
from lipcert.proofs.chain import sources_of
from lipcert.proofs.normal_form import normal_form
from lipcert.terms.clock import tick
from lipcert.terms.errors import RefusedModel
from lipcert.terms.memory import too_much

DENSE = 8000  # neurons of a stretch at most, which take a minute or so
Form = Callable[[Graph], None]  # raises RefusedModel, with the node at fault where one is


@dataclass(frozen=True)
class Stretch:
    """From one signal to another, nodes of the graph, and what forms take it. `start` None: `stop` joins earlier signals."""

    start: int | None
    stop: int
    forms: tuple[str, ...] = ()


def on_torus(graph: Graph) -> None:
    form = torus_form.torus_form(graph)
    if (missing := too_much(torus_form.entries(form))) is not None:
        raise RefusedModel(f"so many frequencies meet that they need {missing}")


def as_matrices(graph: Graph, neurons: int) -> None:
    form = normal_form(graph, "neuron")
    if not form.layers:
        raise RefusedModel("there is no activation")
    if form.neurons > neurons:
        raise RefusedModel(f"{form.neurons} neurons are too many")
    if (missing := too_much(lmi.entries(form))) is not None:
        raise RefusedModel(f"{form.neurons} neurons need {missing}")


def forms_of(dense: int) -> dict[str, Form]:
    """What may take a stretch. `dense`: neurons of dense matrices, at most."""
    return {"torus": on_torus, "dense": lambda graph: as_matrices(graph, dense)}


def stretches(graph: Graph, dense: int = DENSE) -> list[Stretch]:
    """In an order in which each starts from a signal that is known by then; none of a constant network."""
    found: list[Stretch] = []
    _between(graph, (graph.input, graph.output), {graph.input}, found, forms_of(dense))
    return _merged(graph, found)


def _merged(graph: Graph, found: list[Stretch]) -> list[Stretch]:
    """Without cuts between stretches that norms are left to, where nothing else starts or is joined from them: norms of more
    than one step are not above the product of theirs."""
    joined = {i for part in found if part.start is None for i in sources_of(graph, part.stop)}
    merged = found[:1]
    for part in found[1:]:
        last = merged[-1]
        once = sum(other.start == last.stop for other in found) == 1 and last.stop not in joined
        if part.start == last.stop and once and last.start is not None and not (part.forms or last.forms):
            merged[-1] = Stretch(last.start, part.stop)
        else:
            merged.append(part)
    return merged


def _between(
    graph: Graph, between: tuple[int, int], known: set[int], found: list[Stretch], forms: dict[str, Form]
) -> None:
    start, stop = between
    plain = {i for name, i in named(graph).items() if name == graph.nodes[i].name}
    allowed = {*plain, start, stop}
    signals = [i for i in passed(graph, start, stop) if i in allowed]
    at = 0
    while at < len(signals) - 1:
        tick()
        ends = {name: furthest(graph, signals, at, form) for name, form in forms.items()}
        end = max(max(ends.values()), at + 1)
        taken = tuple(name for name, reached in ends.items() if reached == end)
        here, there = signals[at], signals[end]
        if taken or len(passed(graph, here, there)) == len(moving(cut(graph, here, there))):
            found.append(Stretch(here, there, taken))
        else:  # branches between: each by itself
            for source in sources_of(graph, there):
                if source not in known:  # nothing leads to what is constant
                    # an affine signal is no source of what it leads to: the sources before it are
                    begin = here if passed(graph, here, source) else graph.input
                    _between(graph, (begin, source), known, found, forms)
            found.append(Stretch(None, there))
        known.add(there)
        at = end


def furthest(graph: Graph, signals: Sequence[int], at: int, form: Form) -> int:
    """How far from signal `at` the form goes: from the end back to before the node at fault, or by halves."""
    least, beyond = at, len(signals)
    end = beyond - 1
    while beyond - least > 1:
        tick()
        try:
            form(cut(graph, signals[at], signals[end]))
            least = end
        except RefusedModel as fault:
            beyond = end
            named_so = [i for i, node in enumerate(graph.nodes) if node.name == fault.node and i > signals[at]]
            before = [k for k in range(at, end) if named_so and signals[k] < named_so[0]]
            if before:  # nothing that has this node in it
                beyond, end = before[-1] + 1, before[-1]
                continue
        end = (least + beyond) // 2
    return least
