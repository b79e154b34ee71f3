"""Ask what is not answered yet, and keep each answer as it comes."""

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from forge_pipeline.config.operation import SyntheticSection
from forge_pipeline.errors import ConfigError
from forge_pipeline.integrity import Digest, json_digest
from forge_pipeline.progress import Progress, Report
from forge_pipeline.synthetic.api_teacher import ApiTeacher
from forge_pipeline.synthetic.file_teacher import FileTeacher
from forge_pipeline.synthetic.journal import Journal
from forge_pipeline.synthetic.local_teacher import LocalTeacher
from forge_pipeline.synthetic.prompts import Seeds
from forge_pipeline.synthetic.report import MOST_ERRORS, SyntheticReport, settings_digest
from forge_pipeline.synthetic.requests import Request
from forge_pipeline.synthetic.rows import GENERATOR, as_lines, build_row, merge_equal
from forge_pipeline.synthetic.teachers import Outcome, Teacher

if TYPE_CHECKING:
    from forge_pipeline.config import ForgeConfig

_ENOUGH_TO_JUDGE = 10  # requests


@dataclass(frozen=True)
class Asked:
    """All rows in order as JSONL, the report about them, and every error of this run."""

    lines: bytes
    report: SyntheticReport
    errors: tuple[str, ...]


def ask_all(
    config: "ForgeConfig",
    section: SyntheticSection,
    seeds: Seeds,
    requests: list[Request],
    journal: Journal,
    progress: Report,
) -> Asked:
    """Ask each request that the journal does not answer.

    Where at least ten were made and more than `sanity_failure_rate` of them failed, the rest is not made: something
    is wrong with the teacher, not with a prompt.

    Raises:
        ConfigError: The key or the teacher is missing, or cannot be used as described.
        KeyboardInterrupt: With a note that says where the answers so far are.
    """
    missing = [request for request in requests if request.digest not in journal.rows]
    run = _Run(section, missing)
    identity = None
    if missing:
        teacher = build_teacher(config, section, requests)
        identity = teacher.identity
        try:
            with journal.writing():
                run.ask(teacher, journal, progress)
        except (KeyboardInterrupt, ConfigError) as error:
            kept = f"{journal.kept} of {len(requests)} answers are kept in {journal.path}"
            error.add_note(f"{kept}; run again to go on")
            raise
    rows = merge_equal(requests, journal.rows)
    lines = as_lines(rows)
    failed = {request.number for request in requests if request.digest not in journal.rows}
    answered = sum(request.digest in journal.rows for request in requests)
    report = SyntheticReport(
        generator=GENERATOR,
        teacher=identity,
        settings_digest=settings_digest(section),
        prompts_digest=json_digest(list(seeds.prompts)),
        rows_digest=Digest.of(lines),
        total_prompts=len(seeds.prompts),
        successful=len(seeds.prompts) - len(failed),
        failed=len(failed),
        rows=len(rows),
        duplicates=answered - len(rows),
        truncated=sum(row["synthetic"].get("finish_reason") == "length" for row in rows),
        samples_per_prompt=section.samples_per_prompt,
        not_asked=len(missing) - run.done,
        repeated_seeds=seeds.repeats,
        skipped_seeds=seeds.skipped,
        errors=run.errors[:MOST_ERRORS],
    )
    return Asked(lines, report, run.errors)


def build_teacher(config: "ForgeConfig", section: SyntheticSection, requests: list[Request]) -> Teacher:
    """The teacher that the recipe names.

    Raises:
        ConfigError: It cannot be used as described.
        ModelError: The local model cannot be loaded.
    """
    if section.teacher_backend == "api":
        return ApiTeacher(section, _api_key(section))
    if section.teacher_backend == "local":
        return LocalTeacher(config, section, requests)
    return FileTeacher(section)


def _api_key(section: SyntheticSection) -> str | None:
    if section.api_key_env is None:
        return section.api_key
    key = os.environ.get(section.api_key_env)
    if not key:
        raise ConfigError(f"synthetic.api_key_env: the environment variable {section.api_key_env} is not set")
    return key


@dataclass
class _Run:
    """The requests of one run, and how they fare."""

    section: SyntheticSection
    missing: list[Request]
    done: int = 0
    _failures: list[Outcome] = field(default_factory=list)

    def ask(self, teacher: Teacher, journal: Journal, progress: Report) -> None:
        # Closed at once when something goes wrong here, and not when the garbage collector comes by.
        with closing(teacher.answers(self._while_it_goes_well())) as batches:
            for outcomes in batches:
                journal.append(
                    build_row(self.section, teacher.identity, outcome) for outcome in outcomes if outcome.text
                )
                self.done += len(outcomes)
                self._failures += [outcome for outcome in outcomes if outcome.error]
                words = f"{self.done - len(self._failures)} answered, {len(self._failures)} failed"
                progress(Progress("synthetic", self.done, len(self.missing), words))

    @property
    def errors(self) -> tuple[str, ...]:
        """In the order of the prompts, whatever the order of the answers."""
        failures = sorted(self._failures, key=lambda outcome: outcome.request.position)
        errors = [f"{self._name(outcome.request)}: {outcome.error}" for outcome in failures]
        if self._too_many:
            errors.append(
                f"stopped after {self.done} of {len(self.missing)} requests: {len(failures)} failed, more than "
                f"synthetic.sanity_failure_rate ({self.section.sanity_failure_rate:.0%}) allows"
            )
        return tuple(errors)

    def _while_it_goes_well(self) -> Iterator[Request]:
        for request in self.missing:
            if self._too_many:
                return
            yield request

    @property
    def _too_many(self) -> bool:
        enough = _ENOUGH_TO_JUDGE <= self.done < len(self.missing)
        return enough and len(self._failures) > self.section.sanity_failure_rate * self.done

    def _name(self, request: Request) -> str:
        sample = f", sample {request.sample + 1}" if self.section.samples_per_prompt > 1 else ""
        return f"prompt {request.number}{sample}"
