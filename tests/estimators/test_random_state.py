"""Random numbers: a seed gives the same bits, no seed follows NumPy's global stream, others are left alone."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neural_network import MLPClassifier

from sktorch_mlp import MLPTorchClassifier
from tests.estimators.helpers import (
    KINDS,
    LABELS,
    SMALL,
    TARGETS,
    WEIGHTS,
    X,
    ours,
    outputs,
    pair,
    weights_of,
)
from tests.pairwise import pairwise

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

FITS = {
    "adam": {},
    "sgd": {"solver": "sgd"},
    "lbfgs": {"solver": "lbfgs"},
    "early stopping": {"early_stopping": True},
    "one batch": {"batch_size": 50},
    "no shuffling": {"shuffle": False},
}
# Their initial weights and masks are drawn by PyTorch.
FEATURES = {"dropout": {"dropout": 0.5}, "initial weights of PyTorch": {"weight_init": "torch"}}
FORMATS = {"dense": np.asarray, "csr": sp.csr_array, "csc": sp.csc_array}


@pytest.mark.parametrize(("fit", "kind", "format_"), pairwise(FITS | FEATURES, KINDS, ["dense", "csr"]))
def test_a_seed_leaves_the_global_streams_alone(fit, kind, format_):
    params = (FITS | FEATURES)[fit]
    rows = FORMATS[format_](X)
    before, torch_before = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    model = ours(kind, **params).fit(rows, TARGETS[kind])
    model.predict(rows)
    if "solver" not in params and "early_stopping" not in params:
        model.partial_fit(rows, TARGETS[kind])
    after = np.random.get_state()  # noqa: NPY002
    assert after[0] == before[0]
    assert_array_equal(after[1], before[1])
    assert after[2:] == before[2:]
    assert torch.equal(torch.get_rng_state(), torch_before)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_seed_follows_the_global_stream_as_scikit_learn_does(kind, fit, global_stream):
    trained, next_numbers = [], []
    for estimator in pair(kind, **FITS[fit] | {"random_state": None}):
        global_stream.seed(0)
        estimator.fit(X, TARGETS[kind])
        if estimator.solver != "lbfgs" and not estimator.early_stopping:
            estimator.partial_fit(X, TARGETS[kind])
        trained.append(weights_of(estimator))
        next_numbers.append(global_stream.random_sample())
    assert_allclose(*trained, rtol=1e-8)  # small weights are differences of rounded ones
    assert next_numbers[0] == next_numbers[1]  # as many were drawn


def test_a_random_state_instance_is_used_up_as_by_scikit_learn():
    trained = []
    for class_ in (MLPTorchClassifier, MLPClassifier):
        stream = np.random.RandomState(7)
        estimators = [class_(**SMALL | {"random_state": stream}).fit(X, LABELS) for _ in range(2)]
        trained.append([weights_of(estimator) for estimator in estimators])
    assert_allclose(*trained, rtol=1e-8)  # small weights are differences of rounded ones
    assert not np.allclose(*trained[0])


@pytest.mark.parametrize(
    ("kind", "fit", "dtype", "format_"), pairwise(KINDS, FITS | FEATURES, [np.float32, np.float64], FORMATS)
)
def test_the_same_call_gives_the_same_bits(kind, fit, dtype, format_):
    rows = FORMATS[format_](X.astype(dtype))
    first, second = (ours(kind, **(FITS | FEATURES)[fit]).fit(rows, TARGETS[kind], WEIGHTS) for _ in range(2))
    assert_array_equal(weights_of(first), weights_of(second))
    assert_array_equal(outputs(first, rows), outputs(second, rows))
    assert first.loss_ == second.loss_
