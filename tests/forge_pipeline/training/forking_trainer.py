"""Fine-tunes in forked children that may be killed: one JSON job a line on stdin, one answer a line on stdout.

The libraries are imported once, so that a test that kills a training process ten times pays for it once. A child
is a process of its own with nothing computed yet; what it leaves is on disk, as after a real crash.
"""

import json
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any


def main() -> None:
    import datasets  # noqa: F401
    import peft  # noqa: F401

    from forge_pipeline.training.methods import METHODS, load_classes

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for trainer_type in ("sft", "dpo"):
        load_classes(METHODS[trainer_type])
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), file=answers, flush=True)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Fork, train, perhaps kill; the answer says how the child ended and what it wrote into its result file."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        os._exit(train(job, theirs))
    os.close(theirs)
    steps = []
    with os.fdopen(ours) as reported:
        for line in reported:
            steps.append(int(line))
            if "kill_after" in job and steps[-1] >= job["kill_after"]:
                time.sleep(job["delay"])
                os.kill(child, getattr(signal, job.get("signal", "SIGKILL")))
                break
        status = os.waitpid(child, 0)[1]
    answer = {"code": os.waitstatus_to_exitcode(status), "steps": steps}
    result = Path(job["result"])
    return answer | (json.loads(result.read_text()) if result.exists() else {})


def train(job: dict[str, Any], steps: int) -> int:
    import torch

    from forge_pipeline.config import ForgeConfig
    from forge_pipeline.data import TokenizedDataset
    from forge_pipeline.integrity import Digest, read_report, report_to_json
    from forge_pipeline.models import logit_tiles
    from forge_pipeline.progress import Progress
    from forge_pipeline.training import fine_tune

    torch.set_num_threads(job.get("threads", 1))
    if "more_memory" in job:  # with what a heap keeps, and small tiles of logits, these tiny models would never run out
        os.environ["FORGE_KEEP_FREED_MEMORY"] = "no"
        logit_tiles._CPU_TOKENS = 4096
    events: list[dict[str, Any]] = []

    def progress(moment: Progress) -> None:
        if moment.message == "training" and moment.step:
            if moment.step == job.get("limit_after"):
                limit(job)
            with suppress(BrokenPipeError):  # whoever listened has heard enough
                os.write(steps, f"{moment.step}\n".encode())

    try:
        done = fine_tune(
            read_report(Path(job["recipe"]), ForgeConfig),
            TokenizedDataset.open(job["dataset"]),
            Digest.of(b"raw"),
            Path(job["output"]),
            progress=progress,
            work_dir=Path(job["work"]) if job.get("work") else None,
            resume_from_checkpoint=job.get("resume"),
            log_event=lambda event, **fields: events.append({"event": event, **fields}),
        )
    except BaseException as error:
        values: dict[str, Any] = {"error": type(error).__name__, "message": str(error), "events": events}
    else:
        report = report_to_json(done.report)
        values = {"digest": done.model.digest, "report": report, "events": events, "resumed": done.resumed_from}
    Path(job["result"]).write_text(json.dumps(values))
    return 1 if "error" in values else 0


def limit(job: dict[str, Any]) -> None:
    """Take room away from this process: bytes of address space beyond what it has, or bytes that a file may have."""
    if "more_memory" in job:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + job["more_memory"], resource.RLIM_INFINITY))
    if "file_size" in job:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_size"], resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
