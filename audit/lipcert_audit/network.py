"""From the ONNX file to linear maps between the input, the nonlinearities and the output.

Only increments matter: for two inputs x, x' every tensor of the file changes by a sum of linear maps of *sources*, the
change of x (source 0) and those of the nonlinearities in the order of the file. Constants drop out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
from onnx import numpy_helper

from lipcert_audit.exact import Map, constantly, diagonal, identity, integers, quotients, stacked, total

SLOPE = 64  # slopes are kept in units of 2^-64, rounded outward
TERMS = 20_000_000  # coefficients of one operator
FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}
WHOLE = {onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL}
OPSETS = range(6, 23)


class Refused(Exception):
    """The file says something that this program does not know."""


class Unreadable(Exception):
    """A file that is no certificate, or no model."""


def refuse(what: str) -> NoReturn:
    raise Refused(what)


@dataclass(frozen=True)
class Signal:
    """The change of a tensor: `maps[k]` from source k to its entries in row-major order."""

    maps: dict[int, Map]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=int))

    def index(self) -> np.ndarray:
        return np.arange(self.size).reshape(self.shape)

    def take(self, index: np.ndarray) -> Signal:
        """The tensor of the entries at `index`, an array of positions; -1 is a constant entry."""
        return Signal({k: m.take(index.ravel()) for k, m in self.maps.items()}, index.shape)

    def times(self, by: Map) -> Signal:
        return Signal({k: m.times(by) for k, m in self.maps.items()}, self.shape)

    def through(self, operator: Map, shape: tuple[int, ...]) -> Signal:
        return Signal({k: operator.after(m) for k, m in self.maps.items()}, shape)


Value = Signal | np.ndarray


def added(signals: list[Signal]) -> Signal:
    """The sum of tensors of one shape."""
    sources = sorted({k for s in signals for k in s.maps})
    return Signal({k: total([s.maps[k] for s in signals if k in s.maps]) for k in sources}, signals[0].shape)


def joined(signals: list[Signal]) -> Signal:
    """All entries one after the other."""
    size = {k: m.cols for s in signals for k, m in s.maps.items()}
    none = np.zeros(0, dtype=np.int64)
    maps = {}
    for k, n in sorted(size.items()):
        maps[k] = stacked([s.maps.get(k, Map(s.size, n, none, none, none.astype(object))) for s in signals])
    return Signal(maps, (sum(s.size for s in signals),))


@dataclass(frozen=True)
class Layer:
    """z = phi(v), one nonlinearity of the file or one round of a maximum. `kind` says which constraint its entries obey:

    pointwise   (z_i - low_i v_i) (high_i v_i - z_i) >= 0 for every entry
    rows        the same summed over each row (`windows`: positions), with slopes 0 and 1/2: softmax
    maximum     z_i is the largest v at `windows[i]` (-1: none)
    """

    name: str
    kind: str
    read: Signal
    shape: tuple[int, ...]
    low: np.ndarray  # per entry, in units of 2^-64
    high: np.ndarray
    windows: np.ndarray


class Network:
    """Collects the nonlinearities while a file is read. A subclass per proof says how a nonlinearity is taken apart."""

    def __init__(self, size: int, asked: Any = None):
        self.layers: list[Layer] = []
        self.sizes = [size]

    def source(self, shape: tuple[int, ...]) -> Signal:
        n = int(np.prod(shape, dtype=int))
        self.sizes.append(n)
        return Signal({len(self.sizes) - 1: identity(n)}, shape)

    def apply(self, layer: Layer) -> Signal:
        """The change of z."""
        raise NotImplementedError


@dataclass
class Node:
    """One node of the file with its attributes checked and its inputs evaluated (None where one is left out)."""

    name: str
    kind: str
    opset: int
    inputs: list[Value | None]
    attributes: dict[str, Any]
    network: Network

    def __getitem__(self, name: str) -> Any:
        return self.attributes[name]

    def refuse(self, what: str) -> NoReturn:
        refuse(f"{self.kind} {self.name!r}: {what}")

    def signal(self, k: int = 0) -> Signal:
        value = self.inputs[k]
        return value if isinstance(value, Signal) else self.refuse(f"input {k} is a constant")

    def constant(self, k: int) -> np.ndarray:
        value = self.inputs[k]
        return value if isinstance(value, np.ndarray) else self.refuse(f"input {k} must be a constant")

    def optional(self, k: int, other: Any = None) -> Any:
        """The constant at input k as a list, `other` where it is left out."""
        return self.constant(k).tolist() if k < len(self.inputs) and self.inputs[k] is not None else other

    def pointwise(self, low: Any, high: Any) -> Signal:
        """An elementwise function with slopes in [low, high]: fractions, or arrays of them."""
        read = self.signal()
        low, high = (np.broadcast_to(np.asarray(side, dtype=object), read.shape).ravel() for side in (low, high))
        low = np.array([floor(v * 2**SLOPE) for v in low], dtype=object)
        high = np.array([ceil(v * 2**SLOPE) for v in high], dtype=object)
        return self.network.apply(Layer(self.name, "pointwise", read, read.shape, low, high, read.index().reshape(-1, 1)))


Rule = Callable[[Node], Value]
Table = dict[str, tuple[Rule, dict[str, Any]]]  # rule, and every attribute that is known with its default


@dataclass(frozen=True)
class Question:
    """What a certificate is about, as far as reading the file goes."""

    input_name: str
    output_name: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    functional: str


def contents(path: Path) -> bytes:
    """Of a regular file: a pipe would be waited for."""
    try:
        if not path.is_file():
            raise OSError(0, "no such file, or not a regular one")
        return path.read_bytes()
    except OSError as problem:
        raise Unreadable(f"{path}: {problem.strerror}") from problem


def load(path: Path) -> tuple[onnx.ModelProto, str]:
    """(the model with its external data, sha256 of the file)."""
    data = contents(path)
    try:
        model = onnx.load_model_from_string(data)
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))  # nothing outside this folder
        sort(model.graph)
        onnx.checker.check_model(model)
    except Exception as problem:
        raise Unreadable(f"{path}: {' '.join(str(problem).split())[:300]}") from problem
    return model, hashlib.sha256(data).hexdigest()


def sort(graph: onnx.GraphProto) -> None:
    """Each time the first node of the file whose inputs are known: the order of nonlinearities."""
    known, waiting, sorted_ = {"", *(t.name for t in graph.initializer), *(i.name for i in graph.input)}, list(graph.node), []
    while waiting:
        node = next((n for n in waiting if known.issuperset(n.input)), None)
        if node is None:
            raise ValueError(f"{waiting[0].op_type} {waiting[0].name!r} needs what nothing gives")
        waiting.remove(node)
        known |= set(node.output)
        sorted_.append(node)
    del graph.node[:]
    graph.node.extend(sorted_)


def read(model: onnx.ModelProto, asked: Question, network: Network, table: Table) -> Signal:
    """The change of the output functional; the nonlinearities are in `network`."""
    graph, opsets = model.graph, {o.domain: o.version for o in model.opset_import}
    if opsets.get("", 0) not in OPSETS or model.functions or graph.sparse_initializer:
        refuse(f"operator sets {opsets}, functions or sparse tensors: known is ai.onnx {OPSETS.start} to {OPSETS.stop - 1}")
    values: dict[str, Value] = {t.name: tensor(t) for t in graph.initializer}
    inputs = [i for i in graph.input if i.name not in values]
    if [i.name for i in inputs] != [asked.input_name] or inputs[0].type.tensor_type.elem_type not in FLOATS:
        refuse(f"inputs {[i.name for i in inputs]}: the certificate is about one of floats, {asked.input_name!r}")
    sizes = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim]
    if len(sizes) != len(asked.input_shape) or any(d not in (0, s) for d, s in zip(sizes, asked.input_shape, strict=True)):
        refuse(f"the input has shape {sizes} in the file, {list(asked.input_shape)} in the certificate")
    values[asked.input_name] = units(Signal({0: identity(network.sizes[0])}, asked.input_shape), asked)
    for node in needed(graph, asked.output_name):
        values[node.output[0]] = evaluated(node, values, opsets[""], network, table)
    out = values[asked.output_name]
    out = Signal({}, out.shape) if isinstance(out, np.ndarray) else out
    if out.shape != asked.output_shape:
        refuse(f"output {asked.output_name!r} of shape {list(asked.output_shape)}: not what the file computes")
    return functional(out, asked.functional)


def needed(graph: onnx.GraphProto, output: str) -> list[onnx.NodeProto]:
    """The nodes that the output depends on, in order."""
    if output not in {o.name for o in graph.output}:
        refuse(f"the file has no output {output!r}")
    wanted, found = {output}, []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input) - {""}
            found.append(node)
    return found[::-1]


def evaluated(proto: onnx.NodeProto, values: dict[str, Value], opset: int, network: Network, table: Table) -> Value:
    name, kind = proto.name or proto.output[0], proto.op_type
    if proto.domain or kind not in table:
        refuse(f"operator {proto.domain or 'ai.onnx'}.{kind} at {name!r}")
    rule, known = table[kind]
    given = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
    node = Node(name, kind, opset, [values[i] if i else None for i in proto.input], known | given, network)
    if given.keys() - known.keys():
        node.refuse(f"attributes {sorted(given.keys() - known.keys())}")
    if len(proto.output) != 1 and kind != "Dropout":  # its mask is of no use
        node.refuse(f"outputs {list(proto.output)}: one is known")
    try:
        return rule(node)
    except (ArithmeticError, LookupError, TypeError, ValueError) as problem:
        node.refuse(f"not as ONNX has it: {problem}")


def tensor(proto: onnx.TensorProto) -> np.ndarray:
    """Its exact values: float64 or int64."""
    array = numpy_helper.to_array(proto) if proto.data_type in FLOATS | WHOLE else np.array(np.nan)
    if not np.isfinite(array).all():
        refuse(f"tensor {proto.name!r} of type {onnx.TensorProto.DataType.Name(proto.data_type)}, or not finite")
    return array.astype(np.float64 if proto.data_type in FLOATS else np.int64)


def units(x: Signal, asked: Question) -> Signal:
    """(x - mean) / std moves by 1 / std."""
    if asked.std is None:
        return x
    count, shape = len(asked.std), [1] * len(x.shape)
    for a in (len(shape) - 1, 1):
        if 1 < count < x.size and shape and x.shape[a] == count:
            shape = [count if k == a else 1 for k in range(len(shape))]
    std = np.broadcast_to(np.reshape(asked.std, x.shape if count == x.size else shape), x.shape)
    if not (std > 0).all():
        refuse("standard deviations are positive")
    value, unit = integers(std)
    return x.times(diagonal(*quotients(np.full(x.size, 1 << unit, dtype=object), value)))


def functional(out: Signal, text: str) -> Signal:
    """ "vector", "I" or "I-J": all outputs, one of them, the difference of two."""
    if text == "vector":
        return out
    rows = [int(i) for i in text.split("-")]
    if max(rows) >= out.size:
        refuse(f"output {text}: there are {out.size}")
    parts = [out.take(np.array([i])).times(sign) for i, sign in zip(rows, (constantly(1, 1), constantly(1, -1)), strict=False)]
    return added(parts)
