"""Every link of the built site leads somewhere: `mkdocs build --site-dir SITE && python scripts/site_links.py SITE`.

mkdocs checks what is written in Markdown; this checks the pages themselves, so navigation, notebooks, pictures and the reference made
from docstrings too. Files and anchors within the site; addresses elsewhere are not asked, for a build needs no network.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page links to, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := given.get(name))}
        self.links += [value for name in ("href", "src") if tag != "base" and (value := given.get(name))]


def broken(site: Path) -> list[str]:
    """`page: link`, for each that leads nowhere."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        if path.name == "404.html":  # its links are from the root of the published site
            continue
        for link in dict.fromkeys(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            there = target.is_file() and site.resolve() in target.resolve().parents
            if not there or (target in pages and unquote(parts.fragment) not in pages[target].anchors):
                found.append(f"{path.relative_to(site)}: {link}")
    return found


def main() -> int:
    site = Path(sys.argv[1]).resolve()
    wrong = broken(site)
    print("\n".join(wrong) or f"every link of {len(list(site.rglob('*.html')))} pages leads somewhere")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
