"""A studio line that really trains: the library's stages in one process, for tests that need a model quickly.

Its keys and partitions are the pipeline's. What it leaves out, audit, benchmarks and record, test_server_pipeline has.
A job of 10 000 epochs trains nothing and waits to be stopped; how runs end is test_server_jobs.
"""

import os
from pathlib import Path

from tests.forge_pipeline.server.served import CHECKOUT, ServerProcess

DEFINITIONS = """
import os, time
from pathlib import Path
import dagster as dg, yaml
from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import ingest, tokenize
from forge_pipeline.models import load_tokenizer
from forge_pipeline.progress import Progress, ProgressFile
from forge_pipeline.registry import Registry
from forge_pipeline.training import fine_tune
from resources.candidates import register_candidate

HOME = Path(os.environ["FORGE_HOME"])
JOBS = dg.DynamicPartitionsDefinition(name="studio_jobs")
NAMES = ["recipe", "raw_dataset", "dataset_audit_report", "tokenized_dataset", "fine_tuned_model"]

def stage(name, deps):
    @dg.asset(key=["studio", name], deps=[["studio", dep] for dep in deps], partitions_def=JOBS, group_name="studio")
    def run(context: dg.AssetExecutionContext):
        if name == "fine_tuned_model":
            train(context.partition_key, context.run_id)
    return run

def train(job_id, run_id):
    recipe = ForgeConfig(**yaml.safe_load((HOME / "studio" / "jobs" / f"{job_id}.yaml").read_text()))
    (HOME / "progress").mkdir(exist_ok=True)
    report, work = ProgressFile(HOME / "progress" / f"{run_id}.jsonl"), HOME / "work" / job_id
    work.mkdir(parents=True)
    while recipe.training.num_train_epochs == 10_000:
        report(Progress("fine_tune", 0, None, "waits to be stopped"))
        time.sleep(0.2)
    report(Progress("ingest", 0, None, "reading"))
    raw = ingest(recipe, work / "raw")
    report(Progress("tokenize", 0, None, "cutting"))
    tokens = tokenize(recipe, raw, load_tokenizer(recipe), work / "tokens")
    made = fine_tune(recipe, tokens, raw.digest, HOME / "models" / job_id, progress=report)
    registry = Registry(f"sqlite:///{HOME / 'registry.sqlite'}")
    register_candidate(registry, recipe, made.model, line="studio", run_id=run_id, job_id=job_id)
    registry.close()

defs = dg.Definitions(
    assets=[stage(name, NAMES[max(i - 1, 0):i]) for i, name in enumerate(NAMES)], executor=dg.in_process_executor
)
"""


def small_line(folder: Path, models: Path) -> ServerProcess:
    """A server over such a line. `models`: the folder whose models it may train."""
    process = ServerProcess(folder)
    (folder / "definitions.py").write_text(DEFINITIONS)
    process.environment |= {
        "FORGE_MODEL_ROOTS": os.fspath(models),
        "PYTHONPATH": os.fspath(CHECKOUT),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    return process
