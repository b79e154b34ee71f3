"""Erasure: what goes, what stays, what is said about it, and that a crash anywhere leaves it to be finished."""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forge_pipeline.audit_log import LOG_FILE, Vault, prove_inclusion, read_entries, verify_audit_log
from forge_pipeline.audit_log.reading import InclusionProof
from forge_pipeline.data import TokenizedDataset, tokenize
from forge_pipeline.data.artifacts import RawDataset
from forge_pipeline.data.compression import opened
from forge_pipeline.dataset_audit import clean
from forge_pipeline.erasure import (
    Places,
    Subject,
    check_not_trained_on_erased,
    erase,
    erased_behind,
    find_subject,
    read_register,
    read_tombstone,
    resume,
)
from forge_pipeline.erasure.places import plain_files
from forge_pipeline.errors import ConfigError, DataError, GateFailedError, IntegrityError
from forge_pipeline.integrity import Digest, Manifest
from tests.forge_pipeline.erasure.deployed import LINE, Deployment, Rows

JANE = "jane.doe@example.org"


def people(count: int = 12) -> Rows:
    """Rows about several people; every third is Jane's."""
    return [
        {"id": f"r{number}", "text": f"Row {number} of {JANE if number % 3 == 0 else f'someone{number}@example.com'}."}
        for number in range(count)
    ]


def raw_forms(identifier: str) -> list[bytes]:
    """How the identifier could still stand in a file."""
    data = identifier.encode()
    return [
        data,
        base64.b64encode(data).rstrip(b"="),
        data.hex().encode(),
        identifier.encode("utf-16-le"),
        identifier.encode("utf-16-be"),
    ]


def files_with(root: Path, identifier: str) -> list[str]:
    """Files under `root` that hold the identifier in some form, compressed ones and Parquet unpacked."""
    found = []
    for path in plain_files(root):
        data = path.read_bytes()
        if path.suffix == ".parquet":
            data += json.dumps(pq.read_table(path).to_pylist(), ensure_ascii=False, default=str).encode()
        elif path.suffix in (".gz", ".zst", ".bz2", ".xz"):
            with opened(path) as file:
                data += file.read()
        if any(form in data for form in raw_forms(identifier)):
            found.append(path.relative_to(root).as_posix())
    return found


@pytest.fixture
def erased_line(deployment: Deployment) -> tuple[Deployment, Path, Digest, Digest]:
    """A line with a dataset and a model, before the erasure: deployment, corpus, dataset, model."""
    corpus = deployment.corpus(people())
    dataset = deployment.raw_dataset(corpus)
    return deployment, corpus, dataset, deployment.model(dataset)


Line = tuple[Deployment, Path, Digest, Digest]


def test_rows_go_from_the_corpus_and_the_others_keep_their_bytes(erased_line: Line) -> None:
    deployment, corpus, _, _ = erased_line
    before = corpus.read_bytes().splitlines(keepends=True)
    result = erase(JANE, places=deployment.places, corpora=[corpus])
    assert corpus.read_bytes() == b"".join(line for line in before if JANE.encode() not in line)
    (change,) = result.corpora
    assert (change.rows, change.after) == (4, Digest.of_file(corpus))
    assert result.complete


def test_a_dataset_is_replaced_by_a_tombstone_that_names_its_successor(erased_line: Line) -> None:
    deployment, corpus, dataset, _ = erased_line
    (removal,) = erase(JANE, places=deployment.places, corpora=[corpus]).removed
    tombstone = read_tombstone(deployment.store.path(dataset))
    assert tombstone is not None
    assert (tombstone.artifact, tombstone.successor, tombstone.rows_removed) == (dataset, removal.successor, 4)
    log = read_entries(deployment.home / "erasure" / LOG_FILE)
    assert log[tombstone.seq].event == "data.erasure_requested"
    assert log[tombstone.seq].log_id == tombstone.log_id
    assert removal.successor is not None
    successor = deployment.store.get(removal.successor)  # verified like any other artefact
    assert Manifest.of_directory(successor).digest == removal.successor
    rows = deployment.rows_of(removal.successor)
    assert sorted(row["id"] for row in rows) == sorted(row["id"] for row in people() if JANE not in row["text"])
    provenance = RawDataset.open(successor).provenance
    assert sum(provenance.rows.values()) == 8
    assert provenance.transformations[-1].name == "erasure"


