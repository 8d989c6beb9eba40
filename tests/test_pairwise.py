"""The helper that thins products of parameters."""

from itertools import combinations

import pytest

from tests.pairwise import pairwise


@pytest.mark.parametrize("sizes", [(3, 2), (10, 7, 8, 2), (4, 4, 4, 4, 4), (1, 3, 2)], ids=str)
def test_any_two_values_meet(sizes):
    chosen = pairwise(*(range(size) for size in sizes))
    for i, j in combinations(range(len(sizes)), 2):
        assert len({(combination[i], combination[j]) for combination in chosen}) == sizes[i] * sizes[j]
    assert len(set(chosen)) == len(chosen)
    # The two largest axes need so many; hardly more are taken.
    n_needed = max(a * b for a, b in combinations(sizes, 2))
    assert n_needed <= len(chosen) <= 1.5 * n_needed
    assert chosen == pairwise(*(range(size) for size in sizes))


def test_values_need_not_be_hashable():
    assert sorted(pairwise([{"a": 1}, {}], ["b"]), key=str) == [({"a": 1}, "b"), ({}, "b")]
