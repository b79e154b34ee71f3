"""A model line: what all assets of one recipe share.

`Line.stage` turns a plain function into the line's asset of that name: key prefix,
group, owners, tags, kinds, a `code_version` made of the recipe sections and source files
that the stage reads (so that an edit marks exactly those stages out of date), and inputs
matched by parameter name.
"""

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg

from assets.freshness import freshness_policy, refresh_condition
from assets.stage_run import as_stage
from forge_pipeline.config import ForgeConfig, config_digest, resolved
from forge_pipeline.dataset_audit import DatasetAudit
from forge_pipeline.evaluation import BenchmarkResult, JudgeReport, SafetyReport, ScorerCalibration
from forge_pipeline.export import GgufModel
from forge_pipeline.integrity import Digest, json_digest
from forge_pipeline.models import ModelDirectory
from resources.failed_stages import failure_hook

STAGES = (
    "recipe",
    "synthetic_dataset",
    "raw_dataset",
    "clean_dataset",
    "dataset_audit_report",
    "tokenized_dataset",
    "fine_tuned_model",
    "benchmark_report",
    "scorer_calibration",
    "safety_report",
    "judge_report",
    "gguf_model",
    "annex_iv_bundle",
    "released_model",
    "published_model",
)
_HANDED_ON = {
    "fine_tuned_model": ModelDirectory,
    "dataset_audit_report": DatasetAudit,
    "benchmark_report": BenchmarkResult,
    "safety_report": SafetyReport,
    "scorer_calibration": ScorerCalibration,
    "judge_report": JudgeReport,
    "gguf_model": GgufModel,
}
_IF_THERE = {
    "judged": ("judge_report",),
    "calibrated": ("scorer_calibration",),
    "optional": ("judge_report", "gguf_model"),
}
OPTIONAL_STAGES = ("synthetic_dataset", "clean_dataset", "scorer_calibration", "judge_report", "published_model")
"""Stages of lines whose recipe asks for them."""


