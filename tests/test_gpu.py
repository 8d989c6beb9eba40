"""Fits and predictions on a CUDA device, against those on the CPU: a simulated device, and a real one where there is one."""

import pickle
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
import skops.io
import torch
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.datasets import load_diabetes, load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import scale
from skorch.callbacks import EpochScoring, LRScheduler

from sktorch_mlp import (
    MLPTorchClassifier,
    MLPTorchRegressor,
    TabularMLPClassifier,
    TabularMLPRegressor,
    load,
    stacked_fits,
)
from sktorch_mlp._nn.dropout import Dropout
from tests.estimators.tables import SMALL as SMALL_TABLE
from tests.estimators.tables import numbers, table
from tests.pairwise import pairwise

pytestmark = [
    pytest.mark.usefixtures("gpu"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

X, Y = load_digits(return_X_y=True)
X, Y = X[:150] / 16, Y[:150]
WEIGHTS = np.random.RandomState(0).uniform(0.1, 2, len(X))
PARAMS = {"hidden_layer_sizes": (12, 8), "max_iter": 5, "batch_size": 40, "random_state": 0}

#: Both sum in another order. Some steps of a simulated device, which has kernels of the CPU, leave up to 1e-10 of it in
#: float64: Adam divides by the roots of gradients near zero. A GPU has other kernels, and only nearly the same functions.
TOLERANCES = {
    ("simulated", "float64"): {"rtol": 1e-9, "atol": 1e-12},
    ("simulated", "float32"): {"rtol": 1e-3, "atol": 1e-5},
    ("real", "float64"): {"rtol": 1e-6, "atol": 1e-8},
    ("real", "float32"): {"rtol": 1e-2, "atol": 1e-4},
}


@pytest.fixture
def assert_same_fit(gpu):
    return partial(_assert_same_fit, gpu)


def _assert_same_fit(which, gpu, cpu, rows, dtype="float64"):
    """Check that two models have the same curves and weights, and predict the same."""
    tolerance = TOLERANCES[which, dtype]
    assert gpu.device_.type == "cuda"
    assert gpu.n_iter_ == cpu.n_iter_
    np.testing.assert_allclose(gpu.loss_, cpu.loss_, **tolerance)
    for name in ("loss_curve_", "validation_scores_", "validation_loss_curve_"):
        if getattr(cpu, name, None) is not None:
            np.testing.assert_allclose(getattr(gpu, name), getattr(cpu, name), **tolerance)
    # The gradient of an intercept below a batch normalization is nothing but rounding.
    first = -1 if cpu.normalization == "batch" else 0
    weights = [[*model.coefs_, *model.intercepts_[first:]] for model in (gpu, cpu)]
    for actual, expected in zip(*weights, strict=True):
        assert actual.dtype == expected.dtype == np.dtype(dtype)
        np.testing.assert_allclose(actual, expected, **tolerance)
    outputs = [getattr(model, "predict_proba", model.predict)(rows) for model in (gpu, cpu)]
    np.testing.assert_allclose(*outputs, **tolerance)


# Fits ------------------------------------------------------------------------------------

LABELS = {"multiclass": Y, "binary": Y > 4, "multilabel": np.column_stack([Y % 2, Y > 4, Y % 3 == 0]).astype(int)}
SOLVERS = {
    "adam": {},
    "sgd": {"solver": "sgd", "learning_rate": "adaptive"},
    "lbfgs": {"solver": "lbfgs"},
    "adamw": {"solver": "adamw", "learning_rate": "one_cycle"},
    "RMSprop": {"solver": torch.optim.RMSprop, "solver_params": {"momentum": 0.5}},
}
OPTIONS = {
    "one batch": {"activation": "logistic", "batch_size": len(X)},
    "early stopping": {"early_stopping": True, "scoring": "loss", "activation": "mish", "n_iter_no_change": 2},
    "batch norm": {"normalization": "batch", "activation": "gelu"},
    "layer norm": {"normalization": "layer", "activation": ("silu", torch.nn.functional.softplus)},
    "initializer": {"weight_init": "orthogonal", "activation": "tanh", "gradient_clip_norm": 0.1},
    "no hidden layer": {"hidden_layer_sizes": (), "label_smoothing": 0.1, "alpha": 0.0},
    "class weights": {"class_weight": "balanced", "activation": ("leaky_relu", "elu")},
}


def can_be_fitted(solver, option, labels):
    of_stochastic = {"early_stopping", "gradient_clip_norm", "normalization"}
    if solver == "lbfgs" and not of_stochastic.isdisjoint(OPTIONS[option]):
        return False
    return not (labels == "multilabel" and option == "class weights")


MATRIX = [
    case
    for case in pairwise(list(OPTIONS), list(SOLVERS), list(LABELS), ["dense", "sparse"], [False, True])
    if can_be_fitted(case[1], case[0], case[2])
]


@pytest.mark.parametrize(("option", "solver", "labels", "layout", "weighted"), MATRIX)
def test_classifiers_are_those_of_the_cpu(option, solver, labels, layout, weighted, assert_same_fit):
    rows, y = sp.csr_array(X) if layout == "sparse" else X, LABELS[labels]
    weights = WEIGHTS if weighted else None
    cpu = MLPTorchClassifier(**PARAMS | SOLVERS[solver] | OPTIONS[option], device="cpu", dtype="float64")
    cpu.fit(rows, y, weights)
    assert_same_fit(clone(cpu).set_params(device="cuda").fit(rows, y, weights), cpu, rows)


LOSSES = {
    "squared error": {},
    "poisson": {"loss": "poisson"},
    "absolute error": {"loss": "absolute_error"},
    "huber": {"loss": "huber"},
    "quantile": {"loss": "quantile", "quantile": 0.8},
    "function": {"loss": partial(torch.nn.functional.smooth_l1_loss, reduction="none")},
}


@pytest.mark.parametrize(
    ("loss", "n_outputs", "weighted", "early_stopping", "dtype"),
    pairwise(list(LOSSES), [1, 2], [False, True], [False, True], ["float64", "float32"]),
)
def test_regressors_are_those_of_the_cpu(loss, n_outputs, weighted, early_stopping, dtype, assert_same_fit):
    y = np.column_stack([X @ np.linspace(0, 1, 64), X[:, 20]])[:, :n_outputs].squeeze() / 5
    weights = WEIGHTS if weighted else None
    params = PARAMS | LOSSES[loss] | {"early_stopping": early_stopping, "dtype": dtype, "activation": "tanh"}
    cpu = MLPTorchRegressor(**params, device="cpu").fit(X, y, weights)
    assert_same_fit(clone(cpu).set_params(device="cuda").fit(X, y, weights), cpu, X, dtype)


@pytest.mark.parametrize(("solver", "dtype"), [("adam", "float32"), ("adamw", "float64"), ("sgd", "float64")])
def test_replayed_steps_are_those_of_the_cpu(solver, dtype, assert_same_fit):
    """65 batches are two segments an epoch: run, recorded and replayed. The last batch is short."""
    rows, y, weights = X[:129], Y[:129], WEIGHTS[:129]
    params = PARAMS | {"batch_size": 2, "max_iter": 4, "dtype": dtype}
    cpu = MLPTorchClassifier(**params, solver=solver, device="cpu").fit(rows, y, weights)
    assert_same_fit(clone(cpu).set_params(device="cuda").fit(rows, y, weights), cpu, rows, dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("n_classes", "hidden", "batch_size"),
    [(10, (128,), 150), (16, (100, 7), 128), (70, (40,), 50), (3, (900, 800), 300)],
)
def test_sizes_that_take_other_kernels(n_classes, hidden, batch_size, dtype, assert_same_fit):
    """Narrow products, many classes, parameters that go to Adam's kernel in parts, and in one."""
    rows, y = np.repeat(X, 2, axis=0), np.arange(300) % n_classes
    params = {"hidden_layer_sizes": hidden, "batch_size": batch_size, "max_iter": 3, "dtype": dtype, "random_state": 0}
    cpu = MLPTorchClassifier(**params, device="cpu").fit(rows, y)
    assert_same_fit(clone(cpu).set_params(device="cuda").fit(rows, y), cpu, rows, dtype)


@pytest.mark.parametrize("stored", [np.float64, np.float32, np.uint8])
def test_large_rows_are_those_of_the_cpu(stored, monkeypatch, assert_same_fit):
    """They travel in pieces, and predictions look there whether they are finite."""
    rows = np.random.RandomState(0).uniform(0, 200, size=(20_000, 256)).astype(stored)
    y = (rows[:, 0] > 100).astype(int)
    params = {"hidden_layer_sizes": (8,), "batch_size": 5000, "max_iter": 2, "learning_rate_init": 1e-5}
    cpu = MLPTorchClassifier(**params, random_state=0, device="cpu", dtype="float32").fit(rows, y)
    gpu = clone(cpu).set_params(device="cuda").fit(rows, y)
    assert_same_fit(gpu, cpu, rows, "float32")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (2**20, 2**34))
    streamed = clone(gpu).fit(rows, y)
    for some, others in zip(streamed.coefs_, gpu.coefs_, strict=True):
        np.testing.assert_array_equal(some, others)
    if stored != np.uint8:
        rows[7, 3] = np.nan
        with pytest.raises(ValueError, match="Input X contains NaN"):
            gpu.predict(rows)


def test_validation_data_of_ones_own_and_a_scorer(assert_same_fit):
    params = {"early_stopping": True, "scoring": "neg_log_loss", "activation": "selu"}
    cpu = MLPTorchClassifier(**PARAMS, **params, device="cpu", dtype="float64")
    data = {"X_val": X[100:], "y_val": Y[100:], "sample_weight_val": WEIGHTS[100:]}
    cpu.fit(X[:100], Y[:100], **data)
    assert_same_fit(clone(cpu).set_params(device="cuda").fit(X[:100], Y[:100], **data), cpu, X)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs", torch.optim.RMSprop], ids=str)
def test_warm_starts_are_those_of_the_cpu(solver, assert_same_fit):
    cpu = MLPTorchClassifier(**PARAMS, solver=solver, warm_start=True, device="cpu", dtype="float64")
    gpu = clone(cpu).set_params(device="cuda")
    for model in (cpu, gpu):
        model.fit(X, Y).fit(X, Y)
    assert_same_fit(gpu, cpu, X)


@pytest.mark.parametrize("params", [{}, {"normalization": "batch"}, {"solver": torch.optim.Adamax}], ids=str)
def test_partial_fits_are_those_of_the_cpu(params, assert_same_fit):
    data, y = (scale(part)[:200] for part in load_diabetes(return_X_y=True))
    cpu, gpu = (MLPTorchRegressor(random_state=0, dtype="float64", device=name, **params) for name in ("cpu", "cuda"))
    for model in (cpu, gpu):
        for _ in range(4):
            model.partial_fit(data, y)
    assert_same_fit(gpu, cpu, data)


# Tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("class_", "data", "params"),
    [
        (TabularMLPClassifier, table(80), {}),
        (TabularMLPClassifier, table(80), {"hyperparameters": {"learning_rate_init": [1e-3, 5e-3]}, "n_candidates": 2}),
        (TabularMLPRegressor, numbers(80), {"scoring": "r2", "numerical_embedding": "periodic"}),
        (TabularMLPRegressor, (sp.csr_array(X), Y.astype(float)), {}),
    ],
    ids=["frame", "pack", "scorer", "sparse"],
)
def test_ensembles_are_those_of_the_cpu(class_, data, params, monkeypatch):
    """Without dropout, whose masks are others on a GPU."""
    monkeypatch.setattr(Dropout, "is_on", lambda self, layer: False)
    cpu, gpu = (class_(**SMALL_TABLE, dtype="float64", device=name, **params).fit(*data) for name in ("cpu", "cuda"))
    assert gpu.n_iter_ == cpu.n_iter_
    outputs = [getattr(model, "predict_proba", model.predict)(data[0]) for model in (gpu, cpu)]
    np.testing.assert_allclose(*outputs, rtol=1e-6, atol=1e-8)


