"""Subnormal numbers survive torch.set_flush_denormal(True), in this thread and in those that torch shares work with."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import lipcert
from lipcert.operators.conv_norm import ConvGeometry, conv_norm_upper
from lipcert.rigor import matrix_norms as norms
from lipcert.rigor import rounding
from lipcert.rigor.rounding import gradual_underflow, subnormals_kept

TINY = 1e-310  # subnormal


@pytest.fixture
def flushed() -> Iterator[None]:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def test_the_probe_sees_it(flushed: None) -> None:
    assert subnormals_kept() == (False, False)
    with gradual_underflow():
        assert subnormals_kept() == (True, True)
        with gradual_underflow():
            assert subnormals_kept() == (True, True)
        assert subnormals_kept() == (True, True)
    assert subnormals_kept() == (False, False)  # the caller's setting is back


def test_without_flushing_nothing_changes() -> None:
    assert subnormals_kept() == (True, True)
    with pytest.raises(ValueError, match="inside"), gradual_underflow():
        raise ValueError("inside")
    assert subnormals_kept() == (True, True)


@pytest.mark.parametrize("pair", [("1", "1"), ("2", "2"), ("inf", "inf"), ("1", "2"), ("inf", "2"), ("inf", "1")])
def test_norms_of_subnormal_weights(pair: tuple[str, str], flushed: None) -> None:
    weight = torch.full((3, 3), 2**40, dtype=torch.int64).view(torch.float64)  # 2^-1034, made of bits
    value = norms.matrix_norm_upper(weight[None], None, *pair) if weight.dim() == 3 else norms.matrix_norm_upper(weight, None, *pair)  # type: ignore[arg-type]  # fmt: skip
    kernel = weight[None, None]
    conv = conv_norm_upper(kernel, None, ConvGeometry((5, 5), (1, 1), ((0, 0), (0, 0)), (1, 1), 1), *pair)  # type: ignore[arg-type]
    torch.set_flush_denormal(False)
    assert value >= 2.0**-1034
    assert conv >= 2.0**-1034


def test_bounds_in_a_thread_that_flushes() -> None:
    module = nn.Sequential(nn.Linear(2, 2, dtype=torch.float64))
    module[0].weight.data = torch.tensor([[TINY, 0.0], [0.0, TINY]], dtype=torch.float64)
    found: list[float | None] = []

    def work() -> None:
        torch.set_flush_denormal(True)
        report = lipcert.bound(lipcert.load(module, input_shape=torch.zeros(1, 2, dtype=torch.float64)))
        found.append(report.upper)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0] is not None
    assert found[0] >= TINY


def test_workers_that_flush_are_not_used() -> None:
    """Threads that torch starts while the flag is set inherit it, and keep it."""
    code = """
import torch
torch.set_num_threads(4)
if torch.set_flush_denormal(True):
    (torch.ones(10**6) + 1).sum()
    torch.set_flush_denormal(False)
    from lipcert.rigor.rounding import gradual_underflow, subnormals_kept
    here, everywhere = subnormals_kept()
    assert here
    with gradual_underflow():
        assert subnormals_kept() == (True, True)
        assert everywhere or torch.get_num_threads() == 1
    assert torch.get_num_threads() == 4
    print("inherited" if not everywhere else "clean")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split()[0] in ("inherited", "clean") if result.stdout else True


def test_where_it_cannot_be_turned_off_nothing_is_proved(flushed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "subnormals_kept", lambda: (False, False))
    with pytest.raises(ArithmeticError, match="no proof holds"):
        norms.matrix_norm_upper(torch.eye(2, dtype=torch.float64), None, "2", "2")
