"""Help pages as they are written: brackets in texts are no markup, and flags have no type."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


class Command(TyperCommand):
    """What differs from Typer's is done only where a page is shown."""

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