def test_a_model_made_from_the_rows_is_refused_until_it_is_trained_on_others(erased_line: Line) -> None:
    deployment, corpus, dataset, model = erased_line
    check_not_trained_on_erased(deployment.home, dataset, model)
    result = erase(JANE, places=deployment.places, corpora=[corpus])
    assert [(made.digest, made.is_model) for made in result.affected] == [(model, True)]
    with pytest.raises(GateFailedError, match="trained on data that was erased since"):
        check_not_trained_on_erased(deployment.home, dataset)
    with pytest.raises(GateFailedError):
        check_not_trained_on_erased(deployment.home, Digest.of(b"unknown"), model)
    again = deployment.raw_dataset(corpus)
    assert again != dataset
    check_not_trained_on_erased(deployment.home, again, deployment.model(again))
    (marked,) = [entry for entry in read_entries(deployment.log.log_path) if entry.event.startswith("model.trained")]
    assert (marked.data["subject"], marked.data["asset_key"]) == (model, f"{LINE}/fine_tuned_model")


def test_tokens_and_masked_rows_made_from_the_dataset_go_with_it(
    deployment: Deployment, recipe: Callable[..., object], tiny_model: Path
) -> None:
    from forge_pipeline.models import load_tokenizer

    corpus = deployment.corpus(people())
    dataset = deployment.raw_dataset(corpus)
    config = deployment.recipe(corpus).model_copy(
        update={"model": deployment.recipe(corpus).model.model_copy(update={"name_or_path": str(tiny_model)})}
    )
    masks = config.model_copy(
        update={
            "data": config.data.model_copy(update={"clean": config.data.clean.model_copy(update={"enabled": True})})
        }
    )
    work = deployment.home / "work" / "run-x"
    cleaned = clean(masks, RawDataset.open(deployment.store.path(dataset)), work / "clean")
    assert not any(JANE in row["text"] for split in cleaned.splits for row in cleaned.rows(split))
    clean_digest = deployment.publish("clean_dataset", cleaned, {"raw_dataset": dataset})
    tokenized = tokenize(
        config, RawDataset.open(deployment.store.path(clean_digest)), load_tokenizer(config), work / "tokens"
    )
    tokens = deployment.publish("tokenized_dataset", tokenized, {"clean_dataset": clean_digest})
    cached = deployment.home / "cache" / "tokenized" / "ab" / "cd" / "dataset"
    shutil.copytree(deployment.store.path(tokens), cached)
    model = deployment.model(clean_digest, tokens)
    result = erase(JANE, places=deployment.places, corpora=[corpus])
    for digest in (dataset, clean_digest, tokens):
        assert read_tombstone(deployment.store.path(digest)) is not None
        assert erased_behind(deployment.home, digest)
    assert read_tombstone(cached.parent) is not None
    assert [made.digest for made in result.affected] == [model]
    assert isinstance(tokenized, TokenizedDataset)


def test_openings_are_shredded_and_every_proof_still_holds(erased_line: Line) -> None:
    deployment, corpus, _, _ = erased_line
    deployment.log.log_event("acme.note", personal={"about": f"A letter from {JANE.upper()}"}, number=1)
    deployment.log.log_event("acme.note", personal={"about": "A letter from somebody"}, number=2)
    log = deployment.log.log_path
    before = [prove_inclusion(log, seq) for seq in range(len(read_entries(log)))]
    content = log.read_bytes()
    erase(JANE, places=deployment.places, corpora=[corpus])
    vault = Vault(log.parent / "vault.sqlite")
    assert [opening.value for opening in vault.openings()] == ["A letter from somebody"]
    assert log.read_bytes().startswith(content)
    check_proofs(log, before)


