"""`find_released_card`: the model card that a release was decided on, found by the digests in the line's audit log."""

from pathlib import Path

from forge_pipeline.audit_log import read_entries
from forge_pipeline.errors import ConfigError, IntegrityError
from forge_pipeline.integrity import Digest, Manifest
from forge_pipeline.registry import ModelRow

_CARD = "model_card.md"


def find_released_card(row: ModelRow, log: Path) -> Path:
    """``model_card.md`` of the bundle with which `row` was released last.

    Args:
        log: ``audit_log.jsonl`` of the line. Who doubts it verifies it (``forge verify log``); here it only says
            which bundle is meant, whose bytes are then held against the digest.

    Raises:
        ConfigError: The log knows of no release of the model, or the bundle does not lie beside the model.
        IntegrityError: The bundle is not the one that was released, or the log cannot be read.
    """
    hint = f"name the card with --card, as the bundle's {_CARD}"
    releases = [
        each
        for each in (read_entries(log) if log.is_file() else [])
        if each.event == "model.released" and each.data.get("subject") == row.uid
    ]
    if not releases or not isinstance(found := releases[-1].data.get("bundle"), str):
        raise ConfigError(
            f"{log} holds no release of {row.uid}, so there is no bundle to take the model card from; {hint}"
        )
    digest = Digest(found)
    # The store keeps every artefact under its digest: <root>/sha256/<2 hex>/<64 hex>.
    bundle = Path(row.path).parent.parent / digest.hex[:2] / digest.hex
    if not bundle.is_dir():
        raise ConfigError(f"the bundle {digest}, with which {row.uid} was released, is not at {bundle}; {hint}")
    actual = Manifest.of_directory(bundle).digest
    if actual != digest:
        raise IntegrityError(f"{bundle}: expected {digest}, found {actual}; the bundle was changed")
    return bundle / _CARD
