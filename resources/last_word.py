"""The one message that a person should read, said again where they look: at the end of the output.

`dagster asset materialize` follows a failure with a line for every step that was not executed and a
stack trace; without this, the sentence that says what to do stands a screen above.
"""

import atexit
import sys

import dagster as dg


def failure(words: str) -> dg.Failure:
    """A failure that no retry would mend, whose description is also this process's last line on stderr."""
    atexit.register(_say, words)
    return dg.Failure(words, allow_retries=False)


def _say(words: str) -> None:
    print(f"\n{words}", file=sys.stderr, flush=True)