def check_proofs(log: Path, before: list[InclusionProof]) -> None:
    result = verify_audit_log(log)
    assert result.valid, result.reason
    for proof in before:
        assert proof.holds()
        assert prove_inclusion(log, proof.seq, size=proof.anchor.size) == proof


def test_a_dry_run_says_the_same_and_writes_nothing(erased_line: Line) -> None:
    deployment, corpus, _, _ = erased_line
    before = Manifest.of_directory(deployment.home / "store").digest, corpus.read_bytes()
    planned = erase(JANE, places=deployment.places, corpora=[corpus], dry_run=True)
    assert (Manifest.of_directory(deployment.home / "store").digest, corpus.read_bytes()) == before
    assert not (deployment.home / "erasure").exists()
    done = erase(JANE, places=deployment.places, corpora=[corpus])
    assert (planned.rows, planned.affected) == (done.rows, done.affected)


def test_a_second_erasure_finds_nothing_and_changes_nothing(erased_line: Line) -> None:
    deployment, corpus, _, _ = erased_line
    erase(JANE, places=deployment.places, corpora=[corpus])
    before = Manifest.of_directory(deployment.home / "store").digest, corpus.read_bytes()
    again = erase(JANE, places=deployment.places, corpora=[corpus])
    assert (again.rows, again.removed, again.affected, again.complete) == (0, (), (), True)
    assert (Manifest.of_directory(deployment.home / "store").digest, corpus.read_bytes()) == before
    assert len(read_register(deployment.home)) == 1


def test_rows_of_corpora_that_were_not_named_remain_and_are_reported(erased_line: Line) -> None:
    deployment, corpus, _, _ = erased_line
    other = deployment.corpus([{"text": f"again {JANE}"}], "other.jsonl")
    result = erase(JANE, places=deployment.places, corpora=[corpus])
    assert JANE in other.read_text()
    assert [(hit.place, hit.count) for hit in result.remaining] == [("corpus", 1)]
    assert not result.complete


def test_a_model_directory_that_names_the_person_is_kept_and_reported(deployment: Deployment) -> None:
    dataset = deployment.raw_dataset(deployment.corpus([{"text": f"row {n}"} for n in range(4)]))
    folder = deployment.store.path(deployment.model(dataset))
    (folder / "README.md").write_text(f"By {JANE}")
    result = erase(JANE, places=deployment.places)
    assert (folder / "README.md").exists()
    assert [hit.place for hit in result.remaining] == ["artifact"]


def test_rows_are_erased_by_id_too_and_other_corpora_with_that_id_are_left_alone(deployment: Deployment) -> None:
    corpus = deployment.corpus(people())
    other = deployment.corpus([{"id": "r3", "text": "something else"}, {"id": "x", "text": "more"}], "other.jsonl")
    mine, theirs = deployment.raw_dataset(corpus), deployment.raw_dataset(other)
    result = erase(row_ids=["r3"], places=deployment.places, corpora=[corpus])
    assert (result.rows, len(result.removed)) == (2, 1)
    assert read_tombstone(deployment.store.path(mine)) is not None
    assert read_tombstone(deployment.store.path(theirs)) is None
    assert '"r3"' in other.read_text()
    assert '"r3"' not in corpus.read_text()


