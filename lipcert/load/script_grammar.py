"""The grammar of TorchScript's code: what its serialiser writes, and nothing else.

Every statement and expression has a case here, every call names its target: an operator on the list of `pure`, a
function, class or method of the archive itself, or one of the words below. `torch`, `ops` and `getattr` are no values,
so nothing can stand for them. `print` and `warn` are dropped.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, NoReturn

import torch

from lipcert.load.pure import PRIM, SCRIPT, why_not
from lipcert.terms.errors import LipcertError, RefusedModel, UnreadableError, printable

if TYPE_CHECKING:
    from lipcert.load.script_code import Definition, Module, Script

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_TEXT = re.compile(r"[ -~\n]*", re.ASCII)  # what a string constant may hold
_BASES = frozenset(("Module", "NamedTuple", "Enum", "Interface", "ModuleInterface"))
_NUMBERS = frozenset(("inf", "nan", "infj", "nanj"))
_CASTS = frozenset(("float", "int", "bool", "str", "complex", "range"))  # of one value, or of a loop
_TYPED = frozenset(("annotate", "unchecked_cast", "uninitialized", "isinstance"))
_TYPES = frozenset(("Tensor", "int", "float", "bool", "str", "complex", "number", "NoneType", "Device", "Any"))
_GENERIC = frozenset(("Optional", "List", "Dict", "Tuple", "Final", "Union"))
_ROOTS = frozenset(("torch", "ops", "__torch__", "CONSTANTS"))
_RESERVED = _ROOTS | _NUMBERS | _CASTS | _TYPED | _TYPES | _GENERIC | _BASES | {"getattr", "print", "fork", "awaitable"}
SPECIAL = frozenset(("__init__", "__len__", "__contains__", "__getitem__"))  # called by other names than their own
_HOOKS = ("__forward_hooks__", "__forward_pre_hooks__")
_LISTS = ("__parameters__", "__buffers__", *_HOOKS)


def _chain(node: ast.expr) -> list[str] | None:
    """["torch", "nn", "x"] of torch.nn.x; None where the root is not a plain name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) else None


