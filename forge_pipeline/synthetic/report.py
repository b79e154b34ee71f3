"""What came of the prompts: the result for a caller, and the report that lies beside the rows."""

from dataclasses import dataclass

from forge_pipeline.config.operation import SyntheticSection
from forge_pipeline.errors import DataError
from forge_pipeline.integrity import Digest, json_digest
from forge_pipeline.synthetic.rows import GENERATOR
from forge_pipeline.synthetic.teachers import TeacherIdentity

MOST_ERRORS = 100  # in a report
# Keys that say how rows are got, and not which rows.
_NOT_ABOUT_ROWS = {
    "enabled", "api_key", "api_key_env", "api_base", "api_delay", "api_timeout", "concurrency", "output_file",
    "min_success_rate", "sanity_failure_rate", "license", "mix_weight", "seed_file", "seed_prompts",
}  # fmt: skip


@dataclass(frozen=True)
class SyntheticResult:
    """What came of the prompts.

    Attributes:
        total_prompts: Different prompts in the recipe.
        successful: Those that are answered in the output now, with all their samples, earlier runs included.
        failed: Those that are not.
        output_file: The JSONL file.
        duration_seconds: Of this run.
        errors: A sentence for each request that failed in this run, which it names by its prompt's number from 1.
        rows: Rows in the output.
        duplicates: Answers left out because an equal one to the same prompt is there.
        truncated: Rows whose answer was cut off at `max_new_tokens`.
    """

    total_prompts: int
    successful: int
    failed: int
    output_file: str
    duration_seconds: float
    errors: tuple[str, ...] = ()
    rows: int = 0
    duplicates: int = 0
    truncated: int = 0

    @property
    def success_rate(self) -> float:
        """Share of the prompts that are answered; 0 where there are none."""
        return self.successful / self.total_prompts if self.total_prompts else 0.0


@dataclass(frozen=True)
class SyntheticReport:
    """What stands beside the rows. Equal answers give an equal report: it holds no time.

    Attributes:
        generator: Name and version of this library.
        teacher: Who answered in this run; None where nothing was left to ask.
        settings_digest: Of the settings that shape the rows (teacher, format, sampling).
        prompts_digest: Of the prompts, in order.
        rows_digest: Of the rows' file.
        total_prompts, successful, failed, rows, duplicates, truncated: As in `SyntheticResult`.
        samples_per_prompt: Answers asked for each prompt.
        not_asked: Requests that were not made, because too many before them had failed.
        repeated_seeds: Prompts of the seeds that stood there twice.
        skipped_seeds: Rows of the seed file that are broken or hold no prompt.
        errors: The first 100.
    """

    generator: str
    teacher: TeacherIdentity | None
    settings_digest: Digest
    prompts_digest: Digest
    rows_digest: Digest
    total_prompts: int
    successful: int
    failed: int
    rows: int
    duplicates: int
    truncated: int
    samples_per_prompt: int
    not_asked: int = 0
    repeated_seeds: int = 0
    skipped_seeds: int = 0
    errors: tuple[str, ...] = ()

    @property
    def success_rate(self) -> float:
        """Share of the prompts that are answered; 0 where there are none."""
        return self.successful / self.total_prompts if self.total_prompts else 0.0


def settings_digest(section: SyntheticSection) -> Digest:
    """Digest of the settings that shape the rows."""
    return json_digest({"generator": GENERATOR} | section.model_dump(mode="json", exclude=_NOT_ABOUT_ROWS))


def check_success_rate(section: SyntheticSection, report: SyntheticReport, where: str) -> None:
    """Hold the answered prompts against the recipe.

    Args:
        where: Names the answers so far, for the message.

    Raises:
        DataError: Fewer than `min_success_rate` of the prompts are answered.
    """
    if report.success_rate < section.min_success_rate:
        first = report.errors[0] if report.errors else "none"
        raise DataError(
            f"{where}: {report.successful} of {report.total_prompts} prompts are answered, fewer than "
            f"synthetic.min_success_rate ({section.min_success_rate:.0%}). First error: {first}. "
            "Run again to ask the others; answers so far are kept"
        )
