"""Blocks of predictions on several threads: each stored once, whatever happens to helpers."""

import gc
import mmap
import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor
from sktorch_mlp._estimators import blocks, predictor
from sktorch_mlp._estimators.blocks import compute_blocks
from sktorch_mlp._nn import products

X = np.random.RandomState(0).randn(3000, 60).astype(np.float32)


def _compute(compute, n_blocks, n_threads):
    stored = []
    compute_blocks(compute, lambda block, value: stored.append((block, int(value))), n_blocks, n_threads)
    return sorted(stored)


@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize("n_blocks", [1, 2, 9])
def test_each_block_is_stored_once(n_blocks, n_threads):
    for _ in range(20):
        stored = _compute(lambda block: torch.tensor(block**2), n_blocks, n_threads)
        assert stored == [(block, block**2) for block in range(n_blocks)]


def test_a_helper_that_is_late_is_not_waited_for():
    caller, release = threading.current_thread(), threading.Event()
    by_helpers = []

    def compute(block):
        time.sleep(0.002)
        if threading.current_thread() is not caller:
            by_helpers.append(block)
            release.wait(30)  # another program has its core
        return torch.tensor(block)

    assert _compute(compute, 12, 2) == [(block, block) for block in range(12)]
    assert len(by_helpers) <= 1  # none where this thread was quicker
    release.set()


def test_a_helper_that_is_late_is_waited_for_where_it_reads_what_may_be_closed():
    caller, at_work = threading.current_thread(), set()

    def compute(block):
        ident = threading.get_ident()
        at_work.add(ident)
        time.sleep(0.002 if threading.current_thread() is caller else 0.2)
        at_work.remove(ident)
        return torch.tensor(block)

    for _ in range(3):
        compute_blocks(compute, lambda block, value: None, 12, 2, to_the_end=True)
        assert at_work == set()


def test_a_late_block_may_be_waited_for_by_several_threads():
    """A fork waits for it, and the next prediction looks whether it has come."""
    release, taken = threading.Event(), threading.Event()
    late = blocks._Blocks(
        lambda block: (taken.set(), release.wait(30), torch.tensor(block))[-1], lambda *block: None, 1
    )
    helper = threading.Thread(target=late.help)
    helper.start()
    assert taken.wait(30)
    late.withdraw()
    assert late.wait(0.0)
    waiting = [threading.Thread(target=late.wait, args=(20,)) for _ in range(3)]
    for thread in waiting:
        thread.start()
    release.set()
    for thread in (helper, *waiting):
        thread.join(5)
        assert not thread.is_alive()
    assert not late.wait(0.0)


def test_a_helper_that_failed_is_not_waited_for():
    caller = threading.current_thread()
    failed = []

    def compute(block):
        time.sleep(0.002)
        if threading.current_thread() is not caller:
            failed.append(block)
            raise RuntimeError
        return torch.tensor(block)

    began, stored = time.monotonic(), []
    while not failed:  # the first helper may come too late
        stored.clear()
        compute_blocks(compute, lambda block, value: stored.append(int(value)), 50, 2, to_the_end=True)
    assert sorted(stored) == list(range(50))
    assert time.monotonic() - began < blocks._UNTIL_ENDED


