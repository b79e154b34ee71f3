"""The stage: an artefact of rows and report, which ingestion takes as one more source."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import ingest
from forge_pipeline.dataset_audit import audit_dataset, audit_raw_dataset
from forge_pipeline.errors import ConfigError, DataError
from forge_pipeline.integrity import Digest
from forge_pipeline.synthetic import SyntheticDataset, account_of, synthesize

Config = Callable[..., ForgeConfig]
PROMPTS = [
    f"How does one {verb} a {noun}?" for verb in ("paint", "open", "follow") for noun in ("door", "river", "map")
]


@pytest.fixture
def asked(config_with: Config, endpoint: Any, tmp_path: Path) -> Config:
    """A recipe with a dataset of its own beside the teacher's rows; keyword arguments as in `config_with`."""
    endpoint.answer = lambda request: f"With care: {request['messages'][-1]['content'].lower()}"
    rows = [
        {"prompt": f"Name number {n}.", "response": f"It is called {n}, and {n * n} is its square."} for n in range(20)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def build(data: dict[str, Any] | None = None, **synthetic: Any) -> ForgeConfig:
        base = {"seed_prompts": PROMPTS, "output_format": "prompt_response", "license": "CC-BY-4.0"}
        config = config_with(**base | synthetic)
        section = ForgeConfig(
            model={"name_or_path": "base"},
            lora={},
            training={},
            data={"dataset_name_or_path": str(tmp_path / "rows.jsonl"), "license": "CC0-1.0", **(data or {})},
        ).data
        return config.model_copy(update={"data": section})

    return build


def test_the_artefact_is_the_same_whenever_it_is_made(endpoint: Any, asked: Config, tmp_path: Path) -> None:
    one = synthesize(asked(), tmp_path / "one")
    endpoint.delays = {PROMPTS[0]: 0.2}
    two = synthesize(asked(concurrency=2), tmp_path / "two")
    assert one.digest == two.digest
    assert sorted(path.name for path in one.path.iterdir()) == ["report.json", "rows.jsonl"]
    assert one.report.rows == len(PROMPTS)
    assert list(account_of(one)) == []
    assert list(tmp_path.glob("synthetic-*")) == []


TAMPERED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a row more": (lambda data: data + data.splitlines(keepends=True)[0], "but the report says 9"),
    "a row less": (lambda data: b"".join(data.splitlines(keepends=True)[1:]), "but the report says 9"),
    "another word": (lambda data: data.replace(b"care", b"fear", 1), "rows.jsonl has the digest"),
    "a row without origin": (lambda data: data.replace(b'"synthetic"', b'"natural"', 1), "1 rows do not say"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_rows_that_are_not_those_of_the_report_are_noticed(case: str, asked: Config, tmp_path: Path) -> None:
    change, words = TAMPERED[case]
    made = synthesize(asked(), tmp_path / "made")
    made.rows_file.write_bytes(change(made.rows_file.read_bytes()))
    assert any(words in problem for problem in account_of(SyntheticDataset.open(made.path)))


def test_ingestion_takes_the_rows_as_one_more_source_with_licence_teacher_and_category(
    endpoint: Any, asked: Config, tmp_path: Path
) -> None:
    config = asked()
    made = synthesize(config, tmp_path / "synthetic_dataset")
    raw = ingest(config, tmp_path / "raw", synthetic=made.rows_file)
    own, taught = raw.provenance.sources
    assert (own.category, own.license, own.rows_read) == ("other", "CC0-1.0", 20)
    host = endpoint.url.split("/")[2]
    assert (taught.name, taught.uri, taught.category) == ("synthetic", "synthetic:teacher", "synthetic")
    assert taught.license == "CC-BY-4.0"
    assert taught.origin == f"answers of the teacher teacher (api, {host}) to the recipe's prompts"
    assert taught.digest == Digest.of_file(made.rows_file)
    assert (taught.rows_read, taught.rows_taken, taught.rows_skipped) == (9, 9, 0)
    rows = [row for split in raw.splits for row in raw.rows(split)]
    assert sum(row.get("synthetic", {}).get("endpoint") == host for row in rows) == 9


def test_without_the_rows_ingestion_is_what_it_was(asked: Config, tmp_path: Path) -> None:
    assert len(ingest(asked(), tmp_path / "raw").provenance.sources) == 1


def test_the_rows_are_audited_like_any_others(endpoint: Any, asked: Config, tmp_path: Path) -> None:
    plain = endpoint.answer
    endpoint.answer = lambda request: (
        "Write to ann@example.com" if request["messages"][-1]["content"] == PROMPTS[3] else plain(request)
    )
    config = asked()
    made = synthesize(config, tmp_path / "synthetic_dataset")
    alone = audit_dataset(str(made.rows_file))
    assert alone.total_samples == 9
    assert dict(alone.secrets_summary) == {}  # digests are no secrets
    assert alone.pii_summary.get("email") == 1
    raw = ingest(config, tmp_path / "raw", synthetic=made.rows_file)
    report = audit_raw_dataset(config, raw, tmp_path / "audit").report
    assert report.total_samples == 29
    assert report.pii_summary.get("email") == 1
    assert not report.secrets_summary


def test_a_mix_by_weights_needs_a_weight_for_the_rows_and_says_so_before_a_teacher_is_paid(
    endpoint: Any, asked: Config, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"synthetic\.mix_weight"):
        synthesize(asked(data={"mix_ratio": [1.0]}), tmp_path / "made")
    assert endpoint.requests == []
    config = asked(data={"mix_ratio": [1.0]}, mix_weight=1.0)
    raw = ingest(config, tmp_path / "raw", synthetic=synthesize(config, tmp_path / "made").rows_file)
    assert [source.rows_taken for source in raw.provenance.sources] == [9, 9]


def test_rows_that_name_no_teacher_are_refused(asked: Config, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not say which teacher wrote it"):
        ingest(asked(), tmp_path / "raw", synthetic=tmp_path / "rows.jsonl")


FAILING: dict[str, tuple[int, dict[str, Any], str]] = {
    "too few answers": (2, {"min_success_rate": 0.9}, r"7 of 9 prompts are answered, fewer than"),
    "no answer": (9, {}, r"0 of 9 prompts are answered, and the teacher fails: prompt 1: .*400"),
}


@pytest.mark.parametrize("case", FAILING)
def test_a_stage_that_fails_publishes_nothing_and_keeps_the_answers(
    case: str, endpoint: Any, asked: Config, tmp_path: Path
) -> None:
    failures, keys, words = FAILING[case]
    endpoint.script = {prompt: [400] for prompt in PROMPTS[:failures]}
    with pytest.raises(DataError, match=words):
        synthesize(asked(**keys), tmp_path / "made", answers_dir=tmp_path / "waiting")
    assert not (tmp_path / "made").exists()
    endpoint.requests.clear()
    made = synthesize(asked(**keys), tmp_path / "made", answers_dir=tmp_path / "waiting")
    assert sorted(endpoint.asked) == sorted(PROMPTS[:failures])
    assert made.report.successful == 9
    assert list((tmp_path / "waiting").iterdir()) == []


def test_a_stage_whose_teacher_breaks_down_fails(endpoint: Any, asked: Config, tmp_path: Path) -> None:
    prompts = [f"Prompt {n}" for n in range(40)]
    endpoint.script = {prompt: [400] for prompt in prompts[4:]}
    with pytest.raises(DataError, match=r"stopped after \d+ of 40 requests"):
        synthesize(asked(seed_prompts=prompts, concurrency=1), tmp_path / "made")
    assert len(endpoint.requests) < 40


def test_recipes_that_ask_for_other_answers_do_not_meet(endpoint: Any, asked: Config, tmp_path: Path) -> None:
    endpoint.script = {PROMPTS[0]: [401]}
    with pytest.raises(ConfigError):
        synthesize(asked(concurrency=1), tmp_path / "made", answers_dir=tmp_path / "waiting")
    other = synthesize(asked(temperature=0.1), tmp_path / "other", answers_dir=tmp_path / "waiting")
    assert other.report.successful == 9
    assert len(list((tmp_path / "waiting").iterdir())) == 1
