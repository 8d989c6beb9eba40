"""Weights of rows of the estimators for raw tables."""

import numpy as np
import pytest

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
