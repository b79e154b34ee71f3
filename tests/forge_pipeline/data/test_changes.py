"""Whether files may have changed, without reading them."""

import os

import pytest

from forge_pipeline.data.changes import files_state


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").write_text('{"text": "a"}\n')
    return tmp_path / "data"


def rewrite(folder):
    (folder / "rows.jsonl").write_text('{"text": "b"}\n')


def rewrite_and_set_the_time_back(folder):
    before = os.stat(folder / "rows.jsonl")
    rewrite(folder)
    os.utime(folder / "rows.jsonl", ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(folder):
    (folder / "new").write_text('{"text": "a"}\n')
    (folder / "new").rename(folder / "rows.jsonl")


CHANGES = {
    "other bytes of the same size": rewrite,
    "and the old time of change": rewrite_and_set_the_time_back,
    "another file in its place": replace,
    "a new file": lambda folder: (folder / "more.jsonl").write_text("{}\n"),
    "one file less": lambda folder: (folder / "rows.jsonl").unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_seen(folder, change):
    before = files_state([str(folder)])
    assert files_state([str(folder)]) == before
    change(folder)
    assert files_state([str(folder)]).digest != before.digest


def test_a_link_in_a_circle_ends(folder):
    (folder / "again").symlink_to(folder, target_is_directory=True)
    assert files_state([str(folder)]) is not None


def test_what_is_no_file_here_has_no_state(folder):
    assert files_state([str(folder), "owner/name"]) is None
