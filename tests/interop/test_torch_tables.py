"""Ensembles on tables as modules of PyTorch."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse as sp
import torch
from sklearn.exceptions import NotFittedError

from sktorch_mlp import TabularMLPClassifier, TabularMLPRegressor
from sktorch_mlp._interop import torch_tables
from tests.estimators.tables import SMALL, numbers
from tests.interop.wide_tables import CATEGORIES, PACK, wide_table

FRAME, Y = wide_table()


def call(module, rows):
    with torch.no_grad():
        return module(torch.from_numpy(rows)).numpy()


@pytest.mark.parametrize("params", [{}, {"dtype": "float64"}, PACK, {"n_estimators": 1}], ids=str)
@pytest.mark.parametrize("embedding", ["piecewise_linear", "periodic", None])
def test_a_module_gives_the_probabilities_of_an_ensemble(embedding, params):
    model = TabularMLPClassifier(categorical_features=CATEGORIES, **SMALL | {"numerical_embedding": embedding} | params)
    model.fit(FRAME, Y)
    module = model.to_torch()
    # The same sums in another order; networks compute in float32 unless they are told otherwise.
    atol = 1e-13 if params == {"dtype": "float64"} else 1e-6
    np.testing.assert_allclose(call(module, model.encode(FRAME)), model.predict_proba(FRAME), atol=atol)
    unknown = FRAME.assign(color="no color", size=np.nan, many=None)
    np.testing.assert_allclose(call(module, model.encode(unknown)), model.predict_proba(unknown), atol=atol)


@pytest.mark.parametrize(
    "y", [Y == "low", np.column_stack([Y == "low", Y == "mid"]).astype(int)], ids=["binary", "labels"]
)
def test_two_classes_and_labels(y):
    model = TabularMLPClassifier(**SMALL).fit(FRAME, y)
    np.testing.assert_allclose(call(model.to_torch(), model.encode(FRAME)), model.predict_proba(FRAME), atol=1e-6)


@pytest.mark.parametrize("n_targets", [1, 2])
@pytest.mark.parametrize("as_input", [np.asarray, sp.csr_array], ids=["dense", "sparse"])
def test_numbers_are_in_the_unit_of_the_target(as_input, n_targets):
    X, y = numbers()
    X = np.where(X > 0, X, 0)
    y = y if n_targets == 1 else np.column_stack([y, 1000 - 3 * y])
    model = TabularMLPRegressor(**SMALL).fit(as_input(X), y)
    predicted = model.predict(as_input(X)).reshape(len(X), -1)
    # Columns that are numbers need no encoding.
    np.testing.assert_array_equal(model.encode(as_input(X)), X)
    np.testing.assert_allclose(call(model.to_torch(), X), predicted, rtol=1e-5)


def test_a_table_that_says_nothing():
    X, y = np.zeros((50, 2)), np.arange(50) % 2
    model = TabularMLPClassifier(**SMALL).fit(X, y)
    np.testing.assert_allclose(call(model.to_torch(), X), model.predict_proba(X), atol=1e-6)


def test_encode_keeps_columns_in_their_place():
    frame = pd.DataFrame({"constant": 1.0, "color": ["b", "a", None] * 20, "size": np.r_[np.nan, np.arange(59.0)]})
    model = TabularMLPClassifier(**SMALL).fit(frame, np.arange(60) % 2)
    encoded = model.encode(frame)
    np.testing.assert_array_equal(encoded[:3], [[0, 1, np.nan], [0, 0, 0], [0, -1, 1]])
    assert encoded.dtype == np.float64
    with pytest.raises(ValueError, match="feature names"):
        model.encode(frame[["size", "color", "constant"]])
    with pytest.raises(ValueError, match=r"X has 2 columns, but 3 are expected\."):
        model.to_torch()(torch.zeros(4, 2))


@pytest.mark.parametrize("to_other", [pl.from_pandas, pa.Table.from_pandas], ids=["polars", "pyarrow"])
def test_frames_of_other_libraries_are_encoded_alike(to_other):
    model = TabularMLPClassifier(**SMALL).fit(FRAME, Y)
    np.testing.assert_array_equal(model.encode(to_other(FRAME)), model.encode(FRAME))


def test_a_device_without_float64_computes_in_float32(monkeypatch):
    monkeypatch.setattr(torch_tables, "most_precise_dtype", lambda device: torch.float32)
    model = TabularMLPClassifier(**SMALL).fit(FRAME, Y)
    module = model.to_torch()
    assert {tensor.dtype for tensor in module.state_dict().values() if tensor.is_floating_point()} == {torch.float32}
    rows = model.encode(FRAME).astype(np.float32)
    np.testing.assert_allclose(call(module, rows), model.predict_proba(FRAME), atol=1e-5)


def test_a_module_is_on_its_own_and_can_be_trained():
    model = TabularMLPClassifier(categorical_features=CATEGORIES, **SMALL | {"numerical_embedding": "periodic"}).fit(
        FRAME, Y
    )
    rows, before = model.encode(FRAME), model.predict_proba(FRAME)
    loaded = pickle.loads(pickle.dumps(model.to_torch()))
    np.testing.assert_allclose(call(loaded, rows), before, atol=1e-6)
    module = model.to_torch()
    module(torch.from_numpy(rows)).log().mean().backward()
    for parameter in module.parameters():
        assert parameter.grad.isfinite().all()
        torch.nn.init.zeros_(parameter)
    np.testing.assert_array_equal(model.predict_proba(FRAME), before)


def test_members_are_modules_too():
    model = TabularMLPClassifier(**SMALL).fit(FRAME, Y)
    votes = [call(member.to_torch(), model.encode(FRAME)) for member in model.estimators_]
    np.testing.assert_allclose(np.mean(votes, 0), model.predict_proba(FRAME), atol=1e-6)


def test_unfitted_ones_have_neither():
    for method in (TabularMLPClassifier().to_torch, lambda: TabularMLPRegressor().encode(FRAME)):
        with pytest.raises(NotFittedError):
            method()


def test_a_walk_through_members_ends():
    """As skl2onnx walks through the attributes of all estimators; see `__dir__`."""
    model = TabularMLPClassifier(**SMALL).fit(FRAME, Y)
    assert "estimators_" in dir(model)
    assert not any("estimators_" in dir(member) for member in model.estimators_)
    assert "fit" in dir(model.estimators_[0])
    assert "estimators_" not in dir(TabularMLPClassifier())
