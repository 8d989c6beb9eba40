"""Which fits train together, and who trains the fits of a thread."""

import threading
from dataclasses import replace
from itertools import chain

import pytest
import torch

from sktorch_mlp._data.rows import Rows
from sktorch_mlp._training.stacks import fits_trained_by, split_into_stacks, train_fit
from tests.training.helpers import CPU, OPTIONS, X, adam, make_data, make_fit, sgd

ONE_EPOCH = replace(OPTIONS, max_iter=1)


# Who trains ----------------------------------------------------------------------------


def test_a_fit_is_trained_at_once_by_default():
    fit = make_fit(adam(0), ONE_EPOCH)
    train_fit(fit)
    assert fit.progress.stop_reason == "max_iter"


def test_fits_are_trained_by_the_innermost_function():
    told = []
    fits = [make_fit(adam(0), ONE_EPOCH) for _ in range(4)]
    with fits_trained_by(lambda fit: told.append(("outer", fit))):
        train_fit(fits[0])
        with fits_trained_by(lambda fit: told.append(("inner", fit))):
            train_fit(fits[1])
        train_fit(fits[2])
        with fits_trained_by(None):
            train_fit(fits[3])
    assert told == [("outer", fits[0]), ("inner", fits[1]), ("outer", fits[2])]
    assert [fit.progress.n_iter for fit in fits] == [0, 0, 0, 1]


def test_after_an_error_fits_are_trained_as_before():
    def fail(fit):
        raise ZeroDivisionError

    fit = make_fit(adam(0), ONE_EPOCH)
    with pytest.raises(ZeroDivisionError), fits_trained_by(fail):
        train_fit(fit)
    train_fit(fit)
    assert fit.progress.n_iter == 1


def test_each_thread_has_its_own():
    told = []
    fits = [make_fit(adam(0), ONE_EPOCH) for _ in range(2)]
    with fits_trained_by(told.append):
        thread = threading.Thread(target=train_fit, args=(fits[0],))
        thread.start()
        thread.join()
        train_fit(fits[1])
    assert told == [fits[1]]
    assert [fit.progress.n_iter for fit in fits] == [1, 0]


# Which fits together -------------------------------------------------------------------


def _numbers(stacks, fits):
    return [[fits.index(fit) for fit in stack] for stack in stacks]


def test_fits_of_equal_key_are_stacked():
    kinds = [adam, sgd, adam, sgd, adam]
    fits = [make_fit(make(0)) for make in kinds]
    fits.append(make_fit(adam(0), data=make_data(sparse=True)))
    fits.append(make_fit(adam(0), data=make_data(sparse=True)))
    assert _numbers(split_into_stacks(fits, 1), fits) == [[0, 2, 4], [1, 3], [5], [6]]
    assert _numbers(split_into_stacks(fits[:1], 4), fits) == [[0]]


@pytest.mark.parametrize(
    ("n_workers", "n_largest", "sizes"),
    [
        (1, 9, [7]),
        (1, 3, [2, 3, 2]),
        (2, 9, [4, 3]),
        (2, 3, [2, 2, 1, 2]),
        (4, 9, [2, 2, 1, 2]),
        (9, 9, [1] * 7),
        (1, 0.5, [1] * 7),
    ],
)
def test_stacks_fit_into_memory_and_are_enough_for_all_workers(n_workers, n_largest, sizes):
    fits = [make_fit(adam(0)) for _ in range(7)]
    max_bytes = int(n_largest * fits[0].work_bytes())
    stacked = split_into_stacks(fits, n_workers, max_bytes)
    assert sorted(map(len, stacked)) == sorted(sizes)
    assert max(map(len, stacked)) <= max(1, n_largest)
    assert sorted(chain(*_numbers(stacked, fits))) == list(range(7))


def test_without_a_limit_stacks_stay_in_the_cache_of_the_cpu():
    fits = [make_fit(adam(0)) for _ in range(3)]
    n_largest = 2**23 // fits[0].work_bytes()
    many = [make_fit(adam(0)) for _ in range(3)]
    for fit in many:
        fit.options = replace(OPTIONS, batch_size=2**14)  # 15 MiB each
    assert n_largest > 3
    assert len(split_into_stacks(fits, 1)) == 1
    assert len(split_into_stacks(many, 1)) == 3


def test_fits_with_equal_rows_share_them_and_are_neighbors():
    fits = []
    for shift in (0.0, 1.0, 0.0, 1.0):  # each X in memory of its own
        rows = Rows.from_array(X + shift, CPU)
        fits.append(make_fit(adam(0), data=make_data().with_rows(rows)))
    stacked = split_into_stacks(fits, 2)
    assert _numbers(stacked, fits) == [[0, 2], [1, 3]]
    assert fits[2].data.train.rows is fits[0].data.train.rows
    assert fits[3].data.train.rows is fits[1].data.train.rows
    assert fits[0].data.train.rows is not fits[1].data.train.rows
    assert not torch.equal(fits[0].data.train.rows.X, fits[1].data.train.rows.X)


def test_among_fits_with_equal_rows_those_with_equal_settings_are_neighbors():
    """An optimizer can update them in one call."""
    data = make_data()
    fits = [make_fit(adam(k), data=data) for k in (2, 0, 2, 1, 0)]
    (stack,) = split_into_stacks(fits, 1)
    settings = [fit.optimizer.settings_key(0) for fit in stack]
    assert settings == sorted(settings)
    assert len(set(settings)) == 3
