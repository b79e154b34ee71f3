"""Documents become chunks under their headings, all their text and nothing else; damaged ones are refused by name."""

import io
import re
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_pipeline.config.data import DocumentsSection
from forge_pipeline.data.documents import chunking, chunking_note, document_suffixes, is_document
from forge_pipeline.data.documents.block import Block
from forge_pipeline.data.documents.chunking import chunked, count_units, longest_prefix, pieces
from forge_pipeline.data.reading import BrokenRow, ReadRow, is_data_file, read_rows
from forge_pipeline.errors import DataError, OptionalDependencyError

WHOLE = DocumentsSection(chunk_tokens=100_000)


def texts(rows: Any) -> list[str]:
    return [row.values["text"] for row in rows if isinstance(row, ReadRow)]


# Documents made by the programs that make them


def _pdf(pages: list[str], *, sections: dict[int, tuple[str, int]] | None = None, password: str | None = None) -> bytes:
    from fpdf import FPDF

    pdf = FPDF()
    pdf.set_font("helvetica", size=12)
    for number, page in enumerate(pages, start=1):
        pdf.add_page()
        if sections and number in sections:
            title, level = sections[number]
            pdf.start_section(title, level=level)
        if page:
            pdf.multi_cell(0, text=page)
        else:
            pdf.rect(10, 10, 100, 100)  # a scan has marks on it, but no text
    if password is not None:
        pdf.set_encryption(owner_password="owner", user_password=password)
    return bytes(pdf.output())


def _docx(fill: Callable[[Any], None]) -> bytes:
    import docx

    document, buffer = docx.Document(), io.BytesIO()
    fill(document)
    document.save(buffer)
    return buffer.getvalue()


CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0"><rootfiles>'
    '<rootfile full-path="OEBPS/content.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
)


def _package(items: dict[str, str], spine: list[str]) -> str:
    manifest = "".join(
        f'<item id="{key}" href="{href}" media-type="application/xhtml+xml"/>' for key, href in items.items()
    )
    references = "".join(f'<itemref idref="{key}"/>' for key in spine)
    return (
        '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0">'
        f"<manifest>{manifest}</manifest><spine>{references}</spine></package>"
    )


