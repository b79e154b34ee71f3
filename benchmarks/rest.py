"""The REST API under load, on real processes: `forge serve`, its Dagster, and jobs that really train a tiny model.

    python -m benchmarks.rest                     writes docs/benchmarks/rest.md; about 20 minutes on two quiet cores
    python -m benchmarks.rest --quick             a look, in about 3 minutes; writes build/benchmark/rest.md

1. Latency: requests are sent on a fixed schedule, whether or not earlier ones have been answered, and each is timed
   from when it was due; so a server that stalls is charged with everything that waited.
2. Watchers: every WebSocket client must get the terminal message. Lag is from the moment that the run wrote a step
   down to the moment that a client held a message with that step or a later one, so the server's half second between
   two looks is in it.
3. Upload: the server's resident memory before, at its peak and after; what one file of that size costs the disk is not
   counted.
4. Restarts: SIGKILL and SIGTERM in turn while a job trains and another waits. Afterwards every job that was asked for
   must be there once, ended with a reason, and the models must be those of the completed jobs.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import connect

from benchmarks.rest_page import Latency, Restarts, Sizes, Upload, Watched, quantile, render
from benchmarks.rest_server import Server, until
from forge_pipeline.client import ForgeClient, StartBody

PAGE, QUICK_PAGE = Path("docs/benchmarks/rest.md"), Path("build/benchmark/rest.md")
ROUTES = ("/api/health", "/api/training_status")


FULL = Sizes(rate=100, seconds=60, watchers=200, steps=1500, upload=2**30, restarts=20)
QUICK = Sizes(rate=50, seconds=5, watchers=50, steps=100, upload=2**26, restarts=2)


def body(model: Path, dataset: str, **changes: Any) -> StartBody:
    start = StartBody(
        task="text-generation", model_name=str(model), dataset=dataset, per_device_train_batch_size=2,
        gradient_accumulation_steps=1, max_seq_length=96, lora_r=4, eval_split=0.0, learning_rate=0.001,
    )  # fmt: skip
    return StartBody(**{**start, **changes})  # type: ignore[typeddict-item]


def train(forge: ForgeClient, start: StartBody) -> str:
    """Start a job and wait until it has made its first step."""
    job_id = forge.start_training(**start).job_id

    def steps() -> bool:
        status = forge.training_status()
        if status.has_ended:
            raise RuntimeError(f"the job {status.status}: {status.error}")
        return status.current_step > 0

    until(steps, 300)
    return job_id


# --- 1. latency -----------------------------------------------------------------------------------------------------


async def latencies(url: str, rate: int, seconds: float) -> list[Latency]:
    """Ask both routes in turn, `rate` times a second together."""
    took: dict[str, list[float]] = {route: [] for route in ROUTES}
    failed = dict.fromkeys(ROUTES, 0)
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:

        async def ask(route: str, due: float) -> None:
            try:
                ok = (await client.get(route)).status_code == 200
            except httpx.HTTPError:
                ok = False
            took[route].append((time.perf_counter() - due) * 1000)
            failed[route] += not ok

        began, asked = time.perf_counter(), []
        for number in range(int(rate * seconds)):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            asked.append(asyncio.create_task(ask(ROUTES[number % len(ROUTES)], due)))
        await asyncio.gather(*asked)
    return [
        Latency(route, len(ms), failed[route], quantile(ms, 50), quantile(ms, 99), max(ms))
        for route, ms in took.items()
    ]


# --- 2. watchers ----------------------------------------------------------------------------------------------------


async def watch(url: str, job_id: str, clients: int, progress: Path) -> Watched:
    """`clients` watch one job until its end."""
    seen = list[dict[int, float]]()
    messages = ended = 0

    async def one() -> None:
        nonlocal messages, ended
        steps: dict[int, float] = {}
        seen.append(steps)
        async with connect(f"ws{url.removeprefix('http')}/ws/training", proxy=None, open_timeout=60) as socket:
            async for text in socket:
                status = json.loads(text)
                messages += 1
                steps.setdefault(status["current_step"], time.time())
                if status["job_id"] == job_id and status["status"] in ("completed", "failed", "stopped"):
                    ended += 1
                    return

    await asyncio.wait_for(asyncio.gather(*(one() for _ in range(clients))), 900)
    written = {line["step"]: line["ts"] for line in map(json.loads, progress.read_text().splitlines())
               if line["stage"] == "fine_tune" and line["step"]}  # fmt: skip
    lags = [lag for steps in seen for lag in _lags(steps, written)]
    return Watched(clients, ended, messages, quantile(lags, 50), quantile(lags, 99))


def _lags(seen: dict[int, float], written: dict[int, float]) -> list[float]:
    """Seconds from each step's line to the first message with that step or a later one; none for those before."""
    moments = sorted(seen.items())
    after = [(step, at) for step, at in written.items() if moments and step > moments[0][0]]
    return [
        next(told for reached, told in moments if reached >= step) - at for step, at in after if step <= moments[-1][0]
    ]


