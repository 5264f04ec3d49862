"""The JSON of a `.pt2` archive against torch's own schema, and the three small languages inside it, each by a strict parser.

torch.export.load gives sizes (`expr_str`) to sympy, which evaluates them as Python; pytrees (`in_spec`) name modules that
it imports; `target` names a function that it looks up. What passes here is data of the types that the schema states.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
import re
import types
import typing
from enum import IntEnum
from typing import Annotated, Any

from torch._export.serde import schema
from torch._export.serde.union import _Union

from lipcert.load.pure import EXPORTED, PRIMS, why_not
from lipcert.terms.errors import LipcertError, RefusedModel, UnreadableError, printable

_NAME = re.compile(r"[A-Za-z_0-9.]{0,1000}", re.ASCII)
_STRING = re.compile(r"[ -~]{0,1000}", re.ASCII)
_OPERATOR = re.compile(r"torch\.ops\.(aten|prims)\.(\w{1,100})\.(\w{1,100})", re.ASCII)
_PYTHON = frozenset(f"_operator.{name}" for name in "getitem add sub mul floordiv mod neg eq ne lt le gt ge".split())
_INFINITE = ("Infinity", "-Infinity", "NaN")  # how torch writes floats that JSON has no number for

# Fields whose strings are names; other strings are arguments of operators, versions, or dropped.
_NAMED = frozenset(
    "name parameter_name buffer_name tensor_constant_name user_input_name fqn as_name forward_arg_names path_name verifiers".split()
)
_REFUSED_VALUES = {  # members of a union, or dictionaries that must be empty
    "as_custom_obj": "a custom object",
    "custom_obj": "a custom object",
    "custom_obj_values": "a custom object",
    "as_graph": "a nested graph (cond, while, map)",
    "as_operator": "an operator as an argument",
    "token": "a token, which orders side effects",
}
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")


def checked(path: object, kind: type, value: Any, where: str) -> Any:
    """`value` as the schema's `kind` has it: known fields only, each of its type. Raises UnreadableError or RefusedModel."""
    try:
        return _Fitting(path, where).fit(kind, value, "")
    except RecursionError as problem:
        raise UnreadableError(f"{path}: {where} is nested too deeply") from problem


