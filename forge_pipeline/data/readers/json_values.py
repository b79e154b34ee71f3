"""A JSON array, or JSON values one after another, read in a window over the text.

The window holds the element that is being read and about a megabyte more. Elements that are
too long, or nested too deeply to parse, are stepped over by their brackets and quotes alone.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from forge_pipeline.data.readers import json_text, row, text
from forge_pipeline.data.readers.json_text import nested_too_deeply, stored_row
from forge_pipeline.data.readers.row import BrokenRow, ReadRow, Rows, too_long
from forge_pipeline.errors import DataError

_SPACE = re.compile(r"[ \t\r\n]*")
_BRACKET_OR_QUOTE = re.compile(r'[\[\]{}"]')
_IN_STRING = re.compile(r'\\.?|"', re.DOTALL)
_SCALAR = re.compile(r"[^\s,\]}]*")
_NEAR_THE_END = 16  # characters that a literal, a number's sign or an escape may still need


def read_values(path: Path) -> Rows:
    """The elements of a JSON array, or values one after another, each with the line on which it begins.

    Raises:
        DataError: One is broken: nothing says where the next one would begin.
    """
    window = _Window(text.text_chunks(path))
    in_array = window.next_character() == "["
    if in_array:
        window.at += 1
    while (character := window.next_character()) not in ("", "]"):
        line = window.line
        yield _element(window, path)
        if in_array and (character := window.next_character()) not in (",", "]"):
            raise DataError(f"{path}: line {line}: no ',' or ']' after the row that begins here; is the file cut off?")
        if in_array and character == ",":
            window.at += 1
    if in_array and not character:
        raise DataError(f"{path}: the array that begins the file is never closed with ']'; is the file cut off?")
    if character:  # "]"
        window.at += 1
        if not in_array:
            raise DataError(f"{path}: line {window.line}: ']' stands where a row should begin")
        if window.next_character():
            raise DataError(f"{path}: line {window.line}: there is more text after the array that holds the rows")


def _element(window: "_Window", path: Path) -> ReadRow | BrokenRow:
    """The value at the window's place, which is moved to its end."""
    line = window.line
    while True:
        try:
            values, end = json_text.scan(window.text, window.at)
        except RecursionError:
            window.step_over()
            return nested_too_deeply(line)
        except json.JSONDecodeError as error:
            cut_off = error.msg.startswith("Unterminated string") or error.pos >= len(window.text) - _NEAR_THE_END
            if cut_off and window.grow():
                continue
            if cut_off and window.is_full:
                window.step_over()
                return too_long(line, "element")
            raise DataError(
                f"{path}: line {line}: the row that begins here is not JSON: {error.msg}. "
                "Repair it, or write one object a line (.jsonl), where one broken row does not end the reading"
            ) from error
        except ValueError as error:
            window.step_over()
            return BrokenRow(line, str(error))
        if end == len(window.text) and window.grow():
            continue  # a number may go on in the next chunk
        element = window.text[window.at : end]
        window.at = end
        return stored_row(values, element, line)


class _Window:
    """Some of a text: `text[at:]` is still to be read."""

    def __init__(self, chunks: Iterator[str]) -> None:
        self._chunks = chunks
        self._line, self._counted = 1, 0  # the line at text[_counted]
        self.text, self.at = "", 0

    @property
    def line(self) -> int:
        """The line, from 1, at `at`."""
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    @property
    def is_full(self) -> bool:
        return len(self.text) - self.at > row.LONGEST_ROW

    def grow(self) -> bool:
        """Drop what was read, then at least double what is left. False at the end, or when the window is full."""
        _ = self.line
        left = len(self.text) - self.at
        if self.is_full:
            return False
        pieces, added = [self.text[self.at :]], 0
        for chunk in self._chunks:
            pieces.append(chunk)
            added += len(chunk)
            if added >= left:
                break
        self.text, self.at, self._counted = "".join(pieces), 0, 0
        return added > 0

    def next_character(self) -> str:
        """Move to the next character that is no white space; ``""`` at the end of the text."""
        while True:
            match = _SPACE.match(self.text, self.at)
            self.at = match.end() if match else self.at
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.grow():
                return ""

    def step_over(self) -> None:
        """Move behind the value at `at`, without holding or parsing it."""
        depth, in_string, scalar = 0, False, self.text[self.at] not in '[{"'
        while True:
            if scalar:
                match = _SCALAR.match(self.text, self.at)
                self.at = match.end() if match else self.at
                if self.at < len(self.text):
                    return
            else:
                for match in self._marks(in_string):
                    mark = match.group()
                    self.at = match.end()
                    if mark == '"':
                        in_string = not in_string
                    elif not in_string:
                        depth += 1 if mark in "[{" else -1
                    if not in_string and depth <= 0:
                        return
            if not self._next_chunk():
                return

    def _marks(self, in_string: bool) -> Iterator[re.Match[str]]:
        while match := (_IN_STRING if in_string else _BRACKET_OR_QUOTE).search(self.text, self.at):
            if match.group() == "\\":  # its other half is in the next chunk
                break
            yield match
            if match.group() == '"':
                in_string = not in_string

    def _next_chunk(self) -> bool:
        """Go on with the next chunk; of the old one, only a backslash that ends it is kept."""
        rest = "\\" if self.text.endswith("\\") and self.at < len(self.text) else ""
        self.at = len(self.text) - len(rest)
        _ = self.line
        chunk = next(self._chunks, None)
        self.text, self.at, self._counted = rest + (chunk or ""), 0, 0
        return chunk is not None
