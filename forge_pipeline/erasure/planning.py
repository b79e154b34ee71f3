"""What an erasure will do, worked out before anything is touched: steps that name files, digests and row numbers.

A step holds no identifier and no text of a row, so that the plan can lie on the disk while it is carried out and be
finished after a crash by somebody who was never told whom it is about. Each step can be done twice.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from forge_pipeline.audit_log import Vault
from forge_pipeline.data.columns import to_json, without_nulls
from forge_pipeline.erasure.lineage import Lineage, Made, json_text
from forge_pipeline.erasure.places import Located, Places, plain_files
from forge_pipeline.erasure.rows import Record, is_readable, records
from forge_pipeline.erasure.search import Found, Survey, Wanted
from forge_pipeline.errors import DataError
from forge_pipeline.integrity import Digest

Action = Literal["rewrite", "artifact", "folder", "file", "shred"]

_SPLITS = ("train.parquet", "validation.parquet", "test.parquet")
_PROVENANCE, _ROWS, _REPORT = "provenance.json", "rows.jsonl", "report.json"
_DOCUMENTS = ("forge_model.json", "annex_iv.json")
_HELD_IN = {"summary.json": "dataset_digest", "cleaning.json": "dataset_digest"}


@dataclass(frozen=True)
class Step:
    """One thing to do.

    Attributes:
        action: ``rewrite`` a corpus; replace an ``artifact`` of the store by a tombstone (and a successor); replace a
            ``folder`` of a run or cache by a tombstone; remove a ``file``; ``shred`` an opening.
        path: The file, the folder, or the vault.
        before: Digest of the file, or of the artefact.
        rows: File name -> record indices to leave out; for a successor or a rewrite. Empty: no successor.
        removed: Rows of the person in it.
        opening: Log id, entry and field of an opening.
        log: Audit log of the line that the artefact belongs to.
    """

    action: Action
    path: str
    before: Digest | None = None
    rows: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    removed: int = 0
    opening: tuple[str, int, str] | None = None
    asset_key: str | None = None


@dataclass(frozen=True)
class Plan:
    """What is to be done, and what it touches.

    Attributes:
        datasets: Digests of the artefacts with training data that go.
        affected: What was made from them, the models among it.
    """

    steps: tuple[Step, ...]
    datasets: tuple[Digest, ...]
    affected: tuple[Made, ...]


@dataclass(frozen=True)
class RowIds:
    """Rows by the value of their column ``id`` or ``row_id``; only in the corpora that are named."""

    ids: frozenset[str]

    @property
    def byte_forms(self) -> tuple[bytes, ...]:
        return ()

    def in_text(self, text: str) -> tuple[int, bool]:
        del text
        return 0, False

    def in_record(self, values: Any) -> Iterator[tuple[str, int, bool]]:
        if isinstance(values, dict):
            for name in ("id", "row_id"):
                if name in values and str(values[name]) in self.ids:
                    yield name, 1, True


@dataclass(frozen=True)
class EqualRows:
    """Rows that are the same as some others: how the rows of a corpus are found again in what was made from it."""

    digests: frozenset[Digest]

    @property
    def byte_forms(self) -> tuple[bytes, ...]:
        return ()

    def in_text(self, text: str) -> tuple[int, bool]:
        del text
        return 0, False

    def in_record(self, values: Any) -> Iterator[tuple[str, int, bool]]:
        if isinstance(values, dict) and row_digest(values) in self.digests:
            yield "", 1, True


def row_digest(values: Any) -> Digest:
    """What two equal rows have in common, in whichever format they are stored."""
    return Digest.of(to_json(without_nulls(values)).encode())


def rows_of_ids(corpora: Iterable[Path], ids: RowIds) -> EqualRows:
    """The rows that ids mean, for the search in what was made from the corpora.

    Raises:
        DataError: A corpus cannot be read.
    """
    digests = set()
    for path in corpora:
        for record in records(path):
            if any(True for _ in ids.in_record(record.values)):
                digests.add(row_digest(record.values))
    return EqualRows(frozenset(digests))


def plan(survey: Survey, corpora: Collection[Path]) -> Plan:
    """Work out what to do about what a survey found.

    Args:
        survey: Of all places.
        corpora: The files that may be rewritten; rows in other corpora stay, and are reported.

    Raises:
        DataError: A corpus that is named holds the person where no row can be taken out.
    """
    return _Planner(survey.places, survey.lineage, survey.found, frozenset(corpora)).plan()


class _Planner:
    def __init__(
        self,
        places: Places,
        lineage: Lineage,
        found: Sequence[tuple[Located, tuple[Found, ...]]],
        corpora: frozenset[Path],
    ) -> None:
        self._places, self._lineage, self._corpora = places, lineage, corpora
        self._loose = [(located, hits) for located, hits in found if located.unit is None]
        self._units: dict[Path, list[tuple[Located, tuple[Found, ...]]]] = defaultdict(list)
        for located, hits in found:
            if located.unit is not None:
                self._units[located.unit].append((located, hits))

    def plan(self) -> Plan:
        steps = [step for located, hits in self._loose for step in self._of_file(located, hits)]
        with_rows = [step for unit in sorted(self._units) if (step := self._of_unit(unit))]
        datasets = {digest for step in with_rows if (digest := self._data_digest(step))}
        derived = self._derived(datasets, {step.path for step in with_rows})
        datasets |= {digest for step in derived if (digest := self._data_digest(step))}
        downstream = tuple(made for made in self._lineage.downstream(datasets) if made.digest not in datasets)
        # Corpora first: after a crash the source is clean, so that nothing made from it again brings the rows back.
        order = {"rewrite": 0, "artifact": 1, "folder": 1, "file": 2, "shred": 3}
        all_steps = sorted(
            [*steps, *with_rows, *derived], key=lambda step: (order[step.action], step.path, step.opening or ())
        )
        return Plan(tuple(all_steps), tuple(sorted(datasets)), downstream)

    # What a file asks for.

    def _of_file(self, located: Located, hits: tuple[Found, ...]) -> Iterable[Step]:
        path = located.path
        if located.place == "vault":
            yield from self._shreds(path, hits)
        elif path in self._corpora:
            yield self._rewrite(path, hits)
        elif located.place in ("work", "progress", "cache") or (
            located.place == "run" and path.name != "audit_log.jsonl"
        ):
            yield Step("file", str(path), Digest.of_file(path), removed=len({hit.index for hit in hits}))

    def _shreds(self, path: Path, hits: tuple[Found, ...]) -> Iterable[Step]:
        wanted = {(hit.row, hit.column) for hit in hits}
        for opening in Vault(path).openings():
            if (opening.seq, opening.field) in wanted:
                yield Step("shred", str(path), opening=(opening.log_id, opening.seq, opening.field))

    def _rewrite(self, path: Path, hits: tuple[Found, ...]) -> Step:
        outside = [hit for hit in hits if hit.index is None and hit.column != "(file name)"]
        if outside or not is_readable(path):
            where = "in its header or schema" if is_readable(path) else "and no row can be taken out of it"
            raise DataError(
                f"{self._places.shown(path)}: the person is found {where}; edit or remove it by hand; then run again"
            )
        rows = tuple(sorted({hit.index for hit in hits if hit.index is not None}))
        return Step("rewrite", str(path), Digest.of_file(path), {path.name: rows}, len(rows))

    # What an artefact, or a folder of a run, asks for.

    def _of_unit(self, unit: Path) -> Step | None:
        hits = {located.path.relative_to(unit).as_posix(): found for located, found in self._units[unit]}
        located = self._units[unit][0][0]
        if self._is_kept(unit):
            return None
        rows = {name: _indices(found) for name, found in hits.items()}
        removed = sum(len(indices) for name, indices in rows.items() if name in (*_SPLITS, _ROWS, "data.parquet"))
        with_successor = located.artifact is not None and self._can_follow(unit, hits)
        return self._removal(unit, located.artifact, rows if with_successor else {}, removed)

    def _removal(self, unit: Path, artifact: Digest | None, rows: Mapping[str, tuple[int, ...]], removed: int) -> Step:
        known = self._lineage.of(artifact) if artifact else ()
        key = known[-1].asset_key if known else None
        return Step(
            "artifact" if artifact else "folder",
            str(unit),
            artifact or _folder_digest(unit),
            rows,
            removed,
            asset_key=key,
        )

    def _is_kept(self, unit: Path) -> bool:
        """Models and bundles are documentation (AI Act Art. 18(1)); they are reported, not deleted."""
        return any((unit / name).is_file() for name in _DOCUMENTS) or any(
            path.suffix in (".gguf", ".safetensors") for path in plain_files(unit)
        )

    def _can_follow(self, unit: Path, hits: Mapping[str, tuple[Found, ...]]) -> bool:
        """Whether a successor without the rows is as good as one made again: nothing beside the rows counts them."""
        files = {path.relative_to(unit).as_posix() for path in plain_files(unit)}
        plain = files <= {*_SPLITS, _PROVENANCE} or files == {_ROWS, _REPORT} or files == {"data.parquet"}
        in_rows = all(
            name in (*_SPLITS, _ROWS, "data.parquet") and all(hit.index is not None for hit in found)
            for name, found in hits.items()
        )
        return plain and in_rows

    def _data_digest(self, step: Step) -> Digest | None:
        """The digest of a step's artefact where it holds training data."""
        unit = Path(step.path)
        holds = any((unit / name).is_file() for name in (*_SPLITS, _ROWS, "data.parquet"))
        dataset = unit / "dataset"
        return step.before if holds or dataset.is_dir() else None

    # What was made from it and holds the same rows in another form: tokens, masked rows.

    def _derived(self, datasets: set[Digest], taken: set[str]) -> list[Step]:
        steps: list[Step] = []
        reached = set(datasets)
        while True:
            new = []
            for unit, artifact in self._all_units:
                if str(unit) in taken or self._is_kept(unit) or not self._made_from(unit, artifact, reached):
                    continue
                new.append(self._removal(unit, artifact, {}, 0))
                taken.add(str(unit))
            if not new:
                return steps
            steps += new
            reached |= {digest for step in new if (digest := self._data_digest(step))}

    def _made_from(self, unit: Path, artifact: Digest | None, datasets: set[Digest]) -> bool:
        for name, key in _HELD_IN.items():
            for facts in (json_text(unit / name), json_text(unit / "dataset" / name)):
                if isinstance(facts, dict) and facts.get(key) in datasets:
                    return True
        holds = any((unit / name).is_file() for name in (*_SPLITS, _ROWS, "data.parquet"))
        return holds and artifact is not None and any(made.inputs & datasets for made in self._lineage.of(artifact))

    @cached_property
    def _all_units(self) -> tuple[tuple[Path, Digest | None], ...]:
        """Every folder that could hold training data in another form."""
        found = {}
        for located in self._places.files():
            if located.unit is not None:
                found[located.unit] = located.artifact
        return tuple(sorted(found.items()))


def _indices(found: tuple[Found, ...]) -> tuple[int, ...]:
    return tuple(sorted({hit.index for hit in found if hit.index is not None}))


def _folder_digest(folder: Path) -> Digest:
    """The digest that a run's log names the folder by; of a cache entry, that of the dataset in it."""
    from forge_pipeline.integrity import Manifest

    inner = folder / "dataset"
    return Manifest.of_directory(inner if inner.is_dir() else folder).digest


__all__ = ["EqualRows", "Plan", "Record", "RowIds", "Step", "Wanted", "plan", "rows_of_ids"]