def test_a_run_folder_loses_the_stages_that_hold_the_person(deployment: Deployment) -> None:
    corpus = deployment.corpus(people())
    runs = deployment.root / "runs"
    dataset = deployment.raw_dataset(corpus)
    shutil.copytree(deployment.store.path(dataset), runs / "run-0001" / "raw_dataset")
    (runs / "run-0001" / "train_result.json").write_text(json.dumps({"error": f"row of {JANE}"}))
    (runs / "run-0001" / "resource_usage.json").write_text("{}")
    places = Places.of(deployment.home, recipes=[deployment.recipe(corpus)])
    assert erase(JANE, places=places, corpora=[corpus]).complete
    assert read_tombstone(runs / "run-0001" / "raw_dataset") is not None
    assert not (runs / "run-0001" / "train_result.json").exists()
    assert (runs / "run-0001" / "resource_usage.json").exists()


def test_the_log_names_digests_and_counts_and_nobody(erased_line: Line) -> None:
    deployment, corpus, dataset, model = erased_line
    before = Digest.of_file(corpus)
    find_subject(JANE, places=deployment.places)
    words = f"{JANE} asked for it"
    erase(JANE, places=deployment.places, corpora=[corpus], justification=words, backups_pending=["tape of March"])
    events = {entry.event: entry for entry in read_entries(deployment.home / "erasure" / LOG_FILE)}
    query, completed = events["data.access_request_query"], events["data.erasure_completed"].data
    assert query.data["match_count"] == 8
    assert set(query.data["digests"]) == {before, dataset}
    assert set(query.commit) == {"query_key"}
    (change,) = completed["corpora"]
    assert (change["before"], change["after"]) == (before, Digest.of_file(corpus))
    assert [made["digest"] for made in completed["affected"]] == [model]
    assert completed["backups_pending"] == ["tape of March"]
    assert files_with(deployment.root, JANE) == []


def test_the_tag_of_a_request_can_be_shown_to_be_about_the_person_by_who_has_the_key(erased_line: Line) -> None:
    import hashlib
    import hmac

    deployment, _, _, _ = erased_line
    report = find_subject(JANE.upper(), places=deployment.places)
    (opening,) = Vault(deployment.home / "erasure" / "vault.sqlite").openings()
    key, normal = bytes.fromhex(opening.value), Subject.parse(JANE).normal
    assert hmac.new(key, normal.encode(), hashlib.sha256).hexdigest() == report.query_tag


class Crash(BaseException):
    """Stands for SIGKILL: nothing between here and the test may handle it."""


def crash_points(deployment: Deployment, corpus: Path) -> Iterator[str]:
    """Every point of an erasure, learnt from one that is carried out on a copy."""
    copy = deployment.root.with_name("rehearsal")
    shutil.copytree(deployment.root, copy, symlinks=True)
    there = Deployment(copy)
    moved = copy / corpus.relative_to(deployment.root)
    points: list[str] = []
    erase(JANE, places=Places.of(there.home, corpora=[moved]), corpora=[moved], reached=points.append)
    shutil.rmtree(copy)
    yield from points


def test_a_crash_at_any_point_is_finished_by_resume(tmp_path: Path) -> None:
    template = Deployment(tmp_path / "template")
    corpus = template.corpus(people())
    dataset = template.raw_dataset(corpus)
    template.model(dataset)
    template.log.log_event("acme.note", personal={"about": f"A letter from {JANE}"}, number=1)
    (template.home / "progress").mkdir()
    (template.home / "progress" / "run.jsonl").write_text(f'{{"note": "{JANE}"}}\n')
    points = list(crash_points(template, corpus))
    assert len(points) >= 12, points
    for number, point in enumerate(points):
        root = tmp_path / f"crash-{number}"
        shutil.copytree(template.root, root, symlinks=True)
        deployment, mine = Deployment(root), root / corpus.name
        deployment.corpora = [mine]
        with pytest.raises(Crash):
            erase(JANE, places=deployment.places, corpora=[mine], reached=crash_at(point))
        results = resume(deployment.home)
        assert len(results) == 1, point
        assert files_with(root, JANE) == [], point
        assert list(plain_files(deployment.home / "erasure" / "requests")) == []
        events = [entry.event for entry in read_entries(deployment.home / "erasure" / LOG_FILE)]
        assert events.count("data.erasure_requested") == events.count("data.erasure_completed") == 1, point
        assert len(read_register(deployment.home)) == 1
        with pytest.raises(GateFailedError):
            check_not_trained_on_erased(deployment.home, dataset)
        for log in (deployment.log.log_path, deployment.home / "erasure" / LOG_FILE):
            assert verify_audit_log(log).valid, point
        marks = [entry for entry in read_entries(deployment.log.log_path) if entry.event.startswith("model.trained")]
        assert len(marks) == 1, point
        assert resume(deployment.home) == ()
        leftovers = [path.name for path in root.rglob(".*") if "erasing" in path.name or "tombstone" in path.name]
        assert leftovers == [], point
        shutil.rmtree(root)


