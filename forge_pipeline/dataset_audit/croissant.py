"""Croissant 1.0: a JSON-LD card that says which files a dataset has and what their columns are.

Format: http://docs.mlcommons.org/croissant/docs/croissant-spec-1.0.html. Files carry
sha256 and size; a record set stands for the rows of one file. What only a person knows
(licence, citation, version) is left for a person to add. Columns that hold lists or
objects are named like the others, as text; what lies inside them is not described.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forge_pipeline.integrity import Digest

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"

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
