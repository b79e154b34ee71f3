"""ZIP archives that hold a document, opened with mistrust and never unpacked to disk."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from forge_pipeline._optional import require
from forge_pipeline.errors import DataError

LARGEST_ARCHIVE = 2**30  # bytes, unpacked
MOST_MEMBERS = 50_000
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # an encrypted .docx, or an old .doc, is such a file


@contextmanager
def open_archive(path: Path, kind: str) -> Iterator[zipfile.ZipFile]:
    """The archive, once its directory of names and sizes has been looked at.

    Args:
        path: The file.
        kind: What it should be ("DOCX"), for errors.

    Raises:
        DataError: It is no archive, is encrypted, unpacks to more than 1 GiB, or holds names that lead out of it.
    """
    with path.open("rb") as file:
        if file.read(len(_OLE)) == _OLE:
            raise DataError(
                f"{path}: an encrypted document or one of an old format; save it as {kind} without password"
            )
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: no whole {kind} file: {error}; fetch or save it again") from error
    with archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if total > LARGEST_ARCHIVE or len(members) > MOST_MEMBERS:
            raise DataError(
                f"{path}: unpacks to {len(members)} files of {total // 2**20} MiB; "
                f"at most {MOST_MEMBERS} of {LARGEST_ARCHIVE // 2**20} MiB are read"
            )
        for member in members:
            if member.flag_bits & 1:
                raise DataError(f"{path}: {member.filename!r} in it is encrypted; save the document without password")
            if _leads_out(member.filename):
                raise DataError(f"{path}: holds the name {member.filename!r}, which leads out of the archive")
        yield archive


def _leads_out(name: str) -> bool:
    pure = PurePosixPath(name.replace("\\", "/"))
    return pure.is_absolute() or ".." in pure.parts or (len(name) > 1 and name[1] == ":")


def read_member(archive: zipfile.ZipFile, name: str, path: Path, most: int) -> bytes:
    """One file of the archive, of at most `most` bytes.

    Raises:
        DataError: It is missing, larger, or damaged.
    """
    try:
        member = archive.getinfo(name)
    except KeyError as error:
        raise DataError(f"{path}: {name!r} is missing in it; the document is not whole") from error
    if member.file_size > most:
        raise DataError(f"{path}: {name!r} in it is larger than {most // 2**20} MiB")
    try:
        return archive.read(member)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, ValueError) as error:
        raise DataError(f"{path}: {name!r} in it is damaged: {error}") from error


def parse_xml(data: bytes, where: str) -> Any:
    """The root element. Nothing is fetched, and no entity is expanded.

    Raises:
        DataError: Not XML, or XML with a document type, which could define entities without end.
    """
    etree = require("lxml.etree", extra="documents", purpose="DOCX and EPUB files")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    refusal = DataError(f"{where}: defines entities, which no such document needs; it is not read")
    if b"<!ENTITY" in data:
        raise refusal
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise DataError(f"{where}: not XML: {error}") from error
    declared = root.getroottree().docinfo.internalDTD  # in an encoding in which the look at the bytes saw nothing
    if declared is not None and any(declared.iterentities()):
        raise refusal
    return root
