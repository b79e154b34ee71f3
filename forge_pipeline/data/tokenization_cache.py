"""Tokenized datasets by what they follow from, so that a changed learning rate tokenizes nothing again.

The key is a digest over the raw dataset, the tokenizer, the chat template, the recipe's
settings that matter and the code that reads them. An entry is a directory that appears
all at once; two processes that make the same one end with one of the two, which are equal.
"""

import hashlib
import shutil
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline.data.artifacts import TokenizedDataset
from forge_pipeline.data.packing import packing_strategy
from forge_pipeline.errors import IntegrityError
from forge_pipeline.integrity import Digest, json_digest
from forge_pipeline.integrity.atomic import publishing, write_file
from forge_pipeline.integrity.in_use import hold

if TYPE_CHECKING:
    from forge_pipeline.config import ForgeConfig

# The modules that decide what becomes of a row, and the packages that render, encode and write it.
TOKENIZATION_MODULES = (
    "chat_mask",
    "chat_template",
    "columns",
    "encoding_workers",
    "examples",
    "messages",
    "packing",
    "row_encoding",
    "schemas",
    "special_tokens",
    "splits",
    "tallies",
    "task_encoding",
    "task_layouts",
    "task_rows",
    "token_batches",
    "token_spool",
    "tokenization",
)
_PACKAGES = ("jinja2", "pyarrow", "tokenizers", "transformers")
_DIGEST_FILE = "digest"


def tokenization_settings(config: "ForgeConfig") -> dict[str, Any]:
    """The settings of a recipe that tokenization reads: equal settings and equal rows give equal tokens.

    ``rows`` is what happens to rows; ``tokenizer`` is which tokenizer and chat template they go through. A template
    file counts by its content.
    """
    training, model = config.training, config.model
    supervised = training.trainer_type in ("sft", "pretraining")
    return {
        "rows": {
            "trainer_type": training.trainer_type,
            "task": model.task,
            "doc_stride": training.doc_stride if model.task == "extractive-question-answering" else None,
            "summary_max_length": training.summary_max_length if model.task == "summarization" else None,
            "max_length": model.max_length,
            "packing_strategy": packing_strategy(config),
            "assistant_only_loss": training.assistant_only_loss if supervised else None,
            "completion_only_loss": training.completion_only_loss if supervised else None,
            "add_eos": config.data.add_eos if supervised else None,
            "shuffle_seed": training.seed if config.data.shuffle else None,
        },
        "tokenizer": {
            "name_or_path": model.name_or_path,
            "revision": model.revision,
            "trust_remote_code": model.trust_remote_code,
            "chat_template": _template_text(model.chat_template),
        },
    }


def tokenization_code() -> Digest:
    """Digest of the source of the modules that tokenize, and of the versions of what they call."""
    return _code()


def tokenization_key(
    config: "ForgeConfig", dataset_digest: Digest, tokenizer_digest: Digest, chat_template_digest: Digest | None = None
) -> Digest:
    """What a tokenized dataset follows from, as one digest.

    Args:
        dataset_digest: Of the raw dataset.
        tokenizer_digest: As `tokenizer_digest(tokenizer)` gives it; it does not cover the chat template.
        chat_template_digest: Of the template that conversations go through; None for rows in standard format.
    """
    return json_digest(
        {
            "settings": tokenization_settings(config)["rows"],
            "dataset": dataset_digest,
            "tokenizer": tokenizer_digest,
            "chat_template": chat_template_digest,
            "code": tokenization_code(),
        }
    )


class TokenizationCache:
    """Tokenized datasets under one directory, by key."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def holds(self, key: Digest) -> bool:
        """Whether there is such an entry. One that is there stays until this process ends."""
        if self._entry(key).is_dir():
            hold(self._entry(key))
        return self._entry(key).is_dir()

    def keep(self, key: Digest, dataset: TokenizedDataset) -> None:
        """Store a copy of a dataset. An entry that is there already stays: it is equal."""
        try:
            with publishing(self._entry(key)) as staging:
                shutil.copytree(dataset.path, staging / "dataset")
                write_file(staging / _DIGEST_FILE, str(dataset.digest).encode())
        except OSError:
            # Another process was faster: a directory with something in it cannot be replaced.
            if not self.holds(key):
                raise

    def copy(self, key: Digest, output_dir: Path) -> TokenizedDataset:
        """Write an entry to `output_dir`.

        Raises:
            IntegrityError: It was changed after it was made.
            FileExistsError: `output_dir` exists and is not empty.
        """
        entry = self._entry(key)
        with publishing(output_dir) as staging:
            shutil.copytree(entry / "dataset", staging, dirs_exist_ok=True)
        copied = TokenizedDataset.open(output_dir)
        recorded = (entry / _DIGEST_FILE).read_text(encoding="ascii")
        if recorded != copied.digest:
            shutil.rmtree(output_dir)
            raise IntegrityError(
                f"{entry}: expected {recorded}, found {copied.digest}; this tokenized dataset was changed after it "
                "was made. Delete the directory, and it is made again"
            )
        return copied

    def _entry(self, key: Digest) -> Path:
        return self._directory / key.hex[:2] / key.hex


def _template_text(value: str | None) -> str | None:
    """Digest of the recipe's template; of a file, of its content."""
    if value is None:
        return None
    path = Path(value).expanduser()
    is_file = value.endswith((".jinja", ".j2")) and path.is_file()
    return hashlib.sha256(path.read_bytes() if is_file else value.encode()).hexdigest()


@cache
def _code() -> Digest:
    here = Path(__file__).parent
    return json_digest(
        {
            "modules": {name: Digest.of_file(here / f"{name}.py") for name in TOKENIZATION_MODULES},
            "task_inputs": Digest.of_file(here.parent / "task_inputs.py"),
            "packages": {name: _version(name) for name in _PACKAGES},
        }
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
