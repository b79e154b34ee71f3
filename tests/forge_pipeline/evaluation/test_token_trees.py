"""Sequences that begin alike, in one row: every node sees what it would see in its sequence alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from forge_pipeline.evaluation.token_trees import ROW, SHARING_ROW, TokenTree, build_trees

sequences = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=12)


@given(sequences)
def test_every_scored_node_sees_its_own_sequence_and_nothing_else(rows: list[list[int]]) -> None:
    scored = [1 + len(row) // 2 for row in rows]
    found = {}
    for tree in build_trees(rows, scored):
        visible = tree.visible()
        for name, path in tree.paths.items():
            assert len(path) == scored[name]
            for place, node in enumerate(path):
                seen = np.flatnonzero(visible[node])
                depth = len(rows[name]) - scored[name] + place
                assert [tree.tokens[other] for other in seen] == rows[name][: depth + 1]
                assert [tree.depths[other] for other in seen] == list(range(depth + 1))
            found[name] = path
    assert sorted(found) == list(range(len(rows)))


def test_what_two_sequences_share_stands_there_once() -> None:
    (tree,) = build_trees([[1, 2, 3, 4], [1, 2, 3, 5, 6], [1, 2, 3, 4]], [1, 2, 1])
    assert len(tree) == 6
    assert tree.paths[0] == tree.paths[2]


def test_sequences_that_share_little_fill_rows_and_long_ones_stand_alone() -> None:
    trees = build_trees([[n] * (ROW // 2) for n in range(4)] + [[9] * (ROW + 5)], [1] * 5)
    assert [len(tree) for tree in trees] == [ROW + 5, ROW, ROW]


def test_a_long_common_start_is_shared_in_longer_rows() -> None:
    examples = [1] * 400
    trees = build_trees([examples + [n] * 100 for n in range(2, 22)], [1] * 20)
    assert max(len(tree) for tree in trees) <= SHARING_ROW
    assert sum(len(tree) for tree in trees) < 20 * 500 / 2


def test_an_empty_tree_shares_nothing() -> None:
    assert TokenTree().shared([1, 2]) == 0
