"""Cases with a target of their own: start-up and loading beside what torch alone takes, and the hot paths of everyday."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cases import LIPCERT, Floor, Measured, Target, peak_gb
from machine import ROOT

MOONS, DIGITS = ROOT / "examples" / "two_moons.onnx", ROOT / "examples" / "digits.onnx"
COMMANDS = {
    "import torch": (sys.executable, "-c", "import torch"),
    "help": (*LIPCERT, "--help"),
    "bound": (*LIPCERT, "bound", str(MOONS), "--quiet"),
    "bound, no regions": (*LIPCERT, "bound", str(DIGITS), "--quiet"),
}


def start_up(repeat: int, smoke: bool) -> Measured:
    """`lipcert bound` beside `import torch`, in turn; then a second small model in one process."""
    import lipcert

    limits = {"bound": 1.8, "bound, no regions": 1.8}
    done = Measured(targets=[Target(step, limit, over="import torch") for step, limit in limits.items()])
    done.targets += [Target("help", 0.25), Target("second model", 0.15)]
    # byte code is written once, at installation: a folder of its own where the surroundings forbid it
    environment = dict(os.environ)
    if not smoke and environment.pop("PYTHONDONTWRITEBYTECODE", None):
        environment.setdefault("PYTHONPYCACHEPREFIX", str(Path.home() / ".cache" / "lipcert" / "benchmarks"))
    chosen = ("import torch", "help") if smoke else tuple(COMMANDS)
    done.targets = [target for target in done.targets if target.what in (*chosen, "second model")]

    def run(name: str) -> None:
        subprocess.run(COMMANDS[name], check=True, capture_output=True, cwd=ROOT, env=environment)

    for turn in range(1 if smoke else 1 + max(3, repeat)):
        for name in chosen:
            if turn or smoke:
                done.clock(name, lambda name=name: run(name))
            else:
                run(name)
    lipcert.bound(lipcert.load(MOONS), methods=["product"])
    done.clock("second model", lambda: lipcert.bound(lipcert.load(DIGITS), methods=["product"]))
    done.peak_gb = peak_gb()
    return done


def loading(make: Callable[[], tuple[Any, tuple[int, ...]]], small: Callable[[], tuple[Any, tuple[int, ...]]]) -> Any:
    """A case: `load` of a module beside one torch.export of it."""

    def run(repeat: int, smoke: bool) -> Measured:
        import torch

        import lipcert

        module, shape = small() if smoke else make()
        done = Measured(targets=[] if smoke else [Target("load", 1.5, over="export")])
        torch.export.export(torch.nn.Identity(), (torch.zeros(1),))  # what both import
        for _ in range(repeat):
            done.clock("export", lambda: torch.export.export(module, (torch.zeros(shape),)))
            model = done.clock("load", lambda: lipcert.load(module, input_shape=shape))
        done.peak_gb = peak_gb()
        done.values = {"nodes": len(model.graph.nodes)}
        return done

    run.__doc__ = "`load` of a module beside one torch.export of the same."
    return run


def resnet(name: str, side: int) -> Callable[[], tuple[Any, tuple[int, ...]]]:
    def make() -> tuple[Any, tuple[int, ...]]:
        import networks

        return networks.resnet(name), (1, 3, side, side)

    return make


def vit(depth: int, width: int, heads: int, side: int) -> Callable[[], tuple[Any, tuple[int, ...]]]:
    def make() -> tuple[Any, tuple[int, ...]]:
        import networks

        return networks.vision_transformer(depth, width, heads, side), (1, 3, side, side)

    return make


def shared_product(name: str, limit: float) -> Callable[[int, bool], Measured]:
    def run(repeat: int, smoke: bool) -> Measured:
        import lipcert

        done = Measured()
        file = Path(os.environ.get("LIPCERT_SHARED", ROOT.parent / "shared")) / "models" / name
        if smoke or not file.exists():
            done.values = {"skipped": f"no {name} in LIPCERT_SHARED, or a smoke run"}
            return done
        model = lipcert.load(file)
        report = done.clock("product", lambda: lipcert.bound(model, methods=["product"]))
        done.peak_gb, done.values, done.targets = peak_gb(), {"upper": report.upper}, [Target("product", limit)]
        return done

    run.__doc__ = f"Product of {name}."
    return run


def pairs(repeat: int, smoke: bool) -> Measured:
    """All 45 differences of two logits of 64-100-100-100-10 (300 neurons) in one call."""
    import networks

    import lipcert

    done = Measured(targets=[Target("pairs", 1.0)])
    module = networks.mlp([64, *([10] if smoke else [100, 100, 100]), 10])
    lipcert.bound(lipcert.load(DIGITS), methods=["lipsdp"])
    for _ in range(repeat):
        model = lipcert.load(module, input_shape=(1, 64))
        report = done.clock("pairs", lambda m=model: lipcert.bound(m, methods=["lipsdp"], output="pairs"))
    done.peak_gb, done.values = peak_gb(), {"upper": report.upper, "pairs": len(report.summary["pairs"])}
    return done


def certificates(repeat: int, smoke: bool) -> Measured:
    """Local constants, linf -> linf, of the MNIST network 784-256-256-10 on linf balls of radius 0.01 around 100 samples, method `linear`;
    without LIPCERT_SHARED, of one with random weights."""
    import networks
    import numpy as np
    import torch

    import lipcert

    count, asked = (4, 4) if smoke else (1000, 100)
    inputs, width = (64, 16) if smoke else (784, 256)
    shared = Path(os.environ.get("LIPCERT_SHARED", "../shared"))
    trained, samples = shared / "models/mnist_fc_256x2.onnx", shared / "data/mnist_test_1000.npz"
    known = not smoke and trained.is_file() and samples.is_file()
    done = Measured(targets=[] if smoke else [Target("balls", 60.0 * asked / count)])
    if known:
        model, x = lipcert.load(trained), np.load(samples)["x"][:asked].reshape(asked, -1) / 255.0
    else:
        model = lipcert.load(networks.mlp([inputs, width, width, 10]), input_shape=(1, inputs))
        x = torch.rand(asked, inputs, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    ask = {"norm": "inf", "ball_norm": "inf", "methods": ["linear"], "each": 60.0}  # by default a ball has a second
    lipcert.local(model, x[:1], 0.01, **ask)
    for _ in range(repeat):
        report = done.clock("balls", lambda ask=ask: lipcert.local(model, x, 0.01, **ask))
    done.peak_gb = peak_gb()
    uppers = sorted(row["upper"] for row in report.points)
    done.values = {
        "network": "mnist_fc_256x2" if known else "random",
        "upper, median": uppers[len(uppers) // 2],
        "upper, largest": uppers[-1],
        "balls": asked,
        "scaled to": count,
    }
    each = 2 * 2 * width * width * inputs + 2 * 2 * 10 * (width * width + width * inputs)
    done.floors = {
        "balls": Floor(
            1.0 * each * asked, note="lines of the neurons of one layer and of 10 logits back to the input, both sides"
        )
    }
    return done


CASES: dict[str, Callable[[int, bool], Measured]] = {
    "start-up": start_up,
    "load-resnet18": loading(resnet("resnet18", 224), resnet("resnet6", 32)),
    "load-vit-b": loading(vit(12, 768, 12, 224), vit(1, 16, 2, 32)),
    "cifar10-resnet-2b": shared_product("cifar10_resnet_2b.onnx", 5.0),
    "pairs-45": pairs,
    "certificates-1000": certificates,
}
