"""`push_to_hub`: a released model and its card, as one commit on the Hugging Face Hub.

What is pushed is the directory whose digest was released, file by file; a directory that has changed since,
or a model that nobody released, is refused before anything is sent. The repository is private unless asked
otherwise, and one commit holds everything: a push that fails midway leaves the repository as it was.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline._optional import require
from forge_pipeline.errors import ConfigError, GateFailedError, IntegrityError, ModelError, StoreError
from forge_pipeline.integrity import Digest, Manifest
from forge_pipeline.models import ModelDirectory

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

    from forge_pipeline.registry import Registry

CARD = "README.md"


@dataclass(frozen=True)
class Pushed:
    """A commit on the Hub.

    Attributes:
        commit: Its SHA, which `deploy` takes as the revision.
        digest: Of the model directory that it holds.
        files: Paths in the repository.
    """

    repo_id: str
    commit: str
    url: str
    digest: Digest
    files: tuple[str, ...]


def push_to_hub(
    model: ModelDirectory,
    repo_id: str,
    *,
    card: Path,
    registry: "Registry | None" = None,
    token: str | None = None,
    private: bool = True,
    unreleased: bool = False,
    endpoint: str | None = None,
) -> Pushed:
    """Push `model` to `repo_id`, which is made where it is not there.

    Args:
        repo_id: ``owner/name``.
        card: The model card, in Markdown.
        registry: Where it stands whether the model is released.
        token: With write access; None takes HF_TOKEN, or the login of this user account.
        private: Of a repository that is made here; one that is there stays as it is.
        unreleased: Push it though it is not released.
        endpoint: Another Hub than huggingface.co.

    Raises:
        GateFailedError: The model is not released.
        IntegrityError: Its files are not those that were opened.
        ConfigError: The repository's name or the card is none.
        ModelError: The Hub refused the push.
        StoreError: The Hub cannot be reached.
    """
    hub = require("huggingface_hub", extra="train", purpose="Pushes to the Hub")
    if not unreleased:
        check_released(model, registry)
    if not repo_id.strip() or repo_id.count("/") != 1:
        raise ConfigError(f"repository: found {repo_id!r}; expected owner/name")
    operations = commit_operations(model, card)
    api: HfApi = hub.HfApi(endpoint=endpoint, token=token, library_name="forge-pipeline")
    with _explained(repo_id):
        api.create_repo(repo_id, private=private, exist_ok=True)
        done = api.create_commit(
            repo_id,
            operations,
            commit_message=f"Model {model.digest}",
            commit_description=f"Recipe {model.record.config_digest}",
        )
    return Pushed(
        repo_id=repo_id,
        commit=done.oid,
        url=str(done.commit_url),
        digest=model.digest,
        files=tuple(operation.path_in_repo for operation in operations),
    )


def commit_operations(model: ModelDirectory, card: Path) -> "list[CommitOperationAdd]":
    """What is added: the card, and every file of the model but a card of its own; sorted by path.

    Raises:
        IntegrityError: The files are not those that were opened.
        ConfigError: There is no card, or it is empty or not UTF-8.
    """
    from huggingface_hub import CommitOperationAdd

    manifest = Manifest.of_directory(model.path)
    if manifest.digest != model.digest:
        raise IntegrityError(f"{model.path}: expected {model.digest}, found {manifest.digest}; it was changed")
    try:
        text = card.read_bytes()
        if not text.decode("utf-8").strip():
            raise ConfigError(f"{card}: the model card is empty")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{card}: the model card cannot be read as UTF-8 text: {error}") from error
    files: dict[str, Any] = {entry.path: str(model.path / entry.path) for entry in manifest.entries} | {CARD: text}
    return [CommitOperationAdd(path_in_repo=name, path_or_fileobj=files[name]) for name in sorted(files)]


def check_released(model: ModelDirectory, registry: "Registry | None") -> None:
    """Refuse a model that the registry does not call released.

    Raises:
        GateFailedError: It does not.
    """
    row = registry.find_model(model.digest) if registry else None
    if row is None or row.stage != "released":
        state = f"is {row.stage}" if row else "is not in the registry"
        raise GateFailedError(
            f"{model.path} ({model.digest}) {state}; only released models are pushed. Release it first, or push it "
            "all the same with --unreleased"
        )


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    # Whatever HTTP client this version of huggingface_hub has, its errors are siblings of the Hub's own.
    transport = tuple(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")
    try:
        yield
    except HFValidationError as error:
        raise ConfigError(f"repository: {repo_id!r} is not a name on the Hub: {error}") from error
    except OfflineModeIsEnabled as error:
        raise StoreError(f"{repo_id}: HF_HUB_OFFLINE forbids asking the Hub; unset it to push") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        why = "no token, or one without write access; set HF_TOKEN" if status in (401, 403) else str(error)
        raise ModelError(f"{repo_id}: the Hub refused the push ({status}): {why}") from error
    except (*transport, OSError) as error:
        raise StoreError(f"{repo_id}: the Hub cannot be reached: {error}") from error
