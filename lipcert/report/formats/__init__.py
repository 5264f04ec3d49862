"""Formats of a report: one file and one row each. A row takes reports (a name for each, and its JSON data) to what is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lipcert.report.report import Report
from lipcert.terms.errors import UnreadableError
from lipcert.terms.files import ODD_SHAPE, odd

Named = Sequence[tuple[str, Mapping[str, Any]]]


def read(reports: Named) -> Iterator[tuple[str, Report]]:
    """UnreadableError that names the file of one that is not as its schema says."""
    for name, data in reports:
        try:
            yield name, Report.from_dict(data)
        except UnreadableError as problem:
            raise UnreadableError(f"{name}: {problem}") from problem


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


def written(suffix: str, reports: Named) -> str | bytes:
    """In the format of this suffix. UnreadableError where a report is not as its schema says."""
    try:
        return FORMATS[suffix](reports)
    except ODD_SHAPE as problem:
        names = ", ".join(name for name, _ in reports)
        raise UnreadableError(f"{names}: not as the schema of a report says: {odd(problem)}") from problem
