"""Dumps of estimators: pickle, joblib, cloudpickle, skops and MLflow, each of every kind of fit."""

import copy
import io
import pickle
import subprocess
import sys

import cloudpickle
import joblib
import numpy as np
import pytest
import sklearn
import skops.io
import torch
from numpy.testing import assert_array_equal

from sktorch_mlp import MLPTorchClassifier, TabularMLPClassifier
from sktorch_mlp.callbacks import TimeLimit
from tests.estimators.fits import FITS, STOCHASTIC, assert_same_model, fit, fitted, rows_of
from tests.estimators.helpers import LABELS, X, ours, outputs, weights_of
from tests.pairwise import pairwise

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

#: What skops does not know of in the parameters of these.
CODE_OF_USERS = {"functions": {"torch.tanh", "torch.nn.functional.cross_entropy"}}


def _trusted(estimator):
    """Our class alone."""
    return [f"sktorch_mlp.{type(estimator).__name__}"]


def _through_joblib(estimator):
    file = io.BytesIO()
    joblib.dump(estimator, file)
    return joblib.load(file)


def _through_skops(estimator):
    return skops.io.loads(skops.io.dumps(estimator), trusted=_trusted(estimator))


DUMPS = {
    "pickle": lambda estimator: pickle.loads(pickle.dumps(estimator)),
    "joblib": _through_joblib,
    "cloudpickle": lambda estimator: pickle.loads(cloudpickle.dumps(estimator)),
    "skops": _through_skops,
    "deepcopy": copy.deepcopy,
}
OF_PLAIN_PARAMETERS = [name for name in FITS if name not in CODE_OF_USERS]


@pytest.mark.parametrize(("dump", "name"), [(dump, name) for dump in DUMPS for name in OF_PLAIN_PARAMETERS])
def test_every_dump_of_every_fit(dump, name):
    model = fitted(name)
    assert_same_model(DUMPS[dump](model), model, rows_of(name))


@pytest.mark.parametrize("dump", [dump for dump in DUMPS if dump != "skops"])
def test_dumps_of_functions(dump):
    model = fitted("functions")
    assert_same_model(DUMPS[dump](model), model, X)


@pytest.mark.parametrize("name", OF_PLAIN_PARAMETERS)
def test_skops_asks_for_trust_in_our_class_alone(name):
    model = fitted(name)
    assert skops.io.get_untrusted_types(data=skops.io.dumps(model)) == _trusted(model)


def _plain_types(value):
    """Types in a state."""
    yield type(value)
    items = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    if isinstance(value, dict | list | tuple):
        for item in items:
            yield from _plain_types(item)


@pytest.mark.parametrize("name", [name for name in FITS if name not in ("functions", "RandomState")])
def test_a_state_is_plain(name):
    plain = {type(None), bool, int, float, str, list, tuple, dict, np.ndarray, np.float32}
    assert set(_plain_types(fitted(name).__getstate__())) <= plain


# Training goes on ----------------------------------------------------------------------


@pytest.mark.parametrize(("dump", "name"), pairwise(DUMPS, [name for name in STOCHASTIC if name != "functions"]))
def test_a_dump_between_epochs_goes_on_exactly(dump, name):
    make, rows, y = FITS[name]
    model = make()
    classes = {"classes": np.unique(y) if np.ndim(y) == 1 else [0, 1, 2]} if hasattr(model, "predict_proba") else {}
    model.partial_fit(rows, y, **classes).partial_fit(rows, y)
    twin = DUMPS[dump](model)
    for _ in range(2):
        model.partial_fit(rows, y)
        twin.partial_fit(rows, y)
        assert_array_equal(weights_of(twin), weights_of(model))
    assert twin.loss_curve_ == model.loss_curve_
    assert len(twin.history_) == len(model.history_) == 4
    assert twin.loss_curve_ is twin._state.progress.loss_curve  # and so grows with it


@pytest.mark.parametrize("name", ["lbfgs", "warm", "early stopping"])
@pytest.mark.parametrize("dump", ["pickle", "skops"])
def test_a_dump_goes_on_by_a_warm_start(dump, name):
    _, rows, y = FITS[name]
    model = fit(name).set_params(warm_start=True)
    twin = DUMPS[dump](model).fit(rows, y)
    assert_same_model(twin, model.fit(rows, y), rows)


def test_moments_are_dumped_where_training_can_go_on_and_weights_once():
    def n_weights(**params):
        model = MLPTorchClassifier((2000,), max_iter=1, **params).fit(X, LABELS)
        return len(pickle.dumps(model)) / weights_of(model).nbytes

    assert n_weights(solver="lbfgs") == pytest.approx(1, abs=0.05)
    assert n_weights(solver="sgd") == pytest.approx(2, abs=0.05)
    assert n_weights(solver="adam") == pytest.approx(3, abs=0.05)


def test_no_training_data_are_dumped():
    rows = np.tile(X, (200, 1))
    table = TabularMLPClassifier(n_estimators=1, hidden_layer_sizes=4, max_iter=1, validation_fraction=0)
    for model in (ours("classifier", max_iter=1, batch_size=1000), table):
        assert len(pickle.dumps(model.fit(rows, np.tile(LABELS, 200)))) < 0.05 * rows.nbytes


# Devices -------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda:1", "mps"])
def test_a_network_of_a_device_that_is_not_here(device):
    model = fitted("batch")
    state = model.__getstate__()
    assert state["device_"] == "cpu"
    training = state["_state"] | {"generator": (device, np.zeros(16, np.uint8))}
    twin = MLPTorchClassifier()
    with pytest.warns(UserWarning, match=f"'{device}', which is not available here"):
        twin.__setstate__(copy.deepcopy(state | {"device_": device, "_state": training}))
    assert_array_equal(twin.predict_proba(X), model.predict_proba(X))
    twin.partial_fit(X, LABELS)  # with masks of a new stream
    assert twin.device_ == torch.device("cpu")


