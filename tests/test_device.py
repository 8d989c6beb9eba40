"""Device, precision and threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from sktorch_mlp import MLPTorchClassifier
from sktorch_mlp._device import (
    _LARGE_STEP,
    _LONG_JOB,
    compute_threads,
    is_available,
    resolve_device,
    single_threaded_blas,
    training_dtype,
)

LARGE, SMALL = (_LARGE_STEP, _LONG_JOB), (_LARGE_STEP - 1, _LONG_JOB)
SHORT = _LARGE_STEP, 1


def test_auto_is_the_best_there_is():
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert resolve_device("auto").type == expected


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_cpu(device):
    assert resolve_device(device) == torch.device("cpu")


@pytest.mark.parametrize("device", ["nonsense", "cpu:x", ""])
def test_unknown_devices(device):
    with pytest.raises(ValueError, match=r"no device that PyTorch knows\. Use 'auto'"):
        resolve_device(device)


@pytest.mark.parametrize("device", ["cuda:99", "meta", torch.device("cuda", 99), "xla"])
def test_absent_devices(device):
    with pytest.raises(ValueError, match=r"not available on this machine.*Use device='auto'"):
        resolve_device(device)
    assert not is_available(torch.device(device))


def test_absent_backends(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    for name in ("cuda", "mps"):
        with pytest.raises(ValueError, match="sees 0 CUDA device"):
            resolve_device(name)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("mps")


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [
        ("auto", "cpu", None),
        ("auto", "cuda", np.float32),
        ("auto", "mps", np.float32),
        ("float32", "cpu", np.float32),
        ("float64", "cuda", np.float64),
    ],
)
def test_precisions(dtype, device, expected):
    assert training_dtype(dtype, torch.device(device)) == expected


def test_mps_has_no_float64():
    with pytest.raises(ValueError, match="Use dtype='float32'"):
        training_dtype("float64", torch.device("mps"))


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
class TestThreads:
    @pytest.mark.parametrize(("size", "expected"), [(LARGE, 2), (SMALL, 1), (SHORT, 1)])
    def test_small_and_short_work_takes_one(self, size, expected):
        with compute_threads(*size):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 2

    def test_the_setting_comes_back_after_an_error(self):
        with pytest.raises(ZeroDivisionError), compute_threads(*SMALL):
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2

    def test_in_a_pool_of_threads_each_takes_one(self):
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
    def test_a_fit_leaves_the_setting(self, solver):
        X, y = np.random.RandomState(0).randn(20, 3), np.arange(20) % 2
        with threadpool_limits(2, user_api="blas"):
            MLPTorchClassifier(solver=solver, max_iter=2, device="cpu").fit(X, y).predict(X)
            assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {2}
        assert torch.get_num_threads() == 2

    def test_lbfgs_keeps_blas_to_one_thread(self):
        with threadpool_limits(2, user_api="blas"), single_threaded_blas():
            assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {1}