def crash_at(point: str) -> Callable[[str], None]:
    def reached(where: str) -> None:
        if where == point:
            raise Crash(where)

    return reached


def test_the_next_erasure_finishes_the_one_before(erased_line: Line) -> None:
    deployment, corpus, dataset, _ = erased_line
    with pytest.raises(Crash):
        erase(JANE, places=deployment.places, corpora=[corpus], reached=crash_at("registered"))
    erase("someone1@example.com", places=deployment.places, corpora=[corpus])
    assert find_subject(JANE, places=deployment.places).match_count == 0
    assert read_tombstone(deployment.store.path(dataset)) is not None


def test_a_corpus_that_changed_in_between_is_left_alone_and_the_failure_is_logged(erased_line: Line) -> None:
    deployment, corpus, _, _ = erased_line
    with pytest.raises(Crash):
        erase(JANE, places=deployment.places, corpora=[corpus], reached=crash_at("requested"))
    corpus.write_text(corpus.read_text() + '{"text": "new"}\n')
    content = corpus.read_bytes()
    with pytest.raises(IntegrityError, match="was changed while"):
        resume(deployment.home)
    assert corpus.read_bytes() == content
    failed = read_entries(deployment.home / "erasure" / LOG_FILE)[-1]
    assert (failed.event, failed.data["error"]) == ("data.erasure_failed", "IntegrityError")


