"""A device that is not the CPU, on the CPU: its tensors hold others, and refuse to be mixed with them, as on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "faraway"
CROSSING = ("aten::_to_copy", "aten::copy_", "aten::_local_scalar_dense", "aten::is_nonzero")
_ready: list[bool] = []


class Far(Tensor):
    """Its values are in `near`."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> Far:
        made = Tensor._make_wrapper_subclass(
            cls,
            near.shape,
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=f"{NAME}:0",
        )
        made.near = near
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return run(func, args, kwargs or {})


def run(func, args, kwargs):  # type: ignore[no-untyped-def]
    flat = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    far = any(isinstance(leaf, Far) for leaf in flat)
    place = kwargs.get("device")
    target = far if place is None else torch.device(place).type == NAME
    name = func._schema.name
    if far and name not in CROSSING and any(not isinstance(leaf, Far) and leaf.ndim for leaf in flat):
        raise RuntimeError(f"{name}: tensors of two devices")
    plain = tree_map(lambda leaf: leaf.near if isinstance(leaf, Far) else leaf, (args, kwargs))
    if place is not None:
        plain[1]["device"] = torch.device("cpu")
    found = func(*plain[0], **plain[1])
    written = {id(leaf.near): leaf for leaf in flat if isinstance(leaf, Far)}
    if name == "aten::_local_scalar_dense" or name == "aten::is_nonzero":
        return found

    def wrapped(leaf):  # type: ignore[no-untyped-def]
        if not isinstance(leaf, Tensor):
            return leaf
        return written[id(leaf)] if id(leaf) in written else Far(leaf) if target else leaf

    return tree_map(wrapped, found)


class _Ops(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return run(func, args, kwargs or {})


class _Lists(TorchFunctionMode):
    """torch.tensor and torch.as_tensor copy lists and numbers past the dispatcher."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = dict(kwargs or {})
        made = func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor)
        if made and torch.device(kwargs.get("device") or "cpu").type == NAME:
            return func(*args, **{**kwargs, "device": "cpu"}).to(NAME)
        return func(*args, **kwargs)


@contextmanager
def visible() -> Iterator[None]:
    """Inside, tensors can be made there."""
    with _Ops(), _Lists():
        yield


def device() -> str:
    if not _ready:
        _setup_privateuseone_for_python_backend(NAME)
        _ready.append(True)
    return NAME
