"""The results page, from the results and nothing else."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.audit import Correctness, Results, Run, Series
    from benchmarks.true_duplicates import Duplicates
    from benchmarks.true_findings import KindRecall, Languages

_OURS = "forge_pipeline.dataset_audit"


def _cpu(run: "Run") -> float:
    return run.cpu_seconds


def _wall(run: "Run") -> float:
    return run.wall_seconds


def _peak(run: "Run") -> float:
    return run.peak_mb


@dataclass(frozen=True)
class Goal:
    """What was to be reached, and what was: `met` is None where this run did not measure it."""

    name: str
    wanted: str
    measured: str
    met: bool | None


def render(results: "Results") -> str:
    """The page as Markdown."""
    parts = [_heading(results), _goals_table(goals(results)), _speed(results), _small_and_special(results),
             _growth(results)]  # fmt: skip
    if results.right is None:
        parts.append("Findings, duplicates and languages were not compared with the truth: the run ended before.")
    else:
        right = results.right
        parts += [_duplicates(right), _repeats(right), _findings(right), _languages(right)]
    parts.append(_NOTES)
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def _share(part: float | None, whole: float) -> str:
    return f"{part / whole:.3f}" if whole and part is not None else "-"


def _heading(results: "Results") -> str:
    machine = results.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    load = ", ".join(f"{value:.2f}" for value in machine.load)
    corpora = "; ".join(f"{rows:,} rows = {size / 1e6:.1f} MB" for rows, (size, _) in sorted(results.corpora.items()))
    digest = next(iter(results.corpora.values()))[1][:16]
    return f"""# Dataset audit: measured

Written by `{results.command}` on {machine.date}; every figure is of that run. How to repeat it:
[benchmarks/README.md](../../benchmarks/README.md).

- Machine: {machine.cpu}, {machine.cores} cores, {machine.memory_gb:.0f} GiB, {machine.system}; Python \
{machine.python}. Load averages at the start: {load}.
- Versions: {versions}.
- Corpus (`benchmarks/corpus.py`, seed 0, prose {digest}): {corpora}.
- Peer: `forgelm` 0.11.1 through its own `audit_dataset`, with its extras for language and MinHash. Ours through \
`audit_dataset` with the same arguments. Each audit is a fresh process, ours and theirs in turn, imports counted, \
{results.repeat} runs each, side by side {results.ours} of ours for each of theirs, since an audit of some seconds \
feels what else the machine does more than one of minutes; medians, with smallest and largest in brackets."""


# --- goals --------------------------------------------------------------------------------------------------------


def goals(results: "Results") -> list[Goal]:
    """The goals of the audit's design, and whether this run reached them."""
    rows = max((series.rows for series in results.compared), default=200_000)
    slopes = _slopes(results.growth)
    bend = max(slopes) / min(slopes) - 1 if len(slopes) > 1 else None
    ours, theirs = (series.median(_cpu) for series in results.cold)
    speed = [
        Goal(f"CPU, {rows:,} rows, MinHash, one worker", "at least 60 times less",
             *_at_least(_ratio(results, rows, 1, _cpu), 60, "{:.1f} times")),
        Goal(f"wall, {rows:,} rows, two workers, theirs with one", "at least 100 times less",
             *_at_least(_ratio(results, rows, 2, _wall), 100, "{:.1f} times")),
        Goal("growth from step to step", "slopes within 15 %",
             "not measured" if bend is None else f"{bend:+.0%}", None if bend is None else bend <= 0.15),
        _memory_goal(results),
        Goal("1,000 rows, CPU", "no more than theirs", f"{ours:.2f} s, theirs {theirs:.2f} s", ours <= theirs),
    ]  # fmt: skip
    return speed if results.right is None else [*speed, *_correctness_goals(results.right)]


