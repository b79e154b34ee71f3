"""A start body without a start: every wrong field at once, the rows' errors, memory and time.

A start stops at the first thing that is wrong; here each of its checks is made that can be made. What is looked at
is what a start looks at, by the same functions, so that `valid` means that a start would be accepted.
"""

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from forge_pipeline.errors import DataError, ForgeError
from forge_pipeline.registry import Registry
from forge_pipeline.server import availability, places, recipes, row_schemas
from forge_pipeline.server.estimates import Estimator
from forge_pipeline.server.jobs import JobTable
from forge_pipeline.server.redaction import without_paths
from forge_pipeline.server.schemas import StartTraining, Strategy, Task
from forge_pipeline.server.settings import ServerSettings
from forge_pipeline.server.validation_schemas import DatasetCheck, FieldProblem, Validated

_REPORTS = 32  # of files that were read lately
_REQUIRED = ("task", "model_name", "dataset")


class Validator:
    """Checks start bodies. Safe to share between threads."""

    def __init__(self, settings: ServerSettings, registry: Registry, jobs: JobTable) -> None:
        self._settings = settings
        self._estimator = Estimator(settings, registry, jobs)
        self._lock = threading.Lock()
        self._reports: dict[tuple[object, ...], row_schemas.FileReport] = {}

    def validate(self, body: Mapping[str, Any], *, exact: bool = False) -> Validated:
        """Look at a start body.

        Args:
            exact: Simulate the training step where there is a formula that is faster and rougher.
        """
        start, problems = _parse(body)
        dataset, report, found = self._dataset(body, start)
        problems += found
        recipe = None
        if start is not None:
            recipe, found = self._recipe(start, dataset, report)
            problems += found
        estimate, notes = None, list[str]()
        if start is not None and recipe is not None:
            estimate, notes = self._estimator.estimate(start, recipe, dataset, report, exact=exact)
        check = None
        if report is not None:
            errors = [without_paths(each) for each in report.errors]
            check = DatasetCheck(num_examples=report.rows, row_schema=report.schema, errors=errors)
        return Validated(valid=not problems, errors=problems, dataset=check, estimate=estimate, notes=notes)

    def _recipe(
        self, start: StartTraining, dataset: Path | None, report: row_schemas.FileReport | None
    ) -> tuple[dict[str, Any] | None, list[FieldProblem]]:
        """The recipe that a start would run, as far as there is one, and what is in its way."""
        problems: list[FieldProblem] = []
        base_model: str | None = None
        try:
            availability.check_runnable(start, self._settings.unsloth_python)
        except ForgeError as error:
            problems.append(_problem(error))
        try:
            base_model = places.base_model(self._settings, start.model_name)
        except ForgeError as error:
            problems.append(_problem(error, "model_name"))
        if base_model is None:
            return None, problems
        try:
            recipes.check_placeable(start, report.schema if report else None)
            rows = dataset or self._settings.datasets_dir / "rows.jsonl"  # the estimate reads no row
            return recipes.build_recipe(start, job_id="train_0", base_model=base_model, dataset=rows), problems
        except ForgeError as error:
            return None, [*problems, _problem(error)]

    def _dataset(
        self, body: Mapping[str, Any], start: StartTraining | None
    ) -> tuple[Path | None, row_schemas.FileReport | None, list[FieldProblem]]:
        """The rows, as far as the body says which ones and for what."""
        name = start.dataset if start else body.get("dataset")
        if not isinstance(name, str) or not name.strip():
            return None, None, []
        try:
            path = places.dataset_file(self._settings, name.strip())
            report = self._report(path, _accepted(body, start))
        except (ForgeError, OSError) as error:
            return None, None, [_problem(error, "dataset")]
        return path, report, list(_row_problems(path, report))

    def _report(self, path: Path, schemas: tuple[str, ...]) -> row_schemas.FileReport:
        """What a file holds. A file that was read before and has not been touched since is not read again."""
        stat = path.stat()
        key = (path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, schemas)
        with self._lock:
            if key in self._reports:
                return self._reports[key]
        try:
            report = row_schemas.inspect_file(path, schemas)
        except UnicodeDecodeError as error:
            raise DataError(f"{path.name} is not UTF-8: {error.reason}. Save it as UTF-8") from error
        with self._lock:
            while len(self._reports) >= _REPORTS:
                self._reports.pop(next(iter(self._reports)))
            self._reports[key] = report
        return report


def _parse(body: Mapping[str, Any]) -> tuple[StartTraining | None, list[FieldProblem]]:
    """The start body, without the optional fields that are wrong; None where a required one is, or fields disagree."""
    try:
        return StartTraining.model_validate(body), []
    except ValidationError as error:
        problems = [_finding(finding) for finding in error.errors()]
    fields = {problem.field.partition(".")[0] for problem in problems}
    if "" in fields or fields & set(_REQUIRED):
        return None, problems
    try:
        return StartTraining.model_validate({key: value for key, value in body.items() if key not in fields}), problems
    except ValidationError as error:
        return None, problems + [_finding(finding) for finding in error.errors()]


def _finding(finding: Any) -> FieldProblem:
    field = ".".join(map(str, finding["loc"]))
    words = {"missing": "is required and missing", "extra_forbidden": "is not a field of this request"}
    message = words.get(finding["type"]) or str(finding["msg"]).removeprefix("Value error, ")
    return FieldProblem(field=field, message=message)


def _accepted(body: Mapping[str, Any], start: StartTraining | None) -> tuple[str, ...]:
    """The schemas that the body's task and strategy learn from; all of them while they are not known."""
    task, strategy = (start.task, start.strategy) if start else (body.get("task"), body.get("strategy", "sft"))
    if task in get_args(Task) and strategy in get_args(Strategy):
        return row_schemas.accepted(str(task), str(strategy))
    return tuple(row_schemas.SCHEMAS)


def _row_problems(path: Path, report: row_schemas.FileReport) -> Iterator[FieldProblem]:
    if report.errors:
        more = f" (and {report.error_count - 1} more lines)" if report.error_count > 1 else ""
        yield FieldProblem(field="dataset", message=f"{path.name}: {report.errors[0]}{more}")
    elif report.rows < row_schemas.MIN_ROWS:
        words = f"{path.name} has {report.rows} rows; training needs at least {row_schemas.MIN_ROWS}"
        yield FieldProblem(field="dataset", message=words)


def _problem(error: Exception, field: str = "") -> FieldProblem:
    """An error's words under the field that they begin with, or under `field`."""
    words = without_paths(str(error))
    named, colon, rest = words.partition(": ")
    if colon and named in StartTraining.model_fields:
        return FieldProblem(field=named, message=rest)
    for name in ("provider", "strategy", "task"):  # as `availability` begins its sentences
        if words.startswith(f"{name} '"):
            return FieldProblem(field=name, message=words)
    return FieldProblem(field=field, message=words)
