"""The CI files: valid by the systems' own schemas, and their scripts do what their comments say."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.assets.conftest import Deployment, make_deployment, tiny_model, warm_dagster
from tests.standing import standing

__all__ = ["make_deployment", "tiny_model", "warm_dagster"]  # fixtures

CHECKOUT = Path(__file__).parents[2]
CI = CHECKOUT / "deploy" / "ci"
SCHEMAS = {"github-actions.yml": "vendor.github-workflows", "gitlab-ci.yml": "vendor.gitlab-ci"}


@pytest.mark.parametrize(("file", "schema"), SCHEMAS.items(), ids=SCHEMAS)
def test_a_workflow_is_valid_by_the_systems_own_schema(file, schema, tmp_path):
    pytest.importorskip("check_jsonschema")
    broken = tmp_path / file
    broken.write_text(
        (CI / file).read_text().replace("runs-on:", "runs_on:").replace("stage: verify", "stage: [1, {}]")
    )
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, "--output-format", "json"]
    done = subprocess.run([*command, str(CI / file), str(broken)], capture_output=True, text=True, timeout=120)
    found = json.loads(done.stdout)
    assert {error["filename"] for error in found["errors"]} == {str(broken)}
    assert not found["parse_errors"]


@pytest.mark.parametrize("file", ["github-actions.yml", "gitlab-ci.yml", "Jenkinsfile"])
def test_a_workflow_keeps_the_evidence_of_a_stopped_run_and_verifies_elsewhere(file):
    text = (CI / file).read_text()
    assert re.search(r"if: always\(\)|when: always|always \{", text)
    run, verify = text.index("run_line.sh"), text.rindex("verify_bundle.sh")
    assert run < verify
    after = text[run:]
    assert "'.[all]'" not in after  # the verifier installs the library alone
    assert "pip install forge-pipeline" in after
    for script in re.findall(r"deploy/ci/(\w+\.sh)", text):
        assert (CI / script).stat().st_mode & 0o111


def test_the_verifying_job_needs_the_one_that_trains():
    github = yaml.safe_load((CI / "github-actions.yml").read_text())
    assert github["jobs"]["verify"]["needs"] == "materialize"
    gitlab = yaml.safe_load((CI / "gitlab-ci.yml").read_text())
    assert gitlab["verify"]["needs"] == ["materialize"]


@pytest.mark.parametrize("script", ["run_line.sh", "verify_bundle.sh"])
def test_a_script_is_plain_shell_and_says_how_it_is_called(script):
    shell = shutil.which("dash") or "sh"
    assert subprocess.run([shell, "-n", CI / script]).returncode == 0
    done = subprocess.run([shell, CI / script], capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert f"usage: {CI / script}" in done.stderr


# The scripts, run


def run_line(deployment: Deployment, line: str, out: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**deployment.environment, "PYTHON": sys.executable}
    environment["FORGE_AUDIT_SIGNING_KEY"] = str(deployment.root / "key.pem")
    command = ["sh", str(CI / "run_line.sh"), line, str(out)]
    return subprocess.run(command, cwd=CHECKOUT, env=standing(environment), capture_output=True, text=True, timeout=500)


@pytest.fixture(scope="module")
def made(make_deployment):
    """A line that passes and, of the same files, one that a gate stops; each run by the script."""
    deployment = make_deployment()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (deployment.root / "key.pem").write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (deployment.root / "public.pem").write_bytes(public)
    quick = {
        "training__max_steps": 1,
        "evaluation__benchmark__enabled": False,
        "evaluation__safety__enabled": False,
        "export__enabled": False,
    }
    deployment.write_recipe("passes", **quick)
    secret = {"messages": [{"role": "user", "content": "key?"}, {"role": "assistant", "content": "ghp_" + "a1B2" * 9}]}
    spoiled = deployment.root / "spoiled.jsonl"
    spoiled.write_text((deployment.root / "rows.jsonl").read_text() + json.dumps(secret) + "\n")
    deployment.write_recipe("stopped", **quick, data__dataset_name_or_path=str(spoiled))
    results = {line: run_line(deployment, line, deployment.root / line) for line in ("stopped", "passes")}
    return deployment, results


@pytest.mark.slow
def test_a_line_that_passes_exits_0_and_leaves_bundle_and_log(made):
    deployment, results = made
    done = results["passes"]
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert (deployment.root / "passes" / "bundle" / "annex_iv.json").is_file()
    assert (deployment.root / "passes" / "audit_log" / "audit_log.jsonl").is_file()


def test_a_line_that_a_gate_stops_exits_1_and_leaves_the_record_of_why(made):
    deployment, results = made
    done = results["stopped"]
    assert done.returncode == 1
    assert not (deployment.root / "stopped" / "bundle").exists()
    assert '"gate.decided"' in (deployment.root / "stopped" / "audit_log" / "audit_log.jsonl").read_text()


def test_evidence_of_two_runs_is_not_mixed(made):
    deployment, _ = made
    done = run_line(deployment, "passes", deployment.root / "passes")
    assert (done.returncode, "is not empty" in done.stderr) == (2, True)


def verify(deployment: Deployment, bundle: Path, elsewhere: Path) -> "subprocess.CompletedProcess[str]":
    """The verifying job: another directory, no FORGE_HOME, no checkout on the path but the library."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "PYTHONPATH": str(elsewhere / "library")}
    (elsewhere / "library").mkdir(exist_ok=True)
    library = elsewhere / "library" / "forge_pipeline"
    if not library.exists():
        library.symlink_to(CHECKOUT / "forge_pipeline")
    command = ["sh", str(CI / "verify_bundle.sh"), str(bundle), str(deployment.root / "public.pem")]
    return subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=120)


def test_the_bundle_verifies_elsewhere_with_the_public_key_alone_and_not_once_it_was_touched(made, tmp_path):
    deployment, _ = made
    bundle = shutil.copytree(deployment.root / "passes" / "bundle", tmp_path / "bundle")
    done = verify(deployment, bundle, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    card = bundle / "model_card.md"
    card.write_text(card.read_text() + "Better than it is.\n")
    assert verify(deployment, bundle, tmp_path).returncode == 6
