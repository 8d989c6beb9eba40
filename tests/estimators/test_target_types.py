"""Labels and numbers as users have them: learned and predicted as by scikit-learn's MLP."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import DataConversionWarning

from sktorch_mlp import MLPTorchClassifier
from tests.estimators.helpers import (
    KINDS,
    LABELS,
    MULTILABEL,
    NUMBERS,
    RTOL,
    TARGETS,
    TWO_NUMBERS,
    WARNS_EACH_TIME,
    WITH_ZEROS,
    X,
    dense,
    ours,
    pair,
    read_only,
    weights_of,
)

pytestmark = [pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"), *WARNS_EACH_TIME]

names = np.array(["setosa", "versicolor", "virginica"])[LABELS]
CLASSES = {
    "strings": names,
    "object strings": names.astype(object),
    "list of strings": names.tolist(),
    "bytes-like integers": LABELS.astype(np.uint8),
    "int32": LABELS.astype(np.int32),
    "negative integers": 7 - 5 * LABELS,
    "whole floats": LABELS.astype(float),
    "whole float32": LABELS.astype(np.float32),
    "big-endian": LABELS.astype(">i8"),
    "one integer": np.full(len(X), 3),
    "one string": np.full(len(X), "a"),
    "two strings": np.where(LABELS > 0, "yes", "no"),
    "two booleans": LABELS > 0,
    "two integers": np.where(LABELS > 0, -1, 1),
    "two floats": np.where(LABELS > 0, 1.0, -1.0),
    "series of strings": pd.Series(names),
    "series of objects": pd.Series(names, dtype=object),
    "series of categories": pd.Series(names, dtype="category"),
    "series of Int64": pd.Series(LABELS, dtype="Int64"),
    "series of boolean": pd.Series(LABELS > 0, dtype="boolean"),
    "series of another index": pd.Series(LABELS, index=range(100, 150)[::-1]),
    "read-only reversed": read_only(LABELS)[::-1],
    "multilabel": MULTILABEL,
    "multilabel floats": MULTILABEL.astype(float),
    "multilabel booleans": MULTILABEL.astype(bool),
    "multilabel bytes": (255 * MULTILABEL).astype(np.uint8),
    "multilabel of -1": -MULTILABEL,
    "multilabel Fortran order": np.asfortranarray(MULTILABEL),
    "multilabel frame": pd.DataFrame(MULTILABEL),
    "multilabel of two columns": MULTILABEL[:, :2],
    "multilabel csr": sp.csr_array(MULTILABEL),
    "multilabel csc": sp.csc_array(MULTILABEL),
    "multilabel csr_matrix": sp.csr_matrix(MULTILABEL),
}
# L-BFGS takes the same training targets as the others, so one of each kind of output will do.
OF_LBFGS = ["strings", "two booleans", "one integer", "multilabel", "multilabel csr"]
METHODS = {"fit": {}, "partial_fit": {}, "early stopping": {"early_stopping": True}, "lbfgs": {"solver": "lbfgs"}}


@pytest.mark.parametrize(
    ("name", "method"),
    [*((name, method) for method in METHODS for name in CLASSES if method != "lbfgs" or name in OF_LBFGS)],
)
def test_labels(name, method):
    y = CLASSES[name]

    def trained(estimator):
        if method == "partial_fit":
            classes = range(dense(y).shape[1]) if np.ndim(dense(y)) == 2 else np.unique(y)
            return estimator.partial_fit(X, y, classes=classes).partial_fit(X, y)
        return estimator.fit(X, y)

    model, reference = (trained(estimator) for estimator in pair("classifier", **METHODS[method]))
    assert_array_equal(model.classes_, reference.classes_)
    assert model.classes_.dtype == reference.classes_.dtype
    assert model.n_outputs_ == reference.n_outputs_
    assert model.out_activation_ == reference.out_activation_
    assert_allclose(model.predict_proba(X), reference.predict_proba(X), rtol=RTOL[np.float64])
    result, expected = model.predict(X), reference.predict(X)
    assert type(result) is type(expected)  # sparse where y was
    assert result.dtype == expected.dtype
    assert_array_equal(dense(result), dense(expected))
    assert model.score(X, y) == reference.score(X, y)


def test_labels_are_predicted_as_they_were_given():
    model = MLPTorchClassifier(max_iter=200, learning_rate_init=0.02, random_state=0)
    predicted = model.fit(X, names).predict(X)
    assert predicted.dtype == names.dtype
    assert np.mean(predicted == names) > 0.9


NUMBER_TYPES = {
    "list": NUMBERS.tolist(),
    "integers": np.round(10 * NUMBERS).astype(int),
    "booleans": NUMBERS > 1,
    "float32": NUMBERS.astype(np.float32),
    "float16": NUMBERS.astype(np.float16),
    "longdouble": NUMBERS.astype(np.longdouble),
    "big-endian": NUMBERS.astype(">f8"),
    "objects": NUMBERS.astype(object),
    "series": pd.Series(NUMBERS),
    "series of Float64": pd.Series(NUMBERS).astype("Float64"),
    "reversed": np.ascontiguousarray(NUMBERS[::-1])[::-1],
    "read-only": read_only(NUMBERS),
    "two columns": TWO_NUMBERS,
    "two columns Fortran order": np.asfortranarray(TWO_NUMBERS),
    "two columns frame": pd.DataFrame({"first": NUMBERS, "second": X[:, 0]}),
}
REGRESSIONS = {
    "adam": {},
    "early stopping": {"early_stopping": True},
    "lbfgs": {"solver": "lbfgs"},
    "poisson": {"loss": "poisson"},
}


@pytest.mark.parametrize("fit", REGRESSIONS)
@pytest.mark.parametrize("name", NUMBER_TYPES)
def test_numbers(name, fit):
    y = NUMBER_TYPES[name]
    model, reference = pair("regressor", **REGRESSIONS[fit])
    model.fit(X, y)
    # scikit-learn's Poisson loss refuses longdouble; ours casts all targets to the dtype of X.
    reference.fit(X, y.astype(np.float64) if getattr(y, "dtype", None) == np.longdouble else y)
    result, expected = model.predict(X), reference.predict(X)
    assert type(result) is np.ndarray
    assert result.shape == expected.shape
    # scikit-learn subtracts targets in their own dtype, so float16 and float32 targets cost it nothing but order.
    assert_allclose(result, expected, rtol=RTOL[np.float64])


@pytest.mark.parametrize("format_", [sp.csr_array, sp.csc_array, sp.csr_matrix], ids=lambda format_: format_.__name__)
@pytest.mark.parametrize("fit", ["adam", "early stopping", "poisson"])
def test_sparse_numbers_are_taken_as_their_array(fit, format_):
    y = np.column_stack([NUMBERS, WITH_ZEROS[:, 0]])
    model = ours("regressor", **REGRESSIONS[fit]).fit(X, format_(y))
    expected = ours("regressor", **REGRESSIONS[fit]).fit(X, y)  # what scikit-learn makes of most of them too
    assert_array_equal(model.predict(X), expected.predict(X))


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_is_flattened_with_a_warning(kind):
    with pytest.warns(DataConversionWarning, match="column-vector y was passed"):
        model = ours(kind).fit(X, TARGETS[kind].reshape(-1, 1))
    assert_array_equal(weights_of(model), weights_of(ours(kind).fit(X, TARGETS[kind])))
    assert model.predict(X).ndim == 1


@pytest.mark.parametrize("n_rows", [1, 3, len(X)])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("method", ["partial_fit", "warm fit"])
def test_indicators_for_a_model_of_classes_are_refused_as_by_scikit_learn(method, classes, n_rows):
    labels = LABELS % classes
    indicators = np.eye(classes, dtype=int)[labels]
    for estimator in pair("classifier", warm_start=method == "warm fit"):
        estimator.fit(X, labels)
        before = weights_of(estimator).copy()
        for y in (indicators[:n_rows], sp.csr_array(indicators[:n_rows])):
            with pytest.raises(
                ValueError, match=r"not fitted with multilabel input|same classes as in the previous call"
            ):
                getattr(estimator, method.removeprefix("warm "))(X[:n_rows], y)
        assert_array_equal(weights_of(estimator), before)
