"""Questions to ForgeLM 0.11.1 that its report, which holds counts only, does not answer.

Runs in the peer's own environment; reads JSON lines, writes JSON lines.

    python peer_probe.py findings TEXTS.jsonl OUT.jsonl    per {"text", "start", "end"}: the categories that are
                                                           found more often with the span than with blanks in its place
    python peer_probe.py clean TEXTS.jsonl OUT.jsonl       per {"text"}: the categories found
    python peer_probe.py pairs TEXTS.jsonl OUT.jsonl       its MinHash pairs over all texts: [first, second]
    python peer_probe.py languages TEXTS.jsonl OUT.jsonl   per {"text"}: the language that it would report
"""

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any


def findings(texts: Iterable[dict[str, Any]]) -> Iterator[list[str]]:
    from forgelm import detect_pii, detect_secrets  # type: ignore[import-not-found]

    for item in texts:
        text, start, end = item["text"], item["start"], item["end"]
        blanked = text[:start] + " " * (end - start) + text[end:]
        found = []
        for detect in (detect_pii, detect_secrets):
            with_it, without = detect(text), detect(blanked)
            found += [kind for kind in with_it if with_it[kind] > without.get(kind, 0)]
        yield found


def clean(texts: Iterable[dict[str, Any]]) -> Iterator[list[str]]:
    from forgelm import detect_pii, detect_secrets

    for item in texts:
        yield [*detect_pii(item["text"]), *detect_secrets(item["text"])]


def pairs(texts: Iterable[dict[str, Any]]) -> Iterator[list[int]]:
    from forgelm import compute_minhash
    from forgelm.data_audit._minhash import find_near_duplicates_minhash  # type: ignore[import-not-found]

    signatures = [compute_minhash(item["text"]) for item in texts]
    for first, second, _ in find_near_duplicates_minhash(signatures):
        yield [first, second]


def languages(texts: Iterable[dict[str, Any]]) -> Iterator[str]:
    from forgelm.data_audit._streaming import _detect_language  # type: ignore[import-not-found]

    for item in texts:
        yield _detect_language(item["text"])


def main() -> None:
    question, source, target = sys.argv[1:4]
    asked = {"findings": findings, "clean": clean, "pairs": pairs, "languages": languages}[question]
    with open(source, encoding="utf-8") as file, open(target, "w", encoding="utf-8") as out:
        for answer in asked(json.loads(line) for line in file):
            out.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
