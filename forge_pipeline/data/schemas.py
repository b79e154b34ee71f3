"""TRL's dataset types × formats, and the column layouts in the wild that mean one of them.

TRL's own column names mean what TRL says: `prompt` + `completion` as text is *standard*
and is tokenized as it stands, without a chat template. Every other pair of columns
(instruction/output, question/answer, document/summary, ...) is one turn of a chat, hence
*conversational*.
"""

from dataclasses import dataclass
from typing import Literal

DatasetType = Literal[
    "language modeling",
    "prompt-only",
    "prompt-completion",
    "preference",
    "unpaired preference",
    "stepwise supervision",
]
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
    ("query", "response"),
    ("query", "answer"),
    ("prompt", "response"),
    ("problem", "solution"),
    ("problem", "generated_solution"),
    ("problem", "answer"),
    ("input", "output"),
    ("inputs", "targets"),
)
# A long text and what it comes down to (CNN/DailyMail, XSum, SAMSum, BillSum).
SUMMARY_PAIRS: tuple[tuple[str, str], ...] = tuple(
    (document, summary)
    for document in ("document", "article", "dialogue", "text")
    for summary in ("summary", "highlights")
)
# The preferred answer and the other one, as TRL and its peers write them.
PREFERENCE_PAIRS: tuple[tuple[str, str], ...] = (
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("response_chosen", "response_rejected"),
    ("accepted_response", "rejected_response"),
    ("accepted", "rejected"),
    ("preferred", "dispreferred"),
    ("response_j", "response_k"),
)
# Where the prompt of a preference row may stand, beside TRL's `prompt` and a conversation.
QUESTION_COLUMNS = ("instruction", "question", "query", "input")
# Columns that belong to an instruction or question: Alpaca's input, Dolly's and SQuAD's context.
CONTEXT_COLUMNS = ("input", "context")
SYSTEM_COLUMNS = ("system", "system_prompt")
CONVERSATION_COLUMNS = ("messages", "conversations", "conversation")
TEXT_COLUMNS = ("text", "content")
COMPLETION_COLUMNS = ("completion", "response")
# A verdict on one answer: TRL's `label`, LLaMA-Factory's `kto_tag`.
LABEL_COLUMNS = ("label", "kto_tag", "thumbs_up", "desirable")
# What a dataset of unanswerable questions (SQuAD 2.0) is answered with; FLAN's word for it.
UNANSWERABLE = "unanswerable"

# ShareGPT's and its relatives' speakers. Roles that templates know stay as they are.
ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "ipython": "tool",
    **{role: role for role in ("system", "developer", "user", "assistant", "tool")},
}
# Speakers whose text is a call, not words.
CALLING_ROLES = ("function_call", "tool_call")

# Which dataset types each trainer type learns from.
TRAINER_DATASET_TYPES: dict[str, tuple[DatasetType, ...]] = {
    "sft": ("language modeling", "prompt-completion"),
    "dpo": ("preference",),
    "orpo": ("preference",),
    "simpo": ("preference",),
    "kto": ("unpaired preference", "preference"),
    "grpo": ("prompt-only", "prompt-completion"),
    "pretraining": ("language modeling",),
    "reward": ("preference",),
    "rlhf": ("preference",),
}
# What to write into a file for each dataset type, for error messages.
EXPECTED_COLUMNS: dict[DatasetType, str] = {
    "language modeling": "messages, or text",
    "prompt-completion": "prompt and completion, or instruction and output",
    "prompt-only": "prompt",
    "preference": "prompt, chosen and rejected",
    "unpaired preference": "prompt, completion and label (true or false)",
    "stepwise supervision": "prompt, completions and labels (lists of one length)",
}