def _memory_goal(results: "Results") -> Goal:
    """Of the largest audit of ours, in whatever part of the run."""
    runs = [series for series in (*results.compared, *results.growth) if series.who == _OURS]
    largest = max(runs, key=lambda series: series.rows, default=None)
    if largest is None:
        return Goal("peak memory, 1,000,000 rows", "under 2 GB", "not measured", None)
    peak = largest.median(_peak)
    met = peak < 2000 if largest.rows >= 1_000_000 else None
    return Goal(f"peak memory, {largest.rows:,} rows", "under 2 GB", f"{peak:,.0f} MB", met)


def _correctness_goals(right: "Correctness") -> list[Goal]:
    found, ours = right.findings, right.duplicates
    flagged = sum(kind.found for kind in found.kinds if kind.what == "look_alike")
    return [
        Goal("near-duplicate rows, precision", "at least 0.95", *_at_least(ours.precision if ours else None, 0.95)),
        Goal("near-duplicate pairs, recall", "at least 0.95", *_at_least(ours.pair_recall if ours else None, 0.95)),
        Goal("personal data, recall", "at least 0.97", *_at_least(found.recall("pii"), 0.97)),
        Goal("secrets, recall", "at least 0.97", *_at_least(found.recall("secret"), 0.97)),
        Goal("look-alikes flagged", "0", str(flagged), flagged == 0),
    ]


def _at_least(value: float | None, bound: float, form: str = "{:.4f}") -> tuple[str, bool | None]:
    return ("not measured", None) if value is None else (form.format(value), value >= bound)


def _ratio(results: "Results", rows: int, workers: int, of: Callable[["Run"], float]) -> float | None:
    """How often our median goes into that of the peer with one worker; None where one of them was not run."""
    here = [series for series in results.compared if series.rows == rows and series.method == "minhash"]
    ours = [series for series in here if series.who == _OURS and series.workers == workers]
    theirs = [series for series in here if series.who != _OURS and series.workers == 1]
    return theirs[0].median(of) / ours[0].median(of) if ours and theirs else None


def _goals_table(measured: Sequence[Goal]) -> str:
    said = {True: "yes", False: "**no**", None: "-"}
    return "## Goals\n\n" + _table(
        ("goal", "wanted", "measured", "met"),
        [(goal.name, goal.wanted, goal.measured, said[goal.met]) for goal in measured],
    )


# --- speed --------------------------------------------------------------------------------------------------------


def _name(series: "Series") -> str:
    return ("ours" if series.who == _OURS else "ForgeLM") + f", {series.workers} worker{'s' * (series.workers > 1)}"


def _median(series: "Series", of: Callable[["Run"], float]) -> str:
    low, high = series.spread(of)
    return f"{series.median(of):.2f} ({low:.2f}–{high:.2f})"


def _speed(results: "Results") -> str:
    if not results.compared:
        return ""
    rows = []
    for series in results.compared:
        base = next((other for other in results.compared if _is_base(other, series)), None)
        cpu, wall, peak = series.median(_cpu), series.median(_wall), series.median(_peak)
        times = [
            f"{base.median(of) / series.median(of):.1f}" if base and base is not series else "" for of in (_cpu, _wall)
        ]
        what = (f"{series.rows:,}", series.method, _name(series))
        spent = (_median(series, _cpu), _median(series, _wall))
        rate = (f"{cpu / series.rows * 1e6:.1f}", f"{series.rows / wall:,.0f}")
        rows.append((*what, *spent, *rate, f"{peak:,.0f}", *times))
    head = ("rows", "method", "who", "CPU s", "wall s", "CPU µs/row", "rows/s", "peak MB", "× CPU", "× wall")
    return (
        "## Side by side\n\nThe factors are over ForgeLM with one worker on the same rows. Peak memory is of the "
        "largest process.\n\n" + _table(head, rows)
    )


def _is_base(series: "Series", of: "Series") -> bool:
    same = series.rows == of.rows and series.method == of.method
    return same and series.who != _OURS and series.workers == 1


