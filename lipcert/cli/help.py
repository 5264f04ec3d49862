"""Help pages as they are written: brackets in texts are no markup, and flags have no type. Defaults that are used are noted."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from typer.core import TyperCommand, TyperGroup

from lipcert.cli.defaults import IN_FORCE

# typer.rich_utils imports these at its top, for help in Markdown and for tracebacks in colour: a third of its time.
UNUSED = {"rich.markdown": "Markdown", "rich.traceback": "Traceback"}


class Later(type):
    """Stands for a class of another module until it is called or asked for an attribute."""

    home: str

    def __call__(cls, *arguments: Any, **options: Any) -> Any:
        return cls.real()(*arguments, **options)

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.real(), name)

    def real(cls) -> Any:
        return getattr(importlib.import_module(cls.home), cls.__name__)


def formatted_by() -> ModuleType:
    """typer.rich_utils, imported without what this command line does not use of it."""
    held = {name: ModuleType(name) for name in UNUSED if name not in sys.modules}
    for name, module in held.items():
        setattr(module, UNUSED[name], Later(UNUSED[name], (), {"home": name}))
    sys.modules.update(held)
    try:
        return importlib.import_module("typer.rich_utils")
    finally:
        for name in held:
            del sys.modules[name]


class Commands(TyperGroup):
    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatted_by()
        _without_types(self.get_params(ctx))
        super().format_help(ctx, formatter)


def _without_types(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


class Command(TyperCommand):
    """Differs from Typer's where a page is shown, and in telling `defaults` what was taken from there."""

    def invoke(self, ctx: Any) -> Any:
        IN_FORCE.settle(ctx)
        return super().invoke(ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from rich.markup import escape

        formatted_by()
        for parameter in _without_types(self.get_params(ctx)):
            if getattr(parameter, "help", None):
                parameter.help = escape(parameter.help)
        for text in ("help", "epilog"):
            setattr(self, text, escape(getattr(self, text) or ""))
        super().format_help(ctx, formatter)
