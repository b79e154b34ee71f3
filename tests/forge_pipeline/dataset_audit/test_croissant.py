"""The Croissant card: what the 1.0 specification asks of every card."""

import json
from pathlib import Path

import pytest

from forge_pipeline.config import ForgeConfig
from forge_pipeline.data.ingestion import ingest
from forge_pipeline.dataset_audit import audit_raw_dataset
from forge_pipeline.dataset_audit.croissant import CONFORMS_TO, RAI_CONFORMS_TO, DataFile, card
from forge_pipeline.integrity import Digest


def test_a_card_has_files_with_digests_and_fields_with_sources() -> None:
    digest = Digest.of(b"x")
    files = [DataFile("data/train.parquet", "train", 10, digest), DataFile("test.jsonl", "test", 20, digest)]
    result = card("demo", files, {"train": ["text", "label"], "test": []})
    assert result["@type"] == "sc:Dataset"
    assert result["conformsTo"] == CONFORMS_TO
    assert result["@context"]["conformsTo"] == "dct:conformsTo"
    assert result["@context"]["cr"] == "http://mlcommons.org/croissant/"
    assert result["distribution"][0] == {
        "@type": "cr:FileObject",
        "@id": "data/train.parquet",
        "name": "data/train.parquet",
        "contentUrl": "data/train.parquet",
        "contentSize": "10 B",
        "encodingFormat": "application/x-parquet",
        "sha256": digest.hex,
    }
    (record_set,) = result["recordSet"]  # a split without columns has no fields to describe
    identities = {entry["@id"] for entry in result["distribution"]}
    assert [field["source"]["extract"]["column"] for field in record_set["field"]] == ["text", "label"]
    assert all(field["source"]["fileObject"]["@id"] in identities for field in record_set["field"])
    assert len({field["@id"] for field in record_set["field"]}) == 2


def test_a_card_with_declarations_is_valid_to_mlcroissant_and_its_records_can_be_read(tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    rows = [{"text": "Rye bread keeps for a week."}, {"text": "Write to anna.nowak@example.org."}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = ForgeConfig(
        name="bread",
        description="Sentences about bread",
        model={"name_or_path": "base"},
        lora={},
        training={},
        data={
            "dataset_name_or_path": str(tmp_path / "rows.jsonl"),
            "license": "CC0-1.0",
            "origin": "written for this test",
            "category": "user",
            "split": {"validation": 0.0},
            "governance": {"collection_method": "by hand", "known_biases": "bread only"},
        },
        compliance={"provider_name": "Bakery", "intended_purpose": "Talk about bread", "system_version": "1.2"},
    )
    raw = ingest(config, tmp_path / "raw")
    audit = audit_raw_dataset(config, raw, tmp_path / "audit")
    card = audit.report.croissant
    assert card["conformsTo"] == [CONFORMS_TO, RAI_CONFORMS_TO]
    assert card["license"] == "CC0-1.0"
    assert card["rai:dataBiases"] == "bread only"
    assert card["rai:personalSensitiveInformation"] == ["email: 1 found by the audit"]
    assert "rai:dataLimitations" not in card  # nobody has said
    (raw.path / "croissant.json").write_text(json.dumps(card))
    dataset = mlcroissant.Dataset(raw.path / "croissant.json")
    assert not dataset.metadata.issues.errors
    (name,) = (record["name"] for record in card["recordSet"])
    assert [record[f"{name}/text"].decode() for record in dataset.records(name)] == [row["text"] for row in rows]
