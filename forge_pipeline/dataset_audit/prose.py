"""The prose of a text: what is left of it without its fenced code blocks."""

import re

# Possessive, so that a long row of tildes is not tried at every length.
_FENCE = re.compile(r"^(?P<fence>`{3,}+|~{3,}+)[^\n]*+\n.*?(?:^(?P=fence)[^\n]*$|\Z)", re.MULTILINE | re.DOTALL)


def without_code(text: str) -> str:
    """`text` without its code blocks, which reach from a fence to the next like it, or to the end."""
    return _FENCE.sub("", text) if "```" in text or "~~~" in text else text
