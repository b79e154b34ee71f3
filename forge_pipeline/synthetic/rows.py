"""An answer as a training row, with the column `synthetic` that says where it comes from.

Nothing in a row depends on when or in which order it was made.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from forge_pipeline._version import __version__
from forge_pipeline.config.operation import SyntheticSection
from forge_pipeline.integrity import Digest
from forge_pipeline.synthetic.requests import Request, conversation
from forge_pipeline.synthetic.teachers import Outcome, TeacherIdentity

GENERATOR = f"forge-pipeline {__version__}"

Row = dict[str, Any]


def build_row(section: SyntheticSection, teacher: TeacherIdentity, outcome: Outcome) -> Row:
    """One training row in the recipe's format.

    The column `synthetic` holds teacher (name, revision, digest), backend, endpoint, the model that the endpoint says
    has answered, finish_reason, prompt_digest, sampling settings, the number of the sample, generator and
    request_digest; what nobody knows is left out.
    """
    request, answer = outcome.request, outcome.text or ""
    messages = [*conversation(section, request.prompt), {"role": "assistant", "content": answer}]
    system: Row = {"system": section.system_prompt} if section.system_prompt else {}
    rows: dict[str, Row] = {
        "messages": {"messages": messages},
        "instruction": {**system, "instruction": request.prompt, "input": "", "output": answer},
        "chatml": {"text": "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in messages)},
        "prompt_response": {**system, "prompt": request.prompt, "response": answer},
    }
    return {**rows[section.output_format], "synthetic": _provenance(section, teacher, outcome)}


def _provenance(section: SyntheticSection, teacher: TeacherIdentity, outcome: Outcome) -> Row:
    request = outcome.request
    sampled = teacher.backend != "file"
    seed = (section.seed or 0) if teacher.backend == "local" else request.seed(section)
    facts: Row = {
        "teacher": teacher.name,
        "backend": teacher.backend,
        "revision": teacher.revision,
        "teacher_digest": teacher.digest,
        "endpoint": teacher.endpoint,
        "answered_by": outcome.answered_by,
        "finish_reason": outcome.finish_reason,
        "prompt_digest": str(Digest.of(request.prompt.encode())),
        "temperature": section.temperature if sampled else None,
        "max_new_tokens": section.max_new_tokens if sampled else None,
        "seed": seed if sampled else None,
        "sample": request.sample,
        "generator": GENERATOR,
        "request_digest": request.digest,
    }
    return {name: value for name, value in facts.items() if value is not None}


def merge_equal(requests: Sequence[Request], answered: dict[str, Row]) -> list[Row]:
    """The answered rows in the order of the requests; of equal answers to one prompt the first.

    The row that stays names the requests of the others in ``synthetic.equal_requests``, so that nobody asks them again.
    """
    merged: dict[tuple[int, str], Row] = {}
    for request in requests:
        row = answered.get(request.digest)
        if row is None:
            continue
        content = json.dumps({name: value for name, value in row.items() if name != "synthetic"})
        first = merged.get((request.number, content))
        if first is None:
            merged[request.number, content] = {**row, "synthetic": dict(row["synthetic"])}
        else:
            first["synthetic"].setdefault("equal_requests", []).append(request.digest)
    return list(merged.values())


def rows_by_request(row: Row) -> Iterable[tuple[str, Row]]:
    """A row of a finished file, once for each request that it answers: the inverse of `merge_equal`."""
    facts = dict(row["synthetic"])
    others = facts.pop("equal_requests", [])
    for digest in (facts["request_digest"], *others):
        yield digest, {**row, "synthetic": {**facts, "request_digest": digest}}


def as_lines(rows: Iterable[Row]) -> bytes:
    """JSONL."""
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def row_in(line: bytes) -> Row | None:
    """The row in a line that this package wrote, else None."""
    try:
        row: Row = json.loads(line)
        facts = row["synthetic"]
        others = facts.get("equal_requests", [])
        digests = [facts["request_digest"], *others]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return row if all(isinstance(digest, str) for digest in digests) else None