class _Fitting:
    def __init__(self, path: object, where: str):
        self.path, self.where = path, where

    def refuse(self, key: str, why: str, error: type[LipcertError] = UnreadableError) -> typing.NoReturn:
        raise error(
            f"{self.path}: {self.where}: {printable(key)[:80]}{': ' if key else ''}{printable(why)[:200]}. Not loaded"
        )

    def fit(self, kind: Any, value: Any, key: str) -> Any:
        if typing.get_origin(kind) is Annotated:
            return self.fit(kind.__origin__, value, key)
        if typing.get_origin(kind) in (typing.Union, types.UnionType):
            (inner,) = (part for part in typing.get_args(kind) if part is not type(None))
            return None if value is None else self.fit(inner, value, key)
        if isinstance(kind, type) and issubclass(kind, _Union):
            if not isinstance(value, dict) or len(value) != 1 or not set(value) <= set(_hints(kind)):
                self.refuse(key, f"is not one of {kind.__name__}")
            (member, inner_value), *_ = value.items()
            if member in _REFUSED_VALUES:
                self.refuse(key, f"holds {_REFUSED_VALUES[member]}", RefusedModel)
            return {member: self.fit(_hints(kind)[member], inner_value, member)}
        if dataclasses.is_dataclass(kind):
            return self.record(kind, value, key)
        if typing.get_origin(kind) is list:
            if not isinstance(value, list):
                self.refuse(key, "is not a list")
            return [self.fit(typing.get_args(kind)[0], item, key) for item in value]
        if typing.get_origin(kind) is dict:
            if not isinstance(value, dict):
                self.refuse(key, "is not a dictionary")
            if value and key in _REFUSED_VALUES:
                self.refuse(key, f"holds {_REFUSED_VALUES[key]}s", RefusedModel)
            inner = typing.get_args(kind)[1]
            return {self.text(name, "name"): self.fit(inner, item, key) for name, item in value.items()}
        return self.scalar(kind, value, key)

    def record(self, kind: Any, value: Any, key: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.refuse(key, f"is not a {kind.__name__}")
        hints = _hints(kind)
        fitted = {}
        for field in dataclasses.fields(kind):
            if field.name in _DROPPED:
                fitted[field.name] = type(_DROPPED[field.name])()
            elif field.name in value:
                fitted[field.name] = self.fit(hints[field.name], value[field.name], field.name)
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                self.refuse(key, f"has no {field.name}")
        if kind is schema.Node:
            self.target(fitted)
        return fitted

    def scalar(self, kind: Any, value: Any, key: str) -> Any:
        if isinstance(kind, type) and issubclass(kind, IntEnum):
            if type(value) is not int or value not in set(kind):
                self.refuse(key, f"is not one of {kind.__name__}")
        elif kind is bool or kind is str:
            if type(value) is not kind:
                self.refuse(key, f"is not a {kind.__name__}")
            if isinstance(value, str):
                self.text(value, key)
        elif kind is int:
            if type(value) is not int or not -(2**63) <= value < 2**63:
                self.refuse(key, "is not an integer of 64 bits")
        elif kind is float:
            if type(value) not in (int, float) and value not in _INFINITE:
                self.refuse(key, "is not a number")
        else:
            self.refuse(key, f"is of a kind that lipcert does not know ({kind})")
        return value

    def text(self, value: str, key: str) -> str:
        if key == "expr_str":
            if not is_arithmetic(value):
                self.refuse("", f"the shape {value[:80]!r} is not plain arithmetic")
        elif key in ("in_spec", "out_spec"):
            if not is_pytree(value):
                self.refuse(key, f"{value[:80]!r} is not made of tuples, lists and dictionaries")
        elif key in _NAMED:
            if not _NAME.fullmatch(value):
                self.refuse("", f"{value[:80]!r} is not a name")
        elif key != "target" and not _STRING.fullmatch(value):
            self.refuse(key, "holds characters that torch does not write")
        return value

    def target(self, node: dict[str, Any]) -> None:
        target, name = node["target"], str(node.get("name"))
        if target in _PYTHON:
            return
        found = _OPERATOR.fullmatch(target)
        if found and found[2] in (EXPORTED if found[1] == "aten" else PRIMS) and not found[3].endswith("out"):
            return
        why = f"it {why_not(found[2])}" if found else "it is not a plain ATen operator"
        where = f"{self.path}: node {printable(name)} ({printable(target[:80])})"
        raise RefusedModel(f"{where}: {why}. Not loaded", node=printable(name))


# Written anew, or not needed: node metadata ends up in generated source code, guards are code, the rest of the call tree
# is for unflattening.
_DROPPED: dict[str, Any] = {"metadata": {}, "guards_code": [], "treespec_namedtuple_fields": {}}


def _hints(kind: Any) -> dict[str, Any]:
    return _hints_of(kind)


@functools.cache
def _hints_of(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, globalns=vars(schema), include_extras=True)


_FUNCTIONS = frozenset(
    "Symbol Integer Add Mul FloorDiv Mod Max Min CleanDiv PythonMod ModularIndexing CeilToInt TruncToInt".split()
)
_SYMBOL = re.compile(r"[a-z]{1,8}\d{1,9}", re.ASCII)  # s31, u0, zf5


def is_arithmetic(text: str) -> bool:
    """Whether a size is made of whole numbers, symbols, + - * and the functions above: at most 5,000 characters."""
    if len(text) > 5_000:
        return False
    try:
        return _arithmetic(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _arithmetic(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=value):
            return type(value) is int and value < 2**63
        case ast.Name(id=name):
            return _SYMBOL.fullmatch(name) is not None
        case ast.UnaryOp(op=ast.USub()):
            return _arithmetic(node.operand)
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult()):
            return _arithmetic(node.left) and _arithmetic(node.right)
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))]):
            plain = all(isinstance(k.value, ast.Constant) and type(k.value.value) is bool for k in node.keywords)
            return _SYMBOL.fullmatch(name) is not None and plain and all(k.arg for k in node.keywords)
        case ast.Call(func=ast.Name(id=name), keywords=[]) if name in _FUNCTIONS - {"Symbol"}:
            return bool(node.args) and all(_arithmetic(argument) for argument in node.args)
    return False


def is_pytree(text: str) -> bool:
    """Whether a serialised structure is made of plain containers, whose keys are words or numbers."""
    try:
        version, tree = json.loads(text)
        return version == schema.TREESPEC_VERSION and _pytree(tree)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def _pytree(tree: dict[str, Any]) -> bool:
    keys = None if tree["context"] is None else json.loads(tree["context"])
    plain = keys is None or (isinstance(keys, list) and all(type(key) in (str, int) for key in keys))
    known = set(tree) == {"type", "context", "children_spec"} and tree["type"] in _CONTAINERS
    return known and plain and all(_pytree(child) for child in tree["children_spec"])
