"""Absolute paths of this machine, taken out of words that leave it.

Replies, job logs and events say what happened; where things lie on the server's disk is nobody's business who
only has a key. A path keeps its last part (``/home/ann/forge/data/rows.jsonl`` -> ``.../rows.jsonl``), which is
what a person needs to know which file is meant. Paths of this API, URLs and relative paths stay as they are.
"""

import re

_OWN = r"(?:api|v1|ws|docs|metrics|static|openapi\.json)(?![\w-])"
_TOPS = (
    "Users|Volumes|app|bin|boot|content|data|dev|etc|home|lib|lib64|media|mnt|nix|opt|private|proc|root|run|sbin|srv|"
    "sys|tmp|usr|var|work|workspace"
)
_PART = r"[^\s/'\"`<>()\[\]{},;|:*?]+"
# A quoted path may hold blanks; the one of a file or database URL follows its scheme.
_QUOTED = re.compile(rf"""(?P<quote>['"`])(?:(?:file|sqlite):/{{2,4}}|/(?!/|{_OWN}))(?P<rest>[^'"`\n]*)(?P=quote)""")
_URL = re.compile(rf"\b(?:file|sqlite(?:\+\w+)?):/{{2,4}}(?P<rest>{_PART}(?:/{_PART})*)")
_POSIX = re.compile(rf"(?<![\w./:@%~-])~?/(?!{_OWN})(?:(?:{_TOPS})(?![\w.-])/?|{_PART}/)(?:{_PART}/)*(?:{_PART})?")
_WINDOWS = re.compile(r"(?<!\w)(?:[A-Za-z]:|\\)\\[^\s'\"`<>|?*:,;]+")


def without_paths(text: str) -> str:
    """`text` with every absolute path of a file system shortened to its last part."""
    if "/" not in text and "\\" not in text:
        return text
    text = _QUOTED.sub(lambda found: f"{found['quote']}{_last(found['rest'])}{found['quote']}", text)
    text = _URL.sub(lambda found: _last(found["rest"]), text)
    text = _POSIX.sub(lambda found: _last(found[0]), text)
    return _WINDOWS.sub(lambda found: _last(found[0]), text)


def _last(path: str) -> str:
    parts = [part for part in re.split(r"[/\\]", path) if part]
    name = parts[-1].rstrip(".") if len(parts) > 1 else ""
    return f".../{name}" if name else "..."
