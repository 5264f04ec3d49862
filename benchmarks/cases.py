"""What is measured: one function per case, run in a process of its own by `run.py`. Each returns a `Measured`.

Times are seconds of wall clock with the CPU seconds beside them; every repetition loads the model anew, for lipcert
keeps the norms that it has proved of a loaded one.
"""

from __future__ import annotations

import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from machine import ROOT
from rivals import EXACT_RATIONAL, TOLERANCE, Attempt, attempt

LIPCERT = (sys.executable, "-m", "lipcert")


@dataclass
class Measured:
    """One case: repeated times, values, what rivals did, targets, and the least work of the hot paths."""

    times: dict[str, list[dict[str, float]]] = field(default_factory=dict)  # step -> [{"wall", "cpu"}, ...]
    values: dict[str, Any] = field(default_factory=dict)
    rivals: list[Attempt] = field(default_factory=list)
    against: str = ""  # the step that rivals are compared with
    targets: list[Target] = field(default_factory=list)
    floors: dict[str, Floor] = field(default_factory=dict)  # step -> least work
    peak_gb: float | None = None

    def clock(self, step: str, run: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), _cpu()
        result = run()
        self.times.setdefault(step, []).append({"wall": time.perf_counter() - wall, "cpu": _cpu() - cpu})
        return result


@dataclass(frozen=True)
class Target:
    """`what`: a step (its seconds), "peak_gb", or a name in `values`; at most `limit`, or at `least`. `over`: another step, by whose
    seconds those of `what` are divided. Seconds are of the processor where one thread works ("cpu"), for the machine has other users."""

    what: str
    limit: float
    over: str = ""
    least: bool = False
    clock: Literal["cpu", "wall"] = "cpu"


@dataclass(frozen=True)
class Floor:
    """Work that the algorithm cannot do without: floating operations, and bytes that pass through memory."""

    flops: float
    bytes: float = 0.0
    note: str = ""


