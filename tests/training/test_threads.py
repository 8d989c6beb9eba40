"""Threads of PyTorch and BLAS while a fit or a prediction computes."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import joblib
import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from sktorch_mlp import MLPTorchClassifier
from sktorch_mlp._nn import compat
from sktorch_mlp._training import threads
from sktorch_mlp._training.threads import available_threads, on_one_blas_thread, on_one_thread
from tests.interrupts import alarms_that_raise, needs_signals
from tests.training.helpers import blas_threads

pytestmark = pytest.mark.usefixtures("two_torch_threads")


@on_one_thread
def limited(function):
    """What a function returns where PyTorch has one thread."""
    assert torch.get_num_threads() == 1
    result = function()
    assert torch.get_num_threads() == 1
    return result


def test_one_thread_can_be_nested():
    limited(lambda: limited(int))
    assert torch.get_num_threads() == 2


def test_the_setting_comes_back_after_an_error():
    with pytest.raises(ZeroDivisionError):
        limited(lambda: 1 / 0)
    assert torch.get_num_threads() == 2
    limited(int)


def test_the_setting_may_change_between_fits():
    for n_threads in (2, 1, 2):
        torch.set_num_threads(n_threads)
        limited(int)
        assert torch.get_num_threads() == n_threads


def test_products_have_one_thread_whoever_set_them():
    """MKL has a setting of its own after `torch.set_num_threads`."""
    matrix = torch.randn(700, 700, dtype=torch.float64)

    def cores_used():
        began, cpu_began = time.perf_counter(), time.process_time()
        while time.perf_counter() < began + 0.2:
            torch.mm(matrix, matrix)
        return (time.process_time() - cpu_began) / (time.perf_counter() - began)

    with ThreadPoolExecutor(1) as pool:  # of which nobody has set the threads
        assert pool.submit(limited, cores_used).result() < 1.2
    torch.set_num_threads(2)
    assert limited(cores_used) < 1.2


def test_other_threads_do_not_notice():
    def first_use():
        return torch.get_num_threads()

    def in_new_thread(function):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(function).result()

    assert limited(lambda: in_new_thread(first_use)) == 2
    own, seen, another_is_limited, done = threading.Event(), [], threading.Event(), threading.Event()

    def with_a_setting_of_its_own():
        torch.get_num_threads()  # the first use, which takes the setting of the process
        torch.set_num_threads(1)
        own.set()
        another_is_limited.wait(30)
        limited(int)
        seen.append(torch.get_num_threads())
        done.set()

    thread = threading.Thread(target=with_a_setting_of_its_own)
    thread.start()
    own.wait(30)
    torch.set_num_threads(2)
    limited(lambda: (another_is_limited.set(), done.wait(30)))
    thread.join()
    assert seen == [1]
    assert torch.get_num_threads() == 2
    assert in_new_thread(first_use) == 2


def test_what_a_user_sets_in_the_meantime_is_not_undone():
    entered, leave = threading.Event(), threading.Event()
    thread = threading.Thread(target=limited, args=(lambda: (entered.set(), leave.wait(30)),))
    thread.start()
    entered.wait(30)
    torch.set_num_threads(1)
    leave.set()
    thread.join()
    assert torch.get_num_threads() == 1
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1


def test_without_functions_for_one_thread_that_of_pytorch_takes_their_place(monkeypatch):
    class Nothing:
        """A library without names."""

    monkeypatch.setattr(compat.ctypes, "CDLL", lambda path: Nothing())
    set_openmp, set_mkl = compat.own_thread_setters.__wrapped__()
    assert set_openmp is torch.set_num_threads
    assert set_mkl(3) == 3


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no timer")
@pytest.mark.parametrize("blas", [False, True], ids=["PyTorch", "BLAS"])
def test_interrupts_leave_the_settings(blas):
    def is_interrupted(seconds):
        """Whether an interrupt after so long ends the work. Python drops those that come while it deletes an object."""
        deadline = time.monotonic() + 1
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            while time.monotonic() < deadline:
                (on_one_blas_thread(int) if blas else partial(limited, int))()
        except KeyboardInterrupt:
            return True
        return False

    libraries = threads._blas_libraries()
    random, before = np.random.RandomState(0), signal.getsignal(signal.SIGALRM)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with threadpool_limits(2, user_api="blas"):
            n_interrupted = 0
            for _ in range(300):
                n_interrupted += is_interrupted(random.uniform(1e-4, 1e-3))
                assert torch.get_num_threads() == 2
                assert not getattr(threads._local, "n_threads", 0)
                assert {library.num_threads for library in libraries} == {2}
            assert n_interrupted > 290
    finally:
        signal.signal(signal.SIGALRM, before)


def test_as_many_as_pytorch_is_set_to_and_as_there_are_cores():
    n_cores = joblib.cpu_count()
    for n_threads in (1, 2, 64):
        torch.set_num_threads(n_threads)
        assert available_threads() == min(n_threads, n_cores)
        assert limited(available_threads) == min(n_threads, n_cores)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_affinity_is_respected():
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert available_threads() == 1
    finally:
        os.sched_setaffinity(0, cores)
    assert available_threads() == min(2, joblib.cpu_count())


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000\n", "a/cpu.max": "150000 100000\n"}, 0.5),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2.0),
        (
            "7:memory:/x\n4:cpu,cpuacct:/a\n0::/\n",
            {"cpu/a/cpu.cfs_quota_us": "300000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            3.0,
        ),
        ("1:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, np.inf),
        ("0::/a\n", {}, np.inf),
        (None, {}, np.inf),
        ("\nnonsense\n0::/a\u2028b\n", {"a\u2028b/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a\n", {"a/cpu.max": "50000 0\n"}, np.inf),
        ("0::/a\n", {"a/cpu.max": "² 100000\n"}, np.inf),
    ],
)
def test_quotas_of_control_groups(groups, files, quota, tmp_path):
    for name, text in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if groups is not None:
        (tmp_path / "groups").write_text(groups)
    assert threads._cgroup_quota(tmp_path / "groups", tmp_path / "root") == quota


def test_control_groups_have_names_of_any_encoding(tmp_path):
    (tmp_path / "groups").write_bytes(b"1:name=x:/caf\xe9\n0::/kunde-\xfc\n")
    group = tmp_path / "root" / os.fsdecode(b"kunde-\xfc")
    group.mkdir(parents=True)
    (group / "cpu.max").write_text("50000 100000\n")
    assert threads._cgroup_quota(tmp_path / "groups", tmp_path / "root") == 0.5


@pytest.mark.parametrize("value", ["", "abc", "1.5"])
def test_a_malformed_number_of_cores_is_none(value, monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", value)
    threads._cpu_count.cache_clear()
    try:
        assert available_threads() == min(torch.get_num_threads(), len(os.sched_getaffinity(0)))
    finally:
        threads._cpu_count.cache_clear()


@needs_signals
@pytest.mark.parametrize("error", [TimeoutError, ValueError])
def test_what_a_handler_raises_is_not_taken_for_a_quota_that_cannot_be_read(error, monkeypatch):
    with alarms_that_raise(error) as send_alarm:
        monkeypatch.setattr(threads.joblib, "cpu_count", lambda: send_alarm() or 2)
        threads._cpu_count.cache_clear()
        with pytest.raises(error):
            available_threads()


def test_quotas_limit_the_threads(monkeypatch):
    monkeypatch.setattr(threads, "_cgroup_quota", lambda: 0.5)
    threads._cpu_count.cache_clear()
    assert available_threads() == 1
    monkeypatch.undo()
    threads._cpu_count.cache_clear()
    assert available_threads() == min(2, joblib.cpu_count())


def test_cores_are_counted_without_a_file_descriptor(monkeypatch):
    def refuse():
        raise OSError("Too many open files")

    monkeypatch.setattr(joblib, "cpu_count", refuse)
    threads._cpu_count.cache_clear()
    assert available_threads() == min(torch.get_num_threads(), len(os.sched_getaffinity(0)))
    threads._cpu_count.cache_clear()


def test_in_a_pool_of_threads_each_takes_one():
    both = threading.Barrier(2)

    @on_one_thread
    def inside():
        both.wait(timeout=30)
        seen = torch.get_num_threads(), available_threads()
        both.wait(timeout=30)
        return seen

    def work():
        return *inside(), torch.get_num_threads()

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
        assert blas_threads() == {2}
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
