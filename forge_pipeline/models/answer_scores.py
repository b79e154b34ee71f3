"""Scores of answers and summaries: exact match and F1 as SQuAD has them, ROUGE through `rouge-score`.

Exact match and F1 (Rajpurkar et al. 2016, arXiv:1606.05250) compare texts without case,
punctuation and English articles; of several right answers the best counts; a question
without an answer is answered by no text at all (SQuAD 2.0, arXiv:1806.03822).

ROUGE's own tokenizer knows the letters a to z only, so that a Greek summary would always
score 0. Here words are runs of letters and digits of any script, and scripts that write no
spaces go character by character; for English text the scores are those of the package.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from forge_pipeline._optional import require

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WORDS = re.compile(r"[぀-ヿ㐀-鿿豈-﫿가-힣]|[^\W_぀-ヿ㐀-鿿豈-﫿가-힣]+")


def exact_match(answer: str, right: Sequence[str]) -> float:
    """1.0 where the answer is one of the right ones, else 0.0; no right answers mean that none should be given."""
    return max((float(normal(answer) == normal(each)) for each in right or ("",)), default=0.0)


def f1(answer: str, right: Sequence[str]) -> float:
    """The best harmonic mean of precision and recall of the answer's words, in [0, 1]."""
    return max(_f1(normal(answer).split(), normal(each).split()) for each in right or ("",))


def normal(text: str) -> str:
    """Lower case, without punctuation and English articles, with single spaces."""
    kept = "".join(char for char in text.lower() if not unicodedata.category(char).startswith("P"))
    return " ".join(_ARTICLES.sub(" ", kept).split())


def rouge(summaries: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Mean F-measures in [0, 1] by ROUGE type; empty without summaries.

    Raises:
        OptionalDependencyError: `rouge-score` is not installed.
    """
    if not summaries:
        return {}
    scoring = require("rouge_score.rouge_scorer", extra="train", purpose="ROUGE scores")
    scorer = scoring.RougeScorer(list(ROUGE_TYPES), tokenizer=_Words())
    totals: Counter[str] = Counter()
    for summary, reference in zip(summaries, references, strict=True):
        for name, score in scorer.score(reference, summary).items():
            totals[name] += score.fmeasure
    return {name: totals[name] / len(summaries) for name in ROUGE_TYPES}


class _Words:
    """What `rouge-score` asks of a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return _WORDS.findall(text.lower())


def _f1(given: list[str], right: list[str]) -> float:
    if not given or not right:
        return float(given == right)
    same = sum((Counter(given) & Counter(right)).values())
    if not same:
        return 0.0
    precision, recall = same / len(given), same / len(right)
    return 2 * precision * recall / (precision + recall)
