"""The prompts to ask: from the recipe and from a file, each once, in order."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forge_pipeline.config.operation import SyntheticSection
from forge_pipeline.data.reading import ReadRow, read_rows
from forge_pipeline.errors import ConfigError, DataError

PROMPT_COLUMNS = ("prompt", "instruction", "question", "text", "input")
ANSWER_COLUMNS = ("response", "completion", "answer", "output")


@dataclass(frozen=True)
class Seeds:
    """What is asked.

    Attributes:
        prompts: Each once, in the order of the recipe and then of the file.
        repeats: Prompts left out because they stand there already.
        skipped: Rows of the file left out because they are broken or hold no prompt.
    """

    prompts: tuple[str, ...]
    repeats: int
    skipped: int


def read_seeds(section: SyntheticSection) -> Seeds:
    """`seed_prompts` and the prompts of `seed_file`, without repeats and blanks.

    Raises:
        ConfigError: The file is missing, or there is no prompt at all.
        DataError: The file is broken as a whole.
    """
    found = [in_unicode(prompt).strip() for prompt in section.seed_prompts]
    skipped = 0
    if section.seed_file:
        in_file = list(_prompts_in(Path(section.seed_file)))
        skipped = sum(prompt is None for prompt in in_file)
        found += [prompt for prompt in in_file if prompt]
        if skipped == len(in_file):
            raise ConfigError(
                f"synthetic.seed_file: {section.seed_file!r} holds no prompts; expected one a line (.txt), "
                f"or rows with one of the columns {', '.join(PROMPT_COLUMNS)}"
            )
    found = [prompt for prompt in found if prompt]
    if not found:
        raise ConfigError("synthetic.seed_prompts: every prompt is blank; write at least one, or name a seed_file")
    prompts = tuple(dict.fromkeys(found))
    return Seeds(prompts, len(found) - len(prompts), skipped)


def _prompts_in(path: Path) -> Iterator[str | None]:
    """The prompts of a file; None for a row without one."""
    if not path.is_file():
        raise ConfigError(f"synthetic.seed_file: there is no file {str(path)!r}")
    if path.suffix.lower() == ".txt":
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from error
        yield from (line.strip() for line in text.split("\n") if line.strip())
        return
    for row in read_rows(path):
        yield first_text(row.values, PROMPT_COLUMNS) if isinstance(row, ReadRow) else None


def rows_in(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a data file that can be read."""
    return (row.values for row in read_rows(path) if isinstance(row, ReadRow))


def first_text(row: Mapping[str, Any], columns: tuple[str, ...]) -> str | None:
    """The first of `columns` that holds text, stripped."""
    texts = (row.get(column) for column in columns)
    return next((in_unicode(text).strip() for text in texts if isinstance(text, str) and text.strip()), None)


def in_unicode(text: str) -> str:
    """The text with a question mark for each lone surrogate, which JSON may spell and UTF-8 may not hold."""
    return text.encode(errors="replace").decode()
