"""Croissant 1.0: a JSON-LD card that says which files a dataset has and what their columns are.

Format: http://docs.mlcommons.org/croissant/docs/croissant-spec-1.0.html, with the
responsible-AI vocabulary (RAI) 1.0 where the recipe declares something. Files carry
sha256 and size; a record set stands for the rows of one file. What only a person knows
and has not said is left out. Columns that hold lists or objects are named like the
others, as text; what lies inside them is not described.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forge_pipeline.integrity import Digest

if TYPE_CHECKING:
    from forge_pipeline.config import ForgeConfig
    from forge_pipeline.data.artifacts import DatasetProvenance
    from forge_pipeline.dataset_audit.report import AuditReport

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
RAI_CONFORMS_TO = "http://mlcommons.org/croissant/RAI/1.0"

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_ENCODINGS = {
    ".jsonl": "application/jsonlines",
    ".ndjson": "application/jsonlines",
    ".json": "application/json",
    ".csv": "text/csv",
    ".tsv": "text/tsv",
    ".parquet": "application/x-parquet",
}


@dataclass(frozen=True)
class DataFile:
    """One file of a split: `name` relative to the dataset, `size` in bytes."""

    name: str
    split: str
    size: int
    digest: Digest


def card(name: str, files: Sequence[DataFile], columns: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The card.

    Args:
        name: The dataset's name.
        files: Its files.
        columns: Column names by split.
    """
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": name,
        "description": f"{name}: {len(files)} file(s), split(s) {', '.join(columns)}.",
        "conformsTo": CONFORMS_TO,
        "distribution": [_file_object(file) for file in files],
        "recordSet": [_record_set(file, columns[file.split]) for file in files if columns[file.split]],
    }


def declared(
    card: Mapping[str, Any], config: "ForgeConfig", provenance: "DatasetProvenance", report: "AuditReport"
) -> dict[str, Any]:
    """The card with what the recipe declares, where the rows come from, and what the audit found in them.

    Nothing is filled in on the provider's behalf: a key whose declaration is missing is left out.
    """
    governance, compliance = config.data.governance, config.compliance
    found = {
        "description": config.description or card["description"],
        "license": _one_or_all([source.license for source in provenance.sources]),
        "creator": {"@type": "sc:Organization", "name": compliance.provider_name}
        if compliance and compliance.provider_name
        else None,
        "version": compliance.system_version if compliance else None,
        "isBasedOn": [source.origin or source.uri for source in provenance.sources],
        "rai:dataCollection": governance.collection_method if governance else None,
        "rai:dataAnnotationProtocol": governance.annotation_process if governance else None,
        "rai:dataBiases": governance.known_biases if governance else None,
        "rai:dataUseCases": compliance.intended_purpose if compliance else None,
        "rai:dataLimitations": compliance.known_limitations if compliance else None,
        "rai:dataPreprocessingProtocol": [
            f"{step.name}: {step.rows_in} rows in, {step.rows_out} rows out" for step in provenance.transformations
        ],
        "rai:dataCollectionRawData": [
            f"{source.uri} ({source.category}; licence {source.license or 'not declared'}; {source.rows_read} rows)"
            for source in provenance.sources
        ],
        "rai:personalSensitiveInformation": [
            f"{category}: {count} found by the audit" for category, count in report.pii_summary.items()
        ],
    }
    conforms_to = {"conformsTo": [CONFORMS_TO, RAI_CONFORMS_TO]}
    return {**card, **conforms_to, **{key: value for key, value in found.items() if value}}


def _one_or_all(values: Sequence[str | None]) -> str | list[str] | None:
    distinct = list(dict.fromkeys(value for value in values if value))
    return distinct[0] if len(distinct) == 1 else distinct or None


def _file_object(file: DataFile) -> dict[str, Any]:
    suffix = "." + file.name.removesuffix(".gz").rsplit(".", 1)[-1]
    return {
        "@type": "cr:FileObject",
        "@id": file.name,
        "name": file.name,
        "contentUrl": file.name,
        "contentSize": f"{file.size} B",
        "encodingFormat": _ENCODINGS.get(suffix, "text/plain"),
        "sha256": file.digest.hex,
    }


def _record_set(file: DataFile, columns: Sequence[str]) -> dict[str, Any]:
    identity = f"{file.split}/{file.name}"
    return {
        "@type": "cr:RecordSet",
        "@id": identity,
        "name": identity,
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{identity}/{column}",
                "name": f"{identity}/{column}",
                "dataType": "sc:Text",
                "source": {"fileObject": {"@id": file.name}, "extract": {"column": column}},
            }
            for column in columns
        ],
    }
