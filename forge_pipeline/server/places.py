"""What the names in a start body may point to: uploads, files under allowed roots, Hub ids.

A path outside the roots is answered in the same words whether or not something is
there, and nothing outside them is opened. Symbolic links are followed before the
comparison. URLs are never fetched.
"""

import re
from pathlib import Path

from forge_pipeline.server.errors import NotFoundError, RequestError
from forge_pipeline.server.settings import ServerSettings

_LONGEST = 255  # bytes of a file's name on the usual file systems
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)


def dataset_file(settings: ServerSettings, name: str) -> Path:
    """The file that `dataset` names.

    Raises:
        RequestError: A URL, or a path outside the uploads and `dataset_roots`.
        NotFoundError: There is no such file where one may be.
    """
    _refuse_urls("dataset", name)
    outside = RequestError(
        "dataset: this path is outside the folders that datasets may come from. "
        "Upload the file and give its name, or start the server with FORGE_DATASET_ROOTS set to its folder"
    )
    found = _under_roots(name, (settings.datasets_dir, *settings.dataset_roots), outside)
    for path in found:
        if path.is_file() and not path.name.startswith("."):  # a dot marks an upload that is still coming
            return path
    shown = Path(name).name or name
    raise NotFoundError(f"dataset: there is no dataset {shown!r}; GET /api/datasets lists the uploads")


def base_model(settings: ServerSettings, name: str) -> str:
    """What `model_name` means in a recipe: a Hub id as it is, a shipped model as it is, a local path resolved.

    Raises:
        RequestError: A URL, a path outside `model_roots`, or neither a path nor a Hub id.
            Or a folder that holds no model.
        NotFoundError: There is no such folder under the roots.
    """
    if name in settings.package_models:
        return name
    _refuse_urls("model_name", name)
    looks_local = name.startswith(("/", ".", "~", "\\")) or name.count("/") > 1
    if not looks_local and _HUB_ID.fullmatch(name) and not _in_checkout(settings, name):
        return name
    outside = RequestError(
        "model_name: this is neither a Hub id (owner/name) nor a path under the folders that models may come from. "
        "Start the server with FORGE_MODEL_ROOTS set to the model's folder"
    )
    for path in _under_roots(name, settings.model_roots, outside):
        if path.is_dir():
            _check_holds_model(path)
            return str(path)
    raise NotFoundError(
        f"model_name: there is no model {Path(name).name!r} under the folders that models may come from"
    )


def _check_holds_model(path: Path) -> None:
    if (path / "config.json").is_file():
        return
    what = "holds an adapter, no whole model; merge it into its base model first, and name the merged folder"
    if not (path / "adapter_config.json").is_file():
        what = "holds no model (no config.json); name the folder that save_pretrained wrote the model into"
    raise RequestError(f"model_name: the folder {path.name!r} {what}")


def _in_checkout(settings: ServerSettings, name: str) -> bool:
    """Whether the run, which works in the checkout, would take a Hub id for one of the checkout's folders."""
    return (settings.checkout / name).exists()


def _refuse_urls(field: str, name: str) -> None:
    if "://" in name or re.match(r"(data|file|https?|ftp|s3|gs|hf|package):", name, re.IGNORECASE):
        raise RequestError(f"{field}: URLs and other schemes are not fetched by this server; give a name or a path")
    if "\0" in name:
        raise RequestError(f"{field}: holds a NUL character")
    if any(len(part.encode()) > _LONGEST for part in name.split("/")):
        raise RequestError(f"{field}: a part of this name has more than {_LONGEST} bytes, and no file can have it")


def _under_roots(name: str, roots: tuple[Path, ...], outside: RequestError) -> list[Path]:
    """Candidates for `name`, each inside its root after symbolic links; raises `outside` when there is none."""
    given = Path(name)
    found = []
    for root in roots:
        try:
            real_root = root.resolve()
            real = (given if given.is_absolute() else root / given).resolve()
        except (OSError, RuntimeError):  # a name too long for the file system, or a loop of links
            continue
        if real.is_relative_to(real_root):
            found.append(real)
    if not found:
        raise outside
    return found
