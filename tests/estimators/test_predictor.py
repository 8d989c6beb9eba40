"""Predictions: block by block what they are at once, and PyTorch's numbers."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from sktorch_mlp import MLPTorchRegressor
from sktorch_mlp._data.rows import Rows
from sktorch_mlp._estimators import predictor as predictors
from sktorch_mlp._estimators.predictor import BLOCK_ROWS, MOST_BLOCK_ROWS, Predictor
from tests.estimators.helpers import KINDS, RTOL, TARGETS, X, outputs, pair
from tests.nn.helpers import OUT_ACTIVATIONS

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

CPU = torch.device("cpu")
FORMATS = {"dense": np.asarray, "sparse": sp.csr_array}


def as_rows(values, dtype=np.float64):
    return Rows.from_array(values, CPU, np.dtype(dtype))


def module_and_predictor(out_activation="softmax"):
    """Modules of PyTorch and a predictor of the same weights."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    linears = [layer for layer in module if isinstance(layer, nn.Linear)]
    weights, biases = ([getattr(layer, name).detach() for layer in linears] for name in ("weight", "bias"))
    return module, Predictor(weights, biases, ("tanh", "relu"), out_activation)


@pytest.fixture(autouse=True)
def torchs_stream():
    """Put back PyTorch's global random stream after each test."""
    with torch.random.fork_rng():
        yield


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of small networks have as many rows as those of larger ones."""
    monkeypatch.setattr(predictors, "MOST_BLOCK_ROWS", BLOCK_ROWS)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("n_rows", [1, 2, BLOCK_ROWS, BLOCK_ROWS + 1, 2 * BLOCK_ROWS + 3])
def test_predictions_are_those_of_pytorchs_modules(n_rows, format_):
    rows = np.random.RandomState(0).normal(size=(n_rows, 4)).round(0)
    for name, activate in OUT_ACTIVATIONS.items():
        module, predictor = module_and_predictor(name)
        expected = activate(module(torch.from_numpy(rows))).detach()
        result = predictor.predict_rows(as_rows(FORMATS[format_](rows)))
        assert result.shape == (n_rows, 3)
        assert result.is_contiguous()
        assert_allclose(result, expected, rtol=1e-12, atol=1e-15)


def test_predictions_are_no_views_of_buffers():
    _, predictor = module_and_predictor()
    first = predictor.predict_rows(as_rows(X))
    before = first.clone()
    predictor.predict_rows(as_rows(X[::-1].copy()))
    assert torch.equal(first, before)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_many_rows_are_predicted_as_by_scikit_learn(kind, format_):
    model, reference = (estimator.fit(X, TARGETS[kind]) for estimator in pair(kind))
    rows = FORMATS[format_](np.tile(X, (101, 1)) * np.linspace(0.5, 1.5, 5050)[:, np.newaxis])
    assert rows.shape[0] > 2 * BLOCK_ROWS
    assert_allclose(outputs(model, rows), outputs(reference, rows), rtol=RTOL[np.float64])


def test_a_prediction_leaves_its_rows_as_they_were():
    for rows in (X.copy(), sp.csr_array(X)):
        before = rows.copy()
        module_and_predictor("exp")[1].predict_rows(as_rows(rows))
        assert_array_equal(*(values.toarray() if sp.issparse(values) else values for values in (rows, before)))


def test_large_rows_are_cast_block_by_block():
    _, predictor = module_and_predictor()
    rows = np.random.RandomState(0).normal(size=(2 * BLOCK_ROWS + 3, 4)).astype(np.float32)
    at_once, by_block = (
        predictor.predict_rows(Rows.from_array(rows, CPU, np.dtype(np.float64), copy_bytes=copy_bytes))
        for copy_bytes in (2**24, 0)
    )
    assert by_block.dtype == torch.float64
    assert torch.equal(at_once, by_block)


def test_blocks_of_wide_rows_take_little_memory(monkeypatch):
    predict, n_rows = Predictor._predict, []

    def record(self, rows, *args, **kwargs):
        n_rows.append(len(rows))
        return predict(self, rows, *args, **kwargs)

    monkeypatch.setattr(Predictor, "_predict", record)
    coef, intercept = torch.ones(2, 3000, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    rows = np.arange(3_000_000, dtype=np.uint8).reshape(1000, 3000)
    predictor = Predictor([coef], [intercept], [], "identity")
    predictions = predictor.predict_rows(as_rows(rows))
    assert_array_equal(predictions[:, 1], rows.sum(1))
    assert max(n_rows) * 3000 * 8 <= 2**21


@pytest.mark.parametrize(
    ("layer_units", "n_rows", "n_blocks"),
    [
        ((20, 10, 2), 8192, 1),  # a small network has large blocks, since threads wait for Python between them
        ((20, 10, 2), 8193, 2),
        ((20, 10, 2), 20_000, 4),  # as many for each of two threads
        ((300, 300, 1), 4096, 8),
        ((2000, 500, 2), 300, 1),  # each of several blocks would read all weights
        ((2000, 500, 2), 500, 2),
        ((2000, 500, 2), 1000, 4),
        ((2000, 500, 2), 40_000, 20),
    ],
)
def test_blocks_are_as_large_as_the_network_is_small(layer_units, n_rows, n_blocks, monkeypatch):
    monkeypatch.setattr(predictors, "MOST_BLOCK_ROWS", MOST_BLOCK_ROWS)
    coefs = [torch.zeros(n_out, n_in) for n_in, n_out in pairwise(layer_units)]
    intercepts = [torch.zeros(len(coef)) for coef in coefs]
    predictor = Predictor(coefs, intercepts, ["relu"] * (len(coefs) - 1), "identity")
    rows = as_rows(np.zeros((n_rows, layer_units[0]), np.float32), np.float32)
    assert predictor._count_blocks(rows) == n_blocks


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n_rows", [3, 5000], ids=["one block", "blocks"])
def test_predictions_that_overflow_make_no_noise(n_rows):
    rows = np.random.RandomState(0).randn(n_rows, 30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MLPTorchRegressor(hidden_layer_sizes=(400,), max_iter=1).fit(rows[:3], rows[:3, 0])
    model.coefs_ = [coef * 1e300 for coef in model.coefs_]
    assert not np.isfinite(model.predict(rows * 1e200)).any()


OTHER_ARRAYS = {
    "float32": lambda a: a.astype(np.float32),
    "integers": lambda a: (10 * a).astype(int),
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "reversed": lambda a: a[::-1].copy()[::-1],
    "every second column": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
}


@pytest.mark.parametrize("replace", OTHER_ARRAYS.values(), ids=OTHER_ARRAYS)
@pytest.mark.parametrize("name", ["coefs_", "intercepts_"])
def test_what_is_written_into_arrays_of_another_kind_predicts(name, replace):
    model = MLPTorchRegressor(hidden_layer_sizes=(7,), max_iter=3, random_state=0, device="cpu").fit(X, X[:, 0])
    array = getattr(model, name)[1] = replace(getattr(model, name)[1])
    model.predict(X), model.module_(torch.from_numpy(X))
    array[...] = 0
    other = model.intercepts_[1] if name == "coefs_" else 0
    expected = np.maximum(X @ model.coefs_[0] + model.intercepts_[0], 0) @ model.coefs_[1] + other
    assert_allclose(model.predict(X), expected[:, 0], rtol=1e-6)
    assert_allclose(model.module_(torch.from_numpy(X)).detach(), expected, rtol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [">f8", np.longdouble, np.float64, object])
def test_values_beyond_the_precision_are_an_error(dtype):
    model = MLPTorchRegressor(hidden_layer_sizes=(7,), max_iter=3, device="cpu", dtype="float32").fit(X, X[:, 0])
    rows = X.copy()
    rows[3, 1] = 1e300
    with pytest.raises(ValueError, match="too large for dtype"):
        model.predict(rows.astype(dtype))


def test_dates_are_no_numbers():
    model = MLPTorchRegressor(hidden_layer_sizes=(7,), max_iter=3).fit(X, X[:, 0])
    with pytest.raises(TypeError, match="datetime64"):
        model.predict(np.zeros(X.shape, "datetime64[s]"))


# Whether X is finite -------------------------------------------------------------------


@pytest.fixture(scope="module", params=[np.float32, np.float64], ids=["float32", "float64"])
def wide_pair(request):
    """Estimators of 120 features, the first unit of which has no weight."""
    rows = np.random.RandomState(0).normal(size=(60, 120)).astype(request.param)
    models = pair("regressor", hidden_layer_sizes=(20,), max_iter=2)
    for model in models:
        model.fit(rows, rows[:, 0])
        model.coefs_[0][:, 0] = 0
    return models


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n_rows", [80, 1500, 2 * BLOCK_ROWS + 100])
def test_what_is_not_finite_is_found_in_sums(wide_pair, n_rows, value):
    """Sums of one unit are looked at in place of X, also if its weights are zero. The errors are scikit-learn's."""
    model, reference = wide_pair
    dtype = model.coefs_[0].dtype
    rows = np.random.RandomState(1).normal(size=(n_rows, 120)).astype(dtype)
    assert_allclose(model.predict(rows), reference.predict(rows), rtol=RTOL[dtype.type], atol=RTOL[dtype.type])
    for layout in (np.asarray, np.asfortranarray, lambda X: np.repeat(X, 2, axis=1)[:, ::2]):
        for row, column in [(0, 0), (n_rows - 1, 119), (n_rows // 2, 50)]:
            wrong = rows.copy()
            wrong[row, column] = value
            messages = []
            for estimator in wide_pair:
                with pytest.raises(ValueError, match=r"infinity|NaN") as caught:
                    estimator.predict(layout(wrong))
                messages.append(str(caught.value).replace("MLPTorch", "MLP"))
            assert messages[0] == messages[1]


def test_sums_that_overflow_are_no_errors(wide_pair):
    model, reference = wide_pair
    large = np.full((200, 120), np.finfo(model.coefs_[0].dtype).max / 2, model.coefs_[0].dtype)
    with np.errstate(all="ignore"):
        assert_array_equal(np.isfinite(model.predict(large)), np.isfinite(reference.predict(large)))


def test_finite_rows_are_not_looked_at(wide_pair, monkeypatch):
    rows = np.zeros((200, 120), wide_pair[0].coefs_[0].dtype)
    monkeypatch.delattr("sktorch_mlp._estimators.inputs._is_finite")
    assert len(wide_pair[0].predict(rows)) == 200


@pytest.mark.parametrize("n_rows", [400, 4000])
def test_what_the_handler_of_a_signal_raises_is_not_taken_for_values_that_are_not_finite(n_rows):
    """A prediction begins anew where values are not finite, and would lose it."""
    late = []

    def activation(units):
        if late:
            raise late.pop()
        return torch.tanh(units)

    X = np.random.RandomState(0).randn(n_rows, 50)
    model = MLPTorchRegressor(activation=activation, device="cpu").partial_fit(X, X[:, 0])
    late.append(ValueError("too late"))
    with pytest.raises(ValueError, match="too late"):
        model.predict(X)
    assert model.predict(X).shape == (n_rows,)