WRONG: dict[str, tuple[dict[str, object], type[Exception], str]] = {
    "nobody": ({}, ConfigError, "name the person, or the ids"),
    "somebody and rows": ({"identifier": JANE, "row_ids": ["1"]}, ConfigError, "one of the two"),
    "rows of no corpus": ({"row_ids": ["1"]}, ConfigError, "--corpus"),
    "a corpus that is not there": (
        {"identifier": JANE, "corpora": [Path("nowhere.jsonl")]},
        DataError,
        "no such corpus",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_refused_before_anything_is_touched(case: str, deployment: Deployment) -> None:
    arguments, error, words = WRONG[case]
    with pytest.raises(error, match=words):
        erase(places=deployment.places, **arguments)  # type: ignore[arg-type]
    assert not (deployment.home / "erasure").exists()


UNFIT: dict[str, tuple[str, bytes]] = {
    "a header of CSV": ("a.csv", f"text,{JANE}\nhello,1\n".encode()),
    "a document": ("a.md", f"# Letter of {JANE}\n".encode()),
    "JSON that is cut off": ("a.json", f'[{{"text": "{JANE}"}}, '.encode()),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_corpus_from_which_no_row_can_be_taken_is_refused_and_kept(case: str, deployment: Deployment) -> None:
    name, data = UNFIT[case]
    corpus = deployment.root / name
    corpus.write_bytes(data)
    with pytest.raises(DataError, match=name):
        erase(JANE, places=deployment.places, corpora=[corpus])
    assert corpus.read_bytes() == data


IDENTIFIERS = st.one_of(
    st.builds("{}.{}@{}.example".format, *[st.from_regex(r"[a-z]{3,8}", fullmatch=True)] * 3),
    st.sampled_from(["DE89370400440532013000", "+4930901820", "Zoë Ångström", "Grace Hopper"]),
)
FILES = st.sampled_from(["rows.jsonl", "rows.json", "rows.csv", "rows.jsonl.gz", "rows.parquet"])


@st.composite
def corpora(draw: st.DrawFn) -> tuple[str, str, list[bool], bool]:
    identifier = draw(IDENTIFIERS)
    return identifier, draw(FILES), draw(st.lists(st.booleans(), min_size=3, max_size=12)), draw(st.booleans())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=corpora(), form=st.sampled_from(["plain", "base64", "hex", "utf-16 hex"]))
def test_after_an_erasure_no_file_holds_the_identifier_in_any_form(
    case: tuple[str, str, list[bool], bool], form: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    identifier, name, whose, noted = case
    deployment = Deployment(tmp_path_factory.mktemp("law") / "deployment")
    texts = [written(identifier, form) if mine else "nobody" for mine in whose]
    rows = [{"text": f"Row {number}: {text} says something."} for number, text in enumerate(texts)]
    corpus = write_as(deployment.root / name, rows)
    deployment.corpora = [corpus]
    dataset = deployment.raw_dataset(corpus)
    deployment.model(dataset)
    if noted:
        deployment.log.log_event("acme.note", personal={"about": f"letter of {identifier}"}, number=1)
    log = deployment.log.log_path
    proofs = [prove_inclusion(log, seq) for seq in range(len(read_entries(log)))]
    result = erase(identifier, places=deployment.places, corpora=[corpus])
    assert result.complete
    assert files_with(deployment.root, identifier) == []
    assert sum(change.rows for change in result.corpora) == sum(whose)
    if any(whose) and not all(whose):
        (removal,) = result.removed
        assert removal.successor is not None
        assert len(deployment.rows_of(removal.successor)) + removal.rows == len(whose)
    check_proofs(log, proofs)
    assert verify_audit_log(deployment.home / "erasure" / LOG_FILE).valid
    assert erase(identifier, places=deployment.places, corpora=[corpus]).rows == 0
    shutil.rmtree(deployment.root)


def written(identifier: str, form: str) -> str:
    if form == "base64":
        return base64.b64encode(identifier.encode()).decode()
    if form == "hex":
        return identifier.encode().hex()
    if form == "utf-16 hex":
        return identifier.encode("utf-16-le").hex()
    return identifier


def write_as(path: Path, rows: Rows) -> Path:
    """Rows in the format that the file's name says."""
    import csv
    import gzip

    import pyarrow as pa

    lines = "".join(json.dumps(row) + "\n" for row in rows)  # \u escapes, which raw bytes do not show
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.suffix == ".jsonl":
        path.write_text(lines)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["text"], quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("point", ["planned", "rewrite 0 aside", "artifact 1 aside", "shred 2 done"])
def test_a_killed_process_leaves_an_erasure_that_another_finishes(point: str, erased_line: Line) -> None:
    deployment, corpus, dataset, _ = erased_line
    deployment.log.log_event("acme.note", personal={"about": f"A letter from {JANE}"}, number=1)
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from forge_pipeline.erasure import Places, erase\n"
        "home, corpus, point = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]\n"
        "die = lambda where: os.kill(os.getpid(), signal.SIGKILL) if where == point else None\n"
        "erase(sys.stdin.read(), places=Places.of(home, corpora=[corpus]), corpora=[corpus], reached=die)\n"
    )
    arguments = [sys.executable, "-c", program, str(deployment.home), str(corpus), point]
    done = subprocess.run(arguments, input=JANE, text=True, capture_output=True, timeout=120, check=False)
    assert done.returncode == -9, done.stderr
    (result,) = resume(deployment.home)
    assert result.rows == 8
    assert files_with(deployment.root, JANE) == []
    assert read_tombstone(deployment.store.path(dataset)) is not None
    assert verify_audit_log(deployment.home / "erasure" / LOG_FILE).valid
