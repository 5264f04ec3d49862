"""Files by way of the sandbox: the same graph as in this process, and nothing that a child says is trusted to be one."""

from __future__ import annotations

import copy
import gc
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lipcert import bound
from lipcert.load.capture.capture import capture, constants
from lipcert.load.flat import from_plain, to_plain
from lipcert.load.foreign import _judged, read_file
from lipcert.load.lower import lower
from lipcert.load.model import load
from lipcert.load.read import read
from lipcert.sandbox.child import Child
from lipcert.terms.errors import LipcertError, UnreadableError


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).eval()


def saved(folder: Path, kind: str) -> Path:
    module, x = net(), torch.zeros(1, 1, 4, 4)
    path = folder / f"net.{kind}"
    if kind == "pt":
        torch.jit.script(module).save(str(path))
    elif kind == "pt2":
        torch.export.save(torch.export.export(module, (x,)), path)
    else:
        torch.onnx.export(module, (x,), str(path), dynamo=False)
    return path


@pytest.mark.parametrize("kind", ["pt", "pt2", "onnx"])
def test_the_same_graph_comes_back(tmp_path, kind) -> None:
    path = saved(tmp_path, kind)
    here, there = capture(read(path, input_shape=(1, 1, 4, 4))), read_file(path, input_shape=(1, 1, 4, 4))
    assert there.fingerprint == here.fingerprint
    assert (
        lower(there.program, labels=there.labels)[0].fingerprint()
        == lower(here.program, labels=here.labels)[0].fingerprint()
    )
    assert [r.name for r in there.source.references] == [r.name for r in here.source.references]
    points = np.random.default_rng(0).standard_normal((2, 1, 1, 4, 4))
    for ours, theirs in zip(here.source.references, there.source.references, strict=True):
        assert np.allclose(ours.evaluate(points), theirs.evaluate(points), rtol=1e-5, atol=1e-6)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.register_buffer("rough", torch.ones(4, dtype=torch.bfloat16))
        self.register_buffer("mask", torch.tensor([True, False, True, False]))
        self.register_buffer("none", torch.empty(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.one(self.one(x)) * self.rough
        return torch.where(self.mask, y, y.chunk(2, -1)[0].sum()) + self.none.sum()


def test_shared_weights_stay_shared_and_every_dtype_survives() -> None:
    program = capture(read(Shared(), input_shape=(1, 4))).program
    held = constants(program)
    flat = from_plain(to_plain(program.graph, held))
    assert all(torch.equal(flat.constants[name], tensor) for name, tensor in held.items())
    assert len({t.data_ptr() for t in flat.constants.values() if t.numel()}) == len(
        {t.data_ptr() for t in held.values() if t.numel()}
    )


def test_the_child_is_gone_with_its_model(tmp_path) -> None:
    others = [thing for thing in gc.get_objects() if isinstance(thing, Child)]  # of models that other tests hold
    captured = read_file(saved(tmp_path, "pt"), input_shape=(1, 1, 4, 4))
    running = [thing for thing in gc.get_objects() if isinstance(thing, Child) and thing.status is None]
    (child,) = [thing for thing in running if all(thing is not other for other in others)]
    os.kill(child.pid, 0)
    del captured
    gc.collect()
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def lies(record: dict[str, Any]) -> dict[str, Any]:
    """A record with one lie each."""

    def at(*keys: Any, value: Any) -> dict[str, Any]:
        changed = copy.deepcopy(record)
        place = changed
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        return changed

    calls = [i for i, node in enumerate(record["program"]["nodes"]) if node["op"] == "call_function"]
    node = ("program", "nodes", calls[0])
    last = ("program", "nodes", len(record["program"]["nodes"]) - 1)
    tensor = ("program", "tensors", 0)
    targets = ["os.system", "aten.from_file.default", "aten.relu", "aten.relu.nothing", "aten.__class__.default", "builtins.eval", "",
               "aten.relu.default\n", "higher_order.cond", "getattr", "prims.__doc__.x", 3, None]  # fmt: skip
    found = {
        f"target {target!r}": at(*node, "target", value=target)
        for target in targets
        if target != "aten.from_file.default"
    }
    found |= {
        f"op {op!r}": at(*node, "op", value=op) for op in ("get_attr", "call_module", "call_method", "root", None)
    }
    found |= {
        f"name {name!r}": at(*node, "name", value=name) for name in ("a b", "", "__import__('os')", 3, "a\nb", "é")
    }
    found |= {f"argument {value!r}": at(*node, "args", value=[value]) for value in (
        {"node": 10**6}, {"node": -1}, {"node": "0"}, {"node": calls[0]}, {"dtype": "load"}, {"layout": "float32"}, {"eval": "1"},
        {"dtype": "os"}, {"a": 1, "b": 2}, {}, {"dtype": 3})}  # fmt: skip
    found |= {f"shape {value!r}": at(*node, "value", value=value) for value in (
        {"dtype": "float32", "shape": [-1]}, {"dtype": "float32", "shape": [2**70]}, {"dtype": "float32", "shape": ["1"]},
        {"dtype": "save", "shape": [1]}, {"shape": [1]}, "x", {"dtype": "float32", "shape": [True]})}  # fmt: skip
    found |= {f"tensor {key} {value!r}": at(*tensor, key, value=value) for key, value in (
        ("shape", [10**6]), ("shape", [0]), ("shape", [-2, -1]), ("dtype", "float64"), ("dtype", "os"), ("bytes", "x"), ("bytes", None),
        ("bytes", np.zeros(3)), ("bytes", np.zeros(3, np.uint8)))}  # fmt: skip
    found |= {
        "two names": at(*last, "name", value=record["program"]["nodes"][0]["name"]),
        "no nodes": at("program", "nodes", value=[]),
        "nodes of words": at("program", "nodes", value="abc"),
        "a constant elsewhere": at("program", "constants", value={record["program"]["nodes"][0]["name"]: 99}),
        "no program": at("program", value=None),
        "an example of no size": at("shape", value=[2**40, 2**40]),
        "an example of words": at("shape", value="x"),
        "another dtype": at("dtype", value="int64"),
        "another format": at("format", value="exe"),
        "a reference of words": at("references", value=["x"]),
        "a reference in no arithmetic": at("references", value=[["x", "int8", True, True]]),
        "warnings of numbers": at("warnings", value=[3]),
        "labels of numbers": at("labels", value={"a": 3}),
    }
    return found


def test_a_child_that_lies_is_refused() -> None:
    captured = capture(read(net(), input_shape=(1, 1, 4, 4)))
    from lipcert.load.foreign import _record

    record = _record(captured) | {"format": "onnx"}
    child = Child(dict)
    try:
        assert _judged(record, child).fingerprint == captured.fingerprint
    finally:
        child.close()
    for what, lie in lies(record).items():
        child = Child(dict)
        try:
            with pytest.raises(UnreadableError) as caught:
                _judged(lie, child)
            assert str(caught.value).isprintable(), what
        except BaseException as problem:
            raise AssertionError(what) from problem
        finally:
            child.close()


def test_nothing_is_waited_for_and_everything_is_one_line(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    begun = time.monotonic()
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "absent", Path("/dev/zero"), Path("/dev/null"), Path("a\0b")):
        with pytest.raises(UnreadableError) as caught:
            load(path)
        assert "\n" not in str(caught.value)
    assert time.monotonic() - begun < 300  # no end is in sight where one of them waits


def test_threads_may_load_and_bound_at_once(tmp_path) -> None:
    paths = [saved(tmp_path, kind) for kind in ("pt", "onnx")] * 2
    found: dict[int, Any] = {}

    def work(number: int) -> None:
        try:
            model = load(paths[number], input_shape=(1, 1, 4, 4))
            found[number] = bound(model, methods=["product"]).upper
        except LipcertError as problem:
            found[number] = problem

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(paths))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[2]
    assert found[1] == found[3]
    assert all(isinstance(value, float) for value in found.values())


def test_the_report_says_how_files_are_confined(tmp_path) -> None:
    from lipcert.sandbox.confine import described

    assert load(saved(tmp_path, "pt"), input_shape=(1, 1, 4, 4)).info["sandbox"] == described()
    assert load(net(), input_shape=(1, 1, 4, 4)).info["sandbox"] is None