def _small_and_special(results: "Results") -> str:
    rows = []
    for title, members in (("cold start", results.cold), ("with equal rows", results.identical)):
        for series in members:
            rows.append((title, f"{series.rows:,}", _name(series), _median(series, _cpu), _median(series, _wall),
                         f"{series.median(_peak):,.0f}"))  # fmt: skip
    if results.first_run:
        run = results.first_run
        rows.append(("first run after installation", f"{run.rows:,}", "ours, 1 worker", f"{run.cpu_seconds:.2f}",
                     f"{run.wall_seconds:.2f}", f"{run.peak_mb:,.0f}"))  # fmt: skip
    return (
        "## A small file, many equal rows, the very first run\n\nMinHash. The corpus with equal rows is the smallest "
        "compared one with copies of one row added; the first run compiles the kernels that later runs load.\n\n"
        + _table(("case", "rows", "who", "CPU s", "wall s", "peak MB"), rows)
    )


def _slopes(growth: Sequence["Series"]) -> list[float]:
    """CPU seconds a row from each size to the next."""
    return [
        (after.median(_cpu) - before.median(_cpu)) / (after.rows - before.rows)
        for before, after in itertools.pairwise(growth)
    ]


def _growth(results: "Results") -> str:
    if not results.growth:
        return "Growth was not measured: the run ended before."
    slopes: list[float | None] = [None, *_slopes(results.growth)]
    rows = [
        (f"{series.rows:,}", _median(series, _cpu), _median(series, _wall),
         f"{series.median(_cpu) / series.rows * 1e6:.1f}", f"{slope * 1e6:.1f}" if slope is not None else "",
         f"{series.median(_peak):,.0f}")
        for series, slope in zip(results.growth, slopes, strict=True)
    ]  # fmt: skip
    head = ("rows", "CPU s", "wall s", "CPU µs/row", "µs per further row", "peak MB")
    return "## Growth, ours\n\nMinHash, one worker.\n\n" + _table(head, rows)


# --- correctness --------------------------------------------------------------------------------------------------


def _duplicates(results: "Correctness") -> str:
    rows: list[tuple[object, ...]] = []
    for who, size, found in (
        ("ours", results.correct_rows, results.duplicates),
        ("ours", results.peer_rows, results.our_duplicates_there),
        ("ForgeLM", results.peer_rows, results.peer_duplicates),
    ):
        if found is not None and (who, f"{size:,}") not in [row[:2] for row in rows]:
            rows.append((who, f"{size:,}", *_duplicate_cells(found)))
    true = results.peer_duplicates.within if results.peer_duplicates else {}
    counts = "; ".join(
        f"{split} {true[split]:,}, {ours:,} and {theirs:,}" for split, (ours, theirs) in results.pair_counts.items()
    )
    head = ("who", "rows", "true rows", "found", "precision", "recall", "true pairs", "recall",
            "leaked into validation", "into test")  # fmt: skip
    return f"""## Near-duplicates

MinHash, Jaccard 0.85. The truth is every pair of rows in the corpus, planted or not, whose sets of lower-cased \
`\\w+` tokens have a Jaccard similarity of at least 0.85, found by an exact join (`benchmarks/exact_join.py`). A row \
counts as right if it was found together with a row that it is truly similar to; a pair, if its rows were found \
together. Leaked rows are those with a partner in train: true, and reported.

{_table(head, rows)}

Pairs inside each split at {results.peer_rows:,} rows, in truth and as the two reports count them: {counts}."""


def _duplicate_cells(found: "Duplicates") -> tuple[object, ...]:
    leaks = [f"{true}, {reported}" for true, reported in found.leaks.values()]
    return (f"{found.true_rows:,}", f"{found.found_rows:,}", f"{found.precision:.4f}", f"{found.row_recall:.4f}",
            f"{found.true_pairs:,}", f"{found.pair_recall:.4f}", *leaks)  # fmt: skip