def test_an_ensemble_of_a_device_that_is_not_here():
    model = fitted("ensemble")
    state = copy.deepcopy(model.__getstate__())
    for stack in state["_ensemble"]["stacks"]:
        stack["device"] = "cuda:0"
    twin = TabularMLPClassifier()
    with pytest.warns(UserWarning, match="'cuda:0', which is not available here") as warned:
        twin.__setstate__(state)
    assert len(warned) == 1  # though there are several stacks
    assert_array_equal(twin.predict_proba(rows_of("ensemble")), model.predict_proba(rows_of("ensemble")))


@pytest.mark.parametrize("device", ["cuda:1", torch.device("cuda", 1), torch.device("mps"), "auto"])
def test_the_parameter_device_stays_what_it_was(device):
    for dump in DUMPS.values():
        twin = dump(ours("classifier", device=device))
        assert twin.device == device
        assert type(twin.device) is type(device)


# What else an estimator has ------------------------------------------------------------


@pytest.mark.parametrize("dump", DUMPS)
def test_requests_of_metadata(dump):
    with sklearn.config_context(enable_metadata_routing=True):
        model = ours("classifier").set_fit_request(sample_weight="weights", X_val=False).set_score_request()
        model.fit(X, LABELS)
        twin = DUMPS[dump](model)
        assert str(twin.get_metadata_routing()) == str(model.get_metadata_routing())
        assert twin.get_metadata_routing().fit.owner is twin


def test_callbacks_are_dumped_with_the_estimator():
    model = ours("classifier").set_callbacks(TimeLimit(100)).fit(X, LABELS)
    dumped = skops.io.dumps(model)
    untrusted = skops.io.get_untrusted_types(data=dumped)
    assert untrusted == ["sktorch_mlp.MLPTorchClassifier", "sktorch_mlp.callbacks.TimeLimit"]
    twins = [DUMPS[name](model) for name in DUMPS if name != "skops"]
    for twin in (*twins, skops.io.loads(dumped, trusted=untrusted)):
        assert_array_equal(twin.fit(X, LABELS).predict_proba(X), model.predict_proba(X))
        assert vars(twin)["_skl_callbacks"][0].seconds == 100


def test_a_shallow_copy_has_the_same_objects():
    for name in ("adam", "ensemble"):
        model = fitted(name)
        twin = copy.copy(model)
        assert vars(twin) == vars(model)
        assert all(value is vars(model)[name] for name, value in vars(twin).items())


# Other processes -----------------------------------------------------------------------

_READ = """
import pickle, sys, joblib, numpy as np, skops.io
folder, class_ = sys.argv[1:]
rows, expected = pickle.load(open(f"{folder}/rows.pickle", "rb"))
models = [
    pickle.load(open(f"{folder}/model.pickle", "rb")),
    joblib.load(f"{folder}/model.joblib"),
    skops.io.load(f"{folder}/model.skops", trusted=["sktorch_mlp." + class_]),
]
for model in models:
    np.testing.assert_array_equal(getattr(model, "predict_proba", model.predict)(rows), expected)
"""


def _run(code, *arguments, **environment):
    """Run code in another process, where our warnings are errors."""
    command = [sys.executable, "-W", "error:::sktorch_mlp", "-c", code, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment or None)
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["batch", "torch.optim", "pack"])
def test_dumps_open_in_another_process(name, tmp_path):
    model, rows = fitted(name), rows_of(name)
    (tmp_path / "rows.pickle").write_bytes(pickle.dumps((rows, outputs(model, rows))))
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(model))
    joblib.dump(model, tmp_path / "model.joblib")
    skops.io.dump(model, tmp_path / "model.skops")
    _run(_READ, tmp_path, type(model).__name__)


_LOG = """
import pickle, sys
import mlflow
folder = sys.argv[1]
mlflow.set_tracking_uri(f"file://{folder}/runs")
uris = []
for model, rows, expected in pickle.load(open(f"{folder}/models.pickle", "rb")):
    with mlflow.start_run():
        trusted = ["sktorch_mlp." + type(model).__name__]
        info = mlflow.sklearn.log_model(
            model, name="model", skops_trusted_types=trusted, pip_requirements=["sktorch-mlp"]
        )
    uris.append((info.model_uri, rows, expected))
pickle.dump(uris, open(f"{folder}/uris.pickle", "wb"))
"""
_OPEN = """
import pickle, sys
import mlflow, numpy as np
folder = sys.argv[1]
mlflow.set_tracking_uri(f"file://{folder}/runs")
for uri, rows, expected in pickle.load(open(f"{folder}/uris.pickle", "rb")):
    model = mlflow.sklearn.load_model(uri)
    np.testing.assert_array_equal(getattr(model, "predict_proba", model.predict)(rows), expected)
    np.testing.assert_array_equal(mlflow.pyfunc.load_model(uri).predict(rows), model.predict(rows))
"""


@pytest.mark.slow
def test_mlflow_logs_a_model_and_loads_it_in_another_process(tmp_path, monkeypatch):
    names = ["adam", "torch.optim", "batch", "sgd adaptive", "ensemble", "waves"]
    models = [(fitted(name), rows_of(name), outputs(fitted(name), rows_of(name))) for name in names]
    (tmp_path / "models.pickle").write_bytes(pickle.dumps(models))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    for code in (_LOG, _OPEN):
        _run(code, tmp_path)
