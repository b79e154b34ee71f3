"""The stage `synthetic_dataset`: the teacher's rows as an artefact, which ingestion reads as one more source."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from forge_pipeline.data.ingestion import mixed_section
from forge_pipeline.errors import DataError
from forge_pipeline.integrity import REPORT_FILE, Digest, DirectoryArtifact, atomic, read_report, write_report
from forge_pipeline.progress import Report, silent
from forge_pipeline.synthetic.asking import ask_all
from forge_pipeline.synthetic.generator import enabled_section
from forge_pipeline.synthetic.journal import Journal, only_writer
from forge_pipeline.synthetic.prompts import read_seeds
from forge_pipeline.synthetic.report import SyntheticReport, check_success_rate
from forge_pipeline.synthetic.requests import build_requests
from forge_pipeline.synthetic.rows import row_in

if TYPE_CHECKING:
    from forge_pipeline.config import ForgeConfig

ROWS_FILE = "rows.jsonl"


class SyntheticDataset(DirectoryArtifact):
    """Rows that a teacher wrote (``rows.jsonl``) and the report about them (``report.json``)."""

    @property
    def rows_file(self) -> Path:
        return self.path / ROWS_FILE

    @property
    def report(self) -> SyntheticReport:
        return read_report(self.path / REPORT_FILE, SyntheticReport)


def synthesize(
    config: "ForgeConfig", output_dir: Path, *, progress: Report = silent, answers_dir: Path | None = None
) -> SyntheticDataset:
    """Ask every prompt and publish the rows as `output_dir`.

    Args:
        answers_dir: Where the answers wait if this ends early, in a file named after the requests, so that the same
            recipe goes on from there; None: the folder of `output_dir`. The file is removed on success.

    Raises:
        ConfigError: As for `SyntheticDataGenerator`.
        DataError: Fewer than `min_success_rate` of the prompts are answered, none is, or so many failed that the rest
            was not asked. The answers are kept.
        FileExistsError: `output_dir` exists and is not empty.
    """
    section = enabled_section(config)
    mixed_section(config)  # what ingestion would refuse later is refused before a teacher is paid
    seeds = read_seeds(section)
    requests = build_requests(section, seeds.prompts)
    name = Digest.of("\n".join(request.digest for request in requests).encode()).hex[:16]
    waiting = (answers_dir or output_dir.parent) / f"synthetic-{name}.jsonl"
    with only_writer(waiting):
        with atomic.publishing(output_dir) as staging:
            journal = Journal(waiting, None, {request.digest for request in requests})
            asked = ask_all(config, section, seeds, requests, journal, progress)
            report = asked.report
            check_success_rate(section, report, str(waiting))
            if report.not_asked or not report.rows:
                raise DataError(
                    f"{waiting}: {report.successful} of {report.total_prompts} prompts are answered, and the teacher "
                    f"fails: {'; '.join([*asked.errors[:1], *asked.errors[1:][-1:]])}. Run again to go on; answers so "
                    "far are kept"
                )
            atomic.write_file(staging / ROWS_FILE, asked.lines)
            write_report(staging / REPORT_FILE, report)
        journal.remove()
    return SyntheticDataset.open(output_dir)


def account_of(dataset: SyntheticDataset) -> Iterator[str]:
    """What does not add up between the rows and the report; nothing if all is well."""
    report, data = dataset.report, dataset.rows_file.read_bytes()
    lines = data.splitlines()
    if Digest.of(data) != report.rows_digest:
        yield f"rows.jsonl has the digest {Digest.of(data)}, but the report says {report.rows_digest}"
    if len(lines) != report.rows:
        yield f"rows.jsonl holds {len(lines)} rows, but the report says {report.rows}"
    unnamed = sum(row_in(line) is None for line in lines)
    if unnamed:
        yield f"{unnamed} rows do not say where they come from"
    if report.successful + report.failed != report.total_prompts:
        yield f"{report.successful} prompts answered and {report.failed} not, of {report.total_prompts}"
