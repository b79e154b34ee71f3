"""`audit_dataset`: formats, findings in every column, arguments, determinism, the seed's example."""

import gzip
import importlib.util
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forge_pipeline import errors
from forge_pipeline.dataset_audit import AuditReport, audit_dataset, reading
from forge_pipeline.integrity import Digest, canonical_json, read_report, report_to_json

WriteRows = Callable[..., Path]
KEY = "ghp_Zq3vT9LmP0aXbR7cYd2eWf4gHi5jKl6mNo7p"
ROWS = [
    {"id": "1", "text": "Write to alice@example.org about it."},
    {"id": "2", "text": "Nothing to see here at all."},
    {"id": "3", "text": f"The key is {KEY} today."},
]


def without_time(report: AuditReport) -> dict[str, Any]:
    return {key: value for key, value in report_to_json(report).items() if not key.startswith(("generated", "source"))}


def test_the_signature_begins_with_the_seeds() -> None:
    parameters = inspect.signature(audit_dataset).parameters
    assert {name: parameter.default for name, parameter in parameters.items() if name != "source"} == {
        "output_dir": None, "near_dup_threshold": 3, "dedup_method": "simhash", "minhash_jaccard": 0.85,
        "minhash_num_perm": 128, "enable_quality_filter": False, "enable_pii_ml": False, "pii_ml_language": "en",
        "emit_croissant": False, "workers": 1, "engine": "local", "work_dir": None,
    }  # fmt: skip
    assert list(parameters)[-2:] == ["engine", "work_dir"]  # ours, behind the seed's
    assert all(parameter.kind is parameter.KEYWORD_ONLY for name, parameter in parameters.items() if name != "source")


def test_the_first_example_of_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    Path("data/customer_support.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, ROWS[1]]))
    arguments: dict[str, Any] = {"enable_pii_ml": True, "pii_ml_language": "en"}
    if importlib.util.find_spec("presidio_analyzer") is None:
        with pytest.raises(errors.OptionalDependencyError, match=r"pip install 'forge-pipeline\[pii-ml\]'"):
            audit_dataset("data/customer_support.jsonl", **arguments)
        arguments = {}
    report = audit_dataset("data/customer_support.jsonl", output_dir="audit_out", emit_croissant=True, **arguments)
    print(f"samples: {report.total_samples}")
    print(f"duplicates: {report.duplicate_count}")
    print(f"pii findings: {len(report.pii_findings)}")
    print(f"split overlap pairs: {report.cross_split_overlap.get('pairs', {})}")
    assert capsys.readouterr().out == "samples: 4\nduplicates: 1\npii findings: 1\nsplit overlap pairs: {}\n"
    written = Path("audit_out/data_audit_report.json")
    assert read_report(written, AuditReport) == report
    assert written.read_bytes() == canonical_json(report_to_json(report))
    assert sorted(path.name for path in Path("audit_out").iterdir()) == [
        "clusters.parquet",
        "data_audit_report.json",
        "findings.parquet",
    ]


def test_a_report_says_where_and_never_what(write_rows: WriteRows) -> None:
    path = write_rows(ROWS)
    report = audit_dataset(str(path))
    assert [(f.row, f.column, f.category, f.start, f.end, f.severity) for f in report.findings] == [
        (0, "text", "email", 9, 26, "medium"),
        (2, "text", "github_token", 11, 51, "critical"),
    ]
    assert [finding.preview for finding in report.pii_findings] == ["xxxxx@xxxxxxx.xxx"]
    assert report.pii_summary == {"email": 1}
    assert report.secrets_summary == {"github_token": 1}
    assert report.pii_severity["worst_tier"] == "medium"
    assert report.pii_severity["by_tier"] == {"critical": 0, "high": 0, "medium": 1, "low": 0}
    text = canonical_json(report_to_json(report)).decode()
    assert KEY not in text
    assert "alice" not in text
    assert report.dataset_digest == Digest.of_file(path)
    assert (report.source_path, report.source_input) == (str(path), str(path))


COLUMNS = {
    "rejected": ({"prompt": "p", "chosen": "c", "rejected": KEY}, "rejected"),
    "conversation": ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": KEY}]},
                     "conversations[1].value"),
    "multi-part content": ({"messages": [{"role": "user", "content": [{"type": "text", "text": KEY}]}]},
                           "messages[0].content[0].text"),
    "tool call": ({"messages": [{"role": "assistant", "content": None, "tool_calls": [
        {"function": {"name": "f", "arguments": json.dumps({"token": KEY})}}]}]},
        "messages[0].tool_calls[0].function.arguments"),
    "unknown column": ({"text": "t", "meta": {"tags": ["a", KEY]}}, "meta.tags[1]"),
    "role": ({"messages": [{"role": KEY, "content": "x"}]}, "messages[0].role"),
    "id": ({"id": KEY, "text": "x"}, "id"),
}  # fmt: skip


