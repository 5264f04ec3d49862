"""The code of a TorchScript archive, read by us, and written again: torch never sees a character of the file's own text.

Python's `ast` parses the text (what it cannot parse is refused), `script_grammar` admits each definition that is reached
from the classes that the data name, and Python's printer writes those down. What nothing calls is left out.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lipcert.load.script_grammar import SPECIAL, Checker
from lipcert.terms.errors import LipcertError, UnreadableError, printable

Definition = ast.ClassDef | ast.FunctionDef

_HEADER = "op_version_set"  # first line of the code of torch before 1.6


def rewritten(path: object, texts: Mapping[str, str], classes: Iterable[str]) -> dict[str, str]:
    """`texts`: member (code/__torch__/a/b.py) -> its text. `classes`: qualified names that the pickles name.

    The same, as Python's printer writes what was recognised. Raises UnreadableError for what the serialiser cannot have
    written, and RefusedModel for an operator that is not on the list; both name the line.
    """
    try:
        return Script(path, texts).written(classes)
    except LipcertError:
        raise
    except (RecursionError, MemoryError) as problem:  # of the parser or the printer, on nested expressions
        raise UnreadableError(f"{path}: its code is nested too deeply to be read") from problem


@dataclass
class Module:
    """One member: its definitions by name, and the old header, if any."""

    member: str
    name: str  # __torch__.a.b
    header: str = ""
    definitions: dict[str, Definition] = field(default_factory=dict)


class Script:
    def __init__(self, path: object, texts: Mapping[str, str]):
        self.path = path
        self.modules = {member: self._parse(member, text) for member, text in texts.items()}
        self.where = {f"{m.name}.{name}": m for m in self.modules.values() for name in m.definitions}
        self.methods = {
            part.name
            for module in self.modules.values()
            for definition in module.definitions.values()
            if isinstance(definition, ast.ClassDef)
            for part in definition.body
            if isinstance(part, ast.FunctionDef)
        }
        self.reached: list[str] = []  # qualified names, in the order they were met
        self.called = {"forward", *SPECIAL}
        self.checked: set[int] = set()  # id of each function that was checked

    def _parse(self, member: str, text: str) -> Module:
        found = Module(member, member.removeprefix("code/").removesuffix(".py").replace("/", "."))
        try:
            if not text.isascii():
                raise ValueError("it holds characters outside ASCII")
            tree = ast.parse(text)
        except (SyntaxError, ValueError) as problem:
            line = getattr(problem, "lineno", None)
            where = f"{member}:{line}" if line else member
            message = getattr(problem, "msg", None) or str(problem)
            raise UnreadableError(f"{self.path}: {where} is not what torch writes ({printable(message)})") from problem
        for statement in tree.body:
            if isinstance(statement, ast.ClassDef | ast.FunctionDef):
                if statement.name in found.definitions:
                    raise UnreadableError(f"{self.path}: {member}:{statement.lineno} defines {statement.name} twice")
                found.definitions[statement.name] = statement
            elif _is_header(statement):
                found.header = ast.unparse(statement) + "\n"
            elif not isinstance(statement, ast.Import):  # old torch wrote imports, which nothing reads
                raise UnreadableError(f"{self.path}: {member}:{statement.lineno}: a statement outside any definition")
        return found

    def written(self, classes: Iterable[str]) -> dict[str, str]:
        for name in classes:
            if not isinstance(self.find(name), ast.ClassDef):
                raise UnreadableError(
                    f"{self.path}: its data name {printable(name)[:80]}, which its code does not define"
                )
            self.reach(name)
        size = -1
        while size != (size := len(self.reached) + len(self.called) + len(self.checked)):
            for name in list(self.reached):
                module = self.where[name]
                Checker(self, module, module.definitions[name.rpartition(".")[2]]).definition()
        kept: dict[str, str] = {}
        for module in self.modules.values():
            bodies = [d for name, d in module.definitions.items() if f"{module.name}.{name}" in self.reached]
            if bodies:
                tree = _Values().visit(ast.Module([self._trimmed(body) for body in bodies], []))
                kept[module.member] = module.header + ast.unparse(ast.fix_missing_locations(tree)) + "\n"
        return kept

    def find(self, name: str) -> Definition | None:
        module = self.where.get(name)
        return module.definitions[name.rpartition(".")[2]] if module else None

    def reach(self, name: str) -> None:
        if name not in self.reached:
            self.reached.append(name)

    def is_called(self, name: str) -> bool:
        return name in self.called or name.partition("__")[0] in self.called  # overloads: forward__0

    def _trimmed(self, definition: Definition) -> Definition:
        if isinstance(definition, ast.FunctionDef):
            return definition
        body = [p for p in definition.body if not isinstance(p, ast.FunctionDef) or self.is_called(p.name)]
        return ast.ClassDef(definition.name, definition.bases, [], body or [ast.Pass()], [], type_params=[])  # type: ignore[call-arg]


class _Values(ast.NodeTransformer):
    """`ops.prim.data(x)`, x without its history, as `torch.detach(x)`: a trace follows the latter and would take the former
    for a constant."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if ast.unparse(node.func) == "ops.prim.data":
            node.func = ast.Attribute(ast.Name("torch", ast.Load()), "detach", ast.Load())
        return node


def _is_header(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Assign)
        and [t.id for t in statement.targets if isinstance(t, ast.Name)] == [_HEADER]
        and isinstance(statement.value, ast.Constant)
        and type(statement.value.value) is int
    )
