"""TRL's dataset types × formats, and the column layouts in the wild that mean one of them.

TRL's own column names mean what TRL says: `prompt` + `completion` as text is *standard*
and is tokenized as it stands, without a chat template. Every other pair of columns
(instruction/output, question/answer, User/Assistant, ...) is one turn of a chat, hence
*conversational*.
"""

from dataclasses import dataclass
from typing import Literal

DatasetType = Literal["language modeling", "prompt-only", "prompt-completion", "preference", "unpaired preference"]
DatasetFormat = Literal["standard", "conversational"]


@dataclass(frozen=True)
class Shape:
    """One layout of columns that we can read.

    Attributes:
        name: What people call it.
        columns: The columns that make it recognisable, as they are usually written.
    """

    name: str
    columns: tuple[str, ...]
    dataset_type: DatasetType
    dataset_format: DatasetFormat

    @property
    def family(self) -> tuple[str, str]:
        """Rows of one family can stand in one dataset: every conversation is learnt the same way."""
        if self.dataset_format == "conversational" and self.dataset_type in ("language modeling", "prompt-completion"):
            return ("language modeling", "conversational")
        return (self.dataset_type, self.dataset_format)

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.columns)}: {self.dataset_type}, {self.dataset_format})"


# A user turn and the assistant's answer, in order of precedence; compared without case.
CHAT_PAIRS: tuple[tuple[str, str], ...] = (
    ("instruction", "output"),
    ("instruction", "response"),
    ("instruction", "completion"),
    ("instruction", "answer"),
    ("user", "assistant"),
    ("question", "answer"),
    ("question", "response"),
    ("prompt", "response"),
    ("input", "output"),
)
# Columns that belong to an instruction or question: Alpaca's input, Dolly's context.
CONTEXT_COLUMNS = ("input", "context")
CONVERSATION_COLUMNS = ("messages", "conversations", "conversation")
# ShareGPT's and its relatives' speakers. Roles that templates know stay as they are.
ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function": "tool",
    **{role: role for role in ("system", "developer", "user", "assistant", "tool")},
}

# Which dataset types each trainer type learns from.
TRAINER_DATASET_TYPES: dict[str, tuple[DatasetType, ...]] = {
    "sft": ("language modeling", "prompt-completion"),
    "dpo": ("preference",),
    "orpo": ("preference",),
    "simpo": ("preference",),
    "kto": ("unpaired preference",),
    "grpo": ("prompt-only", "prompt-completion"),
}
# What to write into a file for each dataset type, for error messages.
EXPECTED_COLUMNS: dict[DatasetType, str] = {
    "language modeling": "messages, or text",
    "prompt-completion": "prompt and completion, or instruction and output",
    "prompt-only": "prompt",
    "preference": "prompt, chosen and rejected",
    "unpaired preference": "prompt, completion and label (true or false)",
}
