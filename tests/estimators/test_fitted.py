"""Fitted attributes: weights, modules and predictions are one model, whatever is written where."""

import copy
import gc
import operator
import pickle
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.neural_network import MLPRegressor
from torch import nn

from sktorch_mlp import MLPTorchRegressor
from sktorch_mlp._estimators.fitted import WeightArrays
from sktorch_mlp._nn.network import NetworkSpec, StackedMLP
from tests.estimators.helpers import (
    LABELS,
    MULTILABEL,
    NUMBERS,
    RTOL,
    TWO_NUMBERS,
    WARNS_EACH_TIME,
    X,
    ours,
    outputs,
    pair,
    read_only,
    weights_of,
)

pytestmark = [pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"), *WARNS_EACH_TIME]

MODELS = {
    "softmax": ("classifier", {}, LABELS),
    "logistic": ("classifier", {"activation": "tanh"}, LABELS > 0),
    "multilabel": ("classifier", {"activation": "logistic"}, MULTILABEL),
    "identity": ("regressor", {"activation": "identity"}, NUMBERS),
    "two targets": ("regressor", {"hidden_layer_sizes": (5, 4)}, TWO_NUMBERS),
    "exponential": ("regressor", {"loss": "poisson"}, NUMBERS),
    "no hidden layer": ("classifier", {"hidden_layer_sizes": ()}, LABELS),
    "sgd": ("classifier", {"solver": "sgd"}, LABELS),
    "lbfgs": ("classifier", {"solver": "lbfgs"}, LABELS),
    "early stopping": ("classifier", {"early_stopping": True}, LABELS),
    "float32": ("classifier", {"dtype": "float32"}, LABELS),
}
HIDDEN = {
    "identity": (nn.Identity, lambda z: z),
    "tanh": (nn.Tanh, np.tanh),
    "relu": (nn.ReLU, lambda z: np.maximum(z, 0)),
    "logistic": (nn.Sigmoid, lambda z: 1 / (1 + np.exp(-z))),
}
FORMATS = {"dense": np.asarray, "sparse": sp.csr_array}

FLOAT64 = np.dtype(np.float64)


def softmax(z):
    return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


def activated(estimator, logits):
    """Predictions or probabilities made of logits by NumPy."""
    outputs_of = {"identity": lambda z: z, "logistic": HIDDEN["logistic"][1], "softmax": softmax, "exp": np.exp}
    result = outputs_of[estimator.out_activation_](logits)
    if hasattr(estimator, "classes_"):
        return np.hstack([1 - result, result]) if result.shape[1] == 1 else result
    return result.ravel() if result.shape[1] == 1 else result


def by_numpy(estimator):
    """Predictions for X from coefs_ and intercepts_, by NumPy."""
    units = X
    for layer, (coef, intercept) in enumerate(zip(estimator.coefs_, estimator.intercepts_, strict=True)):
        units = (HIDDEN[estimator.activation][1](units) if layer else units) @ coef + intercept
    return activated(estimator, units)


def by_module(estimator):
    """Predictions for X from module_."""
    module = estimator.module_
    with torch.no_grad():
        logits = module(torch.from_numpy(X).to(module[0].weight.dtype))
    return activated(estimator, logits.numpy())


def assert_consistent(estimator):
    """Check that predictions, coefs_ and module_ are the same model."""
    rtol = 1e-5 if estimator.coefs_[0].dtype == np.float32 else 1e-12
    atol = rtol * 1e-2  # a prediction near 0 is the difference of larger numbers
    predicted = outputs(estimator, X)
    assert_allclose(predicted, by_numpy(estimator), rtol=rtol, atol=atol)
    assert_allclose(predicted, by_module(estimator), rtol=rtol, atol=atol)
    assert_allclose(outputs(estimator, sp.csr_array(X)), predicted, rtol=rtol, atol=atol)


def train_further(estimator, y, rows=X):
    """One more epoch; for what cannot be trained so, a warm start."""
    if estimator.solver == "lbfgs" or estimator.early_stopping:
        return estimator.set_params(warm_start=True).fit(rows, y)
    return estimator.partial_fit(rows, y)


def unfitted(name):
    """An estimator of this name and its y."""
    kind, parameters, y = MODELS[name]
    return ours(kind, **parameters), y


# The module ----------------------------------------------------------------------------


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("name", MODELS)
def test_the_module_is_the_fitted_network(name, format_):
    estimator, y = unfitted(name)
    rows, other_rows = (FORMATS[f](X) for f in sorted(FORMATS, key=lambda f: f != format_))
    estimator.fit(rows, y)
    module = estimator.module_
    hidden = [nn.Linear, HIDDEN[estimator.activation][0]] * (len(estimator.coefs_) - 1)
    assert type(module) is nn.Sequential
    assert [type(part) for part in module] == [*hidden, nn.Linear]
    assert_consistent(estimator)
    assert_consistent(train_further(estimator, y, rows))
    copied = pickle.loads(pickle.dumps(estimator))
    assert_consistent(copied)
    assert_consistent(train_further(copied, y, rows))
    assert_consistent(train_further(estimator, y, other_rows))  # from sparse to dense, and back
    assert_consistent(train_further(estimator, y, rows))


@pytest.mark.parametrize("copied", [False, True], ids=["fitted", "copied"])
@pytest.mark.parametrize(
    ("name", "format_"), [*((name, "dense") for name in MODELS), ("softmax", "sparse"), ("lbfgs", "sparse")]
)
def test_the_module_shares_memory_with_the_weights(name, format_, copied):
    estimator, y = unfitted(name)
    estimator.fit(FORMATS[format_](X), y)
    estimator = copy.deepcopy(estimator) if copied else estimator
    linears = [part for part in estimator.module_ if isinstance(part, nn.Linear)]
    assert len(linears) == len(estimator.coefs_)
    for linear, coef, intercept in zip(linears, estimator.coefs_, estimator.intercepts_, strict=True):
        assert np.shares_memory(linear.weight.detach().numpy(), coef)
        assert np.shares_memory(linear.bias.detach().numpy(), intercept)
        assert linear.weight.requires_grad
    predicted = outputs(estimator, X)
    with torch.no_grad():
        linears[-1].weight.mul_(2)
    assert not np.allclose(outputs(estimator, X), predicted)
    assert_consistent(estimator)


@pytest.mark.parametrize("format_", FORMATS)
def test_the_module_does_not_write_to_read_only_weights(format_):
    # A model from joblib.load(..., mmap_mode="r") has such weights; to write to those ends the process.
    estimator = ours("classifier").fit(FORMATS[format_](X), LABELS)
    estimator.coefs_ = [read_only(coef) for coef in estimator.coefs_]
    estimator.intercepts_ = [read_only(intercept) for intercept in estimator.intercepts_]
    before = weights_of(estimator)
    module = estimator.module_
    with torch.no_grad():
        module[0].weight.mul_(2)
        module[0].bias.mul_(2)
    assert_array_equal(weights_of(estimator), before)


def test_the_module_has_the_activation_of_now():
    estimator = ours("classifier").fit(X, LABELS)
    assert_consistent(estimator)
    assert_consistent(estimator.set_params(activation="tanh"))  # predict takes the new one, as scikit-learn's does


@pytest.mark.parametrize("name", ["module_", "history_"])
def test_no_module_and_no_history_before_a_fit(name):
    estimator = ours("classifier")
    assert not hasattr(estimator, name)
    with pytest.raises(NotFittedError):
        getattr(estimator, name)


# Written weights -----------------------------------------------------------------------

WRITES = {
    "in place": lambda est: [np.multiply(coef, 1.5, out=coef) for coef in est.coefs_],
    "one value": lambda est: est.intercepts_[-1].__setitem__(0, 0.75),
    "one layer replaced": lambda est: est.coefs_.__setitem__(-1, est.coefs_[-1] * 1.5),
    "intercepts replaced": lambda est: vars(est).update(intercepts_=[i + 0.5 for i in est.intercepts_]),
    "all replaced": lambda est: vars(est).update(
        coefs_=[np.asfortranarray(coef) * 1.5 for coef in est.coefs_], intercepts_=[i + 0.5 for i in est.intercepts_]
    ),
    "reversed": lambda est: vars(est).update(coefs_=[(coef * 1.5)[::-1, ::-1] for coef in est.coefs_]),
    "read-only": lambda est: vars(est).update(coefs_=[read_only(coef * 1.5) for coef in est.coefs_]),
}
# All writes into one model, and into each other model every second one in turn.
WRITTEN = [
    (name, write)
    for i, name in enumerate(MODELS)
    for j, write in enumerate(WRITES)
    if name == "softmax" or (i + j) % 2 == 0
]


@pytest.mark.parametrize(("name", "write"), WRITTEN)
def test_written_weights_are_predicted_with(name, write):
    estimator, y = unfitted(name)
    estimator.fit(X, y)
    predicted = outputs(estimator, X)
    assert_consistent(estimator)  # module_ has been looked at before
    WRITES[write](estimator)
    assert not np.allclose(outputs(estimator, X), predicted)
    assert_consistent(estimator)
    assert_consistent(train_further(estimator, y))


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_written_weights_are_trained_from(solver, write):
    model, reference = (estimator.fit(X, LABELS) for estimator in pair("classifier", solver=solver))
    if write == "read-only":  # which scikit-learn cannot train
        model.coefs_ = [*model.coefs_[:-1], read_only(model.coefs_[-1] * 1.5)]
        WRITES["one layer replaced"](reference)
    else:
        WRITES[write](model)
        WRITES[write](reference)
    for _ in range(2):
        model.partial_fit(X, LABELS)
        reference.partial_fit(X, LABELS)
    assert_allclose(model.predict_proba(X), reference.predict_proba(X), rtol=RTOL[np.float64])


@pytest.mark.parametrize("dtype", [int, np.float16, bool])
def test_written_weights_of_another_dtype_do_not_round_the_data(dtype):
    y = NUMBERS + 0.25
    model = MLPTorchRegressor(hidden_layer_sizes=(3,), max_iter=2, random_state=0).fit(X, y)
    model.coefs_ = [np.ones_like(coef, dtype=dtype) for coef in model.coefs_]
    expected = MLPRegressor(hidden_layer_sizes=(3,), max_iter=2, random_state=0).fit(X, y)
    expected.coefs_ = [np.ones_like(coef) for coef in expected.coefs_]
    for estimator in (model, expected):
        estimator.partial_fit(X, y, sample_weight=np.full(len(X), 0.5))
    assert model.coefs_[0].dtype == np.float64
    assert_allclose(model.loss_, expected.loss_, rtol=1e-12)


@pytest.mark.parametrize("params", [{}, {"dtype": "float32"}, {"normalization": "batch"}], ids=str)
def test_all_that_is_made_of_integers_is_that_of_floats(params):
    model, floats = (ours("regressor", **params).fit(X, NUMBERS) for _ in range(2))
    floats.coefs_ = [(5 * coef).round() for coef in floats.coefs_]
    model.coefs_ = [coef.astype(np.int64) for coef in floats.coefs_]
    rows = X.astype(floats.coefs_[0].dtype)
    tensor, expected = torch.from_numpy(rows), floats.predict(rows)
    assert_array_equal(model.predict(rows), expected)
    for module in (model.module_, model.to_torch(), model.to_skorch().module_):
        assert module[-1].weight.dtype == tensor.dtype
        assert_allclose(module(tensor).detach()[:, 0], expected, rtol=RTOL[rows.dtype.type])
    assert "sktorch-fitted" in model._repr_html_()
    model.coefs_[-1][:] = 0
    assert_allclose(model.module_(tensor).detach()[:, 0], np.full(len(rows), model.intercepts_[-1]))


# Arrays that share the memory of a network ---------------------------------------------


def published(normalization=None, n_in=4, *, trains_on=True):
    """A network, the arrays published from it, and what keeps them."""
    spec = NetworkSpec((n_in, 3, 2), ("relu",), normalization=normalization)
    network, arrays = StackedMLP(spec), WeightArrays()
    network.set_weights(0, [np.arange(3.0 * n_in).reshape(n_in, 3), np.ones((3, 2))], [np.zeros(3), np.zeros(2)])
    coefs, intercepts, norms = arrays.publish(network, trains_on=trains_on)
    return network, arrays, [*coefs, *intercepts, *(array for norm in norms for array in norm.values())]


@pytest.mark.parametrize("n_in", [4, 20])  # the weights of wide input lie in another order
@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
def test_published_arrays_are_views_of_the_network(normalization, n_in):
    network, arrays, published_arrays = published(normalization, n_in)
    assert [array.shape for array in published_arrays[:4]] == [(n_in, 3), (3, 2), (3,), (2,)]
    assert_array_equal(published_arrays[0], np.arange(3.0 * n_in).reshape(n_in, 3))
    assert len(published_arrays) == 4 + {None: 0, "batch": 4, "layer": 2}[normalization]
    assert arrays.network_of(published_arrays) is network
    for array in published_arrays:
        array[...] = 5.0
    assert (network.flat == 5.0).all()
    assert all((tensor == 5.0).all() for tensors in network.norm_tensors() for tensor in tensors)


@pytest.mark.parametrize("n_in", [4, 20])
@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
def test_arrays_of_a_network_that_trains_no_more_are_copies(normalization, n_in):
    network, arrays, published_arrays = published(normalization, n_in, trains_on=False)
    assert arrays.network_of(published_arrays) is None
    assert all(array.flags.c_contiguous and array.flags.writeable for array in published_arrays)
    assert not any(np.shares_memory(array, network.flat.detach().numpy()) for array in published_arrays)
    views = published(normalization, n_in)[2]
    for array, view in zip(published_arrays, views, strict=True):
        assert_array_equal(array, view)


def test_arrays_that_are_replaced_do_not_share_memory():
    _, arrays, published_arrays = published()
    assert WeightArrays().network_of(published_arrays) is None
    assert arrays.network_of(published_arrays[:-1]) is None
    for i in range(len(published_arrays)):
        replaced = [*published_arrays]
        replaced[i] = replaced[i].copy()  # equal, but not the same object
        assert arrays.network_of(replaced) is None


def test_an_object_is_made_again_when_a_part_is_replaced():
    arrays, parts, n_made = WeightArrays(), [np.ones(2), np.zeros(2)], [0]

    def make():
        n_made[0] += 1
        return n_made[0]

    assert [arrays.cached("a", parts, FLOAT64, make) for _ in range(3)] == [1, 1, 1]
    parts[0][:] = 7.0  # which the object, a view, has too
    assert arrays.cached("a", [*parts], FLOAT64, make) == 1
    assert arrays.cached("b", parts, FLOAT64, make) == 2
    assert arrays.cached("a", [parts[0].copy(), parts[1]], FLOAT64, make) == 3
    assert arrays.cached("a", parts, FLOAT64, make) == 4
    for copied in (parts[0].astype(np.float32), parts[0][::-1]):  # no view of these could be one of float64
        made = [arrays.cached("c", [copied, parts[1]], FLOAT64, make) for _ in range(2)]
        assert made[0] != made[1]


def test_neither_arrays_nor_objects_are_pickled():
    _, arrays, published_arrays = published()
    arrays.cached("a", published_arrays, FLOAT64, object)
    copied = pickle.loads(pickle.dumps(arrays))
    assert type(copied) is WeightArrays
    assert copied.network_of(published_arrays) is None
    assert len(pickle.dumps(arrays)) < 200


@pytest.mark.parametrize("first", ["fit", "warm fit", "partial_fit"])
def test_training_that_goes_on_keeps_the_arrays(first):
    """What a user holds on to, an array of weights, is the model still after more epochs, as in scikit-learn."""
    model, reference = pair("classifier", warm_start=first == "warm fit")
    for estimator in (model, reference):
        train = estimator.fit if first != "partial_fit" else partial(estimator.partial_fit, classes=np.unique(LABELS))
        train(X, LABELS)
        if first == "fit":  # which leaves copies, so that the memory of training is free
            estimator.partial_fit(X, LABELS)
    coefs, arrays, module = model.coefs_, [*model.coefs_, *model.intercepts_], model.module_
    for more in ("partial_fit", "partial_fit", "fit" if first == "warm fit" else "partial_fit"):
        for estimator in (model, reference):
            getattr(estimator, more)(X, LABELS)
            estimator.coefs_[0][:2] *= 0.5  # which the next one starts from
        assert model.coefs_ is coefs
        assert all(map(operator.is_, [*model.coefs_, *model.intercepts_], arrays))
        assert model.module_ is module
        assert_consistent(model)
    assert_allclose(model.coefs_[0], reference.coefs_[0], rtol=1e-9)
    model.set_params(warm_start=False).fit(X, LABELS)
    assert model.coefs_ is not coefs
    assert model.module_ is not module


def tensor_memory():
    """Bytes of all tensors, by their memory."""
    gc.collect()
    tensors = [value for value in gc.get_objects() if issubclass(type(value), torch.Tensor) and value.is_cpu]
    storages = [tensor.untyped_storage() for tensor in tensors if tensor.layout is torch.strided]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


@pytest.mark.parametrize(("solver", "n_moments"), [("lbfgs", 0), ("sgd", 1), ("adam", 2), (torch.optim.RMSprop, 1)])
def test_a_fit_keeps_weights_and_moments_only(solver, n_moments):
    before = tensor_memory()
    model = ours("classifier", hidden_layer_sizes=(3000,), solver=solver, max_iter=2).fit(X, LABELS)
    kept = sum(size for place, size in tensor_memory().items() if before.get(place) != size)
    assert kept / weights_of(model).nbytes == pytest.approx(1 + n_moments, abs=0.1)
    if solver != "lbfgs":
        model.partial_fit(X, LABELS)


def test_predictions_go_by_the_parameters_of_now():
    model = ours("regressor", warm_start=True, activation=["relu", "tanh"], hidden_layer_sizes=(6, 5)).fit(X, NUMBERS)
    for change in (
        lambda: model.set_params(loss="poisson").partial_fit(X, np.abs(NUMBERS)),  # the outputs are exponentials
        lambda: model.activation.__setitem__(0, "logistic"),
    ):
        before = model.predict(X)
        change()
        assert not np.allclose(model.predict(X), before, rtol=0.01)
        assert_array_equal(model.predict(X), pickle.loads(pickle.dumps(model)).predict(X))
        logits = model.module_(torch.from_numpy(X))[:, 0].detach().numpy()
        assert_allclose(model.predict(X), logits if model.loss == "squared_error" else np.exp(logits), rtol=1e-6)


def test_arrays_of_a_fit_are_in_the_order_of_scikit_learn():
    model, reference = (estimator.fit(X, LABELS) for estimator in pair("classifier", hidden_layer_sizes=(20, 5)))
    for array, expected in zip(
        [*model.coefs_, *model.intercepts_], [*reference.coefs_, *reference.intercepts_], strict=True
    ):
        assert array.flags.c_contiguous
        assert array.strides == expected.strides


# Warnings of PyTorch -------------------------------------------------------------------


@pytest.mark.slow
def test_a_fresh_process_is_not_warned():
    # PyTorch gives some warnings once a process, so that a test in this one might come too late.
    script = """
import warnings
import numpy as np, scipy.sparse as sp
from sktorch_mlp import MLPTorchClassifier
warnings.simplefilter("error")
X = np.eye(20)
X.flags.writeable = False
for rows in (X, X[::-1], sp.csr_array(X), sp.csc_array(X)):
    for solver in ("adam", "sgd", "lbfgs"):
        model = MLPTorchClassifier((3,), solver=solver, tol=1e9, n_iter_no_change=1, device="cpu")
        model.fit(rows, np.arange(20) > 9).predict(rows)
        model.module_
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
