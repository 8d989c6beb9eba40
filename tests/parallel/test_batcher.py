"""Fits of a pool's tasks wait for each other, train as stacks, and fail alone."""

import gc
import threading
import time
import weakref
from concurrent.futures import wait
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.base import clone

from sktorch_mlp._parallel import batcher as batcher_module
from sktorch_mlp._parallel.batcher import FitBatcher, TaskPool, current_batcher
from tests.parallel.fits import FILTERS, MLP, X, Y, assert_same_fits, fits_of, untrained_fit

pytestmark = [pytest.mark.usefixtures("two_trainers", "no_thread_left"), *map(pytest.mark.filterwarnings, FILTERS)]


def _run(batcher, tasks, between=lambda i: None):
    """Run tasks as the backend does, and call ``between(i)`` after the i-th; their futures, all of which are done."""
    pool = TaskPool(batcher, 64)
    futures = []
    try:
        pool.begin_dispatch()
        for i, task in enumerate(tasks):
            futures.append(pool.submit(task))
            between(i)
        pool.end_dispatch()
        with batcher.waiting_for(pool):
            assert not wait(futures, timeout=60).not_done
    finally:
        pool.close()
    return futures


def _wait_for_pending(batcher, n_fits):
    """Wait until so many fits wait for others."""
    deadline = time.monotonic() + 20
    while len(batcher._pending) < n_fits:
        assert time.monotonic() < deadline, f"Fewer than {n_fits} fits are pending."
        time.sleep(0.001)


def _fits(n_fits, **params):
    return fits_of(MLP, [{**params, "random_state": seed} for seed in range(n_fits)], X, Y)[::3]


# Who waits for whom ---------------------------------------------------------------------


def test_all_fits_of_a_call_train_at_once(stacks):
    futures = _run(FitBatcher(), _fits(7))
    assert sorted(stacks.sizes) == [3, 4]  # one stack for each trainer
    assert_same_fits([future.result() for future in futures], [fit() for fit in _fits(7)])


def test_fits_wait_for_tasks_that_are_being_handed_out(one_trainer, stacks):
    batcher = FitBatcher()
    for _ in range(2):  # in the first call of this thread, and in the next one
        _run(batcher, _fits(3), between=lambda i: _wait_for_pending(batcher, i + 1))
    assert stacks.sizes == [3, 3]


def test_tasks_without_fits_are_not_waited_for(stacks):
    def slow():
        time.sleep(0.1)

    _run(FitBatcher(), [*_fits(2), slow, *_fits(2), slow])
    assert sorted(stacks.sizes) == [2, 2]


@pytest.mark.parametrize(("n_bytes_more", "waits"), [(0, False), (1, True)], ids=["limit", "below the limit"])
def test_fits_that_hold_much_do_not_wait_for_others(n_bytes_more, waits, monkeypatch):
    monkeypatch.setattr(batcher_module, "_STALLED", 60.0)  # the other task does nothing
    (function,) = _fits(1)
    max_pending_bytes = untrained_fit(function).data.nbytes + n_bytes_more
    is_trained = threading.Event()

    def fit():
        function()
        is_trained.set()

    def other_task():
        return is_trained.wait(0.3 if waits else 20)

    futures = _run(FitBatcher(max_pending_bytes=max_pending_bytes), [fit, other_task])
    assert [future.result() for future in futures] == [None, not waits]


def test_stacks_fit_into_memory(stacks):
    futures = _run(FitBatcher(max_stack_bytes=1), _fits(4))
    assert stacks.sizes == [1] * 4
    assert_same_fits([future.result() for future in futures], [fit() for fit in _fits(4)])


def test_as_many_tasks_as_trainers_work_at_a_time_and_none_during_training():
    at_work, most, lock = [0], [0], threading.Lock()
    seen_in_training = []

    def activation(units):
        if threading.current_thread().name == "stacked fits":  # else its derivative is tried before training
            seen_in_training.append(at_work[0])
        return torch.tanh(units)

    fit = clone(MLP).set_params(activation=activation, max_iter=2).fit

    def work():
        with lock:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
        time.sleep(0.02)
        with lock:
            at_work[0] -= 1

    def task():
        work()
        fit(X, Y)
        work()

    for future in _run(FitBatcher(), [task] * 6):
        future.result()
    assert most[0] == 2
    assert seen_in_training
    assert set(seen_in_training) == {0}


