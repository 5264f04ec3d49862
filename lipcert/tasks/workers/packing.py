"""Work of a task as bytes, for other processes: graphs, norms, regions. Both ends are the same version of lipcert."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from lipcert.activations import ACTIVATIONS, Activation


class _Packer(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        """Rows of the table of activations hold functions without a name; they are sent as the row's name."""
        if isinstance(value, Activation) and ACTIVATIONS.get(value.name) is value:
            return named, (value.name,)
        return NotImplemented


def named(row: str) -> Activation:
    return ACTIVATIONS[row]


def packed(work: Any) -> bytes:
    stream = io.BytesIO()
    _Packer(stream, protocol=5).dump(work)
    return stream.getvalue()


def aligned(what: Any) -> Any:
    """What a shard is told, its arrays where numbers belong: Dask hands them over in the middle of its messages, and where they begin
    at odd bytes a product of matrices is added up in another order, so that reports differ in their last digits."""
    if isinstance(what, np.ndarray):
        return np.require(what, requirements="A")
    return tuple(map(aligned, what)) if type(what) is tuple else what


def unpacked(data: bytes) -> Any:
    """Only of bytes that a client of this very run has sent: what is unpickled runs."""
    return pickle.loads(data)
