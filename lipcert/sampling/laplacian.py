"""Smoothness of the classes on a graph of features, layer by layer (Lassance et al. 2018, 2021; seed paper, section 3).

Samples are joined to their K nearest by the cosine of their features; with S the label indicators and L = D - A the
Laplacian, trace(S' L S) is the weight of the edges between classes: how far a layer has separated them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

NEIGHBOURS = 20
ROWS = 1024  # of the similarity matrix at once
ENTRIES = 2**27  # of the features of one layer: 1 GiB


def most_samples(size: int) -> int:
    """How many samples of a layer of this size are joined: memory is bounded."""
    return max(1, ENTRIES // max(1, size))


def smoothness(features: Tensor, labels: np.ndarray, neighbours: int = NEIGHBOURS) -> dict[str, Any]:
    """`between`: trace(S' L S), each edge once per ordered pair; `total`: weight of all edges; `ratio` of the two, 0 where
    neighbours have the same class, about 1 - sum of squared class shares where features know nothing of the classes."""
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    classes = torch.as_tensor(np.unique(labels, return_inverse=True)[1].reshape(-1))
    count = len(unit)
    k = min(neighbours, count - 1)
    if k < 1:
        return {"samples": count, "neighbours": 0, "between": 0.0, "total": 0.0, "ratio": None}
    rows, columns, weights = [], [], []
    for start in range(0, count, ROWS):
        cosine = unit[start : start + ROWS] @ unit.T
        here = torch.arange(start, start + len(cosine))
        cosine[torch.arange(len(cosine)), here] = -2.0  # nobody is a neighbour of itself
        top = cosine.clamp(min=-2.0).topk(k, dim=1)
        rows.append(here.repeat_interleave(k))
        columns.append(top.indices.reshape(-1))
        weights.append(top.values.reshape(-1).clamp(min=0.0))
    i, j, w = torch.cat(rows), torch.cat(columns), torch.cat(weights)
    # An edge that both ends chose is one edge: the symmetric graph is the union.
    low, high = torch.minimum(i, j), torch.maximum(i, j)
    key, first = np.unique((low * count + high).numpy(), return_index=True)
    w, low, high = w[first], torch.from_numpy(key // count), torch.from_numpy(key % count)
    across = classes[low] != classes[high]
    between, total = 2 * float(w[across].sum()), 2 * float(w.sum())
    ratio = between / total if total > 0 else None
    return {"samples": count, "neighbours": k, "between": between, "total": total, "ratio": ratio}
