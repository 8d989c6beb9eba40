"""The threads of numpy's and scipy's BLAS, which have one setting for the whole process, while fits compute."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sklearn.model_selection import cross_validate
from threadpoolctl import threadpool_limits

from sktorch_mlp import MLPTorchClassifier, stacked_fits
from sktorch_mlp._training import threads
from sktorch_mlp._training.threads import on_one_blas_thread
from tests.training.helpers import blas_threads

pytestmark = pytest.mark.usefixtures("two_torch_threads")


def test_blas_is_kept_to_one_thread_until_the_last_leaves():
    def check():
        assert blas_threads() == {1}

    def work():
        on_one_blas_thread(check)()
        check()

    with threadpool_limits(2, user_api="blas"):
        on_one_blas_thread(work)()
        assert blas_threads() == {2}


@pytest.fixture
def two_blas_threads():
    """Two threads, which no thread of Python has set for itself."""
    before = [(library, library.num_threads) for library in threads._blas_libraries()]
    for library, _ in before:
        threads._set_from_any_thread(library, 2)
    yield
    for library, n_threads in before:
        threads._set_from_any_thread(library, n_threads)


@pytest.mark.usefixtures("two_blas_threads")
def test_the_last_that_leaves_gives_blas_its_threads_again_in_whatever_thread():
    """Also while the thread lives that has set it, and of which threadpoolctl thinks that it alone decides."""
    entered, may_leave, may_end, seen = threading.Event(), threading.Event(), threading.Event(), []

    def first():
        on_one_blas_thread(lambda: (entered.set(), may_leave.wait(30)))()
        may_end.wait(30)

    def last():
        may_leave.set()
        while len(threads._process._blas_users) > 1:
            time.sleep(0.001)
        seen.append(blas_threads())

    thread = threading.Thread(target=first)
    thread.start()
    assert entered.wait(30)
    on_one_blas_thread(last)()
    assert thread.is_alive()
    assert seen == [{1}]
    assert blas_threads() == {2}
    may_end.set()
    thread.join()


@pytest.mark.usefixtures("two_blas_threads")
def test_a_handler_of_signals_may_fit_wherever_it_comes():
    """It neither waits for ever for a lock of the thread that it has interrupted, nor takes one thread for the setting of the user."""
    codes = {threads._Process.limit_blas.__code__, threads._Process.release_blas.__code__}
    n_lines = 0  # until the handler comes

    def traced(nth):
        def trace(frame, event, arg):
            nonlocal n_lines
            if frame.f_code not in codes:
                return None
            if event == "line":
                n_lines += 1
                if n_lines == nth:
                    sys.settrace(None)
                    on_one_blas_thread(int)()
            return trace

        sys.settrace(trace)
        on_one_blas_thread(int)()
        sys.settrace(None)

    for nth in range(1, 100):
        n_lines = 0
        thread = threading.Thread(target=traced, args=(nth,), daemon=True)
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
        assert blas_threads() == {2}
        if n_lines < nth:
            break
    assert 15 < nth < 99


@pytest.mark.usefixtures("two_blas_threads")
def test_a_thread_that_had_one_blas_thread_does_not_keep_the_setting_to_itself():
    on_one_blas_thread(int)()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(on_one_blas_thread(blas_threads)).result() == {1}
    with threadpool_limits(1, user_api="blas"):
        assert blas_threads() == {1}
    assert blas_threads() == {2}


@pytest.mark.usefixtures("two_blas_threads")
def test_one_blas_thread_also_while_another_thread_has_a_limit():
    with threadpool_limits(2, user_api="blas"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(on_one_blas_thread(blas_threads)).result() == {1}
        assert blas_threads() == {2}
    assert blas_threads() == {2}


@pytest.mark.usefixtures("two_blas_threads")
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, TimeoutError, ValueError])
def test_blas_has_its_threads_again_where_a_signal_comes_meanwhile(interrupt, monkeypatch):
    set_threads, interrupts = threads._set_from_any_thread, [interrupt("too late")]

    def set_late(library, n_threads):
        if n_threads > 1 and interrupts:
            raise interrupts.pop()
        set_threads(library, n_threads)

    monkeypatch.setattr(threads, "_set_from_any_thread", set_late)
    with pytest.raises(interrupt, match="too late"):
        on_one_blas_thread(int)()
    assert blas_threads() == {2}
    assert not threads._process._blas_users


@pytest.mark.usefixtures("two_blas_threads")
def test_what_others_set_meanwhile_stays():
    def work():
        for library in threads._blas_libraries():
            threads._set_from_any_thread(library, 3)

    on_one_blas_thread(work)()
    assert blas_threads() == {3}


@pytest.mark.usefixtures("two_blas_threads")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_stacks_train_with_one_blas_thread_also_after_a_fit_of_the_main_thread():
    seen = []

    def activation(units):
        if threading.current_thread().name == "stacked fits":  # which trains
            seen.append(blas_threads())
        return torch.tanh(units)

    X, y = np.random.RandomState(0).randn(300, 40), np.arange(300) % 2
    model = MLPTorchClassifier((50,), activation=activation, max_iter=1, device="cpu").fit(X, y)
    for _ in range(3):
        with stacked_fits():
            cross_validate(model, X, y, error_score="raise")
        assert blas_threads() == {2}
    assert seen
    assert all(n_threads == {1} for n_threads in seen)
