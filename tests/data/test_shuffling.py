"""The order of the training rows: scikit-learn's, or one of blocks; and its state."""

import numpy as np
import pytest
from sklearn.utils import check_random_state, shuffle

from sktorch_mlp._data.shuffling import BlockShuffler, Shuffler, _global_random_state


def test_shuffles_match_sklearn():
    rows = np.arange(50, 80)
    shuffler, random_state = Shuffler(rows, np.random.RandomState(0)), np.random.RandomState(0)
    expected = rows
    for epoch in range(4):
        expected = shuffle(expected, random_state=random_state)
        if epoch % 2:  # ahead or not, and more than once
            shuffler.shuffle_ahead()
            shuffler.shuffle_ahead()
        np.testing.assert_array_equal(shuffler.next_epoch(), expected)
    np.testing.assert_array_equal(rows, np.arange(50, 80))


def test_without_a_random_state_the_order_stays():
    shuffler = Shuffler(np.array([3, 1, 2]), None)
    shuffler.shuffle_ahead()
    assert shuffler.next_epoch().tolist() == shuffler.next_epoch().tolist() == [3, 1, 2]
    shuffler.load_state_dict(shuffler.state_dict())
    assert shuffler.next_epoch().tolist() == [3, 1, 2]


@pytest.mark.parametrize("is_ahead", [False, True])
def test_a_state_dict_restores_order_and_stream(is_ahead):
    shuffler = Shuffler(np.arange(30), np.random.RandomState(0))
    shuffler.next_epoch()
    if is_ahead:
        shuffler.shuffle_ahead()
    state = shuffler.state_dict()
    expected = [shuffler.next_epoch() for _ in range(3)]
    other = Shuffler(np.arange(30), np.random.RandomState(5))
    for restored in (shuffler, shuffler, other):
        restored.load_state_dict(state)
        np.testing.assert_array_equal([restored.next_epoch() for _ in range(3)], expected)


def test_the_global_stream_of_numpy_is_not_turned_back():
    assert _global_random_state() is check_random_state(None), "numpy keeps its global random state elsewhere now"
    stream = check_random_state(None)
    before = stream.get_state()
    try:
        shuffler = Shuffler(np.arange(30), stream)
        state = shuffler.state_dict()
        shuffler.next_epoch()
        drawn_so_far = stream.get_state()[2]
        shuffler.load_state_dict(state)
        assert stream.get_state()[2] == drawn_so_far
        np.testing.assert_array_equal(shuffler.state_dict()["rows"], np.arange(30))
    finally:
        stream.set_state(before)


def test_blocks_stay_together_and_their_rows_are_mixed():
    rows = np.setdiff1d(np.arange(10_000), [17, 4000, 4001])[::-1]  # as after a split
    shuffler = BlockShuffler(rows, np.random.RandomState(0), 10, 320)
    first, second = shuffler.next_epoch(), shuffler.next_epoch()
    for order in (first, second):
        np.testing.assert_array_equal(np.sort(order), rows[::-1])
        for start in range(0, len(rows), 320):
            mixed = np.sort(order[start : start + 320])
            n_runs = 1 + np.count_nonzero(np.diff(np.searchsorted(rows[::-1], mixed)) > 1)
            assert n_runs <= 33  # blocks of ten rows, some of them neighbors, and two halves once the short one is past
            assert not np.array_equal(mixed, order[start : start + 320])
    assert not np.array_equal(first, second)
    again = BlockShuffler(rows, np.random.RandomState(0), 10, 320)
    np.testing.assert_array_equal(again.next_epoch(), first)


def test_one_block_of_all_rows_has_any_order():
    orders = {tuple(BlockShuffler(np.arange(3), np.random.RandomState(seed), 5, 4).next_epoch()) for seed in range(100)}
    assert len(orders) == 6


def test_blocks_are_left_in_their_order_without_a_random_state():
    assert BlockShuffler(np.array([3, 1, 2]), None, 2, 4).next_epoch().tolist() == [3, 1, 2]


def test_blocks_are_no_longer_than_all_rows():
    shuffler = BlockShuffler(np.arange(5), np.random.RandomState(0), 10**12, 10**12)  # no memory for such a block
    assert sorted(shuffler.next_epoch()) == [0, 1, 2, 3, 4]
