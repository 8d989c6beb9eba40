"""Fits after fits, epochs after epochs: whatever the order, what is left is what scikit-learn would have."""

import copy
import itertools
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from torch.nn import functional

from tests.estimators.helpers import KINDS, LABELS, TARGETS, WEIGHTS, WITH_ZEROS, X, ours, outputs, pair, weights_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:Got `batch_size` less than 1"),
]

SPARSE = sp.csr_array(WITH_ZEROS)
CLASSES = [0, 1, 2]


def assert_same(model, reference):
    """Check that ours has learned what scikit-learn's has."""
    assert (model.n_iter_, model.t_) == (reference.n_iter_, reference.t_)
    for name in ("loss_curve_", "validation_scores_", "best_loss_"):
        values = (np.array(getattr(estimator, name, None), float) for estimator in (model, reference))
        # Sequences of fits are long: rounding grows with the steps.
        assert_allclose(*values, rtol=1e-6)
    for actual, expected in zip(
        model.coefs_ + model.intercepts_, reference.coefs_ + reference.intercepts_, strict=True
    ):
        assert_allclose(actual, expected, rtol=1e-6, atol=1e-9)  # some weights are near 0


# Sequences of calls --------------------------------------------------------------------

ACTIONS = {
    "fit": lambda est: est.fit(X, LABELS),
    "fit sparse": lambda est: est.fit(SPARSE, LABELS),
    "fit weights": lambda est: est.fit(X, LABELS, sample_weight=WEIGHTS),
    "partial_fit": lambda est: est.partial_fit(X, LABELS, classes=CLASSES),
    "partial_fit some": lambda est: est.partial_fit(X[:30], LABELS[:30], classes=CLASSES),
    "partial_fit sparse": lambda est: est.partial_fit(SPARSE, LABELS, classes=CLASSES),
    "warm": lambda est: est.set_params(warm_start=True).fit(X, LABELS).set_params(warm_start=False),
    "warm sparse": lambda est: est.set_params(warm_start=True).fit(SPARSE, LABELS).set_params(warm_start=False),
    "alpha": lambda est: est.set_params(alpha=0.5),
    "rate": lambda est: est.set_params(learning_rate_init=0.02),
    "batch": lambda est: est.set_params(batch_size=33),
    "in order": lambda est: est.set_params(shuffle=False),
    "sgd": lambda est: est.set_params(solver="sgd"),
    "adam": lambda est: est.set_params(solver="adam"),
    "tanh": lambda est: est.set_params(activation="tanh"),
    "pickle": lambda est: pickle.loads(pickle.dumps(est)),
    "double": lambda est: [np.multiply(coef, 2, out=coef) for coef in getattr(est, "coefs_", [])] and None,
}


def sequences_of_all_pairs(names, length):
    """Random sequences in which each two names stand next to each other once, in both orders (an Eulerian circuit)."""
    random_state = np.random.RandomState(0)
    following = {name: list(random_state.permutation(names)) for name in names}
    path, circuit = [names[0]], []
    while path:
        if following[path[-1]]:
            path.append(following[path[-1]].pop())
        else:
            circuit.append(path.pop())
    return [circuit[start : start + length] for start in range(0, len(circuit) - 1, length - 1)]


SEQUENCES = sequences_of_all_pairs(list(ACTIONS), 8)


def test_sequences_have_all_pairs():
    pairs = [pair for sequence in SEQUENCES for pair in itertools.pairwise(sequence)]
    assert len(pairs) == len(set(pairs)) == len(ACTIONS) ** 2


@pytest.mark.parametrize("i", range(len(SEQUENCES)))
def test_calls_in_any_order(i):
    estimators = list(pair("classifier", max_iter=3, solver=["adam", "sgd"][i % 2]))
    for name in [*SEQUENCES[i], "partial_fit"]:
        for j, estimator in enumerate(estimators):
            estimators[j] = ACTIONS[name](estimator) or estimator
    assert_same(*estimators)


@pytest.mark.parametrize("pickled", [False, True], ids=["", "pickled"])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("wide", [False, True], ids=["narrow", "wide"])
def test_dense_and_sparse_rows_in_turn(wide, solver, pickled):
    """Weights of wide rows lie in one order for dense rows and in another for sparse ones, and so do the moments."""
    n_times = 16 if wide else 1
    both = np.tile(X, n_times), sp.csr_array(np.tile(WITH_ZEROS, n_times))
    for rows, others in (both, both[::-1]):
        model, reference = pair("classifier", solver=solver)
        for part in (rows, others, rows, others):
            model.partial_fit(part, LABELS, classes=CLASSES)
            model = pickle.loads(pickle.dumps(model)) if pickled else model
            reference.partial_fit(part, LABELS, classes=CLASSES)
        assert_same(model, reference)


# One fit after another -----------------------------------------------------------------


def test_a_cold_fit_forgets_the_one_before():
    model, reference = pair("classifier")
    for solver in ("adam", "lbfgs"):
        for estimator in (model, reference):
            estimator.set_params(solver=solver).fit(X, LABELS)
    assert model.t_ == reference.t_ == 0
    assert not hasattr(model, "loss_curve_")


def test_a_loss_curve_goes_on_after_lbfgs():
    model, reference = pair("classifier", warm_start=True, max_iter=3)
    for solver in ("adam", "lbfgs", "adam"):
        for estimator in (model, reference):
            estimator.set_params(solver=solver).fit(X, LABELS)
    assert len(model.loss_curve_) == 6
    assert_same(model, reference)


