"""Fits and predictions on a CUDA device, against those on the CPU; skipped without one."""

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import skops.io
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import scale
from skorch.callbacks import LRScheduler

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor, TabularMLPClassifier, load, stacked_fits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

X, Y = load_digits(return_X_y=True)
X, Y = X[:500] / 16, Y[:500]
PARAMS = {"hidden_layer_sizes": (20, 10), "max_iter": 8, "random_state": 0}
OPTIONS = {
    "default": {},
    "sgd": {"solver": "sgd", "learning_rate": "adaptive"},
    "lbfgs": {"solver": "lbfgs"},
    "tanh": {"activation": "tanh", "batch_size": 64},
    "logistic": {"activation": "logistic", "batch_size": 500},
    "early stopping": {"early_stopping": True},
    "batch norm": {"normalization": "batch", "activation": "gelu"},
    "layer norm": {"normalization": "layer", "activation": torch.nn.functional.softplus},
    "adamw": {"solver": "adamw", "learning_rate": "one_cycle", "batch_size": 64},
    "RMSprop": {"solver": torch.optim.RMSprop, "gradient_clip_norm": 0.1},
    "class weights": {"label_smoothing": 0.1, "class_weight": {0: 5.0}},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_float64_is_that_of_the_cpu(name, weighted, sparse):
    data = sp.csr_array(X) if sparse else X
    weights = np.random.RandomState(0).uniform(0.1, 2, len(X)) if weighted else None
    cpu = MLPTorchClassifier(**PARAMS, **OPTIONS[name], device="cpu", dtype="float64").fit(data, Y, weights)
    gpu = clone(cpu).set_params(device="cuda").fit(data, Y, weights)
    assert gpu.n_iter_ == cpu.n_iter_
    np.testing.assert_allclose(gpu.loss_, cpu.loss_, rtol=1e-6)
    for actual, expected in zip(gpu.coefs_, cpu.coefs_, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(gpu.predict(data), cpu.predict(data))


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
def test_replayed_steps_are_those_of_the_cpu(solver, weighted):
    """250 batches and a short one are several segments an epoch: run, recorded and replayed."""
    weights = np.random.RandomState(0).uniform(0.1, 2, 499) if weighted else None
    cpu = MLPTorchClassifier(**PARAMS, solver=solver, batch_size=2, device="cpu", dtype="float64")
    cpu.fit(X[:499], Y[:499], weights)
    gpu = clone(cpu).set_params(device="cuda").fit(X[:499], Y[:499], weights)
    np.testing.assert_allclose(gpu.loss_curve_, cpu.loss_curve_, rtol=1e-6)


def test_stacked_fits_are_those_of_the_cpu():
    grid = {"alpha": [0.0, 0.1], "learning_rate_init": [0.001, 0.01, 0.1]}
    mlp = MLPTorchClassifier(**PARAMS, batch_size=20, device="cpu", dtype="float64")
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
        model = MLPTorchClassifier(**PARAMS, batch_size=50, device=device, dtype="float64", callbacks=[scheduler])
        models.append(model.fit(X, Y))
    np.testing.assert_allclose(models[1].loss_curve_, models[0].loss_curve_, rtol=1e-6)


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


def test_partial_fit_resumes_as_on_the_cpu():
    data = scale(load_diabetes().data)
    y = scale(load_diabetes().target)
    models = [MLPTorchRegressor(random_state=0, dtype="float64", device=device) for device in ("cpu", "cuda")]
    for _ in range(5):
        for model in models:
            model.partial_fit(data, y)
    np.testing.assert_allclose(models[1].predict(data), models[0].predict(data), rtol=1e-6, atol=1e-9)


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