# Stacks, dropout, callbacks --------------------------------------------------------------


def test_stacked_fits_are_those_of_the_cpu():
    grid = {"alpha": [0.0, 0.1], "learning_rate_init": [0.001, 0.01, 0.1]}
    mlp = MLPTorchClassifier(**PARAMS, device="cpu", dtype="float64")
    expected = GridSearchCV(mlp, grid, cv=3, scoring="neg_log_loss").fit(X, Y).cv_results_["mean_test_score"]
    with stacked_fits():
        search = GridSearchCV(clone(mlp).set_params(device="cuda"), grid, cv=3, scoring="neg_log_loss").fit(X, Y)
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], expected, rtol=1e-5)


def test_dropout_is_the_same_twice_and_alone():
    params = {**PARAMS, "dropout": 0.3, "dtype": "float64", "device": "cuda"}
    model, again = (MLPTorchClassifier(**params).fit(X, Y) for _ in range(2))
    np.testing.assert_allclose(again.coefs_[0], model.coefs_[0], rtol=1e-6)
    with stacked_fits():
        search = GridSearchCV(MLPTorchClassifier(**params), {"alpha": [0.0, 0.1, 1.0]}, cv=2).fit(X, Y)
    alone = GridSearchCV(MLPTorchClassifier(**params), {"alpha": [0.0, 0.1, 1.0]}, cv=2).fit(X, Y)
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])