@dataclass(frozen=True)
class Line:
    """One declared recipe, or the partitioned line that serves REST jobs.

    Attributes:
        name: Key prefix and group.
        recipe_file: The YAML file; None for the studio line, whose jobs bring their own.
        config: The recipe as it was when the code location loaded; None as above, or if it is broken.
        partitions: One key per job for the studio line.
        part: Which stage of the recipe's `pipeline` this is; None: the last one, or the only one.
        previous: The part that this one goes on from.
    """

    name: str
    recipe_file: Path | None = None
    config: ForgeConfig | None = None
    partitions: dg.PartitionsDefinition[str] | None = None
    part: str | None = None
    previous: "Line | None" = None

    def parts(self) -> tuple["Line", ...]:
        """The line as a chain: a part for each earlier stage of its recipe's `pipeline`, then the line itself."""
        chain: list[Line] = []
        for stage in self.config.earlier_stages if self.config else ():
            assert self.config is not None
            config = self.config.stage_config(stage.name)
            previous = chain[-1] if chain else None
            chain.append(replace(self, config=config, part=stage.name, previous=previous))
        return (*chain, replace(self, previous=chain[-1] if chain else None))

    def recipe_of(self, recipe: ForgeConfig) -> ForgeConfig:
        """What of the line's recipe this part follows."""
        return recipe.stage_config(self.part) if self.part else recipe

    @property
    def is_measured(self) -> bool:
        """Whether benchmark and safety are measured here: always at the end, earlier where a stage asks for it."""
        if self.part is None or self.config is None:
            return True
        asked = (self.config.evaluation.benchmark, self.config.evaluation.safety)
        return any(section is not None and section.enabled for section in asked)

    @property
    def owners(self) -> tuple[str, ...]:
        return tuple(self.config.owners or ()) if self.config else ()

    @property
    def config_digest(self) -> Digest | None:
        return config_digest(self.config) if self.config else None

    @property
    def dataset_stage(self) -> str:
        """The stage whose rows are audited, tokenized and trained on."""
        return "clean_dataset" if self.config and self.config.data.clean.enabled else "raw_dataset"

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher writes rows for this line."""
        return bool(self.config and self.config.synthetic and self.config.synthetic.enabled)

    @property
    def has_calibration(self) -> bool:
        """Whether the safety scorer is measured on labeled answers, as an asset of its own."""
        safety = self.config.evaluation.safety if self.config else None
        return bool(safety and safety.enabled and safety.calibration is not None)

    @property
    def has_judge(self) -> bool:
        """Whether a judge reads the tuned model's answers."""
        judge = self.config.evaluation.llm_judge if self.config else None
        return bool(judge and judge.enabled)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of this line, in order."""
        asked_for = {
            "synthetic_dataset": self.has_teacher,
            "clean_dataset": self.dataset_stage == "clean_dataset",
            "scorer_calibration": self.has_calibration,
            "judge_report": self.has_judge,
            "gguf_model": self.config is None or self.config.exports_gguf,
            "published_model": bool(self.config and self.config.release.push_to),
        }
        return tuple(stage for stage in STAGES if asked_for.get(stage, True))

    def key(self, stage: str) -> dg.AssetKey:
        return dg.AssetKey([self.name, self.part, stage] if self.part and stage != "recipe" else [self.name, stage])

    def other_lines(self, stage: str) -> list[dg.AssetKey]:
        """What of another line `stage` follows, where the base model is that line's.

        The recipe, which pins the model by its digest, and the first fine-tune, which takes it.
        """
        other = self.config.model.base_line if self.config else None
        if other is None or not (stage == "recipe" or (stage == "fine_tuned_model" and self.previous is None)):
            return []
        assert self.config is not None
        follows = "fine_tuned_model" if self.config.model.allow_unreleased else "released_model"
        return [dg.AssetKey([other.line, follows])]

    def inputs(self, function: Callable[..., Any]) -> dict[str, dg.AssetIn]:
        """Parameters named after a stage take its result; ``dataset`` takes the rows that this line trains on.

        ``**previous`` takes what the part before made, by the names of its stages; ``**judged`` the judge's report,
        ``**calibrated`` the scorer's calibration and ``**optional`` judge's report and GGUF, in lines that have them.
        """
        stages = {**{stage: stage for stage in STAGES}, "dataset": self.dataset_stage}
        parameters = inspect.signature(function).parameters
        found = {name: dg.AssetIn(key=self.key(stages[name])) for name in parameters if name in stages}
        if "previous" in parameters and self.previous:
            measured = ["benchmark_report", "safety_report"] if self.previous.is_measured else []
            measured += ["judge_report"] if self.previous.has_judge else []
            for stage in ("fine_tuned_model", "dataset_audit_report", *measured):  # typed here: ** has one annotation
                found[f"previous_{stage}"] = dg.AssetIn(key=self.previous.key(stage), dagster_type=_HANDED_ON[stage])
        for name, wanted in _IF_THERE.items():
            for stage in wanted if name in parameters else ():
                if stage in self.stages:
                    found[stage] = dg.AssetIn(key=self.key(stage), dagster_type=_HANDED_ON[stage])
        return found

    def stage(
        self,
        *,
        io_manager: str,
        kinds: set[str],
        sections: tuple[str, ...],
        code: Iterable[ModuleType] = (),
        settings: Callable[[ForgeConfig], Any] | None = None,
        pool: str | None = None,
        deps: Iterable[str] = (),
        optional: bool = False,
    ) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
        """Make the decorated function this line's asset of the function's name.

        Args:
            io_manager: Resource key of the typed IO manager.
            sections: Recipe sections that the stage reads.
            code: Packages or modules of the library whose source it runs.
            settings: Of those sections, exactly what the stage reads; None: all of them.
            pool: Concurrency pool; ``accelerator`` for stages that train or generate.
            deps: Stages it follows without reading their result.
            optional: It may end without a materialization.
        """

        def decorate(function: Callable[..., Any]) -> dg.AssetsDefinition:
            config = self.config
            return dg.asset(
                key=self.key(function.__name__),
                ins=self.inputs(function),
                deps=[*(self.key(name) for name in deps), *self.other_lines(function.__name__)],
                group_name=self.name,
                owners=config.owners if config else None,
                tags={"forge/line": self.name, **({"forge/trainer": config.training.trainer_type} if config else {})},
                kinds=kinds,
                code_version=self._code_version(sections, code, settings),
                partitions_def=self.partitions,
                io_manager_key=io_manager,
                pool=pool,
                output_required=not optional,
                description=inspect.getdoc(function),
                freshness_policy=freshness_policy(config, function.__name__) if self.part is None else None,
                automation_condition=refresh_condition(config, function.__name__) if self.part is None else None,
                hooks={failure_hook(self.key(function.__name__), self.owners)},
            )(as_stage(self, function))

        return decorate

    def checks(
        self, stage: str, names: dict[str, str], *, blocking: bool = True
    ) -> Callable[[Callable[..., Any]], dg.AssetChecksDefinition]:
        """Make the decorated generator the asset checks of `stage`.

        Args:
            names: Check name -> what it holds.
        """

        def decorate(function: Callable[..., Any]) -> dg.AssetChecksDefinition:
            ins = self.inputs(function)
            keys = [taken.key for taken in ins.values() if taken.key]
            return dg.multi_asset_check(
                name="__".join(filter(None, [self.name, self.part, function.__name__])),
                specs=[
                    dg.AssetCheckSpec(
                        name,
                        asset=self.key(stage),
                        description=words,
                        blocking=blocking,
                        partitions_def=self.partitions,
                        additional_deps=[key for key in keys if key != self.key(stage)],
                    )
                    for name, words in names.items()
                ],
                ins=ins,
            )(function)

        return decorate

    def _code_version(
        self,
        sections: tuple[str, ...],
        code: Iterable[ModuleType],
        settings: Callable[[ForgeConfig], Any] | None,
    ) -> str:
        values = resolved(self.config) if self.config else {}
        read = {section: values.get(section) for section in sections}
        facts = {
            "recipe": settings(self.config) if settings and self.config else read,
            "code": {module.__name__: _source_digest(module) for module in code},
        }
        return json_digest(facts).hex[:16]


@functools.cache
def _source_digest(module: ModuleType) -> str:
    """Digest of the Python files of a package, or of one module."""
    file = Path(str(module.__file__))
    files = sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
    return json_digest({path.relative_to(file.parent).as_posix(): Digest.of_file(path) for path in files})
