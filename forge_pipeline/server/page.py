"""The studio's files, held in memory: what a browser is sent, under which address and policy.

All files but the page itself are addressed under a digest of the whole tree,
``/static/<tree>/app.js``, so that they can be kept for good and a browser never mixes the
modules of two versions. Modules import each other by relative paths and so stay under the
same digest. The page names that digest and is asked for anew every time, which costs a 304.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

PAGE = "index.html"
_ADDRESS = "{{static}}"  # in the page: where the files lie
_MODULES = "{{modules}}"  # in the page: a preload of each module, so that they come at once and not one by one
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
# What a model or a dataset says is shown as text. Should that ever fail, nothing of it can run, load or call out:
# scripts and styles are files of this server, and no text becomes HTML but through lit-html's own templates.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types lit-html",
    )
)


@dataclass(frozen=True)
class StaticFile:
    """One file as it is sent. `etag` is quoted, the digest of `content`."""

    content: bytes
    media_type: str
    etag: str


@dataclass(frozen=True)
class StaticTree:
    """The page, its files by relative path, and `digest`, which stands in their address: the hex digest of them all."""

    page: StaticFile
    files: Mapping[str, StaticFile]
    digest: str


def load_tree(root: Traversable | None = None) -> StaticTree:
    """Read the package's static files; those of a type that no browser needs (licences, notes) are left out."""
    root = root or files("forge_pipeline.server").joinpath("static")
    found = {path: _static_file(path, content) for path, content in sorted(_walk(root, ""))}
    template = found.pop(PAGE).content.decode()
    parts = "\n".join(f"{path} {file.etag}" for path, file in found.items())
    digest = hashlib.sha256(parts.encode()).hexdigest()[:16]
    address = f"/static/{digest}"
    modules = "\n".join(f'<link rel="modulepreload" href="{address}/{path}">' for path in found if path.endswith(".js"))
    page = template.replace(_MODULES, modules).replace(_ADDRESS, address)
    return StaticTree(_static_file(PAGE, page.encode()), found, digest)


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        elif _suffix(entry.name) in _TYPES:
            yield f"{prefix}{entry.name}", entry.read_bytes()


def _static_file(path: str, content: bytes) -> StaticFile:
    return StaticFile(content, _TYPES[_suffix(path)], f'"{hashlib.sha256(content).hexdigest()}"')


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]
