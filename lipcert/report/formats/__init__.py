"""Formats of a report: one file and one row each. A row takes reports (a name for each, and its JSON data) to what is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Named = Sequence[tuple[str, Mapping[str, Any]]]


def _html(reports: Named) -> str:
    from lipcert.report.page.write import html_page

    return html_page(reports)


def _markdown(reports: Named) -> str:
    from lipcert.report.formats.markdown import markdown

    return markdown(reports)


def _csv(reports: Named) -> str:
    from lipcert.report.formats.table import comma_separated

    return comma_separated(reports)


def _text(reports: Named) -> str:
    from lipcert.report.formats.terminal import as_text

    return as_text(reports)


def _mat(reports: Named) -> bytes:
    from lipcert.report.formats.matlab import to_mat

    return to_mat(reports)


FORMATS: dict[str, Callable[[Named], str | bytes]] = {
    ".html": _html,
    ".md": _markdown,
    ".csv": _csv,
    ".txt": _text,
    ".mat": _mat,
}
