"""What a teacher is: it takes requests as it becomes free, and gives an outcome for each.

The requests may end early, because whoever makes them has seen enough failures; a teacher
then gives the outcomes of those it has taken. Nothing here depends on the order of outcomes.
"""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from forge_pipeline.synthetic.prompts import in_unicode
from forge_pipeline.synthetic.requests import Request


class TeacherError(RuntimeError):
    """One request got no usable answer. The message says why and what to do, without the prompt."""


@dataclass(frozen=True)
class TeacherIdentity:
    """Who answers, as far as it can be known. None: it cannot.

    Attributes:
        name: As the recipe has it, but of an absolute path only the last part.
        backend: api, local or file.
        revision: Commit of a Hub model.
        digest: Of the model's or the file's bytes.
        endpoint: Host, and port where it is not the usual one.
    """

    name: str
    backend: str
    revision: str | None = None
    digest: str | None = None
    endpoint: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of one request: either `text`, stripped and never blank, or `error`.

    Attributes:
        finish_reason: ``stop``, or ``length`` where the answer was cut off; None where nobody says.
        answered_by: What the endpoint calls the model that answered.
    """

    request: Request
    text: str | None = None
    error: str | None = None
    finish_reason: str | None = None
    answered_by: str | None = None


class Teacher(Protocol):
    """Answers requests."""

    @property
    def identity(self) -> TeacherIdentity: ...

    def answers(self, requests: Iterable[Request]) -> Generator[list[Outcome], None, None]:
        """Outcomes in any order, some at a time. A request is taken when the teacher is free for it.

        Closing the generator ends whatever is under way.

        Raises:
            ConfigError: No request would fare better.
        """
        ...


def usable_text(content: Any, finish_reason: str | None = None) -> str:
    """The answer, stripped.

    Raises:
        TeacherError: There is none.
    """
    if finish_reason == "content_filter":
        raise TeacherError("the endpoint's content filter withheld the answer; reword the prompt or take it out")
    if not isinstance(content, str) or not content.strip():
        words = f" (finish_reason {finish_reason!r})" if finish_reason else ""
        advice = "raise synthetic.max_new_tokens" if finish_reason == "length" else "reword the prompt or take it out"
        raise TeacherError(f"the answer is empty{words}; {advice}")
    return in_unicode(content).strip()