def test_memory_of_others_can_be_closed_after_a_prediction(models, tmp_path, two_torch_threads, monkeypatch):
    """A helper that is late would still have a view of it."""
    path, predict, caller = tmp_path / "X", models[0], threading.current_thread()
    predict_block = predictor.Predictor._predict

    def late(self, *args, **kwargs):
        if threading.current_thread() is not caller:
            time.sleep(0.05)
        return predict_block(self, *args, **kwargs)

    monkeypatch.setattr(predictor.Predictor, "_predict", late)
    expected = predict(X)
    X.tofile(path)
    for _ in range(5):
        with open(path, "rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        assert np.array_equal(predict(np.frombuffer(memory, np.float32).reshape(X.shape)), expected)
        memory.close()


@pytest.mark.parametrize("kind", ["array", "tensor", "sparse", "not finite", "alarm"])
def test_memory_of_others_can_be_closed_whatever_X_is_and_after_errors(models, kind, two_torch_threads, monkeypatch):
    caller, predict_block = threading.current_thread(), predictor.Predictor._predict
    memory = mmap.mmap(-1, X.nbytes)
    values = np.frombuffer(memory, np.float32)
    values[:] = X.ravel()
    rows = values.reshape(X.shape)
    if kind == "tensor":
        rows = torch.from_numpy(rows)
    elif kind == "sparse":
        n_rows, n_features = X.shape
        indices, indptr = np.tile(np.arange(n_features), n_rows), np.arange(n_rows + 1) * n_features
        rows = csr_array((values, indices, indptr), shape=X.shape)
    elif kind == "not finite":
        rows[0] = np.nan
    at_work = []

    def slow(self, *args, **kwargs):
        if threading.current_thread() is caller:
            while kind != "not finite" and not at_work:
                time.sleep(0.001)
            if kind == "alarm":
                raise TimeoutError
            return predict_block(self, *args, **kwargs)
        at_work.append(1)
        time.sleep(0.1)
        at_work.append(predict_block(self, *args, **kwargs))
        return at_work[-1]

    models[0](X)  # with a helper that waits for the next call
    monkeypatch.setattr(predictor.Predictor, "_predict", slow)
    with {"not finite": pytest.raises(ValueError, match="NaN"), "alarm": pytest.raises(TimeoutError)}.get(
        kind, nullcontext()
    ):
        models[0](rows)
    n_at_work = len(at_work)
    del rows, values
    gc.collect()  # of the frames of an error
    memory.close()
    time.sleep(0.15)
    assert len(at_work) == n_at_work


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_waits_for_a_helper_that_is_late(monkeypatch):
    """It may hold locks of the library of products, which the child would have for good."""
    caller, at_work = threading.current_thread(), []

    def compute(block):
        time.sleep(0.002)
        if threading.current_thread() is not caller:
            at_work.append(block)
            time.sleep(0.3)
            at_work.remove(block)
        return torch.tensor(block)

    while not at_work:
        _compute(compute, 12, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
        if child == 0:
            os._exit(len(at_work) or blocks._helpers._threads != [])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert _compute(lambda block: torch.tensor(block), 9, 2) == [(block, block) for block in range(9)]


def test_without_threads_to_start_the_caller_goes_on_alone(monkeypatch):
    def no_threads(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(blocks, "_helpers", blocks._Helpers())
    monkeypatch.setattr(threading.Thread, "start", no_threads)
    for _ in range(3):
        assert _compute(lambda block: torch.tensor(block), 9, 3) == [(block, block) for block in range(9)]


def test_an_error_is_the_callers():
    def compute(block):
        if block == 3:
            raise ZeroDivisionError
        return torch.tensor(block)

    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            _compute(compute, 8, 2)


def test_after_an_error_helpers_begin_no_block():
    caller, computed = threading.current_thread(), []

    def compute(block):
        if threading.current_thread() is caller:
            raise ZeroDivisionError
        computed.append(block)
        time.sleep(0.05)
        return torch.tensor(block)

    with pytest.raises(ZeroDivisionError):
        _compute(compute, 50, 2)
    time.sleep(0.2)
    assert len(computed) <= 2


def test_an_error_of_a_helper_alone_is_harmless():
    caller = threading.current_thread()

    def compute(block):
        time.sleep(0.002)
        if threading.current_thread() is not caller:
            raise MemoryError
        return torch.tensor(block)

    assert _compute(compute, 8, 2) == [(block, block) for block in range(8)]


#: How weights are laid out after a fit, and where training goes on.
TRAINED = {
    "C order": lambda model, X, y: model.set_params(max_iter=1).fit(X, y),
    "Fortran order": lambda model, X, y: model.partial_fit(X, y, **({"classes": np.unique(y)} if y.ndim == 1 else {})),
}
one_epoch = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module", params=TRAINED)
def models(request):
    train = TRAINED[request.param]
    settings = {"hidden_layer_sizes": (900, 100), "random_state": 0, "device": "cpu"}
    with warnings.catch_warnings(action="ignore"):
        classifier = train(MLPTorchClassifier(**settings), X[:200], (X[:200, 0] > 0).astype(int))
        regressor = train(MLPTorchRegressor(**settings, normalization="layer"), X[:200], X[:200, :2])
    return classifier.predict_proba, regressor.predict


@pytest.mark.parametrize("n_rows", [60, 300, 512, 800, 1500, 1600, 3000])
@pytest.mark.parametrize("which", [0, 1], ids=["classifier", "regressor"])
def test_bits_do_not_depend_on_the_number_of_threads(models, which, n_rows, two_torch_threads):
    predictions = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        predictions += [models[which](X[:n_rows]) for _ in range(3)]
    assert all(np.array_equal(predictions[0], others) for others in predictions[1:])


class Choice:
    """A choice that takes what it is told, and notes what it is asked."""

    asked, typical, share = [], [], True

    def __init__(self, n_operations):
        pass

    def call(self, alone, shared, n_operations, *, is_typical):
        self.asked.append(n_operations)
        self.typical.append(is_typical)
        return (shared if self.share else alone)()


@pytest.fixture
def choice(monkeypatch):
    monkeypatch.setattr(blocks, "ThreadChoice", Choice)
    monkeypatch.setattr(blocks, "_choices", {})
    monkeypatch.setattr(Choice, "asked", [])
    monkeypatch.setattr(Choice, "typical", [])
    return Choice


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """A number of rows has come often when it has come once."""
    monkeypatch.setattr(predictor, "_OFTEN", 1)


@pytest.fixture
def threads_of_products(monkeypatch):
    """The threads that PyTorch has in each product that is shared."""
    seen, call_on = [], products.call_on

    def record(n_threads, call, *args):
        if n_threads > 1:
            seen.append(n_threads)
        return call_on(n_threads, call, *args)

    monkeypatch.setattr(products, "call_on", record)
    return seen


@one_epoch
@pytest.mark.parametrize("order", TRAINED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_rows", [80, 128, 200, 333, 512, 800, 1600])
def test_products_of_one_block_on_threads_of_pytorch(
    n_rows, dtype, order, choice, threads_of_products, two_torch_threads
):
    features = np.random.RandomState(1).randn(n_rows, 700).astype(dtype)
    model = TRAINED[order](MLPTorchClassifier((70, 40), device="cpu"), features, np.arange(n_rows) % 3)
    first = model.predict_proba(features)
    assert choice.asked == []  # it may be the only call with so many rows
    choice.share = False
    alone = model.predict_proba(features)
    assert threads_of_products == []
    choice.share = True
    shared = model.predict_proba(features)
    assert choice.asked == [(700 * 70 + 70 * 40 + 40 * 3) * n_rows] * 2
    assert set(threads_of_products) <= {2}  # where the bits stay the same
    assert np.array_equal(alone, first)
    assert np.array_equal(shared, first)
    model.predict_proba(features[:40])
    torch.set_num_threads(1)
    model.predict_proba(features)
    assert len(choice.asked) == 2


def test_rows_that_have_not_come_often_are_not_shared(choice, two_torch_threads, monkeypatch):
    monkeypatch.setattr(predictor, "_OFTEN", 3)
    features = np.random.RandomState(1).randn(200, 700)
    model = MLPTorchRegressor(hidden_layer_sizes=(150,), device="cpu").partial_fit(features, features[:, 0])
    for n_calls in range(1, 7):
        model.predict(features)
        model.predict(features[:-n_calls])  # others have not come at all
        assert (
            choice.typical == [False, True, True][: max(0, n_calls - 3)]
        )  # the first one finds out what can be shared


@pytest.mark.parametrize("n_rows", [100, 200])
def test_only_large_products_are_shared(n_rows, choice, threads_of_products, two_torch_threads, monkeypatch):
    monkeypatch.setattr(products, "_invariant_way", lambda layout, dtype, n_threads: (n_threads, products._by_the_blas))
    features = np.random.RandomState(1).randn(n_rows, 700)
    model = MLPTorchRegressor(hidden_layer_sizes=(150, 20), device="cpu").partial_fit(features, features[:, :2])
    alone, shared = model.predict(features), model.predict(features)
    assert threads_of_products == [2]  # the first layer's
    np.testing.assert_allclose(shared, alone, rtol=1e-12, atol=1e-14)  # the threads may sum in another order


def test_one_prediction_of_the_main_thread_has_threads_of_pytorch(choice, threads_of_products, two_torch_threads):
    features = np.random.RandomState(1).randn(200, 700)
    model = MLPTorchClassifier((150,), device="cpu").partial_fit(features, np.arange(200) % 3, classes=[0, 1, 2])
    expected = model.predict_proba(features)
    with ThreadPoolExecutor(1) as executor:
        executor.submit(blocks._callers.__enter__).result()
        assert np.array_equal(model.predict_proba(features), expected)
        executor.submit(blocks._callers.__exit__).result()
        assert np.array_equal(executor.submit(model.predict_proba, features).result(60), expected)
    assert choice.asked == threads_of_products == []
    assert np.array_equal(model.predict_proba(features), expected)
    assert len(choice.asked) == 1


def test_a_prediction_that_was_interrupted_is_forgotten(choice, two_torch_threads):
    """Ctrl-C may come after it has been noted, and before anything that would end it."""
    features = np.random.RandomState(1).randn(200, 700)
    model = MLPTorchClassifier((150,), device="cpu").partial_fit(features, np.arange(200) % 3, classes=[0, 1, 2])
    model.predict_proba(features)
    blocks._callers.__enter__()
    for _ in range(2):
        model.predict_proba(features)
    assert len(choice.asked) == 2
    assert not blocks._callers._threads


def test_many_threads_at_once_get_what_one_gets(models, two_torch_threads):
    expected, results = models[0](X), []
    others = [threading.Thread(target=lambda: results.append(models[0](X))) for _ in range(16)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join(60)
    assert len(results) == 16
    assert all(np.array_equal(result, expected) for result in results)


def test_blocks_in_inference_mode(models, two_torch_threads):
    expected = models[0](X)
    with torch.inference_mode():
        inside = models[0](X)
    np.testing.assert_array_equal(inside, expected)
    inside += 1  # a plain array


def test_functions_of_the_user_run_on_the_callers_thread(two_torch_threads):
    callers = set()

    def activation(units):
        callers.add(threading.current_thread())
        return torch.tanh(units)

    model = MLPTorchClassifier((300, 40), activation=activation, device="cpu")
    model.partial_fit(X[:100], X[:100, 0] > 0, classes=[False, True]).predict(X)
    assert callers == {threading.current_thread()}
