"""Commands from the outside: what they print, and with which code they end."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.annex_iv import write_archive
from forge_pipeline.cli.main import COMMANDS, build_parser
from forge_pipeline.errors import AwaitingApprovalError, CancelledError, GateFailedError

Forge = Callable[..., Any]
RECIPE = Path(__file__).parents[3] / "forge_pipeline" / "cli" / "quickstart.yaml"


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    program = (
        "import sys; from forge_pipeline.cli.main import main; code = main(['--help'])\n"
        "heavy = {'torch', 'transformers', 'trl', 'pyarrow', 'numpy', 'pydantic', 'sqlalchemy', 'fastapi', 'rich'}\n"
        "sys.exit(code or sorted(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


def test_every_command_describes_itself() -> None:
    (choices,) = [action.choices for action in build_parser()._actions if isinstance(action.choices, dict)]
    assert set(choices) == set(COMMANDS)
    assert all(command.description for command in choices.values())


BAD_INPUT: dict[str, tuple[list[str], str]] = {
    "no command": ([], "COMMAND"),
    "an unknown command": (["fly"], "invalid choice: 'fly'"),
    "an unknown option": (["audit", "x", "--fast"], "--fast"),
    "a missing argument": (["train"], "recipe"),
    "a number that is none": (["audit", "x", "--workers", "many"], "invalid int value: 'many'"),
    "a port that is none": (["serve", "--port", "abc"], "invalid int value: 'abc'"),
    "a reason that is missing": (["approve", "abc"], "--reason"),
    "a recipe that is not there": (["train", "nowhere.yaml"], "nowhere.yaml: there is no such recipe"),
    "a dataset that is not there": (["audit", "nowhere.jsonl"], "nowhere.jsonl"),
    "a threshold out of range": (["audit", "rows.jsonl", "--near-dup-threshold", "99"], "near_dup_threshold"),
    "a log that is not there": (["verify", "log", "nowhere.jsonl"], "nowhere.jsonl"),
    "a bundle that is not there": (["verify", "annex-iv", "nowhere.json"], "nowhere.json"),
    "a bundle that is no JSON": (["verify", "annex-iv", "rows.jsonl"], "not a bundle's manifest"),
    "a ZIP that is none": (["verify", "bundle", "not.zip"], "not a ZIP file"),
    "a model that is not there": (["verify", "model", "nowhere"], "nowhere is not a directory"),
    "a model that is none": (["verify", "model", "."], "forge_model.json"),
    "a model to talk to that is not there": (["chat", "nowhere", "--prompt", "x"], "nowhere"),
    "a model to export that is not there": (["export", "nowhere", "out"], "nowhere"),
    "a request that is not there": (["approve", "abc", "--reason", "Looked at it."], "there is no request 'abc'"),
    "a registry that is none": (["approvals"], "database URL"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_ends_with_1_and_one_clear_message(
    forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a row"}\n{"text": "another row"}\n')
    (tmp_path / "not.zip").write_text("no")
    if name == "a registry that is none":
        monkeypatch.setenv("FORGE_REGISTRY_URL", "nonsense")
    arguments, words = BAD_INPUT[name]
    done = forge(*arguments)
    assert done.code == 1, done.err
    assert words in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (GateFailedError("release refused: safety failed"), 3, "release refused: safety failed"),
        (AwaitingApprovalError("needs 2 approvals"), 4, "needs 2 approvals"),
        (CancelledError("asked to stop"), 5, "cancelled"),
        (KeyboardInterrupt(), 5, "cancelled"),
        (RuntimeError("boom"), 2, "RuntimeError: boom"),
        (OSError(28, "No space left on device"), 2, "No space left on device"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_errors_of_a_command_become_codes_and_messages(
    forge: Forge, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, words: str
) -> None:
    from forge_pipeline.cli.commands import doctor

    def fail(args: object) -> int:
        raise error

    monkeypatch.setattr(doctor, "run", fail)
    done = forge("doctor")
    assert done.code == code
    assert words in done.err
    assert "Traceback" not in done.err
    shown = forge("--traceback", "doctor")
    assert shown.code == code
    assert "Traceback" in shown.err


def test_version(forge: Forge) -> None:
    done = forge("--version")
    assert done.code == 0
    assert done.out.startswith("forge-pipeline ")


def test_a_dry_run_validates_the_recipe(forge: Forge) -> None:
    done = forge("train", RECIPE, "--dry-run", "--json")
    assert done.code == 0
    assert json.loads(done.out)["line"] == "quickstart"


def test_an_audit_that_finds_a_secret_ends_with_3(forge: Forge, tmp_path: Path) -> None:
    clean, leaking = tmp_path / "clean.jsonl", tmp_path / "leaking.jsonl"
    clean.write_text('{"text": "nothing to see"}\n{"text": "nor here, in other words"}\n')
    leaking.write_text(json.dumps({"text": "key " + "AKIA" + "QWERTYUIOP234567"}) + "\n")
    assert forge("audit", clean).code == 0
    done = forge("audit", leaking)
    assert done.code == 3
    assert "1 secrets" in done.out
    assert "AKIA" not in done.out
    assert forge("audit", leaking, "--allow-secrets").code == 0
    document = json.loads(forge("audit", leaking, "--json").out)
    assert document["passed"] is False
    assert document["total_samples"] == 1


def test_a_bundle_verifies_as_manifest_directory_and_zip(forge: Forge, example_bundle: Path, tmp_path: Path) -> None:
    write_archive(example_bundle, tmp_path / "bundle.zip")
    for path in (example_bundle, example_bundle / "annex_iv.json", tmp_path / "bundle.zip"):
        done = forge("verify", "bundle", path)
        assert done.code == 0, done.out
        assert "every check held" in done.out
        assert "not checked" in done.out
    document = json.loads(forge("verify", "annex-iv", example_bundle / "annex_iv.json", "--json").out)
    assert document["valid"] is True
    assert document["complete"] is False
    assert "9" in document["missing_fields"]
    kept = document["manifest_hash_actual"]
    assert forge("verify", "bundle", example_bundle, "--manifest-hash", kept).code == 0
    assert forge("verify", "bundle", example_bundle, "--manifest-hash", "sha256:" + "0" * 64).code == 6


def test_a_tampered_bundle_ends_with_6_and_says_where(forge: Forge, example_bundle: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(example_bundle, tmp_path / "bundle"))
    (copied / "model_card.md").write_text("# Better")
    done = forge("verify", "bundle", copied)
    assert done.code == 6
    assert "NOT VALID" in done.out
    assert "model_card.md changed" in done.out


def test_a_log_verifies_until_it_is_cut(forge: Forge, example_bundle: Path, tmp_path: Path) -> None:
    for name in ("audit_log.jsonl", "audit_log.jsonl.checkpoint"):
        shutil.copy(example_bundle / name, tmp_path / name)
    shutil.copy(tmp_path / "audit_log.jsonl.checkpoint", tmp_path / "kept.txt")
    done = forge("verify", "log", "audit_log.jsonl", "--checkpoint", "kept.txt")
    assert done.code == 0
    assert "anchored" in done.out
    lines = (tmp_path / "audit_log.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "audit_log.jsonl").write_bytes(b"".join(lines[:-1]))
    done = forge("verify", "log", "audit_log.jsonl", "--json")
    assert done.code == 6
    assert json.loads(done.out)["valid"] is False


def test_a_model_directory_verifies_against_a_digest(forge: Forge, tmp_path: Path) -> None:
    from forge_pipeline.annex_iv.example import example_inputs

    model = example_inputs(tmp_path / "example").model
    assert forge("verify", "model", model.path).code == 0
    assert forge("verify", "model", model.path, "--digest", model.digest).code == 0
    (model.path / "adapter_model.safetensors").write_bytes(b"other weights")
    done = forge("verify", "model", model.path, "--digest", model.digest)
    assert done.code == 6
    assert f"recorded was {model.digest}" in done.out


def test_a_zip_with_a_path_that_leads_out_is_refused(forge: Forge, tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "bundle.zip", "w") as archive:
        archive.writestr("../outside.txt", "x")
    done = forge("verify", "bundle", "bundle.zip")
    assert done.code == 1
    assert not (tmp_path.parent / "outside.txt").exists()


def test_what_is_no_gguf_ends_with_6(forge: Forge, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert forge("verify", "gguf", "model.gguf").code == 6


def test_approvals_are_listed_and_decided(forge: Forge, tmp_path: Path) -> None:
    from datetime import UTC, datetime, timedelta

    from forge_pipeline.audit_log import AuditLogger, read_entries
    from forge_pipeline.cli.surroundings import open_registry
    from forge_pipeline.integrity import Digest
    from forge_pipeline.release.requests import read_requests, utc_text

    assert forge("approvals").out == "nothing waits for approval\n"
    now = datetime.now(UTC)
    log = AuditLogger(str(tmp_path / "log"))
    log.log_event(
        "human_approval.required",
        request_id="abc123",
        line="example",
        subject=Digest.of(b"model"),
        bundle=Digest.of(b"bundle"),
        policy_digest=Digest.of(b"recipe"),
        created_at=utc_text(now),
        expires_at=utc_text(now + timedelta(days=7)),
        terms={"needed": 2},
        shown={"fine_tuned_model": Digest.of(b"model")},
        gates=[],
    )
    (request,) = read_requests(read_entries(log.log_path)).values()
    open_registry().add_approval_request(request.row(str(tmp_path / "log")))
    assert "needs 2 more of 2" in forge("approvals").out
    done = forge("approve", "abc", "--reason", "Looked at the bundle.")
    assert (done.code, done.out.split(":")[0]) == (0, "granted by ann (not signed)")
    assert forge("approve", "abc", "--reason", "Looked at it again.").code == 2
    assert forge("approve", "abc", "--reason", "todo", "--as", "ben").code == 1
    listed = json.loads(forge("approvals", "--json").out)["requests"]
    assert [(each["request"]["request_id"], each["still_needed"]) for each in listed] == [("abc123", 1)]
    assert forge("reject", "abc", "--reason", "The answers are wrong.", "--as", "ben", "--json").code == 0
    assert forge("approvals").out == "nothing waits for approval\n"
    assert "rejected  by ben" in forge("approvals", "--all").out
    events = [entry.event for entry in read_entries(tmp_path / "log" / "audit_log.jsonl")]
    assert events[-2:] == ["human_approval.granted", "human_approval.rejected"]
    shown = forge("approvals", "--show", "abc").out
    assert "rejected by ben (stated): The answers are wrong." in shown
    assert f"fine_tuned_model       {Digest.of(b'model')}" in shown
    assert forge("approve", "abc", "--reason", "Looked.", "--as", "cleo", "--model", "0" * 12).code == 1
    assert forge("revoke", "abc", "--reason", "I read the old report.", "--as", "ben").code == 0
    assert json.loads(forge("approvals", "--show", "abc", "--json").out)["state"] == "open"


def test_models_are_listed_moved_rolled_back_and_archived(forge: Forge, tmp_path: Path) -> None:
    from forge_pipeline.audit_log import read_entries
    from forge_pipeline.cli.surroundings import line_log, open_registry
    from forge_pipeline.integrity import Manifest

    assert forge("models", "list").out == "there is no model\n"
    uids = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name)
        uids.append(Manifest.of_directory(tmp_path / name).digest)
        open_registry().register_model(
            uid=uids[-1], name=name, line="example", base_model="tiny", path=str(tmp_path / name)
        )
    for number in ("1", "2"):
        assert forge("models", "alias", "canary", number, "--reason", "Try it on the staff.").code == 0
    assert "canary" in forge("models", "list").out.splitlines()[1]
    assert forge("models", "alias", "released", "1", "--reason", "Try it on everybody.").code == 1
    assert forge("models", "archive", "2", "--reason", "Worse than before.").code == 1  # canary means it
    done = forge("models", "rollback", "example", "--alias", "canary", "--reason", "Worse than before.", "--json")
    assert json.loads(done.out)["model_uid"] == uids[0]
    assert forge("models", "archive", uids[1], "--reason", "Worse than before.").code == 0
    assert "archived: Worse than before." in forge("models", "show", "2").out
    shown = json.loads(forge("models", "show", "1", "--json").out)
    assert (shown["disagreements"], len(shown["aliases"])) == ({"canary": ""}, 2)
    assert [
        each["id"] for each in json.loads(forge("models", "list", "--stage", "archived", "--json").out)["models"]
    ] == [2]
    for wrong in (["show", "9"], ["rollback", "nowhere", "--reason", "Worse than before."]):
        assert forge("models", *wrong).code == 1
    events = [entry.event for entry in read_entries(line_log("example") / "audit_log.jsonl")][1:]
    assert events == ["alias.started", "alias.moved"] * 3 + ["model.archived"]
    assert all((tmp_path / name / "weights").is_file() for name in ("first", "second"))


@pytest.mark.parametrize("state", ["success", "failed", "waiting"])
def test_train_prints_the_result_and_its_code(forge: Forge, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    """The trainer itself has its own tests; here a recorded result stands for it."""
    import forge_pipeline.trainer
    from forge_pipeline.gates import GateDecision
    from forge_pipeline.integrity import Digest
    from forge_pipeline.progress import Progress

    outcome = "fail" if state == "failed" else "pass"
    gate = GateDecision("loss", outcome, "loss 1.2", Digest.of(b"model"))  # type: ignore[arg-type]
    result = forge_pipeline.trainer.TrainResult(
        success=state != "failed",
        metrics={"train_loss": 1.2},
        final_model_path="/models/one",
        awaiting_approval=state == "waiting",
        gates=(gate,),
    )

    def train(self: object, resume_from_checkpoint: object = None, *, progress: Callable[[Progress], None]) -> Any:
        progress(Progress("fine_tune", 1, 2, metrics={"loss": 1.2}))
        return result

    monkeypatch.setattr(forge_pipeline.trainer.ForgeTrainer, "train", train)
    done = forge("train", RECIPE)
    assert done.code == {"success": 0, "failed": 3, "waiting": 4}[state]
    assert "train_loss 1.2" in done.out
    assert "fine_tune  1/2  loss 1.2" in done.err
    assert json.loads(forge("train", RECIPE, "--json", "--quiet").out)["metrics"] == {"train_loss": 1.2}
    assert forge("train", RECIPE, "--quiet").err == ""


def test_broken_pipes_are_no_error() -> None:
    """`forge approvals | head -0`: the reader goes away before the output is written."""
    command = f"{sys.executable} -m forge_pipeline.cli.main quickstart --help | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert "BrokenPipeError" not in done.stderr
