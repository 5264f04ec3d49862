"""Cases of local constants: the slope sweep, grids to 1 %, constants of a box to 1e-6, and auto_LiRPA region by region."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cases import Floor, Measured, Target, peak_gb
from enumerated import rivals
from lirpa import auto_lirpa
from machine import ROOT
from sampling import BOX, _grid

MOONS = ROOT / "examples" / "two_moons.onnx"
NORMS = ("1", "2", "inf")
SIZES = (0.01, 0.03, 0.1, 0.3, 1.0)


def sweep(repeat: int, smoke: bool) -> Measured:
    """The slope sweep on 10,000 cells of the shipped 2-100-100-100-1 ReLU network, linf."""
    import torch

    import lipcert
    from lipcert.network.graph import Linear
    from lipcert.regions.cells import Cells
    from lipcert.regions.forward.slope import lipschitz_on
    from lipcert.terms.query import Norm

    graph = lipcert.load(MOONS).graph
    cells = Cells.boxes(*_grid(10 if smoke else 100))
    done = Measured(targets=[] if smoke else [Target("sweep", len(cells) / 20_000)])
    with torch.no_grad():
        for _ in range(max(3, repeat)):
            upper = done.clock("sweep", lambda: lipschitz_on(graph, cells, Norm("inf", "inf")))
    done.peak_gb = peak_gb()
    best = min(t["wall"] for t in done.times["sweep"])
    done.values = {"upper": float(upper.max()), "cells": len(cells), "cells per second": len(cells) / best}
    rows = 2 + 2 + 2  # value and plain interval, slopes, directions
    products = sum(node.what.operator.flops for node in graph.nodes if isinstance(node.what, Linear))
    done.floors = {"sweep": Floor(2.0 * rows * products * len(cells), note="a product for centres and one for radii")}
    return done


def grid(name: str, limit: float) -> Callable[[int, bool], Measured]:
    def run(repeat: int, smoke: bool) -> Measured:
        import networks
        import torch

        import lipcert
        from lipcert.terms.query import Box

        module = MOONS if name == "relu" else networks.two_moons(torch.nn.Tanh)
        low, high = (torch.tensor([[side[i] for side in BOX]], dtype=torch.float64) for i in (0, 1))
        shape = (2, 2) if smoke else (50, 50)
        done = Measured(targets=[Target(f"l{p}", limit) for p in NORMS])
        for _ in range(repeat):
            for p in NORMS:
                model = lipcert.load(module, input_shape=(1, 2))
                report = done.clock(
                    f"l{p}",
                    lambda model=model, p=p: lipcert.local_grid(model, Box(low, high), shape, norm=p, rtol=0.01),
                )
                found = report.summary["grid"]
                done.values |= {f"closed, l{p}": sum(found["closed"]), f"upper, l{p}": report.upper}
        done.peak_gb = peak_gb()
        done.values["cells"] = shape[0] * shape[1]
        return done

    run.__doc__ = f"2500 cells to 1 %, a two-moons network 2-100-100-100-1 with {name}, all three norms."
    return run


def exact(repeat: int, smoke: bool) -> Measured:
    """The shipped two-moons network on [-2, 3] x [-1.5, 2] by branch and bound, to 1e-6 (smoke: 1e-2)."""
    import torch

    import lipcert
    from lipcert.regions.branch_and_bound.branching import Effort, bracket
    from lipcert.regions.cells import Cells
    from lipcert.terms.query import Norm

    low, high = (torch.tensor([[side[i] for side in BOX]], dtype=torch.float64) for i in (0, 1))
    done = Measured(targets=[Target(f"l{p}", 1.0) for p in NORMS])
    for _ in range(max(1, repeat)):
        for p in NORMS:
            graph = lipcert.load(MOONS).graph
            with torch.no_grad():
                found = done.clock(
                    f"l{p}",
                    lambda graph=graph, p=p: bracket(
                        graph, Cells.boxes(low, high), Norm(p, p), Effort(1e-2 if smoke else 1e-6)
                    ),
                )
            done.values |= {f"upper, l{p}": float(found.upper), f"lower, l{p}": float(found.lower)}
    done.peak_gb = peak_gb()
    return done


def lirpa(repeat: int, smoke: bool) -> Measured:
    """linf constants on boxes of 0.01 to 1.0 around points, ReLU 2-100-100-100-1: sweep, linear, branch; auto_LiRPA."""
    import torch
    from lipsdp import weights

    import lipcert
    from lipcert.network.graph import Offset
    from lipcert.regions.cells import Cells
    from lipcert.regions.forward.slope import lipschitz_on
    from lipcert.terms.query import Box, Norm

    model = lipcert.load(MOONS)
    graph, norm = model.graph, Norm("inf", "inf")
    dice = torch.Generator().manual_seed(0)
    count = 1 if smoke else 8
    low, high = (torch.tensor([side[i] for side in BOX], dtype=torch.float64) for i in (0, 1))
    centres = (low + torch.rand(count, 2, generator=dice, dtype=torch.float64) * (high - low)).repeat(len(SIZES), 1)
    eps = torch.tensor(SIZES, dtype=torch.float64).repeat_interleave(count)
    cells = Cells(centres, eps[:, None].expand(-1, 2).contiguous())
    done = Measured(against="sweep")
    with torch.no_grad():
        many = cells[torch.arange(2500) % len(cells)]
        for _ in range(max(3, repeat)):
            done.clock("sweep", lambda: lipschitz_on(graph, many, norm))
        values = {"sweep": lipschitz_on(graph, cells, norm).tolist()}
    for method in ("linear", "branch"):
        boxes = [Box((c - e)[None], (c + e)[None]) for c, e in zip(centres, eps, strict=True)]
        reports = done.clock(
            method,
            lambda m=method, boxes=boxes: [lipcert.bound(model, region=b, norm="inf", methods=[m]) for b in boxes],
        )
        values[method] = [float(report.upper) for report in reports]
    done.peak_gb = peak_gb()
    done.values = {"regions": len(cells), "sweep regions": len(many)}
    biases = [node.what.value.reshape(-1).numpy() for node in graph.nodes if isinstance(node.what, Offset)]
    rival, theirs = auto_lirpa(weights(graph), biases, cells.centre.numpy(), eps.numpy(), len(many))
    done.rivals = [rival]
    for k, size in enumerate(SIZES):
        here = slice(k * count, (k + 1) * count)
        done.values[f"eps {size:g}"] = {
            **{method: sum(found[here]) / count for method, found in values.items()},
            **({} if theirs is None else {"auto_LiRPA": sum(theirs[here]) / count}),
            **{
                f"{method} / auto_LiRPA, at most": max(a / b for a, b in zip(found[here], theirs[here], strict=True))
                for method, found in values.items()
                if theirs is not None
            },
        }
    return done


def logit(repeat: int, smoke: bool) -> Measured:
    """784-256-256-10, one logit on balls of 1/255 and 4/255, method `linear`: seconds for each of 4 points."""
    import networks
    import torch

    import lipcert
    from lipcert.terms.query import Ball

    model = lipcert.load(networks.mlp([784, 256, 256, 10]), input_shape=(1, 784))
    points = torch.rand(1 if smoke else 4, 784, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    done = Measured()
    for p in ("inf", "2"):
        for eps in (1, 4):
            step = f"l{p}, {eps}/255"
            done.targets.append(Target(step, 0.1))
            for x in points:
                region = Ball(x[None], eps / 255, p)
                report = done.clock(
                    step,
                    lambda region=region, p=p: lipcert.bound(
                        model, region=region, norm=p, output="0", methods=["linear"]
                    ),
                )
                done.values[step] = report.upper
    done.peak_gb = peak_gb()
    return done


def acasxu(repeat: int, smoke: bool) -> Measured:
    """ACAS Xu (5 inputs, 6x50) on boxes of some radius around 0 and a point of large gradients: what `branch` brackets in 30 s."""
    import torch

    import lipcert
    from lipcert.regions.branch_and_bound.branching import Effort, bracket
    from lipcert.regions.cells import Cells
    from lipcert.terms.query import Norm

    done = Measured()
    file = Path(os.environ.get("LIPCERT_SHARED", ROOT.parent / "shared")) / "models" / "acasxu_run2a_1_1.onnx"
    if not file.exists():
        done.values = {"skipped": f"no {file.name} in LIPCERT_SHARED"}
        return done
    graph, seconds = lipcert.load(file).graph, 0.5 if smoke else 30.0
    points = [[0.0] * 5, [-0.263, -0.165, -0.159, -0.194, 0.034]]
    done.values["brackets"] = []
    for p in ("inf", "2"):
        for k, centre in enumerate(points):
            for eps in (0.02, 0.1):
                cells = Cells(torch.tensor([centre], dtype=torch.float64), torch.full((1, 5), eps, dtype=torch.float64))
                with torch.no_grad():
                    effort = Effort(0.01, time.monotonic() + seconds)
                    found = done.clock(
                        f"l{p}, point {k}, eps {eps:g}", lambda c=cells, p=p, e=effort: bracket(graph, c, Norm(p, p), e)
                    )
                done.values["brackets"].append(
                    {"norm": p, "point": k, "eps": eps, "lower": float(found.lower), "upper": float(found.upper)}
                    | {"leaves": found.leaves, "closed": bool(found.closed)}
                )
    done.peak_gb = peak_gb()
    return done


XU = ("acasxu_run2a_1_1", "acasxu_run2a_3_3", "acasxu_dnnv_N_5_3")
QUESTIONS = ((0.02, 1e-6, 2.0), (0.1, 0.01, 40.0))  # radius, rtol, seconds
POINTS = ([0.0] * 5, [-0.263, -0.165, -0.159, -0.194, 0.034])


def pieces(repeat: int, smoke: bool) -> Measured:
    """Linear regions: three ACAS Xu networks at two points (radius 0.02 to 1e-6, 0.1 to 1 %), the plane of two moons, rl_cartpole."""
    import torch

    import lipcert
    from lipcert.network.graph import Linear
    from lipcert.regions.cells import Cells
    from lipcert.regions.enumeration.constant import constant
    from lipcert.regions.enumeration.tree import prepare
    from lipcert.terms.query import Norm

    done = Measured()
    folder = Path(os.environ.get("LIPCERT_SHARED", ROOT.parent / "shared")) / "models"
    done.clock("machine code", prepare)
    done.values["brackets"] = []

    def measure(file: Path, words: dict[str, Any], cells: Any, p: str, rtol: float, limit: float) -> None:
        graph = lipcert.load(file).graph
        step = ", ".join([file.stem, f"l{p}", *(f"{name} {value:g}" for name, value in words.items())])
        done.targets.append(Target(step, limit))
        for _ in range(repeat):
            end = time.monotonic() + (5.0 if smoke else 300.0)
            found = done.clock(step, lambda end=end: constant(graph, cells, Norm(p, p), rtol, end))
        weights = sum(node.what.operator.flops for node in graph.nodes if isinstance(node.what, Linear))
        maps = 2.0 * found.cells * cells.centre.shape[1] * weights
        done.floors[step] = Floor(maps, note="the affine map of each cell, layer by layer")
        done.values["brackets"].append(
            {"network": file.stem, "norm": p, "point": "", "eps": ""}
            | words
            | {"lower": found.lower, "upper": found.upper, "leaves": found.cells, "closed": bool(found.closed)}
        )

    for p in ("inf", "2"):
        box = Cells.boxes(*(torch.tensor([[side[i] for side in BOX]], dtype=torch.float64) for i in (0, 1)))
        measure(MOONS, {}, box, p, 1e-6, 2.0)
        if not folder.is_dir():
            continue
        cube = Cells(torch.zeros(1, 4, dtype=torch.float64), torch.ones(1, 4, dtype=torch.float64))
        measure(folder / "rl_cartpole.onnx", {}, cube, p, 1e-6, 10.0)
        for name in XU[:1] if smoke else XU:
            for k, centre in enumerate(POINTS[:1] if smoke else POINTS):
                for eps, rtol, limit in QUESTIONS[:1] if smoke else QUESTIONS:
                    x = torch.tensor([centre], dtype=torch.float64)
                    words = {"point": k, "eps": eps}
                    measure(folder / f"{name}.onnx", words, Cells(x, torch.full_like(x, eps)), p, rtol, limit)
    done.peak_gb = peak_gb()
    return done


def radii(repeat: int, smoke: bool) -> Measured:
    """linf radii of random points of ACAS Xu run2a_1_1 by linear regions: certified / attacked, and seconds of each."""
    import numpy as np
    import torch

    import lipcert
    from lipcert.regions.enumeration.tree import prepare

    done = Measured()
    file = Path(os.environ.get("LIPCERT_SHARED", ROOT.parent / "shared")) / "models" / f"{XU[0]}.onnx"
    if not file.exists():
        done.values = {"skipped": f"no {file.name} in LIPCERT_SHARED"}
        return done
    model = lipcert.load(file)
    dice = torch.Generator().manual_seed(0)
    x = (torch.rand(100, 5, generator=dice, dtype=torch.float64) - 0.5).numpy()[: 2 if smoke else 100]
    done.clock("machine code", prepare)
    ratios, ties = [], 0
    for k, point in enumerate(x):
        done.targets.append(Target(f"point {k}", 10.0))
        row = done.clock(f"point {k}", lambda p=point: lipcert.radius(model, p[None], norm="inf")).points[0]
        ties += row["status"] == "tie"  # a float32 evaluation may tell the class wrongly
        real = row.get("real", row)
        ratios.append(real["radius"] / real["attacked"] if real["attacked"] else 0.0)
    closed = int((np.array(ratios) >= 0.9999).sum())
    done.values = {"points": len(x), "ties": ties, "certified / attacked >= 0.9999": closed, "least ratio": min(ratios)}
    done.peak_gb = peak_gb()
    return done


CASES: dict[str, Callable[[int, bool], Measured]] = {
    "sweep": sweep,
    "grid-relu": grid("relu", 20.0),
    "grid-tanh": grid("tanh", 60.0),
    "two-moons-exact": exact,
    "auto-lirpa": lirpa,
    "mnist-logit": logit,
    "acasxu": acasxu,
    "linear-regions": pieces,
    "acasxu-radii": radii,
    "regions-rivals": rivals,
}