def test_a_task_that_comes_during_training_waits_for_its_end():
    has_run, seen = threading.Event(), []

    def activation(units):
        if threading.current_thread().name == "stacked fits" and not seen:
            pool.submit(has_run.set)
            seen.append(has_run.wait(0.2))
        return torch.tanh(units)

    (function,) = _fits(1, activation=activation)
    pool = TaskPool(FitBatcher(), 2)
    pool.submit(function)
    assert has_run.wait(20)
    pool.close()
    assert seen == [False]


def test_threads_are_counted_while_they_have_tasks():
    batcher = FitBatcher()
    pool, goes_on = TaskPool(batcher, 3), threading.Event()
    for n_tasks, n_threads in ((1, 1), (2, 2), (3, 3), (4, 3), (5, 3)):
        pool.submit(goes_on.wait)
        assert batcher.n_threads == n_threads, f"{n_tasks} tasks"
    goes_on.set()
    pool.close()
    assert batcher.n_threads == 0


def test_a_task_knows_its_batcher():
    batcher = FitBatcher()
    (future,) = _run(batcher, [current_batcher])
    assert future.result() is batcher
    assert current_batcher() is None


# Errors ---------------------------------------------------------------------------------


def test_a_fit_that_fails_fails_alone(stacks):
    fits = [*_fits(3), *_fits(1, solver="sgd", learning_rate_init=1e200), *_fits(2, alpha=-1.0)]
    futures = _run(FitBatcher(), fits)
    errors = [future.exception() for future in futures]
    assert [error is None for error in errors] == [True] * 3 + [False] * 3
    assert "non-finite" in str(errors[3])
    assert "alpha" in str(errors[4])


def test_a_stack_that_fails_is_halved_until_one_fit_is_alone(one_trainer, stacks):
    def activation(units):
        if (units > 1e3).any():
            raise RuntimeError("This activation raises.")
        return torch.tanh(units)

    def fit_of(seed):
        scale = 1e6 if seed == 5 else 1.0
        return lambda: clone(MLP).set_params(activation=activation, random_state=seed).fit(scale * X, Y)

    futures = _run(FitBatcher(), [fit_of(seed) for seed in range(8)])
    errors = [future.exception() for future in futures]
    assert [error is None for error in errors] == [seed != 5 for seed in range(8)]
    assert str(errors[5]) == "This activation raises."
    assert stacks.failed == [8, 4, 2, 1]
    assert sorted(stacks.sizes) == [1, 2, 4]


@pytest.mark.parametrize("error", [MemoryError("no memory"), KeyboardInterrupt()], ids=["MemoryError", "interrupt"])
def test_an_error_of_training_itself_reaches_all_fits(error, stacks):
    stacks.error = error
    futures = _run(FitBatcher(), _fits(3))
    assert [future.exception() for future in futures] == [error] * 3
    assert stacks.failed.count(1) == 3


def test_an_error_in_making_stacks_reaches_all_fits(stacks):
    futures = _run(FitBatcher(max_stack_bytes="a lot"), _fits(3))
    assert [type(future.exception()) for future in futures] == [TypeError] * 3
    assert stacks.sizes == []


def test_where_no_thread_can_be_had_the_fits_fail(monkeypatch):
    start = threading.Thread.start

    def fails(thread):
        if thread.name == "stacked fits":  # that which trains; those of tasks have numbers
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fails)
        futures = _run(FitBatcher(), _fits(3))
    assert [str(future.exception()) for future in futures] == ["can't start new thread"] * 3


@pytest.mark.parametrize("fails", ["fit", "training", "making stacks"])
def test_an_error_that_is_dropped_frees_the_data_of_its_fit(fails, stacks):
    """Without the garbage collector: there is no cycle of an error and the frames in its traceback."""

    class NotingBatcher(FitBatcher):
        def train(self, fit, pool):
            fits.append(weakref.ref(fit))
            super().train(fit, pool)

    fits = []
    params = {"solver": "sgd", "learning_rate_init": 1e200} if fails == "fit" else {}
    stacks.error = MemoryError if fails == "training" else None
    gc.disable()
    try:
        futures = _run(NotingBatcher(max_stack_bytes="a lot" if fails == "making stacks" else None), _fits(2, **params))
        assert [future.exception() is None for future in futures] == [False, False]
        del futures
        assert [fit() for fit in fits] == [None, None]
    finally:
        gc.enable()


