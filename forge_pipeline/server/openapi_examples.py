"""One example for each body of the REST contract. The tests hold every one against its schema."""

from typing import Any

_JOB_ID = "train_1f0a2c9d4e7b"
_DIGEST = "sha256:" + "5d" * 32
_START: dict[str, Any] = {
    "task": "text-generation",
    "model_name": "meta-llama/Llama-3.2-3B",
    "provider": "huggingface",
    "strategy": "sft",
    "dataset": "dataset.jsonl",
    "max_seq_length": 2048,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 4,
}
_STATUS: dict[str, Any] = {
    "status": "training",
    "progress": 45.5,
    "current_epoch": 2,
    "total_epochs": 3,
    "current_step": 500,
    "total_steps": 1100,
    "loss": 0.234,
    "learning_rate": 0.0002,
    "job_id": _JOB_ID,
    "stage": "fine_tune",
    "message": "",
    "error": None,
}
_JOB: dict[str, Any] = {
    **_STATUS,
    "position": None,
    "priority": 0,
    "created_at": "2026-01-15T10:00:00Z",
    "started_at": "2026-01-15T10:00:01Z",
    "ended_at": None,
    "run_id": "0d9a3f6c-5a0e-4f6f-9a44-2a1f3b0c7d5e",
    "retry_of": None,
    "model_id": None,
    "request": _START,
}
_METRICS: dict[str, Any] = {"final_loss": 0.234, "perplexity": 1.2636}
_MODEL: dict[str, Any] = {
    "id": 1,
    "uid": _DIGEST,
    "name": "llama-3.2-3b-sft-1f0a2c9d4e7b",
    "base_model": "meta-llama/Llama-3.2-3B",
    "task": "text-generation",
    "created_at": "2026-01-15T10:30:00Z",
    "size_mb": 97.3,
    "metrics": _METRICS,
}
_VALIDATION: dict[str, Any] = {"valid": True, "errors": [], "error_count": 0, "dataset_schema": "input, output"}
_DATASET: dict[str, Any] = {
    "filename": "dataset.jsonl",
    "num_examples": 1000,
    "size_mb": 5.2,
    "uploaded_at": "2026-01-15T10:00:00Z",
}

EXAMPLES: dict[str, Any] = {
    "Health": {"status": "healthy", "version": "0.1.0", "launcher": "ready"},
    "Alive": {"status": "alive"},
    "Ready": {"status": "ready"},
    "StartTraining": _START,
    "QueueJob": {**_START, "priority": 10},
    "Started": {
        "status": "started",
        "job_id": _JOB_ID,
        "message": "Training started as Dagster run 0d9a3f6c",
        "warnings": [],
    },
    "TrainingStatus": _STATUS,
    "Stopped": {"status": "stopped", "message": f"Job {_JOB_ID} was stopped; it adds no model", "job_id": _JOB_ID},
    "JobDetails": _JOB,
    "QueuedJob": {**_JOB, "status": "queued", "position": 1, "run_id": None, "started_at": None, "warnings": []},
    "JobList": {"jobs": [_JOB], "has_more": False},
    "JobEvents": {
        "events": [{"number": 7, "at": "2026-01-15T10:00:00Z", "status": "queued", "message": "Joined the queue"}]
    },
    "ModelSummary": _MODEL,
    "ModelList": {"models": [_MODEL]},
    "ModelDetails": {
        **_MODEL,
        "provider": "huggingface",
        "strategy": "sft",
        "training_params": {"num_epochs": 3, "batch_size": 4, "learning_rate": 0.0002},
        "job_id": _JOB_ID,
    },
    "Deleted": {"status": "deleted", "message": "Model llama-3.2-3b-sft-1f0a2c9d4e7b was deleted"},
    "Uploaded": {"status": "uploaded", "filename": "dataset.jsonl", "num_examples": 1000, "validation": _VALIDATION},
    "DatasetSummary": _DATASET,
    "DatasetList": {"datasets": [_DATASET]},
    "Generate": {
        "model_id": 1,
        "prompt": "What is machine learning?",
        "max_new_tokens": 100,
        "temperature": 0.7,
        "top_p": 0.9,
    },
    "Generated": {
        "generated_text": "Machine learning is a subset of artificial intelligence",
        "tokens_generated": 9,
        "generation_time_ms": 1234,
    },
    "Decide": {"decision": "granted", "reason": "The gates and the card were read", "model": _DIGEST},
    "Rollback": {"alias": "released", "reason": "Answers in the wrong language", "quarantine": False},
    "RolledBack": {
        "line": "studio",
        "alias": "released",
        "uid": _DIGEST,
        "message": f"released of studio means {_DIGEST} from now on",
    },
    "PushModel": {"repo_id": "acme/support-bot", "private": True, "token_env": "HF_TOKEN"},
    "ExportModel": {"quantizations": ["q8_0"]},
    "Queued": {"job_id": "export_1f0a2c9d4e7b", "message": "What can be made of model 1 will be made"},
    "ChatRequest": {
        "model": "1",
        "messages": [{"role": "user", "content": "How do I return an item?"}],
        "max_completion_tokens": 100,
        "temperature": 0.7,
    },
    "ChatCompletion": {
        "id": "chatcmpl-71ec3222cf7b0d626d54628b",
        "object": "chat.completion",
        "created": 1705314600,
        "model": "1",
        "system_fingerprint": _DIGEST,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Send it back within 30 days."},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 14, "completion_tokens": 9, "total_tokens": 23},
    },
    "ServedModel": {"id": "1", "object": "model", "created": 1705314600, "owned_by": "forge-pipeline"},
    "OpenAIErrorBody": {
        "error": {
            "message": "n: is not offered by this server; leave it out",
            "type": "invalid_request_error",
            "param": "n",
            "code": None,
        },
        "detail": "n: is not offered by this server; leave it out",
        "status_code": 400,
    },
    "ErrorBody": {
        "error": "Bad Request",
        "detail": "learning_rate: found 1.5. Input should be less than or equal to 1",
        "status_code": 400,
    },
}
