"""Help pages as they are written: brackets in texts are no markup, and flags have no type. Defaults that are used are noted."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

from lipcert.cli.defaults import IN_FORCE


class Commands(TyperGroup):
    def format_help(self, ctx: Any, formatter: Any) -> None:
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

        for parameter in _without_types(self.get_params(ctx)):
            if getattr(parameter, "help", None):
                parameter.help = escape(parameter.help)
        for text in ("help", "epilog"):
            setattr(self, text, escape(getattr(self, text) or ""))
        super().format_help(ctx, formatter)
