"""The flat ATen graph of a module of our own, from one run of it on tensors without values (torch's meta device).

torch.export would give the same graph ten times slower, after importing dynamo and sympy; a test compares the two. It
stays for modules whose code is not ours (they may branch on Python state, write in place, or do what no trace can see), and
`retrace` only decomposes what it gave. Every operator that is called arrives at `Trace`, whole (`unsplit`); it is written
down, or replaced by the calls of its decomposition, which arrive in turn.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import map_arg
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from lipcert.load.capture import decompose, shapes
from lipcert.load.flat import FlatProgram
from lipcert.terms.errors import LipcertError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

aten = torch.ops.aten
CHECKS = (aten._assert_tensor_metadata.default,)  # torch's own assertions on dtype and device; static here


class Unfollowed(Exception):
    """An operator that writes into a tensor, or asks for a value: left to torch.export."""


class Trace(TorchDispatchMode):
    """`graph`: what was called so far. `constants`: the tensors with values that it read, by the placeholder's name.

    Every result is a tensor on the meta device, so that no value of the data can get into the graph: whatever asks for
    one raises `Unfollowed`. `imports`: see `shapes.results`.
    """

    def __init__(self, imports: bool = True) -> None:
        super().__init__()
        self.imports = imports
        self.graph = Graph()
        self.constants: dict[str, Tensor] = {}
        self.where: list[str] = []  # the module that runs now, after those that called it
        self._last: Node | None = None  # of the constants
        self.nodes: dict[int, tuple[Tensor, Node]] = {}  # id of a tensor -> itself (so that the id stays its own), node
        self._stand_ins: dict[int, Tensor] = {}  # id of a tensor with values -> its like on the meta device

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import dynamo to tell it to keep away

    def placeholder(self, name: str, tensor: Tensor) -> Tensor:
        """What stands for `tensor` in the calls to come."""
        node = self.graph.create_node("placeholder", name, name=name)
        with torch._C._DisableTorchDispatch():
            stand_in = tensor if tensor.is_meta else torch.empty_like(tensor, device="meta")
        self.nodes[id(tensor)] = (tensor, node)
        self._stand_ins[id(tensor)] = stand_in
        return self._made(node, stand_in)

    def constant(self, name: str, tensor: Tensor) -> Tensor:
        """Constants come before the input, as torch.export has them."""
        with self.graph.inserting_after(self._last) if self._last else self.graph.inserting_before(None):
            stand_in = self.placeholder(name, tensor)
        self._last = self.nodes[id(tensor)][1]
        self.constants[self._last.name] = tensor
        return stand_in

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _OF_NUMBERS and not args[0].is_meta:
            return func(*args, **(kwargs or {}))
        if func._schema.is_mutable or func in _VALUES:
            raise Unfollowed(str(func))
        args, kwargs = tree_map(self._stand_in, (args, kwargs or {}))
        if func in _SAME:  # another tensor (torch asks for one), the same value
            result = func(*args)
            self.nodes[id(result)] = (result, self._node(args[0]))
            return result
        rewrite = decompose.rewrite(func)
        if rewrite is not None:
            with self:
                result = rewrite(*args, **kwargs)
            if result is not NotImplemented:
                return result
        try:
            result = shapes.results(func, args, kwargs, self.imports)
        except shapes.NoShape as problem:
            raise Unfollowed(str(problem)) from problem
        if func in _ON_CPU:
            result = _ON_CPU[func](result)
        name = func.overloadpacket.__name__  # as torch.export names them; people read it
        inputs, options = tree_map(self._node, (args, kwargs))
        node = self.graph.create_node("call_function", func, inputs, options, name=name)
        if self.where:
            node.meta["nn_module_stack"] = {"": (self.where[-1], None)}
        return self._made(node, result)

    def _made(self, node: Node, result: Any) -> Any:
        node.meta["val"] = result
        if isinstance(result, Tensor):
            self.nodes[id(result)] = (result, node)
        else:
            for place, part in enumerate(result):
                if isinstance(part, Tensor):
                    self._made(self.graph.create_node("call_function", operator.getitem, (node, place)), part)
        return result

    def _stand_in(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.is_meta:
            return value
        if id(value) not in self._stand_ins:
            self.constant(f"c_lifted_tensor_{len(self.constants)}", value)
        return self._stand_ins[id(value)]

    def _node(self, value: Any) -> Any:
        if isinstance(value, torch.device):
            return torch.device("cpu")
        return self.nodes[id(value)][1] if isinstance(value, Tensor) else value


_OF_NUMBERS = frozenset(  # `torch.tensor([..])` and values of what a rule made so
    {
        aten.lift_fresh.default,
        aten._local_scalar_dense.default,
        aten.detach.default,
        aten.detach_.default,
    }
)
_SAME = frozenset({aten.alias.default, aten.detach.default})
_VALUES = frozenset({aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default})


# What kernels of the CPU return where torch's meta functions say otherwise.
_ON_CPU: dict[Any, Callable[[Any], Any]] = {
    aten.convolution.default: lambda result: result.contiguous(),
    aten._native_batch_norm_legit_no_training.default: lambda result: (
        result[0],
        *(torch.empty(0, dtype=part.dtype, device="meta") for part in result[1:]),
    ),
}


@contextmanager
def named_steps(module: torch.nn.Module, where: list[str]) -> Iterator[None]:
    """`where` ends with the name of the part of `module` that runs."""

    def enter(name: str) -> Any:
        return lambda part, args: where.append(name)

    def leave(part: Any, args: Any, result: Any) -> None:
        where.pop()

    handles = []
    for name, part in module.named_modules():
        handles += [part.register_forward_pre_hook(enter(name)), part.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def unsplit() -> Iterator[None]:
    """Composite operators reach a mode unsplit: torch splits them at its autograd keys, which are left out."""
    guard = torch._C._AutoDispatchBelowAutograd()
    try:
        yield
    finally:
        del guard


def trace(module: torch.nn.Module, example: Tensor, imports: bool = True) -> FlatProgram:
    """The graph of `module(x)` for x of the shape and dtype of `example`; see `Trace`. Raises `Unfollowed`."""
    state = Trace(imports)
    for name, tensor in module.named_buffers(remove_duplicate=False):
        state.constant(f"b_{name.replace('.', '_')}", tensor)
    x = state.placeholder("x", example)
    try:
        with unsplit(), named_steps(module, state.where), state:
            result = module(x)
    except (LipcertError, Unfollowed):
        raise
    except Exception as problem:  # an operator without a rule for shapes, for instance: torch.export tells it better
        raise Unfollowed(str(problem)) from problem
    if not isinstance(result, Tensor) or id(result) not in state.nodes:
        raise Unfollowed("the result is no tensor of the graph")
    state.graph.output((state.nodes[id(result)][1],))
    state.graph.eliminate_dead_code()
    return FlatProgram(state.graph, state.constants)


def retrace(program: ExportedProgram, constants: Mapping[str, Tensor]) -> FlatProgram:
    """A program of torch.export with its operators rewritten, as `run_decompositions(decompose.table())` gives it.

    `constants`: the tensor of each placeholder but the input. Raises `Unfollowed`.
    """
    state, values = Trace(), {}
    try:
        with unsplit(), state:
            for node in program.graph.nodes:
                if node.op == "placeholder":
                    said = node.meta["val"]
                    stored = constants.get(node.name)
                    like = torch.empty_strided(said.shape, said.stride(), dtype=said.dtype, device="meta")
                    values[node] = (
                        state.placeholder(node.name, like) if stored is None else state.constant(node.name, stored)
                    )
                elif node.op == "output":
                    (result,) = node.args[0]
                    state.graph.output((state.nodes[id(values[result])][1],))
                elif node.target in CHECKS:
                    continue
                elif node.op == "call_function":
                    stack = list((node.meta.get("nn_module_stack") or {}).values())
                    state.where = [str(stack[-1][0])] if stack else []
                    args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
                    values[node] = node.target(*args, **kwargs)
                else:
                    raise Unfollowed(f"a node of kind {node.op}")
    except (LipcertError, Unfollowed):
        raise
    except Exception as problem:
        raise Unfollowed(str(problem)) from problem
    state.graph.eliminate_dead_code()
    return FlatProgram(state.graph, state.constants)
