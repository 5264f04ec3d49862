"""DATA arguments and regions of the command line: `.npz` with `x` (and `y`), `.npy`, `.csv`; --box, --at, --eps.

uint8 images are scaled to [0, 1]. Arrays are reshaped or transposed to the model's input only where that is
unambiguous. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lipcert.terms.errors import UnreadableError, UsageError
from lipcert.terms.files import check_regular, reason
from lipcert.terms.printable import printable
from lipcert.terms.query import Ball, Box, Norm, Region

if TYPE_CHECKING:
    from lipcert.load.model import Model

Inputs = Sequence[Mapping[str, Any]]  # {"name", "shape"} of each part of x, in order
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
COPIES = 3  # of the data in float64 while they are read


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


def read_data(
    path: str | Path, shape: tuple[int, ...], *, inputs: Inputs = (), raw: bool = False, gaps: bool = False
) -> Data:
    """Read DATA for a model of the given input shape: a file, or a number, which stands for one sample with this number in
    all entries. `inputs`: what x consists of (`Model.inputs`); an .npz without `x` may have an array for each, by their
    names. `gaps`: samples that hold NaN or infinity are left in.

    Raises UnreadableError or UsageError.
    """
    path = Path(path)
    if not os.path.lexists(path) and is_number(str(path)):
        return Data(np.full((1, *shape), float(str(path))), None)
    if not os.path.lexists(path):
        raise UnreadableError(f"{path}: no such data file")
    check_regular(path, str(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some quote the file
            x, y = _arrays(path, inputs)
    except (Exception, MemoryError) as error:  # zip, zlib, lzma, numpy and Python's own parser all have their own
        said = printable(reason(error))[:200]
        raise UnreadableError(
            f"{path}: cannot be read as data ({said}); give .npz with x (and y), .npy or .csv"
        ) from error
    if x.dtype.kind not in "fiub":
        raise UnreadableError(f"{path}: x has dtype {x.dtype}; numbers are needed")
    scaled = x.dtype == np.uint8 and not raw
    if scaled:
        print(f"{printable(path.name)}: uint8 values scaled to [0, 1] (--raw leaves them)", file=sys.stderr)
        x = x.astype(np.float64) / 255.0
    with np.errstate(over="ignore"):  # a long double beyond float64 is infinity, and refused as that
        x = _fitted(x.astype(np.float64), shape, path)
    missing = ~np.isfinite(x).reshape(len(x), -1).all(axis=1)
    if missing.any() and not gaps:
        raise UnreadableError(f"{path}: sample {int(missing.argmax())} holds NaN or infinity")
    return Data(x, None if y is None else _labels(y, len(x), path), scaled)


def is_number(text: str) -> bool:
    """Of a DATA argument that names no file."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _labels(y: np.ndarray, count: int, path: Path) -> np.ndarray:
    """One per sample: numbers or names. Which numbers make sense is the command's to say."""
    if y.ndim == 0:
        raise UnreadableError(f"{path}: y is a single value; one label per sample is needed")
    if y.dtype.kind not in "biufU":
        raise UnreadableError(f"{path}: y has dtype {y.dtype}; whole numbers or names are needed")
    if len(y) != count:
        raise UnreadableError(f"{path}: {count} samples but {len(y)} labels")
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        place = int((~np.isfinite(y).reshape(count, -1).all(axis=1)).argmax())
        raise UnreadableError(f"{path}: the label of sample {place} is NaN or infinity")
    return y


def _arrays(path: Path, inputs: Inputs = ()) -> tuple[np.ndarray, np.ndarray | None]:
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            held = {name.removesuffix(".npy") for name in archive.namelist()}
            parts = {one["name"]: tuple(one["shape"]) for one in inputs}
            named = "x" not in held and parts and parts.keys() <= held
            x = (
                _joined(path, {name: _member(archive, name) for name in parts}, parts)
                if named
                else _member(archive, "x")
            )
            labels = "y" in held and not (named and "y" in parts)
            return x, _member(archive, "y") if labels else None
    if path.suffix == ".npy":
        with path.open("rb") as stream:
            return _array(stream, path.stat().st_size), None
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig") as text:
            return np.loadtxt(text, delimiter=",", ndmin=2), None
    raise ValueError(f"unknown ending {path.suffix!r}")


