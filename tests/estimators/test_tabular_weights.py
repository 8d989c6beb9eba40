"""Weights of rows of the estimators for raw tables."""

import numpy as np
import pytest
from sklearn.base import clone

from sktorch_mlp import TabularMLPClassifier, TabularMLPRegressor
from tests.estimators.tables import SMALL, numbers, table


def test_oof_predictions_are_nan_for_rows_of_weight_zero():
    X, y = table()
    weight = np.r_[np.zeros(30), np.ones(120)]
    model = TabularMLPClassifier(**SMALL | {"n_estimators": 8}).fit(X, y, weight)
    expected = TabularMLPClassifier(**SMALL | {"n_estimators": 8}).fit(X[30:], y[30:]).oof_prediction_
    assert np.isnan(model.oof_prediction_[:30]).all()
    np.testing.assert_allclose(model.oof_prediction_[30:], expected, rtol=1e-4)


@pytest.mark.parametrize("unit", [1e-300, 1e300])
def test_the_unit_of_weights_does_not_matter(unit):
    X, y = numbers()
    predicted = [TabularMLPRegressor(**SMALL).fit(X, y, np.full(len(y), w)).predict(X) for w in (1, unit)]
    np.testing.assert_array_equal(*predicted)


def test_negative_weights_are_an_error():
    X, y = numbers()
    with pytest.raises(ValueError, match="Negative values in data passed to `sample_weight`"):
        TabularMLPRegressor(**SMALL).fit(X, y, np.r_[-1, np.ones(len(y) - 1)])


def test_rows_of_classes_without_weight_are_as_if_they_were_not_there():
    X, y = table()
    model = TabularMLPClassifier(**SMALL, class_weight={"low": 0.0})
    weighted = model.fit(X, y)
    np.testing.assert_array_equal(weighted.classes_, ["high", "low", "mid"])
    assert weighted.predict_proba(X)[:, 1].max() < 0.2
    assert np.isnan(weighted.oof_prediction_[y == "low"]).all()
    assert not np.isnan(weighted.oof_prediction_[y != "low"]).all()


def test_weights_that_float32_cannot_tell_from_zero_are_zero():
    X, y = table()
    weights = np.where(np.arange(len(X)) % 5 == 0, 1.0, 1e-60)
    model = TabularMLPClassifier(**SMALL)
    few = clone(model).fit(X[weights == 1], y[weights == 1])
    np.testing.assert_allclose(clone(model).fit(X, y, weights).predict_proba(X), few.predict_proba(X), rtol=1e-5)
