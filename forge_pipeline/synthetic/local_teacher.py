"""A model loaded here with transformers, which answers in batches.

Greedy at temperature 0, else sampled. An answer may depend on what else is in its batch
(padding, and the draws of the sampling), so batches are cut from all requests of the
recipe and each has a seed of its own: a run that goes on where another stopped makes the
same batches, and so the same answers, on the same machine and libraries.
"""

from collections.abc import Generator, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline.config.operation import SyntheticSection
from forge_pipeline.data.parts import shown_name
from forge_pipeline.errors import ConfigError, ModelError
from forge_pipeline.synthetic.requests import Request, conversation
from forge_pipeline.synthetic.teachers import Outcome, TeacherError, TeacherIdentity, usable_text

if TYPE_CHECKING:
    from forge_pipeline.config import ForgeConfig


class LocalTeacher:
    """See the module. Constructing it loads the model.

    Args:
        requests: All of the recipe, whether they are answered or not.

    Raises:
        ModelError: The model cannot be loaded.
        ConfigError: It has no chat template.
    """

    def __init__(self, config: "ForgeConfig", section: SyntheticSection, requests: Sequence[Request]) -> None:
        from forge_pipeline.models import load_base, resolve_base_model

        model = config.model.model_copy(
            update={"name_or_path": section.teacher_model, "revision": section.teacher_revision, "chat_template": None}
        )
        asked = config.model_copy(update={"model": model})
        try:
            found = resolve_base_model(asked)
            self._model, self._tokenizer = load_base(asked)
        except ModelError as error:
            raise ModelError(f"synthetic.teacher_model: {error}") from error
        if not self._tokenizer.chat_template:
            raise ConfigError(
                f"synthetic.teacher_model: {section.teacher_model!r} has no chat template; choose a chat model"
            )
        name = section.teacher_model
        shown = shown_name(name, Path(name)) if found.source == "local" else name
        self._identity = TeacherIdentity(shown, "local", found.revision, str(found.digest) if found.digest else None)
        self._section, self._requests = section, requests

    @property
    def identity(self) -> TeacherIdentity:
        return self._identity

    def answers(self, requests: Iterable[Request]) -> Generator[list[Outcome], None, None]:
        size = self._section.batch_size
        for number, group in groupby(requests, key=lambda request: request.position // size):
            wanted = {request.digest for request in group}
            outcomes = self._batch(number, self._requests[number * size : (number + 1) * size])
            yield [outcome for outcome in outcomes if outcome.request.digest in wanted]

    def _batch(self, number: int, requests: Sequence[Request]) -> list[Outcome]:
        outcomes, fitting, texts = [], [], []
        for request in requests:
            try:
                texts.append(self._rendered(request))
                fitting.append(request)
            except TeacherError as error:
                outcomes.append(Outcome(request, error=str(error)))
        for request, (text, reason) in zip(fitting, self._generate(number, texts), strict=True):
            try:
                outcomes.append(Outcome(request, usable_text(text, reason), finish_reason=reason))
            except TeacherError as error:
                outcomes.append(Outcome(request, error=str(error)))
        return outcomes

    def _rendered(self, request: Request) -> str:
        messages, longest = conversation(self._section, request.prompt), self._section.max_new_tokens
        try:
            text = str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # a template is a program and may raise anything
            raise TeacherError(
                f"the teacher's chat template refuses the conversation: {type(error).__name__}; many refuse a system "
                "message, so try without synthetic.system_prompt"
            ) from error
        length = len(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        room = getattr(self._model.config, "max_position_embeddings", None)
        if room is not None and length + longest > room:
            raise TeacherError(
                f"the prompt has {length} tokens, which leaves no room for {longest} in the teacher's {room}; shorten "
                "it or lower synthetic.max_new_tokens"
            )
        return text

    def _generate(self, number: int, texts: list[str]) -> list[tuple[str, str]]:
        """Answer and finish reason of each text."""
        import torch

        if not texts:
            return []
        settings, stops = self._settings()
        # The template has already written the special tokens. input_ids, attention_mask: (B, T).
        batch = self._tokenizer(
            texts,
            add_special_tokens=False,
            padding=True,
            padding_side="left",
            return_tensors="pt",
            return_token_type_ids=False,
        ).to(self._model.device)
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=devices):
                torch.manual_seed((self._section.seed or 0) * 1_000_003 + number)
                output = self._model.generate(**batch, generation_config=settings)
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"synthetic.batch_size: {len(texts)} prompts at a time do not fit into memory; lower it"
            ) from error
        new = output[:, batch["input_ids"].shape[1] :]  # (B, at most max_new_tokens)
        whole = [bool(stops.intersection(ids)) for ids in new.tolist()]
        answers = self._tokenizer.batch_decode(new, skip_special_tokens=True)
        return [(text, "stop" if ended else "length") for text, ended in zip(answers, whole, strict=True)]

    def _settings(self) -> tuple[Any, set[int]]:
        """What the recipe asks for, spelled out, because transformers fills gaps from the model's own config."""
        from transformers import GenerationConfig

        section, tokenizer = self._section, self._tokenizer
        own: Any = getattr(getattr(self._model, "generation_config", None), "eos_token_id", None)
        stops = {*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id} - {None}
        sampling: dict[str, Any] = {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50}
        if section.temperature > 0:
            sampling = {"do_sample": True, "temperature": section.temperature, "top_p": 1.0, "top_k": 0}
        settings = GenerationConfig(
            max_new_tokens=section.max_new_tokens,
            repetition_penalty=1.0,
            eos_token_id=sorted(stops) or None,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            **sampling,
        )
        return settings, stops
