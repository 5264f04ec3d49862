"""The optional second reader: same numbers where it can convert, clear words where it cannot."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch
from conftest import FOOTPRINTS

from lipcert.load.onnx.from_onnx import read_onnx
from lipcert.terms.errors import RefusedModel, UsageError

installed = pytest.mark.skipif(
    importlib.util.find_spec("onnx2torch") is None, reason="the extra lipcert[onnx2torch] is not installed"
)


@installed
@pytest.mark.parametrize("name", ["mnist_fc_256x2.onnx", "cifar10_resnet_2b.onnx", "eran_ffnnSIGMOID_6x200.onnx"])
def test_both_readers_agree(name: str, shared: Path) -> None:
    own = read_onnx(shared / "models" / name)
    other = read_onnx(shared / "models" / name, reader="onnx2torch")
    assert not other.module.training
    x = torch.randn_like(own.example)
    assert torch.allclose(own.module(x), other.module(x), rtol=1e-12, atol=1e-12)
    torch.export.export(other.module, (other.example,), strict=False)


@installed
def test_a_crafted_name_does_not_run(shared: Path) -> None:
    source = read_onnx(shared / "bad" / "78_name_injection.onnx", reader="onnx2torch")
    source.module(source.example)
    assert not any(os.path.exists(footprint) for footprint in FOOTPRINTS)


@installed
def test_what_it_cannot_convert_is_refused(shared: Path) -> None:
    with pytest.raises(RefusedModel, match="onnx2torch cannot convert"):
        read_onnx(shared / "models" / "cnn_C3_CH8.onnx", reader="onnx2torch")


def test_missing_package_is_a_usage_error(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    with pytest.raises(UsageError, match=r"lipcert\[onnx2torch\]"):
        read_onnx(shared / "bad" / "00_good_mlp.onnx", reader="onnx2torch")
