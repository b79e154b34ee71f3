"""One pass over the rows of one shard: everything that needs to look at a row only once.

`scan_shard` is a pure function of the shard and the options, so shards may be scanned in
any process and order; `scan_all` returns the results in reading order whatever the
number of workers.
"""

import hashlib
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from forge_pipeline.dataset_audit import pii, pii_ml, secret_scan
from forge_pipeline.dataset_audit.finding import Finding, RowFinding, shape, without_overlaps
from forge_pipeline.dataset_audit.minhash import minhash_rows, permutations
from forge_pipeline.dataset_audit.quality import quality_flags
from forge_pipeline.dataset_audit.reading import Block, Shard, read_blocks
from forge_pipeline.dataset_audit.simhash import simhash_rows
from forge_pipeline.dataset_audit.texts import Strings, row_texts, strings_of
from forge_pipeline.dataset_audit.tokens import IntArray, Tokenizer, TokenRows

# Secrets win over personal data: the digits inside a key are not a phone number.
_PRECEDENCE = (*secret_scan.FAMILIES, *pii.CATEGORIES, *pii_ml.SEVERITY)
_SOURCE: dict[str, Literal["pii", "pii_ml", "secret"]] = {
    **dict.fromkeys(pii_ml.SEVERITY, "pii_ml"),
    **dict.fromkeys(pii.CATEGORIES, "pii"),
    **dict.fromkeys(secret_scan.FAMILIES, "secret"),
}


@dataclass(frozen=True)
class ScanOptions:
    """What to look for. `num_perm` None asks for SimHash, `pii_ml_language` None for no entities."""

    num_perm: int | None
    quality: bool
    pii_ml_language: str | None


@dataclass(frozen=True)
class ShardScan:
    """What one shard, or several of them put together, holds.

    Attributes:
        findings: `row` counts from the beginning of the shard.
        lengths: Characters of each row's text; shape (rows,).
        text, tokens, token_counts, values, signature: As in `near_duplicates.Signatures`, with counts for offsets.
        quality: Number of rows that fail each heuristic; ``flagged`` those that fail any.
    """

    row_count: int
    columns: tuple[str, ...]
    findings: tuple[RowFinding, ...]
    lengths: IntArray
    blank: int
    text: npt.NDArray[np.uint64]
    tokens: npt.NDArray[np.uint64]
    token_counts: IntArray
    values: npt.NDArray[np.uint32]
    signature: npt.NDArray[np.uint64] | npt.NDArray[np.uint32]
    quality: Counter[str]
    parse_errors: int
    decode_errors: int
    non_object_rows: int

    @classmethod
    def empty(cls, num_perm: int | None) -> "ShardScan":
        """The scan of no rows."""
        return _scan_block(Block(0, ()), "", 0, ScanOptions(num_perm, quality=False, pii_ml_language=None))


def scan_all(shards: Sequence[Shard], options: ScanOptions, workers: int) -> Iterator[ShardScan]:
    """Scan the shards, in this process or in `workers` others; results come in the order of the shards."""
    if workers == 1 or len(shards) < 2:
        for shard in shards:
            yield scan_shard(shard, options)
        return
    context = multiprocessing.get_context("spawn")  # threads of Arrow or torch do not survive a fork
    with ProcessPoolExecutor(min(workers, len(shards)), mp_context=context) as pool:
        yield from pool.map(scan_shard, shards, [options] * len(shards))


def scan_shard(shard: Shard, options: ScanOptions) -> ShardScan:
    """Read and scan one shard."""
    scans, row = [], 0
    for block in read_blocks(shard):
        scans.append(_scan_block(block, shard.split, row, options))
        row += block.row_count
    return merged([ShardScan.empty(options.num_perm), *scans])


def merged(scans: Sequence[ShardScan]) -> ShardScan:
    """Consecutive scans as one. The rows in their findings must already count from the first of them."""
    return ShardScan(
        row_count=sum(scan.row_count for scan in scans),
        columns=tuple(dict.fromkeys(name for scan in scans for name in scan.columns)),
        findings=tuple(finding for scan in scans for finding in scan.findings),
        lengths=np.concatenate([scan.lengths for scan in scans]),
        blank=sum(scan.blank for scan in scans),
        text=np.concatenate([scan.text for scan in scans]),
        tokens=np.concatenate([scan.tokens for scan in scans]),
        token_counts=np.concatenate([scan.token_counts for scan in scans]),
        values=np.concatenate([scan.values for scan in scans]),
        signature=np.concatenate([scan.signature for scan in scans]),
        quality=sum((scan.quality for scan in scans), Counter()),
        parse_errors=sum(scan.parse_errors for scan in scans),
        decode_errors=sum(scan.decode_errors for scan in scans),
        non_object_rows=sum(scan.non_object_rows for scan in scans),
    )


