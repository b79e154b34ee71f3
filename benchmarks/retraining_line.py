"""A code location with one line, `soak`, whose training is real but takes a blink.

The retraining sensor, the job, ingestion, the store and the IO managers are the product's own. In place of the stages
from tokenization to release there is one: a bigram model of the rows' characters, trained by gradient descent in numpy.
What a cycle costs is therefore orchestration.

Read from the environment: FORGE_HOME, and SOAK_DATA, the file that is watched. If ``SOAK_DATA.kill`` exists when a
run trains, its process kills itself once and removes the file.
"""

import os
import signal
from pathlib import Path

import dagster as dg
import numpy as np

from assets.automation import build_automation
from assets.definitions import build_resources
from assets.line import Line
from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import RawDataset, ingest
from forge_pipeline.data.row_texts import row_text
from forge_pipeline.integrity import DirectoryArtifact
from resources.home import Home
from resources.settings import DeploymentResource

LINE = "soak"
_LETTERS = 64
_STEPS = 20


def soak_config(data: Path) -> ForgeConfig:
    """The line's recipe."""
    interval = int(os.environ.get("SOAK_INTERVAL", "10"))
    automation = {
        "on_new_data": True,
        "check_interval_seconds": interval,
        "settle_seconds": int(os.environ.get("SOAK_SETTLE", "0")),
        "retry_wait_seconds": 0,
        "max_attempts": 10,
    }
    return ForgeConfig(
        name=LINE,
        model={"name_or_path": "none", "load_in_4bit": False},
        lora={},
        training={"trainer_type": "sft"},
        data={"dataset_name_or_path": str(data), "license": "CC0-1.0"},
        automation=automation,
    )


def bigram_model(texts: list[str]) -> tuple["np.ndarray[tuple[int, int], np.dtype[np.float32]]", float]:
    """Logits (V, V) of the next character, V = 64, after `_STEPS` of gradient descent; last mean loss in nats."""
    counts = np.zeros((_LETTERS, _LETTERS))
    for text in texts:
        codes = np.frombuffer(text.encode(), dtype=np.uint8) % _LETTERS
        np.add.at(counts, (codes[:-1], codes[1:]), 1)
    total = max(counts.sum(), 1.0)
    logits, loss = np.zeros_like(counts), 0.0
    for _ in range(_STEPS):
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        loss = float(-(counts * np.log(shares)).sum() / total)
        logits -= 20.0 * (counts.sum(axis=1, keepdims=True) * shares - counts) / total
    return logits.astype(np.float32), loss


def build_soak(home: Home, data: Path) -> dg.Definitions:
    """The whole code location."""
    config = soak_config(data)
    line = Line(LINE, data, config)

    @line.stage(io_manager="dataset_io", kinds={"parquet"}, sections=("data",))
    def raw_dataset(context: dg.AssetExecutionContext, deployment: DeploymentResource) -> RawDataset:
        """The rows of the watched file."""
        return ingest(config, deployment.work_directory(context))

    @line.stage(io_manager="model_io", kinds={"safetensors"}, sections=("training",))
    def fine_tuned_model(
        context: dg.AssetExecutionContext, raw_dataset: RawDataset, deployment: DeploymentResource
    ) -> DirectoryArtifact:
        """A bigram model of the rows' characters."""
        from safetensors.numpy import save_file

        kill = Path(f"{data}.kill")
        if kill.exists():
            kill.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        logits, loss = bigram_model([row_text(row) for row in raw_dataset.rows("train")])
        output = deployment.work_directory(context)
        output.mkdir(parents=True)
        save_file({"logits": logits}, output / "model.safetensors")
        (output / "loss.txt").write_text(f"{loss:.6f}\n")
        return DirectoryArtifact.open(output)

    job = dg.define_asset_job(f"{LINE}_job", selection=dg.AssetSelection.groups(LINE))
    automatic = build_automation(line, job.name)
    return dg.Definitions(
        assets=[raw_dataset, fine_tuned_model],
        jobs=[job],
        sensors=automatic.sensors,
        resources=build_resources(home, str(home.store)),
        executor=dg.in_process_executor,
    )


if "SOAK_DATA" in os.environ:  # loaded by Dagster
    defs = build_soak(Home.from_environment(), Path(os.environ["SOAK_DATA"]))
