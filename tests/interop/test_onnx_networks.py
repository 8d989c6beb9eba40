"""Networks in ONNX, beside the estimators."""

import numpy as np
import pytest
import torch
from torch import nn

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor
from sktorch_mlp._interop.onnx_networks import ACTIVATIONS as IN_ONNX
from sktorch_mlp._nn.activations import ACTIVATIONS
from tests.estimators.helpers import LABELS, MULTILABEL, NUMBERS, SMALL, TWO_NUMBERS, X
from tests.interop.onnx_runs import run

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer:sklearn.exceptions.ConvergenceWarning")

#: float32 has seven digits; in float64 the same sums stand in another order, but for the error function of gelu, which
#: onnxruntime has in float32 alone.
ATOL = {np.float32: 1e-5, np.float64: 1e-7}
DTYPES = [np.float32, np.float64]
LABELED = {"binary": LABELS > 0, "three classes": LABELS, "labels": MULTILABEL}


@pytest.fixture(scope="module")
def spread():
    """Rows far from those of the fit as well, where activations saturate."""
    return np.vstack([X, 30 * X - 20, -1000 * X])


@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_all_activations_and_normalizations(activation, normalization, spread):
    params = {"activation": activation, "normalization": normalization, "hidden_layer_sizes": (6, 5), "dropout": 0.1}
    model = MLPTorchClassifier(**SMALL | params).fit(X, LABELS)
    for dtype in DTYPES:
        label, probabilities = run(model, spread.astype(dtype), options={"zipmap": False})
        np.testing.assert_allclose(probabilities, model.predict_proba(spread), atol=ATOL[dtype])
        assert probabilities.dtype == dtype
        np.testing.assert_array_equal(label, model.predict(spread))


@pytest.mark.parametrize("target", LABELED)
@pytest.mark.parametrize("sizes", [(), (5,)], ids=str)
@pytest.mark.parametrize("fitted", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_kinds_of_classes(target, sizes, fitted, dtype):
    model = MLPTorchClassifier(**SMALL | {"hidden_layer_sizes": sizes}).fit(X.astype(fitted), LABELED[target])
    label, probabilities = run(model, X.astype(dtype), options={"zipmap": False})
    np.testing.assert_allclose(probabilities, model.predict_proba(X), atol=1e-5)
    np.testing.assert_array_equal(label, model.predict(X))


@pytest.mark.parametrize("y", [NUMBERS, TWO_NUMBERS], ids=["number", "two numbers"])
@pytest.mark.parametrize(
    "loss", ["squared_error", "poisson", "absolute_error", "huber", "quantile", nn.functional.mse_loss]
)
def test_all_losses(loss, y):
    model = MLPTorchRegressor(loss=loss, **SMALL).fit(X, y)
    for dtype in DTYPES:
        (predicted,) = run(model, X.astype(dtype))
        np.testing.assert_allclose(predicted, model.predict(X).reshape(len(X), -1), rtol=1e-5, atol=1e-5)
        assert predicted.dtype == dtype


def test_values_written_into_coefs_are_exported():
    model = MLPTorchClassifier(**SMALL).fit(X, LABELS)
    model.coefs_[1][:] = 0
    _, probabilities = run(model, X, options={"zipmap": False})
    np.testing.assert_allclose(probabilities, model.predict_proba(X))


def test_integers_are_numbers():
    model = MLPTorchClassifier(**SMALL).fit(X * 100, LABELS)
    rows = np.round(X * 100)
    for dtype in (np.int64, np.int32):
        _, probabilities = run(model, rows.astype(dtype), options={"zipmap": False})
        np.testing.assert_allclose(probabilities, model.predict_proba(rows), atol=1e-5)


@pytest.mark.parametrize(
    "activation", [torch.sin, nn.LeakyReLU(0.3), ["relu", torch.sin]], ids=["function", "module", "one of two"]
)
def test_functions_are_refused_by_name(activation):
    model = MLPTorchClassifier(
        **SMALL | {"activation": activation, "hidden_layer_sizes": (3, 2)[: np.size(activation)]}
    )
    model.fit(X, LABELS)
    with pytest.raises(
        ValueError, match=r"activation=(sin|LeakyReLU\(negative_slope=0.3\)) is a function, which has no ONNX"
    ):
        run(model, X)


def test_every_activation_has_a_form():
    assert IN_ONNX.keys() == ACTIVATIONS.keys()


@pytest.mark.parametrize("target_opset", [12, 13, 18, 21])
def test_old_and_new_versions_of_onnx(target_opset):
    params = {"activation": ["gelu", "mish"], "normalization": "layer", "hidden_layer_sizes": (6, 5)}
    model = MLPTorchClassifier(**SMALL | params).fit(X, LABELS)
    _, probabilities = run(model, X, options={"zipmap": False}, target_opset=target_opset)
    np.testing.assert_allclose(probabilities, model.predict_proba(X), atol=1e-7)
