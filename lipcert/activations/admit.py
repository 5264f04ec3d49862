"""Reasons to refuse parameters, as texts (None: admitted)."""

from __future__ import annotations

from torch import Tensor

from lipcert.activations.curve import real


def positive(**params: float | Tensor) -> str | None:
    for name, value in params.items():
        if not bool((real(value) > 0).all()):
            return f"{name} must be positive, got {value}"
    return None


def not_negative(**params: float | Tensor) -> str | None:
    for name, value in params.items():
        if not bool((real(value) >= 0).all()):
            return f"{name} must not be negative, got {value}"
    return None


def nonzero(**params: float | Tensor) -> str | None:
    for name, value in params.items():
        if bool((real(value) == 0).any()):
            return f"{name} must not be zero, got {value}"
    return None


def finite(**params: float | Tensor) -> str | None:
    for name, value in params.items():
        if not bool(real(value).isfinite().all()):
            return f"{name} must be finite, got {value}"
    return None


def moderate(**params: float | Tensor) -> str | None:
    """0, or a size within 1e-30 .. 1e30: outside, underflow could exceed the slack TINY of `curve.enclose`."""
    for name, value in params.items():
        size = real(value).abs()
        if not bool(((size == 0) | ((size >= 1e-30) & (size <= 1e30))).all()):
            return f"{name} must be 0 or of a size within 1e-30 .. 1e30, got {value}"
    return None
