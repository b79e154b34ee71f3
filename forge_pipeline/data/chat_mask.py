"""Which tokens of a conversation the model learns: the assistant's turns, end of turn included.

Two ways to the same mask. A chat template with ``{% generation %}`` tags says itself what
the assistant wrote. For any other template a turn is found by rendering: what is added
between the prompt of the turn (with the generation prompt) and the end of that turn is the
assistant's, provided that the prompt is exactly how the whole begins.

Templates exist that render a turn differently once more follows: Qwen3 drops what was
thought in earlier turns, Mistral moves the system prompt to the last question, Phi-3 ends
the text with one more token. A turn is learnt only in a text that begins with its own
prompt and holds the turn as it was first rendered; a turn that the whole conversation does
not hold so is learnt in a row of its own, which ends with it. So what is learnt is always what the
model sees and says when it speaks. What cannot be found so is refused, not guessed at.

Laws: a turn's mask ends with its end-of-turn token, because a model that never learns it
never stops; nothing after that token (a line break, usually) is learnt; what is learnt
holds the assistant's words; what tools, users and the system say is never learnt.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from forge_pipeline.data.chat_template import ChatTemplate
from forge_pipeline.data.messages import Message, is_learnt
from forge_pipeline.data.token_batches import TokenizedText, tokenize_texts
from forge_pipeline.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ADVICE = (
    "Set model.chat_template to a training template with {% generation %} tags around the assistant's turns, "
    "or set training.assistant_only_loss: false"
)
_THOUGHT_BEGINS, _THOUGHT_ENDS = "<think>", "</think>"
_THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")

Span = tuple[int, int]


@dataclass(frozen=True)
class Conversation:
    """What is to be learnt from one row.

    Attributes:
        learn_from: Number of the first message that may be learnt; those before it are the prompt.
        tools: Tool definitions for the template.
        options: Further variables of the template, such as ``enable_thinking``.
    """

    messages: Sequence[Message]
    learn_from: int = 0
    tools: list[Any] | None = None
    options: dict[str, Any] | None = None

    @property
    def turns(self) -> list[int]:
        """Numbers of the messages to learn. An opening word of the assistant answers nobody, and is context."""
        first = max(self.learn_from, 1)
        return [
            i
            for i, message in enumerate(self.messages)
            if i >= first and message["role"] == "assistant" and is_learnt(message)
        ]


@dataclass(frozen=True)
class Rendering:
    """A conversation, or the beginning of one, as text, and which characters of it are learnt.

    Attributes:
        are_turns: Every span is a turn of the assistant, and must end with an end-of-turn token.
    """

    text: str
    spans: tuple[Span, ...]
    are_turns: bool


@dataclass(frozen=True)
class Tokens:
    """One row to train on: T token ids, and the spans [from, to) of those that are learnt, in order."""

    input_ids: Sequence[int]
    spans: tuple[Span, ...]

    @property
    def mask(self) -> list[bool]:
        """Whether each token is learnt, of length T."""
        return [any(start <= t < stop for start, stop in self.spans) for t in range(len(self.input_ids))]


@dataclass(frozen=True)
class ChatMasker:
    """Renders conversations with one tokenizer's chat template and finds what the assistant says in them.

    Attributes:
        end_tokens: Ids of special tokens by their text; a turn must end with one of them.
    """

    tokenizer: "PreTrainedTokenizerBase"
    template: ChatTemplate
    end_tokens: dict[str, int]

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase") -> "ChatMasker":
        """Raises DataError when the tokenizer has no chat template."""
        template = ChatTemplate.of(tokenizer)
        special = {str(token): i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        named = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        return cls(tokenizer, template, {text: i for text, i in (special | named).items() if text.strip()})

    def renderings(self, conversation: Conversation, *, assistant_only: bool) -> list[Rendering]:
        """One text, or several where the template renders earlier turns differently later on; shortest first.

        Args:
            assistant_only: Learn assistant turns only; else everything from `learn_from` on.

        Raises:
            DataError: The template refuses the conversation, or its turns cannot be told apart.
        """
        if not assistant_only:
            return [self._from_message(conversation)]
        if self.template.marks_turns(conversation.tools):
            marked = self._marked(conversation)
            if marked is not None:
                return [marked]
        return _Turns(self, conversation).renderings()

    def tokens(self, renderings: Sequence[Rendering]) -> list[Tokens | DataError]:
        """Token ids and what is learnt of them, all in one call of the tokenizer.

        A text whose turns do not end with an end-of-turn token gives the error, not an exception: the others go on.
        """
        # The template writes its own beginning-of-sequence token.
        encoded = tokenize_texts(self.tokenizer, [each.text for each in renderings], add_special_tokens=False)
        return [self._tokens(each, text) for each, text in zip(renderings, encoded, strict=True)]

    def _tokens(self, rendering: Rendering, text: TokenizedText) -> Tokens | DataError:
        spans = tuple((text.token_at(start), text.token_after(stop)) for start, stop in rendering.spans)
        ends = self._end_ids
        for (_, stop), chars in zip(spans, rendering.spans, strict=True):
            if rendering.are_turns and (not stop or text.ids[stop - 1] not in ends):
                return _no_end_of_turn(rendering.text[slice(*chars)])
        return Tokens(text.ids, spans)

    @cached_property
    def _end_ids(self) -> frozenset[int]:
        return frozenset(self.end_tokens.values())

    @cached_property
    def _end_texts(self) -> tuple[str, ...]:
        return tuple(self.end_tokens)

    @cached_property
    def _end_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.end_tokens, key=lambda text: (-len(text), text))
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def _from_message(self, conversation: Conversation) -> Rendering:
        for message in conversation.messages[conversation.learn_from :]:
            if message["role"] == "assistant" and not is_learnt(message):
                raise DataError(
                    "a turn of the assistant has weight 0, but training.assistant_only_loss: false learns everything; "
                    "set it to true"
                )
        text = self.template.render(conversation.messages, conversation.tools, conversation.options)
        return Rendering(text, ((self._prompt_length(text, conversation), len(text)),), are_turns=False)

    def _prompt_length(self, text: str, conversation: Conversation) -> int:
        """Number of characters before the first message that may be learnt."""
        if conversation.learn_from == 0:
            return 0
        prompt = self.template.render(
            conversation.messages[: conversation.learn_from], conversation.tools, conversation.options, prompt=True
        )
        if not text.startswith(prompt):
            raise _other_prompt(conversation.learn_from)
        return len(prompt)

    def _marked(self, conversation: Conversation) -> Rendering | None:
        """The whole conversation with the turns that the template's tags enclose.

        None where the template leaves out some of what the assistant thought or said, as it does in earlier turns.
        """
        marked = self.template.render_marked(conversation.messages, conversation.tools, conversation.options)
        speaking = [i for i, message in enumerate(conversation.messages) if message["role"] == "assistant"]
        spans = _merged(marked.spans)
        if len(spans) < len(speaking):
            found = f"only {len(spans)} of {len(speaking)}" if spans else "nothing"
            raise DataError(f"the chat template's {{% generation %}} tags mark {found} of the assistant's turns")
        if len(spans) == len(speaking):
            wanted = set(conversation.turns)
            kept = [(span, i) for span, i in zip(spans, speaking, strict=True) if i in wanted]
            if any(_words_in(marked.text[slice(*span)], conversation.messages[i]) is None for span, i in kept):
                return None
            spans = [(self._after_prompt(marked.text, start, i, conversation), stop) for (start, stop), i in kept]
        elif any(not is_learnt(conversation.messages[i]) for i in speaking):
            raise DataError(
                "the chat template marks one turn in several pieces, so no turn can be left out by its weight"
            )
        else:
            first = self._prompt_length(marked.text, conversation)
            spans = [(start, stop) for start, stop in spans if start >= first]
        return Rendering(marked.text, tuple(self._through_end(marked.text, span) for span in spans), are_turns=True)

    def _after_prompt(self, text: str, start: int, turn: int, conversation: Conversation) -> int:
        """Where the turn begins: after what it shares with its prompt, where the tags enclose the end of that too."""
        prompt = self.template.render(
            conversation.messages[:turn], conversation.tools, conversation.options, prompt=True
        )
        return max(start, _common_length(text, prompt))

    def _through_end(self, text: str, span: Span) -> Span:
        """The span up to its end-of-turn token; what follows that token in it must be blank."""
        start, stop = span
        turn = text[start:stop].rstrip()
        if not turn.endswith(self._end_texts):
            raise _no_end_of_turn(turn)
        return start, start + len(turn)


@dataclass
class _Turns:
    """Finds the turns of one conversation by rendering its beginnings."""

    masker: ChatMasker
    conversation: Conversation
    _rendered: dict[tuple[int, bool], str] = field(default_factory=dict)

    def renderings(self) -> list[Rendering]:
        remaining = self.conversation.turns
        length = len(self.conversation.messages)
        if not remaining:
            return [Rendering(self._render(length), (), are_turns=True)]
        found: list[Rendering] = []
        while remaining:
            text = self._render(length)
            spans = {i: span for i in remaining if (span := self._span(text, i, length)) is not None}
            if spans:
                found.append(Rendering(text, tuple(spans.values()), are_turns=True))
                remaining = [i for i in remaining if i not in spans]
            length = remaining[-1] + 1 if remaining else 0
        return found[::-1]

    def _span(self, text: str, turn: int, length: int) -> Span | None:
        """Where the turn stands in the text of the first `length` messages.

        None: the text renders it differently, and a shorter text is to be tried.

        Raises:
            DataError: The text ends with the turn, and still it cannot be found.
        """
        is_last = turn + 1 == length
        message = self.conversation.messages[turn]
        prompt = self._render(turn, prompt=True)
        if not text.startswith(prompt):
            return self._absent(is_last, lambda: _other_prompt(turn))
        start = len(prompt)
        end = self._end(text, start, text if is_last else self._render(turn + 1))
        if end is None:
            return self._absent(is_last, lambda: _no_end_of_turn(text[start:]))
        words = text[start:end]
        at = _words_in(words, message)
        if at is None:
            return self._absent(is_last, lambda: _other_words(turn))
        if words[:at].strip() and prompt == self._render(turn):
            raise DataError(
                f"the chat template adds nothing when it asks the assistant to speak, but begins its turns with "
                f"{words[:at].strip()[-40:]!r}, which would be learnt as if it were the assistant's. {_ADVICE}"
            )
        return start, end

    def _end(self, text: str, start: int, through: str) -> int | None:
        """Where the turn that begins at `start` ends: right after its end-of-turn token; None where it has none.

        Args:
            through: The conversation up to and with the turn. Where `text` goes on differently, only special tokens
                and white space may be left of it.
        """
        if text.startswith(through):
            turn = text[start : len(through)].rstrip()
            return start + len(turn) if turn.endswith(self.masker._end_texts) else None
        stop = _common_length(text, through)
        ends = [found.end() for found in self.masker._end_pattern.finditer(text, start, stop)]
        rests = (self.masker._end_pattern.sub("", through[end:]) for end in reversed(ends))
        return next((end for end, rest in zip(reversed(ends), rests, strict=True) if not rest.strip()), None)

    @staticmethod
    def _absent(is_last: bool, error: Callable[[], DataError]) -> None:
        if is_last:
            raise error()

    def _render(self, length: int, *, prompt: bool = False) -> str:
        """The first `length` messages, rendered once."""
        if (length, prompt) not in self._rendered:
            conversation = self.conversation
            self._rendered[length, prompt] = self.masker.template.render(
                conversation.messages[:length], conversation.tools, conversation.options, prompt=prompt
            )
        return self._rendered[length, prompt]


def _words_in(turn: str, message: Message) -> int | None:
    """Where a message's words begin in its rendered turn; None if they, a thought or a call of it are not in it.

    What was thought may be set apart from the words by the template.
    """
    if any(call["function"]["name"] not in turn for call in message.get("tool_calls") or ()):
        return None
    thought, end, spoken = message["content"].rpartition(_THOUGHT_ENDS)
    thoughts = (thought.replace(_THOUGHT_BEGINS, ""), *(message.get(name) for name in _THOUGHT_KEYS))
    if any(isinstance(each, str) and each.strip() not in turn for each in thoughts):
        return None
    words = message["content"].strip()
    if not words:
        return 0
    # After the words may come calls, which repeat any of them; before the words only what leads up to them.
    find = turn.find if message.get("tool_calls") else turn.rfind
    found = (find(words), find(spoken.strip()) if end else -1)
    return next((at for at in found if at >= 0), None)


def _common_length(first: str, second: str) -> int:
    """How many leading characters two texts share, by bisection: comparing slices is fast."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first.startswith(second[low:middle], low):
            low = middle
        else:
            high = middle - 1
    return low


def _merged(spans: Sequence[Span]) -> list[Span]:
    """Spans in order, those that touch made one."""
    merged: list[Span] = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def _no_end_of_turn(turn: str) -> DataError:
    return DataError(
        f"the assistant's turn {turn[-60:]!r} does not end with a special end-of-turn token inside the loss "
        "mask, so the model would never learn to stop. Use a chat template that ends the assistant's turn "
        "with one, inside its {% generation %} tags if it has them (model.chat_template)"
    )


def _other_prompt(turn: int) -> DataError:
    return DataError(
        f"what the chat template asks message {turn} with is not how it begins the conversation once the answer is "
        "there, so the model would learn to answer another prompt than it is given; the assistant's tokens cannot be "
        f"told apart. {_ADVICE}"
    )


def _other_words(turn: int) -> DataError:
    return DataError(
        f"the chat template does not render the words or the calls of message {turn} as they are, so something else "
        f"would be learnt. {_ADVICE}"
    )
