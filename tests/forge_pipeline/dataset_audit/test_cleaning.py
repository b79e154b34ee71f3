"""`clean`: what the recipe does not want is masked or removed, and every row is accounted for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from forge_pipeline.config import ForgeConfig
from forge_pipeline.data.artifacts import PROVENANCE_FILE, DatasetProvenance, RawDataset
from forge_pipeline.data.columns import table_of, write_parquet
from forge_pipeline.dataset_audit import audit_raw_dataset, clean, cleaning_report, find_pii, find_secrets
from forge_pipeline.errors import ConfigError, DataError
from forge_pipeline.integrity import write_report

KEY = "ghp_Zq3vT9LmP0aXbR7cYd2eWf4gHi5jKl6mNo7p"
PROSE = [
    "The lighthouse keeper polishes the lamp every evening before the fishing boats come home.",
    "Bakers in the valley grind rye twice so that the bread keeps for a whole week.",
    "A tram line follows the old canal and ends at the brick gate of the harbour.",
    "Snow in April surprised the gardeners, who covered their young beans with straw.",
    "The museum lends microscopes to pupils who want to look at pond water at home.",
]


def config_with(**clean_section: Any) -> ForgeConfig:
    data = {"dataset_name_or_path": "rows.jsonl", "clean": {"enabled": True, **clean_section}}
    return ForgeConfig(name="line", model={"name_or_path": "base"}, lora={}, training={}, data=data)


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., RawDataset]:
    """Stores rows by split, as ingestion does; a text stands for a row of one column."""

    def build(**splits: list[Any]) -> RawDataset:
        directory = tmp_path / "raw"
        directory.mkdir()
        for split, rows in splits.items():
            whole = [{"text": row} if isinstance(row, str) else row for row in rows]
            write_parquet(table_of(whole), directory / f"{split}.parquet")
        counts = {split: len(rows) for split, rows in splits.items()}
        found = DatasetProvenance((), "language modeling", "standard", "because", counts, (), 0, ())
        write_report(directory / PROVENANCE_FILE, found)
        return RawDataset.open(directory)

    return build


Store = Callable[..., RawDataset]


def changes(dataset: RawDataset) -> list[tuple[Any, ...]]:
    rows = pq.read_table(dataset.path / "changes.parquet").to_pylist()
    return [(row["split"], row["row"], row["action"], row["reason"]) for row in rows]


def test_nothing_changes_where_nothing_is_unwanted(store: Store, tmp_path: Path) -> None:
    raw = store(train=PROSE[:4], validation=PROSE[4:])
    cleaned = clean(config_with(), raw, tmp_path / "clean")
    assert list(cleaned.rows("train")) == list(raw.rows("train"))
    assert changes(cleaned) == []
    report = cleaning_report(cleaned)
    assert (report.dataset_digest, report.rows_in, report.rows_out) == (
        raw.digest,
        report.rows_out,
        {"train": 4, "validation": 1},
    )


def test_findings_are_masked_in_whatever_column_and_depth(store: Store, tmp_path: Path) -> None:
    row = {
        "messages": [
            {"role": "user", "content": f"{PROSE[0]} Write to anna.nowak@example.org."},
            {"role": "assistant", "content": f"Use the key {KEY} then."},
        ],
        "meta": {"notes": ["IBAN DE89 3704 0044 0532 0130 00", "nothing"], "score": 3},
    }
    raw = store(
        train=[row, {"messages": [{"role": "user", "content": PROSE[1]}, {"role": "assistant", "content": "Yes."}]}]
    )
    cleaned = clean(config_with(), raw, tmp_path / "clean")
    masked, untouched = cleaned.rows("train")
    assert untouched == list(raw.rows("train"))[1]
    assert masked["messages"][0]["content"] == f"{PROSE[0]} Write to [REDACTED]."
    assert masked["messages"][1]["content"] == "Use the key [REDACTED-SECRET] then."
    assert masked["meta"] == {"notes": ["IBAN [REDACTED]", "nothing"], "score": 3}
    assert changes(cleaned) == [("train", 0, "masked", "findings")]
    assert cleaning_report(cleaned).masked == {"email": 1, "github_token": 1, "iban": 1}
    for text in (str(value) for value in masked.values()):
        assert not find_secrets(text)
        assert not find_pii(text)
    for path in cleaned.path.iterdir():
        assert KEY.encode() not in path.read_bytes()


REMOVALS: dict[str, tuple[dict[str, Any], dict[str, list[str]], list[tuple[Any, ...]]]] = {
    "credentials": (
        {"secrets": "remove"}, {"train": [PROSE[0], f"key {KEY}"]}, [("train", 1, "removed", "secrets")],
    ),
    "personal data of the named categories": (
        {"pii": "remove", "pii_categories": ["iban"]},
        {"train": [PROSE[0], "IBAN DE89 3704 0044 0532 0130 00", "write to anna.nowak@example.org"]},
        [("train", 1, "removed", "pii")],
    ),
    "the second of two equal rows": ({}, {"train": [PROSE[0], PROSE[1], PROSE[0]]}, [("train", 2, "removed", "exact_duplicate")]),
    "a near-duplicate, where asked for": (
        {"near_duplicates": "remove"},
        {"train": [PROSE[0], PROSE[0].upper(), PROSE[1]]},
        [("train", 1, "removed", "near_duplicate")],
    ),
    "a training row that is tested on": (
        {}, {"train": [PROSE[0], PROSE[1]], "test": [PROSE[1].lower()]}, [("train", 1, "removed", "split_overlap")],
    ),
    "another language": (
        {"languages": ["en"]},
        {"train": [*PROSE, "Die Bäcker im Tal mahlen den Roggen zweimal, damit das Brot eine ganze Woche lang hält."]},
        [("train", 5, "removed", "language")],
    ),
    "what a quality filter names": (
        {"quality": ["low_alpha_ratio"]}, {"train": [PROSE[0], "0101 1010 0110 1001 1100 0011"]}, [("train", 1, "removed", "quality")],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("section", "splits", "expected"), REMOVALS.values(), ids=REMOVALS)
def test_rows_are_removed_with_their_reason(
    store: Store, tmp_path: Path, section: dict[str, Any], splits: dict[str, list[str]], expected: list[tuple[Any, ...]]
) -> None:
    raw = store(**splits)
    cleaned = clean(config_with(**section), raw, tmp_path / "clean")
    assert [change for change in changes(cleaned) if change[2] == "removed"] == expected
    gone = {(split, row) for split, row, action, _ in changes(cleaned) if action == "removed"}
    for split, texts in splits.items():
        kept = [text for number, text in enumerate(texts) if (split, number) not in gone]
        assert len(list(cleaned.rows(split))) == len(kept)
    report = cleaning_report(cleaned)
    assert sum(report.rows_in.values()) - sum(report.removed.values()) == sum(report.rows_out.values())
    assert cleaned.provenance.rows == report.rows_out
    assert cleaned.provenance.transformations[-1].rows_out == sum(report.rows_out.values())


def test_repeats_name_the_row_that_stays(store: Store, tmp_path: Path) -> None:
    cleaned = clean(config_with(), store(train=[PROSE[2], PROSE[0], PROSE[0]]), tmp_path / "clean")
    (change,) = pq.read_table(cleaned.path / "changes.parquet").to_pylist()
    assert (change["row"], change["kept_split"], change["kept_row"]) == (2, "train", 1)


def test_rows_that_differ_in_a_masked_value_alone_are_repeats(store: Store, tmp_path: Path) -> None:
    texts = [f"{PROSE[0]} Ask {name}@example.org." for name in ("anna", "jonas")]
    cleaned = clean(config_with(), store(train=texts), tmp_path / "clean")
    assert changes(cleaned) == [("train", 0, "masked", "findings"), ("train", 1, "removed", "exact_duplicate")]


def test_the_row_kept_is_one_that_is_still_there(store: Store, tmp_path: Path) -> None:
    """The first of two alike rows holds a key and goes; the second is then no repeat."""
    raw = store(train=[f"{PROSE[0]} {KEY}", PROSE[0], PROSE[1]])
    cleaned = clean(config_with(secrets="remove", near_duplicates="remove"), raw, tmp_path / "clean")
    assert changes(cleaned) == [("train", 0, "removed", "secrets")]


def test_rows_that_hold_a_benchmark_item_are_removed_where_asked_for(store: Store, tmp_path: Path) -> None:
    raw = store(train=[PROSE[0], f"Quiz: {PROSE[1]}"], validation=[PROSE[2]])
    items = lambda: {"quiz": [PROSE[1]]}  # noqa: E731
    cleaned = clean(config_with(contaminated="remove"), raw, tmp_path / "clean", benchmark_items=items)
    assert changes(cleaned) == [("train", 1, "removed", "contaminated")]


def test_the_same_rows_give_the_same_bytes(store: Store, tmp_path: Path) -> None:
    raw = store(train=[*PROSE, PROSE[0], f"key {KEY}"], test=[PROSE[3]])
    first, second = (clean(config_with(), raw, tmp_path / name) for name in ("one", "two"))
    assert first.digest == second.digest


BAD = {
    "an unknown category": ({"pii_categories": ["shoe_size"]}, "data.clean.pii_categories: found 'shoe_size'"),
    "an unknown filter": ({"quality": ["nice"]}, "data.clean.quality: found 'nice'"),
    "an unknown language": ({"languages": ["klingon"]}, "data.clean.languages: found 'klingon'"),
    "benchmark items without a benchmark": ({"contaminated": "remove"}, "needs evaluation.benchmark"),
}


@pytest.mark.parametrize(("section", "words"), BAD.values(), ids=BAD)
def test_a_recipe_that_asks_for_what_there_is_not_is_refused(
    store: Store, tmp_path: Path, section: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        clean(config_with(**section), store(train=PROSE), tmp_path / "clean")
    assert not (tmp_path / "clean").exists()


def test_no_training_row_left_is_an_error_that_says_why(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no training row is left.*'secrets': 1"):
        clean(config_with(secrets="remove"), store(train=[f"key {KEY}"]), tmp_path / "clean")


def test_the_account_beside_the_rows_is_not_audited_as_rows(store: Store, tmp_path: Path) -> None:
    cleaned = clean(config_with(), store(train=[*PROSE, f"key {KEY}", PROSE[0]]), tmp_path / "clean")
    report = audit_raw_dataset(config_with(), cleaned, tmp_path / "audit").report
    assert list(report.splits) == ["train"]
    assert report.total_samples == 6
    assert sum(report.secrets_summary.values()) == 0
