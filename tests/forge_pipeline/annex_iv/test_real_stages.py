"""The bundle over what the real stages return: a two-layer model, trained, evaluated, exported."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.annex_iv import BundleInputs, bundle, verify_annex_iv_artifact
from forge_pipeline.audit_log import AuditLogger, AuditSettings, verify_audit_log
from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import GateFailedError
from forge_pipeline.integrity import Digest, DirectoryArtifact, report_digest
from forge_pipeline.registry import Registry
from forge_pipeline.release import promote


def test_real_stages_make_a_bundle_that_verifies(
    recipe: Callable[..., ForgeConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forge_pipeline.data import ingest, tokenize
    from forge_pipeline.dataset_audit import audit_raw_dataset
    from forge_pipeline.evaluation import benchmark, safety
    from forge_pipeline.export import gguf
    from forge_pipeline.models import load_tokenizer
    from forge_pipeline.training import fine_tune

    monkeypatch.setenv("FORGE_HOME", str(tmp_path / "home"))
    rows = [{"prompt": f"Say the number {n}.", "completion": f"The number is {n}."} for n in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = recipe(
        data={"dataset_name_or_path": str(tmp_path / "rows.jsonl"), "audit": {"max_split_overlap": 1.0}},
        export={"quantizations": ["f16"], "fidelity": {"enabled": False}},
    )
    log = AuditLogger.with_settings(tmp_path / "log", AuditSettings("tester"))

    def materialized(name: str, digest: Digest) -> None:
        fields: dict[str, Any] = {"files": 1, "inputs": {}, "code_version": "test", "kind": "test"}
        log.log_event("artifact.materialized", asset_key=f"tiny/{name}", digest=digest, **fields)

    def stored(name: str, artefact: DirectoryArtifact) -> None:
        materialized(name, artefact.digest)

    raw = ingest(config, tmp_path / "raw")
    audit = audit_raw_dataset(config, raw, tmp_path / "audit")
    tokenized = tokenize(config, raw, load_tokenizer(config), tmp_path / "tokenized")
    tuned = fine_tune(config, tokenized, raw.digest, tmp_path / "model", work_dir=tmp_path / "work")
    measured, judged = benchmark(config, tuned.model, raw), safety(config, tuned.model)
    exported = gguf(config, tuned.model, [], tmp_path / "gguf")
    for name, artefact in (("raw_dataset", raw), ("tokenized_dataset", tokenized), ("fine_tuned_model", tuned.model)):
        stored(name, artefact)
    stored("gguf_model", exported)
    stored("dataset_audit_report", audit)
    for name, each in (("benchmark_report", measured), ("safety_report", judged)):
        materialized(name, report_digest(each))
    made = bundle(
        BundleInputs(
            config=config,
            dataset=raw,
            dataset_audit=audit,
            tokenized=tokenized,
            model=tuned.model,
            benchmark=measured,
            safety=judged,
            gguf=exported,
            audit_log_path=log.log_path,
            anchor=log.anchor(),
            materializations=(),
            environment={"python": "3.11"},
            generated_at="2026-11-21T12:00:00Z",
            usage=tuned.usage,
        ),
        tmp_path / "bundle",
    )
    result = verify_annex_iv_artifact(str(made.path / "annex_iv.json"))
    assert result.valid, result.reason
    assert result.assurance == "logged"
    points = {entry["point"]: entry for entry in made.manifest["points"]}
    assert points["2(c)"]["value"]["facts"]["compute"]["verdict"] == "below"
    assert points["2(c)"]["value"]["facts"]["resource_usage"]["duration_seconds"] > 0
    assert [form["form"] for form in points["1(d)"]["value"]["facts"]["forms"]] == ["adapter", "GGUF f16"]
    assert points["2(g)"]["status"] == "missing"  # nothing was measured: the recipe asks for no evaluation
    registry = Registry(f"sqlite:///{tmp_path}/registry.sqlite")
    with pytest.raises(GateFailedError, match="gguf_is_faithful"):  # nobody compared the file with the model
        promote(config, model=tuned.model, decisions=(), bundle=made, registry=registry, log=log, gguf=exported)
    assert registry.resolve_alias("tiny", "released") is None
    assert verify_audit_log(log.log_path).valid
