"""The arguments of a TorchScript module's forward, and what its calls change: told by its schema and its frozen graph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lipcert.load.call.arguments import Arguments, InputSlot
from lipcert.load.call.joined import read_state
from lipcert.load.call.state import with_states
from lipcert.load.inputs import Declared, InputChoice
from lipcert.terms.errors import RefusedModel, UsageError, printable

NUMBERS = {"int": "int64", "float": "float64", "bool": "bool", "number": "float64"}
_KEYED = "aten::__getitem__"


@dataclass(frozen=True)
class ScriptCall:
    """`states`: tensors that calls change, `others`: numbers that calls change; by their paths in the module."""

    arguments: Arguments
    states: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def script_call(path: object, module: Any, wanted: InputChoice, dtype: torch.dtype) -> ScriptCall:
    """`dtype`: of the tensors, on which TorchScript says nothing. RefusedModel for an argument that is no tensor or number
    and has no default."""
    nodes = list(
        _walk(module.inlined_graph if not hasattr(module.forward, "inlined_graph") else module.forward.inlined_graph)
    )
    changed = _changed(module)
    _only_tensors_and_numbers(path, module, changed)
    states = tuple(name for name, kind in changed.items() if kind == "Tensor")
    reader = _Schema(path, wanted, str(dtype).removeprefix("torch."), _compared(nodes), _keys(nodes))
    keywords = {}
    for argument in list(module.forward.schema.arguments)[1:]:
        nest = reader.nest(argument.name, argument.type, argument.has_default_value())
        if nest is not None:
            keywords[argument.name] = nest
    others = tuple(name for name, kind in changed.items() if kind in NUMBERS)
    arguments = with_states(Arguments(tuple(reader.declared), keywords=keywords), module, states)
    return ScriptCall(arguments, states, others)


class _Schema:
    """Arguments one after another; `declared` collects the inputs that they hold."""

    def __init__(
        self, path: object, wanted: InputChoice, dtype: str, likely: Sequence[int], keys: dict[str, list[str]]
    ):
        self.path, self.dtype, self.likely, self.keys = path, dtype, tuple(likely), keys
        names = [] if wanted.names is None else wanted.names.split(",")
        self.said = [*names, *wanted.fixed, *wanted.shapes]
        self.declared: list[Declared] = []

    def nest(self, name: str, kind: Any, optional: bool) -> Any:
        """None: left out, it has a default."""
        text = kind.kind()
        if text == "OptionalType":
            return self.nest(name, kind.getElementType(), optional)
        if text == "TensorType":
            self.declared.append(Declared(name, self.dtype, None, optional=optional))
            return InputSlot(name)
        if str(kind) in NUMBERS:
            likely = self.likely if str(kind) == "int" else ()
            self.declared.append(Declared(name, NUMBERS[str(kind)], (), likely, optional))
            return InputSlot(name, number=True)
        if text == "TupleType":
            return tuple(self.nest(f"{name}.{k}", part, optional) for k, part in enumerate(kind.elements()))
        if text in ("ListType", "DictType"):
            return self._container(name, kind, text == "DictType", optional)
        if optional:
            return None
        raise RefusedModel(
            f"{self.path}: forward takes {name} ({kind}); lipcert would have to invent its value. Export a module that "
            "fixes it",
            node=name,
        )

    def _container(self, name: str, kind: Any, keyed: bool, optional: bool) -> Any:
        """Its entries are those that the code takes out by a constant, and those that were said, as NAME.KEY."""
        said = [text.removeprefix(f"{name}.") for text in self.said if text.startswith(f"{name}.")]
        keys = list(dict.fromkeys((*self.keys.get(name, ()), *said)))
        element = kind.getValueType() if keyed else kind.getElementType()
        if not keys and optional:
            return None
        if not keys:
            raise UsageError(
                f"{self.path}: forward takes {name} ({kind}), and its entries are not known: name them, "
                f"--input-shape {name}.KEY=1,3"
            )
        if keyed:
            return {key: self.nest(f"{name}.{key}", element, optional) for key in keys}
        count = 1 + max(int(key) for key in keys if key.isdecimal())
        return [self.nest(f"{name}.{k}", element, optional) for k in range(count)]


def _walk(graph: Any) -> Iterator[Any]:
    for node in graph.nodes():
        yield node
        for block in node.blocks():
            yield from _walk(block)


def _compared(nodes: Sequence[Any]) -> list[int]:
    """Whole numbers that the code compares with, the largest first: likely values of a sample rate or a mode."""
    found: list[int] = []
    for node in nodes:
        if node.kind() in ("aten::eq", "aten::ne", "aten::__contains__"):
            numbers: list[Any] = []
            for value in node.inputs():
                constant = _constant(value)
                numbers += constant if isinstance(constant, list) else [constant]
                if value.node().kind() == "prim::ListConstruct":
                    numbers += [_constant(one) for one in value.node().inputs()]
            found += [n for n in numbers if type(n) is int and n > 0]
    return sorted(set(found), reverse=True)


def _keys(nodes: Sequence[Any]) -> dict[str, list[str]]:
    """Name of an argument -> the constant keys and numbers under which the code takes entries out of it."""
    found: dict[str, list[str]] = {}
    for node in nodes:
        if node.kind() == _KEYED:
            container, key = list(node.inputs())
            value = _constant(key)
            if container.node().kind() == "prim::Param" and type(value) in (int, str) and value != "":
                name = container.debugName().split(".")[0]
                found.setdefault(name, []).append(str(value))
        elif node.kind() == "prim::ListUnpack":
            (container,) = node.inputs()
            if container.node().kind() == "prim::Param":
                name = container.debugName().split(".")[0]
                found.setdefault(name, []).extend(str(k) for k in range(len(list(node.outputs()))))
    return {name: list(dict.fromkeys(keys)) for name, keys in found.items()}


def _constant(value: Any) -> Any:
    with contextlib.suppress(RuntimeError):
        return value.toIValue()
    return None


def _changed(module: Any) -> dict[str, str]:
    """Path -> type of what stays an attribute when the module is frozen: freezing keeps what a call may write to."""
    frozen = torch.jit.freeze(module, optimize_numerics=False)  # only read; it drops the branches for training
    found = {}
    for node in _walk(frozen.graph):
        if node.kind() not in ("prim::GetAttr", "prim::SetAttr"):
            continue
        owner, *written = node.inputs()
        kind = str(written[0].type() if written else node.output().type())
        words = [node.s("name")]
        while owner.node().kind() == "prim::GetAttr":
            words.insert(0, owner.node().s("name"))
            owner = next(owner.node().inputs())
        found[".".join(words)] = kind
    return {name: kind for name, kind in found.items() if not kind.startswith("__torch__")}


def _only_tensors_and_numbers(path: object, module: Any, changed: Mapping[str, str]) -> None:
    """A text, a list, or what is None at first can be no input, and what a call gives depends on those before it."""
    for name, kind in changed.items():
        tensor = kind == "Tensor" and isinstance(read_state(module, name), torch.Tensor)
        if not tensor and kind not in NUMBERS:
            raise RefusedModel(
                f"{path}: forward writes to its own attribute {printable(name)} ({printable(kind)}), so it is not a function of its "
                "input alone; export a module that takes what it keeps as an input",
                node=name,
            )


def widths(module: Any) -> list[int]:
    """Inputs of the module's matrices, in the order of its parameters: sizes to try."""
    sizes = [tensor.shape[1] for tensor in module.parameters() if tensor.ndim == 2 and tensor.shape[1] > 1]
    return list(dict.fromkeys(sizes))[:3]
