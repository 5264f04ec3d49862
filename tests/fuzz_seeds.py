"""Small honest files of each format of models, from which mutants are made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

SHAPE = (1, 4)
IMAGE = (1, 2, 4, 4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x)) + 1.0)


class Loop(nn.Module):
    """Lists, a loop, an optional, a branch on an attribute, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.scales = [0.5, 2.0]
        self.residual = True
        self.register_buffer("shift", torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, layer in enumerate(self.layers):
            h = torch.tanh(layer(x)) * self.scales[i]
            if self.residual:
                h = h + x
            x = h + self.shift
        return x


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 2)
    )


def nets() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"mlp": Net().eval(), "loop": Loop().eval(), "conv": conv().eval()}


def example(name: str) -> torch.Tensor:
    return torch.zeros(IMAGE if name == "conv" else SHAPE)


def pt_files(models: dict[str, nn.Module], folder: Path) -> tuple[dict[str, bytes], ...]:
    files = []
    for name, net in models.items():
        path = folder / f"{name}.pt"
        torch.jit.script(net).save(str(path))
        files.append({path.name: path.read_bytes()})
    traced = folder / "traced.pt"
    torch.jit.trace(models["mlp"], example("mlp")).save(str(traced))
    return (*files, {traced.name: traced.read_bytes()})


def pt2_files(models: dict[str, nn.Module], folder: Path) -> tuple[dict[str, bytes], ...]:
    files = []
    for name, net in models.items():
        path = folder / f"{name}.pt2"
        torch.export.save(torch.export.export(net, (example(name),)), path)
        files.append({path.name: path.read_bytes()})
    dynamic = folder / "dynamic.pt2"
    batch = torch.export.Dim("batch", min=1, max=64)
    torch.export.save(torch.export.export(models["mlp"], (torch.zeros(3, 4),), dynamic_shapes=({0: batch},)), dynamic)
    return (*files, {dynamic.name: dynamic.read_bytes()})


def onnx_files() -> tuple[dict[str, bytes], ...]:
    return ({"mlp.onnx": _mlp()}, {"conv.onnx": _conv()}, {"function.onnx": _function()})


def external_files() -> tuple[dict[str, bytes], ...]:
    """Two tensors in one file beside the model."""
    import onnx

    model = onnx.ModelProto.FromString(_mlp())
    data = b""
    for tensor in model.graph.initializer:
        place = {"location": "weights.bin", "offset": str(len(data)), "length": str(len(tensor.raw_data))}
        data += tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
    return ({"mutant.onnx": model.SerializeToString(), "weights.bin": data},)


def _weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def _mlp() -> bytes:
    from onnx import helper

    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1, alpha=0.5),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    return _model(nodes, (1, 4), (1, 2), {"w": _weights(6, 4), "b": _weights(6), "v": _weights(6, 2)})


def _conv() -> bytes:
    from onnx import helper

    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c", "s", "s", "z", "s"], ["n"]),
        helper.make_node("LeakyRelu", ["n"], ["r"], alpha=0.1),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[1, 1]),
        helper.make_node("Reshape", ["p", "shape"], ["y"]),
    ]
    weights = {"w": _weights(3, 2, 3, 3), "s": np.ones(3, np.float32), "z": np.zeros(3, np.float32)}
    return _model(nodes, IMAGE, (1, 3), weights | {"shape": np.array([1, -1])})


def _function() -> bytes:
    import onnx
    from onnx import helper

    inner = [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["s", "k"], ["m"])]
    inner.insert(1, helper.make_node("Constant", [], ["k"], value_float=2.0))
    function = helper.make_function("own", "Gate", ["a"], ["m"], inner, [helper.make_opsetid("", 17)])
    nodes = [helper.make_node("Gate", ["x"], ["g"], domain="own"), helper.make_node("Add", ["g", "x"], ["y"])]
    model = onnx.ModelProto.FromString(_model(nodes, (1, 4), (1, 4), {}))
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model.SerializeToString()


def _model(nodes: list, given: tuple[int, ...], made: tuple[int, ...], weights: dict[str, np.ndarray]) -> bytes:  # type: ignore[type-arg]
    from onnx import TensorProto, helper, numpy_helper

    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", given), ("y", made)))
    held = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