def _repeats(results: "Correctness") -> str:
    rows = [
        (kind.what.replace("_", " "), kind.kind, kind.planted, kind.similar,
         *(_share(found, kind.similar) for found in kind.found))
        for kind in results.repeats
    ]  # fmt: skip
    head = ("planted", "differs by", "rows", "with Jaccard ≥ 0.85", "ours", "ForgeLM")
    return f"Recall by kind, at {results.peer_rows:,} rows:\n\n" + _table(head, rows)


def _findings(results: "Correctness") -> str:
    found = results.findings
    tables = []
    for what, title in (("pii", "Personal data"), ("secret", "Secrets")):
        rows = [_recall_cells(kind) for kind in found.kinds if kind.what == what]
        total = ("**all**", sum(kind.planted for kind in found.kinds if kind.what == what),
                 f"{found.recall(what):.4f}", f"{found.recall(what, lambda kind: kind.named):.4f}",
                 f"{found.peer_recall(what):.4f}")  # fmt: skip
        head = ("kind", "planted", "ours", "under that name", "ForgeLM")
        tables.append(f"### {title}, recall\n\n" + _table(head, [*rows, total]))
    look_alikes = [
        (kind.kind, kind.planted, kind.found, kind.marked, kind.peer_asked, kind.peer)
        for kind in found.kinds
        if kind.what == "look_alike"
    ]
    totals = [sum(int(row[column]) for row in look_alikes) for column in range(1, 6)]
    tables.append(
        "### Look-alikes flagged\n\n"
        + _table(("kind", "planted", "ours", "ours, marked as a documented example", "asked of ForgeLM", "ForgeLM"),
                 [*look_alikes, ("**all**", *totals)])
    )  # fmt: skip
    elsewhere = ", ".join(f"{category} {count}" for category, count in found.elsewhere.most_common()) or "none"
    return f"""## Personal data and secrets

{results.correct_rows:,} rows. A planted thing counts as found if a finding of its sort overlaps its span. ForgeLM \
reports counts only, so its detectors were called on the planted text with the thing and with blanks in its place: on \
{sum(kind.peer_asked for kind in found.kinds):,} of the planted things and {found.peer_clean_rows:,} clean rows, \
drawn at random.

{chr(10).join(f"{table}{chr(10)}" for table in tables)}
Findings that overlap nothing planted: {elsewhere}. Of {found.clean_rows:,} rows in which nothing is planted, ours \
flags {found.clean_rows_flagged:,}; of {found.peer_clean_rows:,} of them, ForgeLM flags \
{found.peer_clean_rows_flagged:,}."""


def _recall_cells(kind: "KindRecall") -> tuple[object, ...]:
    shares = (_share(count, kind.planted) for count in (kind.found, kind.named))
    return (kind.kind, kind.planted, *shares, _share(kind.peer, kind.peer_asked))


def _languages(results: "Correctness") -> str:
    rows = [("ForgeLM's `langdetect`", *_language_cells(results.peer_languages))]
    if results.languages:
        rows.insert(0, ("ours", *_language_cells(results.languages)))
    without = "" if results.languages else "\n\nOurs identifies no languages in this version."
    return (
        "## Languages\n\nRows whose language was named right. ForgeLM asks about 200 rows of each split; here its "
        "detector was asked about a sample, ours about every row.\n\n"
        + _table(("who", "rows", "right", "right, English", "right, other languages"), rows)
        + without
    )


def _language_cells(found: "Languages") -> tuple[object, ...]:
    return (f"{found.rows:,}", f"{found.accuracy:.4f}", _share(*found.english), _share(*found.other))


_NOTES = """## What these figures do not say

The English is docstrings of Python packages and, beyond some 22,000 rows, a Markov chain over them: real words and \
word pairs, no real sense. Other languages are words drawn by frequency. Numbers and keys are random, with valid \
check digits and formats. ForgeLM's larger SimHash runs are left out by default: its memory grows with the square of \
the rows."""
