"""DATA arguments and regions of the command line: `.npz` with `x` (and `y`), `.npy`, `.csv`; --box, --at, --eps.

uint8 images are scaled to [0, 1]. Arrays are reshaped or transposed to the model's input only where that is
unambiguous. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import math
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from lipcert.errors import UnreadableError, UsageError
from lipcert.query import Ball, Box, Norm, Region

if TYPE_CHECKING:
    from lipcert.pipeline import Model


@dataclass(frozen=True, eq=False)
class Data:
    """x: (k, *input_shape) float64 in the model's input layout; y: (k,) labels or None. `scaled`: uint8 to [0, 1]."""

    x: np.ndarray
    y: np.ndarray | None
    scaled: bool = False


def fingerprint(*arrays: np.ndarray | None) -> str:
    """sha256 of values, shapes and dtypes: a resumed report must be about the very same data."""
    found = hashlib.sha256()
    for array in arrays:
        if array is not None:
            given = np.ascontiguousarray(array)
            found.update(f"{given.dtype.str}{given.shape}".encode())
            found.update(given.data if given.size else b"")
    return found.hexdigest()


def read_data(path: str | Path, shape: tuple[int, ...], *, raw: bool = False) -> Data:
    """Read DATA for a model of the given input shape. Raises UnreadableError or UsageError."""
    path = Path(path)
    if not path.is_file():
        raise UnreadableError(f"{path}: no such data file")
    try:
        x, y = _arrays(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UnreadableError(
            f"{path}: cannot be read as data ({error}); give .npz with x (and y), .npy or .csv"
        ) from error
    if x.dtype.kind not in "fiub":
        raise UnreadableError(f"{path}: x has dtype {x.dtype}; numbers are needed")
    scaled = x.dtype == np.uint8 and not raw
    if scaled:
        print(f"{path.name}: uint8 values scaled to [0, 1] (--raw leaves them)", file=sys.stderr)
        x = x.astype(np.float64) / 255.0
    x = _fitted(x.astype(np.float64), shape, path)
    if not np.isfinite(x).all():
        bad = int(np.argwhere(~np.isfinite(x).reshape(len(x), -1).all(axis=1))[0, 0])
        raise UnreadableError(f"{path}: sample {bad} holds NaN or infinity")
    if y is not None and len(y) != len(x):
        raise UnreadableError(f"{path}: {len(x)} samples but {len(y)} labels")
    return Data(x, y, scaled)


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    if path.suffix == ".npz":
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("not an .npz archive")
        with archive:
            if "x" not in archive:
                raise KeyError(f"no array x; it has {', '.join(archive.files) or 'none'}")
            return archive["x"], archive.get("y", None)
    if path.suffix == ".npy":
        array = np.load(path, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("not an .npy array")
        return array, None
    if path.suffix == ".csv":
        return np.loadtxt(path, delimiter=",", ndmin=2), None
    raise ValueError(f"unknown ending {path.suffix!r}")


def _fitted(x: np.ndarray, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """(k, *shape): one unambiguous reading of the array, or an error."""
    size = math.prod(shape)
    core = tuple(n for n in shape if n != 1)
    if (x.shape == shape and x.shape[0] == 1) or (
        x.size == size and (x.ndim == 0 or (x.shape[0] != 1 and tuple(n for n in x.shape if n != 1) == core))
    ):
        return x.reshape(1, *shape)
    if x.ndim == 0 or x.shape[0] == 0 or x.size != x.shape[0] * size:
        raise UsageError(f"{path}: samples of shape {x.shape[1:]} do not fit the model's input {shape}")
    inner = tuple(n for n in x.shape[1:] if n != 1)
    if (
        inner == core or len(inner) == 1 or (len(core) == 1 and len(inner) == 2)
    ):  # a flat image of colours: which order?
        return x.reshape(len(x), *shape)
    # images: channels last <-> channels first
    for turned in (np.moveaxis(x, -1, 1), np.moveaxis(x, 1, -1)):
        if turned.shape[1:] in (shape, shape[1:]):
            return np.ascontiguousarray(turned).reshape(len(x), *shape)
    raise UsageError(f"{path}: samples of shape {x.shape[1:]} do not fit the model's input {shape}")


def parse_region(
    model: Model,
    *,
    box: str | None = None,
    at: str | None = None,
    eps: float | None = None,
    ball_norm: str | None = None,
) -> Region:
    """--box LO:HI[,LO:HI...] (one interval for all coordinates, or one each); --at DATA[#INDEX] --eps E --ball-norm P."""
    size = math.prod(model.input_shape)
    if box is not None and at is not None:
        raise UsageError("--box and --at: give one region")
    if box is not None:
        table = torch.tensor(intervals(box, size), dtype=torch.float64)
        return Box(table[:, 0].reshape(model.input_shape), table[:, 1].reshape(model.input_shape))
    if at is None:
        return None
    if eps is None or not (math.isfinite(eps) and eps >= 0):
        raise UsageError("--at: give the radius of the ball with --eps, finite and not negative")
    norm = Norm.parse(ball_norm or "2").input
    path, mark, place = at.rpartition("#")
    path, place = (path, place) if mark else (at, "0")
    if not place.isdigit():
        raise UsageError(f"--at {at}: the part after # is the number of a sample")
    x = read_data(path, model.input_shape).x
    if int(place) >= len(x):
        raise UsageError(f"--at {at}: the file has {len(x)} samples, counted from 0")
    return Ball(torch.from_numpy(x[int(place)].copy()), eps, norm)


def intervals(box: str, size: int) -> list[tuple[float, float]]:
    """One per input of LO:HI[,LO:HI...]; a single one holds for all."""
    ends = [_interval(part) for part in box.split(",")]
    if len(ends) not in (1, size):
        raise UsageError(f"--box: {len(ends)} intervals for {size} inputs; give 1 (for all) or {size}")
    return ends * (size if len(ends) == 1 else 1)


def _interval(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise UsageError(f"--box {text}: write intervals as LO:HI, e.g. --box=-2:3,-1.5:2") from None
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise UsageError(f"--box {text}: LO <= HI, both finite")
    return low, high
