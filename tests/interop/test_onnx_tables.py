"""Ensembles on tables in ONNX, beside the estimators."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from skl2onnx import to_onnx

from sktorch_mlp import TabularMLPClassifier, TabularMLPRegressor
from tests.estimators.tables import SMALL, numbers
from tests.interop.onnx_runs import outputs, run, run_frame
from tests.interop.wide_tables import CATEGORIES, PACK, wide_table

FRAME, Y = wide_table()
NO_ZIPMAP = {"options": {"zipmap": False}}


def assert_same(model, frame, atol=1e-6):
    label, probabilities = run_frame(model, frame, **NO_ZIPMAP)
    np.testing.assert_allclose(probabilities, model.predict_proba(frame), atol=atol)
    np.testing.assert_array_equal(label, model.predict(frame))


@pytest.mark.parametrize(
    "params", [{}, {"dtype": "float64"}, PACK, {"n_estimators": 1}, {"hidden_layer_sizes": ()}], ids=str
)
@pytest.mark.parametrize("embedding", ["piecewise_linear", "periodic", None])
def test_all_columns_and_embeddings(embedding, params):
    model = TabularMLPClassifier(categorical_features=CATEGORIES, **SMALL | {"numerical_embedding": embedding} | params)
    model.fit(FRAME, Y)
    assert_same(model, FRAME)
    strange = FRAME.assign(color="no color", many="level 99", code=77, odd=0.25, two="", size=1e30, height=np.nan)
    assert_same(model, strange)


@pytest.mark.parametrize(
    "columns", [["many"], ["color", "two"], ["size"], ["flag"], ["odd"], ["size", "many"]], ids=str
)
def test_few_columns(columns):
    model = TabularMLPClassifier(**SMALL).fit(FRAME[columns], Y)
    assert_same(model, FRAME[columns])


@pytest.mark.parametrize(
    "y", [Y == "low", np.column_stack([Y == "low", Y == "mid"]).astype(int)], ids=["binary", "labels"]
)
def test_two_classes_and_labels(y):
    assert_same(TabularMLPClassifier(**SMALL).fit(FRAME, y), FRAME)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_targets", [1, 2])
@pytest.mark.parametrize("as_input", [np.asarray, sp.csr_array], ids=["dense", "sparse"])
def test_numbers_in_the_unit_of_the_target(as_input, n_targets, dtype):
    X, y = numbers()
    X = np.where(X > 0, X, 0).astype(dtype)
    y = y if n_targets == 1 else np.column_stack([y, 1000 - 3 * y])
    model = TabularMLPRegressor(**SMALL).fit(as_input(X), y)
    (predicted,) = run(model, X)
    np.testing.assert_allclose(predicted, model.predict(as_input(X)).reshape(len(X), -1), rtol=1e-5)
    assert predicted.dtype == dtype


def test_missing_and_huge_numbers():
    X, y = numbers()
    X = np.where(np.arange(X.size).reshape(X.shape) % 7, X, np.nan)
    X[0], X[1] = 1e300, -1e300
    model = TabularMLPRegressor(**SMALL).fit(X, y)
    (predicted,) = run(model, X)
    np.testing.assert_allclose(predicted[:, 0], model.predict(X), rtol=1e-6)


#: Levels in fit, and values of other types in prediction.
LEVELS = {
    "strings": ["7", "8", "x", "True"],
    "integers": [7, 8, 2**53, 2**53 + 1],
    "floats": [0.5, 7.0, 0.1, 1e20],
    "booleans": [True, False, True, False],
}
VALUES = {
    "strings": ["7", "8", "x", "True", "7.0", "0.5", "", "False", str(2**53 + 1), "1e+20", "1"],
    "integers": [7, 8, 0, 1, 2**53, 2**53 + 1, -1],
    "floats": [0.5, 7.0, 8.0, 0.1, 1.0, np.nan, 2.0**53, 1e20],
    "float32": np.float32([0.5, 7.0, 8.0, 0.1, 1.0, 2.0**53]),
    "booleans": [True, False],
}


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("values", VALUES)
def test_a_value_has_the_level_that_equals_it_or_has_its_text(levels, values):
    fitted = pd.DataFrame({"column": np.tile(LEVELS[levels], 15)})
    model = TabularMLPClassifier(categorical_features=[0], **SMALL).fit(fitted, np.arange(60) % 4 // 2)
    assert_same(model, pd.DataFrame({"column": VALUES[values]}))


def test_one_array_of_numbers_may_have_codes():
    X = np.column_stack([FRAME["code"], FRAME["height"]]).astype(np.float64)
    model = TabularMLPClassifier(categorical_features=[0], **SMALL).fit(X, Y)
    for rows in (X, X.astype(np.float32)):
        _, probabilities = run(model, rows, **NO_ZIPMAP)
        np.testing.assert_allclose(probabilities, model.predict_proba(rows), atol=1e-6)


def test_a_frame_tells_its_types():
    frame = FRAME.astype({"color": object}).fillna({"color": ""}).drop(columns="flag")
    model = TabularMLPClassifier(**SMALL).fit(frame, Y)
    feed = {name: frame[[name]].to_numpy(object if frame[name].dtype.kind not in "fi" else None) for name in frame}
    _, probabilities = outputs(to_onnx(model, frame[:1], **NO_ZIPMAP), feed)
    np.testing.assert_allclose(probabilities, model.predict_proba(frame), atol=1e-6)


def test_wrong_columns_are_refused():
    model = TabularMLPClassifier(**SMALL).fit(FRAME[["size", "color"]], Y)
    with pytest.raises(ValueError, match="Column 'size' has numbers, but the input for it has strings"):
        run_frame(model, FRAME[["color", "size"]].set_axis(["a", "b"], axis=1))
    with pytest.raises(ValueError, match="The inputs have 3 columns, but the table in fit had 2"):
        run_frame(model, FRAME[["size", "color", "code"]])


@pytest.mark.parametrize("target_opset", [12, 13, 18, 21])
def test_old_and_new_versions_of_onnx(target_opset):
    model = TabularMLPClassifier(categorical_features=CATEGORIES, **SMALL).fit(FRAME, Y)
    _, probabilities = run_frame(model, FRAME, target_opset=target_opset, **NO_ZIPMAP)
    np.testing.assert_allclose(probabilities, model.predict_proba(FRAME), atol=1e-6)
