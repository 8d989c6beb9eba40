"""Modes of PyTorch that the caller has on: inference mode, another default device, autocast. None reaches the estimators."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_predict
from skorch.callbacks import EarlyStopping, EpochScoring, GradientNormClipping, LRScheduler
from torch.nn import functional

from sktorch_mlp import stacked_fits
from tests.estimators.helpers import KINDS, LABELS, TARGETS, X, ours, outputs, weights_of

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

ROWS = {"dense": X, "sparse": sp.csr_array(X)}
SKORCH = [
    EpochScoring("accuracy", name="acc", on_train=True),
    GradientNormClipping(1.0),
    LRScheduler("StepLR", step_size=1),
    EarlyStopping(),
]


# Inference mode ------------------------------------------------------------------------

ACTIVATIONS = {"tanh": torch.tanh, "module": torch.nn.Softplus(), "of a layer": [functional.softplus]}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_functions_as_activations_in_inference_mode(name):
    expected = ours("classifier", activation=ACTIVATIONS[name]).fit(X, LABELS).partial_fit(X, LABELS)
    with torch.inference_mode():
        model = ours("classifier", activation=ACTIVATIONS[name]).fit(X, LABELS).partial_fit(X, LABELS)
        predicted = model.predict_proba(X)
    assert_array_equal(predicted, expected.predict_proba(X))
    assert_array_equal(model.predict_proba(X), predicted)  # the predictor was made in inference mode
    assert_array_equal(weights_of(model.partial_fit(X, LABELS)), weights_of(expected.partial_fit(X, LABELS)))


def test_a_module_made_in_inference_mode_can_be_trained():
    with torch.inference_mode():
        module = ours("classifier").fit(X, LABELS).module_
    functional.cross_entropy(module(torch.from_numpy(X)), torch.from_numpy(LABELS)).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


# A default device that has no memory ---------------------------------------------------

FITS = {
    "dropout": {"dropout": 0.3},
    "weight_init": {"weight_init": "he_normal"},
    "weight_init torch": {"weight_init": "torch", "normalization": "batch"},
    "activation": {"activation": torch.tanh},
    "class of torch.optim": {"solver": torch.optim.RMSprop},
    "lbfgs": {"solver": "lbfgs", "weight_init": "lecun_normal"},
    "callbacks": {"callbacks": SKORCH, "early_stopping": True, "scoring": "neg_log_loss"},
}


@pytest.fixture
def default_device():
    """Sets PyTorch's default device, until the end of the test."""
    yield torch.set_default_device
    torch.set_default_device(None)


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
@pytest.mark.parametrize("format_", ROWS)
@pytest.mark.parametrize("fit", FITS)
def test_the_default_device_does_not_matter(fit, format_, default_device):
    params = FITS[fit] | {"device": "cpu"}
    expected = outputs(ours("classifier", **params).fit(ROWS[format_], LABELS), ROWS[format_])
    default_device("meta")
    model = ours("classifier", **params).fit(ROWS[format_], LABELS)
    assert_array_equal(outputs(model, ROWS[format_]), expected)
    assert {parameter.device.type for parameter in model.module_.parameters()} == {"cpu"}


def test_the_default_device_does_not_matter_to_stacks(default_device):
    grid = {"solver": ["adam", "sgd"], "learning_rate_init": [0.01, 0.1]}
    search = GridSearchCV(ours("classifier", dropout=0.3, loss=functional.cross_entropy, device="cpu"), grid, cv=2)
    expected = clone(search).fit(X, LABELS).cv_results_["mean_test_score"]
    default_device("meta")
    with stacked_fits():
        found = search.fit(X, LABELS).cv_results_["mean_test_score"]
    assert_array_equal(found, expected)


# Autocast ------------------------------------------------------------------------------

X32 = X.astype(np.float32)


@pytest.mark.parametrize("format_", ROWS)
@pytest.mark.parametrize("kind", KINDS)
def test_predictions_under_autocast(kind, format_):
    rows = ROWS[format_].astype(np.float32)
    model = ours(kind).fit(rows, TARGETS[kind])
    expected = outputs(model, rows)
    with torch.autocast("cpu"):
        predicted = outputs(model, rows)
    assert predicted.dtype == np.float32
    assert_array_equal(predicted, expected)


def through_a_product(logits, y):
    return functional.cross_entropy(logits @ torch.eye(3, dtype=logits.dtype), y)


UNDER_AUTOCAST = {
    "adam": {},
    "lbfgs": {"solver": "lbfgs"},
    "early stopping": {"early_stopping": True, "scoring": "neg_log_loss"},
    "activation": {"activation": lambda units: torch.tanh(units * (torch.ones(2) / 3 @ torch.ones(2)))},
    "loss": {"loss": through_a_product},
}


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
@pytest.mark.parametrize("fit", UNDER_AUTOCAST)
def test_fits_under_autocast(fit):
    expected = ours("classifier", **UNDER_AUTOCAST[fit]).fit(X32, LABELS)
    with torch.autocast("cpu"):
        model = ours("classifier", **UNDER_AUTOCAST[fit]).fit(X32, LABELS)
    assert_array_equal(weights_of(model), weights_of(expected))
    assert torch.is_autocast_enabled("cpu") is False


def test_stacks_under_autocast():
    expected = cross_val_predict(ours("classifier"), X32, LABELS, cv=2, method="predict_proba")
    with torch.autocast("cpu"), stacked_fits():
        predicted = cross_val_predict(ours("classifier"), X32, LABELS, cv=2, method="predict_proba")
    assert np.abs(predicted - expected).max() < 1e-6  # float32; bfloat16 would leave 1e-3
