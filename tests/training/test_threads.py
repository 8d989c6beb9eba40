"""Threads of PyTorch and BLAS while a fit computes."""

import threading
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from sktorch_mlp import MLPTorchClassifier
from sktorch_mlp._training.threads import _LARGE_STEP, _LONG_JOB, compute_threads, single_threaded_blas

LARGE, SMALL = (_LARGE_STEP, _LONG_JOB), (_LARGE_STEP - 1, _LONG_JOB)
SHORT = _LARGE_STEP, 1

pytestmark = pytest.mark.usefixtures("two_torch_threads")


def _blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.mark.parametrize(("size", "expected"), [(LARGE, 2), (SMALL, 1), (SHORT, 1)], ids=["large", "small", "short"])
def test_small_and_short_work_takes_one(size, expected):
    with compute_threads(*size):
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 2


def test_within_work_on_one_thread_all_work_is():
    with compute_threads(*SMALL):
        with compute_threads(*LARGE):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_the_setting_comes_back_after_an_error():
    with pytest.raises(ZeroDivisionError), compute_threads(*SMALL):
        raise ZeroDivisionError
    assert torch.get_num_threads() == 2
    with compute_threads(*SMALL):
        assert torch.get_num_threads() == 1


def test_the_setting_may_change_between_fits():
    for n_threads in (2, 1, 2):
        torch.set_num_threads(n_threads)
        with compute_threads(*SMALL):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == n_threads


def test_in_a_pool_of_threads_each_takes_one():
    both = threading.Barrier(2)

    def work():
        with compute_threads(*LARGE):
            both.wait(timeout=30)
            inside = torch.get_num_threads()
            both.wait(timeout=30)
        return inside, torch.get_num_threads()

    with joblib.parallel_config("threading", n_jobs=2):
        results = joblib.Parallel()(joblib.delayed(work)() for _ in range(2))
    assert results == [(1, 2), (1, 2)]
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as pool:  # a thread that has not seen the setting yet
        assert pool.submit(torch.get_num_threads).result() == 2


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_fit_leaves_the_setting(solver):
    X, y = np.random.RandomState(0).randn(20, 3), np.arange(20) % 2
    with threadpool_limits(2, user_api="blas"):
        MLPTorchClassifier(solver=solver, max_iter=2, device="cpu").fit(X, y).predict(X)
        assert _blas_threads() == {2}
    assert torch.get_num_threads() == 2


def test_blas_is_kept_to_one_thread():
    with threadpool_limits(2, user_api="blas"):
        with single_threaded_blas():
            assert _blas_threads() == {1}
        assert _blas_threads() == {2}
