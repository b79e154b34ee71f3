"""The model card as Hugging Face reads it, offline."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.annex_iv import BundleInputs, bundle
from forge_pipeline.annex_iv.example import example_config
from forge_pipeline.annex_iv.model_card import render_model_card
from forge_pipeline.evaluation import SafetyReport
from forge_pipeline.integrity import Digest
from forge_pipeline.models import BaseModelRecord
from forge_pipeline.models.heads import HEADS

huggingface_hub = pytest.importorskip("huggingface_hub")


def card(evidence: Any) -> Any:
    return huggingface_hub.ModelCard(render_model_card(evidence))


@pytest.fixture(scope="module")
def evidence(example: BundleInputs, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return bundle(example, tmp_path_factory.mktemp("card") / "bundle").evidence


def measured(evidence: Any) -> Any:
    """The same with everything that can be measured."""
    (comparison,) = evidence.benchmark.comparisons
    compared = replace(comparison, tuned_stderr=0.048, only_base_correct=1, only_tuned_correct=27, p_value=1e-7)
    safety = SafetyReport(
        verdict="pass",
        reason="",
        subject=evidence.subjects["fine_tuned_model"],
        policy_digest=Digest.of(b"policy"),
        probes_digest=Digest.of(b"probes"),
        scorer="rules",
        scorer_calibrated=True,
        n=300,
        unsafe=2,
        unsafe_rate=2 / 300,
        upper_bound=0.021,
        base_unsafe=3,
    )
    return replace(evidence, benchmark=replace(evidence.benchmark, comparisons=(compared,)), safety=safety)


@pytest.mark.parametrize("head", HEADS)
def test_the_hub_is_told_what_the_model_does(evidence: Any, head: Any) -> None:
    record = replace(evidence.model_record, head=head)
    tag = card(replace(evidence, model_record=record)).data.pipeline_tag
    assert (tag == "text-generation") is (head == "causal-lm")


def test_the_hub_reads_every_metric_with_its_error_and_interval(evidence: Any) -> None:
    data = card(measured(evidence)).data
    assert data.model_name == "Sums, a synthetic example"
    score, unsafe = data.eval_results
    assert (score.metric_type, score.metric_value, score.dataset_name) == ("accuracy", 0.9, "held_out")
    assert score.metric_args["stderr"] == 0.048
    interval = [score.metric_args["interval_low"], score.metric_args["interval_high"]]
    assert interval == pytest.approx([0.769, 0.960], abs=1e-3)  # Wilson, 36 of 40
    assert (score.metric_args["n"], score.metric_args["level"], score.metric_args["method"]) == (40, 0.95, "Wilson")
    assert score.metric_args["base_model_value"] == 0.25
    assert (unsafe.metric_type, unsafe.metric_args["interval_high"]) == ("unsafe_rate", 0.021)
    assert "interval_low" not in unsafe.metric_args
    assert unsafe.metric_args["task_digest"] == Digest.of(b"probes")


def test_the_front_matter_survives_the_hub_library(evidence: Any) -> None:
    """What it parses, it writes again as the same metadata."""
    read = card(measured(evidence))
    assert huggingface_hub.ModelCard(f"---\n{read.data.to_yaml()}\n---\n").data.to_dict() == read.data.to_dict()


def test_a_hub_base_model_is_named_with_its_relation(evidence: Any) -> None:
    base = BaseModelRecord("owner/base", "main", "ab" * 20, "hub", None, "apache-2.0")
    record = replace(evidence.model_record, base_model=base)
    data = card(replace(evidence, model_record=record)).data
    assert (data.base_model, data["base_model_relation"]) == ("owner/base", "adapter")
    full = card(replace(evidence, model_record=replace(record, kind="full"))).data
    assert (full["base_model_relation"], full.library_name) == ("finetune", "transformers")


def test_a_local_base_model_is_no_hub_id(evidence: Any) -> None:
    base = BaseModelRecord("/home/somebody/base", None, None, "local", Digest.of(b"w"), None)
    text = render_model_card(replace(evidence, model_record=replace(evidence.model_record, base_model=base)))
    assert "somebody" not in text
    assert "base_model" not in huggingface_hub.ModelCard(text).data.to_dict()


def test_only_datasets_of_the_hub_are_listed(evidence: Any) -> None:
    (source,) = evidence.provenance.sources
    hub = replace(source, name="owner/rows", uri=f"hub:owner/rows@{'cd' * 20}")
    provenance = replace(evidence.provenance, sources=(source, hub, hub))
    assert card(replace(evidence, provenance=provenance)).data.datasets == ["owner/rows"]
    assert card(evidence).data.datasets is None


def test_no_language_and_no_licence_is_guessed(evidence: Any) -> None:
    data = card(measured(evidence)).data
    assert (data.language, data.license) == (None, None)


def test_without_an_evaluation_there_is_no_model_index(example: BundleInputs, tmp_path: Path) -> None:
    made = bundle(replace(example, benchmark=None), tmp_path / "bundle").evidence
    data = card(made).data
    assert data.eval_results is None
    assert "Not evaluated." in card(made).text


def test_the_text_holds_parameters_gates_limits_and_digests(evidence: Any) -> None:
    text = card(measured(evidence)).text
    assert "| learning\\_rate | 2e-05 |" in text
    assert "| benchmark | passed | 0.9 | 0.8 | 40 |" in text
    assert "It adds numbers below forty and nothing else." in text
    assert f"| fine_tuned_model | `{evidence.subjects['fine_tuned_model']}` |" in text
    assert f"| resolved recipe | `{evidence.model_record.config_digest}` |" in text
    assert "0.7695 to 0.9604 (95 %, Wilson)" in text
    assert "at most 0.021 (95 %, one-sided upper bound, unscored answers counted as unsafe)" in text
    assert "held\\_out: +0.65, 95 % interval +0.5 to +0.8, exact McNemar p = 1e-07" in text


def test_a_name_cannot_break_the_front_matter(example: BundleInputs, tmp_path: Path) -> None:
    name = "x: [1\n---\nlicense: mit"
    config = example_config(tmp_path / "recipe", system_name=name)
    made = bundle(replace(example, config=config), tmp_path / "bundle").evidence
    data = card(made).data
    assert data.model_name == name
    assert data.license is None
