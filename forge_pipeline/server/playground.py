"""Generate with a trained model, in this process, one request at a time.

The last `capacity` models stay loaded. A model is opened by its recorded digest: if its
files have changed since it was registered, it is refused.
"""

import secrets
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline.config import ForgeConfig, load_config
from forge_pipeline.errors import IntegrityError, StoreError
from forge_pipeline.registry import ModelRow
from forge_pipeline.server.schemas import Generate, Generated
from forge_pipeline.server.settings import ServerSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from forge_pipeline.models import ModelDirectory

_BUSY_AFTER = 120.0  # seconds a request waits for its turn


class Playground:
    """Loaded models, least recently used first."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._loaded: OrderedDict[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]] = OrderedDict()
        self._turn = threading.Lock()

    def generate(self, row: ModelRow, body: Generate) -> Generated:
        """One continuation of `body.prompt`: as a user's turn where a chat template rendered the rows it learnt from.

        Raises:
            StoreError: The model's files are gone.
            IntegrityError: They were changed.
            UnavailableError: Other requests kept the model busy.
        """
        from forge_pipeline.evaluation.generation import generate
        from forge_pipeline.server.errors import UnavailableError

        if not self._turn.acquire(timeout=_BUSY_AFTER):
            raise UnavailableError("The playground is busy with other requests; try again")
        try:
            model, tokenizer = self._get(row)
            started = time.monotonic()
            (text,) = generate(
                model,
                tokenizer,
                [[{"role": "user", "content": body.prompt}]],
                max_new_tokens=body.max_new_tokens,
                temperature=float(body.temperature),
                top_p=float(body.top_p),
                seed=secrets.randbelow(2**31),
            )
            elapsed = time.monotonic() - started
        finally:
            self._turn.release()
        tokens = len(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else 0
        return Generated(
            generated_text=text,
            tokens_generated=min(tokens, body.max_new_tokens),
            generation_time_ms=round(elapsed * 1000),
        )

    def forget(self, row: ModelRow) -> None:
        """Drop a model that was deleted."""
        with self._turn:
            self._loaded.pop(str(row.uid), None)

    def _get(self, row: ModelRow) -> Any:
        from forge_pipeline.models import ModelDirectory, load_tuned

        uid = str(row.uid)
        if uid in self._loaded and Path(row.path).is_dir():
            self._loaded.move_to_end(uid)
            return self._loaded[uid]
        self._loaded.pop(uid, None)
        try:
            directory = ModelDirectory.open(row.path)
        except OSError as error:
            raise StoreError(f"the files of model {row.id} are no longer at {row.path}: {error}") from error
        if directory.digest != row.uid:
            raise IntegrityError(f"model {row.id} at {row.path}: expected {row.uid}, found {directory.digest}")
        while len(self._loaded) >= self._settings.playground_models:
            self._loaded.popitem(last=False)
        model, tokenizer = load_tuned(self._recipe(row, directory), directory)
        if directory.record.chat_template_digest is None:
            tokenizer.chat_template = _plain_template(tokenizer)
        self._loaded[uid] = model, tokenizer
        return model, tokenizer

    def _recipe(self, row: ModelRow, directory: "ModelDirectory") -> ForgeConfig:
        """The job's own recipe; for a model of the pipeline's lines, one that names its base model."""
        stored = self._settings.recipes_dir / f"{row.job_id}.yaml"
        if row.job_id and stored.is_file():
            return load_config(str(stored))
        base = directory.record.base_model
        return ForgeConfig(
            name=row.line,
            model={"name_or_path": base.name_or_path, "revision": base.revision_resolved, "load_in_4bit": False},
            lora={},
            training={},
            data={"dataset_name_or_path": "(none: this recipe only loads a model)"},
        )


def _plain_template(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The prompt as it stands, begun as this tokenizer begins plain text."""
    begins = tokenizer.bos_token is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return ("{{ bos_token }}" if begins else "") + "{{ messages[-1]['content'] }}"