def test_a_batcher_is_usable_after_errors(stacks):
    batcher = FitBatcher()
    stacks.error = MemoryError()
    _run(batcher, _fits(3))
    stacks.error = None
    futures = _run(batcher, _fits(4))
    assert_same_fits([future.result() for future in futures], [fit() for fit in _fits(4)])
    assert sorted(stacks.sizes) == [2, 2]


# Stopping -------------------------------------------------------------------------------


def test_a_pool_that_is_stopped_ends_pending_fits_and_begins_no_tasks():
    batcher = FitBatcher()
    pool = TaskPool(batcher, 1)
    pool.begin_dispatch()  # and never ends, so that the fit waits
    pending, behind = pool.submit(_fits(1)[0]), pool.submit(int)
    _wait_for_pending(batcher, 1)
    pool.stop()
    after = pool.submit(int)
    assert isinstance(pending.exception(timeout=60), KeyboardInterrupt)
    assert isinstance(behind.exception(timeout=60), KeyboardInterrupt)
    assert after.cancelled()
    pool.end_dispatch()
    pool.close()


def test_a_pool_that_is_stopped_ends_training():
    began = threading.Event()

    def activation(units):
        began.set()
        return torch.tanh(units)

    endless = clone(MLP).set_params(activation=activation, max_iter=10**6, tol=0, n_iter_no_change=np.inf)
    pool = TaskPool(FitBatcher(), 2)
    futures = [pool.submit(lambda: endless.fit(X, Y)) for _ in range(2)]
    assert began.wait(60)
    pool.stop()
    pool.close()
    assert [type(future.exception(timeout=60)) for future in futures] == [KeyboardInterrupt] * 2


def test_stopping_one_pool_leaves_pending_fits_of_another():
    batcher = FitBatcher()
    stopped, other = TaskPool(batcher, 2), TaskPool(batcher, 2)
    stopped.begin_dispatch()
    futures = [stopped.submit(_fits(1)[0]), other.submit(_fits(1)[0])]
    _wait_for_pending(batcher, 2)
    stopped.stop()
    stopped.end_dispatch()
    stopped.close()
    assert isinstance(futures[0].exception(timeout=60), KeyboardInterrupt)
    assert_same_fits([futures[1].result(timeout=60)], [_fits(1)[0]()])
    other.close()


def test_stopping_one_pool_leaves_fits_of_another_in_training(one_trainer, stacks):
    def activation(units):
        if units.ndim == 3:  # both train, as a stack
            stopped.stop()
        return torch.tanh(units)

    (function,) = _fits(1, activation=activation)
    batcher = FitBatcher()
    stopped, other = TaskPool(batcher, 1), TaskPool(batcher, 1)
    stopped.begin_dispatch()
    futures = [stopped.submit(function), other.submit(function)]
    stopped.end_dispatch()
    assert isinstance(futures[0].exception(timeout=60), KeyboardInterrupt)
    assert futures[1].result(timeout=60).n_iter_ == MLP.max_iter
    for pool in (stopped, other):
        pool.close()
    assert stacks.sizes == [2]


def test_pools_of_a_stopped_task_are_stopped():
    inner = []

    def task():
        pool = TaskPool(outer.batcher, 1)
        outer.stop()
        inner.append(pool.is_stopped())
        pool.close()

    outer = TaskPool(FitBatcher(), 1)
    outer.submit(task).result(timeout=60)
    outer.close()
    assert inner == [True]
    assert not TaskPool(outer.batcher, 1).is_stopped()


def test_tasks_that_hold_a_lock_around_their_fits_train_one_after_the_other(stacks, monkeypatch):
    monkeypatch.setattr(batcher_module, "_STALLED", 0.1)
    lock = threading.Lock()

    def task(fit):
        with lock:
            return fit()

    pool = TaskPool(FitBatcher(), 3)
    futures = [pool.submit(partial(task, fit)) for fit in _fits(4)]
    assert_same_fits([future.result(timeout=60) for future in futures], [fit() for fit in _fits(4)])
    pool.close()
    assert stacks.sizes == [1] * 4


def test_tasks_that_meet_after_their_fits_get_slots(one_trainer, monkeypatch):
    monkeypatch.setattr(batcher_module, "_STALLED", 0.1)
    barrier = threading.Barrier(3)

    def task(fit):
        fitted = fit()
        barrier.wait(60)
        return fitted

    pool = TaskPool(FitBatcher(), 3)
    futures = [pool.submit(partial(task, fit)) for fit in _fits(3)]
    assert_same_fits([future.result(timeout=60) for future in futures], [fit() for fit in _fits(3)])
    pool.close()
