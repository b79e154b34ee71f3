"""Checks the links of the built site: ``python docs/check_links.py build/docs``. Asks no network.

Every link within the site must lead to a page, and every fragment to an anchor of it. Links elsewhere are printed, each
once; nothing loads anything from elsewhere: no script, style, font or picture.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
}  # tag -> attribute that is fetched by itself


@dataclass(frozen=True)
class Links:
    """Of one page: anchors, links, and what it loads by itself."""

    anchors: frozenset[str]
    followed: tuple[str, ...]
    loaded: tuple[str, ...]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.followed: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.followed.append(found["href"])
        if tag == "link" and {"stylesheet", "preload"} & set(found.get("rel", "").split()):
            self.loaded.append(found.get("href", ""))
        if tag in _LOADED and _LOADED[tag] in found:
            self.loaded.append(found[_LOADED[tag]])


@cache
def links_of(page: Path) -> Links:
    reader = _Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return Links(frozenset(reader.anchors), tuple(reader.followed), tuple(reader.loaded))


def broken_links(site: Path) -> Iterator[str]:
    """One sentence for each link within the site that leads nowhere, and for each thing loaded from elsewhere."""
    for page in sorted(site.rglob("*.html")):
        shown, links = page.relative_to(site), links_of(page)
        for link in links.loaded:
            if urlsplit(link).scheme in ("http", "https") or link.startswith("//"):
                yield f"{shown} loads {link}"
            elif urlsplit(link).scheme != "data" and not (page.parent / unquote(urlsplit(link).path)).is_file():
                yield f"{shown} loads {link}, which is not there"
        for link in links.followed:
            if words := _broken(page, link):
                yield f"{shown} links to {link}: {words}"


def _broken(page: Path, link: str) -> str | None:
    parts = urlsplit(link)
    if parts.scheme or link.startswith("//"):
        return None
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if target.is_dir():
        target = target / "index.html"
    if not target.is_file():
        return "there is no such file"
    is_page = target.suffix == ".html"
    if parts.fragment and is_page and unquote(parts.fragment) not in links_of(target).anchors:
        return "there is no such anchor"
    return None


def external_links(site: Path) -> list[str]:
    """Every address elsewhere that a page links to."""
    followed = (link for page in site.rglob("*.html") for link in links_of(page).followed)
    return sorted({link for link in followed if urlsplit(link).scheme in ("http", "https")})


def main(site: Path) -> int:
    broken = list(broken_links(site))
    print("\n".join([*external_links(site), *broken]))
    print(f"{len(external_links(site))} addresses elsewhere, not fetched; {len(broken)} broken links", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
