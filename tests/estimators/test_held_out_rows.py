"""Rows that the networks of an ensemble hold out: which, what is decided by them, and what is predicted for them."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from sktorch_mlp import TabularMLPClassifier, TabularMLPRegressor
from sktorch_mlp._estimators import table_data
from tests.estimators.tables import ONE_STACK, SMALL, numbers, table


def test_each_row_is_held_out_by_one_member(trained):
    X, y = table()
    TabularMLPClassifier(**SMALL | {"n_estimators": 8, "max_iter": 1}).fit(X, y)
    held_out = [fit.data.validation.indices[0] for fit in trained[0].fits]
    np.testing.assert_array_equal(np.sort(np.concatenate(held_out)), np.arange(len(X)))
    for rows, fit in zip(held_out, trained[0].fits, strict=True):
        np.testing.assert_array_equal(np.union1d(rows, fit.data.train.indices[0]), np.arange(len(X)))
        shares = [np.mean(y[rows] == label) - np.mean(y == label) for label in np.unique(y)]
        assert np.abs(shares).max() < 0.06  # stratified


def test_more_members_than_folds_hold_out_other_rows():
    folds = table_data.split_folds(40, 6, 0.25, None, np.random.RandomState(0))
    held_out = [set(rows) for _, rows in folds]
    assert set.union(*held_out[:4]) == set(range(40))
    assert held_out[4] not in held_out[:4]
    assert all(len(rows) == 10 for rows in held_out)


@pytest.mark.parametrize(("fraction", "expected"), [(0, 0), (0.5, 75), (0.1, 15)])
def test_validation_fraction_is_the_size_of_a_fold(trained, fraction, expected):
    X, y = table()
    TabularMLPClassifier(**SMALL | {"validation_fraction": fraction, "max_iter": 1}).fit(X, y)
    validation = trained[0].fits[0].data.validation
    assert (0 if validation is None else len(validation.indices[0])) == expected


@pytest.mark.parametrize("params", [{}, {"scoring": "loss"}, {"n_estimators": 1}], ids=str)
def test_each_member_keeps_its_best_epoch(params, trained):
    """By the loss of the logits at their best scale, where there are others to average with."""
    X, y = table()
    settings = SMALL | {"max_iter": 30, "hidden_layer_sizes": (128,)}
    TabularMLPClassifier(**settings | params).fit(X, np.roll(y, 1))
    for fit in trained[0].fits:
        scores, losses = fit.progress.validation_scores, np.array(fit.progress.validation_losses)
        assert fit.progress.best_validation_score == max(scores)
        assert fit.progress.best_n_iter == np.argmax(scores) + 1
        if params:
            np.testing.assert_array_equal(scores, -losses)
        else:
            assert (scores >= -losses).all()
            assert (scores > -losses).any()
    assert any(np.argmin(fit.progress.validation_losses) + 1 < fit.progress.n_epochs for fit in trained[0].fits)


def test_training_ends_when_no_member_has_become_better():
    X, y = numbers()
    model = TabularMLPRegressor(**ONE_STACK | {"max_iter": 300, "hidden_layer_sizes": (64,)}).fit(
        X, np.random.RandomState(0).permutation(y)
    )
    scores = pd.DataFrame(model.history_).pivot_table(index="epoch", columns="estimator", values="validation_score")
    best = scores.idxmax()
    assert 12 <= model.n_iter_ - best.max() <= 14
    assert model.n_iter_ < 300


def test_oof_predictions_are_those_of_the_member_that_held_the_row_out(trained):
    X, y = table()
    model = TabularMLPClassifier(**SMALL | {"n_estimators": 8, "dtype": "float64"}).fit(X, y)
    expected = np.empty((len(X), 3))
    for member, fit in zip(model.estimators_, trained[0].fits, strict=True):
        (rows,) = fit.data.validation.indices
        expected[rows] = member.predict_proba(X.iloc[rows])
    np.testing.assert_allclose(model.oof_prediction_, expected, rtol=1e-9)


def test_oof_predictions_are_nan_where_no_member_held_the_row_out():
    X, y = numbers()
    model = TabularMLPRegressor(**SMALL).fit(X, y)
    assert np.isnan(model.oof_prediction_).sum() == len(X) * 5 // 8
    known = ~np.isnan(model.oof_prediction_)
    assert np.abs(model.oof_prediction_[known]).max() < 1000  # in the unit of y


@pytest.mark.parametrize("params", [{"validation_fraction": 0}, {}])
def test_without_held_out_rows_there_are_no_oof_predictions(params):
    X, y = table()
    validation = {} if params else {"X_val": X, "y_val": y}
    model = TabularMLPClassifier(**SMALL | params).fit(X, y, **validation)
    with pytest.raises(AttributeError, match="out-of-fold"):
        _ = model.oof_prediction_


def test_validation_data_take_the_place_of_held_out_rows(trained):
    X, y = table()
    X_val, y_val = table(60, seed=5)
    model = TabularMLPClassifier(**SMALL | {"dtype": "float64"}).fit(X, y, X_val=X_val, y_val=y_val)
    for member, fit in zip(model.estimators_, trained[0].fits, strict=True):
        assert len(fit.data.train.indices[0]) == len(X)
        loss = log_loss(y_val, member.predict_proba(X_val), labels=model.classes_)
        best = fit.progress.validation_losses[fit.progress.best_n_iter - 1]
        assert loss == pytest.approx(best, rel=1e-9)


def test_a_scorer_sees_the_held_out_rows_of_each_member(trained):
    X, y = table()
    y = y == "high"
    model = TabularMLPClassifier(**SMALL | {"scoring": "roc_auc", "dtype": "float64"}).fit(X, y)
    for member, fit in zip(model.estimators_, trained[0].fits, strict=True):
        (rows,) = fit.data.validation.indices
        assert fit.progress.best_validation_score == pytest.approx(
            roc_auc_score(y[rows], member.predict_proba(X.iloc[rows])[:, 1])
        )
