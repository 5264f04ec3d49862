"""From the ONNX file to linear maps between the input, the nonlinearities and the output.

Every tensor of the file is a linear map of *sources*: the number 1, the input x, and what the nonlinearities add, in the order of
the file. For two inputs the change of a tensor is the same map of the changes of the sources, and that of the number 1 is zero.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor, prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
from onnx import numpy_helper

from lipcert_audit.exact import Map, constantly, diagonal, integers, quotients, stored, total

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
    """A tensor that moves: its entries in row-major order, as a map of all sources one after the other."""

    map: Map
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return self.map.rows

    def index(self) -> np.ndarray:
        return np.arange(self.size).reshape(self.shape)

    def take(self, index: np.ndarray) -> Signal:
        """The tensor of the entries at `index`, an array of positions; -1 is zero."""
        return Signal(self.map.take(index.ravel()), index.shape)

    def times(self, by: Map) -> Signal:
        return Signal(self.map.times(by), self.shape)

    def negative(self) -> Signal:
        return self.times(constantly(self.size, -1))

    def through(self, operator: Map, shape: tuple[int, ...]) -> Signal:
        return Signal(operator.after(self.map), shape)


Value = Signal | np.ndarray


def still(value: np.ndarray) -> Signal:
    """A constant: a multiple of the number 1."""
    numbers, unit = integers(value)
    return Signal(stored(numbers.reshape(-1, 1), unit), value.shape)


def plus(x: Signal, constant: Any) -> Signal:
    """With a constant that is broadcast."""
    return added([x, still(np.broadcast_to(np.asarray(constant, dtype=np.float64), x.shape))])


def added(signals: list[Signal]) -> Signal:
    """The sum of tensors of one shape."""
    return Signal(total([s.map for s in signals]), signals[0].shape)


@dataclass(frozen=True)
class Layer:
    """z = phi(v), one nonlinearity of the file or one round of a maximum. `kind` says which constraint the changes obey:

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
    bent: bool = False  # z = max(low v, high v)


class Network:
    """Collects the nonlinearities while a file is read. A subclass per proof says how a nonlinearity is taken apart.

    `starts`: source k has the columns from starts[k] to starts[k + 1]. `apply`: z, of a new source or of several.
    """

    apply: Callable[[Layer], Signal]

    def __init__(self, asked: Any = None):
        self.layers: list[Layer] = []
        self.starts = [0, 1]

    def source(self, shape: tuple[int, ...]) -> Signal:
        """A new one."""
        n, start = prod(shape), self.starts[-1]
        self.starts.append(start + n)
        return Signal(constantly(n, 1, start=start), shape)


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

    def change(self, k: int) -> Signal:
        """Input k, constant or not."""
        value = self.inputs[k]
        return value if isinstance(value, Signal) else still(self.constant(k))

    def optional(self, k: int, other: Any = None) -> Any:
        """The constant at input k as a list, `other` where it is left out."""
        return self.constant(k).tolist() if k < len(self.inputs) and self.inputs[k] is not None else other

    def pointwise(self, low: Any, high: Any, bent: bool = False) -> Signal:
        """An elementwise function with slopes in [low, high], numbers or arrays; `bent`: it is max(low v, high v)."""
        read, alone = self.signal(), np.arange(self.signal().size).reshape(-1, 1)
        sides = (np.broadcast_to(np.asarray(v, dtype=object), read.shape).ravel() * 2**SLOPE for v in (low, high))
        low, high = (np.array([end(v) for v in side], dtype=object) for end, side in zip((floor, ceil), sides, strict=True))
        return self.network.apply(Layer(self.name, "pointwise", read, read.shape, low, high, alone, bent))


Rule = Callable[[Node], Value]
Table = dict[str, tuple[Rule, dict[str, Any]]]  # rule, and every attribute that is known with its default


@dataclass(frozen=True)
class Question:
    """What a certificate is about, as far as reading the file goes."""

    input_name: str
    output_name: str
    input_shape: list[int]
    output_shape: list[int]
    mean: list[float] | None
    std: list[float] | None
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
    known, waiting, found = {"", *(t.name for t in graph.initializer), *(i.name for i in graph.input)}, list(graph.node), []
    while waiting:
        found.append(next((n for n in waiting if known.issuperset(n.input)), waiting[0]))  # the checker sees what is missing
        waiting.remove(found[-1])
        known |= set(found[-1].output)
    del graph.node[:]
    graph.node.extend(found)


def read(model: onnx.ModelProto, asked: Question, network: Network, table: Table) -> Signal:
    """The output functional; the nonlinearities are in `network`."""
    graph, opsets = model.graph, {o.domain: o.version for o in model.opset_import}
    if opsets.get("", 0) not in OPSETS or model.functions or graph.sparse_initializer:
        refuse(f"operator sets {opsets}, functions or sparse tensors: known is ai.onnx {OPSETS.start} to {OPSETS.stop - 1}")
    values: dict[str, Value] = {t.name: tensor(t) for t in graph.initializer}
    inputs = [i for i in graph.input if i.name not in values]
    if [i.name for i in inputs] != [asked.input_name] or inputs[0].type.tensor_type.elem_type not in FLOATS:
        refuse(f"inputs {[i.name for i in inputs]}: the certificate is about one of floats, {asked.input_name!r}")
    sizes = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim]
    if len(sizes) != len(asked.input_shape) or any(d not in (0, s) for d, s in zip(sizes, asked.input_shape, strict=True)):
        refuse(f"the input has shape {sizes} in the file, {asked.input_shape} in the certificate")
    values[asked.input_name] = units(network.source(tuple(asked.input_shape)), asked.mean, asked.std)
    for node in needed(graph, asked.output_name):
        values[node.output[0]] = evaluated(node, values, opsets[""], network, table)
    out = values[asked.output_name]
    out = still(out) if isinstance(out, np.ndarray) else out
    if list(out.shape) != asked.output_shape:
        refuse(f"output {asked.output_name!r} of shape {asked.output_shape}: not what the file computes")
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


def units(x: Signal, mean: list[float] | None, std: list[float] | None) -> Signal:
    """(x - mean) / std, where they are given."""
    x = x if mean is None else plus(x, -like(mean, x.shape, "means"))
    if std is None:
        return x
    value, unit = integers(like(std, x.shape, "standard deviations"))
    return x.times(diagonal(*quotients(1 << unit, value))) if min(value) > 0 else refuse(f"standard deviations {std[:9]}")


def like(numbers: list[float], shape: tuple[int, ...], what: str) -> np.ndarray:
    """One number, one per entry, or one per place of the axis 1, or else of the last."""
    size, axes = prod(shape), [a for a in (1, len(shape) - 1) if a < len(shape) and shape[a] == len(numbers)]
    if not (len(numbers) in (1, size) or axes):
        refuse(f"{len(numbers)} {what} for an input of shape {list(shape)}")
    sizes = (
        () if len(numbers) == 1 else shape if len(numbers) == size else [-1 if k == axes[0] else 1 for k in range(len(shape))]
    )
    return np.broadcast_to(np.reshape(numbers, sizes), shape)


def functional(out: Signal, text: str) -> Signal:
    """ "vector", "I" or "I-J": all outputs, one of them, the difference of two."""
    if text == "vector":
        return out
    rows = [int(i) for i in text.split("-")]
    if max(rows) >= out.size:
        refuse(f"output {text}: there are {out.size}")
    first, *second = (out.take(np.array([i])) for i in rows)
    return added([first, *(s.negative() for s in second)])
