"""Import a module that an extra provides, or say which pip line provides it."""

from importlib import import_module
from types import ModuleType

from forge_pipeline.errors import OptionalDependencyError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Return the imported `module`.

    Args:
        module: Dotted module name, for example ``lm_eval``.
        extra: The extra of this package that installs it.
        purpose: What cannot be done without it, as the start of a sentence ("Benchmarks").

    Raises:
        OptionalDependencyError: The module, or something that it imports, is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        missing = error.name or module
        raise OptionalDependencyError(
            f"{purpose} need the module {missing!r}, which is not installed. "
            f"Install it with: pip install 'forge-pipeline[{extra}]'"
        ) from error
