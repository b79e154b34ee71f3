"""SLSA provenance: what a record says, and nothing that it does not."""

from dataclasses import replace
from typing import Any

import pytest

from forge_pipeline.attestation import PROVENANCE_PREDICATE, Statement, provenance
from forge_pipeline.attestation.provenance import BUILD_TYPE
from forge_pipeline.errors import EvidenceError
from forge_pipeline.integrity import Digest, Manifest
from forge_pipeline.models import BaseModelRecord

COMMIT = "ab" * 20
HUB = BaseModelRecord("owner/base", "main", COMMIT, "hub", None, "apache-2.0")


def record(digest: Digest, **more: Any) -> dict[str, Any]:
    return {
        "asset_key": "line/fine_tuned_model",
        "partition": "2026",
        "artifact_type": "ModelDirectory",
        "digest": digest,
        "files": 3,
        "size": 100,
        "inputs": {"line/tokenized_dataset": Digest.of(b"t"), "line/recipe": Digest.of(b"r")},
        "code_version": "c0de",
        "run_id": "run-1",
        "step_key": "line__fine_tuned_model",
        "recorded_at": "2026-11-21T12:00:05.123+00:00",
        "previous": None,
        "environment": {
            "git_commit": "cd" * 20, "git_dirty": "yes", "python": "3.11.7", "cpu_model": "a CPU",
            "constraints_digest": str(Digest.of(b"lock")), "package:torch": "2.13", "forge_pipeline": "0.1.0",
        },
    } | more  # fmt: skip


def newer(digest: Digest) -> dict[str, Any]:
    return record(
        digest,
        recipe=Digest.of(b"recipe"),
        seeds={"training.seed": 42, "training.full_determinism": True},
        packages=Digest.of(b"packages"),
        started_at="2026-11-21T14:00:00+02:00",
    )


def test_everything_that_was_recorded_is_in_its_place(manifest: Manifest) -> None:
    value = provenance(newer(manifest.digest), manifest=manifest, base_model=HUB, record_digest=Digest.of(b"rec"))
    parsed = Statement.from_json(value)
    assert parsed.predicate_type == PROVENANCE_PREDICATE
    assert [each.name for each in parsed.subjects] == [
        "line/fine_tuned_model",
        "line/fine_tuned_model/a.txt",
        "line/fine_tuned_model/a/b.txt",
        "line/fine_tuned_model/model.safetensors",
    ]
    definition, details = parsed.predicate["buildDefinition"], parsed.predicate["runDetails"]
    assert definition["buildType"] == BUILD_TYPE
    assert definition["externalParameters"] == {
        "line": "line", "asset": "fine_tuned_model", "partition": "2026", "recipe": Digest.of(b"recipe")
    }  # fmt: skip
    assert definition["internalParameters"]["seeds"] == {"training.seed": 42, "training.full_determinism": True}
    assert definition["internalParameters"]["environment"] == {
        "cpu_model": "a CPU", "forge_pipeline": "0.1.0", "python": "3.11.7"
    }  # fmt: skip
    assert [each["name"] for each in definition["resolvedDependencies"]] == [
        "line/recipe", "line/tokenized_dataset", "base model", "source code", "constraints.txt", "installed packages"
    ]  # fmt: skip
    base, code = definition["resolvedDependencies"][2:4]
    assert (base["uri"], base["digest"]) == (f"pkg:huggingface/owner/base@{COMMIT}", {"gitCommit": COMMIT})
    assert code["annotations"] == {"uncommitted_changes": "yes"}
    assert details["metadata"] == {
        "invocationId": "run-1", "startedOn": "2026-11-21T12:00:00.000Z", "finishedOn": "2026-11-21T12:00:05.123Z"
    }  # fmt: skip
    assert details["byproducts"][0]["digest"] == {"sha256": Digest.of(b"rec").hex}


def test_an_older_record_gives_what_it_holds_and_no_more(manifest: Manifest) -> None:
    predicate = provenance(record(manifest.digest))["predicate"]
    assert "recipe" not in predicate["buildDefinition"]["externalParameters"]
    assert "seeds" not in predicate["buildDefinition"]["internalParameters"]
    assert "startedOn" not in predicate["runDetails"]["metadata"]
    names = [each["name"] for each in predicate["buildDefinition"]["resolvedDependencies"]]
    assert "installed packages" not in names
    assert "base model" not in names


def test_the_smallest_record_is_enough(manifest: Manifest) -> None:
    value = provenance({"asset_key": "line/report", "digest": manifest.digest, "run_id": "r", "inputs": {}})
    assert value["predicate"]["runDetails"]["metadata"] == {"invocationId": "r"}
    assert value["predicate"]["buildDefinition"]["resolvedDependencies"] == []


def test_local_weights_are_named_by_digest_and_never_by_path(manifest: Manifest) -> None:
    local = BaseModelRecord("/home/somebody/base", None, None, "local", Digest.of(b"weights"), None)
    value = provenance(record(manifest.digest), base_model=local)
    base = value["predicate"]["buildDefinition"]["resolvedDependencies"][2]
    assert base == {"name": "base model base", "digest": {"sha256": Digest.of(b"weights").hex}}


def test_without_a_known_commit_no_source_is_claimed(manifest: Manifest) -> None:
    value = provenance(record(manifest.digest, environment={"git_commit": "unknown", "git_dirty": "unknown"}))
    names = [each["name"] for each in value["predicate"]["buildDefinition"]["resolvedDependencies"]]
    assert "source code" not in names


def test_a_record_about_other_files_is_refused(manifest: Manifest) -> None:
    with pytest.raises(EvidenceError, match=r"the record of line/fine_tuned_model is about .*, its files are"):
        provenance(record(Digest.of(b"other")), manifest=manifest)


@pytest.mark.parametrize("broken", [{}, {"asset_key": "a/b"}, {"asset_key": "a/b", "digest": "x"}])
def test_a_record_about_nothing_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(EvidenceError, match="names no asset_key and digest"):
        provenance(broken)


def test_in_toto_reads_the_statement_and_its_predicate(manifest: Manifest) -> None:
    """Their protobuf parser refuses unknown members and wrong types; their validator the rest."""
    theirs = pytest.importorskip("in_toto_attestation.v1.statement")
    statement_pb2 = pytest.importorskip("in_toto_attestation.v1.statement_pb2")
    provenance_pb2 = pytest.importorskip("in_toto_attestation.predicates.provenance.v1.provenance_pb2")
    json_format = pytest.importorskip("google.protobuf.json_format")
    for base in (HUB, replace(HUB, revision_resolved=None), None):
        value = provenance(newer(manifest.digest), manifest=manifest, base_model=base, record_digest=Digest.of(b"x"))
        parsed = json_format.ParseDict(value, statement_pb2.Statement())
        theirs.Statement.copy_from_pb(parsed).validate()
        predicate = json_format.ParseDict(value["predicate"], provenance_pb2.Provenance())
        assert predicate.run_details.metadata.started_on.ToJsonString() == "2026-11-21T12:00:00Z"
        assert predicate.build_definition.build_type == BUILD_TYPE
