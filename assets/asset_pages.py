"""What Dagster's pages show about a line's assets beside their names.

For who has to judge them: what each proves, what it supports in law, what stops the line there. For who has to read
the code: where it stands, and in which recipe. Both are made from the definitions, so that they cannot go stale.
"""

import inspect
import os
import subprocess
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg

from assets.line import Line
from assets.stage_notes import STAGE_NOTES
from resources.environment import CHECKOUT

SOURCE_URL = "FORGE_SOURCE_URL"
SOURCE_REVISION = "FORGE_SOURCE_REVISION"
_REFERENCES = "dagster/code_references"  # the key that the UI reads

Reference = dg.LocalFileCodeReference | dg.UrlCodeReference


def with_pages(
    line: Line,
    assets: Iterable[dg.AssetsDefinition],
    checks: Iterable[dg.AssetChecksDefinition],
    environ: Mapping[str, str] = os.environ,
) -> list[dg.AssetsDefinition]:
    """The assets with descriptions for auditors and with references to code and recipe."""
    blocking = [spec for each in checks for spec in each.check_specs if spec.blocking]
    link = code_links(environ)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # code references; tests/assets holds what we rely on
        return [_with_page(line, each, blocking, link) for each in assets]


def _with_page(
    line: Line,
    asset: dg.AssetsDefinition,
    blocking: Iterable[dg.AssetCheckSpec],
    link: Callable[[Path, int, str], Reference],
) -> dg.AssetsDefinition:
    function = inspect.unwrap(asset.op.compute_fn.decorated_fn)  # type: ignore[union-attr]  # ours are all decorated
    code = function.__code__  # inspect.getsourcelines would read the file again for every asset of every line
    references = [link(Path(code.co_filename), code.co_firstlineno, "asset")]
    if line.recipe_file:
        references.append(link(line.recipe_file.resolve(), 1, "recipe"))

    def write(spec: dg.AssetSpec) -> dg.AssetSpec:
        own = [check for check in blocking if check.asset_key == spec.key]
        text = describe(spec.description or "", spec.key.path[-1], own)
        value = dg.CodeReferencesMetadataValue(code_references=references)
        return spec.replace_attributes(description=text, metadata={**spec.metadata, _REFERENCES: value})

    return asset.map_asset_specs(write)


def describe(text: str, stage: str, blocking: Iterable[dg.AssetCheckSpec]) -> str:
    """A stage's description as Markdown: its docstring, then what it proves, supports, refuses and is stopped by."""
    note = STAGE_NOTES[stage]
    stops = [f"- `{check.name}`: {check.description}" for check in sorted(blocking, key=lambda check: check.name)]
    parts = [
        text,
        f"**What it proves.** {note.proves}",
        f"**Supports.** {note.supports}. Evidence, not conformity by itself.",
        f"**Refuses.** {note.refuses}" if note.refuses else "",
        "\n".join(["**Stops what comes after it, unless these hold:**", "", *stops]) if stops else "",
    ]
    return "\n\n".join(part for part in parts if part)


def code_links(environ: Mapping[str, str]) -> Callable[[Path, int, str], Reference]:
    """How a file becomes a reference: (file, line number, label) to a page of FORGE_SOURCE_URL, else to the file.

    FORGE_SOURCE_URL is a repository's page on GitHub, GitLab or what shows files at the same addresses. The revision is
    FORGE_SOURCE_REVISION, else the checkout's commit; where neither is known, or a file lies outside the checkout, the
    reference is to the file, as without the variable.
    """
    url = environ.get(SOURCE_URL, "").rstrip("/").removesuffix(".git")
    revision = (environ.get(SOURCE_REVISION) or _commit()) if url else None
    pages = f"{url}/-/blob" if "gitlab" in url else f"{url}/blob"

    def link(file: Path, number: int, label: str) -> Reference:
        if revision and file.is_relative_to(CHECKOUT):
            path = quote(file.relative_to(CHECKOUT).as_posix())
            return dg.UrlCodeReference(url=f"{pages}/{quote(revision)}/{path}#L{number}", label=label)
        return dg.LocalFileCodeReference(file_path=str(file), line_number=number, label=label)

    return link


@cache
def _commit() -> str | None:
    """The checkout's commit; None without git, or where this is no checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", str(CHECKOUT), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def references_of(metadata: Mapping[str, Any]) -> list[Reference]:
    """The references in an asset's metadata, in order."""
    value = metadata.get(_REFERENCES)
    return list(value.code_references) if isinstance(value, dg.CodeReferencesMetadataValue) else []
