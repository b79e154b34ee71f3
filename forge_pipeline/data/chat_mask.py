"""Which tokens of a conversation the model learns: the assistant's turns, end of turn included.

Two ways to the same mask. A chat template with ``{% generation %}`` tags says itself what
the assistant wrote. For any other template the conversation is rendered prefix by prefix:
what is added between the prompt of a turn (with the generation prompt) and the end of
that turn is the assistant's. That needs every such rendering to be the beginning of the
whole one; a template that renders history differently is refused, not guessed at.

Laws: a turn's mask ends with its end-of-turn token, because a model that never learns it
never stops; nothing after that token (a line break, usually) is learnt.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forge_pipeline.data.examples import common_prefix_length
from forge_pipeline.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")
_ADVICE = (
    "Set model.chat_template to a training template with {% generation %} tags around the assistant's turns, "
    "or set training.assistant_only_loss: false"
)


@dataclass(frozen=True)
class Tokens:
    """One row. `mask[t]` says whether token `input_ids[t]` is learnt; both of length T."""

    input_ids: list[int]
    mask: list[bool]


@dataclass(frozen=True)
class ChatMasker:
    """Renders conversations with one tokenizer's chat template.

    Attributes:
        end_tokens: Ids of special tokens; a turn must end with one of them.
        template_marks_turns: The template has generation tags.
    """

    tokenizer: "PreTrainedTokenizerBase"
    template: str
    end_tokens: frozenset[int]
    template_marks_turns: bool

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase") -> "ChatMasker":
        """Raises DataError when the tokenizer has no chat template."""
        if not tokenizer.chat_template:
            raise DataError(
                "the rows are conversations, but the tokenizer has no chat template; set model.chat_template"
            )
        template = tokenizer.get_chat_template()
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        ends = frozenset(special | set(tokenizer.all_special_ids))
        return cls(tokenizer, template, ends, bool(_GENERATION_TAG.search(template)))

    def tokens(
        self, messages: Sequence[dict[str, Any]], *, learn_from: int, assistant_only: bool, tools: list[Any] | None
    ) -> Tokens:
        """Token ids and mask of one conversation.

        Args:
            messages: The whole conversation.
            learn_from: Number of the first message that may be learnt; those before it are the prompt.
            assistant_only: Learn assistant turns only; else everything from `learn_from` on.
            tools: Tool definitions for the template.

        Raises:
            DataError: The template refuses the conversation, or its turns cannot be told apart.
        """
        if not assistant_only:
            return self._from_message(messages, learn_from, tools)
        if self.template_marks_turns:
            return self._marked(messages, learn_from, tools)
        return self._by_prefix(messages, learn_from, tools)

    def length(self, messages: Sequence[dict[str, Any]], *, prompt: bool = False) -> int:
        """Tokens in the rendered conversation; as a prompt, with what asks the assistant to speak."""
        return len(self._ids(self._render(messages, None, prompt=prompt)))

    def _from_message(self, messages: Sequence[dict[str, Any]], first: int, tools: list[Any] | None) -> Tokens:
        ids = self._ids(self._render(messages, tools))
        start = self._prompt_length(ids, messages, first, tools)
        return Tokens(ids, [t >= start for t in range(len(ids))])

    def _marked(self, messages: Sequence[dict[str, Any]], first: int, tools: list[Any] | None) -> Tokens:
        encoded = self._apply(messages, tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        ids, mask = list(encoded["input_ids"]), list(encoded["assistant_masks"])
        if 1 not in mask and any(message["role"] == "assistant" for message in messages):
            raise DataError("the chat template's {% generation %} tags mark nothing of the assistant's turns")
        start = self._prompt_length(ids, messages, first, tools)
        learnt = [False] * len(ids)
        for begin, until in _runs([bool(bit) and t >= start for t, bit in enumerate(mask)]):
            until = self._end_of_turn(ids, begin, until)
            learnt[begin:until] = [True] * (until - begin)
        return Tokens(ids, learnt)

    def _prompt_length(
        self, ids: list[int], messages: Sequence[dict[str, Any]], first: int, tools: list[Any] | None
    ) -> int:
        """Number of tokens before message `first`."""
        if first == 0:
            return 0
        return common_prefix_length(self._ids(self._render(messages[:first], tools, prompt=True)), ids)

    def _by_prefix(self, messages: Sequence[dict[str, Any]], first: int, tools: list[Any] | None) -> Tokens:
        text = self._render(messages, tools)
        ids = self._ids(text)
        learnt = [False] * len(ids)
        for i, message in enumerate(messages):
            if message["role"] != "assistant" or i < max(first, 1):  # an opening word of the assistant answers nobody
                continue
            start = self._boundary(text, ids, self._render(messages[:i], tools, prompt=True), i)
            through = text if i + 1 == len(messages) else self._render(messages[: i + 1], tools)
            end = self._end_of_turn(ids, start, self._boundary(text, ids, through, i))
            learnt[start:end] = [True] * (end - start)
        return Tokens(ids, learnt)

    def _boundary(self, text: str, ids: list[int], prefix: str, turn: int) -> int:
        """Number of tokens of `ids` that `prefix` accounts for.

        Where a token reaches across the boundary (a line break of the template merged with one of the
        answer), it belongs to the answer, as in TRL.
        """
        if not text.startswith(prefix):
            raise DataError(
                f"the chat template renders the conversation up to message {turn} differently when more follows, "
                f"so the assistant's tokens cannot be told apart. {_ADVICE}"
            )
        return common_prefix_length(self._ids(prefix), ids)

    def _end_of_turn(self, ids: list[int], start: int, end: int) -> int:
        """Where the turn in ``ids[start:end]`` ends: right after its end-of-turn token."""
        last = next((t for t in range(end - 1, start - 1, -1) if ids[t] in self.end_tokens), None)
        if last is None or self.tokenizer.decode(ids[last + 1 : end]).strip():
            turn = self.tokenizer.decode(ids[start:end])
            raise DataError(
                f"the assistant's turn {turn[-60:]!r} does not end with a special end-of-turn token inside the loss "
                "mask, so the model would never learn to stop. Use a chat template that ends the assistant's turn "
                "with one, inside its {% generation %} tags if it has them (model.chat_template)"
            )
        return last + 1

    def _render(self, messages: Sequence[dict[str, Any]], tools: list[Any] | None, *, prompt: bool = False) -> str:
        return str(self._apply(messages, tools, tokenize=False, add_generation_prompt=prompt))

    def _apply(self, messages: Sequence[dict[str, Any]], tools: list[Any] | None, **options: Any) -> Any:
        import jinja2

        try:
            return self.tokenizer.apply_chat_template(
                list(messages), tools=tools, chat_template=self.template, **options
            )
        except (jinja2.TemplateError, TypeError, KeyError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise DataError(f"the chat template refuses a conversation of {roles}: {error}") from error

    def _ids(self, text: str) -> list[int]:
        # The template writes its own beginning-of-sequence token.
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _runs(mask: Sequence[bool]) -> list[tuple[int, int]]:
    """Start and end of every run of True."""
    edges = [t for t in range(len(mask) + 1) if (t < len(mask) and mask[t]) != (t > 0 and mask[t - 1])]
    return list(zip(edges[::2], edges[1::2], strict=True))
