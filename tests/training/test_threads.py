"""Threads of PyTorch and BLAS while a fit or a prediction computes."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from sktorch_mlp import MLPTorchClassifier
from sktorch_mlp._training.threads import OneThread, available_threads, on_one_thread, single_threaded_blas

pytestmark = pytest.mark.usefixtures("two_torch_threads")


def _blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_one_thread_can_be_nested():
    with OneThread():
        with OneThread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_the_setting_comes_back_after_an_error():
    @on_one_thread
    def fail():
        assert torch.get_num_threads() == 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.get_num_threads() == 2
    with OneThread():
        assert torch.get_num_threads() == 1


def test_the_setting_may_change_between_fits():
    for n_threads in (2, 1, 2):
        torch.set_num_threads(n_threads)
        with OneThread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == n_threads


def test_as_many_as_pytorch_is_set_to_and_as_there_are_cores():
    n_cores = joblib.cpu_count()
    for n_threads in (1, 2, 64):
        torch.set_num_threads(n_threads)
        assert available_threads() == min(n_threads, n_cores)
        with OneThread():
            assert available_threads() == min(n_threads, n_cores)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_affinity_is_respected():
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert available_threads() == 1
    finally:
        os.sched_setaffinity(0, cores)
    assert available_threads() == min(2, joblib.cpu_count())


def test_in_a_pool_of_threads_each_takes_one():
    both = threading.Barrier(2)

    def work():
        with OneThread():
            both.wait(timeout=30)
            inside = torch.get_num_threads(), available_threads()
            both.wait(timeout=30)
        return *inside, torch.get_num_threads()

    with joblib.parallel_config("threading", n_jobs=2):
        results = joblib.Parallel()(joblib.delayed(work)() for _ in range(2))
    assert results == [(1, 1, 2), (1, 1, 2)]
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as pool:  # a thread that has not seen the setting yet
        assert pool.submit(torch.get_num_threads).result() == 2


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_fit_leaves_the_setting(solver):
    X, y = np.random.RandomState(0).randn(600, 30), np.arange(600) % 2
    with threadpool_limits(2, user_api="blas"):
        MLPTorchClassifier(solver=solver, max_iter=2, device="cpu").fit(X, y).predict(X)
        assert _blas_threads() == {2}
    assert torch.get_num_threads() == 2


def test_a_function_of_the_user_runs_on_one_thread():
    """So that nothing waits for threads that other programs keep from their cores."""
    seen = set()

    def activation(units):
        seen.add(torch.get_num_threads())
        return torch.tanh(units)

    X, y = np.random.RandomState(0).randn(20, 3), np.arange(20) % 2
    MLPTorchClassifier(activation=activation, device="cpu").partial_fit(X, y, classes=[0, 1]).predict(X)
    assert seen == {1}


def test_blas_is_kept_to_one_thread_until_the_last_leaves():
    first, second = single_threaded_blas(), single_threaded_blas()
    with threadpool_limits(2, user_api="blas"):
        first.__enter__()
        second.__enter__()
        assert _blas_threads() == {1}
        first.__exit__(None, None, None)
        assert _blas_threads() == {1}
        second.__exit__(None, None, None)
        assert _blas_threads() == {2}
