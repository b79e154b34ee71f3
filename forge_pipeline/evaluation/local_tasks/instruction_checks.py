"""Prompts with rules of form, and the program that checks an answer against them.

Each rule is a name and its arguments, so that a row of the task says all that it is
judged by. An empty answer keeps no rule, though it has no comma and no capital letter.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

Rule = tuple[str, Any]

_SUBJECTS = (
    "how bread is made",
    "why the sky is blue",
    "what a library is for",
    "how to look after a bicycle",
    "the life of a honey bee",
    "what a bridge must withstand",
    "how tides come about",
    "why people keep diaries",
    "how to prepare for a job interview",
    "what makes a good map",
    "how to grow tomatoes",
    "the use of a compass",
)
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)")
_BULLET = re.compile(r"^\s*[-*] +\S", re.MULTILINE)
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")


def dataset(**_: Any) -> "dict[str, Dataset]":
    """The rows, as lm-eval asks for them: prompt, and its rules as JSON."""
    from datasets import Dataset

    return {"test": Dataset.from_list(rows())}


def rows() -> list[dict[str, str]]:
    """Every subject with every combination of rules."""
    return [
        {"prompt": f"Write about {subject}. {_told(rules)}", "rules": json.dumps(rules)}
        for subject in _SUBJECTS
        for rules in _combinations(subject)
    ]


def process_results(doc: Mapping[str, str], results: Sequence[str]) -> dict[str, float]:
    """Whether every rule of a row holds for its answer, and the share that do."""
    held = [holds(rule, results[0]) for rule in json.loads(doc["rules"])]
    return {"prompt_strict": float(all(held)), "rule_share": sum(held) / len(held)}


def holds(rule: Sequence[Any], answer: str) -> bool:
    """Whether an answer keeps one rule."""
    name, wanted = rule
    text = answer.strip()
    return bool(text) and _CHECKS[name](text, wanted)


def _combinations(subject: str) -> list[list[Rule]]:
    word = max(subject.split(), key=len)  # a word that the answer would be likely to hold anyway
    return [
        [("sentences", 3)],
        [("bullets", 4)],
        [("most_words", 40), ("no_commas", None)],
        [("lower_case", None)],
        [("word_count", [word, 2])],
        [("ends_with", "That is all."), ("sentences", 4)],
        [("starts_with", "In short,"), ("most_words", 60)],
        [("json_keys", ["title", "text"])],
    ]


def _told(rules: Sequence[Rule]) -> str:
    return " ".join(_WORDS[name](wanted) for name, wanted in rules)


_WORDS: Mapping[str, Callable[[Any], str]] = {
    "sentences": lambda n: f"Use exactly {n} sentences.",
    "bullets": lambda n: f"Answer with exactly {n} bullet points, each on a line of its own that starts with a hyphen.",
    "most_words": lambda n: f"Use at most {n} words.",
    "no_commas": lambda _: "Do not use any commas.",
    "lower_case": lambda _: "Write in lower case only, without a single capital letter.",
    "word_count": lambda wanted: f'Use the word "{wanted[0]}" exactly {wanted[1]} times.',
    "ends_with": lambda end: f'End with exactly this sentence: "{end}"',
    "starts_with": lambda start: f'Begin with the words "{start}"',
    "json_keys": lambda keys: f"Answer with one JSON object that has the keys {' and '.join(keys)}, and nothing else.",
}


def _word_count(text: str, wanted: Sequence[Any]) -> bool:
    return bool([word.lower() for word in _WORD.findall(text)].count(wanted[0].lower()) == wanted[1])


def _json_keys(text: str, keys: Sequence[str]) -> bool:
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return isinstance(found, dict) and sorted(found) == sorted(keys)


_CHECKS: Mapping[str, Callable[[str, Any], bool]] = {
    "sentences": lambda text, n: len(_SENTENCE_END.findall(text)) == n and text[-1] in ".!?",
    "bullets": lambda text, n: len(_BULLET.findall(text)) == n == len([line for line in text.splitlines() if line]),
    "most_words": lambda text, n: len(_WORD.findall(text)) <= n,
    "no_commas": lambda text, _: "," not in text,
    "lower_case": lambda text, _: text == text.lower(),
    "word_count": _word_count,
    "ends_with": lambda text, end: text.endswith(end),
    "starts_with": lambda text, start: text.startswith(start),
    "json_keys": _json_keys,
}
