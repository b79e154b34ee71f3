"""What every section of a recipe shares: frozen, no unknown keys, errors that name the key."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from forge_pipeline.errors import ConfigError

_WORDS = {
    "missing": "is required and missing",
    "extra_forbidden": "is not a key of this section",
}


class Section(BaseModel):
    """A frozen part of a recipe. Unknown keys are errors, so that a typo never passes silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


def config_error(error: ValidationError, *, file: str, root: type[BaseModel]) -> ConfigError:
    """Turn pydantic's findings into one message: file, key path, value found, what was expected, the fix."""
    lines = []
    for finding in error.errors():
        path = ".".join(str(part) for part in finding["loc"]) or "(top level)"
        lines.append(f"{file}: {path}: {_explain(finding, root)}")
    return ConfigError("\n".join(lines))


def _explain(finding: Any, root: type[BaseModel]) -> str:
    kind, value = finding["type"], finding["input"]
    if kind == "missing":
        return f"{_WORDS[kind]}; add the key {finding['loc'][-1]!r}"
    if kind == "extra_forbidden":
        known = sorted(_fields_at(root, finding["loc"][:-1]))
        close = _closest(str(finding["loc"][-1]), known)
        hint = f"did you mean {close!r}? " if close else ""
        return f"{_WORDS[kind]}; {hint}Known keys: {', '.join(known)}"
    message = str(finding["msg"]).removeprefix("Value error, ")
    if isinstance(value, dict):  # a rule over several keys; the whole section would drown the message
        return message
    return f"found {value!r} ({type(value).__name__}). {message}"


def _closest(name: str, known: list[str]) -> str | None:
    import difflib

    matches = difflib.get_close_matches(name, known, n=1)
    return matches[0] if matches else None


def _fields_at(root: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """Field names of the section that `path` leads to."""
    model: Any = root
    for part in path:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part) if hasattr(model, "model_fields") else None
        model = _section_type(field.annotation) if field else None
        if model is None:
            return []
    return list(model.model_fields)


def _section_type(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