def _cpu() -> float:
    """CPU seconds of this process and of the children it has waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def peak_gb(who: int = resource.RUSAGE_SELF) -> float:
    """Greatest resident memory so far. Linux counts in kB, macOS in bytes."""
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


# The rigorous product of a fully connected network.


def mlp_product(repeat: int, smoke: bool) -> Measured:
    """784-8x128-10: every layer proved by one Cholesky; published exact-rational certifiers need minutes."""
    import networks
    import torch

    import lipcert

    done = Measured(against="product")
    net = networks.mlp([784, *[128] * 8, 10])
    weights = [layer.weight.detach().double() for layer in net if isinstance(layer, torch.nn.Linear)]
    with tempfile.TemporaryDirectory() as folder:
        path = networks.export(net, (1, 784), Path(folder) / "mlp.onnx")
        for _ in range(repeat):
            model = done.clock("load", lambda: lipcert.load(path))
            report = done.clock("product", lambda model=model: lipcert.bound(model, methods=["product"]))
    done.peak_gb = peak_gb()
    done.values = {"upper": report.upper}
    done.rivals = [attempt("float SVD product", weights), EXACT_RATIONAL]
    done.targets = [Target("product", 0.5)]
    flops = sum(2 * w.numel() * min(w.shape) + (1 / 3 + 1) * min(w.shape) ** 3 for w in weights)
    done.floors = {"product": Floor(flops, note="Gram, Cholesky and its check of each layer")}
    return done


def layer_norm(repeat: int, smoke: bool) -> Measured:
    """One square layer: the same proof in floating point and in exact integers."""
    import torch

    from lipcert.rigor.matrix_norms import matrix_norm_upper

    done = Measured(against="norm")
    n = 16 if smoke else 64
    weight = torch.randn(n, n, generator=torch.Generator().manual_seed(0)).double()
    for _ in range(max(3, repeat)):
        upper = done.clock("norm", lambda: matrix_norm_upper(weight, None, "2", "2"))
    done.peak_gb = peak_gb()
    done.values = {"upper": upper, "size": n}
    done.rivals = [
        attempt("rational Gram iteration", weight.tolist(), TOLERANCE),
        attempt("float SVD product", [weight]),
    ]
    return done


# Residual networks at the size of photographs.


def residual(name: str, ending: str) -> Callable[[int, bool], Measured]:
    limits = {"resnet18": (60.0, 4.0), "resnet50": (15.0, 8.0)}[name]

    def run(repeat: int, smoke: bool) -> Measured:
        import lipcert
        from lipcert.network.graph import Linear
        from lipcert.operators.linear import Conv, Dense

        done = Measured(against="product")
        shape = (1, 3, 8, 8) if smoke else (1, 3, 224, 224)
        with tempfile.TemporaryDirectory() as folder:
            path = in_child(_export, "resnet6" if smoke else name, shape, Path(folder) / f"{name}{ending}")
            for _ in range(repeat):
                model = done.clock("load", lambda: lipcert.load(path, input_shape=shape))
                report = done.clock("product", lambda model=model: lipcert.bound(model, methods=["product"]))
            done.peak_gb = peak_gb()
            whole = done.clock("bound", lambda: lipcert.bound(model, methods=["product", "absolute", "sampled"]))
        done.values = {
            "upper": report.upper,
            "lower": whole.lower,
            "neurons": model.graph.neurons,
            "peak_gb_of_bound": round(peak_gb(), 3),
        }
        operators = [node.what.operator for node in model.graph.nodes if isinstance(node.what, Linear)]
        done.rivals = [attempt("power iteration of every layer", [o for o in operators if isinstance(o, Conv | Dense)])]
        done.targets = [Target("product", limits[0]), Target("peak_gb", limits[1])]
        work = [conv_floor(o) for o in operators if isinstance(o, Conv)]
        compared = model.info["parity"]
        points = sum(record["points"] for record in compared if record["reference"] == compared[0]["reference"])
        done.floors = {
            "product": Floor(sum(f.flops for f in work), sum(f.bytes for f in work), TORUS),
            "load": Floor(points * sum(o.flops for o in operators), note=f"float64 evaluation at {points} points"),
        }
        return done

    kind = "ONNX" if ending == ".onnx" else "TorchScript"
    run.__doc__ = f"{name} at 224x224 from {kind}: load, product, then product, absolute and sampled."
    return run


def _export(name: str, shape: tuple[int, ...], path: Path) -> None:
    import networks

    networks.export(networks.resnet(name), shape, path)


def in_child(function: Callable[..., None], *arguments: Any) -> Path:
    """In a process of its own, so that its memory is not counted here. Returns the last argument."""
    import multiprocessing

    child = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    child.start()
    child.join()
    if child.exitcode != 0:
        raise RuntimeError(f"{function.__name__}{arguments[:-1]}: exit status {child.exitcode}")
    return arguments[-1]


TORUS = "symbol, Cholesky, check: every frequency"


def conv_floor(operator: Any) -> Floor:
    """The torus lemma without screening: for each frequency (half of them, by symmetry) the Gram symbol of n x n complex
    numbers from its lags, one Cholesky (4/3 n^3), the product that checks it (4 n^3); the symbol written and read once.
    """
    from lipcert.operators.conv_norm import _prepare

    conv = _prepare(operator.weight, operator.radius, operator.geometry)
    if conv is None:
        return Floor(0.0)
    g, a, c = conv.C.shape[:3]
    n = min(a, c * math.prod(axis.stride for axis in conv.axes))
    taps = [len({t // axis.stride for t in axis.taps}) for axis in conv.axes]
    if math.prod(taps) == 1:
        return Floor(g * (2 * n * n * max(a, c) + 4 / 3 * n**3), 8.0 * g * n * n)
    frequencies = math.prod(axis.torus() for axis in conv.axes) / 2
    lags = math.prod(2 * t - 1 for t in taps) / 2
    return Floor(g * frequencies * (4 * lags * n * n + (4 / 3 + 4) * n**3), 32.0 * g * frequencies * n * n, TORUS)


# Start-up, as a user sees it.


def help_text(repeat: int, smoke: bool) -> Measured:
    """`lipcert --help`: what every script and every typing error waits for."""
    return _command(["--help"], "help", 0.3, 3 if smoke else max(7, repeat))


def two_moons(repeat: int, smoke: bool) -> Measured:
    """`lipcert bound` on the shipped 2-100-100-100-1 network, imports and all."""
    path = ROOT / "examples" / "two_moons.onnx"
    return _command(["bound", str(path), "--quiet"], "bound", 5.0, 1 if smoke else repeat)


def _command(arguments: list[str], step: str, limit: float, repeat: int) -> Measured:
    done = Measured(targets=[Target(step, limit)])

    def run() -> None:
        subprocess.run([*LIPCERT, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT)

    run()  # byte code is compiled and files are cached: installation, not start-up
    for _ in range(repeat):
        done.clock(step, run)
    done.peak_gb = peak_gb(resource.RUSAGE_CHILDREN)
    return done


# Convolution norms.


def conv_norm(channels: tuple[int, int], side: int, kernel: int, stride: int) -> Callable[[int, bool], Measured]:
    def run(repeat: int, smoke: bool) -> Measured:
        import torch

        from lipcert.operators.conv_norm import DENSE_SIZE, ConvGeometry
        from lipcert.operators.linear import Conv

        done = Measured(against="norm")
        size = min(side, 8) if smoke else side
        random = torch.Generator().manual_seed(0)
        weight = torch.randn(channels[1], channels[0], kernel, kernel, generator=random, dtype=torch.float64)
        pad = (kernel // 2, kernel // 2)
        geometry = ConvGeometry((size, size), (stride, stride), (pad, pad), (1, 1))
        for _ in range(repeat):
            operator = Conv(weight, geometry)
            upper = done.clock("norm", lambda operator=operator: operator.norm_upper("2", "2"))
        done.peak_gb = peak_gb()
        done.values = {"upper": upper, "matrix": [operator.out_size, operator.in_size]}
        done.rivals = [attempt("power iteration", operator)]
        if operator.in_size * operator.out_size <= 2**24:
            done.rivals.append(attempt("dense float SVD", operator))
        lower = done.rivals[0].value
        done.values["upper / lower"] = upper / lower if lower else None
        if operator.in_size * operator.out_size > DENSE_SIZE:  # smaller ones are proved from their matrix
            done.floors = {"norm": conv_floor(operator)}
        return done

    run.__doc__ = f"{channels[0]} -> {channels[1]} channels, {kernel}x{kernel}, stride {stride}, map {side}x{side}."
    return run


# Radii.


def radii(repeat: int, smoke: bool) -> Measured:
    """1,000 samples of a 784-256-256-10 network: l2 from 45 pair constants, linf with constants on nested balls."""
    import torch
    from networks import mlp

    import lipcert

    done = Measured(targets=[Target("pairs", 20.0), Target("local", 60.0)])
    sizes, count = ([64, 32, 10], 20) if smoke else ([784, 256, 256, 10], 1000)
    x = torch.rand(count, sizes[0], generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    for _ in range(repeat):
        for step, norm, methods in (("pairs", "2", ["pairs"]), ("local", "inf", ["pairs", "local"])):
            model = lipcert.load(mlp(sizes), input_shape=(1, sizes[0]))
            report = done.clock(
                step,
                lambda model=model, norm=norm, methods=methods: lipcert.radius(model, x, norm=norm, methods=methods),
            )
            done.values |= {f"mean radius, {m}, l{norm}": r for m, r in report.summary["mean_radius"].items()}
    done.peak_gb = peak_gb()
    return done


CASES: dict[str, Callable[[int, bool], Measured]] = {
    "help": help_text,
    "two-moons": two_moons,
    "radius": radii,
    "layer": layer_norm,
    "mlp-8x128": mlp_product,
    "conv-small": conv_norm((8, 8), 16, 3, 1),
    "conv-stride": conv_norm((16, 32), 16, 3, 2),
    "conv-wide": conv_norm((128, 128), 28, 3, 1),
    "resnet18-onnx": residual("resnet18", ".onnx"),
    "resnet18-torchscript": residual("resnet18", ".pt"),
    "resnet50-onnx": residual("resnet50", ".onnx"),
    "resnet50-torchscript": residual("resnet50", ".pt"),
}
