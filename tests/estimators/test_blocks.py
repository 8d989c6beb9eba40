"""Blocks of predictions on several threads: each stored once, whatever happens to helpers."""

import threading
import time

import numpy as np
import pytest
import torch

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor
from sktorch_mlp._estimators import blocks
from sktorch_mlp._estimators.blocks import compute_blocks

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


def test_an_error_of_a_helper_alone_is_harmless():
    caller = threading.current_thread()

    def compute(block):
        time.sleep(0.002)
        if threading.current_thread() is not caller:
            raise MemoryError
        return torch.tensor(block)

    assert _compute(compute, 8, 2) == [(block, block) for block in range(8)]


@pytest.fixture(scope="module")
def models():
    y = (X[:, 0] > 0).astype(int)
    settings = {"hidden_layer_sizes": (900, 100), "random_state": 0, "device": "cpu"}
    classifier = MLPTorchClassifier(**settings).partial_fit(X[:200], y[:200], classes=[0, 1])
    regressor = MLPTorchRegressor(**settings, normalization="layer").partial_fit(X[:200], X[:200, :2])
    return classifier.predict_proba, regressor.predict


@pytest.mark.parametrize("n_rows", [500, 800, 801, 3000])
@pytest.mark.parametrize("which", [0, 1], ids=["classifier", "regressor"])
def test_bits_do_not_depend_on_the_number_of_threads(models, which, n_rows, two_torch_threads):
    predictions = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        predictions += [models[which](X[:n_rows]) for _ in range(3)]
    assert all(np.array_equal(predictions[0], others) for others in predictions[1:])


def test_one_thread_predicts_where_it_is_quicker(models, two_torch_threads, monkeypatch):
    class Choice:
        def __init__(self, n_operations):
            assert n_operations == 144_100 * 3000

        def call(self, alone, shared, n_operations):
            n_calls.append(n_operations)
            return (alone if len(n_calls) == 1 else shared)()

    n_calls, shared_by, run = [], [], blocks._Helpers.run

    def record(self, work, n_threads):
        shared_by.append(n_threads)
        run(self, work, n_threads)

    monkeypatch.setattr(blocks, "ThreadChoice", Choice)
    monkeypatch.setattr(blocks, "_choices", {})
    monkeypatch.setattr(blocks._Helpers, "run", record)
    models[0](X)
    assert shared_by == []
    models[0](X)
    assert shared_by == [2]
    models[0](X[:500])  # too few rows to choose
    models[0](np.tile(X, (4, 1)))  # so many that threads surely pay
    assert n_calls == [144_100 * 3000] * 2
    assert shared_by == [2, 2]


def test_many_threads_at_once_get_what_one_gets(models, two_torch_threads):
    expected, results = models[0](X), []
    threads = [threading.Thread(target=lambda: results.append(models[0](X))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
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
    threads = set()

    def activation(units):
        threads.add(threading.current_thread())
        return torch.tanh(units)

    model = MLPTorchClassifier((300, 40), activation=activation, device="cpu")
    model.partial_fit(X[:100], X[:100, 0] > 0, classes=[False, True]).predict(X)
    assert threads == {threading.current_thread()}
