"""CycloneDX 1.6 ML-BOM: the model with its card, its data, its base model, its files and libraries.

``cyclonedx-python-lib`` writes what it models: components, hashes, licences, pedigree,
dependencies. It has no model card and no data governance, so these two are added to its JSON
where the 1.6 schema puts them. Numbers in a card are text there. Equal facts and time give
equal bytes: the serial number is a UUID made from the digest of the rest.

A digest of a directory is that of its manifest, no file's, so it stands as the property
``forge:manifest_digest``; `hashes` holds digests of files alone.

Source: https://cyclonedx.org/docs/1.6/json/
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from uuid import UUID

from forge_pipeline._optional import require
from forge_pipeline._version import __version__
from forge_pipeline.attestation.model_facts import Considerations, DatasetFacts, Metric, ModelFacts
from forge_pipeline.attestation.packages import Package
from forge_pipeline.data.artifacts import SourceProvenance
from forge_pipeline.integrity import Digest, canonical_json
from forge_pipeline.models import BaseModelRecord

if TYPE_CHECKING:
    from cyclonedx.model import HashType, Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import License

_APPROACH = {"grpo": "reinforcement-learning"}  # the others learn from labeled rows
_DATASET_REF, _MODEL_REF, _BASE_REF = "dataset", "model", "base-model"


def ml_bom(model: ModelFacts, packages: Sequence[Package], timestamp: str) -> dict[str, Any]:
    """The bill of materials as JSON values.

    Args:
        packages: The libraries that were installed where the model was made.
        timestamp: ISO 8601 with a zone.

    Raises:
        OptionalDependencyError: ``cyclonedx-python-lib`` is not installed.
        ValueError: `timestamp` has no zone.
    """
    require("cyclonedx", extra="bom", purpose="Bills of materials")
    moment = datetime.fromisoformat(timestamp)
    if moment.tzinfo is None:
        raise ValueError(f"timestamp {timestamp!r} has no time zone; expected for example 2026-11-21T12:00:00Z")
    value = _as_json(_bom(model, packages, moment))
    _inject(value, model)
    del value["serialNumber"]  # made by the library at random
    return {**value, "serialNumber": f"urn:uuid:{_uuid(Digest.of(canonical_json(value)))}"}


def _bom(model: ModelFacts, packages: Sequence[Package], moment: datetime) -> "Bom":
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.tool import ToolRepository

    subject = _model_component(model)
    dataset = _dataset_component(model.dataset)
    libraries = [_library_component(package) for package in packages]
    exports = list(_export_components(model))
    tool = Component(name="forge-pipeline", version=__version__, type=ComponentType.APPLICATION, bom_ref="tool")
    bom = Bom(
        metadata=BomMetaData(timestamp=moment, component=subject, tools=ToolRepository(components=[tool])),
        components=[dataset, *libraries, *exports],
    )
    bom.register_dependency(subject, [dataset, *libraries])
    for export in exports:
        bom.register_dependency(export, [subject])
    return bom


def _as_json(bom: "Bom") -> dict[str, Any]:
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    value: dict[str, Any] = json.loads(make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string())
    return value


def _model_component(model: ModelFacts) -> "Component":
    from cyclonedx.model.component import Component, ComponentType, Pedigree

    facts = {
        "manifest_digest": model.manifest.digest,
        "kind": model.record.kind,
        "recipe_digest": model.record.config_digest,
        "tokenized_dataset_digest": model.record.tokenized_digest,
        "chat_template_digest": model.record.chat_template_digest,
    }
    files = [
        Component(
            name=entry.path,
            type=ComponentType.FILE,
            bom_ref=f"{_MODEL_REF}/{entry.path}",
            hashes=_sha256(entry.digest),
            properties=_properties({"size_bytes": entry.size}),
        )
        for entry in model.manifest.entries
    ]
    return Component(
        name=model.name,
        version=model.version,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=_MODEL_REF,
        components=files,
        pedigree=Pedigree(
            ancestors=[_base_component(model.record.base_model)],
            notes=f"{model.record.trainer_type} fine-tune of the ancestor; the result is of kind {model.record.kind}",
        ),
        properties=_properties(facts),
    )


def _base_component(base: BaseModelRecord) -> "Component":
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    owner, _, name = base.name_or_path.rpartition("/")
    purl = None
    if base.source == "hub":
        purl = PackageURL("huggingface", owner or None, name, base.revision_resolved)
    elif base.source == "local":  # a path of this machine means nothing elsewhere
        name = PurePath(base.name_or_path).name
    else:
        name = base.name_or_path
    return Component(
        name=name,
        group=owner if base.source == "hub" and owner else None,
        version=base.revision_resolved,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=_BASE_REF,
        purl=purl,
        licenses=_licenses(base.license),
        properties=_properties({"source": base.source, "manifest_digest": base.digest}),
    )


def _dataset_component(dataset: DatasetFacts) -> "Component":
    from cyclonedx.model.component import Component, ComponentType

    provenance = dataset.provenance
    return Component(
        name=dataset.asset_key,
        type=ComponentType.DATA,
        bom_ref=_DATASET_REF,
        components=[_source_component(number, each) for number, each in enumerate(provenance.sources)],
        properties=_properties({"manifest_digest": dataset.digest, "dataset_type": provenance.dataset_type}),
    )


def _source_component(number: int, source: SourceProvenance) -> "Component":
    from cyclonedx.model.component import Component, ComponentType

    facts = {"uri": source.uri, "origin": source.origin, "digest": source.digest, "rows_read": source.rows_read}
    return Component(
        name=source.name,
        version=source.revision,
        type=ComponentType.DATA,
        bom_ref=f"{_DATASET_REF}/source-{number}",
        licenses=_licenses(source.license),
        properties=_properties(facts),
    )


def _library_component(package: Package) -> "Component":
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"pypi/{package.name}",
        purl=PackageURL("pypi", None, package.name, package.version),
        licenses=_licenses(package.license),
    )


def _export_components(model: ModelFacts) -> Iterator["Component"]:
    from cyclonedx.model.component import Component, ComponentType

    for file in model.exports:
        yield Component(
            name=file.name,
            version=model.version,
            type=ComponentType.MACHINE_LEARNING_MODEL,
            bom_ref=f"export/{file.name}",
            hashes=_sha256(file.digest),
            properties=_properties({"size_bytes": file.size, "quantization": file.quantization}),
        )


def _inject(value: dict[str, Any], model: ModelFacts) -> None:
    """Put the model card and the data's governance into the library's JSON."""
    value["metadata"]["component"]["modelCard"] = _model_card(model)
    sources = {f"{_DATASET_REF}/source-{number}": each for number, each in enumerate(model.dataset.provenance.sources)}
    for component in _components(value["components"]):
        if component["bom-ref"] == _DATASET_REF:
            component["data"] = [_data(model)]
        elif component["bom-ref"] in sources:
            source = sources[component["bom-ref"]]
            component["data"] = [{"type": "dataset", "name": source.name, "classification": source.category}]


def _components(components: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for each in components:
        yield each
        yield from _components(each.get("components", ()))


def _data(model: ModelFacts) -> dict[str, Any]:
    dataset = model.dataset
    rows = ", ".join(f"{name} {count}" for name, count in sorted(dataset.provenance.rows.items()))
    said = dataset.governance
    declared: dict[str, Any] = {} if said is None else {name: value for name, value in said if value not in (None, "")}
    value: dict[str, Any] = {
        "type": "dataset",
        "name": dataset.asset_key,
        "description": f"Rows by split: {rows}.",
        "contents": {"properties": _named({f"rows:{k}": v for k, v in sorted(dataset.provenance.rows.items())})},
        "classification": ", ".join(sorted({source.category for source in dataset.provenance.sources})),
    }
    if declared:
        value["contents"]["properties"] += _named({f"declared:{name}": each for name, each in declared.items()})
    sensitive = [f"{category}: {count} findings" for category, count in sorted(dataset.personal_data.items()) if count]
    if declared.get("personal_data_included"):
        sensitive.append("personal data, as the provider declares")
    if sensitive:
        value["sensitiveData"] = sensitive
    if model.provider_name:
        party: dict[str, Any] = {"name": model.provider_name}
        if model.provider_contact and "@" in model.provider_contact:
            party["contact"] = [{"email": model.provider_contact}]
        value["governance"] = {"custodians": [{"organization": party}]}
    return value


def _model_card(model: ModelFacts) -> dict[str, Any]:
    trainer = model.record.trainer_type
    card: dict[str, Any] = {
        "modelParameters": {
            "approach": {"type": _APPROACH.get(trainer, "supervised")},
            "task": "text-generation",
            "datasets": [{"ref": _DATASET_REF}],
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "text"}],
        },
        "properties": _named(
            {"trainer_type": trainer, "seed": model.record.seed}
            | {f"hyper_parameter:{name}": value for name, value in sorted(model.hyper_parameters.items())}
        ),
    }
    if model.metrics:
        card["quantitativeAnalysis"] = {"performanceMetrics": [_metric(each) for each in model.metrics]}
    if considerations := _considerations(model.considerations, model.energy_kwh):
        card["considerations"] = considerations
    return card


def _metric(metric: Metric) -> dict[str, Any]:
    items = f", {metric.n} items" if metric.n is not None else ""
    value: dict[str, Any] = {"type": metric.name, "value": _text(metric.value), "slice": f"{metric.task}{items}"}
    if metric.interval is not None:
        bounds = dict(zip(("lowerBound", "upperBound"), metric.interval, strict=True))
        value["confidenceInterval"] = {name: _text(bound) for name, bound in bounds.items() if bound is not None}
    return value


def _considerations(said: Considerations, energy_kwh: float | None) -> dict[str, Any]:
    value: dict[str, Any] = {}
    if said.use_cases:
        value["useCases"] = list(said.use_cases)
    if said.limitations:
        value["technicalLimitations"] = list(said.limitations)
    if said.misuse:
        mitigation = {"mitigationStrategy": "; ".join(said.mitigations)} if said.mitigations else {}
        value["ethicalConsiderations"] = [{"name": each, **mitigation} for each in said.misuse]
    if energy_kwh is not None:
        # energyConsumptions would ask for the energy's provider, which nobody has stated
        value["environmentalConsiderations"] = {"properties": _named({"fine_tuning_energy_kwh": energy_kwh})}
    return value


def _named(values: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"name": f"forge:{name}", "value": _text(value)} for name, value in values.items() if value is not None]


def _properties(values: Mapping[str, Any]) -> list["Property"]:
    from cyclonedx.model import Property

    return [
        Property(name=f"forge:{name}", value=_text(value))
        for name, value in sorted(values.items())
        if value is not None
    ]


def _sha256(digest: Digest) -> list["HashType"]:
    from cyclonedx.model import HashAlgorithm, HashType

    return [HashType(alg=HashAlgorithm.SHA_256, content=digest.hex)]


def _licenses(text: str | None) -> list["License"]:
    """An SPDX id or expression where it is one, else the licence's name."""
    from cyclonedx.contrib.license.factories import LicenseFactory

    return [] if not text else [LicenseFactory().make_from_string(text)]


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str) else canonical_json(value).decode()


def _uuid(digest: Digest) -> UUID:
    return UUID(bytes=bytes.fromhex(digest.hex)[:16], version=5)
