"""X of narrow types: the same answers as from float64, and no wider copy of all rows."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from sktorch_mlp import MLPTorchClassifier
from sktorch_mlp._data.rows import Rows
from sktorch_mlp._estimators import inputs
from tests.estimators.helpers import INTEGERS, KINDS, LABELS, NUMBERS, TARGETS, X, ours, outputs, pair

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

DTYPES = [np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_]


@pytest.fixture(params=["as a whole", "batch by batch"])
def rows_of_fits(request, monkeypatch):
    """The rows of all fits; none is small enough to be cast as a whole, or all are."""
    made = []

    class Recorded(Rows):
        @classmethod
        def from_array(cls, *args, **kwargs):
            copy_bytes = 2**24 if request.param == "as a whole" else 0
            made.append(Rows.from_array(*args, **kwargs, copy_bytes=copy_bytes))
            return made[-1]

    monkeypatch.setattr(inputs, "Rows", Recorded)
    yield made
    if request.param == "batch by batch":
        assert all(rows.source_dtype.itemsize <= 8 for rows in made)
        assert any(rows.source_dtype != rows.dtype for rows in made)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("rows_of_fits")
def test_fits_are_those_of_float64(kind, dtype):
    values = (INTEGERS % 2 if dtype is np.bool_ else INTEGERS).astype(dtype)
    estimator, reference = pair(kind, shuffle=True)
    estimator.fit(values, TARGETS[kind])
    wide = ours(kind).fit(values.astype(np.float64), TARGETS[kind])
    np.testing.assert_array_equal(estimator.coefs_[0], wide.coefs_[0])
    assert estimator.coefs_[0].dtype == np.float64
    np.testing.assert_array_equal(outputs(estimator, values), outputs(wide, values.astype(np.float64)))
    np.testing.assert_allclose(reference.fit(values, TARGETS[kind]).coefs_[0], estimator.coefs_[0], rtol=1e-10)


@pytest.mark.parametrize("parameters", [{"early_stopping": True}, {"dtype": "float32"}, {"solver": "lbfgs"}], ids=str)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.usefixtures("rows_of_fits")
def test_features_of_a_fit_see_the_same_numbers(parameters, order):
    values = np.asarray(INTEGERS, dtype=np.uint8, order=order)
    estimator = ours("classifier", max_iter=2, **parameters).fit(values, LABELS)
    wide = ours("classifier", max_iter=2, **parameters).fit(values.astype(np.float64), LABELS)
    np.testing.assert_array_equal(estimator.coefs_[0], wide.coefs_[0])
    estimator.partial_fit(values, LABELS) if "solver" not in parameters and "early_stopping" not in parameters else None
    assert estimator.score(values, LABELS) == estimator.score(values.astype(np.float64), LABELS)


def test_large_rows_are_not_copied(monkeypatch):
    placed = []
    monkeypatch.setattr(inputs, "make_samples", _recorded(inputs.make_samples, placed))
    values = np.zeros((3000, 1000), np.uint8)  # 3 MB, and 24 in float64
    values[::2] = 1
    MLPTorchClassifier((2,), max_iter=1).fit(values, values[:, 0])
    (samples,) = placed
    assert samples.rows.X.data_ptr() == values.ctypes.data


def _recorded(function, results):
    def call(*args):
        results.append(function(*args))
        return results[-1]

    return call


@pytest.mark.parametrize("dtype", [np.uint16, np.longdouble, ">f8", object])
def test_what_pytorch_has_no_rows_of_is_widened(dtype):
    values = INTEGERS.astype(dtype)
    estimator, expected = ours("classifier").fit(values, LABELS), ours("classifier").fit(INTEGERS, LABELS)
    np.testing.assert_array_equal(estimator.coefs_[0], expected.coefs_[0])
    np.testing.assert_array_equal(estimator.predict_proba(values), expected.predict_proba(INTEGERS))


def test_frames_and_sparse_matrices_of_narrow_types():
    expected = ours("classifier").fit(INTEGERS, LABELS)
    mixed = pd.DataFrame(INTEGERS.astype(np.int8)).astype({0: np.uint8, 1: "Int8", 2: np.float16})
    mixed.columns = list("abcd")
    sparse = sp.csr_array(INTEGERS.astype(np.int16))
    for values in (mixed, mixed.astype(np.uint8), sparse):
        estimator = ours("classifier").fit(values, LABELS)
        np.testing.assert_allclose(estimator.coefs_[0], expected.coefs_[0], rtol=1e-10)
        np.testing.assert_allclose(estimator.predict_proba(values), expected.predict_proba(INTEGERS), rtol=1e-10)


def test_half_floats_that_are_not_finite_are_refused():
    values = X.astype(np.float16)
    values[3, 1] = np.inf
    with pytest.raises(ValueError, match="Input X contains infinity"):
        ours("classifier").fit(values, LABELS)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_too_large_for_the_precision_are_named_wherever_x_is(rows_of_fits, dtype):
    wide = X * np.where(np.arange(len(X)) == 7, 1e200, 1.0)[:, None]
    for given in ((wide, NUMBERS), ([(wide[:30], NUMBERS[:30]), (wide[30:], NUMBERS[30:])],)):
        model = ours("regressor", dtype=dtype)
        with pytest.raises(ValueError, match=r"contains infinity or a value too large for dtype\('b?float"):
            model.fit(*given)
        assert not hasattr(model, "coefs_")