def _joined(path: Path, arrays: dict[str, np.ndarray], parts: dict[str, tuple[int, ...]]) -> np.ndarray:
    """(k, size) of an array (k, ..) for each part, one after another."""
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    if len({array.dtype == np.uint8 for array in arrays.values()}) > 1:
        raise ValueError("some of its arrays are uint8, which is scaled to [0, 1]: store floats")
    rows = [_fitted(array, parts[name], path).reshape(-1, math.prod(parts[name])) for name, array in arrays.items()]
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"as many samples in each array are needed, not {', '.join(str(len(row)) for row in rows)}")
    return np.concatenate(rows, axis=1)


def read_array(path: str | Path) -> np.ndarray:
    """One array of numbers of an .npy or .csv file (or `x` of an .npz). UnreadableError."""
    file = Path(path)
    check_regular(file, str(path))
    try:
        found, _ = _arrays(file)
    except (Exception, MemoryError) as error:  # as in `read_data`
        said = printable(reason(error))[:200]
        raise UnreadableError(f"{path}: cannot be read as an array ({said}); give .npy or .csv") from error
    if found.dtype.kind not in "fiub":
        raise UnreadableError(f"{path}: numbers are needed, not {found.dtype}")
    return found


def read_held(text: str) -> np.ndarray:
    """The array of FILE.npy, FILE.csv or FILE.npz (its `x`); FILE.npz#KEY: of that name; FILE#K: its entry K."""
    path, mark, place = text.rpartition("#")
    path = path if mark else text
    if not mark or place.isdigit():
        found = read_array(path)
        if mark and not (found.ndim and int(place) < len(found)):
            raise UsageError(f"--fix {text}: the file has {len(found) if found.ndim else 0} samples, counted from 0")
        return found[int(place)] if mark else found
    check_regular(Path(path), path)
    try:
        with zipfile.ZipFile(path) as archive:
            found = _member(archive, place)
    except (Exception, MemoryError) as error:  # as in `read_data`
        said = printable(reason(error))[:200]
        raise UnreadableError(f"{path}: cannot be read as an array ({said}); give FILE.npz#NAME, or .npy") from error
    if found.dtype.kind not in "fiub":
        raise UnreadableError(f"{path}: numbers are needed, not {found.dtype}")
    return found


def _member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    found = [info for info in archive.infolist() if info.filename == f"{name}.npy"]
    if not found:
        held = ", ".join(info.filename.removesuffix(".npy") for info in archive.infolist())
        raise ValueError(f"no array {name}; it has {held or 'none'}")
    if len(found) > 1:
        raise ValueError(f"two arrays {name}")
    if found[0].flag_bits & 1:
        raise ValueError("it is encrypted")
    with archive.open(found[0]) as stream:
        return _array(stream, found[0].file_size)  # type: ignore[arg-type]


def _array(stream: BufferedIOBase, size: int) -> np.ndarray:
    """An array in numpy's format whose header asks for what is stored, and for no more than fits in memory."""
    version = np.lib.format.read_magic(stream)
    if version not in HEADERS:
        raise ValueError(f"version {version} of numpy's format is for structured arrays; numbers are needed")
    shape, _, dtype = HEADERS[version](stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not unpickled")
    asked, stored = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if min(shape, default=1) < 0 or asked != stored:
        raise ValueError(f"its header asks for {asked} bytes, and {stored} are stored")
    if COPIES * math.prod(shape) * max(8, dtype.itemsize) > _memory():
        raise ValueError(f"{asked} bytes are more than this machine holds: split the file")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


def _memory() -> float:
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return math.inf


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
    x = read_data(path, model.input_shape, inputs=model.inputs).x
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
