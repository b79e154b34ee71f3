"""One tokenizer's chat template: conversations in, text out, the same on every day.

A template may ask for today's date (Llama 3.2, SmolLM3, gpt-oss do). Rows that change
with the day they are rendered on cannot be reproduced, so the date is always `DATE`, which
is what Llama's own templates say where nobody tells them the day: it is put into the
template's text in place of each call that asks for it.
"""

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forge_pipeline.errors import DataError
from forge_pipeline.integrity import Digest, json_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DATE = datetime.datetime(2024, 7, 26)

_NOW = re.compile(r"""strftime_now\(\s*(["'])([^"'\\]*)\1\s*\)""")
_CALL = re.compile(r"strftime_now\s*\(")
_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Marked:
    """A rendered conversation, and which characters its template's generation tags enclose."""

    text: str
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ChatTemplate:
    """Renders conversations.

    Attributes:
        plain: The template for conversations without tools.
        with_tools: The template for those with tools; another one where the tokenizer has several by name.
        asks_for_the_date: Whether `DATE` stands in them in place of a call.
        digest: What identifies the template as the tokenizer has it: its text, or its texts.
    """

    tokenizer: "PreTrainedTokenizerBase"
    plain: str
    with_tools: str
    asks_for_the_date: bool
    digest: Digest

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase") -> "ChatTemplate":
        """Raises DataError when the tokenizer has no chat template."""
        if not tokenizer.chat_template:
            raise DataError(
                "the rows are conversations, but the tokenizer has no chat template; set model.chat_template"
            )
        try:
            texts = tokenizer.get_chat_template(), tokenizer.get_chat_template(tools=[{}])
        except ValueError as error:
            raise DataError(f"the tokenizer has several chat templates and no default: {error}") from error
        plain, with_tools = (_NOW.sub(_dated, text) for text in texts)
        if _CALL.search(plain + with_tools):
            raise DataError(
                "the chat template computes the format in which it writes the current date, so its rows would change "
                "from day to day; write the date into the template (model.chat_template)"
            )
        digest = Digest.of(texts[0].encode()) if texts[0] == texts[1] else json_digest(list(texts))
        return cls(tokenizer, plain, with_tools, (plain, with_tools) != texts, digest)

    def text_of(self, tools: list[Any] | None) -> str:
        """The template for a conversation with these tools."""
        return self.with_tools if tools else self.plain

    def marks_turns(self, tools: list[Any] | None) -> bool:
        """Whether the template says itself, by generation tags, what the assistant wrote."""
        return bool(_GENERATION_TAG.search(self.text_of(tools)))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: list[Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        prompt: bool = False,
    ) -> str:
        """A conversation as text; as a prompt, with what asks the assistant to speak.

        Raises:
            DataError: The template refuses the conversation.
        """
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages),
                    tools=tools,
                    chat_template=self.text_of(tools),
                    tokenize=False,
                    add_generation_prompt=prompt,
                    **(options or {}),
                )
            )
        except Exception as error:
            raise self._refused(messages, error) from error

    def render_marked(
        self, messages: Sequence[Mapping[str, Any]], tools: list[Any] | None, options: Mapping[str, Any] | None
    ) -> Marked:
        """A conversation through a template with generation tags.

        Raises:
            DataError: The template refuses the conversation.
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        spoken = [{key: value for key, value in message.items() if value is not None} for message in messages]
        try:
            texts, spans = render_jinja_template(
                conversations=[spoken],
                tools=tools,
                chat_template=self.text_of(tools),
                return_assistant_tokens_mask=True,
                **{**self.tokenizer.special_tokens_map, **(options or {})},
            )
        except Exception as error:
            raise self._refused(messages, error) from error
        return Marked(str(texts[0]), tuple((int(start), int(end)) for start, end in spans[0] if end > start))

    def _refused(self, messages: Sequence[Mapping[str, Any]], error: Exception) -> DataError:
        roles = ", ".join(str(message.get("role")) for message in messages[:8])
        more = f" and {len(messages) - 8} more" if len(messages) > 8 else ""
        return DataError(
            f"the chat template refuses a conversation of {roles}{more}: {str(error) or type(error).__name__}"
        )


def _dated(call: re.Match[str]) -> str:
    """`DATE` as a text of Jinja, in the format that the call asks for."""
    return f'"{DATE.strftime(call[2])}"'