@pytest.mark.parametrize("case", COLUMNS)
def test_a_key_is_found_in_whatever_column_it_hides(case: str, write_rows: WriteRows, tmp_path: Path) -> None:
    row, column = COLUMNS[case]
    jsonl = audit_dataset(str(write_rows([{"text": "first"}, row])))
    assert [(finding.row, finding.column) for finding in jsonl.secret_findings] == [(1, column)]
    parquet = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([row]), parquet)
    assert [finding.column for finding in audit_dataset(str(parquet)).secret_findings] == [column]


def write_csv(path: Path) -> None:
    path.write_text("id,text\n" + "".join(f'{row["id"]},"{row["text"]}"\n' for row in ROWS))


def write_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))


FORMATS: dict[str, Callable[[Path], object]] = {
    "rows.jsonl": lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in ROWS)),
    "no_last_line_feed.jsonl": lambda path: path.write_text("\n\n".join(json.dumps(row) for row in ROWS)),
    "crlf_and_bom.jsonl": lambda path: path.write_bytes(
        b"\xef\xbb\xbf" + b"\r\n".join(json.dumps(row).encode() for row in ROWS)
    ),
    "array_in_disguise.jsonl": lambda path: path.write_text(json.dumps(ROWS, indent=1)),
    "rows.json": lambda path: path.write_text(json.dumps(ROWS)),
    "rows.csv": write_csv,
    "rows.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=2),
    "rows.jsonl.gz": write_gzip,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_findings(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    FORMATS[name](path)
    report = audit_dataset(str(path))
    assert report.total_samples == 3
    assert [(f.row, f.column, f.category, f.start) for f in report.findings] == [
        (0, "text", "email", 9),
        (2, "text", "github_token", 11),
    ]
    assert report.splits["train"]["columns"] == ["id", "text"]
    assert report.splits["train"]["text_length"] == {"min": 27, "max": 58, "mean": 40.3, "p50": 36, "p95": 58}


def test_names_say_which_split_a_file_belongs_to(write_rows: WriteRows, tmp_path: Path) -> None:
    for name in ("test.jsonl", "train-00001-of-00002.jsonl", "train-00000-of-00002.jsonl", "dev.jsonl", "odd.jsonl"):
        write_rows([{"text": f"a row of {name}"}], f"data/{name}")
    (tmp_path / "data" / "dataset_info.json").write_text("{}")
    (tmp_path / "data" / ".hidden.jsonl").write_text("nonsense")
    report = audit_dataset(str(tmp_path / "data"), emit_croissant=True)
    assert {split: summary["sample_count"] for split, summary in report.splits.items()} == {
        "train": 2, "validation": 1, "test": 1, "odd": 1,
    }  # fmt: skip
    assert len(report.cross_split_overlap["pairs"]) == 6
    assert len(report.croissant["distribution"]) == 5


def test_lines_that_are_no_rows_are_counted_and_the_others_audited(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(ROWS[0]).encode(), b"{broken", b"[1, 2]", b'"just text c@d.org"', b'{"text": "caf\xe9 a@b.org"}',
             b'{"text": "half \\ud800 pair e@f.org"}', b'{"text": "x", "text": "g@h.org"}', b"", json.dumps(ROWS[2]).encode()]  # fmt: skip
    path.write_bytes(b"\n".join(lines))
    report = audit_dataset(str(path))
    train = report.splits["train"]
    assert (train["sample_count"], train["parse_errors"], train["decode_errors"], train["non_object_rows"]) == (
        7,
        1,
        1,
        2,
    )
    assert report.pii_summary == {"email": 5}
    assert report.secrets_summary == {"github_token": 1}
    assert [(f.row, f.column) for f in report.findings] == [
        (0, "text"), (2, ""), (3, "text"), (4, "text"), (5, "text[1]"), (6, "text"),
    ]  # fmt: skip
    assert len([note for note in report.notes if note.startswith("train:")]) == 3


def test_rows_whose_types_do_not_agree_are_read_all_the_same(write_rows: WriteRows) -> None:
    rows: list[dict[str, Any]] = [
        {"content": "plain a@b.org"},
        {"content": [{"text": "list c@d.org"}]},
        {"content": {"x": "object e@f.org"}},
        {"content": 10**30},
    ]
    report = audit_dataset(str(write_rows(rows)))
    assert [finding.column for finding in report.findings] == ["content", "content[0].text", "content.x"]
    assert report.total_samples == 4


def test_an_empty_file_is_reported_as_empty(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("")
    report = audit_dataset(str(path), dedup_method="minhash", enable_quality_filter=True, emit_croissant=True)
    assert report.total_samples == 0
    assert report.quality_summary["overall_quality_score"] is None
    assert "train: no rows." in report.notes


def test_a_documented_placeholder_is_a_finding_but_not_counted(write_rows: WriteRows) -> None:
    report = audit_dataset(str(write_rows([{"text": "use AKIAIOSFODNN7EXAMPLE here"}])))
    assert report.secrets_summary == {}
    assert [finding.placeholder for finding in report.secret_findings] == [True]
    assert any("placeholder" in note for note in report.notes)


def test_a_span_is_secret_or_personal_not_both(write_rows: WriteRows) -> None:
    report = audit_dataset(str(write_rows([{"text": "postgres://bob:10000000146@db.example.com/x"}])))
    assert [finding.category for finding in report.findings] == ["url_password"]


WRONG: dict[str, list[Any]] = {
    "near_dup_threshold": [-1, 65, True, 2.5, "3"],
    "dedup_method": ["jaccard", None, ""],
    "minhash_jaccard": [-0.1, 1.1, float("nan"), "0.85", None, True],
    "minhash_num_perm": [0, 1.5, False],
    "workers": [0, -2, 1.0, True],
    "engine": ["spark", None],
    "pii_ml_language": ["", None],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_argument_is_named(name: str, value: object, write_rows: WriteRows) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: found .*; expected "):
        audit_dataset(str(write_rows(ROWS)), **{name: value})  # type: ignore[arg-type]


def test_a_missing_or_empty_source_is_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"source: there is no file or directory .*nowhere"):
        audit_dataset(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="holds no data files"):
        audit_dataset(str(tmp_path))


def test_files_of_an_unknown_kind_and_broken_files_are_value_errors(tmp_path: Path) -> None:
    (tmp_path / "notes.docx").write_text("x")
    with pytest.raises(ValueError, match=r"source: cannot read 'notes\.docx'"):
        audit_dataset(str(tmp_path / "notes.docx"))
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(errors.DataError, match="not readable as Parquet"):
        audit_dataset(str(tmp_path / "rows.parquet"))


@pytest.mark.parametrize("arguments", [{"dedup_method": "minhash"}, {"enable_pii_ml": True}])
def test_a_missing_extra_is_named_before_anything_is_read(
    arguments: dict[str, Any], write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasketch", None)
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(errors.OptionalDependencyError, match="pip install"):
        audit_dataset(str(write_rows(ROWS)), **arguments)


def test_the_options_of_both_methods_stand_in_the_report(write_rows: WriteRows) -> None:
    path = str(write_rows(ROWS))
    simhash = audit_dataset(path, near_dup_threshold=5).near_duplicate_summary
    assert (simhash["method"], simhash["hamming_threshold"], simhash["jaccard_threshold"]) == ("simhash", 5, 0.85)
    minhash = audit_dataset(path, dedup_method="minhash", minhash_num_perm=64, minhash_jaccard=1).near_duplicate_summary
    assert (minhash["method"], minhash["num_perm"], minhash["scheme"], minhash["jaccard_threshold"]) == (
        "minhash", 64, "affine32", 1,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["simhash", "minhash"])
def test_where_a_file_is_cut_into_shards_does_not_change_the_report(
    method: str, sentences: Callable[[int], list[str]], write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = sentences(200)
    rows = [{"text": text + (" Mail a@b.org." if i % 7 == 0 else "")} for i, text in enumerate(texts + texts[:20])]
    path = str(write_rows(rows))
    whole = without_time(audit_dataset(path, dedup_method=method))
    monkeypatch.setattr(reading, "SHARD_BYTES", 1000)
    assert without_time(audit_dataset(path, dedup_method=method)) == whole


SCRIPT = """
import sys
from forge_pipeline.dataset_audit import audit_dataset, reading
if __name__ == "__main__":
    audit_dataset(sys.argv[1], output_dir=sys.argv[2], workers=int(sys.argv[3]), enable_quality_filter=True,
                  emit_croissant=True, dedup_method="minhash")
"""


def test_the_report_is_the_same_bytes_whatever_the_workers_and_the_hash_seed(
    sentences: Callable[[int], list[str]], write_rows: WriteRows, tmp_path: Path
) -> None:
    for split in ("train", "validation", "extra"):
        rows = [{"z": text, "text": text, "a": [KEY], "m": {"q": "x@y.org"}} for text in sentences(30)]
        write_rows(rows, f"data/{split}.jsonl")
    script = tmp_path / "audit.py"
    script.write_text(SCRIPT)
    reports = []
    for workers, seed in (("1", "0"), ("2", "1")):
        subprocess.run(
            [sys.executable, str(script), str(tmp_path / "data"), str(tmp_path / workers), workers],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
        )
        report = read_report(tmp_path / workers / "data_audit_report.json", AuditReport)
        reports.append(canonical_json(without_time(report)))
    assert reports[0] == reports[1]
