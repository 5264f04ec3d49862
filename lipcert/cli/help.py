"""Help pages as they are written: brackets in texts are no markup, and flags have no type. Defaults that are used are noted."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from lipcert.cli.defaults import IN_FORCE


class Command(TyperCommand):
    """Differs from Typer's where a page is shown, and in telling `defaults` what was taken from there."""

    def invoke(self, ctx: Any) -> Any:
        IN_FORCE.settle(ctx)
        return super().invoke(ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from rich.markup import escape

        parameter: Any
        for parameter in self.get_params(ctx):
            if getattr(parameter, "help", None):
                parameter.help = escape(parameter.help)
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
        for text in ("help", "epilog"):
            setattr(self, text, escape(getattr(self, text) or ""))
        super().format_help(ctx, formatter)
