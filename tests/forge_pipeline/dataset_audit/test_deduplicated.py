"""`deduplicate`: what stays is untouched, what goes is accounted for, and a second time nothing goes."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forge_pipeline import errors
from forge_pipeline.dataset_audit import audit_dataset
from forge_pipeline.dataset_audit.deduplicated import DeduplicationReport, deduplicate
from forge_pipeline.integrity import read_report

WriteRows = Callable[..., Path]

BASE = " ".join(f"word{i}" for i in range(30))
OTHER = " ".join(f"other{i}" for i in range(30))
TRAIN = [BASE, "alone", OTHER, BASE, BASE + " more", "", "", OTHER.upper()]
VALIDATION = [OTHER + " end", "new", "new"]


def texts_in(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


@pytest.fixture
def source(write_rows: WriteRows) -> Path:
    write_rows([{"text": text} for text in TRAIN], "data/train.jsonl")
    return write_rows([{"text": text} for text in VALIDATION], "data/validation.jsonl").parent


def removed_in(directory: Path) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in pq.read_table(directory / "removed_rows.parquet").to_pylist()]


def test_the_first_of_each_cluster_stays_and_training_rows_make_way_for_held_out_ones(
    source: Path, tmp_path: Path
) -> None:
    report = deduplicate(source, tmp_path / "out")
    assert texts_in(tmp_path / "out" / "train.jsonl") == [BASE, "alone", "", ""]
    assert texts_in(tmp_path / "out" / "validation.jsonl") == [OTHER + " end", "new"]
    assert removed_in(tmp_path / "out") == [
        ("train", 2, "split_overlap", "validation", 0),
        ("train", 3, "exact_duplicate", "train", 0),
        ("train", 4, "near_duplicate", "train", 0),
        ("train", 7, "split_overlap", "validation", 0),
        ("validation", 2, "exact_duplicate", "validation", 1),
    ]
    assert (report.rows_in, report.rows_out) == ({"train": 8, "validation": 3}, {"train": 4, "validation": 2})
    assert report.removed == {
        "train": {"exact_duplicate": 1, "near_duplicate": 1, "split_overlap": 2},
        "validation": {"exact_duplicate": 1},
    }
    assert read_report(tmp_path / "out" / "deduplication.json", DeduplicationReport) == report


def test_overlap_stays_unless_it_is_to_go(source: Path, tmp_path: Path) -> None:
    report = deduplicate(source, tmp_path / "out", remove_split_overlap=False)
    assert texts_in(tmp_path / "out" / "train.jsonl") == [BASE, "alone", OTHER, "", ""]
    audited = audit_dataset(str(source), dedup_method="minhash")
    assert sum(sum(reasons.values()) for reasons in report.removed.values()) == audited.duplicate_count


def test_exact_only_leaves_near_duplicates(source: Path, tmp_path: Path) -> None:
    report = deduplicate(source, tmp_path / "out", exact_only=True)
    assert texts_in(tmp_path / "out" / "train.jsonl") == [text for i, text in enumerate(TRAIN) if i != 3]
    assert report.method == {"method": "exact"}
    assert report.removed == {"train": {"exact_duplicate": 1}, "validation": {"exact_duplicate": 1}}


@pytest.mark.parametrize("arguments", [{}, {"dedup_method": "simhash"}, {"exact_only": True}, {"workers": 2}])
def test_a_second_time_nothing_goes(
    arguments: dict[str, Any], sentences: Callable[[int], list[str]], write_rows: WriteRows, tmp_path: Path
) -> None:
    texts = sentences(60)
    near = [text.replace(text.split()[2], "changed", 1) for text in texts[:30]]
    write_rows([{"text": text} for text in [*texts, *texts[5:15], *near]], "data/train.jsonl")
    write_rows([{"text": text} for text in [*near[:9], *near[:4]]], "data/test.jsonl")
    once = deduplicate(tmp_path / "data", tmp_path / "once", **arguments)
    (tmp_path / "again").mkdir()
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / "again" / name).write_bytes((tmp_path / "once" / name).read_bytes())
    twice = deduplicate(tmp_path / "again", tmp_path / "twice", **arguments)
    assert sum(once.rows_out.values()) < sum(once.rows_in.values())
    assert twice.rows_out == twice.rows_in == once.rows_out


def test_a_row_left_alone_by_overlap_stays(write_rows: WriteRows, tmp_path: Path) -> None:
    """The training row in the middle goes; the two that only it connected are no repeats of each other."""
    left, right = f"{BASE} a b c", f"{BASE} x y z"
    write_rows([{"text": text} for text in (BASE, left, right)], "data/train.jsonl")
    write_rows([{"text": f"{BASE} 1 2 3"}], "data/validation.jsonl")  # near the one in the middle only
    deduplicate(tmp_path / "data", tmp_path / "out")
    assert texts_in(tmp_path / "out" / "train.jsonl") == [left, right]


def test_lines_are_copied_byte_by_byte_and_lines_that_are_no_rows_are_counted(tmp_path: Path) -> None:
    kept = [b'{"text" :  "caf\\u00e9",  "n": 1.50, "text2": null}', b'{"text": "caf\xe9"}', b"[1, 2]"]
    data = tmp_path / "data"
    data.mkdir()
    lines = [b"\xef\xbb\xbf" + kept[0], b"", b"{broken", kept[0], kept[1], kept[2]]
    (data / "train.jsonl").write_bytes(b"\n".join(lines))
    report = deduplicate(data, tmp_path / "out")
    assert (tmp_path / "out" / "train.jsonl").read_bytes() == b"".join(line + b"\n" for line in kept)
    assert report.unreadable == {"train": 1}
    assert report.rows_in == {"train": 4}


def test_parquet_keeps_its_types_over_files_with_different_columns(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    one = pa.table({"text": [BASE, BASE], "n": pa.array([1, 2], pa.int16())})
    other = pa.table({"text": pa.array([OTHER, "x"]), "tags": pa.array([["a"], []], pa.list_(pa.string()))})
    pq.write_table(one, data / "train-0.parquet")
    pq.write_table(other, data / "train-1.parquet")
    report = deduplicate(data, tmp_path / "out")
    written = pq.read_table(tmp_path / "out" / "train.parquet")
    assert report.files == {"train": "train.parquet"}
    assert written.to_pylist() == [
        {"text": BASE, "n": 1, "tags": None},
        {"text": OTHER, "n": None, "tags": ["a"]},
        {"text": "x", "n": None, "tags": []},
    ]
    assert written.schema.field("n").type == pa.int16()


OTHER_KINDS: dict[str, Callable[[list[str]], bytes]] = {
    "train.csv": lambda texts: ("text\n" + "".join(f'"{text}"\n' for text in texts)).encode(),
    "train.json": lambda texts: json.dumps([{"text": text} for text in texts]).encode(),
    "train.jsonl.gz": lambda texts: gzip.compress("".join(json.dumps({"text": t}) + "\n" for t in texts).encode()),
}


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_other_kinds_become_lines_of_json(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(OTHER_KINDS[name]([BASE, "one", BASE]))
    deduplicate(path, tmp_path / "out")
    assert texts_in(tmp_path / "out" / "train.jsonl") == [BASE, "one"]


def test_what_is_there_is_never_overwritten_and_a_failure_leaves_nothing(source: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="never overwritten"):
        deduplicate(source, source)
    with pytest.raises(errors.ConfigError, match="minhash_jaccard: found 2"):
        deduplicate(source, tmp_path / "out", minhash_jaccard=2)
    (tmp_path / "bad").mkdir()
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "bad" / "train-0.parquet")
    pq.write_table(pa.table({"text": [{"a": 1}]}), tmp_path / "bad" / "train-1.parquet")
    with pytest.raises(errors.DataError, match="do not agree in their columns' types"):
        deduplicate(tmp_path / "bad", tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]
