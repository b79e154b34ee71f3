"""Hub credentials: where a token may come from, and the seed's `setup_authentication`."""

import logging
import os

from forge_pipeline._optional import require
from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ModelError

_log = logging.getLogger(__name__)
_VARIABLES = ("HF_TOKEN", "HUGGINGFACE_TOKEN")
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def hub_token(config: ForgeConfig) -> str | None:
    """The recipe's token, else that of HF_TOKEN or HUGGINGFACE_TOKEN, else None."""
    if config.auth and config.auth.hf_token:
        return config.auth.hf_token
    return _token_from_environment()


def is_offline(config: ForgeConfig) -> bool:
    """Whether the recipe or the environment forbids asking the Hub."""
    if config.model.offline:
        return True
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in _OFFLINE)


def setup_authentication(token: str | None = None) -> None:
    """Log in to the Hugging Face Hub for this user account.

    Args:
        token: An access token; None takes HF_TOKEN, then HUGGINGFACE_TOKEN. Without any, nothing
            happens: public models need no token, and a login made earlier stays as it is.

    Raises:
        ModelError: The Hub refused the token or could not be reached to check it.
        OptionalDependencyError: huggingface_hub is not installed.
    """
    token = token or _token_from_environment()
    if not token:
        _log.debug("no Hub token given and none of %s is set; staying as we are", ", ".join(_VARIABLES))
        return
    hub = require("huggingface_hub", extra="train", purpose="Hub logins")
    try:
        hub.login(token=token, add_to_git_credential=False)
    except Exception as error:  # a network peer: the client raises its HTTP library's own classes
        raise ModelError(
            f"the Hub did not accept the token ({type(error).__name__}: {error}); "
            "check the token's value and its access, or unset it to work with public models"
        ) from error


def _token_from_environment() -> str | None:
    return next((value for name in _VARIABLES if (value := os.environ.get(name))), None)
