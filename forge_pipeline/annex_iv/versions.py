"""How this version relates to the one before: what changed, and that the log only grew."""

from collections.abc import Mapping
from typing import Any

from forge_pipeline.annex_iv.evidence import Evidence, ParentBundle


def base_model_of(evidence: Evidence) -> dict[str, str | None]:
    """Identity of the model that training started from."""
    base = evidence.model_record.base_model
    return {"name": base.name_or_path, "revision": base.revision_resolved, "digest": base.digest}


def code_of(evidence: Evidence) -> dict[str, str]:
    """What the code was: generator, git commit, lock file, and each stage's code version."""
    run = evidence.run
    code = {"generator": run.generator}
    code |= {
        name: run.environment[name]
        for name in ("git_commit", "git_dirty", "constraints_digest")
        if name in run.environment
    }
    for record in run.materializations:
        if record.get("code_version"):
            code[f"stage {str(record['asset_key']).partition('/')[2]}"] = str(record["code_version"])
    return code


def metrics_of(evidence: Evidence) -> dict[str, float]:
    """What was measured of the model, by name; what was not measured is left out."""
    found: dict[str, float | None] = {
        "training.train_loss": evidence.training.train_loss,
        "training.eval_loss": evidence.training.eval_loss,
    }
    if evidence.benchmark is not None and evidence.benchmark.scores:
        found["benchmark.average_score"] = evidence.benchmark.average_score
        found |= {f"benchmark.{task}": score for task, score in evidence.benchmark.scores.items()}
    if evidence.safety is not None:
        found["safety.unsafe_rate"] = evidence.safety.unsafe_rate
        found["safety.upper_bound"] = evidence.safety.upper_bound
    return {name: value for name, value in found.items() if value is not None}


def changes_since(parent: ParentBundle, evidence: Evidence) -> dict[str, Any]:
    """Everything that differs from `parent`, and how the logs relate."""
    return {
        "since": parent.manifest_hash,
        "artefacts_changed": differences(parent.subjects, evidence.subjects),
        "recipe_changes": differences(parent.recipe, evidence.config.model_dump(mode="json")),
        "base_model_changes": differences(parent.base_model, base_model_of(evidence)),
        "code_changes": differences(parent.code, code_of(evidence)),
        "metrics": _metric_deltas(parent.metrics, metrics_of(evidence)),
        "audit_log": log_relation(parent, evidence),
    }


def log_relation(parent: ParentBundle, evidence: Evidence) -> str:
    """In words, how the log of this bundle relates to the parent's."""
    old, new = parent.audit_log, evidence.run.anchor
    if old is None or new is None:
        return "not comparable: " + ("the parent" if old is None else "this bundle") + " has no audit log"
    if old.log_id != new.log_id:
        return f"not comparable: the parent's log is {old.log_id}, this bundle's is {new.log_id}"
    return f"extends the parent's {old.size} entries by {new.size - old.size}; the proof is in the manifest"


def differences(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> list[dict[str, Any]]:
    """Keys whose value differs, each with its path, the value before and the value now."""
    found: list[dict[str, Any]] = []
    for key in sorted(set(before) | set(now)):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{path}{key}.")
        elif old != new:
            found.append({"key": f"{path}{key}", "before": old, "now": new})
    return found


def _metric_deltas(before: Mapping[str, float], now: Mapping[str, float]) -> list[dict[str, Any]]:
    return [
        {
            "metric": name,
            "before": before.get(name),
            "now": now.get(name),
            "difference": now[name] - before[name] if name in now and name in before else None,
        }
        for name in sorted(set(before) | set(now))
    ]
