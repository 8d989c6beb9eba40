"""Forked children, whose parent's threads are not there: nothing waits for them."""

import multiprocessing
import os
import time
import traceback
from functools import partial

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor, TabularMLPClassifier, stacked_fits
from sktorch_mlp._nn.threads import call_on
from sktorch_mlp._training.threads import on_one_thread

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),  # Python 3.12 on forks with threads
]

X = np.random.RandomState(0).randn(4000, 100)
Y = (X[:, 0] > 0).astype(int)
LARGE = MLPTorchClassifier((300, 100), batch_size=500, max_iter=2, random_state=0, device="cpu")


@pytest.fixture(scope="module", autouse=True)
def parent():
    """Use all threads that there are: those of OpenMP, of BLAS, and our own."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.ones(1500, 1500) @ torch.ones(1500, 1500)
    np.ones((1500, 1500)) @ np.ones((1500, 1500))
    model = LARGE.fit(X, Y)
    for _ in range(20):  # products of one block, on threads of OpenMP
        model.predict_proba(X[:500])
    yield model, model.predict_proba(X)
    torch.set_num_threads(before)


def _in_child(function):
    """Call a function in a forked child, which has half a minute."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "hangs"


def _predict(parent):
    model, expected = parent
    assert np.array_equal(model.predict_proba(X), expected)
    for n_rows in (1, 500):
        few = [model.predict_proba(X[:n_rows]) for _ in range(3)]
        assert np.array_equal(few, [few[0]] * 3)


def _fit(parent):
    _, expected = parent
    assert np.array_equal(LARGE.fit(X, Y).predict_proba(X), expected)


def _fit_others(parent):
    model = MLPTorchRegressor(hidden_layer_sizes=(200,), solver="lbfgs", max_iter=2, device="cpu").fit(X, Y)
    model.set_params(solver="adam", normalization="batch", early_stopping=True, dtype="float32").fit(X, Y)


def _convert(parent):
    wide = MLPTorchClassifier((1024, 512), max_iter=1, random_state=0, device="cpu").fit(X[:500], Y[:500])
    for other in (wide.to_sklearn(), wide.to_torch()):
        read = MLPTorchClassifier.from_torch if isinstance(other, torch.nn.Module) else MLPTorchClassifier.from_sklearn
        np.testing.assert_allclose(read(other, device="cpu").predict_proba(X[:9]), wide.predict_proba(X[:9]))
    wide.to_skorch()
    table = TabularMLPClassifier(n_estimators=2, max_iter=1, random_state=0, device="cpu").fit(X[:500], Y[:500])
    assert len(table.encode(X)) == len(X)
    assert isinstance(table.to_torch(), torch.nn.Module)  # whose calls are PyTorch's, on all its threads


def _search(parent):
    with stacked_fits():
        assert len(cross_val_score(MLPTorchClassifier((20,), max_iter=3, device="cpu"), X, Y, cv=3)) == 3


@pytest.mark.parametrize("work", [_predict, _fit, _fit_others, _convert, _search])
def test_a_child_does_what_its_parent_does(parent, work):
    assert _in_child(partial(work, parent)) == 0


def test_a_child_that_is_forked_within_a_fit(parent):
    """By a scorer, in the main thread, while nothing else computes: large calls of the fit may have two threads."""
    wide = MLPTorchClassifier((512, 256), early_stopping=True, max_iter=1, batch_size=500, device="cpu")

    def score(model, rows, y):
        assert _in_child(lambda: [model.predict_proba(X) for _ in range(3)]) == 0
        assert _in_child(lambda: clone(wide).fit(X, Y)) == 0
        return 1.0

    clone(wide).set_params(scoring=score).fit(X, Y)


@pytest.mark.parametrize("work", [_predict, _fit])
def test_a_child_that_is_forked_within_a_large_call(parent, work):
    """By an activation of the user's, which two threads may compute."""
    assert on_one_thread(call_on)(2, _in_child, partial(work, parent)) == 0


def test_after_stacked_fits(parent):
    _search(parent)
    assert _in_child(partial(_search, parent)) == 0
    assert _in_child(partial(_predict, parent)) == 0


def test_the_child_of_a_child(parent):
    assert _in_child(lambda: os._exit(_in_child(partial(_predict, parent)) != 0)) == 0


def _predict_part(model, start):
    return model.predict_proba(X[start : start + 1000])


def test_a_pool_that_forks(parent):
    model, _ = parent
    with multiprocessing.get_context("fork").Pool(2) as pool:
        parts = pool.map_async(partial(_predict_part, model), range(0, 4000, 1000)).get(timeout=60)
    np.testing.assert_array_equal(parts, [_predict_part(model, start) for start in range(0, 4000, 1000)])


def test_a_server_that_loads_before_it_forks(parent, tmp_path):
    """A worker of gunicorn with --preload: forked after a prediction of the parent, it serves more than one request."""
    path = tmp_path / "model.joblib"
    joblib.dump(parent[0], path)
    model = joblib.load(path)
    expected = model.predict_proba(X)

    def serve():
        for _ in range(3):
            assert np.array_equal(model.predict_proba(X), expected)
            assert np.array_equal(model.predict(X[:1]), model.classes_[expected[:1].argmax(1)])

    assert [_in_child(serve) for _ in range(2)] == [0, 0]


def test_the_parent_goes_on(parent):
    assert _in_child(partial(_predict, parent)) == 0
    _predict(parent)
    _fit(parent)
    assert torch.get_num_threads() == 2
