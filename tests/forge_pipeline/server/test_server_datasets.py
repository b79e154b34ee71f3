"""Conformance rows U and L: uploads and their list; one dataset, its removal and its audit."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.integrity import Digest
from forge_pipeline.server.audit_child import lengths_of
from forge_pipeline.server.row_schemas import MAX_ERRORS, inspect_file
from tests.forge_pipeline.server.served import (
    PREFERENCES,
    TRAINABLE,
    Studio,
    check_envelope,
    in_thread,
    jsonl,
    settings_for,
    wait_for,
)

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def test_nothing_uploaded_nothing_listed_and_a_list_survives_a_restart(tmp_path: Path) -> None:
    with in_thread(settings_for(tmp_path)) as studio:
        assert studio.get("/api/datasets").json() == {"datasets": []}
        studio.upload("rows.jsonl", jsonl(TRAINABLE))
        before = studio.get("/api/datasets").json()
    with in_thread(settings_for(tmp_path)) as studio:
        assert studio.get("/api/datasets").json() == before
        assert studio.status()["status"] == "idle"


def test_an_upload_is_checked_counted_and_listed(server: Studio) -> None:
    content = jsonl(PREFERENCES)
    uploaded = server.upload("good.jsonl", content).json()
    assert uploaded["status"] == "uploaded"
    assert uploaded["num_examples"] == len(PREFERENCES)
    assert uploaded["validation"] | {} == {
        "valid": True,
        "errors": [],
        "error_count": 0,
        "dataset_schema": "prompt, chosen, rejected",
    }
    listed = {item["filename"]: item for item in server.get("/api/datasets").json()["datasets"]}[uploaded["filename"]]
    assert listed["num_examples"] == len(PREFERENCES)
    assert listed["size_mb"] == pytest.approx(len(content) / 1e6, abs=0.001)
    assert TIMESTAMP.fullmatch(listed["uploaded_at"])
    assert (server.data_dir / "datasets" / uploaded["filename"]).read_bytes() == content


def test_what_is_no_upload_is_refused(server: Studio) -> None:
    path = "/api/upload_dataset"
    check_envelope(server.post(path), 400)
    check_envelope(server.post(path, json={"file": "x"}), 400)
    check_envelope(server.post(path, files={"json_file": ("a.jsonl", b"{}")}), 400)
    check_envelope(server.post(path, data={"file": "text, not a file"}), 400)
    check_envelope(server.post(path, content=b"x", headers={"Content-Type": "multipart/form-data"}), 400)
    cut = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{"text": "a"}'
    check_envelope(server.post(path, content=cut, headers={"Content-Type": "multipart/form-data; boundary=b"}), 400)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.jsonl", b""),
        ("blank.jsonl", b"\n \n\n"),
        ("rows.csv", b"a,b\n1,2\n"),
        ("rows.exe", b"MZ"),
        ("rows", b"{}"),
        ("latin.jsonl", '{"text": "é"}'.encode("latin-1")),
        ("utf16.jsonl", '{"text": "a"}'.encode("utf-16")),
    ],
)
def test_a_file_that_is_no_jsonl_is_refused_and_leaves_nothing(server: Studio, name: str, content: bytes) -> None:
    before = sorted((server.data_dir / "datasets").iterdir())
    check_envelope(server.upload(name, content), 400)
    assert sorted((server.data_dir / "datasets").iterdir()) == before


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("../../evil.jsonl", r"evil(-\d+)?\.jsonl"),
        ("/etc/x.jsonl", r"x(-\d+)?\.jsonl"),
        ("a\\b.jsonl", r"b(-\d+)?\.jsonl"),
        ("n" * 300 + ".jsonl", r"n{100}\.jsonl"),
        (".hidden.jsonl", r"hidden\.jsonl"),
        ("été naïve.jsonl", r"[\w.-]+\.jsonl"),
        ("a; rm -rf $(x).jsonl", r"[\w.-]+\.jsonl"),
        ("...jsonl", r"dataset\.jsonl"),
    ],
)
def test_a_name_is_reduced_to_a_plain_one_in_the_dataset_folder(server: Studio, name: str, stored: str) -> None:
    def outside() -> set[Path]:
        return {path for path in server.data_dir.parent.rglob("*.jsonl") if path.parent != server.data_dir / "datasets"}

    before = outside()
    filename = server.upload(name, jsonl(TRAINABLE)).json()["filename"]
    assert re.fullmatch(stored, filename)
    assert (server.data_dir / "datasets" / filename).is_file()
    assert outside() == before


def test_an_upload_never_replaces_another(server: Studio) -> None:
    first = server.upload("same.jsonl", jsonl(TRAINABLE)).json()["filename"]
    second = server.upload("same.jsonl", jsonl(PREFERENCES)).json()["filename"]
    assert first != second
    assert (server.data_dir / "datasets" / first).read_bytes() == jsonl(TRAINABLE)
    names = [item["filename"] for item in server.get("/api/datasets").json()["datasets"]]
    assert {first, second} <= set(names)
    assert len(names) == len(set(names))


def test_a_file_over_the_limit_is_413_and_leaves_nothing(server: Studio) -> None:
    before = sorted((server.data_dir / "datasets").iterdir())
    check_envelope(server.upload("big.jsonl", b'{"text": "a"}\n' * 200_000), 413)
    assert sorted((server.data_dir / "datasets").iterdir()) == before


def test_the_first_hundred_bad_lines_are_named_and_all_are_counted(server: Studio) -> None:
    uploaded = server.upload("bad.jsonl", b'{"nothing": 1}\n' * 150)
    assert uploaded.status_code == 200
    validation = uploaded.json()["validation"]
    assert not validation["valid"]
    assert len(validation["errors"]) == MAX_ERRORS
    assert validation["error_count"] == 150
    assert [error.split(":")[0] for error in validation["errors"][:2]] == ["line 1", "line 2"]


KNOWN: dict[str, dict[str, Any]] = {
    "prompt, completion": {"prompt": "a", "completion": "b"},
    "messages": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    "instruction, output": {"instruction": "a", "input": "c", "output": "b"},
    "input, output": {"input": "a", "output": "b"},
    "text": {"text": "a"},
    "document, summary": {"document": "a", "summary": "b"},
    "article, summary": {"article": "a", "summary": "b"},
    "context, question, answer": {"context": "a c", "question": "b", "answer": "c"},
    "context, question, answers": {"context": "a c", "question": "b", "answers": {"text": ["c"], "answer_start": [2]}},
    "prompt, chosen, rejected": {"prompt": "a", "chosen": "b", "rejected": "c"},
    "prompt": {"prompt": "a", "answer": "4"},
}


@pytest.mark.parametrize("schema", KNOWN)
def test_each_schema_of_the_contract_is_known(schema: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl([KNOWN[schema]] * 3))
    report = inspect_file(path)
    assert report.valid
    assert report.schema == schema


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"text": ["c"], "answer_start": [2]}, None),
        ({"text": [], "answer_start": []}, None),
        (["c", "a"], None),
        ("c", None),
        ({"text": ["d"], "answer_start": [0]}, "the answer 'd' does not stand in the context"),
        ({"text": ["c"], "answer_start": [2, 0]}, "expected one for each text"),
        ({"text": "c"}, ".text must be a list of strings"),
        ([1], "must be a list of strings"),
        (" ", "is empty"),
        (3, "must be a string, found a number"),
    ],
    ids=str,
)
def test_answers_are_looked_for_in_their_context(answers: Any, words: str | None, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl([{"context": "a c", "question": "b", "answers": answers}]))
    report = inspect_file(path, ("context, question, answers",))
    assert report.valid is (words is None)
    assert words is None or words in report.errors[0]


_ROW = b'{"input": "a", "output": "b"}'
# What a file holds -> the words of its first finding; None: it is fine.
FILES: dict[str, tuple[bytes, str | None]] = {
    "a byte order mark": (b"\xef\xbb\xbf" + _ROW, None),
    "Windows' line ends": (_ROW + b"\r\n" + _ROW + b"\r\n", None),
    "null for what is not there": (b'{"input": "a", "output": "b", "system": null}', None),
    "a tool call without words": (
        b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": null, "tool_calls": [{}]}]}',
        None,
    ),
    "an integer of 5000 digits": (b'{"input": ' + b"9" * 5000 + b"}", "line 1: cannot be read: a number has more than"),
    "half of a surrogate pair": (rb'{"input": "\ud800", "output": "b"}', "line 1: cannot be read: text with half of"),
    "a key twice": (b'{"input": "a", "input": "b", "output": "c"}', "line 1: cannot be read: duplicate key 'input'"),
    "NaN": (b'{"input": NaN, "output": "c"}', "line 1: cannot be read: NaN is not JSON"),
    "one list of rows": (b"[" + _ROW + b"]", "line 1: is a list; expected an object. A dataset is JSON Lines"),
    "a row over three lines": (b'{\n"text": "a"\n}', "A dataset is JSON Lines: one object a line"),
    "a row of a number": (b"3", "line 1: is a number; expected an object"),
    "a number for text": (b'{"text": 3}', "must be a string, found a number"),
    "nobody answers": (b'{"messages": [{"role": "user", "content": "a"}]}', "holds no message of the assistant"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_wrong_with_a_line_is_said_in_words_and_is_what_the_run_would_say(name: str, tmp_path: Path) -> None:
    content, words = FILES[name]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    report = inspect_file(path)
    assert report.valid is (words is None), report
    assert words is None or words in report.errors[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"text": "a"}'.encode("utf-16"), "begins like UTF-16. Save it as UTF-8"),
        (b"\x1f\x8b\x08\x00", "compressed with gzip"),
        (b'{"text": "a"}\n{"text": "\xe9"}', "byte 11 of line 2"),
    ],
)
def test_a_file_of_another_encoding_is_called_by_its_name(server: Studio, content: bytes, words: str) -> None:
    assert words in check_envelope(server.upload("rows.jsonl", content), 400)


def test_odd_lines_are_findings_and_not_crashes(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b"[" * 100_000 + b"\n" + b"3\n" + b'{"text": "' + b"a" * (17 * 2**20) + b'"}\n' + b'{"text": "a"}\n'
    )
    report = inspect_file(path)
    assert (report.rows, report.error_count) == (4, 3)


# One dataset


def test_one_dataset_shows_its_digest_and_its_first_rows(server: Studio) -> None:
    long = {"input": "x" * 5000, "output": "y", "more": {"list": list(range(100))}}
    content = b'{"broken\n' + jsonl([long, *TRAINABLE]) + b'{"input": "\\ud800", "output": NaN}\n'
    name = server.upload("shown.jsonl", content).json()["filename"]
    details = server.get(f"/api/datasets/{name}").json()
    assert details["digest"] == Digest.of(content)
    assert details["num_examples"] == len(TRAINABLE) + 3
    assert details["size_mb"] == pytest.approx(len(content) / 1e6, abs=0.001)
    assert not details["validation"]["valid"]
    assert len(details["preview"]) == 5
    assert details["preview"][1:] == TRAINABLE[:4]
    cut = details["preview"][0]
    assert cut["input"] == "x" * 1000 + "…"
    assert cut["more"]["list"] == [*range(20), "…"]
    odd = server.upload("odd.jsonl", b'{"input": "\\ud800", "output": NaN}\n').json()["filename"]
    assert server.get(f"/api/datasets/{odd}").json()["preview"] == [{"input": "?", "output": None}]


@pytest.mark.parametrize("name", ["nothing.jsonl", "..%2fregistry.sqlite", ".incoming.x", "a" * 3000])
def test_a_dataset_that_is_not_there_is_404(server: Studio, name: str) -> None:
    for path in (f"/api/datasets/{name}", f"/api/datasets/{name}/audit", f"/api/datasets/{name}/audit.html"):
        check_envelope(server.get(path), 404)
    check_envelope(server.http.delete(f"/api/datasets/{name}"), 404)


def test_a_dataset_is_deleted_unless_a_job_is_to_learn_from_it(tmp_path: Path) -> None:
    with in_thread(settings_for(tmp_path, package_models=("tiny",))) as studio:
        studio.upload("rows.jsonl", jsonl(TRAINABLE))
        job = studio.queue(model_name="tiny").json()["job_id"]
        assert job in check_envelope(studio.http.delete("/api/datasets/rows.jsonl"), 409)
        studio.post(f"/api/jobs/{job}/cancel")
        assert studio.http.delete("/api/datasets/rows.jsonl").json()["status"] == "deleted"
        assert studio.get("/api/datasets").json() == {"datasets": []}
        assert not (tmp_path / "datasets" / "rows.jsonl").exists()
        check_envelope(studio.http.delete("/api/datasets/rows.jsonl"), 404)
        check_envelope(studio.post(f"/api/jobs/{job}/retry"), 404)


# Its audit

PERSONAL = [{"text": f"Write to ann.smith{i}@example.org about house {i} and its garden."} for i in range(3)]
SECRET = [{"text": "The key is AKIAQ3EGR7XUJTM5ZP2L and it opens the storage of the house."}]


def audited(studio: Studio, name: str, **query: Any) -> dict[str, Any]:
    def done() -> dict[str, Any] | None:
        found = studio.get(f"/api/datasets/{name}/audit", params=query).json()
        return None if found["state"] == "running" else found

    return dict(wait_for(done, timeout=120, every=0.2))


def test_an_audit_is_made_once_in_a_process_of_its_own_and_kept(tmp_path: Path) -> None:
    texts = [
        {"text": f"The house number {i} stands on a hill by the river, and it has {i} windows."} for i in range(40)
    ]
    rows = [*texts, texts[0], *PERSONAL, *SECRET]
    with in_thread(settings_for(tmp_path)) as studio:
        name = studio.upload("mixed.jsonl", jsonl(rows)).json()["filename"]
        check_envelope(studio.get(f"/api/datasets/{name}/audit.html"), 404)
        first = studio.get(f"/api/datasets/{name}/audit").json()
        assert (first["state"], first["error"], first["report"]) == ("running", None, None)
        assert studio.get("/api/health").status_code == 200
        found = audited(studio, name)
        assert (found["state"], found["error"]) == ("ready", None)
        report = found["report"]
        assert report["num_rows"] == len(rows)
        assert sum(each["count"] for each in report["lengths"]) == len(rows)
        assert report["lengths"][0]["from"] == min(len(row["text"]) for row in rows)
        assert report["languages"][0]["name"] == "en"
        assert sum(each["count"] for each in report["languages"]) == len(rows)
        assert {"name": "email", "severity": "medium", "count": 3} in report["pii"]
        assert report["secrets"][0]["count"] == 1
        assert report["exact_duplicates"] == 1
        assert report["near_duplicates"] >= 0
        page = studio.get(report["url"])
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        for leak in (str(tmp_path), "ann.smith", "AKIAQ3EGR7XUJTM5ZP2L"):
            assert leak not in page.text + str(found)
    with in_thread(settings_for(tmp_path)) as studio:
        assert studio.get(f"/api/datasets/{name}/audit").json() == found, "there at once after a restart"
        again = studio.upload("copy.jsonl", jsonl(rows)).json()["filename"]
        assert studio.get(f"/api/datasets/{again}/audit").json()["state"] == "ready", "of the same bytes"
        assert studio.http.delete(f"/api/datasets/{name}").status_code == 200
        assert len(list((tmp_path / "audits").iterdir())) == 1
        assert studio.http.delete(f"/api/datasets/{again}").status_code == 200
        assert not list((tmp_path / "audits").iterdir())


def test_the_audit_of_a_file_that_was_changed_fails_until_it_is_asked_for_again(tmp_path: Path) -> None:
    with in_thread(settings_for(tmp_path)) as studio:
        studio.upload("rows.jsonl", jsonl(TRAINABLE))
        file = tmp_path / "datasets" / "rows.jsonl"
        file.write_bytes(jsonl(TRAINABLE[:3]))
        failed = audited(studio, "rows.jsonl")
        assert (failed["state"], failed["report"]) == ("failed", None)
        assert "not the one that was uploaded" in failed["error"]
        assert str(tmp_path) not in failed["error"]
        file.write_bytes(jsonl(TRAINABLE))
        assert studio.get("/api/datasets/rows.jsonl/audit").json() == failed
        assert studio.get("/api/datasets/rows.jsonl/audit", params={"again": True}).json()["state"] == "running"
    assert not list((tmp_path / "audits").iterdir()), "the server's end is the audit's end, and leaves nothing"


@pytest.mark.parametrize(
    ("lengths", "bins"),
    [
        ([5], [(5, 5, 1)]),
        ([5, 6], [(5, 5, 1), (6, 6, 1)]),
        ([1, 40], [(first, first + 1, int(first in (1, 39))) for first in range(1, 40, 2)]),
        ([*range(1, 101), 5000, 90_000], None),
    ],
    ids=["one row", "two rows", "far apart", "a long tail"],
)
def test_lengths_are_counted_from_the_shortest_row_to_the_longest(
    tmp_path: Path, lengths: list[int], bins: list[tuple[int, int, int]] | None
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl([{"text": "x" * length} for length in lengths]))
    found = [(each["from"], each["to"], each["count"]) for each in lengths_of(path)]
    assert bins is None or found == bins
    assert sum(count for _, _, count in found) == len(lengths)
    assert (found[0][0], found[-1][1]) == (min(lengths), max(lengths))
    assert len(found) <= 21
    assert all(after[0] == before[1] + 1 for before, after in itertools.pairwise(found))
