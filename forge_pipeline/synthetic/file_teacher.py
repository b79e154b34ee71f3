"""Answers written already: rows with a prompt and a response, in the file `teacher_model` or else `seed_file`."""

from collections.abc import Generator, Iterable
from itertools import islice
from pathlib import Path

from forge_pipeline.config.operation import SyntheticSection
from forge_pipeline.data.parts import shown_name
from forge_pipeline.errors import ConfigError
from forge_pipeline.integrity import Digest
from forge_pipeline.synthetic.prompts import ANSWER_COLUMNS, PROMPT_COLUMNS, first_text, rows_in
from forge_pipeline.synthetic.requests import Request
from forge_pipeline.synthetic.teachers import Outcome, TeacherIdentity

_AT_A_TIME = 256  # outcomes, made durable together


class FileTeacher:
    """See the module. Where a prompt stands there several times, sample k takes its k-th answer.

    Raises:
        ConfigError: There is no such file, or it holds no pair of prompt and response.
        DataError: It is broken as a whole.
    """

    def __init__(self, section: SyntheticSection) -> None:
        name = section.teacher_model or section.seed_file
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"synthetic.teacher_model: there is no file {name!r} with prompts and responses")
        self._identity = TeacherIdentity(shown_name(name, path), "file", digest=str(Digest.of_file(path)))
        self._answers: dict[str, list[str]] = {}
        for row in rows_in(path):
            prompt, answer = first_text(row, PROMPT_COLUMNS), first_text(row, ANSWER_COLUMNS)
            if prompt and answer:
                self._answers.setdefault(prompt, []).append(answer)
        if not self._answers:
            raise ConfigError(
                f"synthetic.teacher_model: {name!r} holds no answers; expected rows with a prompt in one of the columns"
                f" {', '.join(PROMPT_COLUMNS)} and an answer in one of {', '.join(ANSWER_COLUMNS)}"
            )

    @property
    def identity(self) -> TeacherIdentity:
        return self._identity

    def answers(self, requests: Iterable[Request]) -> Generator[list[Outcome], None, None]:
        source = iter(requests)
        while some := list(islice(source, _AT_A_TIME)):
            yield [self._outcome(request) for request in some]

    def _outcome(self, request: Request) -> Outcome:
        found = self._answers.get(request.prompt, [])
        if request.sample < len(found):
            return Outcome(request, found[request.sample])
        words = f"holds {len(found)} responses to this prompt" if found else "holds no response to this prompt"
        return Outcome(request, error=f"the file {words}; add one, or take the prompt out")
