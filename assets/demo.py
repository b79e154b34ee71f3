"""`make demo`: runs the quickstart line as CI would, shows how far it is, and says what was made.

It starts ``dagster asset materialize`` in a child process and reads nothing but what any
reader has: the run's events in the Dagster instance, the progress file, the artefact store.
"""

import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from assets.line import Line
from forge_pipeline.annex_iv import AnnexIvBundle, verify_annex_iv_artifact
from forge_pipeline.audit_log import verify_audit_log
from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import RawDataset, conversation_of
from forge_pipeline.data.held_out import held_out_rows
from forge_pipeline.dataset_audit import DatasetAudit
from forge_pipeline.evaluation import BenchmarkResult, SafetyReport
from forge_pipeline.export import GgufModel, fidelity_gates
from forge_pipeline.gates import GateDecision, Verdict
from forge_pipeline.integrity import REPORT_FILE, Digest, loads_strict, read_report
from forge_pipeline.models import ModelDirectory
from forge_pipeline.progress import figures
from forge_pipeline.training import loss_gate, read_training_report
from resources.environment import CHECKOUT
from resources.home import Home
from resources.store import ArtifactStore

LINE = "quickstart"
_BAR_WIDTH = 58  # characters of words beside a bar
_ON_THE_BAR = ("loss", "tokens_per_second", "memory_bytes", "eta_seconds")
_COLORS = {Verdict.PASSED: "green", Verdict.FAILED: "red", Verdict.NOT_EVALUATED: "yellow"}


def main() -> int:
    console = Console()
    home = Home.from_environment()
    home.root.mkdir(parents=True, exist_ok=True)
    log = home.root / "demo.log"
    console.print(f"\n[bold]Forge Pipeline[/bold]: the line [bold]{LINE}[/bold] (configs/quickstart.yaml)")
    started = time.monotonic()
    with dg.DagsterInstance.get() as instance:
        code = materialize(console, instance, home, log)
        if code != 0:
            explain_failure(console, instance, log)
            return code
        show_results(console, instance, home, time.monotonic() - started)
    return 0


def materialize(console: Console, instance: dg.DagsterInstance, home: Home, log: Path) -> int:
    """Run the line in a child process; show its stages and the steps of the running one."""
    since = datetime.now(UTC)
    command = [
        sys.executable,
        "-m",
        "dagster",
        "asset",
        "materialize",
        "-m",
        "assets.definitions",
        "--select",
        f"group:{LINE}",
    ]
    console.print(f"[dim]$ dagster {' '.join(command[3:])}    (output: {_shown(log)})[/dim]\n")
    bar = Progress(
        TextColumn(f"{{task.description:<{_BAR_WIDTH}}}"),
        BarColumn(16),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
    with log.open("wb") as output, bar:
        stages = bar.add_task("stages", total=len(Line(LINE).stages))
        steps = bar.add_task("loading the code location", total=None)
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=CHECKOUT)
        try:
            while process.poll() is None:
                time.sleep(0.5)
                show_progress(bar, stages, steps, instance, home, since)
        finally:
            if process.poll() is None:  # interrupted: the run must not go on behind the back of whoever stopped it
                process.send_signal(signal.SIGINT)
                process.wait()
        show_progress(bar, stages, steps, instance, home, since)
    return process.returncode


def show_progress(
    bar: Progress, stages: TaskID, steps: TaskID, instance: dg.DagsterInstance, home: Home, since: datetime
) -> None:
    runs = instance.get_runs(filters=dg.RunsFilter(created_after=since), limit=1)
    if not runs:
        return
    stats = {stat.step_key.split("__")[-1]: stat for stat in instance.get_run_step_stats(runs[0].run_id)}
    done = [name for name in Line(LINE).stages if name in stats and stats[name].end_time]
    running = next((name for name in Line(LINE).stages if name in stats and not stats[name].end_time), None)
    bar.update(stages, completed=len(done), description=f"stage: {running or (done[-1] if done else 'starting')}")
    progress_file = home.progress_file(runs[0].run_id)
    lines = progress_file.read_text().splitlines() if progress_file.exists() else []
    if lines:
        last = loads_strict(lines[-1])
        known = {name: last["metrics"][name] for name in _ON_THE_BAR if last["metrics"].get(name) is not None}
        numbers = figures(known)
        bar.update(
            steps,
            completed=last["step"],
            total=last["total"],
            description=f"  {last['stage']}  {numbers or last['message']}"[:_BAR_WIDTH],
        )


