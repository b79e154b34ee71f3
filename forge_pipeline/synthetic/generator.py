"""`SyntheticDataGenerator`: ask the teacher each prompt once, and write what it said with where it came from.

Answers are appended to ``<output>.partial`` and made durable one by one; when all
prompts were asked, the output appears all at once, rows in the order of the prompts. A
second run skips what is answered already, whether the first one ended or was killed.
Two runs into one output at a time are not supported.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline._version import __version__
from forge_pipeline.config.operation import SyntheticSection
from forge_pipeline.errors import ConfigError, DataError
from forge_pipeline.integrity import atomic, json_digest
from forge_pipeline.progress import Progress, Report, silent
from forge_pipeline.synthetic.prompts import seed_prompts
from forge_pipeline.synthetic.teachers import Teacher, TeacherError, build_teacher, conversation

if TYPE_CHECKING:
    from forge_pipeline.config import ForgeConfig

_ENOUGH_TO_JUDGE = 10  # answers

Row = dict[str, Any]


@dataclass(frozen=True)
class SyntheticResult:
    """What came of the prompts.

    Attributes:
        total_prompts: Different prompts in the recipe.
        successful: Those that are answered in the output now, earlier runs included.
        failed: Those that are not.
        output_file: The JSONL file.
        duration_seconds: Of this run.
        errors: A sentence for each failed prompt, which it names by its number from 1.
    """

    total_prompts: int
    successful: int
    failed: int
    output_file: str
    duration_seconds: float
    errors: tuple[str, ...] = ()

    @property
    def success_rate(self) -> float:
        """Share of the prompts that are answered; 0 where there are none."""
        return self.successful / self.total_prompts if self.total_prompts else 0.0


class SyntheticDataGenerator:
    """Writes training rows with the teacher that `config.synthetic` names. Constructing it loads nothing.

    Raises:
        ConfigError: The recipe has no `synthetic:` section, or does not enable it.
    """

    def __init__(self, config: "ForgeConfig") -> None:
        if config.synthetic is None or not config.synthetic.enabled:
            raise ConfigError("synthetic.enabled is false; set it to true to have a teacher write rows")
        self._config = config
        self._section = config.synthetic

    def generate(self, output_path: str | None = None, *, progress: Report = silent) -> SyntheticResult:
        """Ask every prompt that is not answered yet, and write all answers.

        Where at least ten prompts were asked and more than `sanity_failure_rate` of them failed, the rest is not asked:
        something is wrong with the teacher, not with a prompt.

        Args:
            output_path: JSONL file to write; None takes `output_file` of the recipe.
            progress: Told after each prompt.

        Raises:
            ConfigError: A seed, the key or the teacher is missing, or the output holds other rows.
            DataError: Fewer than `min_success_rate` of the prompts are answered. The answers are kept.
        """
        started = time.monotonic()
        section, output = self._section, Path(output_path or self._section.output_file)
        prompts = seed_prompts(section)
        wanted = {request_digest(section, prompt) for prompt in prompts}
        answered = _answered(output, wanted)
        missing = [prompt for prompt in prompts if request_digest(section, prompt) not in answered]
        errors: list[str] = []
        if missing:
            teacher = build_teacher(self._config, section)
            errors = self._ask(teacher, prompts, missing, output, answered, progress)
        rows = [answered[digest] for prompt in prompts if (digest := request_digest(section, prompt)) in answered]
        _publish(output, rows)
        result = SyntheticResult(
            total_prompts=len(prompts),
            successful=len(rows),
            failed=len(prompts) - len(rows),
            output_file=str(output),
            duration_seconds=round(time.monotonic() - started, 3),
            errors=tuple(errors),
        )
        if result.success_rate < section.min_success_rate:
            raise DataError(
                f"{output}: {result.successful} of {result.total_prompts} prompts are answered, fewer than "
                f"synthetic.min_success_rate ({section.min_success_rate:.0%}). First error: {(errors or ['none'])[0]}. "
                "Run again to ask the others; answers so far are kept"
            )
        return result

    def _ask(
        self,
        teacher: Teacher,
        prompts: list[str],
        missing: list[str],
        output: Path,
        answered: dict[str, Row],
        progress: Report,
    ) -> list[str]:
        """Ask, append each answer to the partial file and to `answered`; return a sentence for each failure."""
        numbers = {prompt: number for number, prompt in enumerate(prompts, start=1)}
        errors: list[str] = []
        partial = _partial(output)
        partial.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_file(partial, _lines(answered.values()))  # without the torn line that a kill may have left
        with partial.open("ab") as file:
            for done, prompt in enumerate(missing, start=1):
                try:
                    row = row_of(self._section, prompt, teacher.answer(prompt))
                except TeacherError as error:
                    errors.append(f"prompt {numbers[prompt]}: {error}")
                else:
                    answered[row["synthetic"]["request_digest"]] = row
                    file.write(_lines([row]))
                    file.flush()
                    os.fsync(file.fileno())
                progress(
                    Progress("synthetic", done, len(missing), f"{done - len(errors)} answered, {len(errors)} failed")
                )
                too_many = len(errors) > self._section.sanity_failure_rate * done
                if too_many and _ENOUGH_TO_JUDGE <= done < len(missing):
                    errors.append(
                        f"stopped after {done} of {len(missing)} prompts: {len(errors)} failed, more than "
                        f"synthetic.sanity_failure_rate ({self._section.sanity_failure_rate:.0%}) allows"
                    )
                    break
        return errors


def request_digest(section: SyntheticSection, prompt: str) -> str:
    """Identity of one request: the prompt, and everything that shapes its answer and its row."""
    return str(
        json_digest(
            {
                "teacher": section.teacher_model,
                "backend": section.teacher_backend,
                "revision": section.teacher_revision,
                "messages": conversation(section, prompt),
                "max_new_tokens": section.max_new_tokens,
                "temperature": section.temperature,
                "format": section.output_format,
            }
        )
    )


def row_of(section: SyntheticSection, prompt: str, answer: str) -> Row:
    """One training row in the recipe's format. The column `synthetic` says where it comes from."""
    messages = [*conversation(section, prompt), {"role": "assistant", "content": answer}]
    system: Row = {"system": section.system_prompt} if section.system_prompt else {}
    rows: dict[str, Row] = {
        "messages": {"messages": messages},
        "instruction": {**system, "instruction": prompt, "input": "", "output": answer},
        "chatml": {"text": "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in messages)},
        "prompt_response": {**system, "prompt": prompt, "response": answer},
    }
    provenance = {
        "teacher": section.teacher_model or section.seed_file,
        "backend": section.teacher_backend,
        "revision": section.teacher_revision,
        "temperature": section.temperature,
        "generator": f"forge-pipeline {__version__}",
        "request_digest": request_digest(section, prompt),
    }
    return {**rows[section.output_format], "synthetic": provenance}


def _partial(output: Path) -> Path:
    return output.with_name(f"{output.name}.partial")


def _answered(output: Path, wanted: set[str]) -> dict[str, Row]:
    """Rows of the output and of an unfinished run, by request digest.

    Raises:
        ConfigError: One of the files holds something else, which writing would destroy.
    """
    found: dict[str, Row] = {}
    for path in (output, _partial(output)):
        lines = path.read_bytes().split(b"\n") if path.is_file() else []
        if path != output:
            lines = lines[:-1]  # a kill may have cut the last line short; a whole line ends with a line feed
        rows = [_row_in(line) for line in lines if line.strip()]
        strangers = sum(row is None or row["synthetic"]["request_digest"] not in wanted for row in rows)
        if strangers:
            raise ConfigError(
                f"synthetic.output_file: {path} holds {strangers} row(s) that this recipe does not ask for, and is "
                "never overwritten; choose another output_file or move it away"
            )
        found |= {row["synthetic"]["request_digest"]: row for row in rows if row}
    return found


def _row_in(line: bytes) -> Row | None:
    """The row in a line that this module wrote, else None."""
    try:
        row: Row = json.loads(line)
        return row if isinstance(row["synthetic"]["request_digest"], str) else None
    except (ValueError, LookupError, TypeError):
        return None


def _lines(rows: Any) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode(errors="replace") + b"\n" for row in rows)


def _publish(output: Path, rows: list[Row]) -> None:
    """Put the finished file in place."""
    atomic.write_file(output, _lines(rows))
    _partial(output).unlink(missing_ok=True)
