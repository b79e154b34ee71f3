"""Equal keys and connected components, against the obvious way to find them."""

from collections import defaultdict
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from forge_pipeline.dataset_audit.groups import components, distinct, equal_groups, first_equal

# Few values, close together and far apart: equal upper bits with different lower ones among them.
KEYS = st.lists(st.sampled_from([0, 1, 2, 3, 1 << 40, (1 << 40) + 1, 1 << 63, (1 << 64) - 1]) | st.integers(0, 9))


@given(KEYS)
def test_groups_are_the_positions_of_each_key_that_repeats(keys: list[int]) -> None:
    places = defaultdict(list)
    for place, key in enumerate(keys):
        places[key].append(place)
    expected = sorted(found for found in places.values() if len(found) > 1)
    positions, bounds = equal_groups(np.array(keys, dtype=np.uint64))
    groups = [positions[a:b].tolist() for a, b in pairwise(bounds)]
    assert sorted(groups) == expected
    assert first_equal(np.array(keys, dtype=np.uint64)).tolist() == [places[key][0] for key in keys]


@given(st.lists(st.lists(st.integers(-5, 5) | st.integers(-(1 << 63), (1 << 63) - 1)), min_size=1, max_size=3))
def test_distinct_numbers_are_those_of_numpy(parts: list[list[int]]) -> None:
    arrays = [np.array(part, dtype=np.int64) for part in parts]
    found = distinct(*arrays)
    assert found.dtype == np.int64
    assert found.tolist() == np.unique(np.concatenate(arrays)).tolist()


def test_keys_whose_upper_bits_agree_are_told_apart() -> None:
    """The product with the mixing constant differs in its lowest bits only, where positions are packed."""
    inverse = pow(0x9E3779B97F4A7C15, -1, 1 << 64)
    keys = np.array([product * inverse % (1 << 64) for product in (8, 9, 8, 10, 9, 11)], dtype=np.uint64)
    positions, bounds = equal_groups(keys)
    groups = sorted(positions[a:b].tolist() for a, b in pairwise(bounds))
    assert groups == [[0, 2], [1, 4]]


def slow_components(count: int, pairs: list[tuple[int, int]]) -> list[int]:
    label = list(range(count))
    for _ in range(count):
        for a, b in pairs:
            label[a] = label[b] = min(label[a], label[b])
    return label


@given(st.data())
def test_components_carry_their_smallest_member(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 30))
    thing = st.integers(0, count - 1)
    pairs = data.draw(st.lists(st.tuples(thing, thing), max_size=40))
    left, right = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    assert components(count, left, right).tolist() == slow_components(count, pairs)
    assert components(count, right[::-1], left[::-1]).tolist() == slow_components(count, pairs)


def test_a_path_of_a_hundred_thousand_in_an_unkind_order_is_one_component() -> None:
    order = np.random.default_rng(0).permutation(100_000)
    assert not components(100_000, order[:-1], order[1:]).any()
