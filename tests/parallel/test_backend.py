"""The joblib backend "stacked": its options, and the calls that it hands over to others."""

import os
from types import SimpleNamespace

import joblib
import pytest
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

from sktorch_mlp import stacked_fits
from sktorch_mlp._parallel.backend import StackedBackend
from sktorch_mlp._parallel.batcher import FitBatcher, current_batcher
from tests.parallel.fits import FILTERS, MLP, X, Y

pytestmark = [pytest.mark.usefixtures("two_trainers", "no_thread_left"), *map(pytest.mark.filterwarnings, FILTERS)]


@pytest.mark.parametrize("n_jobs", [None, -1, 2])
def test_by_name_and_whatever_n_jobs(n_jobs, stacks):
    with joblib.parallel_config("stacked"):
        cross_val_score(MLP, X, Y, cv=4, n_jobs=n_jobs)
    stacks.assert_stacked(4)


def test_one_job_and_no_parallel_call_are_as_always(stacks):
    with stacked_fits():
        clone(MLP).fit(X, Y)
        cross_val_score(MLP, X, Y, cv=3, n_jobs=1)
    cross_val_score(MLP, X, Y, cv=3)
    assert stacks.sizes == []


@pytest.mark.parametrize("n_fits", [1, 2, 3])
def test_n_fits_bounds_the_stacks(n_fits, stacks):
    with stacked_fits(n_fits=n_fits):
        cross_val_score(MLP, X, Y, cv=7)
    assert sum(stacks.sizes) in (0, 7)  # one task at a time runs in the thread of the caller
    assert (sum(stacks.sizes) == 0) == (n_fits == 1)
    assert max(stacks.sizes, default=0) <= n_fits


@pytest.mark.parametrize("n_fits", [0, -1, 1.5, True, "all"])
def test_n_fits_is_checked(n_fits):
    message = r"n_fits must be an integer of at least 1, got"
    with pytest.raises(ValueError, match=message), stacked_fits(n_fits=n_fits):
        pass
    with pytest.raises(ValueError, match=message), joblib.parallel_config("stacked", n_fits=n_fits):
        pass


@pytest.mark.parametrize("n_processes", [0, 1.5, True, "all", None])
def test_n_processes_is_checked(n_processes):
    message = r"n_processes must be an integer of at least 1, or negative: -1 for all cores, -2 for all but one\. Got"
    with pytest.raises(ValueError, match=message), stacked_fits(n_processes=n_processes):
        pass


def test_unknown_options_are_errors():
    with pytest.raises(TypeError, match="n_process"), joblib.parallel_config("stacked", n_process=2):
        pass
    with pytest.raises(TypeError, match="positional"):
        stacked_fits(3)


def test_zero_jobs_have_no_meaning():
    with stacked_fits(), pytest.raises(ValueError, match="n_jobs == 0 in Parallel has no meaning"):
        joblib.Parallel(n_jobs=0)(joblib.delayed(abs)(-n) for n in range(3))


def test_effective_jobs_are_those_of_all_processes():
    with stacked_fits(n_fits=5):
        assert joblib.effective_n_jobs(-1) == joblib.effective_n_jobs(7) == 5
        assert joblib.effective_n_jobs(1) == 1
    with stacked_fits(n_processes=2):
        assert joblib.effective_n_jobs() == 128
    with stacked_fits(n_processes=-1, n_fits=5):
        assert joblib.effective_n_jobs() == 5 * joblib.cpu_count()
    with stacked_fits(n_processes=-1000):  # at least one
        assert joblib.effective_n_jobs() == 64


def test_with_very_many_threads_nested_calls_run_one_task_after_the_other():
    for n_threads, n_jobs in ((511, 64), (512, 1)):
        backend = StackedBackend()
        backend._batcher = SimpleNamespace(n_threads=n_threads)
        assert backend.effective_n_jobs(-1) == n_jobs


def test_calls_in_tasks_share_the_batcher_of_the_task_and_another_context_has_its_own():
    def batchers():
        nested = joblib.Parallel()(joblib.delayed(current_batcher)() for _ in range(2))
        return {current_batcher(), *nested}

    assert current_batcher() is None
    with stacked_fits():
        for _ in range(2):
            first, second = joblib.Parallel()(joblib.delayed(batchers)() for _ in range(2))
            assert first == second
            (batcher,) = first
            assert isinstance(batcher, FitBatcher)
    assert current_batcher() is None
    with stacked_fits():
        assert batcher not in joblib.Parallel()(joblib.delayed(current_batcher)() for _ in range(2))


def test_tasks_that_share_memory_run_in_threads():
    seen = []
    with stacked_fits(n_processes=2):
        joblib.Parallel(require="sharedmem")(joblib.delayed(seen.append)(n) for n in range(5))
    with stacked_fits(n_processes=2, n_fits=1):
        joblib.Parallel(require="sharedmem")(joblib.delayed(seen.append)(n) for n in range(5, 7))
    assert sorted(seen) == [0, 1, 2, 3, 4, 5, 6]


def test_one_process_is_this_one():
    with stacked_fits(n_processes=-1000), stacked_fits(n_processes=1):
        assert set(joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(4))) == {os.getpid()}
