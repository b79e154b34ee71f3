"""The Croissant card: what the 1.0 specification asks of every card."""

from forge_pipeline.dataset_audit.croissant import CONFORMS_TO, DataFile, card
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
