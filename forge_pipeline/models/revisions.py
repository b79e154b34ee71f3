"""A Hub reference -> the commit it means now, or an honest None.

The Hub is asked once, with a timeout; where it may not or cannot be asked, the local
cache answers for files that are already here. A repository that is nowhere is an
error at once, before anything heavy is loaded.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from forge_pipeline._optional import require
from forge_pipeline.errors import ModelError

_log = logging.getLogger(__name__)
_TIMEOUT = 10.0  # seconds


@dataclass(frozen=True)
class ResolvedRevision:
    """What a Hub reference turned out to be.

    Attributes:
        resolved: The commit SHA; None when neither the Hub nor the cache could tell.
        license: The license that the model card declares, where the Hub was asked.
    """

    resolved: str | None
    license: str | None


def resolve_revision(repo_id: str, requested: str | None, *, token: str | None, offline: bool) -> ResolvedRevision:
    """Find the commit behind `requested` (None: the repository's default branch).

    Raises:
        ModelError: There is no such repository or revision, access is refused, or the Hub cannot be
            asked and the cache holds no copy.
    """
    if offline:
        return _from_cache(repo_id, requested, why="this run is offline")
    hub = require("huggingface_hub", extra="train", purpose="Base models from the Hub")
    errors = require("huggingface_hub.errors", extra="train", purpose="Base models from the Hub")
    at = f" at revision {requested!r}" if requested else ""
    try:
        info = hub.HfApi(token=token).model_info(repo_id, revision=requested, timeout=_TIMEOUT)
    except errors.GatedRepoError as error:
        raise ModelError(
            f"model.name_or_path: access to {repo_id!r} is gated; accept its terms on the Hub and set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"model.revision: {repo_id!r} has no revision {requested!r}; use a branch, tag or commit of that repository"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"model.name_or_path: the Hub knows no model {repo_id!r}{at}, or it is private; check the name, or set "
            "HF_TOKEN to a token that may read it"
        ) from error
    except Exception as error:  # a network peer: the client raises its HTTP library's own classes
        return _from_cache(repo_id, requested, why=f"the Hub could not be reached ({type(error).__name__}: {error})")
    card = info.card_data
    return ResolvedRevision(info.sha, card.get("license") if card else None)


def _from_cache(repo_id: str, requested: str | None, *, why: str) -> ResolvedRevision:
    hub = require("huggingface_hub", extra="train", purpose="Base models from the Hub")
    found = hub.try_to_load_from_cache(repo_id, "config.json", revision=requested)
    if not isinstance(found, str):
        at = f" at revision {requested!r}" if requested else ""
        raise ModelError(
            f"model.name_or_path: {repo_id!r}{at} is neither a local directory nor in the Hub cache at "
            f"{hub.constants.HF_HUB_CACHE}, and {why}. Download it where there is a network "
            f"(`hf download {repo_id}`), or give a local directory or package:<module>/<file>.gguf"
        )
    _log.info("%s taken from the Hub cache, because %s", repo_id, why)
    return ResolvedRevision(Path(found).parent.name, None)  # .../snapshots/<commit>/config.json
