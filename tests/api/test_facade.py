"""The public surface: every name of the contract, light to import, typed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import forge_pipeline

CONTRACT = {
    "stable": [
        "__version__",
        "__api_version__",
        "load_config",
        "ForgeConfig",
        "ConfigError",
        "ForgeTrainer",
        "TrainResult",
        "audit_dataset",
        "AuditReport",
        "detect_pii",
        "mask_pii",
        "detect_secrets",
        "mask_secrets",
        "AuditLogger",
        "verify_audit_log",
        "VerifyResult",
        "verify_annex_iv_artifact",
        "VerifyAnnexIVResult",
        "verify_gguf",
        "VerifyGgufResult",
    ],
    "experimental": [
        "prepare_dataset",
        "get_model_and_tokenizer",
        "compute_simhash",
        "compute_minhash",
        "run_benchmark",
        "BenchmarkResult",
        "SyntheticDataGenerator",
        "WebhookNotifier",
        "setup_authentication",
        "verify_integrity",
        "manage_checkpoints",
        "merge_models",
        "push_to_hub",
    ],
}
HEAVY = "torch transformers trl datasets peft dagster pyarrow numpy pydantic"


def test_every_name_of_the_contract_resolves_and_is_listed():
    for name in [*CONTRACT["stable"], *CONTRACT["experimental"]]:
        assert getattr(forge_pipeline, name) is not None
        assert name in forge_pipeline.__all__


def test_stability_tiers_are_those_of_the_contract():
    for tier, names in CONTRACT.items():
        for name in names:
            if not name.startswith("__"):
                assert forge_pipeline._EXPORTS[name][1] == tier, name


def test_type_checkers_and_the_interpreter_see_the_same_names():
    tree = ast.parse(Path(forge_pipeline.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    typed = {
        (alias.asname, node.module) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert typed == {(name, module) for name, (module, _) in forge_pipeline._EXPORTS.items()}


def test_no_public_name_is_that_of_a_subpackage_which_importing_it_would_put_in_its_place():
    beside = {path.stem for path in Path(forge_pipeline.__file__).parent.iterdir()}
    assert not beside & forge_pipeline._EXPORTS.keys()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        forge_pipeline.no_such_name  # noqa: B018


def test_importing_the_package_loads_nothing_heavy():
    code = f"import sys, forge_pipeline; print([m for m in {HEAVY.split()!r} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_constructing_a_trainer_loads_no_torch():
    code = (
        "import sys, forge_pipeline as f\n"
        "c = f.ForgeConfig(model={'name_or_path': 'x'}, lora={}, data={'dataset_name_or_path': 'd'}, training={})\n"
        "f.ForgeTrainer(c)\n"
        "print([m for m in ('torch', 'transformers', 'trl', 'datasets', 'peft') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
