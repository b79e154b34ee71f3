"""Where in a text a search is worth its while.

A gate is an RE2 pattern: whatever the search could find, the gate matches at its anchor, and the
search looks around anchors only. RE2 takes linear time whatever the text. Its automaton grows with
what it reads and is kept as long as the process, which is why a column goes through it as one buffer,
and not through Arrow's regular expressions, which build theirs anew with each call.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_MEMORY = 256 << 20  # bytes that the automaton may grow to; past them RE2 starts it anew


@dataclass(frozen=True)
class Gate:
    """An RE2 pattern, compiled when it is first used."""

    pattern: str

    @cached_property
    def _match(self) -> Callable[[Any, int, int], int]:
        import re2  # type: ignore[import-untyped]  # google-re2 has no stubs

        options = re2.Options()
        options.max_mem = _MEMORY
        compiled = re2.compile(self.pattern, options)
        # The method under `search`, which spends more time on its match object than RE2 on a text.
        match, anywhere = compiled._regexp.Match, re2._Anchor.UNANCHORED
        return lambda data, start, end: int(match(anywhere, data, start, end)[0][0])

    def first(self, data: Any, start: int, end: int) -> int:
        """Offset of the first anchor in ``data[start:end]``, or -1. `data` holds UTF-8."""
        return self._match(data, start, end)

    def walk(self, text: str, visit: Callable[[int], int]) -> None:
        """Call `visit` with the index of each anchor in `text`; it returns the index to go on from, past the anchor."""
        data = text.encode("utf-8", errors="surrogatepass")
        anchor = self._match(data, 0, len(data))
        if anchor >= 0:
            self.walk_from(text, data, anchor, (0, len(data)), visit)

    def walk_from(self, text: str, data: Any, anchor: int, span: tuple[int, int], visit: Callable[[int], int]) -> None:
        """As `walk`, for a text that lies at ``data[span[0]:span[1]]`` and has its first anchor at offset `anchor`."""
        start, end = span
        only_ascii = end - start == len(text)
        index = anchor - start if only_ascii else _characters(data, start, anchor)
        while anchor >= 0:
            following = visit(index)
            at = (
                start + following
                if only_ascii
                else anchor + len(text[index:following].encode("utf-8", "surrogatepass"))
            )
            anchor = self._match(data, at, end) if at < end else -1
            if anchor >= 0:
                index = anchor - start if only_ascii else following + _characters(data, at, anchor)


def _characters(data: Any, start: int, end: int) -> int:
    return len(bytes(data[start:end]).decode("utf-8", errors="surrogatepass"))
