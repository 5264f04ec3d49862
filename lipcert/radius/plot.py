"""Certified accuracy against eps with the attack's curve, and the histogram of radii."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lipcert.errors import UsageError

BINS = 30
CERTIFIED, ATTACKED = "#2166ac", "#b2182b"


def accuracy_curve(points: Sequence[Mapping[str, Any]], norm: str, path: str | Path, title: str = "") -> None:
    """One page of two panels. UsageError without matplotlib or points."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(f"--plot {path}: needs matplotlib: pip install 'lipcert[plots]'") from error
    if not points:
        raise UsageError(f"--plot {path}: there are no samples")
    radii = np.array([point["radius"] for point in points])
    attacked = [point["attacked"] for point in points]
    right = np.array([point["status"] in ("certified", "not certified") for point in points])
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    curve, histogram = figure.subplots(1, 2)
    found = np.array([np.inf if d is None else d for d in attacked])
    finite = found[np.isfinite(found) & right]
    end = float(np.quantile(finite, 0.9)) if len(finite) else float(radii.max()) * 1.1
    end = end or 1.0
    at = np.linspace(0.0, end, 400)
    certified = [float(((radii >= e) & (radii > 0)).mean()) for e in at]
    curve.plot(at, certified, color=CERTIFIED, label="certified")
    if any(d is not None for d in attacked):
        survived = [float((right & (found > e)).mean()) for e in at]
        curve.plot(at, survived, color=ATTACKED, label="under attack")
        curve.fill_between(at, certified, survived, color="0.88", label="not known")
    curve.set(xlabel=f"eps (l{norm})", ylabel="share of samples", xlim=(0, end), ylim=(0, 1.02))
    curve.grid(alpha=0.3)
    curve.legend(frameon=False)
    shown = radii[radii > 0]
    if len(shown):
        histogram.hist(shown, bins=BINS, color=CERTIFIED)
        histogram.axvline(float(np.median(shown)), color="0.2", linewidth=1, linestyle="--")
    histogram.set(
        xlabel=f"certified radius (l{norm})", ylabel="samples", title=f"{len(shown)} of {len(radii)} certified"
    )
    histogram.locator_params(axis="x", nbins=6)
    figure.suptitle(title, fontsize=10)
    for side in ("top", "right"):
        curve.spines[side].set_visible(False)
        histogram.spines[side].set_visible(False)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise UsageError(f"--plot {path}: cannot write it: {error}") from error
