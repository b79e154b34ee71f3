"""One side's log in a fresh process, the same calls for us and for the peer; runs in either environment.

    python log_worker.py append OURS|PEER DIRECTORY COUNT MODE    prints {"seconds", "cpu_seconds"} of the appends
    python log_worker.py fill OURS|PEER DIRECTORY COUNT MODE      the same without waiting for the disk
    python log_worker.py verify OURS|PEER DIRECTORY COUNT MODE    COUNT: entries that it must find valid

MODE is plain, hmac or signed (ours only; the key lies beside the directory as key.pem).
"""

import json
import os
import sys
import time
from typing import Any

OURS, PEER = "forge_pipeline", "forgelm"
SECRET = "correct horse battery staple"
FIELDS = {"asset_key": "support_bot/fine_tuned_model", "digest": "sha256:" + "5" * 64, "loss": 0.43, "rows": 20_000}
LOG = "audit_log.jsonl"


def open_logger(who: str, directory: str, mode: str) -> Any:
    os.environ["FORGE_OPERATOR"] = os.environ["FORGELM_OPERATOR"] = "alice@lab"
    if mode == "hmac":
        os.environ["FORGE_AUDIT_SECRET"] = os.environ["FORGELM_AUDIT_SECRET"] = SECRET
    if who == OURS:
        from forge_pipeline import AuditLogger
    else:
        from forgelm import AuditLogger  # type: ignore[import-not-found,no-redef]
    if mode == "signed":
        os.environ["FORGE_AUDIT_SIGNING_KEY"] = f"{directory}.key.pem"
    return AuditLogger(directory, run_id=f"run-{os.getpid()}")


def append(who: str, directory: str, count: int, mode: str) -> dict[str, float]:
    logger = open_logger(who, directory, mode)
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(count):
        logger.log_event("acme.counted", number=number, **FIELDS)
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def verify(who: str, directory: str, count: int, mode: str) -> dict[str, float]:
    if who == OURS:
        from forge_pipeline import verify_audit_log
    else:
        from forgelm import verify_audit_log  # type: ignore[no-redef]
    keys = {"hmac_secret": SECRET, "require_hmac": True} if mode == "hmac" else {}
    if mode == "signed":
        keys["public_key"] = f"{directory}.public.pem"
    wall, cpu = time.perf_counter(), time.process_time()
    result: Any = verify_audit_log(f"{directory}/{LOG}", **keys)  # type: ignore[arg-type]
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    if not result.valid or result.entries_count < count:
        raise SystemExit(f"{who}: {result}")
    return {"seconds": seconds, "cpu_seconds": cpu_seconds}


def main() -> None:
    task, who, directory, count, mode = sys.argv[1:6]
    if task == "fill":
        os.fsync = lambda fd: None
    print(json.dumps((verify if task == "verify" else append)(who, directory, int(count), mode)))


if __name__ == "__main__":
    main()
