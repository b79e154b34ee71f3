"""`forge find-subject`, `forge erase` and `forge retention` from the outside."""

import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.audit_log import AuditLogger

Forge = Callable[..., Any]
JANE = "jane.doe@example.org"
RECIPE = Path(__file__).parents[3] / "forge_pipeline" / "cli" / "quickstart.yaml"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"id": 1, "text": "by {JANE}"}}\n{{"id": 2, "text": "by nobody"}}\n')
    return path


def test_a_search_names_places_and_never_the_person(forge: Forge, corpus: Path) -> None:
    done = forge("find-subject", JANE, "--corpus", corpus)
    assert done.code == 0
    assert "1 matches of the email" in done.out
    assert "rows.jsonl" in done.out
    assert JANE not in done.out + done.err


def test_the_identifier_may_come_from_stdin(forge: Forge, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{JANE}\n"))
    done = forge("find-subject", "-", "--corpus", corpus, "--json")
    assert (done.code, json.loads(done.out)["match_count"]) == (0, 1)


def test_a_report_file_is_for_its_owner_and_is_not_overwritten(forge: Forge, corpus: Path, tmp_path: Path) -> None:
    assert forge("find-subject", JANE, "--corpus", corpus, "--output", "report.json").code == 0
    report = tmp_path / "report.json"
    assert json.loads(report.read_text())["match_count"] == 1
    assert os.name != "posix" or report.stat().st_mode & 0o077 == 0
    assert forge("find-subject", JANE, "--corpus", corpus, "--output", "report.json").code == 1


def test_an_erasure_leaves_the_other_rows(forge: Forge, corpus: Path) -> None:
    assert forge("erase", JANE, "--corpus", corpus, "--dry-run").code == 0
    assert JANE in corpus.read_text()
    done = forge("erase", JANE, "--corpus", corpus, "--backup", "tape", "--json")
    assert done.code == 0
    document = json.loads(done.out)
    assert (document["complete"], document["corpora"][0]["rows"], document["backups_pending"]) == (True, 1, ["tape"])
    assert corpus.read_text() == '{"id": 2, "text": "by nobody"}\n'
    assert forge("verify", "log", "home/erasure/audit_log.jsonl").code == 0


def test_rows_are_erased_by_id(forge: Forge, corpus: Path) -> None:
    assert forge("erase", "--row-id", "2", "--corpus", corpus).code == 0
    assert corpus.read_text() == f'{{"id": 1, "text": "by {JANE}"}}\n'


def test_what_remains_is_exit_code_2(forge: Forge, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "home" / "notes.txt").write_text(f"about {JANE}")
    done = forge("erase", JANE, "--corpus", corpus)
    assert done.code == 2
    assert "REMAINS   notes.txt" in done.out


def test_resuming_nothing_is_fine(forge: Forge, corpus: Path) -> None:
    assert forge("erase", "--resume").out == "0 erasures finished\n"


def test_an_erased_person_is_denied_where_asked(forge: Forge, corpus: Path, tmp_path: Path) -> None:
    from forge_pipeline.erasure import DenyList

    assert forge("erase", JANE, "--corpus", corpus, "--deny-days", "30").code == 0
    assert DenyList.of_home(tmp_path / "home").matches(f"from {JANE}")


WRONG: dict[str, tuple[list[str], str]] = {
    "no identifier": (["erase", "--corpus", "rows.jsonl"], "no identifier"),
    "an empty one": (["find-subject", " "], "no identifier"),
    "one that is too short": (["find-subject", "ab"], "expected 3 to 400"),
    "a kind that is none": (["find-subject", JANE, "--kind", "dna"], "invalid choice"),
    "a kind that does not fit": (["find-subject", JANE, "--kind", "iban"], "no iban"),
    "a corpus that is not there": (["erase", JANE, "--corpus", "nowhere.jsonl"], "nowhere.jsonl"),
    "a home that is not there": (["find-subject", JANE, "--home", "nowhere"], "--home"),
    "a recipe that is not there": (["find-subject", JANE, "--recipe", "nowhere.yaml"], "nowhere.yaml"),
    "resuming somebody": (["erase", JANE, "--resume"], "--resume"),
    "row ids without a corpus": (["erase", "--row-id", "1"], "--corpus"),
    "denying a row": (["erase", "--row-id", "1", "--corpus", "rows.jsonl", "--deny-days", "3"], "--deny-days"),
    "denying for ever": (["erase", JANE, "--deny-days", "99999"], "1 to 3650 days"),
    "retention without a recipe": (["retention"], "recipe"),
    "a day that is none": (["retention", str(RECIPE), "--placed-on", "yesterday"], "--placed-on"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_exit_code_1_and_does_not_repeat_the_person(case: str, forge: Forge, corpus: Path) -> None:
    arguments, words = WRONG[case]
    done = forge(*arguments)
    assert (done.code, words in done.err) == (1, True), done.err
    assert JANE not in done.err
    assert corpus.read_text().count("\n") == 2


def test_a_log_that_cannot_be_written_is_exit_code_2_and_erases_nothing(
    forge: Forge, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "home" / "erasure").mkdir()
    (tmp_path / "home" / "erasure" / "audit_log.jsonl").write_text("not a log\n")
    assert forge("erase", JANE, "--corpus", corpus).code == 2
    assert JANE in corpus.read_text()


def test_a_changed_register_is_exit_code_6(forge: Forge, corpus: Path, tmp_path: Path) -> None:
    from forge_pipeline.cli.exit_codes import exit_code_of
    from forge_pipeline.erasure import read_register
    from forge_pipeline.errors import IntegrityError

    (tmp_path / "home" / "erasure").mkdir()
    (tmp_path / "home" / "erasure" / "register.jsonl").write_text('{"request": 1}\n')
    with pytest.raises(IntegrityError) as found:
        read_register(tmp_path / "home")
    assert exit_code_of(found.value) == 6


@pytest.fixture
def strict_recipe(tmp_path: Path, corpus: Path) -> Path:
    """The quickstart recipe with a retention section that blocks, and scratch that is a year old."""
    import yaml

    values = yaml.safe_load(RECIPE.read_text())
    values |= {"name": "strict", "retention": {"staging_ttl_days": 7, "enforce": "block_on_excess"}}
    path = tmp_path / "strict.yaml"
    path.write_text(yaml.safe_dump(values))
    old = tmp_path / "home" / "work" / "run-1" / "x"
    old.parent.mkdir(parents=True)
    old.write_text("x")
    year_ago = time.time() - 365 * 86_400
    os.utime(old, (year_ago, year_ago))
    return path


def test_excess_is_exit_code_3_where_it_blocks_until_it_is_deleted(
    forge: Forge, strict_recipe: Path, tmp_path: Path
) -> None:
    done = forge("retention", strict_recipe, "--json")
    assert (done.code, json.loads(done.out)["due"][0]["path"]) == (3, "work/run-1")
    assert (tmp_path / "home" / "work" / "run-1").exists()
    assert forge("retention", strict_recipe, "--apply").code == 0
    assert not (tmp_path / "home" / "work" / "run-1").exists()
    assert forge("retention", strict_recipe).out == "nothing is past its retention period\n"


def test_personal_values_in_vaults_are_shredded(forge: Forge, corpus: Path, tmp_path: Path) -> None:
    log = AuditLogger(tmp_path / "home" / "audit_log" / "line")
    log.log_event("acme.note", personal={"about": f"by {JANE}"}, number=1)
    assert forge("erase", JANE, "--corpus", corpus).code == 0
    assert log.vault.openings() == []
    assert forge("verify", "log", log.log_path).code == 0
