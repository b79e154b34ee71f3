"""Models in memory: at most so many, at most so many bytes, the least recently used given up first.

Adapters over the same weights share one copy (`models.shared_base`), and with its adapter off an adapter's model is
its base model. A model is opened by its recorded digest: if its files have changed since it was registered, it is
refused. Used by one thread; `count` and `size` may be read by any.
"""

import gc
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from forge_pipeline.config import ForgeConfig, load_config
from forge_pipeline.errors import IntegrityError, StoreError
from forge_pipeline.registry import ModelRow
from forge_pipeline.server.errors import RequestError, UnavailableError
from forge_pipeline.server.settings import ServerSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from forge_pipeline.models import ModelDirectory
    from forge_pipeline.models.directory import ModelRecord
    from forge_pipeline.models.shared_base import SharedBase, Weights, WeightsKey

Kind = Literal["text", "summary", "span", "reward"]


@dataclass(frozen=True)
class Loaded:
    """A model in memory. `chats`: whether a chat template rendered the rows that it learnt from."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    recipe: ForgeConfig
    kind: Kind
    chats: bool


@dataclass(frozen=True)
class _Entry:
    """What is needed to let a model speak; `adapter` is None where its weights are all its own."""

    weights: "WeightsKey"
    adapter: str | None
    tokenizer: "PreTrainedTokenizerBase"
    recipe: ForgeConfig
    kind: Kind
    chats: bool


class LoadedModels:
    """Entries by name, least recently used first, over weights that they share.

    Attributes:
        loads: How often weights were read from disk.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._weights: dict[WeightsKey, SharedBase] = {}
        self.loads = 0

    @property
    def count(self) -> int:
        """Models that can speak at once."""
        return len(self._entries)

    @property
    def size(self) -> int:
        """Bytes of their weights."""
        return sum(shared.size for shared in tuple(self._weights.values()))

    @contextmanager
    def lent(self, row: ModelRow, *, base: bool = False) -> Iterator[Loaded]:
        """The model, or its base model, for as long as the block lasts; loaded if it is not there.

        Raises:
            StoreError: The model's files are gone.
            IntegrityError: They were changed.
            RequestError: It is larger than the limit.
            UnavailableError: There is not enough free memory now.
            ModelError: Its base model is gone or changed.
        """
        entry = self._entry(row)
        if base and entry.adapter is None:
            entry = self._base_entry(row, entry)
        with self._weights[entry.weights].speaking(None if base else entry.adapter) as model:
            yield Loaded(model, entry.tokenizer, entry.recipe, entry.kind, entry.chats)

    def drop(self, uid: str) -> None:
        """Give up a model, and its base model where nobody else uses it."""
        for name in (uid, _base_name(uid)):
            self._give_up(name)

    def clear(self) -> None:
        """Give up everything."""
        self._entries.clear()
        self._weights.clear()
        _free()

    def _entry(self, row: ModelRow) -> _Entry:
        name = str(row.uid)
        if name in self._entries and Path(row.path).is_dir():
            self._entries.move_to_end(name)
            return self._entries[name]
        self._give_up(name)
        from forge_pipeline.models.loading import load_saved_tokenizer
        from forge_pipeline.models.shared_base import what_to_load

        directory = _opened(row)
        recipe, record = self._recipe(row, directory), directory.record
        adapter = directory if record.kind == "adapter" else None
        tokenizer = load_saved_tokenizer(directory)
        kind, chats = _kind(record), record.chat_template_digest is not None
        if kind == "text" and not chats:
            tokenizer.chat_template = _plain_template(tokenizer)
        weights = what_to_load(recipe, directory)
        speaker = _adapter_name(name) if adapter else None
        entry = _Entry(weights.key, speaker, tokenizer, recipe, kind, chats)
        return self._add(name, entry, weights, adapter)

    def _base_entry(self, row: ModelRow, tuned: _Entry) -> _Entry:
        """The base model of one all of whose weights were trained, asked as the tuned one is asked."""
        name = _base_name(str(row.uid))
        if name in self._entries:
            self._entries.move_to_end(name)
            return self._entries[name]
        from forge_pipeline.models.loading import load_tokenizer
        from forge_pipeline.models.shared_base import base_to_load

        weights = base_to_load(tuned.recipe, _opened(row))
        tokenizer = load_tokenizer(tuned.recipe)
        tokenizer.chat_template = tuned.tokenizer.chat_template
        entry = _Entry(weights.key, None, tokenizer, tuned.recipe, tuned.kind, tuned.chats)
        return self._add(name, entry, weights, None)

    def _add(self, name: str, entry: _Entry, weights: "Weights", adapter: "ModelDirectory | None") -> _Entry:
        from forge_pipeline.models.shared_base import SharedBase

        there = entry.weights in self._weights
        self._entries[name] = entry  # first, so that making room leaves the weights that it shares
        try:
            self._make_room(name, (0 if there else weights.size()) + (_file_size(adapter.path) if adapter else 0))
        except BaseException:
            del self._entries[name]
            raise
        try:
            if not there:
                self._weights[entry.weights] = SharedBase(weights)
                self.loads += 1
            if adapter and entry.adapter:
                self._weights[entry.weights].add(entry.adapter, adapter)
        except BaseException:
            # What PEFT left half done is nobody's model: the others over these weights are loaded again when asked.
            self._entries = OrderedDict((n, e) for n, e in self._entries.items() if e.weights != entry.weights)
            self._weights.pop(entry.weights, None)
            raise
        return entry

    def _make_room(self, name: str, needed: int) -> None:
        others = [other for other in self._entries if other != name]
        limit = self._settings.playground_memory
        while others and (len(self._entries) > self._settings.playground_models or needed > self._left()):
            self._give_up(others.pop(0))
        if needed <= self._left():
            return
        from forge_pipeline.models.memory import format_memory

        if limit is not None:
            raise RequestError(
                f"This model takes {format_memory(needed)} of memory, and FORGE_PLAYGROUND_MEMORY allows "
                f"{format_memory(limit)} in all"
            )
        raise UnavailableError(
            f"This model takes {format_memory(needed)} of memory, and {format_memory(self._left())} are free now; a "
            "training may hold the rest"
        )

    def _left(self) -> int:
        """Bytes that may still be taken."""
        if self._settings.playground_memory is not None:
            return self._settings.playground_memory - self.size
        from forge_pipeline.models.devices import pick_device
        from forge_pipeline.models.memory import device_memory

        return device_memory(pick_device()).free

    def _give_up(self, name: str) -> None:
        entry = self._entries.pop(name, None)
        if entry is None:
            return
        if not self._used(entry.weights):
            del self._weights[entry.weights]
        elif entry.adapter is not None:
            self._weights[entry.weights].remove(entry.adapter)
        _free()

    def _used(self, weights: "WeightsKey") -> bool:
        return any(entry.weights == weights for entry in self._entries.values())

    def _recipe(self, row: ModelRow, directory: "ModelDirectory") -> ForgeConfig:
        """The job's own recipe; for a model of the pipeline's lines, one that names its base model."""
        stored = self._settings.recipes_dir / f"{row.job_id}.yaml"
        if row.job_id and stored.is_file():
            return load_config(str(stored))
        base = directory.record.base_model
        return ForgeConfig(
            name=row.line,
            model={
                "name_or_path": base.name_or_path,
                "revision": base.revision_resolved,
                "task": directory.record.task,
                "load_in_4bit": False,
            },
            lora={},
            training={},
            data={"dataset_name_or_path": "(none: this recipe only loads a model)"},
        )


def _opened(row: ModelRow) -> "ModelDirectory":
    from forge_pipeline.models import ModelDirectory

    try:
        directory = ModelDirectory.open(row.path)
    except OSError as error:
        raise StoreError(f"the files of model {row.id} are no longer at {row.path}: {error}") from error
    if directory.digest != row.uid:
        raise IntegrityError(f"model {row.id} at {row.path}: expected {row.uid}, found {directory.digest}")
    return directory


def _adapter_name(uid: str) -> str:
    return uid.replace(":", "_")


def _base_name(uid: str) -> str:
    return f"{uid}:base"


def _file_size(directory: Path) -> int:
    """Bytes of an adapter's weights, which are the same in memory: it stays in the precision it was written in."""
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def _free() -> None:
    """Give the memory of what was dropped back now, not at some later collection."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _kind(record: "ModelRecord") -> Kind:
    if record.head == "question-answering":
        return "span"
    if record.head == "sequence-classification":
        return "reward"
    return "summary" if record.task == "summarization" else "text"


def _plain_template(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The texts as they stand, one below the other, begun as this tokenizer begins plain text."""
    begins = tokenizer.bos_token is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return ("{{ bos_token }}" if begins else "") + "{{ messages | map(attribute='content') | join('\n') }}"
