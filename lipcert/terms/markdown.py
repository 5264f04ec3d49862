"""Text of strangers in Markdown."""

from __future__ import annotations

import html
import re

from lipcert.terms.printable import printable


def escaped(text: str) -> str:
    """Neither HTML nor Markdown, no line break, no mention of a person."""
    text = html.escape(printable(text).replace("\\", "&#92;"), quote=True).replace("&amp;#92;", "&#92;")
    text = re.sub(r"([`*_{}\[\]()!|~])", lambda found: f"&#{ord(found[1])};", text)
    return text.replace("@", "&#64;").replace("://", "&#58;//").replace("www.", "www&#46;")