async def watched_job(server: Server, start: StartBody, clients: int) -> Watched:
    """All clients connect while the job begins, and stay to its end."""
    job_id = await asyncio.to_thread(train, server.client, start)
    run_id = server.client.job(job_id).run_id
    progress = server.data_dir / "progress" / f"{run_id}.jsonl"
    return await watch(server.url, job_id, clients, progress)


# --- 3. upload ------------------------------------------------------------------------------------------------------


def upload(server: Server, size: int) -> Upload:
    """One dataset of at least `size` bytes."""
    path = server.folder / "large.jsonl"
    words = "The house by the river is blue and has many windows. " * 18
    with path.open("w") as file:
        for number in range(10**9):
            file.write(json.dumps({"input": f"What is house {number}?", "output": words}) + "\n")
            if file.tell() >= size:
                break
    before = server.resident()
    with server.peak() as peak:
        began = time.monotonic()
        taken = server.client.upload_dataset(path)
        seconds = time.monotonic() - began
    if not taken.validation.valid:
        raise RuntimeError(f"the upload was found invalid: {taken.validation.errors[:1]}")
    measured = Upload(path.stat().st_size, before, peak[0], server.resident(), seconds)
    path.unlink()
    (server.data_dir / "datasets" / taken.filename).unlink()
    return measured


# --- 4. restarts ----------------------------------------------------------------------------------------------------


def restarts(server: Server, model: Path, count: int) -> Restarts:
    """End the server `count` times while it trains; every second time in order."""
    asked = {job.job_id for job in server.client.every_job()}
    long, short = body(model, "rows.jsonl", num_train_epochs=10_000), body(model, "rows.jsonl", max_steps=1)
    began = len(server.ready_after)
    for number in range(count):
        until(lambda: server.client.training_status().status in ("idle", "completed", "failed", "stopped"), 300)
        asked.add(train(server.client, long))
        asked.add(server.client.queue_job(**short).job_id)  # it waits, and its turn comes after the restart
        (server.kill if number % 2 == 0 else server.stop)()
        server.start()
        until(lambda: not [j for j in server.client.every_job() if not j.has_ended], 300)
        print(f"restart {number + 1} of {count}", file=sys.stderr)
    jobs = list(server.client.every_job())
    ids = [job.job_id for job in jobs]
    completed = [job for job in jobs if job.status == "completed"]
    return Restarts(
        count=count,
        asked=len(asked),
        lost=len(asked - set(ids)),
        invented=len(set(ids) - asked) + len(ids) - len(set(ids)),
        without_reason=len([job for job in jobs if not job.has_ended or (job.status == "failed" and not job.error)]),
        models=len(server.client.models().models),
        completed=len(completed),
        ready_after=server.ready_after[began:],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rest", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes; the figures mean little")
    parser.add_argument("--page", type=Path, help=f"where to write (default {PAGE}, with --quick {QUICK_PAGE})")
    options = parser.parse_args(arguments)
    sizes = QUICK if options.quick else FULL
    page: Path = options.page or (QUICK_PAGE if options.quick else PAGE)
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    from tests.conftest import make_llama

    with tempfile.TemporaryDirectory(prefix="forge-rest-") as name:
        folder = Path(name).resolve()
        model = make_llama(folder / "models" / "tiny")
        server = Server(folder, folder / "models")
        try:
            forge = server.start()
            rows = folder / "rows.jsonl"
            rows.write_text(
                "".join(json.dumps({"input": f"How much is {i}?", "output": f"{i}"}) + "\n" for i in range(40))
            )
            forge.upload_dataset(rows)
            train(forge, body(model, "rows.jsonl", num_train_epochs=10_000))
            asked = asyncio.run(latencies(server.url, sizes.rate, sizes.seconds))
            forge.stop_training()
            watched = asyncio.run(watched_job(server, body(model, "rows.jsonl", max_steps=sizes.steps), sizes.watchers))
            taken = upload(server, sizes.upload)
            ended = restarts(server, model, sizes.restarts)
        finally:
            if server.process.poll() is None:
                server.stop()
    command = "python -m benchmarks.rest" + (" --quick" if options.quick else "")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render(command, sizes, asked, watched, taken, ended, load))
    print(page.read_text())
    return int(bool(ended.lost or ended.invented or ended.without_reason or watched.told_the_end < watched.clients
                    or ended.models != ended.completed or any(each.failed for each in asked)))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
