"""Who answers: an HTTP endpoint that speaks OpenAI's chat completions, a local model, or a file.

A teacher answers one prompt or raises: `TeacherError` for this prompt (it is recorded
and the next one is asked), `ConfigError` where no prompt would fare better.
"""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from forge_pipeline.config.operation import SyntheticSection
from forge_pipeline.errors import ConfigError
from forge_pipeline.synthetic.prompts import ANSWER_COLUMNS, PROMPT_COLUMNS, first_text, rows_in

if TYPE_CHECKING:
    from forge_pipeline.config import ForgeConfig

DEFAULT_API_BASE = "https://api.openai.com/v1"
_ATTEMPTS = 4
_LONGEST_WAIT = 60.0  # seconds
_MOST_BYTES = 16 << 20
_WORTH_RETRYING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_HOPELESS = {401: "the key was refused", 403: "the key may not use this model", 404: "there is no such model or path"}


class TeacherError(RuntimeError):
    """One prompt got no usable answer. The message says why, without the prompt."""


class Teacher(Protocol):
    """Answers prompts, one at a time."""

    def answer(self, prompt: str) -> str:
        """The answer, stripped, never blank.

        Raises:
            TeacherError: This prompt got no usable answer.
            ConfigError: No prompt will.
        """
        ...


def build_teacher(config: "ForgeConfig", section: SyntheticSection) -> Teacher:
    """The teacher that the recipe names.

    Raises:
        ConfigError: It cannot be used as described.
        ModelError: The local model cannot be loaded.
    """
    if section.teacher_backend == "api":
        return ApiTeacher(section, _api_key(section))
    if section.teacher_backend == "local":
        return LocalTeacher(config, section)
    return FileTeacher(section)


def conversation(section: SyntheticSection, prompt: str) -> list[dict[str, str]]:
    """The messages that the teacher is asked to go on from."""
    system = [{"role": "system", "content": section.system_prompt}] if section.system_prompt else []
    return [*system, {"role": "user", "content": prompt}]


def _api_key(section: SyntheticSection) -> str | None:
    if section.api_key_env is None:
        return section.api_key
    key = os.environ.get(section.api_key_env)
    if not key:
        raise ConfigError(f"synthetic.api_key_env: the environment variable {section.api_key_env} is not set")
    return key


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


@dataclass
class ApiTeacher:
    """An OpenAI-compatible endpoint: POST ``{api_base}/chat/completions``.

    A request that times out, is refused for the moment (429) or meets a server error is
    sent again up to three times, waiting 1, 2 and 4 seconds or as long as the peer asks
    (at most a minute). Redirects are not followed.
    """

    section: SyntheticSection
    key: str | None = field(repr=False)
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        base = (self.section.api_base or DEFAULT_API_BASE).rstrip("/")
        if not base.startswith(("http://", "https://")):
            raise ConfigError(
                f"synthetic.api_base: found {base!r}; expected a URL that begins with https:// or http://"
            )
        self._url = base if base.endswith("/chat/completions") else f"{base}/chat/completions"
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._asked = False

    def answer(self, prompt: str) -> str:
        if self._asked and self.section.api_delay:
            self.sleep(self.section.api_delay)
        self._asked = True
        body = {
            "model": self.section.teacher_model,
            "messages": conversation(self.section, prompt),
            "max_tokens": self.section.max_new_tokens,
            "temperature": self.section.temperature,
        }
        return _answer_in(self._post(json.dumps(body).encode()))

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(self._url, data=body, headers=headers, method="POST")
        for attempt in range(_ATTEMPTS):
            wait = 2.0**attempt
            try:
                with self._opener.open(request, timeout=self.section.api_timeout) as response:
                    data: bytes = response.read(_MOST_BYTES + 1)
                if len(data) > _MOST_BYTES:
                    raise TeacherError(f"the answer is longer than {_MOST_BYTES >> 20} MiB")
                return data
            except urllib.error.HTTPError as error:
                if error.code in _HOPELESS:
                    raise ConfigError(
                        f"synthetic.api_base: {self._url} answered {error.code}: {_HOPELESS[error.code]}"
                    ) from error
                if error.code not in _WORTH_RETRYING:
                    raise TeacherError(f"the endpoint answered {error.code} {error.reason}") from error
                reason, wait = f"the endpoint answered {error.code} {error.reason}", _wait(error.headers, wait)
            except (OSError, HTTPException) as error:
                reason = f"the endpoint could not be reached or did not answer in {self.section.api_timeout} s: {error}"
            if attempt + 1 < _ATTEMPTS:
                self.sleep(min(wait, _LONGEST_WAIT))
        raise TeacherError(f"{reason}, {_ATTEMPTS} times")


def _wait(headers: Message, otherwise: float) -> float:
    """Seconds that the peer asks us to wait."""
    asked = headers.get("Retry-After", "")
    return float(asked) if asked.isascii() and asked.isdigit() else otherwise


def _answer_in(data: bytes) -> str:
    try:
        content = json.loads(data)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        raise TeacherError("the endpoint's answer is not a chat completion: no choices[0].message.content") from error
    return _not_blank(content)


def _not_blank(content: Any) -> str:
    if not isinstance(content, str) or not content.strip():
        raise TeacherError("the answer is empty")
    return content.strip()


class LocalTeacher:
    """A model loaded here with transformers; greedy at temperature 0, else sampled with one seed for every prompt."""

    def __init__(self, config: "ForgeConfig", section: SyntheticSection) -> None:
        from forge_pipeline.models import load_base

        model = config.model.model_copy(
            update={"name_or_path": section.teacher_model, "revision": section.teacher_revision, "chat_template": None}
        )
        self._section = section
        self._model, self._tokenizer = load_base(config.model_copy(update={"model": model}))
        if not self._tokenizer.chat_template:
            raise ConfigError(
                f"synthetic.teacher_model: {section.teacher_model!r} has no chat template; choose a chat model"
            )

    def answer(self, prompt: str) -> str:
        import torch

        section, tokenizer = self._section, self._tokenizer
        inputs = tokenizer.apply_chat_template(
            conversation(section, prompt), add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(self._model.device)
        length = inputs["input_ids"].shape[1]
        room = getattr(self._model.config, "max_position_embeddings", None)
        if room is not None and length + section.max_new_tokens > room:
            raise TeacherError(
                f"the prompt has {length} tokens, which leaves no room for {section.max_new_tokens} in {room}"
            )
        sampling = (
            {"do_sample": True, "temperature": section.temperature} if section.temperature else {"do_sample": False}
        )
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            output = self._model.generate(
                **inputs, max_new_tokens=section.max_new_tokens, pad_token_id=tokenizer.pad_token_id, **sampling
            )
        return _not_blank(tokenizer.decode(output[0][length:], skip_special_tokens=True))


class FileTeacher:
    """Answers written already: rows with a prompt and a response, in the file `teacher_model` or else `seed_file`."""

    def __init__(self, section: SyntheticSection) -> None:
        name = section.teacher_model or section.seed_file
        if not Path(name).is_file():
            raise ConfigError(f"synthetic.teacher_model: there is no file {name!r} with prompts and responses")
        pairs = ((first_text(row, PROMPT_COLUMNS), first_text(row, ANSWER_COLUMNS)) for row in rows_in(Path(name)))
        self._answers = {prompt: answer for prompt, answer in pairs if prompt and answer}

    def answer(self, prompt: str) -> str:
        if prompt not in self._answers:
            raise TeacherError("the file holds no response to this prompt")
        return self._answers[prompt]
