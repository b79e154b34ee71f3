"""Whether recent data still looks like the data that a model was trained on.

Three figures, each of one aspect of a row's text (`data.row_texts`):

- the population stability index of text lengths over the deciles of the training data, ``sum((p - q) ln(p / q))``
  (Siddiqi, Credit Risk Scorecards, 2006; customarily below 0.1 stable, above 0.2 to 0.25 moved. It is the symmetrised
  Kullback-Leibler divergence of Jeffreys, 1946);
- the two-sample Kolmogorov-Smirnov distance of the same lengths, 0 to 1, which needs no bins;
- the population stability index of the shares of languages (`language`).

An empty bin counts as half a row, so that the index stays finite. The figures say that the data moved, not that the
model got worse; a recipe's `automation.drift` says what follows.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forge_pipeline.data.artifacts import RawDataset
from forge_pipeline.data.readers.row import BrokenRow
from forge_pipeline.data.row_texts import row_text
from forge_pipeline.data.sources import resolve_source
from forge_pipeline.dataset_audit import language
from forge_pipeline.integrity import Digest, json_digest

if TYPE_CHECKING:
    from forge_pipeline.config.automation import DriftSection

_BINS = 10
_CHARACTERS = 20_000  # of one text; more would only cost time

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DriftReport:
    """Recent rows against training rows.

    Attributes:
        recent, reference: Digests of the recent data and of the raw dataset that was trained on.
        recent_rows, reference_rows: Rows looked at.
        skipped: Recent rows that could not be read.
        length_psi, length_ks, language_psi: None where there were too few recent rows, and of languages where they
            cannot be identified.
        recent_languages, reference_languages: Share of each language with at least one row in a hundred.
        passed: The limits that were passed, as sentences; empty: none.
        not_measured: What was not measured, and why; "" where all was.
    """

    recent: Digest
    reference: Digest
    recent_rows: int
    reference_rows: int
    skipped: int
    length_psi: float | None
    length_ks: float | None
    language_psi: float | None
    recent_languages: dict[str, float]
    reference_languages: dict[str, float]
    passed: tuple[str, ...]
    not_measured: str = ""

    @property
    def has_drifted(self) -> bool:
        return bool(self.passed)


def measure_drift(section: "DriftSection", reference: RawDataset, *, offline: bool, scratch: Path) -> DriftReport:
    """Compare `section.data`, as it is now, with the train split of `reference`.

    Args:
        offline: Ask the Hub for nothing.
        scratch: Where files behind a URL are put; it need not exist.

    Raises:
        DataError: The recent data is missing or cannot be read.
    """
    source = resolve_source(section.data, offline=offline, scratch=scratch)
    newest: deque[str] = deque(maxlen=section.rows)
    skipped = 0
    for part in source.parts:
        for row in part.read():
            if isinstance(row, BrokenRow):
                skipped += 1
            else:
                newest.append(row_text(row.values)[:_CHARACTERS])
    recent = list(newest)
    old = [row_text(row)[:_CHARACTERS] for row in _spread(reference, section.rows)]
    digest = source.digest or json_digest([source.uri, source.revision])
    return compare(section, recent, old, skipped=skipped, digests=(digest, reference.digest))


def compare(
    section: "DriftSection",
    recent: list[str],
    reference: list[str],
    *,
    skipped: int = 0,
    digests: tuple[Digest, Digest],
) -> DriftReport:
    """The figures for two lists of texts, and which limits they pass."""
    if len(recent) < section.min_rows or not reference:
        words = f"{len(recent)} recent rows are fewer than the {section.min_rows} of automation.drift.min_rows"
        return DriftReport(*digests, len(recent), len(reference), skipped, None, None, None, {}, {}, (), words)
    lengths = _lengths(recent), _lengths(reference)
    psi = population_stability(*_decile_counts(*lengths))
    ks = kolmogorov_smirnov(*lengths)
    absent = language.available()
    shares: tuple[dict[str, float], dict[str, float]] = ({}, {})
    language_psi = None
    if absent is None:
        counts = _language_counts(recent), _language_counts(reference)
        language_psi = population_stability(*_grouped(*counts))
        shares = _shares(counts[0]), _shares(counts[1])
    found = (
        ("length_psi", psi, section.max_length_psi),
        ("length_ks", ks, section.max_length_ks),
        ("language_psi", language_psi, section.max_language_psi),
    )
    passed = tuple(
        f"{name} {value:.3f} is above {limit:g}" for name, value, limit in found if value is not None and value > limit
    )
    return DriftReport(
        *digests, len(recent), len(reference), skipped, psi, ks, language_psi, *shares, passed, absent or ""
    )


def population_stability(recent: Counts, reference: Counts) -> float:
    """PSI of two vectors of counts over the same bins, at least 0; 0 means equal shares."""
    p, q = (np.maximum(counts, 0.5) / np.maximum(counts, 0.5).sum() for counts in (recent, reference))
    return float(np.sum((p - q) * np.log(p / q)))


def kolmogorov_smirnov(recent: Counts, reference: Counts) -> float:
    """Largest difference between two empirical distribution functions, 0 to 1."""
    values = np.unique(np.concatenate([recent, reference]))
    below = [np.searchsorted(np.sort(each), values, side="right") / len(each) for each in (recent, reference)]
    return float(np.max(np.abs(below[0] - below[1])))


def _spread(reference: RawDataset, limit: int) -> Iterator[dict[str, Any]]:
    """At most `limit` rows of train, evenly spread."""
    rows = reference.provenance.rows["train"]
    step = max(1, -(-rows // limit))
    return islice(reference.rows("train"), 0, None, step)


def _lengths(texts: Iterable[str]) -> Counts:
    return np.fromiter((len(text) for text in texts), dtype=np.int64)


def _decile_counts(recent: Counts, reference: Counts) -> tuple[Counts, Counts]:
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, _BINS + 1)[1:-1]))
    return tuple(
        np.bincount(np.searchsorted(edges, lengths, side="left"), minlength=len(edges) + 1)
        for lengths in (recent, reference)
    )  # type: ignore[return-value]


def _language_counts(texts: list[str]) -> Counts:
    return np.bincount(language.identify(pa.array(texts, pa.large_string())), minlength=len(language.CODES))


def _grouped(recent: Counts, reference: Counts) -> tuple[Counts, Counts]:
    """Languages of which neither side has one row in a hundred are one bin: a single row of them says nothing."""
    seen = (recent >= 0.01 * recent.sum()) | (reference >= 0.01 * reference.sum())
    return tuple(np.append(counts[seen], counts[~seen].sum()) for counts in (recent, reference))  # type: ignore[return-value]


def _shares(counts: Counts) -> dict[str, float]:
    shares = counts / counts.sum()
    return {language.CODES[code]: round(float(shares[code]), 4) for code in np.flatnonzero(shares >= 0.01)}
