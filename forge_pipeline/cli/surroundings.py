"""What commands take from the environment: read here, once, and handed down."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from forge_pipeline.config import ForgeConfig
    from forge_pipeline.erasure import Places, Subject
    from forge_pipeline.integrity import Digest
    from forge_pipeline.models import ModelDirectory
    from forge_pipeline.registry import Registry


def open_registry(environ: Mapping[str, str] = os.environ) -> "Registry":
    """The registry of FORGE_REGISTRY_URL, else of FORGE_DATABASE_URL, else the one under FORGE_HOME."""
    from forge_pipeline.database import registry_url
    from forge_pipeline.models import forge_home
    from forge_pipeline.registry import Registry

    return Registry(registry_url(environ, forge_home()))


def has_registry(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether there is a registry: one that is named, or a file under FORGE_HOME."""
    from forge_pipeline.database import DATABASE_VARIABLE, REGISTRY_VARIABLE
    from forge_pipeline.models import forge_home

    named = any(environ.get(name) for name in (REGISTRY_VARIABLE, DATABASE_VARIABLE))
    return named or (forge_home() / "registry.sqlite").exists()


def line_log(line: str, given: str | None = None) -> Path:
    """The directory of a line's audit log: the option, else the one under FORGE_HOME."""
    from forge_pipeline.models import forge_home

    return Path(given) if given else forge_home().resolve() / "audit_log" / line


def recover_lines(registry: "Registry", lines: "Sequence[str]" = (), log: str | None = None) -> None:
    """Put right what a crash left between the registry and the logs of `lines`, of every request, and of FORGE_HOME.

    What cannot be put right here, for want of the log or of its keys, is said and left.
    """
    from forge_pipeline.audit_log import LOG_FILE
    from forge_pipeline.errors import ForgeError
    from forge_pipeline.release import recover

    found = {line_log(line, log) for line in lines}
    found |= {Path(request.log_directory) for request in registry.approval_requests()}
    found |= {path.parent for path in line_log("").glob(f"*/{LOG_FILE}")}
    for directory in sorted(each for each in found if (each / LOG_FILE).is_file()):
        try:
            for done in recover(registry, directory):
                print(f"{done.what} after a crash: {done.event} of {done.subject}", file=sys.stderr)
        except ForgeError as error:
            print(f"forge: {directory}: not checked for what a crash left: {error}", file=sys.stderr)


def approver_key(given: str | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The PEM file that decisions are signed with: the option, then FORGE_APPROVER_KEY."""
    name = given or environ.get("FORGE_APPROVER_KEY")
    return Path(name) if name else None


def recipe_for(model: "ModelDirectory", path: str | None) -> "ForgeConfig":
    """The recipe at `path`, or as much of one as the model's record holds: enough to load it."""
    from forge_pipeline.config import ForgeConfig, load_config

    if path is not None:
        return load_config(path)
    base = model.record.base_model
    return ForgeConfig(
        name="model",
        model={"name_or_path": base.name_or_path, "revision": base.revision_resolved, "load_in_4bit": False},
        lora={},
        training={"trainer_type": model.record.trainer_type},
        data={"dataset_name_or_path": "(not read)"},
    )


def add_subject_options(parser: "ArgumentParser", *, optional: bool = False) -> None:
    """Who is meant."""
    words = "an e-mail address, phone number, IBAN or name; - reads it from stdin, so that no shell history keeps it"
    parser.add_argument("identifier", help=words, **({"nargs": "?"} if optional else {}))  # type: ignore[arg-type]
    parser.add_argument("--kind", choices=["email", "phone", "iban", "words"], help="what it is; else found out")
    parser.add_argument("--region", metavar="CC", help="where a phone number without country code is dialled, as DE")


def add_place_options(parser: "ArgumentParser", *, with_recipes: bool = True) -> None:
    """Where things are."""
    parser.add_argument("--home", metavar="DIR", help="FORGE_HOME; else the variable, else .forge")
    parser.add_argument("--run-dir", action="append", default=[], metavar="DIR", help="an output_dir of `forge train`")
    if with_recipes:
        parser.add_argument(
            "--recipe", action="append", default=[], metavar="FILE", help="look in what this recipe names too"
        )


def given_subject(args: "Namespace", stdin: "TextIO | None" = None) -> "Subject":
    """The identifier of the command line, or the first line of stdin.

    Raises:
        ConfigError: There is none.
    """
    from forge_pipeline.erasure import Subject
    from forge_pipeline.errors import ConfigError

    given: str | None = args.identifier
    if given == "-":
        given = (stdin or sys.stdin).readline()
    if not given or not given.strip():
        raise ConfigError("no identifier; name the person, or - and write it to stdin")
    return Subject.parse(given, kind=args.kind, region=args.region)


def given_places(
    args: "Namespace",
    *,
    recipes: "Sequence[ForgeConfig] | None" = None,
    corpora: "Sequence[str] | None" = None,
    environ: Mapping[str, str] = os.environ,
) -> "Places":
    """FORGE_HOME, its store, and what the options name.

    Args:
        recipes: Instead of those that ``--recipe`` names.
        corpora: Instead of those that ``--corpus`` names.

    Raises:
        ConfigError: A recipe does not load, or FORGE_HOME is not there.
    """
    from forge_pipeline.config import load_config
    from forge_pipeline.erasure import Places
    from forge_pipeline.errors import ConfigError
    from forge_pipeline.models import forge_home

    home = Path(args.home) if args.home else forge_home()
    if not home.is_dir():
        raise ConfigError(f"{home}: there is no such FORGE_HOME; name it with --home")
    store = environ.get("FORGE_STORE", "")
    found = Places.of(
        home,
        recipes=[load_config(name) for name in args.recipe] if recipes is None else recipes,
        corpora=[Path(name) for name in (args.corpus if corpora is None else corpora)],
        runs=[Path(name) for name in args.run_dir],
        store=Path(store) if store and "://" not in store else None,
    )
    if "://" in store:
        return replace(
            found, elsewhere=(*found.elsewhere, (redacted_store(store), "a remote store; only its local cache"))
        )
    return found


def redacted_store(url: str) -> str:
    """A store's URL without credentials and query."""
    from forge_pipeline.data.sources import recorded_url

    return recorded_url(url)


def registered_releases(home: Path, environ: Mapping[str, str] = os.environ) -> "tuple[Digest, ...]":
    """The models that the registry calls, or called, released; none where there is no registry yet."""
    from forge_pipeline.database import registry_url
    from forge_pipeline.registry import Registry

    url = registry_url(environ, home)
    if url == registry_url({}, home) and not (home / "registry.sqlite").is_file():
        return ()
    registry = Registry(url)
    try:
        return tuple(row.uid for row in registry.list_models() if row.stage in ("released", "archived"))
    finally:
        registry.close()