@pytest.mark.parametrize(("first", "then"), [(X, X[:, :3]), (X[:, :3], X)], ids=["fewer", "more"])
def test_partial_fit_after_lbfgs_has_no_moments_of_an_older_network(first, then):
    # PyTorch's fused Adam does not look at the shapes: with moments too short it would write beyond them.
    model = ours("classifier").fit(first, LABELS)
    model.set_params(solver="lbfgs").fit(then, LABELS)
    expected = ours("classifier", solver="lbfgs").fit(then, LABELS)
    for estimator in (model, expected):
        estimator.set_params(solver="adam").partial_fit(then, LABELS)
    assert_array_equal(weights_of(model), weights_of(expected))


@pytest.mark.parametrize(("first", "then"), [(np.float32, np.float64), (np.float64, np.float32)])
@pytest.mark.parametrize("kind", KINDS)
def test_partial_fit_keeps_the_precision_of_the_model(kind, first, then):
    model, reference = pair(kind)
    for estimator in (model, reference):
        estimator.fit(X.astype(first), TARGETS[kind]).partial_fit(X.astype(then), TARGETS[kind])
    assert model.coefs_[0].dtype == reference.coefs_[0].dtype == first
    assert_allclose(outputs(model, X), outputs(reference, X), rtol=1e-5)  # float32 took part in both


# What scikit-learn's MLP lacks ---------------------------------------------------------


def cross_entropy(logits, y):
    return functional.cross_entropy(logits, y, reduction="none")


TWO_LAYERS = {"hidden_layer_sizes": (8, 6), "shuffle": False}
FEATURES = {
    "dropout": {"dropout": [0.3, 0.5]},
    "batch norm": {"normalization": "batch", "solver": "sgd"},
    "layer norm": {"normalization": "layer"},
    "adamw": {"solver": "adamw"},
    "RMSprop": {"solver": torch.optim.RMSprop, "solver_params": {"momentum": 0.5, "centered": True}},
    "Adam of PyTorch": {"solver": torch.optim.Adam, "solver_params": {"amsgrad": True}},
    "cosine": {"learning_rate": "cosine", "warmup_fraction": 0.5},
    "one_cycle": {"learning_rate": "one_cycle", "solver": "sgd"},
    "one_cycle of RMSprop": {"learning_rate": "one_cycle", "solver": torch.optim.RMSprop},
    "functions": {"activation": (functional.softplus, "gelu"), "loss": cross_entropy},
    "clip, smooth, weights": {"gradient_clip_norm": 0.1, "label_smoothing": 0.1, "class_weight": {0: 2, 1: 1, 2: 1}},
    "weight_init": {"weight_init": "orthogonal"},
}
COPIES = {"": lambda model: model, "pickled": lambda model: pickle.loads(pickle.dumps(model)), "copied": copy.deepcopy}


# A deepcopy goes the way of a pickle, but for objects that say how they are copied: generators, optimizers, functions.
COPIED = ["dropout", "batch norm", "RMSprop", "functions"]


@pytest.mark.parametrize(
    ("name", "copied"), [(name, how) for how in COPIES for name in FEATURES if how != "copied" or name in COPIED]
)
def test_epochs_one_by_one_are_a_fit(name, copied):
    params, n_epochs = TWO_LAYERS | FEATURES[name], 4
    fitted = ours("classifier", **params).fit(X, LABELS)
    model = ours("classifier", **params)
    for _ in range(n_epochs):
        before, model = model, COPIES[copied](model.partial_fit(X, LABELS, classes=CLASSES))
        if before is not model:
            assert_array_equal(model.predict_proba(X), before.predict_proba(X))
            before.partial_fit(X, LABELS)  # a copy has streams and moments of its own
    assert_allclose(model.loss_curve_, fitted.loss_curve_, rtol=1e-12)
    assert_allclose(model.predict_proba(X), fitted.predict_proba(X), rtol=1e-10)
    rates = [[record["learning_rate"] for record in m.history_] for m in (model, fitted)]
    assert rates[0] == rates[1]


@pytest.mark.parametrize("params", [{"normalization": "batch"}, {"normalization": "layer", "dropout": 0.3}], ids=str)
def test_a_warm_start_goes_on(params):
    """Plain gradient descent has nothing but weights, running means and masks to go on from."""
    params = TWO_LAYERS | {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.1} | params
    expected = ours("classifier", **params).fit(X, LABELS)
    model = ours("classifier", **params | {"max_iter": 2}, warm_start=True).fit(X, LABELS).fit(X, LABELS)
    assert_allclose(model.predict_proba(X), expected.predict_proba(X), rtol=1e-12)


def test_a_planned_rate_keeps_its_last_value():
    model = ours("classifier", learning_rate="cosine")
    for _ in range(6):
        model.partial_fit(X, LABELS, classes=CLASSES)
    rates = [record["learning_rate"] for record in model.history_]
    assert rates[4:] == [rates[3]] * 2
    assert rates[3] < rates[2]


@pytest.mark.parametrize("name", FEATURES)
def test_a_clone_fits_alike(name):
    model = ours("classifier", **TWO_LAYERS | FEATURES[name])
    assert_array_equal(clone(model).fit(X, LABELS).predict_proba(X), model.fit(X, LABELS).predict_proba(X))
