"""The library reference's examples, as they stand there but for the package's name and a model that is at hand.

Examples 2 and 4, about the audit log, are in tests/forge_pipeline/audit_log/test_examples.py.
"""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

EXAMPLE_1 = """
from forge_pipeline import audit_dataset

report = audit_dataset(
    "data/customer_support.jsonl",
    output_dir="audit_out",
    enable_pii_ml={pii_ml},
    pii_ml_language="en",
    emit_croissant=True,
)

print(f"samples: {{report.total_samples}}")
print(f"duplicates: {{report.duplicate_count}}")
print(f"pii findings: {{len(report.pii_findings)}}")
# cross_split_overlap is dict[str, Any], access by key
print(f"split overlap pairs: {{report.cross_split_overlap.get('pairs', {{}})}}")
"""

EXAMPLE_3 = """
from forge_pipeline import ForgeConfig, ForgeTrainer

config = ForgeConfig(
    model={{"name_or_path": {model!r}}},
    lora={{"r": 8, "alpha": 16, "target_modules": ["q_proj", "v_proj"]}},
    data={{"dataset_name_or_path": "data/train.jsonl"}},
    training={{
        "trainer_type": "sft",
        "num_train_epochs": 1,
        "per_device_train_batch_size": 1,
        "output_dir": "./checkpoints/quick",
    }},
)

trainer = ForgeTrainer(config)
result = trainer.train()

print(f"success={{result.success}}  output={{result.output_dir}}")
if not result.success and result.revert_reason:
    print(f"reverted: {{result.revert_reason}}")
"""

EXAMPLE_5 = """
from forge_pipeline import detect_pii, detect_secrets, find_pii, find_secrets, mask_pii, mask_secrets

text = "Contact alice@example.com or use AKIAIOSFODNN7EXAMPLE for the call."

pii = detect_pii(text)
secrets = detect_secrets(text)

print(pii, secrets)
print(f"pii: {[(f.kind, f.span) for f in find_pii(text)]}")
print(f"secrets: {[(f.kind, f.span) for f in find_secrets(text)]}")

masked = mask_secrets(mask_pii(text))
print(masked)
"""

LAZY_IMPORT = """
import sys
import forge_pipeline

assert "torch" not in sys.modules           # contract - pinned in CI

_ = forge_pipeline.ForgeTrainer             # imports forge_pipeline.trainer, but
assert "torch" not in sys.modules           # forge_pipeline.trainer also defers torch

config = forge_pipeline.ForgeConfig(model={"name_or_path": "x"}, lora={}, data={"dataset_name_or_path": "d"}, training={})
trainer = forge_pipeline.ForgeTrainer(config)      # constructor still cheap
assert "torch" not in sys.modules
print("light")
"""


@pytest.fixture
def run(tmp_path):
    """Run an example in a folder of its own, with the files that it names."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"How do I {verb}?"},
                {"role": "assistant", "content": f"You {verb}."},
            ]
        }
        for verb in ("begin", "pay", "leave", "write to anna@example.org", "return a parcel", "change my address")
    ]
    (tmp_path / "data").mkdir()
    for name in ("customer_support", "train"):
        (tmp_path / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def execute(example: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(example)], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )

    return execute


def test_example_1_audits_a_corpus(run, tmp_path):
    done = run(EXAMPLE_1.format(pii_ml=False))
    assert done.returncode == 0, done.stderr
    assert "samples: 6" in done.stdout
    assert "pii findings: 2" in done.stdout
    assert (tmp_path / "audit_out" / "data_audit_report.json").exists()


def test_example_1_as_it_stands_names_the_extra_that_it_needs(run):
    pytest.importorskip("forge_pipeline")
    try:
        import presidio_analyzer  # noqa: F401
    except ImportError:
        done = run(EXAMPLE_1.format(pii_ml=True))
        assert done.returncode == 1
        assert "pip install 'forge-pipeline[pii-ml]'" in done.stderr


@pytest.mark.slow
def test_example_3_trains_end_to_end(run, tiny_llama, tmp_path):
    done = run(EXAMPLE_3.format(model=str(tiny_llama)))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "success=True" in done.stdout
    output = done.stdout.split("output=")[1].strip()
    assert list(Path(tmp_path, output).rglob("adapter_model.safetensors"))


def test_example_5_detects_and_masks(run):
    done = run(EXAMPLE_5)
    assert done.returncode == 0, done.stderr
    assert "{'email': 1} {'aws_access_key': 1}" in done.stdout
    assert "('email', (8, 25))" in done.stdout
    assert "alice" not in done.stdout.splitlines()[-1]
    assert "AKIA" not in done.stdout.splitlines()[-1]


def test_the_lazy_import_example_holds(run):
    done = run(LAZY_IMPORT)
    assert (done.returncode, done.stdout.strip()) == (0, "light"), done.stderr
