"""The statements of one line as files: all of them, signed or said not to be, and whether they still hold."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.annex_iv import BundleInputs
from forge_pipeline.annex_iv.attested import model_facts
from forge_pipeline.attestation import (
    INDEX_NAME,
    SigningKeys,
    attested,
    bundle_files,
    verify,
    verify_files,
    verify_model_signature,
)
from forge_pipeline.errors import EvidenceError, OptionalDependencyError
from forge_pipeline.integrity import Digest, Manifest, canonical_json, json_digest

PACKAGES = {"numpy": "2.3.0", "torch": "2.13.0"}
ASSETS = ("benchmark_report", "dataset_audit_report", "fine_tuned_model", "raw_dataset", "tokenized_dataset")


def files_of(example: BundleInputs, keys: SigningKeys = SigningKeys(), **more: Any) -> dict[str, bytes]:  # noqa: B008
    arguments = {
        "manifests": [Manifest.of_directory(each.path) for each in example.artifacts.values()],
        "packages": PACKAGES,
        "generated_at": example.generated_at,
        "keys": keys,
    }
    return bundle_files(model_facts(example), example.materializations, **{**arguments, **more})


@pytest.fixture(scope="module")
def signed(example: BundleInputs, keys: SigningKeys) -> dict[str, bytes]:
    return files_of(example, keys)


def publics(keys: SigningKeys) -> list[Any]:
    return [key.public_key() for key in (keys.statements, keys.model) if key]


def test_every_artefact_has_its_statement(signed: dict[str, bytes]) -> None:
    assert sorted(signed) == sorted(
        [
            *(f"attestations/{asset}.provenance.dsse.json" for asset in ASSETS),
            "attestations/fine_tuned_model.sig",
            "attestations/index.json",
            "attestations/ml-bom.cdx.json",
            "attestations/packages.json",
        ]
    )
    index = json.loads(signed[INDEX_NAME])
    assert (index["unsigned"], index["left_out"], index["note"]) == ([], {}, "every statement is signed")
    assert index["packages_digest"] == json_digest(PACKAGES)


def test_each_statement_is_about_the_artefact(example: BundleInputs, signed: dict[str, bytes], keys: Any) -> None:
    for name, artifact in example.artifacts.items():
        envelope = json.loads(signed[f"attestations/{name}.provenance.dsse.json"])
        assert verify(envelope, keys.statements.public_key()).differences(artifact.path) == []
    signature = json.loads(signed["attestations/fine_tuned_model.sig"])
    assert verify_model_signature(signature, example.model.path, keys.model.public_key()) == []


def test_the_recipe_of_the_model_stands_in_for_records_without_one(signed: dict[str, bytes], keys: Any) -> None:
    parsed = verify(json.loads(signed["attestations/raw_dataset.provenance.dsse.json"]), keys.statements.public_key())
    assert parsed.predicate["buildDefinition"]["externalParameters"]["recipe"].startswith("sha256:")


def test_equal_inputs_and_keys_give_equal_files(example: BundleInputs, signed: dict[str, bytes], keys: Any) -> None:
    assert files_of(example, keys) == signed


def test_without_a_key_nothing_is_called_signed(example: BundleInputs) -> None:
    files = files_of(example)
    assert not any(name.endswith((".dsse.json", ".sig")) for name in files)
    index = json.loads(files[INDEX_NAME])
    assert len(index["unsigned"]) == len(index["statements"]) == len(ASSETS) + 1
    assert "prove nothing by themselves" in index["note"]
    assert attested(files) == ()
    result = verify_files(files, [])
    assert result.valid
    assert result.verified == ()
    assert len(result.not_checked) == len(ASSETS) + 1


def test_without_an_ec_key_the_files_of_the_model_are_signed_with_the_other(example: BundleInputs, keys: Any) -> None:
    files = files_of(example, SigningKeys(keys.statements))
    assert "attestations/fine_tuned_model.files.dsse.json" in files
    assert verify_files(files, publics(keys)).valid


def test_each_signed_file_gives_one_event(signed: dict[str, bytes]) -> None:
    events = attested(signed)
    assert len(events) == len(ASSETS) + 1
    envelope = signed["attestations/fine_tuned_model.provenance.dsse.json"]
    found = [event for event in events if event["envelope_digest"] == Digest.of(envelope)]
    assert [event.keys() for event in found] == [{"subject", "predicate_type", "envelope_digest"}]


def test_the_untouched_files_verify(example: BundleInputs, signed: dict[str, bytes], keys: Any) -> None:
    subjects = {name: artifact.digest for name, artifact in example.artifacts.items()}
    result = verify_files(signed, publics(keys), subjects)
    assert (result.problems, result.not_checked) == ((), ())
    assert len(result.verified) == len(ASSETS) + 1


def test_without_a_public_key_it_says_so(signed: dict[str, bytes]) -> None:
    result = verify_files(signed, [])
    assert result.verified == ()
    assert all("no public key was given" in line for line in result.not_checked)


NAME = "attestations/fine_tuned_model.provenance.dsse.json"
OTHER = "attestations/raw_dataset.provenance.dsse.json"


def reindexed(files: dict[str, bytes], **changes: Any) -> None:
    """Make the index agree with a changed file, as somebody without the key can."""
    index = json.loads(files[INDEX_NAME])
    for entry in index["statements"]:
        if entry["file"] == NAME:
            entry |= {"envelope_digest": Digest.of(files[NAME]), **changes}
    files[INDEX_NAME] = canonical_json(index)


def swap_envelopes(files: dict[str, bytes]) -> None:
    files[NAME] = files[OTHER]
    reindexed(files)


def swap_envelopes_and_fix_the_index(files: dict[str, bytes]) -> None:
    files[NAME] = files[OTHER]
    entries = {entry["file"]: entry for entry in json.loads(files[INDEX_NAME])["statements"]}
    reindexed(files, subject=entries[OTHER]["subject"], subject_name=entries[OTHER]["subject_name"])


def drop_the_signature(files: dict[str, bytes]) -> None:
    files[NAME] = canonical_json({**json.loads(files[NAME]), "signatures": []})
    reindexed(files)


def nonsense(files: dict[str, bytes]) -> None:
    files[NAME] = b"[1]"
    reindexed(files)


TAMPERED: dict[str, tuple[Callable[[dict[str, bytes]], object], str | None]] = {
    "a byte": (lambda files: files.update({NAME: files[NAME] + b" "}), f"{NAME} changed: the index says"),
    "a file gone": (lambda files: files.pop(NAME), f"{NAME} is missing"),
    "a statement more": (
        lambda files: files.update({"attestations/x.statement.json": b"{}"}),
        "attestations/x.statement.json is not in the index",
    ),
    "the index gone": (lambda files: files.pop(INDEX_NAME), "index.json cannot be read"),
    "an empty index": (lambda files: files.update({INDEX_NAME: b'{"statements":[]}'}), "is not in the index"),
    "an index of nonsense": (lambda files: files.update({INDEX_NAME: b'{"statements":[1]}'}), "cannot be read"),
    "another artefact's envelope": (swap_envelopes, "the index says"),
    "signature dropped": (drop_the_signature, "carries no signature"),
    "nonsense, indexed": (nonsense, "not a JSON object"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_what_was_changed_is_named(case: str, signed: dict[str, bytes], keys: Any) -> None:
    tamper, words = TAMPERED[case]
    files = dict(signed)
    tamper(files)
    result = verify_files(files, publics(keys))
    assert not result.valid
    assert any(str(words) in line for line in result.problems), result.problems


def test_a_replaced_envelope_with_a_fixed_index_is_found_by_the_artefacts(
    example: BundleInputs, signed: dict[str, bytes], keys: Any
) -> None:
    """Signatures alone cannot see it: each envelope is genuine."""
    files = dict(signed)
    swap_envelopes_and_fix_the_index(files)
    assert verify_files(files, publics(keys)).valid
    subjects = {name: artifact.digest for name, artifact in example.artifacts.items()}
    assert verify_files(files, publics(keys), subjects).problems == ("no provenance is about fine_tuned_model",)


def test_a_genuine_envelope_about_another_artefact_is_named(
    example: BundleInputs, signed: dict[str, bytes], keys: Any
) -> None:
    subjects = {name: artifact.digest for name, artifact in example.artifacts.items()} | {"raw_dataset": Digest.of(b"")}
    (problem,) = verify_files(signed, publics(keys), subjects).problems
    assert problem.startswith(f"{OTHER} is about raw_dataset sha256:")


def test_a_model_without_a_record_is_not_attested(example: BundleInputs) -> None:
    with pytest.raises(EvidenceError, match="no materialization record is about example/fine_tuned_model"):
        bundle_files(model_facts(example), [], manifests=[], packages={}, generated_at=example.generated_at)


def test_an_artefact_without_a_record_is_not_attested(example: BundleInputs) -> None:
    records = [each for each in example.materializations if not each["asset_key"].endswith("/raw_dataset")]
    with pytest.raises(
        EvidenceError, match=f"no materialization record is about the artefact {example.dataset.digest}"
    ):
        files_of(replace(example, materializations=tuple(records)))


def test_two_records_of_one_name_do_not_overwrite_each_other(example: BundleInputs) -> None:
    again = {**example.materializations[0], "digest": Digest.of(b"again")}
    with pytest.raises(EvidenceError, match="two records are about artefacts of the same name"):
        files_of(replace(example, materializations=(*example.materializations, again)))


def test_a_merged_model_is_attested_under_its_own_key(example: BundleInputs, keys: Any) -> None:
    renamed = tuple(
        {**each, "asset_key": each["asset_key"].replace("fine_tuned", "merged")} for each in example.materializations
    )
    files = files_of(replace(example, materializations=renamed), keys)
    assert {"attestations/merged_model.sig", "attestations/merged_model.provenance.dsse.json"} <= files.keys()


def test_a_bill_of_materials_that_cannot_be_made_is_named(
    example: BundleInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*arguments: Any) -> Any:
        raise OptionalDependencyError("Bills of materials need the module 'cyclonedx'")

    monkeypatch.setattr("forge_pipeline.attestation.files.ml_bom", absent)
    files = files_of(example)
    assert "attestations/ml-bom.cdx.json" not in files
    left_out = json.loads(files[INDEX_NAME])["left_out"]
    assert left_out == {"attestations/ml-bom.cdx.json": "Bills of materials need the module 'cyclonedx'"}


def test_the_record_is_named_by_the_digest_that_the_store_keeps_it_under(
    example: BundleInputs, keys: Any, tmp_path: Path
) -> None:
    record = {**example.materializations[0], "previous": None, "environment": {}}
    others = example.materializations[1:]
    inputs = replace(example, materializations=({**record, "dagster_timestamp": 1.5}, *others))
    envelope = json.loads(
        files_of(inputs, keys)[f"attestations/{record['asset_key'].split('/')[1]}.provenance.dsse.json"]
    )
    details = verify(envelope, keys.statements.public_key()).predicate["runDetails"]
    assert details["byproducts"][0]["digest"]["sha256"] == json_digest(record).hex
