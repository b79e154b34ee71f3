"""A chat template in parts, found by rendering it: what stands before and after each role's content.

Ollama has Go templates and cannot run Jinja. A template that only wraps contents, as nearly all do, is the
same in both; whether this one does is not guessed but proven: the parts have to give the very text that
Jinja gives, on conversations they were not found by.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forge_pipeline.errors import ExportError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Conversation = Sequence[dict[str, str]]
_U, _A, _V, _S = "FORGEUSERONE", "FORGEANSWER", "FORGEUSERTWO", "FORGESYSTEM"
_HARD = 'Grüße 你好 🙂 "quoted" \\n {{ x }} <b> it\'s\nnext line'


@dataclass(frozen=True)
class TurnFormat:
    """The text around contents. A conversation is a system message or none, then users and assistants in turn.

    Attributes:
        opening: Before the first user's turn where there is no system message; a default one stands here.
        system: Before and after a system message; None where the template takes none.
        user, assistant: Before and after their contents.
        generation: What the assistant's answer follows.
    """

    opening: str
    system: tuple[str, str] | None
    user: tuple[str, str]
    assistant: tuple[str, str]
    generation: str

    def render(self, conversation: Conversation) -> str:
        """As `apply_chat_template` with `add_generation_prompt`."""
        has_system = bool(conversation) and conversation[0]["role"] == "system"
        parts = [] if has_system else [self.opening]
        for message in conversation:
            before, after = getattr(self, message["role"])
            parts += [before, message["content"], after]
        return "".join([*parts, self.generation])

    def go_template(self, *, leave_out: str = "") -> str:
        """The template that Ollama runs.

        Args:
            leave_out: What stands first and is added by Ollama itself: the token that begins a text.
        """
        opening = _go(self.opening.removeprefix(leave_out))
        if self.system:
            before, after = self.system
            shown = f"{_go(before.removeprefix(leave_out))}{{{{ .System }}}}{_go(after)}"
            opening = f"{{{{ if .System }}}}{shown}{{{{ else }}}}{opening}{{{{ end }}}}"
        user = f"{_go(self.user[0])}{{{{ .Content }}}}{_go(self.user[1])}"
        assistant = f"{_go(self.assistant[0])}{{{{ .Content }}}}{_go(self.assistant[1])}"
        turns = f'{{{{ if eq .Role "user" }}}}{user}{{{{ else if eq .Role "assistant" }}}}{assistant}{{{{ end }}}}'
        return f"{opening}{{{{ range .Messages }}}}{turns}{{{{ end }}}}{_go(self.generation)}"


def turn_format(tokenizer: "PreTrainedTokenizerBase") -> TurnFormat:
    """The parts of a tokenizer's chat template.

    Raises:
        ExportError: There is no template, or it does more than put text around contents.
    """
    if not tokenizer.chat_template:
        raise ExportError(
            "the tokenizer has no chat template; set model.chat_template, or serve it for plain completion"
        )
    found = _parts(tokenizer)
    for conversation in _probes(found.system is not None):
        if (wanted := _rendered(tokenizer, conversation)) != found.render(conversation):
            roles = ", ".join(message["role"] for message in conversation)
            raise ExportError(
                f"the chat template does more than put text around contents (a conversation of {roles} becomes "
                f"{wanted[:200]!r}), so Ollama's template language cannot express it; serve it with llama.cpp or vLLM, "
                "which run the template itself"
            )
    return found


def _parts(tokenizer: "PreTrainedTokenizerBase") -> TurnFormat:
    user, second = {"role": "user", "content": _U}, {"role": "user", "content": _V}
    answer = {"role": "assistant", "content": _A}
    one, one_asked = (_text(tokenizer, [user], generation=each) or "" for each in (False, True))
    asked = _text(tokenizer, [user, answer, second], generation=True) or ""
    if not (one_asked.startswith(one) and all(each in asked for each in (_U, _A, _V)) and _U in one):
        raise ExportError(
            "the chat template changes or drops contents, so Ollama's template language cannot express it"
        )
    generation = one_asked[len(one) :]
    begin, after_user = one.split(_U)
    first, rest = asked.split(_A)
    between, last = rest.split(_V)
    before_answer = first.partition(_U)[2].removeprefix(after_user)
    before_user = _common_end(begin, between)
    opening, after_answer = begin.removesuffix(before_user), between.removesuffix(before_user)
    del last
    system = None
    with_system = _text(tokenizer, [{"role": "system", "content": _S}, user], generation=False)
    if with_system and _S in with_system:
        head, _, tail = with_system.partition(_S)
        system = (head, tail.partition(_U)[0].removesuffix(before_user))
    return TurnFormat(opening, system, (before_user, after_user), (before_answer, after_answer), generation)


def _probes(takes_system: bool) -> list[list[dict[str, str]]]:
    def turns(*contents: str) -> list[dict[str, str]]:
        return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(contents)]

    probes = [turns("a"), turns(_HARD), turns("a", "b", "c"), turns("a", _HARD, "c", "d", _HARD)]
    if takes_system:
        probes += [[{"role": "system", "content": each}, *turns("a", "b", "c")] for each in ("s", _HARD)]
    return probes


def _text(tokenizer: "PreTrainedTokenizerBase", conversation: Conversation, *, generation: bool) -> str | None:
    try:
        return str(tokenizer.apply_chat_template(list(conversation), tokenize=False, add_generation_prompt=generation))
    except Exception:  # a template is a program and may raise anything; what it refuses is not in its format
        return None


def _rendered(tokenizer: "PreTrainedTokenizerBase", conversation: Conversation) -> str:
    return _text(tokenizer, conversation, generation=True) or "(refused)"


def _common_end(one: str, other: str) -> str:
    length = 0
    while length < min(len(one), len(other)) and one[-1 - length] == other[-1 - length]:
        length += 1
    return one[len(one) - length :]


def _go(text: str) -> str:
    """Literal text in a Go template, inside the triple quotes of a Modelfile, whose parser drops unprintables."""
    if '"""' in text:
        raise ExportError('the chat template writes """, which a Modelfile cannot hold')
    parts = text.replace("{{", '{{ "{{" }}')
    return "".join(
        each if each.isprintable() or each in "\n\t" else f'{{{{ "\\U{ord(each):08x}" }}}}' for each in parts
    )