def test_bfloat16_is_near_float32():
    scores = [MLPTorchClassifier(**PARAMS, dtype=dtype).fit(X, Y).score(X, Y) for dtype in ("float32", "bfloat16")]
    assert abs(scores[0] - scores[1]) < 0.05


def test_callbacks_of_batches_change_the_rate_of_the_next_step():
    """On the CPU rates are read step by step; a GPU's steps must not be planned ahead of them."""
    models = []
    for device in ("cpu", "cuda"):
        scheduler = LRScheduler("StepLR", step_size=3, gamma=0.9, step_every="batch")
        model = MLPTorchClassifier(**PARAMS, device=device, dtype="float64", callbacks=[scheduler])
        models.append(model.fit(X, Y))
    np.testing.assert_allclose(models[1].loss_curve_, models[0].loss_curve_, rtol=1e-6)


def test_callbacks_of_epochs_see_what_they_see_on_the_cpu(assert_same_fit):
    models = []
    for device in ("cpu", "cuda"):
        scores = EpochScoring("accuracy", lower_is_better=False)
        model = MLPTorchClassifier(**PARAMS, device=device, dtype="float64", early_stopping=True, callbacks=[scores])
        models.append(model.set_callbacks(ScoringMonitor(scoring="accuracy")).fit(X, Y))
    assert_same_fit(models[1], models[0], X)
    curves = [[epoch["accuracy"] for epoch in model.history_] for model in models]
    np.testing.assert_allclose(*curves)


