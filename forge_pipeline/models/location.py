"""Where a base model lies, and its `config.json`, without reading, hashing or expanding any weights.

`resolve_base_model` hashes what will be trained on; planning needs only the architecture.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from forge_pipeline._optional import require
from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ModelError
from forge_pipeline.models.architecture import changed, planned_changes
from forge_pipeline.models.base import _HUB_ID, _locate_in_package
from forge_pipeline.models.hub import hub_token, is_offline
from forge_pipeline.models.quiet import quiet_libraries

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def load_architecture(config: ForgeConfig, name: str | None = None) -> "PretrainedConfig":
    """The architecture of the recipe's base model, or of another model `name` given in the same three forms.

    What the recipe changes in it (`training.rope_scaling`, `training.sliding_window_attention`) is set.
    Of a local directory only `config.json` has to be there; of a GGUF file the header is read.

    Raises:
        ModelError: There is no such model, or transformers does not know its architecture.
        ConfigError: The recipe changes what the architecture does not have.
    """
    name = name or config.model.name_or_path
    source: dict[str, object] = {"local_files_only": True}
    place = _place(name)
    if place is None:
        path = name
        revision = config.model.revision if name == config.model.name_or_path else None
        source = {"revision": revision, "token": hub_token(config), "local_files_only": is_offline(config)}
    elif place.is_file():
        path, source["gguf_file"] = str(place.parent), place.name
    else:
        path = str(place)
    transformers = require("transformers", extra="train", purpose="Models")
    with quiet_libraries():
        try:
            found: PretrainedConfig = transformers.AutoConfig.from_pretrained(
                path, trust_remote_code=config.model.trust_remote_code, **source
            )
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise ModelError(
                f"model.name_or_path: the architecture of {name} cannot be read: {error}. Give a directory with a "
                "config.json, a GGUF file, or a Hub id that can be reached from here"
            ) from error
    if name == config.model.name_or_path and (changes := planned_changes(config, found)):
        found = changed(found, changes)
    return found


def _place(name: str) -> Path | None:
    """The local file or directory; None for a Hub id."""
    if name.startswith("package:"):
        return _locate_in_package(name)[0]
    path = Path(name).expanduser()
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelError(f"model.name_or_path: {path} has no config.json; expected a Hugging Face model directory")
    if path.is_file() and path.suffix != ".gguf":
        raise ModelError(f"model.name_or_path: {path} is a file; expected a model directory or a .gguf file")
    if path.exists():
        return path
    if name.startswith((".", "/", "~", "\\")) or name.endswith(".gguf") or not _HUB_ID.fullmatch(name):
        raise ModelError(
            f"model.name_or_path: {name!r} was looked for at {path.absolute()}, where there is nothing; give a local "
            "model directory, a Hub id such as owner/name, or package:<module>/<file>.gguf"
        )
    return None
