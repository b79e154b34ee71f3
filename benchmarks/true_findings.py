"""Findings and languages that an audit named, held against what stands in the corpus."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.audited import Corpus, Found, FoundThing, Peer
from benchmarks.corpus import Planted


@dataclass(frozen=True)
class KindRecall:
    """One kind of planted thing: how many, how many found, and of those how many under its own name."""

    what: str
    kind: str
    planted: int
    found: int
    named: int
    marked: int  # found, but only as a vendor's documented placeholder
    peer_asked: int  # of the planted, those that the peer was asked about
    peer: int


@dataclass(frozen=True)
class Findings:
    """Findings held against what was planted. `elsewhere`: category -> findings that overlap nothing planted."""

    kinds: list[KindRecall]
    elsewhere: Counter[str]
    missed: list[Planted]
    flagged: list[tuple[Planted, str]]
    stray: list[FoundThing]
    clean_rows: int
    clean_rows_flagged: int
    peer_clean_rows: int
    peer_clean_rows_flagged: int

    def recall(self, what: str, of: Callable[[KindRecall], int] = lambda kind: kind.found) -> float:
        """Share of all planted things of a sort that was found."""
        kinds = [kind for kind in self.kinds if kind.what == what]
        return sum(map(of, kinds)) / max(1, sum(kind.planted for kind in kinds))

    def peer_recall(self, what: str) -> float:
        """Of those that the peer was asked about, the share that it found."""
        kinds = [kind for kind in self.kinds if kind.what == what]
        return sum(kind.peer for kind in kinds) / max(1, sum(kind.peer_asked for kind in kinds))


def findings(corpus: Corpus, found: Found, peer: Peer | None, peer_sample: int | None = None) -> Findings:
    """Compare spans, and ask the peer's detectors.

    Args:
        corpus: The corpus.
        found: What our audit wrote about it.
        peer: The peer; None is not asked.
        peer_sample: Ask about so many planted texts, and so many clean rows, drawn at random; None asks about all.
    """
    planted = corpus.truth.planted
    at: dict[tuple[str, int, str], list[FoundThing]] = defaultdict(list)
    for finding in found.findings:
        at[finding.split, finding.row, finding.column].append(finding)
    peers = _peer_hits(corpus, planted, peer, peer_sample)
    tally: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    missed, flagged, used = [], [], set()
    for thing, by_peer in zip(planted, peers, strict=True):
        overlapping = [
            finding for finding in at[thing.split, thing.row, thing.column]
            if finding.start < thing.end and thing.start < finding.end
        ]  # fmt: skip
        used |= {id(finding) for finding in overlapping}
        right = [finding for finding in overlapping if _is_of(finding, thing.what)]
        real = [finding for finding in right if not finding.placeholder]
        counted = tally[thing.what, thing.kind]
        counted["planted"] += 1
        counted["found"] += bool(real)
        counted["marked"] += bool(right) and not real
        counted["named"] += any(finding.category == thing.kind for finding in real)
        counted["peer_asked"] += by_peer is not None
        counted["peer"] += by_peer is True
        if thing.what == "look_alike":
            flagged += [(thing, finding.category) for finding in real]
        elif not real:
            missed.append(thing)
    stray = [finding for finding in found.findings if id(finding) not in used]
    clean = [place for place in corpus.places if place not in {(thing.split, thing.row) for thing in planted}]
    flagged_rows = {(finding.split, finding.row) for finding in stray if not finding.placeholder}
    asked_clean = [clean[index] for index in _drawn(len(clean), peer_sample)] if peer else []
    peer_flagged = 0
    if peer:
        asked = ({"text": "\n".join(corpus.messages[place])} for place in asked_clean)
        peer_flagged = sum(map(bool, peer.ask("clean", asked)))
    kinds = [
        KindRecall(
            what, kind, *(counted[name] for name in ("planted", "found", "named", "marked", "peer_asked", "peer"))
        )
        for (what, kind), counted in sorted(tally.items())
    ]
    elsewhere = Counter(finding.category for finding in stray)
    clean_flagged = len(flagged_rows & set(clean))
    return Findings(kinds, elsewhere, missed, flagged, stray, len(clean), clean_flagged, len(asked_clean), peer_flagged)


def _is_of(finding: FoundThing, what: str) -> bool:
    return what == "look_alike" or (finding.source == "secret") == (what == "secret")


def _peer_hits(corpus: Corpus, planted: Sequence[Planted], peer: Peer | None, sample: int | None) -> list[bool | None]:
    """Whether the peer finds each planted thing; None where it was not asked."""
    hits: list[bool | None] = [None] * len(planted)
    if peer is not None:
        chosen = _drawn(len(planted), sample)
        things = [planted[index] for index in chosen]
        asked = ({"text": corpus.text_of(thing), "start": thing.start, "end": thing.end} for thing in things)
        for index, categories in zip(chosen, peer.ask("findings", asked), strict=True):
            hits[index] = bool(categories)
    return hits


def _drawn(count: int, sample: int | None) -> list[int]:
    """So many of the first `count` numbers, ascending; all of them if there are no more."""
    if sample is None or sample >= count:
        return list(range(count))
    return sorted(np.random.default_rng(0).choice(count, sample, replace=False).tolist())


@dataclass(frozen=True)
class Languages:
    """Rows whose language was named right: (right, rows), of English and of other languages."""

    english: tuple[int, int]
    other: tuple[int, int]
    rows: int

    @property
    def accuracy(self) -> float:
        return (self.english[0] + self.other[0]) / max(1, self.english[1] + self.other[1])


def languages(corpus: Corpus, identify: Callable[[list[str]], list[str]], limit: int | None = None) -> Languages:
    """Ask `identify` for the language of rows that have one.

    Args:
        corpus: The corpus.
        identify: Texts to ISO 639-1 codes.
        limit: Ask for so many rows only, drawn at random.
    """
    truth = [language for of_split in corpus.truth.languages.values() for language in of_split]
    asked = [index for index, language in enumerate(truth) if language]
    if limit is not None and limit < len(asked):
        asked = np.random.default_rng(0).choice(np.array(asked), limit, replace=False).tolist()
    answers = identify([corpus.texts[index] for index in asked])
    right = Counter(
        truth[index] == "en" for index, answer in zip(asked, answers, strict=True) if answer == truth[index]
    )
    total = Counter(truth[index] == "en" for index in asked)
    return Languages((right[True], total[True]), (right[False], total[False]), len(asked))