def test_auto_takes_the_gpu_in_float32():
    model = MLPTorchClassifier(**PARAMS).fit(X, Y)
    assert model.device_.type == "cuda"
    assert model.coefs_[0].dtype == np.float32
    assert isinstance(model.predict_proba(X), np.ndarray)
    assert next(model.module_.parameters()).device.type == "cuda"


def test_tensors_on_the_gpu_are_input():
    expected = MLPTorchClassifier(**PARAMS).fit(X.astype(np.float32), Y).predict(X)
    tensors = torch.tensor(X, dtype=torch.float32, device="cuda"), torch.tensor(Y, device="cuda")
    np.testing.assert_array_equal(MLPTorchClassifier(**PARAMS).fit(*tensors).predict(tensors[0]), expected)


def test_written_weights_are_predicted_with_and_trained_from():
    model = MLPTorchRegressor(max_iter=2, device="cuda").fit(X, Y)
    model.coefs_[-1][:] = 0
    model.intercepts_[-1][:] = 3
    assert (model.predict(X) == 3).all()
    model.partial_fit(X[:10], Y[:10])
    assert abs(model.predict(X).mean() - 3) < 0.1


def test_a_pickle_opens_without_a_gpu(monkeypatch):
    model = MLPTorchClassifier(**PARAMS).fit(X, Y)
    pickled, expected = pickle.dumps(model), model.predict_proba(X)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.warns(UserWarning, match="will predict on the CPU"):
        loaded = pickle.loads(pickled)
    np.testing.assert_allclose(loaded.predict_proba(X), expected, rtol=1e-4, atol=1e-6)
    loaded.set_params(device="cpu").partial_fit(X, Y)


