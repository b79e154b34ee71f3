"""The prompts to ask: from the recipe and from a file, each once, in order."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from forge_pipeline.config.operation import SyntheticSection
from forge_pipeline.data.reading import ReadRow, read_rows
from forge_pipeline.errors import ConfigError

PROMPT_COLUMNS = ("prompt", "instruction", "question", "text", "input")
ANSWER_COLUMNS = ("response", "completion", "answer", "output")


def seed_prompts(section: SyntheticSection) -> list[str]:
    """`seed_prompts` and the prompts of `seed_file`, without repeats and blanks.

    Raises:
        ConfigError: The file is missing, or holds no prompt.
        DataError: The file is broken as a whole.
    """
    prompts = [prompt.strip() for prompt in section.seed_prompts]
    if section.seed_file:
        found = list(_prompts_in(Path(section.seed_file)))
        if not found:
            raise ConfigError(
                f"synthetic.seed_file: {section.seed_file!r} holds no prompts; expected one a line (.txt), "
                f"or rows with one of the columns {', '.join(PROMPT_COLUMNS)}"
            )
        prompts += found
    return [prompt for prompt in dict.fromkeys(prompts) if prompt]


def _prompts_in(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise ConfigError(f"synthetic.seed_file: there is no file {str(path)!r}")
    if path.suffix.lower() == ".txt":
        yield from (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
        return
    for row in rows_in(path):
        prompt = first_text(row, PROMPT_COLUMNS)
        if prompt:
            yield prompt


def rows_in(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a data file that can be read."""
    return (row.values for row in read_rows(path) if isinstance(row, ReadRow))


def first_text(row: Mapping[str, Any], columns: tuple[str, ...]) -> str | None:
    """The first of `columns` that holds text, stripped."""
    texts = (row.get(column) for column in columns)
    return next((text.strip() for text in texts if isinstance(text, str) and text.strip()), None)
