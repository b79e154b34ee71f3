"""EPUB: the content documents of the spine, in its order. `section` begins with the spine item's name."""

import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from zipfile import ZipFile

from forge_pipeline.data.documents.archive import open_archive, parse_xml, read_member
from forge_pipeline.data.documents.block import LARGEST_TEXT, Block, Blocks
from forge_pipeline.data.documents.html import markup_blocks
from forge_pipeline.errors import DataError

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_MARKUP = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")


def epub_blocks(path: Path) -> Blocks:
    """The blocks of a book; `line` is the number of the block.

    Raises:
        DataError: The book is damaged, protected, or lacks something that it names.
        OptionalDependencyError: beautifulsoup4 or lxml is not installed.
    """
    number = 0
    with open_archive(path, "EPUB") as archive:
        protected = _protected(archive, path)
        for name, shown in _spine(archive, path):
            if name in protected:
                raise DataError(f"{path}: {name!r} in it is encrypted (DRM); a book without protection is needed")
            # A marker: the item stands above its headings in `section`, but is no text.
            yield Block("", number + 1, "heading", level=0, title=shown)
            for block in markup_blocks(read_member(archive, name, path, LARGEST_TEXT), f"{path}: {name!r} in it"):
                number += 1
                yield Block(block.text, number, block.kind, block.level, block.title, glue=block.glue)


def _spine(archive: ZipFile, path: Path) -> Iterator[tuple[str, str]]:
    """Name in the archive, and name relative to the package document, of each spine item."""
    container = parse_xml(read_member(archive, _CONTAINER, path, LARGEST_TEXT), f"{path}: {_CONTAINER!r} in it")
    package_name = next((str(e.get("full-path") or "") for e in _elements(container, "rootfile")), "")
    package = parse_xml(read_member(archive, package_name, path, LARGEST_TEXT), f"{path}: {package_name!r} in it")
    items = {str(item.get("id")): item for item in _elements(package, "item")}
    references = [str(reference.get("idref")) for reference in _elements(package, "itemref")]
    if not references:
        raise DataError(f"{path}: its spine names nothing to read")
    for reference in references:
        if reference not in items:
            raise DataError(f"{path}: its spine names {reference!r}, which its manifest does not list")
        item = items[reference]
        href = unquote(urlsplit(str(item.get("href") or "")).path)
        name = posixpath.normpath(posixpath.join(posixpath.dirname(package_name), href))
        if name.startswith(("../", "/")):
            raise DataError(f"{path}: its spine names {href!r}, which leads out of the archive")
        if item.get("media-type") in _MARKUP:
            yield name, href


def _protected(archive: ZipFile, path: Path) -> frozenset[str]:
    """Names of the encrypted files. Fonts may be obfuscated in a book that is free to read."""
    if _ENCRYPTION not in archive.namelist():
        return frozenset()
    root = parse_xml(read_member(archive, _ENCRYPTION, path, LARGEST_TEXT), f"{path}: {_ENCRYPTION!r} in it")
    return frozenset(unquote(str(element.get("URI") or "")) for element in _elements(root, "CipherReference"))


def _elements(root: Any, name: str) -> Iterator[Any]:
    """Elements of this local name, whatever the namespace."""
    return (element for element in root.iter("{*}" + name))
