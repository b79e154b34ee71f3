"""Empty and looping answers are told from ones that say something, in any script."""

import pytest

from forge_pipeline.evaluation.coherence import is_incoherent

COHERENT = {
    "one word": "Paris.",
    "a number": "42",
    "a refusal": "I'm sorry, I can't help with that. Please ask a person you trust, or call a local help line.",
    "a list with like lines": "".join(f"{n}. Take item {n} to room {n + 1}, then to {n * 7}.\n" for n in range(1, 12)),
    "a line of dashes in a table": "Name | Age\n" + "-" * 30 + "\nAda | 36\nAlan | 41\nGrace | 85\nKurt | 71",
    "Japanese": "東京は日本の首都であり、世界で最も人口の多い都市圏の一つです。多くの企業が本社を置いています。",
}
INCOHERENT = {
    "nothing": "",
    "white space": " \n\t ",
    "punctuation": "?!... --- ...",
    "one word over and over": "the " * 60,
    "one sentence over and over": "I like to eat apples in the park. " * 12,
    "one letter over and over": "a" * 300,
    "a loop without spaces": "東京" * 60,
    "a loop after a start": "Sure, here it is: " + "yes and " * 60,
}


@pytest.mark.parametrize("answer", COHERENT.values(), ids=COHERENT)
def test_an_answer_that_says_something_is_coherent(answer: str) -> None:
    assert not is_incoherent(answer)


@pytest.mark.parametrize("answer", INCOHERENT.values(), ids=INCOHERENT)
def test_an_answer_that_says_nothing_is_not(answer: str) -> None:
    assert is_incoherent(answer)


def test_a_long_answer_takes_no_long_time() -> None:
    import time

    started = time.process_time()
    for text in ("ab" * 10**6, "".join(chr(97 + i % 23) for i in range(10**6)), "a b " * 10**6):
        is_incoherent(text)
    assert time.process_time() - started < 1.0