def test_models_of_other_libraries_come_to_the_gpu_and_go():
    theirs = MLPClassifier(max_iter=5, random_state=0).fit(X, Y)
    model = MLPTorchClassifier.from_sklearn(theirs, device="cuda")
    assert model.device_.type == "cuda"
    np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X), rtol=1e-3, atol=1e-5)
    model.partial_fit(X, Y)
    given = model.to_sklearn().partial_fit(X, Y)
    np.testing.assert_allclose(model.partial_fit(X, Y).predict_proba(X), given.predict_proba(X), rtol=1e-3, atol=1e-5)
    module = model.to_torch(probabilities=True)
    assert module[0].weight.device.type == "cuda"
    back = MLPTorchClassifier.from_torch(module, device="cpu")
    np.testing.assert_allclose(back.predict_proba(X), model.predict_proba(X), rtol=1e-3, atol=1e-5)
    model.to_skorch().set_params(max_epochs=1).partial_fit(X.astype(model.coefs_[0].dtype), Y)


def test_a_module_of_an_ensemble_is_on_the_gpu():
    model = TabularMLPClassifier(n_estimators=2, max_iter=3, random_state=0, device="cuda").fit(X, Y)
    probabilities = model.to_torch()(torch.from_numpy(model.encode(X)).cuda())
    np.testing.assert_allclose(probabilities.detach().cpu().numpy(), model.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize("dump", ["file", "skops"])
def test_dumps_of_the_gpu_go_on_there_and_open_without_one(dump, tmp_path, monkeypatch):
    def copied(model):
        if dump == "skops":
            return skops.io.loads(skops.io.dumps(model), trusted=[f"sktorch_mlp.{type(model).__name__}"])
        model.save(tmp_path / "model.safetensors")
        return load(tmp_path / "model.safetensors")

    model = MLPTorchClassifier(**PARAMS, dropout=0.2).fit(X, Y)
    ensemble = TabularMLPClassifier(n_estimators=2, max_iter=2, random_state=0).fit(X, Y)
    twin = copied(model).partial_fit(X, Y)
    np.testing.assert_array_equal(copied(ensemble).predict_proba(X), ensemble.predict_proba(X))
    np.testing.assert_allclose(twin.predict_proba(X), model.partial_fit(X, Y).predict_proba(X), rtol=1e-4, atol=1e-6)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.warns(UserWarning, match="will predict on the CPU"):
        loaded = copied(model)
    np.testing.assert_allclose(loaded.predict_proba(X), twin.predict_proba(X), rtol=1e-4, atol=1e-6)
    loaded.set_params(device="cpu").partial_fit(X, Y)
