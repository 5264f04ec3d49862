"""Rosca et al. 2020, Figure 4: local Lipschitz constants over the plane, here with certified values instead of sampled ones.

The free network and the one with a gradient penalty on one colour scale. Asserts that every cell's bracket is closed, and that
the penalised network is smoother in nine cells of ten, by brackets that are apart.

    python examples/seed_paper/local_map.py [CELLS]
"""

from __future__ import annotations

import sys

import matplotlib.pyplot as plt
import numpy as np
from common import FIGURES, gradient_penalty, mlp, moons, train

import lipcert

BOX = lipcert.Box([-2.0, -1.5], [3.0, 2.0])


def main(cells: int = 24) -> None:
    x, y = moons()
    maps = {}
    for name, how in (("no regularisation", {}), ("gradient penalty", {"penalty": gradient_penalty(0.005)})):
        net = train(mlp(2, 100, 100, 100, 1), x[:100], y[:100], steps=150, **how)  # type: ignore[arg-type]
        grid = lipcert.local_grid(net, BOX, (cells, cells), rtol=0.05).summary["grid"]
        assert all(grid["closed"]), f"{name}: {grid['closed'].count(False)} cells are open"
        maps[name] = {end: np.array(grid[end]).reshape(cells, cells) for end in ("lower", "upper")}
    top = max(float(one["upper"].max()) for one in maps.values())
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    for axis, (name, one) in zip(axes, maps.items(), strict=True):
        drawn = axis.imshow(one["upper"].T, origin="lower", extent=(-2, 3, -1.5, 2), vmin=0, vmax=top, aspect="auto")
        axis.scatter(*x[:100].T, c=y[:100], cmap="gray", s=8)
        axis.set_title(f"{name}: L <= {one['upper'].max():.3g} in the box", fontsize=9)
    figure.colorbar(drawn, ax=axes)
    FIGURES.mkdir(exist_ok=True)
    figure.savefig(FIGURES / "local_map.png", dpi=110)
    free, penalised = maps.values()
    smoother = float((penalised["upper"] < free["lower"]).mean())
    print(f"smoother in {smoother:.0%} of the cells, certified")
    assert smoother >= 0.9
    assert penalised["upper"].max() < free["lower"].max()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 24)
