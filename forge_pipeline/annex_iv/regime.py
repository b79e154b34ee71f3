"""Which text a bundle is written against: one versioned data file per consolidated text.

Dates and thresholds of the law stand in `regimes/<id>.json` and nowhere else. Each
bundle carries the whole file, so an old bundle still says what applied when it was made.
The digests of the points' texts say which wording was meant: SHA-256 over the UTF-8 text of
the point in English, without its number, white space made single, the semicolon or full
stop at its end included.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath

from forge_pipeline.errors import ConfigError
from forge_pipeline.integrity import Digest, loads_strict

CURRENT_REGIME = "02024R1689-20260727"


@dataclass(frozen=True)
class Applies:
    """One date: `what` applies from `applies_from` (ISO date) by `reference`."""

    applies_from: str
    what: str
    reference: str


@dataclass(frozen=True)
class Retention:
    """How long, at least, something is kept."""

    what: str
    least: str
    reference: str


@dataclass(frozen=True)
class GpaiThresholds:
    """The indicative compute thresholds for general-purpose AI models, in FLOP."""

    training_flop: float
    systemic_training_flop: float
    modification_share: float
    estimate_tolerance: float
    reference: str


@dataclass(frozen=True)
class SummaryTemplate:
    """The Commission's template for the public summary of training content.

    Attributes:
        small_text_tokens, large_text_tokens: The bounds of its three sizes of text.
        update_months: How often, at least, a summary is brought up to date.
    """

    template: str
    small_text_tokens: float
    large_text_tokens: float
    update_months: int
    reference: str


@dataclass(frozen=True)
class Regime:
    """A consolidated text of the AI Act, by its CELEX number and date.

    Attributes:
        text_digests: ``IV 1(a)``, ``XI 2(d)``, ... -> digest of that point's text.
    """

    id: str
    title: str
    amended_by: tuple[str, ...]
    dates: tuple[Applies, ...]
    retention: tuple[Retention, ...]
    gpai: GpaiThresholds
    training_content_summary: SummaryTemplate
    text_digests: dict[str, Digest]


@cache
def load_regime(regime_id: str = CURRENT_REGIME) -> Regime:
    """Read a regime that this package ships.

    Raises:
        ConfigError: There is no such regime.
    """
    from pydantic import TypeAdapter

    folder = files("forge_pipeline.annex_iv") / "regimes"
    known = sorted(PurePosixPath(item.name).stem for item in folder.iterdir() if item.name.endswith(".json"))
    if regime_id not in known:
        raise ConfigError(f"regime {regime_id!r} is not known; this version ships {', '.join(known)}")
    return TypeAdapter(Regime).validate_python(loads_strict((folder / f"{regime_id}.json").read_bytes()))
