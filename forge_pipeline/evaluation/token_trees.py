"""Token sequences that begin alike, laid out so that what they share stands there once.

The four choices of a question repeat the question, and the questions of a few-shot task
repeat its examples. A *tree* holds such sequences in one row of tokens: every node sees
itself and the nodes on its way to the root, and its position is its depth, so that a
causal model computes for it what it would compute in the sequence alone. Sequences that
share nothing may stand in one tree too, side by side: that saves padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Attention grows with the square of a row, everything else with its length: up to here rows cost nearly their length.
ROW = 512  # tokens
SHARING_ROW = 2048  # tokens, of sequences that share half of theirs or more


@dataclass
class TokenTree:
    """One row of tokens.

    Attributes:
        tokens, depths: Of each node; a node's parent stands before it.
        paths: By sequence: the nodes of its last scored tokens, in order.
    """

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    paths: dict[int, list[int]] = field(default_factory=dict)
    _trunks: list[tuple[int, list[int]]] = field(default_factory=list)  # first node of a branch, what it hangs on
    _path: list[int] = field(default_factory=list)  # of the sequence added last
    _last: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    def shared(self, sequence: Sequence[int]) -> int:
        """How many tokens `sequence` has in common with the start of the sequence added last."""
        for index, (mine, yours) in enumerate(zip(self._last, sequence, strict=False)):
            if mine != yours:
                return index
        return min(len(self._last), len(sequence))

    def add(self, name: int, sequence: Sequence[int], scored: int) -> None:
        """Add a sequence, of which the last `scored` positions are wanted."""
        trunk = self._path[: self.shared(sequence)]
        start = len(self.tokens)
        self._trunks.append((start, trunk))
        self.tokens += sequence[len(trunk) :]
        self.depths += range(len(trunk), len(sequence))
        self._path = [*trunk, *range(start, len(self.tokens))]
        self._last = sequence
        self.paths[name] = self._path[len(sequence) - scored :]

    def visible(self) -> "npt.NDArray[np.bool_]":
        """Which nodes each node sees: (L, L), row by row."""
        import numpy as np

        seen = np.zeros((len(self), len(self)), dtype=np.bool_)
        ends = [start for start, _ in self._trunks[1:]] + [len(self)]
        for (start, trunk), end in zip(self._trunks, ends, strict=True):
            seen[start:end, trunk] = True
            seen[start:end, start:end] = np.tri(end - start, dtype=np.bool_)
        return seen


def build_trees(sequences: Sequence[Sequence[int]], scored: Sequence[int]) -> list[TokenTree]:
    """Trees that hold every sequence once, the longest first.

    Args:
        sequences: Token ids, each of at least one token.
        scored: How many of the last positions of each are wanted, at least one.
    """
    trees: list[TokenTree] = []
    # In lexical order the sequences that begin alike are neighbors.
    for name in sorted(range(len(sequences)), key=lambda index: tuple(sequences[index])):
        sequence = sequences[name]
        shared = trees[-1].shared(sequence) if trees else 0
        room = SHARING_ROW if 2 * shared >= len(sequence) else ROW
        if not trees or len(trees[-1]) + len(sequence) - shared > room:
            trees.append(TokenTree())
        trees[-1].add(name, sequence, scored[name])
    return sorted(trees, key=len, reverse=True)
