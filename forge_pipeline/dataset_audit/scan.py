"""One pass over the rows of one shard: everything that needs to look at a row only once.

`scan_shard` is a pure function of the shard and the options, so shards may be scanned in
any thread, process and order. Nothing in it is done row by row in Python, but where
something was found; Arrow and the compiled loops let go of the interpreter's lock, so
threads share a machine's cores.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forge_pipeline.dataset_audit import arrow_functions as pc
from forge_pipeline.dataset_audit import detection, language, pii_ml, quality
from forge_pipeline.dataset_audit.arrow_arrays import boolean_array, number_array, number_scalar, numpy_of, string_array
from forge_pipeline.dataset_audit.detection import FoundInTexts
from forge_pipeline.dataset_audit.machine_code import any_loaded
from forge_pipeline.dataset_audit.reading import Block, Shard, json_kernels, read_blocks
from forge_pipeline.dataset_audit.signatures import KeyArray, RowSignatures, sign, text_lengths
from forge_pipeline.dataset_audit.texts import Strings, blank_texts, row_texts, strings_of

__all__ = ["FINDINGS", "RowSignatures", "ScanOptions", "ShardScan", "scan_shard", "worth_compiling"]

FINDINGS = pa.schema(
    [
        ("row", pa.int64()),
        ("column", pa.string()),
        ("category", pa.string()),
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("source", pa.string()),
        ("severity", pa.string()),
        ("preview", pa.string()),
        ("placeholder", pa.bool_()),
    ]
)
"""Columns of `ShardScan.findings`; see `finding.RowFinding`. `row` counts from the beginning of the shard."""

_ODD = np.uint64(0x9E3779B97F4A7C15)
_COMPILED_FROM = 3 << 20  # bytes: from about 4,000 rows on, compiled loops save more than it takes to load them
_PACKED = 4  # how much larger rows are than the Parquet or compressed file that holds them
_PLAIN = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".arrow")
_SHORT, _REPEATED = 16, 8  # bytes of a value, and times it is repeated, where distinct values are scanned once


@dataclass(frozen=True)
class ScanOptions:
    """What to look for.

    Attributes:
        num_perm: Length of a MinHash signature; None asks for SimHash.
        quality: Whether to look at quality.
        pii_ml_language: Language of the named-entity model; None for no entities.
        jaccard: The threshold that MinHash bands are made for.
        compiled: Whether to use compiled loops where numba is installed: the result is the same. None decides by the
            size of the shard, which is right for one shard; `worth_compiling` decides for many.
        detect: Whether to look for personal data and credentials, and for languages: what is none of duplicates.
    """

    num_perm: int | None
    quality: bool
    pii_ml_language: str | None
    jaccard: float = 0.85
    compiled: bool | None = None
    detect: bool = True


@dataclass(frozen=True)
class ShardScan:
    """What one shard holds.

    Attributes:
        columns: Names of the columns, in order of first appearance.
        blank: Rows whose text is empty or white space.
        lengths: Characters of each row's text; shape (rows,).
        languages: Index into `language.CODES` of each row's language; shape (rows,).
        quality: Number of rows that fail each filter; ``flagged`` those that fail a basic one.
        parse_errors, decode_errors, non_object_rows: As in `reading.Block`.
        finding_counts: Findings by category, and whether they are documented placeholders.
        findings: One row a finding, as `FINDINGS` says: by row, in a row by column.
        signature_hashes: One number for each row: equal signatures, equal numbers; shape (rows,).
        signatures: What the near-duplicate search needs; None where it was written to `signatures_path`.
        signatures_path: The file that holds it, for `RowSignatures.read`; None where it was not written.
    """

    row_count: int
    columns: tuple[str, ...]
    blank: int
    lengths: npt.NDArray[np.int32]
    languages: npt.NDArray[np.uint8]
    quality: Counter[str]
    parse_errors: int
    decode_errors: int
    non_object_rows: int
    finding_counts: Counter[tuple[str, bool]]
    findings: pa.Table
    signature_hashes: KeyArray
    signatures: RowSignatures | None
    signatures_path: Path | None = None


def worth_compiling(shards: Iterable[Shard]) -> bool:
    """Whether so much is to be scanned that compiled loops save more time than it takes to load them."""
    paths = {shard.path for shard in shards}
    sizes = (path.stat().st_size * (1 if path.suffix in _PLAIN else _PACKED) for path in paths)
    return sum(sizes) >= _COMPILED_FROM


def scan_shard(shard: Shard, options: ScanOptions, side: Path | None = None) -> ShardScan:
    """Read and scan one shard.

    Args:
        shard: What to read.
        options: What to look for.
        side: A directory to write the signatures to; None keeps them in memory.

    Raises:
        OSError: The file cannot be read, or the signatures cannot be written.
        DataError: The file is broken as a whole.
    """
    compiled = options.compiled
    if compiled is None:
        compiled = any_loaded() or worth_compiling([shard])
    parts = [_BlockScan.of(block, options, compiled) for block in read_blocks(shard, compiled=compiled)]
    parts = parts or [_BlockScan.of(Block(0, ()), options, compiled)]
    starts = np.cumsum([0, *(len(part.lengths) for part in parts)]).tolist()
    findings = pa.concat_tables(_moved(part.findings, start) for part, start in zip(parts, starts, strict=False))
    signatures = RowSignatures.concatenated([part.signatures for part in parts])
    path = None
    if side is not None:
        path = side / _side_name(shard)
        signatures.write(path)
    return ShardScan(
        row_count=starts[-1],
        columns=tuple(dict.fromkeys(name for part in parts for name in part.block.columns)),
        blank=sum(part.blank for part in parts),
        lengths=np.concatenate([part.lengths for part in parts]),
        languages=np.concatenate([part.languages for part in parts]),
        quality=sum((part.quality for part in parts), Counter()),
        parse_errors=sum(part.block.parse_errors for part in parts),
        decode_errors=sum(part.block.decode_errors for part in parts),
        non_object_rows=sum(part.block.non_object_rows for part in parts),
        finding_counts=Counter(zip(findings["category"].to_pylist(), findings["placeholder"].to_pylist(), strict=True)),
        findings=findings,
        signature_hashes=_in_one(signatures.keys),
        signatures=signatures if path is None else None,
        signatures_path=path,
    )


def _in_one(keys: KeyArray) -> KeyArray:
    """One number for each row of keys: equal rows, equal numbers."""
    if keys.shape[1] == 1:
        return np.array(keys[:, 0])
    odd = np.arange(1, 2 * keys.shape[1], 2, dtype=np.uint64) * _ODD
    return np.asarray(keys @ odd)


def load(options: ScanOptions) -> None:
    """Load what every shard of many rows needs, before the first one is scanned."""
    rows = tuple({"text": f"{index} {_LOADS_VALIDATORS if options.detect else ''}"} for index in range(2))
    _BlockScan.of(Block(len(rows), ("text",), rows=rows), options, compiled=options.compiled is not False)
    json_kernels()


_LOADS_VALIDATORS = "Mail a@b.org, call +49 30 901820, pay to DE89 3704 0044 0532 0130 00."


def _moved(findings: pa.Table, rows: int) -> pa.Table:
    """The findings of a block that begins behind so many rows."""
    if not rows:
        return findings
    return findings.set_column(0, FINDINGS.field("row"), pc.add(findings["row"], number_scalar(rows, pa.int64())))


def _side_name(shard: Shard) -> str:
    place = f"{shard.path}\0{shard.split}\0{shard.start}\0{shard.stop}"
    return f"signatures-{hashlib.sha256(place.encode(errors='surrogateescape')).hexdigest()[:24]}.arrow"


@dataclass(frozen=True)
class _BlockScan:
    """What one block holds; `block` without its rows."""

    block: Block
    blank: int
    lengths: npt.NDArray[np.int32]
    languages: npt.NDArray[np.uint8]
    quality: Counter[str]
    findings: pa.Table
    signatures: RowSignatures

    @classmethod
    def of(cls, block: Block, options: ScanOptions, compiled: bool) -> "_BlockScan":
        strings = strings_of(block)
        texts = row_texts(strings, block.row_count)
        return cls(
            block=_without_rows(block),
            blank=int(blank_texts(texts).sum()),
            lengths=text_lengths(texts, compiled=compiled),
            languages=language.identify(texts, compiled=compiled) if options.detect else np.zeros(len(texts), np.uint8),
            quality=_quality(texts, compiled) if options.quality else Counter(),
            findings=_findings(strings if options.detect else [], options.pii_ml_language, compiled),
            signatures=sign(texts, num_perm=options.num_perm, jaccard=options.jaccard, compiled=compiled),
        )


def _without_rows(block: Block) -> Block:
    return Block(
        block.row_count,
        block.columns,
        parse_errors=block.parse_errors,
        decode_errors=block.decode_errors,
        non_object_rows=block.non_object_rows,
    )


def _quality(texts: pa.LargeStringArray, compiled: bool) -> Counter[str]:
    """Rows by failed filter. Only the basic ones flag a row: chat turns are no web documents, and trip the others."""
    masks = quality.quality_masks(texts, families=tuple(quality.FAMILIES), compiled=compiled)
    failed = {reason: int((masks >> np.uint32(bit) & np.uint32(1)).sum()) for bit, reason in enumerate(quality.REASONS)}
    basic = np.uint32((1 << len(quality.FAMILIES["basic"])) - 1)
    return Counter({**failed, "flagged": int(np.count_nonzero(masks & basic))})


@cache
def _entity_finder(language: str) -> pii_ml.FindEntities:
    return pii_ml.entity_finder(language)


def _findings(strings: Sequence[Strings], entities: str | None, compiled: bool) -> pa.Table:
    find_entities = _entity_finder(entities) if entities else None
    tables = [_table(item, _found(item, find_entities, compiled)) for item in strings]
    table = pa.concat_tables([pa.Table.from_batches([], FINDINGS), *tables])
    order = np.argsort(numpy_of(table["row"]), kind="stable")  # within a row: in the order of its columns
    return pc.take(table, number_array(order)).combine_chunks()


def _found(item: Strings, find_entities: pii_ml.FindEntities | None, compiled: bool) -> FoundInTexts:
    """What is found in the strings of one path; where they are few short ones over and over, each is scanned once.

    Compiled loops are done with all of them sooner than Arrow has found out which are equal.
    """
    count = len(item.texts)
    is_slow = find_entities is not None or not compiled
    if is_slow and count and item.texts.nbytes < (_SHORT + 8) * count:
        encoded = item.texts.dictionary_encode()
        if len(encoded.dictionary) * _REPEATED < count:
            found = detection.scan_texts(encoded.dictionary, entities=find_entities, compiled=compiled)
            return _repeated(found, numpy_of(encoded.indices)) if len(found.text) else found
    return detection.scan_texts(item.texts, entities=find_entities, compiled=compiled)


def _repeated(found: FoundInTexts, indices: npt.NDArray[np.int32]) -> FoundInTexts:
    """What was found in distinct texts, once for each text that is one of them."""
    of_distinct: dict[int, list[int]] = {}
    for number, text in enumerate(found.text.tolist()):
        of_distinct.setdefault(text, []).append(number)
    holders = np.flatnonzero(np.isin(indices, list(of_distinct))).tolist()
    chosen = [(text, number) for text in holders for number in of_distinct[int(indices[text])]]
    numbers = np.array([number for _, number in chosen], dtype=np.int64)
    return FoundInTexts(
        text=np.array([text for text, _ in chosen], dtype=np.int64),
        category=found.category[numbers],
        start=found.start[numbers],
        end=found.end[numbers],
        placeholder=found.placeholder[numbers],
        preview=[found.preview[number] for number in numbers.tolist()],
    )


@cache
def _categories() -> tuple[pa.StringArray, pa.StringArray, pa.StringArray]:
    """Name, source and severity of each category."""
    names = detection.CATEGORIES
    return (
        string_array(list(names)),
        string_array([detection.SOURCE[name] for name in names]),
        string_array([detection.SEVERITY[name] for name in names]),
    )


def _table(item: Strings, found: FoundInTexts) -> pa.Table:
    if not len(found.text):
        return pa.Table.from_batches([], FINDINGS)
    indices = found.text.astype(np.int64)
    rows, _ = item.places.of(indices)
    categories, sources, severities = _categories()
    codes = number_array(found.category)
    columns = {
        "row": number_array(rows),
        "column": string_array(item.paths(indices)),
        "category": pc.take(categories, codes),
        "start": number_array(found.start),
        "end": number_array(found.end),
        "source": pc.take(sources, codes),
        "severity": pc.take(severities, codes),
        "preview": string_array(found.preview),
        "placeholder": boolean_array(found.placeholder),
    }
    return pa.Table.from_arrays(list(columns.values()), schema=FINDINGS)
