"""Two inputs: the certified radius is the distance to the decision boundary.

Oracle: all linear regions of the network as polygons (regions.py). A second one, for the first: the first change of class
along each of many rays from the sample, walked finely and then bisected; the least of them is never below the distance.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from polygons import boundary_distance, pieces
from torch import nn

import lipcert
from lipcert.tasks.radius.boundary import Aim, boundary_radii
from lipcert.tasks.radius.margins import margins

ORDER = {"1": 1.0, "2": 2.0, "inf": math.inf}
RAYS, FAR = 720, 3.0


def net(seed: int, outputs: int, width: int = 10) -> tuple[nn.Sequential, lipcert.Model]:
    torch.manual_seed(seed)
    layers = [nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)]
    for layer in layers[::2]:
        layer.weight.data *= 2
    module = nn.Sequential(*layers)
    return module, lipcert.load(module, input_shape=(1, 2))


def along_rays(model: lipcert.Model, x: torch.Tensor, norm: str, rays: int = RAYS) -> float:
    """The least distance of a class change on the rays, up to FAR: a fine walk, then bisection on the first change."""
    angle = torch.arange(rays, dtype=torch.float64) * (2 * math.pi / rays)
    way = torch.stack([angle.cos(), angle.sin()], 1)
    way = way / torch.linalg.vector_norm(way, ord=ORDER[norm], dim=1, keepdim=True)
    classify = lambda at: model.graph.evaluate(at).argmax(1)  # noqa: E731
    own = classify(x[None])[0]
    steps = torch.linspace(0, FAR, 601, dtype=torch.float64)
    changed = classify((x + steps[:, None, None] * way).reshape(-1, 2)).reshape(len(steps), rays) != own
    first = changed.double().argmax(0)
    hit = changed.any(0)
    if not bool(hit.any()):
        return math.inf
    way, high = way[hit], steps[first[hit]]
    low = steps[(first[hit] - 1).clamp(min=0)]
    for _ in range(40):
        middle = (low + high) / 2
        other = classify(x + middle[:, None] * way) != own
        low, high = torch.where(other, low, middle), torch.where(other, middle, high)
    return float(high.min())


@pytest.mark.every(3)
@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_radii_are_the_distance_to_the_boundary(norm: str) -> None:
    """Never above; within 2 % of it for at least 95 % of the samples that have one in the box."""
    close = []
    for seed in range(2):
        (module, model), x = net(seed, 3), np.random.default_rng(seed).normal(size=(12, 2))
        found = pieces(module, np.full(2, -FAR), np.full(2, FAR))
        for point, centre in zip(lipcert.radius(model, x, norm=norm, methods=["local"]).points, x, strict=True):
            exact = boundary_distance(found, centre, point["predicted"], ORDER[norm])
            if exact < FAR - np.abs(centre).max():  # nothing outside of the box is nearer
                assert point["radius"] <= exact * (1 + 1e-10)
                close.append(point["radius"] >= 0.98 * exact)
    assert len(close) >= 12
    assert np.mean(close) >= 0.95


def test_the_oracle_is_the_network_and_agrees_with_rays() -> None:
    module, model = net(0, 3)
    found = pieces(module, np.full(2, -FAR), np.full(2, FAR))
    for corners, A, c in found:
        at = corners.mean(axis=0)
        assert np.allclose(A @ at + c, model.graph.evaluate(torch.from_numpy(at)[None])[0].numpy(), atol=1e-9)
    x = np.random.default_rng(0).normal(size=(4, 2))
    for centre in x:
        own = int(model.graph.evaluate(torch.from_numpy(centre)[None]).argmax())
        for norm, order in ORDER.items():
            exact = boundary_distance(found, centre, own, order)
            rays = along_rays(model, torch.from_numpy(centre), norm)
            assert exact <= rays * (1 + 1e-9)
            assert rays <= exact * 1.02 or exact > FAR - np.abs(centre).max()


def test_the_search_is_sound_when_it_is_cut_short() -> None:
    (_, model), x = net(1, 3), torch.from_numpy(np.random.default_rng(1).normal(size=(4, 2)))
    found = margins(model.graph, x, None)
    start = torch.full((4,), 0.5, dtype=torch.float64)
    before = torch.zeros(4, dtype=torch.float64)
    exact = [along_rays(model, centre, "2") for centre in x]
    for boxes in (1, 300, 3000):
        radii = boundary_radii(model.graph, x, found, "2", start, Aim(boxes=boxes), False)
        assert bool((radii >= before * (1 - 0.01)).all())
        assert all(float(r) <= e for r, e in zip(radii, exact, strict=True))
        before = radii


def test_a_radius_too_large_is_seen_by_the_oracle() -> None:
    (module, model), x = net(0, 3), np.random.default_rng(0).normal(size=(8, 2))
    found = pieces(module, np.full(2, -FAR), np.full(2, FAR))
    rows = lipcert.radius(model, x).points
    exact = [boundary_distance(found, c, p["predicted"], 2.0) for c, p in zip(x, rows, strict=True)]
    assert sum(p["radius"] * 1.03 > e for p, e in zip(rows, exact, strict=True)) >= 3


def test_tolerance_and_one_logit() -> None:
    (_, model), x = net(2, 1), np.random.default_rng(2).normal(size=(6, 2))
    sign = lipcert.radius(model, x).points
    near = lipcert.radius(model, x, tolerance=0.05).points
    at = torch.from_numpy(x)
    origin = model.graph.evaluate(at)
    angle = torch.linspace(0, 2 * math.pi, 400, dtype=torch.float64)
    way = torch.stack([angle.cos(), angle.sin()], 1)
    for k in range(6):
        inside = model.graph.evaluate(at[k] + sign[k]["radius"] * way)
        assert bool(((inside > 0) == (origin[k] > 0)).all())
        moved = (model.graph.evaluate(at[k] + near[k]["radius"] * way) - origin[k]).abs()
        assert float(moved.max()) <= 0.05
        assert float(moved.max()) >= 0.04  # and hardly less
