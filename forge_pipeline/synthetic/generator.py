"""`SyntheticDataGenerator`: ask the teacher each prompt, and write what it said with where it came from.

Answers are appended to ``<output>.partial`` and made durable as they come; when all
prompts were asked, the output appears all at once, rows in the order of the prompts
whatever the order of the answers, and beside it ``<output>.report.json``. A second run
skips what is answered already, whether the first one ended, was cancelled or was killed.
A run that finds another one at the same output is refused.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from forge_pipeline.config.operation import SyntheticSection
from forge_pipeline.errors import ConfigError
from forge_pipeline.integrity import atomic, write_report
from forge_pipeline.progress import Report, silent
from forge_pipeline.synthetic.asking import ask_all
from forge_pipeline.synthetic.journal import Journal, only_writer
from forge_pipeline.synthetic.prompts import read_seeds
from forge_pipeline.synthetic.report import SyntheticResult, check_success_rate
from forge_pipeline.synthetic.requests import build_requests

if TYPE_CHECKING:
    from forge_pipeline.config import ForgeConfig


class SyntheticDataGenerator:
    """Writes training rows with the teacher that `config.synthetic` names. Constructing it loads nothing.

    Raises:
        ConfigError: The recipe has no `synthetic:` section, or does not enable it.
    """

    def __init__(self, config: "ForgeConfig") -> None:
        self._config, self._section = config, enabled_section(config)

    def generate(self, output_path: str | None = None, *, progress: Report = silent) -> SyntheticResult:
        """Ask every prompt that is not answered yet, and write all answers.

        Args:
            output_path: JSONL file to write; None takes `output_file` of the recipe.
            progress: Told as answers come.

        Raises:
            ConfigError: A seed, the key or the teacher is missing, the output holds other rows, or another run is
                writing it.
            DataError: Fewer than `min_success_rate` of the prompts are answered. The answers are kept.
            KeyboardInterrupt: The answers so far are in ``<output>.partial``; run again to go on.
        """
        started = time.monotonic()
        section, output = self._section, Path(output_path or self._section.output_file)
        seeds = read_seeds(section)
        requests = build_requests(section, seeds.prompts)
        with only_writer(output):
            partial = output.with_name(f"{output.name}.partial")
            journal = Journal(partial, output, {request.digest for request in requests})
            asked = ask_all(self._config, section, seeds, requests, journal, progress)
            report = asked.report
            atomic.write_file(output, asked.lines)
            write_report(report_file(output), report)
            journal.remove()
        check_success_rate(section, report, str(output))
        return SyntheticResult(
            total_prompts=report.total_prompts,
            successful=report.successful,
            failed=report.failed,
            output_file=str(output),
            duration_seconds=round(time.monotonic() - started, 3),
            errors=asked.errors,
            rows=report.rows,
            duplicates=report.duplicates,
            truncated=report.truncated,
        )


def report_file(output: Path) -> Path:
    """Where the `SyntheticReport` about an output lies."""
    return output.with_name(f"{output.name}.report.json")


def enabled_section(config: "ForgeConfig") -> SyntheticSection:
    """The recipe's `synthetic:` section.

    Raises:
        ConfigError: There is none, or it is not enabled.
    """
    if config.synthetic is None or not config.synthetic.enabled:
        raise ConfigError("synthetic.enabled is false; set it to true to have a teacher write rows")
    return config.synthetic