def explain_failure(console: Console, instance: dg.DagsterInstance, log: Path) -> None:
    console.print("\n[red bold]The run failed.[/red bold]")
    run = instance.get_runs(limit=1)[0]
    for record in instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records:
        event = record.event_log_entry.dagster_event
        failure = event.step_failure_data if event else None
        if event and failure:
            said = failure.user_failure_data.description if failure.user_failure_data else None
            console.print(f"[red]{event.step_key}[/red]: {said or (failure.error.message if failure.error else '')}")
    console.print(f"The whole output: {log}")


def show_results(console: Console, instance: dg.DagsterInstance, home: Home, seconds: float) -> None:
    """The closing screen: what was made, which gates said what, how the model answers, where things lie."""
    found = _Latest(instance, ArtifactStore(str(home.store), home.store))
    config = read_report(found.path("recipe") / REPORT_FILE, ForgeConfig)
    dataset = RawDataset.open(found.path("raw_dataset"))
    model = ModelDirectory.open(found.path("fine_tuned_model"))
    exported = GgufModel.open(found.path("gguf_model"))
    bundle = AnnexIvBundle.open(found.path("annex_iv_bundle"))
    console.print(f"\n[bold]Made in {seconds:.0f} s[/bold]")
    console.print(_artefact_table(config, dataset, model, exported, bundle))
    audit = DatasetAudit.open(found.path("dataset_audit_report"))
    benchmark = read_report(found.path("benchmark_report") / REPORT_FILE, BenchmarkResult)
    safety = read_report(found.path("safety_report") / REPORT_FILE, SafetyReport)
    decisions = [
        *audit.gates,
        *loss_gate(config, model),
        *benchmark.gates,
        *safety.gates,
        *fidelity_gates(config, exported),
    ]
    console.print(_gate_table(decisions))
    show_answers(console, config, dataset, model)
    bundle_result = verify_annex_iv_artifact(str(bundle.path / "annex_iv.json"))
    log = home.audit_log(LINE) / "audit_log.jsonl"
    log_result = verify_audit_log(str(log))
    points = len(bundle_result.missing_fields)
    table = Table(title="Where things are", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # a cut path is no path
    gguf = _shown(home.latest(LINE, None, "gguf_model") / exported.file(config.export.quantizations[0]).name)
    table.add_row("GGUF files", str(_shown(home.latest(LINE, None, "gguf_model"))))
    table.add_row("Annex IV bundle", f"{_shown(home.latest(LINE, None, 'annex_iv_bundle') / 'index.html')}")
    table.add_row("  verifies", "yes" if bundle_result.valid else f"NO: {bundle_result.reason}")
    table.add_row("  complete", "yes" if bundle_result.complete else f"no: {points} points need your declaration")
    table.add_row("  check it", f"python {_shown(home.latest(LINE, None, 'annex_iv_bundle') / 'verify_bundle.py')}")
    table.add_row("Audit log", f"{_shown(log)}, {log_result.entries_count} entries")
    table.add_row("  verifies", "yes" if log_result.valid else f"NO: {log_result.reason}")
    table.add_row(
        "Released", "yes" if found.digest("released_model") else "no: that needs passed gates and an approval"
    )
    table.add_row("Lineage, loss curve, checks", "make ui, then http://127.0.0.1:3000")
    table.add_row("Chat with the model", f".venv/bin/forge chat {gguf}")
    console.print(table)


def _shown(path: Path) -> Path:
    """A path as a person in the checkout would type it."""
    return path.relative_to(CHECKOUT) if path.is_relative_to(CHECKOUT) else path


def show_answers(console: Console, config: ForgeConfig, dataset: RawDataset, model: ModelDirectory) -> None:
    """One held-out question, answered by the base and by the tuned model."""
    from forge_pipeline.evaluation import generate
    from forge_pipeline.models import load_base, load_tuned

    messages = conversation_of(held_out_rows(dataset, 1)[0]) or []
    question = messages[:-1]
    loaded, tokenizer = load_base(config)
    answers = {"base": generate(loaded, tokenizer, [question], max_new_tokens=40)[0].strip()}
    loaded, tokenizer = load_tuned(config, model)
    answers["tuned"] = generate(loaded, tokenizer, [question], max_new_tokens=40)[0].strip()
    table = Table(title="One question that it was not trained on", show_header=False, title_justify="left")
    table.add_row("question", question[-1]["content"])
    table.add_row("reference", messages[-1]["content"])
    table.add_row("base model", answers["base"])
    table.add_row("tuned model", answers["tuned"])
    console.print(table)


def _artefact_table(
    config: ForgeConfig, dataset: RawDataset, model: ModelDirectory, exported: GgufModel, bundle: AnnexIvBundle
) -> Table:
    report = read_training_report(model)
    first = next((point.loss for point in report.loss_history if point.loss is not None), None)
    table = Table(show_header=True, header_style="bold")
    for column in ("what", "facts", "digest"):
        table.add_column(column, overflow="fold")
    rows = ", ".join(f"{name} {count}" for name, count in dataset.provenance.rows.items())
    source = dataset.provenance.sources[0]
    table.add_row("raw_dataset", f"{rows} rows; {source.uri}; licence {source.license}", dataset.digest.short)
    loss = f"training loss {first or 0:.2f} -> {_last_loss(report.loss_history):.2f}"
    table.add_row("fine_tuned_model", f"{report.steps} steps of {report.trainer_class}, {loss}", model.digest.short)
    for file in exported.report.files:
        fidelity = (
            f"mean KL {file.fidelity.mean_kl:.1e}, top-1 {file.fidelity.top1_agreement:.1%}"
            if file.fidelity
            else "not measured"
        )
        table.add_row(
            f"gguf_model {file.quantization}",
            f"{file.size / 1e6:.0f} MB; beside the tuned model: {fidelity}",
            file.digest.short,
        )
    table.add_row(
        "annex_iv_bundle", f"missing points: {', '.join(bundle.missing_fields) or 'none'}", bundle.digest.short
    )
    return table


def _last_loss(history: tuple[object, ...]) -> float:
    losses = [loss for point in history if (loss := getattr(point, "loss", None)) is not None]
    return float(losses[-1]) if losses else float("nan")


def _gate_table(decisions: list[GateDecision]) -> Table:
    table = Table(title="Gates", title_justify="left", header_style="bold")
    for column in ("gate", "verdict", "why"):
        table.add_column(column)
    for decision in decisions:
        color = _COLORS[decision.verdict]
        table.add_row(decision.gate, f"[{color}]{decision.verdict.value.replace('_', ' ')}[/{color}]", decision.reason)
    return table


class _Latest:
    """The newest artefact of each stage of the line."""

    def __init__(self, instance: dg.DagsterInstance, store: ArtifactStore) -> None:
        self._instance, self._store = instance, store

    def digest(self, stage: str) -> Digest | None:
        event = self._instance.get_latest_materialization_event(dg.AssetKey([LINE, stage]))
        if event is None or event.asset_materialization is None:
            return None
        return Digest(str(event.asset_materialization.metadata["forge/digest"].value))

    def path(self, stage: str) -> Path:
        digest = self.digest(stage)
        assert digest is not None, f"{stage} was not materialized although its run succeeded"
        return self._store.get(digest)


if __name__ == "__main__":
    sys.exit(main())