def shifted(scan: ShardScan, rows: int) -> ShardScan:
    """The scan with the rows of its findings counted from `rows` rows earlier."""
    return replace(scan, findings=tuple(replace(finding, row=finding.row + rows) for finding in scan.findings))


def _scan_block(block: Block, split: str, first_row: int, options: ScanOptions) -> ShardScan:
    strings = strings_of(block)
    texts = row_texts(strings, block.row_count)
    tokens = _tokenizer().tokenize(texts)
    find_entities = _entity_finder(options.pii_ml_language) if options.pii_ml_language else None
    findings = [finding for item in strings for finding in _findings(item, split, first_row, find_entities)]
    findings.sort(key=lambda finding: finding.row)  # within a row: in the order of its columns
    return ShardScan(
        row_count=block.row_count,
        columns=block.columns,
        findings=tuple(findings),
        lengths=pc.utf8_length(texts).to_numpy(zero_copy_only=False).astype(np.int64),
        blank=int(pc.sum(pc.equal(pc.utf8_trim_whitespace(texts), "")).as_py() or 0),
        text=_text_hashes(texts),
        tokens=_token_set_hashes(tokens, by_count=options.num_perm is None),
        token_counts=np.diff(tokens.offsets),
        values=(tokens.hashes & np.uint64(0xFFFFFFFF)).astype(np.uint32),
        signature=_signatures(tokens, options.num_perm),
        quality=_quality(texts) if options.quality else Counter(),
        parse_errors=block.parse_errors,
        decode_errors=block.decode_errors,
        non_object_rows=block.non_object_rows,
    )


@cache
def _tokenizer() -> Tokenizer:
    """One a process: it remembers words, which changes how fast it is and nothing else."""
    return Tokenizer()


@cache
def _entity_finder(language: str) -> pii_ml.FindEntities:
    return pii_ml.entity_finder(language)


def _findings(
    strings: Strings, split: str, first_row: int, find_entities: Callable[[str], list[Finding]] | None
) -> Iterator[RowFinding]:
    may_hold_secrets, may_hold_pii = (
        pc.match_substring_regex(strings.texts, prefilter).to_numpy(zero_copy_only=False)
        for prefilter in (secret_scan.PREFILTER, pii.PREFILTER)
    )
    everywhere = np.full(len(strings.texts), find_entities is not None)
    chosen = np.flatnonzero(may_hold_secrets | may_hold_pii | everywhere)
    for index, text in zip(chosen.tolist(), strings.texts.take(pa.array(chosen)).to_pylist(), strict=True):
        candidates = [
            *(secret_scan.find_secrets(text) if may_hold_secrets[index] else ()),
            *(pii.find_pii(text) if may_hold_pii[index] else ()),
            *(find_entities(text) if find_entities else ()),
        ]
        for finding in without_overlaps(candidates, _PRECEDENCE):
            yield RowFinding(
                split=split,
                row=first_row + int(strings.rows[index]),
                column=strings.path(index),
                category=finding.kind,
                start=finding.start,
                end=finding.end,
                source=_SOURCE[finding.kind],
                severity=finding.severity,
                preview=shape(text[finding.start : finding.end]),
                placeholder=finding.placeholder,
            )


def _text_hashes(texts: pa.StringArray) -> npt.NDArray[np.uint64]:
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts.to_pylist())
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def _token_set_hashes(rows: TokenRows, *, by_count: bool) -> npt.NDArray[np.uint64]:
    """One number for a row's tokens, equal for equal sets (or, `by_count`, equal bags); 0 for none.

    A sum of token hashes modulo 2**64, so the order of tokens does not count.
    """
    weights = rows.counts.astype(np.uint64) if by_count else np.uint64(1)
    sums = np.zeros(len(rows.indices) + 1, dtype=np.uint64)
    np.cumsum(rows.hashes * weights, out=sums[1:])
    totals: npt.NDArray[np.uint64] = sums[rows.offsets[1:]] - sums[rows.offsets[:-1]]
    filled = np.diff(rows.offsets) > 0
    return np.where(filled, np.maximum(totals, np.uint64(1)), np.uint64(0))


def _signatures(rows: TokenRows, num_perm: int | None) -> npt.NDArray[np.uint64] | npt.NDArray[np.uint32]:
    return simhash_rows(rows) if num_perm is None else minhash_rows(rows, *permutations(num_perm))


def _quality(texts: pa.StringArray) -> Counter[str]:
    failed: Counter[str] = Counter()
    for text in texts.to_pylist():
        reasons = quality_flags(text)
        failed.update(reasons)
        failed["flagged"] += bool(reasons)
    return failed
