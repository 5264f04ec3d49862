"""Cases of the method `lipsdp`: time and value against general SDP solvers on the same problem, eclipse-nn, the product.

A trained network, and random ones of torch's default initialisation, which SCS finds easier. Solvers run in a process of their own under
a limit of memory and time (`solver_process.py`); eclipse-nn in an environment of its own.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cases import Floor, Measured, Target, peak_gb
from machine import ROOT
from rivals import Attempt, Claim

SECONDS, GIGABYTES = 300, 12
LONG = 60.0  # seconds after which a case is not repeated
PROCESS = ROOT / "benchmarks" / "solver_process.py"
ENVIRONMENT = ROOT / "benchmarks" / ".environments" / "eclipse-nn-0.1.7"

# name -> (kind in solver_process.py, what its value is)
SOLVERS: dict[str, tuple[str, Claim]] = {
    "cvxpy + SCS, default": ("scs", "estimate"),
    "cvxpy + SCS, eps 1e-6": ("scs-1e-6", "estimate"),
    "cvxpy + Clarabel": ("clarabel", "estimate"),
    "eclipse-nn 0.1.7 ECLipsE": ("eclipse", "estimate"),
    "eclipse-nn 0.1.7 ECLipsE_Fast": ("eclipse-fast", "estimate"),
}
ALL = tuple(SOLVERS)
ECLIPSE = ALL[3:]


def network(make: Callable[[], Any], rivals: Sequence[str], targets: Sequence[Target] = (), doc: str = "") -> Any:
    """A case: `make` gives (module or file, input shape)."""

    def run(repeat: int, smoke: bool) -> Measured:
        import lipcert

        module, shape = make()
        done = Measured(against="lipsdp")
        for _ in range(repeat):
            model = done.clock("load", lambda: lipcert.load(module, input_shape=shape))
            report = done.clock("lipsdp", lambda model=model: lipcert.bound(model, methods=["lipsdp"]))
            if done.times["lipsdp"][-1]["wall"] > LONG:
                break
        done.peak_gb = peak_gb()
        product = lipcert.bound(model, methods=["product", "eclipse"])
        found = report.results[0]
        values = {result.method: getattr(result, "value", None) for result in product.results}
        done.values = {"upper": found.value, "product": values["product"], "eclipse": values["eclipse"]}
        details = ("neurons", "multipliers", "dual", "gap", "sweeps", "proofs", "source")
        done.values |= {key: found.details[key] for key in details}
        done.values["inflation"] = inflation(model.graph, found)
        done.floors = {"lipsdp": floor(model.graph, found)}
        done.targets = list(targets)
        done.rivals = [
            solver(name, model.graph)
            for name in (rivals[:1] if smoke and found.details["neurons"] <= 64 else () if smoke else rivals)
        ]
        return done

    run.__doc__ = doc
    return run


def inflation(graph: Any, found: Any) -> float | None:
    """What the proof adds: proved value over the value of the same multipliers in plain floating point, minus 1."""
    import math

    from lipcert.proofs.lmi import assemble, coefficients, eliminate, elimination_order, leading_eigenvalue
    from lipcert.proofs.normal_form import normal_form

    form = normal_form(graph, found.proof.grouping)
    table = coefficients(form)
    last = found.proof.block(len(form.layers))
    blocks = assemble(form, table, found.proof.tensors, last, found.proof.rho)
    plain = eliminate(blocks.parts, elimination_order(len(table.sizes), last), 0.0)
    if plain is None:
        return None
    return found.value / (math.sqrt(leading_eigenvalue(plain.complement)) / float(blocks.scales[last][0])) - 1


def floor(graph: Any, found: Any) -> Floor:
    """Every sweep multiplies r rows by each coefficient once forward and once back; proofs are block Choleskys."""
    from lipcert.proofs.lmi import coefficients
    from lipcert.proofs.normal_form import normal_form
    from lipcert.sdp.solve import factorisation_flops

    form = normal_form(graph, found.proof.grouping)
    table = coefficients(form)
    rows = 16 if form.neurons <= 600 else 32
    passes = 4 * rows * sum(operator.flops for operator in operators(form.graph)) / 2 * found.details["sweeps"]
    return Floor(
        passes + factorisation_flops(table) * found.details["proofs"],
        note="sweeps forward and back, one factorisation per proof",
    )


def operators(graph: Any) -> list[Any]:
    from lipcert.network.graph import Linear

    return [node.what.operator for node in graph.nodes if isinstance(node.what, Linear)]


def solver(name: str, graph: Any) -> Attempt:
    """One rival in a process of its own."""
    import numpy as np

    from lipcert.proofs.lmi import coefficients
    from lipcert.proofs.normal_form import normal_form
    from lipcert.sdp.via_cvxpy import primal

    kind, claim = SOLVERS[name]
    python = sys.executable
    if kind.startswith("eclipse"):
        made = eclipse_environment()
        if made is not None:
            return Attempt(name, claim, "failed", None, None, made)
        python = str(ENVIRONMENT / "bin" / "python")
    form = normal_form(graph, "neuron")
    problem = primal(form, coefficients(form))
    arrays: dict[str, Any] = {}
    if problem is not None:
        arrays = {key: getattr(problem, key).numpy() for key in ("V", "C", "low", "high")}
        arrays |= {"inputs": problem.inputs, "rho": problem.rho}
    arrays |= {f"W{i}": w for i, w in enumerate(weights(graph))}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "problem.npz", **arrays)
        command = [python, str(PROCESS), str(Path(folder) / "problem.npz"), kind, str(GIGABYTES)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return Attempt(name, claim, "failed", SECONDS, None, f"stopped after {SECONDS} s")
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        said = done.stderr.strip().splitlines()
        note = said[-1][:160] if said else f"killed, exit status {done.returncode}; memory limit {GIGABYTES} GB"
        return Attempt(name, claim, "failed", None, None, note)
    answer = json.loads(lines[-1])
    return Attempt(name, claim, "ok", answer["seconds"], answer["value"], answer["note"])


def weights(graph: Any) -> list[Any]:
    """The matrices of a chain of dense layers and ReLU; none for other graphs."""
    from lipcert.network.graph import Linear, Nonlinear
    from lipcert.operators.linear import Dense

    found = []
    for node in graph.nodes[1:]:
        if len(node.parents) > 1 or (isinstance(node.what, Nonlinear) and node.what.block.label != "relu"):
            return []
        if isinstance(node.what, Linear):
            if not isinstance(node.what.operator, Dense) or node.what.operator.weight.shape[0] != 1:
                return []
            found.append(node.what.operator.weight[0].numpy())
    fits = all(after.shape[1] == before.shape[0] for before, after in itertools.pairwise(found))
    return found if fits else []


def eclipse_environment() -> str | None:
    """Made on first use. The reason, where that fails."""
    if (ENVIRONMENT / "done").exists():
        return None
    import torch

    pip = [str(ENVIRONMENT / "bin" / "pip"), "install", "--quiet"]
    steps = (
        [sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)],
        [*pip, f"torch=={torch.__version__.split('+')[0]}"],
        [*pip, "eclipse-nn==0.1.7"],
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, env=os.environ)
        if done.returncode != 0:
            return f"its environment could not be made: {(done.stderr.strip().splitlines() or ['?'])[-1][:120]}"
    (ENVIRONMENT / "done").touch()
    return None


# Networks.


def mlp(*sizes: int) -> Callable[[], tuple[Any, tuple[int, ...]]]:
    def make() -> tuple[Any, tuple[int, ...]]:
        import networks

        return networks.mlp(list(sizes)), (1, sizes[0])

    return make


def digits() -> tuple[Any, tuple[int, ...]]:
    return ROOT / "examples" / "digits.onnx", (1, 64)


def residual(width: int, blocks: int) -> Callable[[], tuple[Any, tuple[int, ...]]]:
    def make() -> tuple[Any, tuple[int, ...]]:
        import networks

        return networks.residual_mlp(width, blocks), (1, width)

    return make


def conv() -> tuple[Any, tuple[int, ...]]:
    import networks

    return networks.small_conv(), (1, 1, 8, 8)


def chain(neurons: int, sizes: Sequence[int], rivals: Sequence[str], *targets: Target) -> Any:
    text = "-".join(map(str, sizes))
    return network(mlp(*sizes), rivals, targets, f"{text}, {neurons} hidden neurons.")


def deep(width: int, depth: int, rivals: Sequence[str] = ()) -> Any:
    return network(mlp(*[width] * (depth + 1), 4), rivals, (), f"{depth} hidden layers of {width}.")


def pairs(repeat: int, smoke: bool) -> Measured:
    """All 45 differences of two logits of 64-100-100-100-10 in one call."""
    import networks

    import lipcert

    done = Measured(against="pairs")
    model = lipcert.load(networks.mlp([64, *([10] if smoke else [100, 100, 100]), 10]), input_shape=(1, 64))
    for _ in range(repeat):
        report = done.clock("pairs", lambda: lipcert.bound(model, methods=["lipsdp"], output="pairs"))
    done.peak_gb = peak_gb()
    vector = lipcert.bound(model, methods=["lipsdp"]).upper
    done.values = {
        "upper": report.upper,
        "sqrt 2 times the vector": 2**0.5 * vector,
        "pairs": len(report.summary["pairs"]),
    }
    done.targets = [Target("pairs", 1.0)]
    return done


CASES: dict[str, Callable[[int, bool], Measured]] = {
    "lipsdp-digits": network(digits, ALL, (), "examples/digits.onnx, trained: 64-64-32-10, 96 hidden neurons."),
    "lipsdp-50": chain(50, (64, 50, 10), ALL),
    "lipsdp-64": chain(64, (64, 64, 10), ALL),
    "lipsdp-300": chain(300, (64, 100, 100, 100, 10), ALL),
    "lipsdp-512": chain(512, (784, 256, 256, 10), (ALL[0], *ECLIPSE)),
    "lipsdp-1000": chain(1000, (784, 500, 500, 10), ECLIPSE[1:]),
    "lipsdp-3000": chain(3000, (784, 1000, 1000, 1000, 10), ECLIPSE[1:], Target("lipsdp", 3.0)),
    "lipsdp-10000": chain(10_000, (784, *[2000] * 5, 10), (), Target("lipsdp", 25.0)),
    "lipsdp-20000": chain(20_000, (784, *[5000] * 4, 10), (), Target("lipsdp", 200.0), Target("peak_gb", 6.0)),
    "lipsdp-depth-2": deep(32, 2, ECLIPSE),
    "lipsdp-depth-8": deep(32, 8, ECLIPSE),
    "lipsdp-depth-32": deep(32, 32, ECLIPSE[1:]),
    "lipsdp-depth-64": deep(32, 64, ECLIPSE[1:]),
    "lipsdp-width-16": deep(16, 64, ECLIPSE[1:]),
    "lipsdp-width-64": deep(64, 64, ECLIPSE[1:]),
    "lipsdp-residual": network(residual(32, 4), ALL[:1], (), "Four blocks x + W2 relu(W1 x) of width 32, hidden 64."),
    "lipsdp-conv": network(conv, ALL[:1], (), "Two 3x3 convolutions, the second with stride 2, of 4 and 8 channels."),
    "lipsdp-pairs": pairs,
}
SMOKE = ("lipsdp-50", "lipsdp-residual", "lipsdp-conv", "lipsdp-pairs")
