"""Random modules through every format: no proved value below what is attained, none below another format's attained one.

LIPCERT_GRAPHS=2000 says how many; LIPCERT_FIRST=N where they begin. A module that breaks a law is made small before it is told.
"""

from __future__ import annotations

import copy
import os
import random
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn import FORMATS, Apply, Drawn, smallest
from oracles import attained
from thorough import FULL
from torch import Tensor, nn

import lipcert
from lipcert.report.report import Report
from lipcert.terms.errors import LipcertError
from lipcert.terms.query import Ball, Box

COUNT = int(os.environ.get("LIPCERT_GRAPHS", "400" if FULL else "6"))
LONG = FULL or "LIPCERT_GRAPHS" in os.environ
FIRST = int(os.environ.get("LIPCERT_FIRST", "0"))
NORMS = ("2", "2", "1", "inf", "1->2", "inf->1", "inf->2", "2->inf", "1->inf", "2->1")
BUDGET = 2.0  # seconds for one question
SMALL = 2  # a seed: (1, 3), a linear layer and arithmetic
FOLDED = 1e-5  # exporters fold weights in float32: their files hold nearly the same function
EXPORTERS = (Exception,)  # torch's exporters raise any


def question(seed: int, shape: tuple[int, ...]) -> tuple[str, Box | Ball | None]:
    dice = random.Random(f"question {seed}")
    norm = dice.choice(NORMS)
    centre = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()
    radius = dice.choice([1e-3, 0.05, 1.0])
    regions = (None, Box(centre - radius, centre + radius), Ball(centre, radius, dice.choice(["1", "2", "inf"])))
    return norm, dice.choice(regions)


def inner_box(region: Box | Ball | None, shape: tuple[int, ...]) -> tuple[Tensor | None, Tensor | None]:
    """Of one sample: a box that lies in the region."""
    if region is None:
        return None, None
    if isinstance(region, Box):
        return region.lower[0], region.upper[0]
    n = torch.Size(shape).numel()
    half = region.radius * {"inf": 1.0, "2": n**-0.5, "1": 1 / n}[str(region.norm)] * (1 - 1e-9)
    return region.center[0] - half, region.center[0] + half


def answers(module: Drawn, seed: int, formats: tuple[str, ...]) -> dict[str, Report | str]:
    norm, region = question(seed, module.shape)
    found: dict[str, Report | str] = {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in formats:
            try:
                model: Any = FORMATS[name](module, Path(folder))
            except EXPORTERS as problem:
                found[name] = f"not exported: {type(problem).__name__}"
                continue
            how: dict[str, Any] = {
                "module": {"example": torch.zeros(module.shape)},
                "torchscript": {"input_shape": module.shape},
            }
            try:
                found[name] = lipcert.bound(model, norm=norm, region=region, budget=BUDGET, **how.get(name, {}))
            except LipcertError as problem:
                found[name] = f"{type(problem).__name__}: {problem}"
    return found


def original(module: Drawn) -> Drawn:
    """In float64. torch's gradient of a hard sigmoid is 3e-8 above the slope: float32(1 / 6)."""
    double = copy.deepcopy(module).double()
    for k, layer in enumerate(double.layers):
        if isinstance(layer, nn.Hardsigmoid):
            double.layers[k] = Apply(lambda x: (x + 3).clamp(0, 6) / 6)
    return double


def violations(module: Drawn, seed: int, formats: tuple[str, ...] = tuple(FORMATS)) -> list[str]:
    (norm, region), found = question(seed, module.shape), answers(module, seed, formats)
    double = original(module)
    low, high = inner_box(region, module.shape)
    p, _, q = norm.partition("->")
    pair = (p, q or p)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        least = attained(lambda x: double(x[None])[0], module.shape[1:], [pair], low=low, high=high, seed=seed)[pair]
    reports = {name: report for name, report in found.items() if isinstance(report, Report)}
    wrong = [f"{name}: {said}" for name, said in found.items() if isinstance(said, str) and "SelfCheck" in said]
    for name, report in reports.items():
        if report.upper is None:
            continue
        if report.upper < least * (1 - (1e-9 if name == "module" else FOLDED)):
            wrong.append(f"{name}: {report.upper} is proved and {least} attained")
        for other, theirs in reports.items():
            if theirs.lower is not None and report.upper < theirs.lower * (1 - FOLDED):
                wrong.append(f"{name}: {report.upper} is proved and {theirs.lower} attained by {other}")
    return wrong


@pytest.mark.every(1)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
def test_a_random_module_in_every_format(seed: int) -> None:
    """By default as a module and in one of the other formats."""
    module = Drawn(seed)
    chosen = tuple(FORMATS) if LONG else ("module", list(FORMATS)[1 + seed % (len(FORMATS) - 1)])
    if not (wrong := violations(module, seed, chosen)):
        return
    formats = tuple(name for name in FORMATS if any(word.startswith(f"{name}:") for word in wrong))
    fewer = smallest(seed, lambda part: bool(violations(part, seed, formats)))
    pytest.fail(f"seed {seed}: {fewer}: {question(seed, module.shape)}: {violations(fewer, seed, formats) or wrong}")


def test_a_planted_loss_is_found_out_and_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A percent is enough: of two linear layers, and of what is left of them."""
    right = attained
    monkeypatch.setitem(globals(), "attained", lambda *a, **how: {k: 1.01 * v for k, v in right(*a, **how).items()})

    def breaks(module: Drawn) -> bool:
        return bool(violations(module, SMALL, ("module",)))

    assert len(Drawn(SMALL).kept) > 1
    assert breaks(Drawn(SMALL))
    assert len(smallest(SMALL, breaks).kept) <= 1
