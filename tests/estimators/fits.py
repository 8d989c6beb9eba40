"""Fitted estimators of all four classes and of every kind of state, for tests of dumps and files."""

import warnings
from functools import cache

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.exceptions import ConvergenceWarning

from sktorch_mlp import TabularMLPClassifier, TabularMLPRegressor
from tests.estimators.helpers import LABELS, MULTILABEL, NUMBERS, TWO_NUMBERS, X, dense, ours, outputs
from tests.estimators.tables import SMALL, table

FRAME, LEVELS = table()
NAMES = np.array(["setosa", "versicolor", "virginica"])[LABELS]
DRAWN = {"hyperparameters": {"dropout": [0.0, 0.2], "learning_rate_init": [1e-3, 5e-3]}, "n_candidates": 3}


def _networks(kind, **params):
    return lambda: ours(kind, **params)


def _ensemble(class_, **params):
    return lambda: class_(**SMALL | {"n_estimators": 2, "max_iter": 2} | params)


#: Estimator, X and y. Those of `CODE` have parameters that a file cannot hold.
FITS = {
    "adam": (_networks("classifier"), X, LABELS),
    "adamw": (_networks("regressor", solver="adamw", learning_rate="one_cycle"), X.astype(np.float32), NUMBERS),
    "sgd": (_networks("classifier", solver="sgd", learning_rate="invscaling"), X, NAMES.astype(object)),
    "sgd adaptive": (_networks("regressor", solver="sgd", learning_rate="adaptive"), X, TWO_NUMBERS),
    "lbfgs": (_networks("classifier", solver="lbfgs"), X, NAMES),
    "torch.optim": (_networks("classifier", solver=torch.optim.RMSprop, solver_params={"momentum": 0.5}), X, LABELS),
    "functions": (_networks("classifier", activation=torch.tanh, loss=torch.nn.functional.cross_entropy), X, LABELS),
    "RandomState": (lambda: ours("regressor", random_state=np.random.RandomState(3)), X, NUMBERS),
    "batch": (_networks("classifier", normalization="batch", dropout=[0.3], device=torch.device("cpu")), X, LABELS),
    "layer": (_networks("regressor", normalization="layer", dropout=np.array([0.3])), sp.csr_array(X), NUMBERS),
    "multilabel": (_networks("classifier", hidden_layer_sizes=(4, 3)), sp.csr_array(X), MULTILABEL),
    "sparse labels": (_networks("classifier"), X, sp.csr_array(MULTILABEL)),
    "binary": (_networks("classifier", hidden_layer_sizes=(), n_iter_no_change=np.inf), X, LABELS > 0),
    "early stopping": (_networks("classifier", early_stopping=True, class_weight={0: 1.0, 1: 2, 2: 3}), X, LABELS),
    "numpy": (_networks("regressor", alpha=np.float32(0.1), hidden_layer_sizes=np.array([3])), X, NUMBERS),
    "warm": (_networks("regressor", warm_start=True, loss="poisson"), X, NUMBERS),
    "ensemble": (_ensemble(TabularMLPClassifier), FRAME, LEVELS),
    "pack": (_ensemble(TabularMLPClassifier, **DRAWN), FRAME, LEVELS),
    "waves": (_ensemble(TabularMLPRegressor, numerical_embedding="periodic"), FRAME, np.arange(150.0)),
    "no validation": (_ensemble(TabularMLPRegressor, validation_fraction=0, dtype="float64"), X, TWO_NUMBERS),
    "sparse table": (_ensemble(TabularMLPClassifier), sp.csr_array(X), LABELS),
    "labels of a table": (_ensemble(TabularMLPClassifier), X, MULTILABEL),
    "constant columns": (_ensemble(TabularMLPClassifier), np.ones((50, 2)), LABELS > 0),
}
CODE = {"torch.optim": "solver", "functions": "activation", "RandomState": "random_state"}
STORABLE = [name for name in FITS if name not in CODE]
STOCHASTIC = [name for name in list(FITS)[: list(FITS).index("ensemble")] if name not in ("lbfgs", "early stopping")]


def fit(name):
    """A fitted estimator."""
    make, rows, y = FITS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make().fit(rows, y)


#: The same one for tests that do not change it.
fitted = cache(fit)


def rows_of(name):
    return FITS[name][1]


def assert_same_model(actual, expected, rows):
    """Check that two estimators predict bit for bit the same, and have the same parameters and attributes."""
    np.testing.assert_array_equal(outputs(actual, rows), outputs(expected, rows), strict=True)
    np.testing.assert_array_equal(dense(actual.predict(rows)), dense(expected.predict(rows)), strict=True)
    assert type(actual) is type(expected)
    assert texts_of(actual.get_params()) == texts_of(expected.get_params())
    assert vars(actual).keys() == vars(expected).keys()
    for name in vars(expected):
        if name.endswith("_"):
            assert_same_value(getattr(actual, name), getattr(expected, name))


def texts_of(params):
    """Parameters as texts, types of numbers included, without addresses of objects."""
    return {name: repr(value).partition(" at 0x")[0] for name, value in params.items()}


def assert_same_value(actual, expected):
    assert type(actual) is type(expected)
    if isinstance(expected, list):
        for one, other in zip(actual, expected, strict=True):
            assert_same_value(one, other)
    elif isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for name in expected:
            assert_same_value(actual[name], expected[name])
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(actual, expected, strict=True)
        assert actual.flags.f_contiguous == expected.flags.f_contiguous
        assert actual.flags.writeable
    elif hasattr(expected, "equals"):  # a frame
        assert expected.equals(actual)
        assert actual.dtypes.equals(expected.dtypes)
    else:
        assert actual == expected or (actual != actual and expected != expected)
