"""What the teacher is asked: one request for each prompt and sample, in order, with an identity of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from forge_pipeline.config.operation import SyntheticSection
from forge_pipeline.integrity import json_digest


@dataclass(frozen=True)
class Request:
    """One answer that is wanted.

    Attributes:
        position: Place among all requests of the recipe, from 0.
        number: Of the prompt, from 1.
        sample: Of the answer to this prompt, from 0.
        digest: Identity: the prompt, and everything that shapes its answer and its row.
    """

    prompt: str
    position: int
    number: int
    sample: int
    digest: str

    def seed(self, section: SyntheticSection) -> int | None:
        """The seed an endpoint is sent; None where the recipe has none."""
        return None if section.seed is None else section.seed + self.sample


def build_requests(section: SyntheticSection, prompts: Sequence[str]) -> list[Request]:
    """All requests of a recipe, the samples of a prompt one after another."""
    settings: dict[str, object] = {
        "teacher": section.teacher_model,
        "backend": section.teacher_backend,
        "revision": section.teacher_revision,
        "max_new_tokens": section.max_new_tokens,
        "temperature": section.temperature,
        "seed": section.seed,
        "format": section.output_format,
    }
    requests: list[Request] = []
    for number, prompt in enumerate(prompts, start=1):
        messages = conversation(section, prompt)
        for sample in range(section.samples_per_prompt):
            digest = json_digest({**settings, "messages": messages, "sample": sample})
            requests.append(Request(prompt, len(requests), number, sample, str(digest)))
    return requests


def conversation(section: SyntheticSection, prompt: str) -> list[dict[str, str]]:
    """The messages that the teacher is asked to go on from."""
    system = [{"role": "system", "content": section.system_prompt}] if section.system_prompt else []
    return [*system, {"role": "user", "content": prompt}]