class Checker:
    """One definition: raises at the first thing that the serialiser does not write, notes what is called."""

    def __init__(self, program: Script, module: Module, of: Definition):
        self.program, self.module, self.of = program, module, of
        self.local: set[str] = set()

    def refuse(self, node: ast.AST, message: str, kind: type[LipcertError] = UnreadableError) -> NoReturn:
        where = f"{self.module.member}:{getattr(node, 'lineno', self.of.lineno)}"
        text = f"{self.program.path}: {where} {printable(message)}. Not loaded"
        raise RefusedModel(text, node=where) if kind is RefusedModel else kind(text)

    def unknown(self, node: ast.AST, what: str = "") -> NoReturn:
        self.refuse(node, f"holds {what or type(node).__name__}, which torch does not write in a model")

    def name(self, node: ast.AST, text: str) -> str:
        if not _IDENTIFIER.fullmatch(text) or len(text) > 1000:
            self.refuse(node, f"holds the name {text[:80]!r}")
        return text

    # Definitions

    def definition(self) -> None:
        if isinstance(self.of, ast.FunctionDef):
            self.function(self.of)
            return
        bases = [b.id if isinstance(b, ast.Name) else "" for b in self.of.bases]
        if self.of.decorator_list or self.of.keywords or len(bases) > 1 or not _BASES.issuperset(bases):
            self.unknown(self.of, "a class of another kind")
        self.name(self.of, self.of.name)
        for part in self.of.body:
            if isinstance(part, ast.FunctionDef):
                if part.name in ("__setstate__", "__getstate__"):
                    self.refuse(part, f"runs code of its own when loaded ({part.name})", RefusedModel)
                if self.program.is_called(part.name):
                    self.function(part)
            else:
                self.member(part)

    def member(self, part: ast.stmt) -> None:
        """`x : T`, `x : Final[T] = 3`, `__parameters__ = ["a", ]`, `__annotations__["0"] = T`, `RED = 1` of an Enum."""
        if isinstance(part, ast.Pass):
            return
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            self.name(part, part.target.id)
            self.type(part.annotation)
            if part.value is not None:
                self.literal(part.value)
            return
        if not isinstance(part, ast.Assign) or len(part.targets) != 1:
            self.unknown(part)
        target, value = part.targets[0], part.value
        if isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
            if target.value.id != "__annotations__" or not self.is_text(target.slice):
                self.unknown(part)
            self.type(value)
        elif isinstance(target, ast.Name) and target.id in _LISTS:
            if not isinstance(value, ast.List) or not all(self.is_text(item) for item in value.elts):
                self.unknown(part)
            if target.id in _HOOKS:
                self.program.called |= {str(item.value) for item in value.elts if isinstance(item, ast.Constant)}
        elif isinstance(target, ast.Name) and not target.id.startswith("__"):
            self.name(part, target.id)
            self.literal(value)
        else:
            self.unknown(part)

    def function(self, of: ast.FunctionDef) -> None:
        if id(of) in self.program.checked:
            return
        self.program.checked.add(id(of))
        self.name(of, of.name)
        given = of.args
        if of.decorator_list or given.posonlyargs or given.vararg or given.kwonlyargs or given.kwarg:
            self.unknown(of, "a function of another kind")
        for argument in given.args:
            self.bind(argument, argument.arg)
            if argument.annotation is not None:
                self.type(argument.annotation)
        for default in given.defaults:
            self.literal(default)
        if of.returns is not None:
            self.type(of.returns)
        self.local |= {n.id for n in ast.walk(of) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        of.body = self.block(of.body)

    def bind(self, node: ast.AST, name: str) -> None:
        if self.name(node, name) in _RESERVED or name.startswith("__"):
            self.refuse(node, f"gives another meaning to {name}")
        self.local.add(name)

    # Statements

    def block(self, body: list[ast.stmt]) -> list[ast.stmt]:
        kept: list[ast.stmt] = []
        for statement in body:
            kept += self.statement(statement)
        return kept or [ast.Pass()]

    def statement(self, node: ast.stmt) -> list[ast.stmt]:
        """Checked; what stands for it (nothing for a print)."""
        match node:
            case ast.Assign(targets=[target]):
                self.target(target)
                self.value(node.value)
            case ast.AnnAssign(target=ast.Name() as target, value=ast.expr() as value):
                self.target(target)
                self.type(node.annotation)
                self.value(value)
            case ast.Return():
                if node.value is not None:
                    self.value(node.value)
            case ast.Expr(value=ast.Call() as call):
                if _chain(call.func) in (["print"], ["torch", "warn"]):
                    return self.silenced(call)
                self.value(call)
            case ast.If():
                self.value(node.test)
                node.body, node.orelse = self.block(node.body), self.block(node.orelse) if node.orelse else []
            case ast.While(orelse=[]):
                self.value(node.test)
                node.body = self.block(node.body)
            case ast.For(orelse=[], target=ast.Name() as target):
                self.target(target)
                self.value(node.iter)
                node.body = self.block(node.body)
            case ast.Pass():
                pass
            case _:
                self.unknown(node)
        return [node]

    def silenced(self, call: ast.Call) -> list[ast.stmt]:
        """The arguments are evaluated, for what they may do in place; nobody is told."""
        for keyword in call.keywords:
            self.value(keyword.value)
        for argument in call.args:
            self.value(argument)
        values = [*call.args, *(keyword.value for keyword in call.keywords)]
        return [ast.Expr(value) for value in values if isinstance(value, ast.Call)]

    def target(self, node: ast.expr) -> None:
        match node:
            case ast.Name():
                self.bind(node, node.id)
            case ast.Tuple():
                for item in node.elts:
                    self.target(item)
            case ast.Attribute():
                self.attribute(node)
            case _:
                self.unknown(node)

    # Expressions

    def value(self, node: ast.expr) -> None:
        match node:
            case ast.Constant():
                self.constant(node)
            case ast.Name():
                if node.id not in _NUMBERS and (node.id not in self.local or node.id in _RESERVED):
                    self.refuse(node, f"uses {node.id}, which is no value")
            case ast.Attribute():
                self.attribute(node)
            case ast.Call():
                self.call(node)
            case ast.Tuple() | ast.List():
                for item in node.elts:
                    self.value(item)
            case ast.Dict():
                for key, item in zip(node.keys, node.values, strict=True):
                    if key is None:
                        self.unknown(node)
                    self.value(key)
                    self.value(item)
            case ast.Subscript():
                self.value(node.value)
                self.value(node.slice)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant() as operand):
                self.constant(operand)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id=name)) if name in _NUMBERS:
                pass
            case _:
                self.unknown(node)

    def constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, str):
            if node.kind is not None or not _TEXT.fullmatch(value):
                self.unknown(node, "a string with control characters")
        elif type(value) is int:
            if not value < 2**63:
                self.unknown(node, "a number of more than 64 bits")
        elif value is not None and not isinstance(value, bool | float | complex):
            self.unknown(node, f"a constant of type {type(value).__name__}")

    def is_text(self, node: ast.expr) -> bool:
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            return False
        self.constant(node)
        return True

    def literal(self, node: ast.expr) -> None:
        """A value without calls: of a default argument or of a constant attribute."""
        if (_chain(node) or [""])[0] != "CONSTANTS" and any(isinstance(n, ast.Call) for n in ast.walk(node)):
            self.unknown(node, "a call in a constant")
        self.value(node)

    def attribute(self, node: ast.Attribute) -> None:
        chain = _chain(node)
        if chain and chain[0] == "__torch__":
            self.reference(node, chain)
        elif chain and chain[0] == "CONSTANTS":
            if len(chain) != 2 or not re.fullmatch(r"c\d{1,9}", chain[1], re.ASCII):
                self.unknown(node)
        else:
            if node.attr.startswith("__"):
                self.refuse(node, f"reads the attribute {node.attr}")
            self.name(node, node.attr)
            self.value(node.value)

    def reference(self, node: ast.expr, chain: list[str]) -> Definition:
        """A function or class of the archive, or a member of its Enum."""
        name = ".".join(chain)
        found = self.program.find(name)
        if found is None and not chain[-1].startswith("__"):
            found = self.program.find(name := ".".join(chain[:-1]))
            found = found if isinstance(found, ast.ClassDef) else None
        if found is None:
            self.refuse(node, f"refers to {'.'.join(chain)[:200]}, which the archive does not define")
        self.program.reach(name)
        return found

    # Calls

    def call(self, node: ast.Call) -> None:
        for keyword in node.keywords:
            if keyword.arg is None or isinstance(keyword.value, ast.Starred):
                self.unknown(node, "** in a call")
            self.name(node, keyword.arg)
        chain = _chain(node.func)
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        if chain and chain[0] in ("torch", "ops"):
            self.operator(node, chain)
        elif chain and chain[0] == "__torch__":
            if chain[-1] == "__new__":
                self.new(node, chain[:-1])
                return
            self.reference(node.func, chain)
        elif chain and len(chain) == 1 and chain[0] not in self.local:
            arguments = self.word(node, chain[0])
        elif isinstance(node.func, ast.Attribute):
            self.method(node.func)
        else:
            self.value(node.func)  # a function or module that a local name stands for
        for argument in arguments:
            self.value(argument)

    def operator(self, node: ast.Call, chain: list[str]) -> None:
        """torch.NAME(...), ops.aten.NAME(...), ops.prim.NAME(...)."""
        written, name = ".".join(chain)[:200], chain[-1]
        if chain[0] == "torch":
            known = len(chain) == 2 and name in SCRIPT
        else:
            known = len(chain) == 3 and (
                (chain[1] == "aten" and name in SCRIPT) or (chain[1] == "prim" and name in PRIM)
            )
        if not known:
            foreign = chain[0] == "ops" and len(chain) > 1 and chain[1] not in ("aten", "prim")
            why = "is an operator that is not torch's own" if foreign else why_not(name)
            self.refuse(node, f"calls {written!r}: it {why}. Export without it", RefusedModel)
        if chain == ["torch", "device"]:  # the function is the same, and there may be no such device here
            if len(node.args) != 1 or node.keywords or not self.is_text(node.args[0]):
                self.unknown(node)
            node.args = [ast.Constant("cpu")]

    def word(self, node: ast.Call, name: str) -> list[ast.expr]:
        """annotate(T, v), getattr(v, "0"), range(n) and the like. Returns the arguments that are values."""
        if name in _TYPED:
            place = 1 if name == "isinstance" else 0
            if len(node.args) != (1 if name == "uninitialized" else 2) or node.keywords:
                self.unknown(node)
            self.type(node.args[place])
            return [argument for number, argument in enumerate(node.args) if number != place]
        if name == "getattr":
            if len(node.args) != 2 or node.keywords or not self.is_text(node.args[1]):
                self.unknown(node, "a getattr that torch does not write")
            return node.args[:1]
        if name in _CASTS and not node.keywords:
            return list(node.args)
        self.refuse(node, f"calls {name!r}: it {why_not(name)}. Export without it", RefusedModel)

    def new(self, node: ast.Call, chain: list[str]) -> None:
        """__torch__.C.__new__(__torch__.C)"""
        if not isinstance(self.reference(node, chain), ast.ClassDef) or len(node.args) != 1 or node.keywords:
            self.unknown(node)
        if _chain(node.args[0]) != chain:
            self.unknown(node)

    def method(self, func: ast.Attribute) -> None:
        """A method that the archive defines. Where torch has an operator of that name, a tensor may stand before it."""
        name = self.name(func, func.attr)
        builtin = torch._C._jit_get_schemas_for_operator(f"aten::{name}") or name in ("tolist", "grad", "data")
        if builtin and name not in SCRIPT:
            self.refuse(func, f"calls {name!r}: it {why_not(name)}. Export without it", RefusedModel)
        if not builtin and name not in self.program.methods and name != "forward":
            self.refuse(func, f"calls {name!r}: it {why_not(name)}. Export without it", RefusedModel)
        self.program.called.add(name)
        self.value(func.value)

    # Types

    def type(self, node: ast.expr) -> None:
        chain = _chain(node)
        match node:
            case ast.Name() if node.id in _TYPES:
                return
            case ast.Constant(value=None):
                return
            case ast.Attribute() if chain and chain[0] == "__torch__":
                if isinstance(self.reference(node, chain), ast.ClassDef) and self.program.find(".".join(chain)):
                    return
            case ast.Subscript(value=ast.Name(id=generic)) if generic in _GENERIC:
                inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
                for part in inner:
                    self.type(part)
                return
            case ast.Tuple() if node.elts:  # isinstance(x, (int, float))
                for part in node.elts:
                    self.type(part)
                return
        self.unknown(node, f"the type {ast.unparse(node)[:80]!r}")