def _zip(members: dict[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _epub(**changes: str | bytes | None) -> bytes:
    members: dict[str, str | bytes | None] = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": CONTAINER,
        "OEBPS/content.opf": _package({"two": "text/two.xhtml", "one": "text/one%20a.xhtml"}, ["one", "two"]),
        "OEBPS/text/one a.xhtml": (
            '<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title>x</title>'
            "</head><body><h1>Beginning</h1><p>Once upon a time.</p><h2>Later</h2><p>Time&#160;went on.</p></body></html>"
        ),
        "OEBPS/text/two.xhtml": "<html><body><h1>End</h1><p>They lived on.</p></body></html>",
        **changes,
    }
    return _zip({name: content for name, content in members.items() if content is not None})


# What rows of each kind say


def test_rows_of_a_pdf_name_page_section_and_chunk_and_pages_without_text_are_named_skips(tmp_path: Path) -> None:
    path = tmp_path / "book.pdf"
    path.write_bytes(
        _pdf(["First page.", "", "Third page.", "Fourth page."], sections={1: ("One", 0), 3: ("Two", 0), 4: ("2.1", 1)})
    )
    assert list(read_rows(path)) == [
        BrokenRow(2, "page 2 has no text layer (OCR is not done)"),
        ReadRow(1, {"text": "First page.", "source": "book.pdf", "page": 1, "section": ["One"], "chunk": 1}),
        ReadRow(
            3,
            {"text": "Third page.\n\nFourth page.", "source": "book.pdf", "page": 3, "section": ["Two"], "chunk": 2},
        ),
    ]


def test_a_pdf_that_opens_without_a_password_is_read_though_it_is_encrypted(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(_pdf(["Open to all."], password=""))
    assert texts(read_rows(tmp_path / "a.pdf")) == ["Open to all."]


def test_a_docx_keeps_headings_lists_and_tables_in_their_order(tmp_path: Path) -> None:
    def fill(document: Any) -> None:
        document.add_heading("Report", 0)
        document.add_heading("Numbers", 1)
        document.add_paragraph("See\tbelow,\nplease.")
        document.add_paragraph("first", style="List Bullet")
        document.add_paragraph("second", style="List Number")
        table = document.add_table(2, 2)
        for i, value in enumerate("abcd"):
            table.cell(i // 2, i % 2).text = value
        document.add_heading("Deeper", 2)
        document.add_paragraph("After the table.")

    (tmp_path / "a.docx").write_bytes(_docx(fill))
    (row,) = read_rows(tmp_path / "a.docx", documents=WHOLE)
    assert row == ReadRow(
        1,
        {
            "text": "Report\n\nNumbers\n\nSee\tbelow,\nplease.\n\n- first\n- second\n\na | b\nc | d\n\nDeeper\n\n"
            "After the table.",
            "source": "a.docx",
            "section": ["Report"],
            "chunk": 1,
        },
    )


def test_a_docx_shows_insertions_controls_and_text_boxes_but_no_deletions(tmp_path: Path) -> None:
    from docx.oxml import parse_xml
    from docx.oxml.ns import nsdecls

    body = (
        "<w:sdt {0}><w:sdtContent><w:p><w:r><w:t>in a control</w:t></w:r></w:p></w:sdtContent></w:sdt>",
        "<w:p {0}><w:ins><w:r><w:t>inserted</w:t></w:r></w:ins><w:del><w:r><w:delText>deleted</w:delText></w:r></w:del>"
        "<w:hyperlink><w:r><w:t> linked</w:t></w:r></w:hyperlink></w:p>",
        "<w:p {0}><w:r><w:t>anchor</w:t></w:r><w:r><w:pict><v:textbox xmlns:v='urn:schemas-microsoft-com:vml'>"
        "<w:txbxContent><w:p><w:r><w:t>boxed</w:t></w:r></w:p></w:txbxContent></v:textbox></w:pict></w:r></w:p>",
    )

    def fill(document: Any) -> None:
        for i, element in enumerate(body):
            document.element.body.insert(i, parse_xml(element.format(nsdecls("w"))))

    (tmp_path / "a.docx").write_bytes(_docx(fill))
    assert texts(read_rows(tmp_path / "a.docx", documents=WHOLE)) == [
        "in a control\n\ninserted linked\n\nanchor\n\nboxed"
    ]


def test_footnotes_of_a_docx_stand_at_its_end(tmp_path: Path) -> None:
    from docx.opc.packuri import PackURI
    from docx.opc.part import Part

    word = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    notes = f'<w:footnotes xmlns:w="{word}"><w:footnote><w:p><w:r><w:t>See there.</w:t></w:r></w:p></w:footnote></w:footnotes>'

    def fill(document: Any) -> None:
        document.add_paragraph("Text.")
        part = Part(PackURI("/word/footnotes.xml"), "application/xml", notes.encode(), document.part.package)
        document.part.relate_to(part, f"{office}/footnotes")

    (tmp_path / "a.docx").write_bytes(_docx(fill))
    assert texts(read_rows(tmp_path / "a.docx")) == ["Text.\n\nSee there."]


def test_rows_of_an_epub_follow_the_spine_and_begin_their_section_with_its_item(tmp_path: Path) -> None:
    (tmp_path / "a.epub").write_bytes(_epub())
    rows = [row.values for row in read_rows(tmp_path / "a.epub", documents=WHOLE) if isinstance(row, ReadRow)]
    assert [(row["section"], row["text"]) for row in rows] == [
        (["text/one a.xhtml", "Beginning"], "Beginning\n\nOnce upon a time.\n\nLater\n\nTime\xa0went on."),
        (["text/two.xhtml", "End"], "End\n\nThey lived on."),
    ]


HTML = {
    "scripts, styles, comments and navigation are dropped": (
        "<html><head><title>t</title><style>p{}</style></head><body><nav>menu</nav><p>kept</p><script>x()</script>"
        "<!-- no --><noscript>no</noscript><p hidden>no</p></body></html>",
        ["kept"],
    ),
    "white space collapses, but not in code": (
        "<p>a  \n b <b>c</b>  <i> d</i> <code>x  = 1</code></p><pre>\ndef f():\n\n    return 1\n</pre>",
        ["a b c d x  = 1\n\ndef f():\n\n    return 1\n"],
    ),
    "lists are marked and nested": (
        "<ul><li>a<li>b<ol><li>one<li>two</ol></ul><p>end</p>",
        ["- a\n- b\n  1. one\n  2. two\n\nend"],
    ),
    "tables keep rows and cells": (
        "<table><caption>C</caption><tr><th>a<th>b<tr><td>1<td><p>2</p> 3</table>",
        ["C\na | b\n1 | 2 3"],
    ),
    "text beside blocks is kept": ("before<div>inside<p>deep</p>after</div>tail", ["before\n\ninside\n\ndeep\n\nafter\n\ntail"]),
    "only main is read where there is one": ("<p>ads</p><main><h1>H</h1>text</main><footer>f</footer>", ["H\n\ntext"]),
    "line breaks stay": ("<p>a<br>b</p>", ["a\nb"]),
    "entities are characters": ("<p>a &lt; b &amp; &eacute;&#8364;</p>", ["a < b & é€"]),
    "a table that lays out a page is no table": (
        "<table><tr><td><h1>H</h1><td><ul><li>x</ul></table>",
        ["H\n\n- x"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HTML)
def test_of_html(name: str, tmp_path: Path) -> None:
    markup, expected = HTML[name]
    (tmp_path / "a.html").write_text(markup, encoding="utf-8")
    assert texts(read_rows(tmp_path / "a.html", documents=WHOLE)) == expected


def test_html_is_read_in_the_encoding_that_it_declares(tmp_path: Path) -> None:
    path = tmp_path / "a.htm"
    path.write_bytes('<meta charset="windows-1252"><p>café — “x”</p>'.encode("windows-1252"))
    assert texts(read_rows(path)) == ["café — “x”"]
    path.write_bytes("<p>café</p>".encode("windows-1252"))
    with pytest.raises(DataError, match="line 1: byte 0xe9 is not UTF-8"):
        list(read_rows(path))
    path.write_bytes(b"<meta charset='klingon'><p>a</p>")
    with pytest.raises(DataError, match="declares the encoding 'klingon'"):
        list(read_rows(path))


MARKDOWN = """---
title: front
---

# Top

Some *text*
on two lines.

```python
# no heading

x = 1
```

[target]: https://example.com

- a
- b

  still b

Setext
------

| a | b |
|---|---|
| 1 | 2 |

## Second `code`

End.
"""


def test_markdown_keeps_its_source_and_is_cut_at_headings(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(MARKDOWN)
    rows = [row for row in read_rows(tmp_path / "a.md", documents=WHOLE) if isinstance(row, ReadRow)]
    assert "\n\n".join(texts(rows)) == MARKDOWN.strip("\n")
    assert [(row.line, row.values["section"]) for row in rows] == [(1, []), (5, ["Top"])]
    short = list(read_rows(tmp_path / "a.md", documents=DocumentsSection(chunk_tokens=16)))
    assert [row.values["section"] for row in short if isinstance(row, ReadRow)][-1] == ["Top", "Second `code`"]


def test_paragraphs_of_a_text_file_keep_their_line_breaks(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n  two\r\n\r\n \r\nthree\r\n")
    assert texts(read_rows(tmp_path / "a.txt")) == ["one\n  two\n\nthree"]
    rows = list(read_rows(tmp_path / "a.txt", documents=DocumentsSection(chunk_tokens=16)))
    assert [row.line for row in rows] == [1]


def test_text_documents_may_be_compressed_and_sources_renamed(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"text\n"))
    (row,) = read_rows(path, source="folder/a.txt.gz")
    assert isinstance(row, ReadRow)
    assert row.values["source"] == "folder/a.txt.gz"


def test_documents_and_data_files_are_told_apart_by_name() -> None:
    assert [name for name in ("a.pdf", "A.DOCX", "b.md.gz", "c.pdf.gz", "d.jsonl") if is_document(Path(name))] == [
        "a.pdf",
        "A.DOCX",
        "b.md.gz",
    ]
    assert not any(is_data_file(Path(f"a{suffix}")) for suffix in document_suffixes())


def test_a_text_file_of_many_megabytes_is_read_as_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "big.txt"
    paragraph = "The quick brown fox jumps over the lazy dog. " * 20
    path.write_text((paragraph + "\n\n") * 4000)
    taken = read_rows(path, documents=DocumentsSection(chunk_tokens=4096))
    started = time.process_time()
    assert isinstance(next(taken), ReadRow)
    assert time.process_time() - started < 1.0


# Chunks

COUNTS: dict[str, Callable[[str], int]] = {
    "words and marks": count_units,
    "characters": len,
    "bytes and a token at the beginning": lambda text: 1 + len(text.encode()),
    "pairs of characters": lambda text: -(-len(text) // 2),
    # Like byte-pair encoding: letters that stand together often make one token.
    "merged": lambda text: len(re.findall(r" ?[a-z]{1,4}|\n+|.", text, re.DOTALL)),
}
_TEXT = st.text(alphabet="ab c.d\n\té。!世  ", min_size=1, max_size=120).filter(lambda text: bool(text.strip()))
_BLOCKS = st.lists(
    st.tuples(
        st.sampled_from(["heading", "paragraph", "paragraph", "code", "list", "table"]), _TEXT, st.integers(1, 3)
    ),
    max_size=12,
)


def _blocks(drawn: list[tuple[str, str, int]]) -> list[Block]:
    return [
        Block(text, i, kind, level=level, title=text.strip(), glue="\n" if kind == "list" else "\n\n")  # type: ignore[arg-type]
        for i, (kind, text, level) in enumerate(drawn, start=1)
    ]


@pytest.mark.parametrize("counted", COUNTS)
@settings(max_examples=60, deadline=None)
@given(drawn=_BLOCKS, limit=st.integers(16, 60))
def test_no_text_is_lost_and_no_chunk_is_too_large_when_cut_by_structure(
    counted: str, drawn: list[tuple[str, str, int]], limit: int
) -> None:
    count, blocks = COUNTS[counted], _blocks(drawn)
    rows = list(chunked(iter(blocks), DocumentsSection(chunk_tokens=limit), count, source="x"))
    kept = [row.values["text"] if isinstance(row, ReadRow) else None for row in rows]
    # A piece of white space alone is a chunk too short, and named.
    assert all(isinstance(row, ReadRow) or row.reason.startswith("a chunk of 0 characters") for row in rows)
    assert "".join("".join(kept_text or "" for kept_text in kept).split()) == "".join(
        "".join(block.text for block in blocks).split()
    )
    assert all(count(text) <= limit for text in kept if text)
    joined = "\0".join(text for text in kept if text)
    for block in blocks:  # white space inside is kept, and no block is torn that fits
        assert count(block.text) > limit or block.text in joined
    assert [row.values["chunk"] for row in rows if isinstance(row, ReadRow)] == sorted(
        row.values["chunk"] for row in rows if isinstance(row, ReadRow)
    )


@pytest.mark.parametrize("counted", COUNTS)
@settings(max_examples=60, deadline=None)
@given(drawn=_BLOCKS, limit=st.integers(16, 60), overlap=st.integers(0, 15))
def test_windows_hold_the_whole_text_and_share_what_was_asked_for(
    counted: str, drawn: list[tuple[str, str, int]], limit: int, overlap: int
) -> None:
    count, blocks = COUNTS[counted], _blocks(drawn)
    text = "".join((block.glue if i else "") + block.text for i, block in enumerate(blocks))
    options = DocumentsSection(chunk_by="tokens", chunk_tokens=limit, overlap_tokens=overlap)
    rows = list(chunked(iter(blocks), options, count, source="x"))
    windows = [chunk.text for chunk in _windows(blocks, limit, overlap, count)]
    assert len(rows) == len(windows)  # a window of white space alone is named
    assert all(count(window) <= limit for window in windows)
    if overlap == 0:
        assert "".join(windows) == text
    ends = {0}  # where the windows so far may end: a text that repeats itself fits in several places
    for window in windows:  # each begins in or right after the one before, and goes further
        ends = {
            begin + len(window)
            for end in ends
            for begin in range(end + 1)
            if text.startswith(window, begin)
            and begin + len(window) > end
            and count(text[begin:end]) <= max(overlap, count(""))
        }
        assert ends
    assert len(text) in ends


def _windows(blocks: list[Block], limit: int, overlap: int, count: Callable[[str], int]) -> list[Any]:
    return list(chunking._by_tokens(chunking._placed(iter(blocks)), limit, overlap, count))


def test_windows_are_exact_in_tokens() -> None:
    blocks = [Block(" ".join(f"word{i}" for i in range(start, start + 50)), start) for start in range(0, 1000, 50)]
    options = DocumentsSection(chunk_by="tokens", chunk_tokens=100, overlap_tokens=20)
    rows = [row for row in chunked(iter(blocks), options, count_units, source="x") if isinstance(row, ReadRow)]
    assert {count_units(row.values["text"]) for row in rows[:-1]} == {100}
    words = [row.values["text"].split() for row in rows]
    assert [(first, last) for first, *_, last in words[:3]] == [
        ("word0", "word99"),
        ("word80", "word179"),
        ("word160", "word259"),
    ]
    assert words[-1][-1] == "word999"
    assert [row.line for row in rows[:3]] == [0, 50, 150]  # the block in which the window begins


def test_windows_of_a_real_tokenizer_count_exactly(tokenizer: Any) -> None:
    """The tokenizer of the tests knows bytes only, so that counts follow from the text."""

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    text = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. " * 20
    options = DocumentsSection(chunk_by="tokens", chunk_tokens=128, overlap_tokens=16)
    chunks = texts(chunked(iter([Block(text, 1)]), options, count, source="x"))
    assert all(127 <= count(chunk) <= 128 for chunk in chunks[:-1])  # a letter of two bytes may not fit


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="ab .\n。é", max_size=300), limit=st.integers(1, 40), guess=st.integers(1, 400))
def test_the_longest_prefix_fits_and_one_character_more_does_not(text: str, limit: int, guess: int) -> None:
    for count in (len, lambda piece: len(piece.encode()), count_units):
        end = longest_prefix(text, limit, count, guess)
        assert end == (min(1, len(text)) if end <= 1 else end)
        assert end <= 1 or count(text[:end]) <= limit
        assert end >= len(text) or count(text[: end + 1]) > limit
        assert "".join(pieces(text, limit, count)) == text


STRUCTURE: dict[str, tuple[list[Block], list[str]]] = {
    "a heading of the same level begins a chunk": (
        [Block("A", 1, "heading", 1), Block("a a", 2), Block("B", 3, "heading", 1), Block("b b", 4)],
        ["A\n\na a", "B\n\nb b"],
    ),
    "deeper headings stay with theirs": (
        [Block("A", 1, "heading", 1), Block("a a", 2), Block("B", 3, "heading", 2), Block("b b", 4)],
        ["A\n\na a\n\nB\n\nb b"],
    ),
    "a heading goes with what it leads to": (
        [Block("A", 1, "heading", 1), Block("a " * 12, 2), Block("B", 3, "heading", 2), Block("b " * 12, 4)],
        ["A\n\n" + "a " * 12, "B\n\n" + "b " * 12],
    ),
    "text before the first heading stands alone": (
        [Block("intro", 1), Block("A", 2, "heading", 3), Block("a", 3)],
        ["intro", "A\n\na"],
    ),
    "a long paragraph is cut after sentences": (
        [Block("One two three four five six. Seven eight nine ten eleven. Twelve thirteen fourteen fifteen.", 1)],
        ["One two three four five six. Seven eight nine ten eleven. ", "Twelve thirteen fourteen fifteen."],
    ),
    "a long sentence is cut between words": (
        [Block(" ".join("abcdefghijklmnopqrst"), 1)],
        ["a b c d e f g h i j k l m n o p ", "q r s t"],
    ),
    "code is cut at lines, and not where it fits": (
        [Block("x", 1), Block("\n".join(f"a{i} = {i}. b" for i in range(6)), 2, "code"), Block("y = 1\n\nz. 2", 3, "code")],
        ["x", "a0 = 0. b\na1 = 1. b\na2 = 2. b\n", "a3 = 3. b\na4 = 4. b\na5 = 5. b", "y = 1\n\nz. 2"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STRUCTURE)
def test_by_structure(name: str) -> None:
    blocks, expected = STRUCTURE[name]
    assert texts(chunked(iter(blocks), DocumentsSection(chunk_tokens=16), count_units, source="x")) == expected


def test_chunks_that_are_too_short_are_left_out_by_name() -> None:
    options = DocumentsSection(min_characters=10)
    blocks = [Block("A", 1, "heading", 1), Block("B", 2, "heading", 1), Block("long enough text", 3)]
    assert list(chunked(iter(blocks), options, count_units, source="x")) == [
        BrokenRow(1, "a chunk of 1 characters is shorter than data.documents.min_characters (10)"),
        ReadRow(2, {"text": "B\n\nlong enough text", "source": "x", "section": ["B"], "chunk": 2}),
    ]


def test_half_of_a_surrogate_pair_is_a_named_skip() -> None:
    (row,) = chunked(iter([Block("a\ud83d", 1)]), DocumentsSection(), count_units, source="x")
    assert isinstance(row, BrokenRow)
    assert "surrogate" in row.reason


def test_the_record_says_what_was_counted() -> None:
    options = DocumentsSection(chunk_by="tokens", overlap_tokens=8)
    assert "words and marks (no tokenizer at hand)" in chunking_note(options, None)
    assert chunking_note(options, len) == (
        "documents cut by tokens into at most 512 tokens of the recipe's tokenizer, overlapping by 8"
    )


# Damage and malice

LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    + "]>"
)


def _tampered(document: bytes, name: str, content: str | bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(document)) as archive:
        members: dict[str, str | bytes] = {info.filename: archive.read(info) for info in archive.infolist()}
    return _zip({**members, name: content})


def _word() -> bytes:
    return _docx(lambda document: document.add_paragraph("text"))


BROKEN: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "PDF cut off": ("a.pdf", lambda: _pdf(["text " * 500])[:400], "no whole PDF file"),
    "PDF by name only": ("a.pdf", lambda: b"not a PDF", "does not begin with %PDF-"),
    "PDF of nothing but its head": ("a.pdf", lambda: b"%PDF-1.7\n", "no whole PDF file"),
    "PDF with a password": ("a.pdf", lambda: _pdf(["text"], password="secret"), "encrypted with a password"),
    "DOCX that is no ZIP": ("a.docx", lambda: b"PK", "no whole DOCX file"),
    "DOCX cut off": ("a.docx", lambda: _word()[:-200], "no whole DOCX file"),
    "DOCX that is another ZIP": ("a.docx", lambda: _zip({"a.txt": "x"}), "no whole DOCX file"),
    "DOCX with a password, or DOC": ("a.docx", lambda: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "encrypted document"),
    "DOCX with broken XML": ("a.docx", lambda: _tampered(_word(), "word/document.xml", "<w:document"), "not XML"),
    "DOCX with a million laughs": (
        "a.docx",
        lambda: _tampered(_word(), "word/document.xml", LAUGHS + "<w:document>&i;</w:document>"),
        "defines entities",
    ),
    "DOCX with a name that leads out": ("a.docx", lambda: _tampered(_word(), "../../evil.txt", "x"), "leads out of the archive"),
    "DOCX with an enormous part": (
        "a.docx",
        lambda: _tampered(_word(), "word/document.xml", b"<a>" + b" " * (65 * 2**20)),
        "larger than 64 MiB",
    ),
    "EPUB without a container": ("a.epub", lambda: _epub(**{"META-INF/container.xml": None}), "'META-INF/container.xml' is missing"),
    "EPUB without a spine item": ("a.epub", lambda: _epub(**{"OEBPS/text/two.xhtml": None}), "'OEBPS/text/two.xhtml' is missing"),
    "EPUB that lists what is not in its manifest": (
        "a.epub",
        lambda: _epub(**{"OEBPS/content.opf": _package({"one": "text/two.xhtml"}, ["one", "ghost"])}),
        "'ghost', which its manifest does not list",
    ),
    "EPUB that names a file outside": (
        "a.epub",
        lambda: _epub(**{"OEBPS/content.opf": _package({"one": "../../../etc/passwd"}, ["one"])}),
        "leads out of the archive",
    ),
    "EPUB without a spine": ("a.epub", lambda: _epub(**{"OEBPS/content.opf": _package({}, [])}), "spine names nothing"),
    "EPUB with a million laughs": (
        "a.epub",
        lambda: _epub(**{"META-INF/container.xml": LAUGHS + "<container>&i;</container>"}),
        "defines entities",
    ),
    "EPUB with protection": (
        "a.epub",
        lambda: _epub(
            **{
                "META-INF/encryption.xml": '<encryption><EncryptedData><CipherData><CipherReference '
                'URI="OEBPS/text/one%20a.xhtml"/></CipherData></EncryptedData></encryption>'
            }
        ),
        "encrypted (DRM)",
    ),
    "HTML nested without end": ("a.html", lambda: b"<div>" * 100_000 + b"x", "nested"),
    "HTML in UTF-16": ("a.html", lambda: "<p>x</p>".encode("utf-16"), "UTF-16"),
    "text in Latin-1": ("a.txt", lambda: b"fine\ncaf\xe9\n", "line 2: byte 0xe9 is not UTF-8"),
    "Markdown in Latin-1": ("a.md", lambda: b"# fine\n\ncaf\xe9\n", "line 3: byte 0xe9 is not UTF-8"),
    "text of blank lines": ("a.txt", lambda: b"\n \n", "holds no rows"),
    "empty PDF": ("a.pdf", lambda: b"", "holds no rows"),
    "HTML of nothing": ("a.html", lambda: b"<script>x</script>", "holds no rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_document_that_is_damaged_or_hostile_is_refused_by_name_and_soon(name: str, tmp_path: Path) -> None:
    file, content, reason = BROKEN[name]
    path = tmp_path / file
    path.write_bytes(content())
    started = time.process_time()
    with pytest.raises(DataError) as refused:
        list(read_rows(path))
    assert str(path) in str(refused.value)
    assert reason in str(refused.value)
    assert time.process_time() - started < 10


def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forge_pipeline.data.documents.archive.LARGEST_ARCHIVE", 2**20)
    (tmp_path / "a.epub").write_bytes(_epub(**{"image.jpg": b"\0" * 2**21}))
    with pytest.raises(DataError, match="unpacks to 6 files of 2 MiB"):
        list(read_rows(tmp_path / "a.epub"))


def test_a_damaged_page_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    from pypdf import PdfReader, PdfWriter
    from pypdf.generic import NameObject, NumberObject

    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(_pdf(["One.", "Two.", "Three."]))))
    writer.pages[1][NameObject("/Contents")] = NumberObject(7)
    writer.write(tmp_path / "a.pdf")
    rows = list(read_rows(tmp_path / "a.pdf"))
    assert [row.line for row in rows if isinstance(row, BrokenRow)] == [2]
    assert texts(rows) == ["One.\n\nThree."]


@pytest.mark.parametrize(
    ("file", "module"),
    [("a.pdf", "pypdf"), ("a.docx", "docx"), ("a.md", "markdown_it"), ("a.html", "bs4"), ("a.html", "lxml")],
)
def test_a_parser_that_is_not_installed_is_named_with_its_extra(
    file: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / file).write_bytes(b"%PDF-1.7")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(OptionalDependencyError, match=r"pip install 'forge-pipeline\[documents\]'"):
        list(read_rows(tmp_path / file))
