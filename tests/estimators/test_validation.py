"""Validation data, scores, early stopping and history: each epoch against a fit that ends there."""

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.metrics import accuracy_score, get_scorer, log_loss, make_scorer
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor
from sktorch_mlp._nn.initialization import initial_parameters
from tests.estimators.by_hand import (
    IN_ORDER,
    N_EPOCHS,
    N_ROWS,
    NUMBERS,
    NUMBERS_X,
    PARAMS,
    TWO_NUMBERS,
    WEIGHTS,
    X_VAL,
    Y_VAL,
    X,
    Y,
    cross_entropy,
)
from tests.pairwise import pairwise

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")

VALIDATION = {"X_val": X_VAL, "y_val": Y_VAL}
FEATURES = {
    "plain": {},
    "batch norm": {"normalization": "batch"},
    "dropout": {"dropout": 0.4, "activation": "gelu"},
    "label smoothing": {"label_smoothing": 0.1},
    "function": {"loss": cross_entropy},
}


@pytest.mark.parametrize(("name", "weighted", "format_"), pairwise(FEATURES, [False, True], ["dense", "sparse"]))
def test_each_epoch_is_validated(name, weighted, format_):
    params = FEATURES[name]
    weights = WEIGHTS[: len(X_VAL)] if weighted else None
    given = {"X_val": sp.csr_array(X_VAL) if format_ == "sparse" else X_VAL, "y_val": Y_VAL}
    model = MLPTorchClassifier(**PARAMS, **params).fit(X, Y, **given, sample_weight_val=weights)
    assert model.best_validation_score_ is None
    assert model.t_ == N_EPOCHS * N_ROWS
    for n_epochs in range(1, N_EPOCHS + 1):
        then = MLPTorchClassifier(**{**PARAMS, "max_iter": n_epochs}, **params).fit(X, Y)
        assert then.validation_scores_ is None
        assert then.loss_curve_ == model.loss_curve_[:n_epochs]  # validation changes nothing
        truth = np.eye(3)[Y_VAL] * (1 - model.label_smoothing) + model.label_smoothing / 3
        row_losses = -(truth * then.predict_log_proba(X_VAL)).sum(1)
        assert_allclose(model.validation_loss_curve_[n_epochs - 1], np.average(row_losses, weights=weights), rtol=1e-9)
        score = accuracy_score(Y_VAL, then.predict(X_VAL), sample_weight=weights)
        assert_allclose(model.validation_scores_[n_epochs - 1], score, rtol=1e-12)


def test_history_is_a_record_of_each_epoch():
    model = MLPTorchClassifier(**PARAMS, learning_rate="cosine").fit(X, Y, **VALIDATION)
    columns = {name: [record[name] for record in model.history_] for name in model.history_[0]}
    seconds = columns.pop("seconds")
    assert min(seconds) > 0
    rates = columns.pop("learning_rate")
    assert_allclose(rates, [0.001 * (1 + np.cos(np.pi * n / N_EPOCHS)) / 2 for n in range(N_EPOCHS)], rtol=1e-12)
    assert columns == {
        "epoch": list(range(1, N_EPOCHS + 1)),
        "loss": model.loss_curve_,
        "validation_loss": model.validation_loss_curve_,
        "validation_score": model.validation_scores_,
    }


# Early stopping ------------------------------------------------------------------------

SCORINGS = {
    MLPTorchClassifier: [None, "loss", "accuracy", "roc_auc_ovr", "neg_log_loss", "f1_macro"],
    MLPTorchRegressor: [None, "loss", "r2", "neg_mean_absolute_error"],
}
DATA = {MLPTorchClassifier: (X, Y), MLPTorchRegressor: (NUMBERS_X, NUMBERS)}


def held_out_rows(n_features, n_outputs, test_size):
    """Rows of a model with ``random_state=0``: it draws initial weights, then the split."""
    random_state = np.random.RandomState(0)
    initial_parameters([n_features, 8, 6, n_outputs], "relu", random_state)
    return train_test_split(np.arange(N_ROWS), random_state=random_state, test_size=test_size)


@pytest.mark.parametrize(
    ("make", "scoring", "weighted", "given"),
    [
        (make, *combination)
        for make, scorings in SCORINGS.items()
        for combination in pairwise(scorings, [False, True], [False, True])
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_early_stopping_keeps_the_epoch_with_the_best_score(make, scoring, weighted, given):
    params = {**PARAMS, "max_iter": 12, "n_iter_no_change": 3, "early_stopping": True, "learning_rate_init": 0.02}
    features, y = DATA[make]
    train, rest = held_out_rows(features.shape[1], 3 if make is MLPTorchClassifier else 1, test_size=0.4)
    weights = WEIGHTS if weighted else None
    if given:
        parts = [None if values is None else (values[train], values[rest]) for values in (features, y, weights)]
        (X_train, X_val), (y_train, y_val), weight_parts = parts
        weight_train, weight_val = (None, None) if weight_parts is None else weight_parts
        model = make(**params, scoring=scoring).fit(
            X_train, y_train, weight_train, X_val=X_val, y_val=y_val, sample_weight_val=weight_val
        )
    else:
        model = make(**params, scoring=scoring, validation_fraction=0.4).fit(features, y, weights)
    assert model.t_ == model.n_iter_ * len(train)
    kwargs = {} if weights is None else {"sample_weight": weights[rest]}
    if scoring == "loss":
        assert model.validation_scores_ == [-loss for loss in model.validation_loss_curve_]
        if make is MLPTorchClassifier:
            loss = log_loss(y[rest], model.predict_proba(features[rest]), **kwargs)
        else:
            loss = np.average((model.predict(features[rest]) - y[rest]) ** 2 / 2, weights=kwargs.get("sample_weight"))
        assert_allclose(model.best_validation_score_, -loss, rtol=1e-9)
    else:
        scorer = get_scorer(scoring or ("accuracy" if make is MLPTorchClassifier else "r2"))
        assert_allclose(model.best_validation_score_, scorer(model, features[rest], y[rest], **kwargs), rtol=1e-9)
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert model.best_n_iter_ == np.argmax(model.validation_scores_) + 1
    assert len(model.history_) == model.n_iter_


@pytest.mark.parametrize("early_stopping", [False, True])
def test_partial_fit_validates_as_fit_does(early_stopping):
    params = {**IN_ORDER, "early_stopping": early_stopping, "normalization": "batch", "learning_rate_init": 0.02}
    fitted = MLPTorchClassifier(**params).fit(X, Y, **VALIDATION)
    model = MLPTorchClassifier(**params)
    for _ in range(N_EPOCHS):
        model.partial_fit(X, Y, classes=[0, 1, 2], **VALIDATION)
    for name in (
        "loss_curve_",
        "validation_scores_",
        "validation_loss_curve_",
        "best_validation_score_",
        "best_n_iter_",
    ):
        assert getattr(model, name) == getattr(fitted, name)


# Scorers -------------------------------------------------------------------------------


def test_a_scorer_may_be_a_function():
    seen, scores, names = [], iter([0.1, 0.7, 0.3, 0.2]), np.array(["zero", "one", "two"])

    def scorer(estimator, X, y):
        seen.append((estimator.predict(X).tolist(), estimator.predict_proba(X), list(y)))
        return next(scores)

    features = {"normalization": "batch", "dropout": 0.2}
    model = MLPTorchClassifier(**PARAMS, **features, early_stopping=True, scoring=scorer)
    model.fit(X, names[Y], X_val=X_VAL, y_val=names[Y_VAL])
    assert (model.best_n_iter_, model.best_validation_score_) == (2, 0.7)
    assert model.validation_scores_ == [0.1, 0.7, 0.3, 0.2]
    for n_epochs, (predicted, probabilities, y) in enumerate(seen, start=1):
        then = MLPTorchClassifier(**{**PARAMS, "max_iter": n_epochs}, **features).fit(X, names[Y])
        assert predicted == then.predict(X_VAL).tolist()
        assert_allclose(probabilities, then.predict_proba(X_VAL), rtol=1e-12)
        assert y == list(names[Y_VAL])
    two = MLPTorchClassifier(**{**PARAMS, "max_iter": 2}, **features).fit(X, names[Y])
    assert_array_equal(model.predict_proba(X), two.predict_proba(X))


def test_a_scorer_sees_the_epoch_that_it_scores():
    seen = []

    def scorer(estimator, X, y):
        seen.append((estimator.n_iter_, len(estimator.loss_curve_), estimator.t_, len(estimator.history_)))
        return 0.0

    MLPTorchClassifier(**PARAMS, scoring=scorer).fit(X, Y, **VALIDATION)
    assert seen == [(n, n, n * N_ROWS, n) for n in range(1, N_EPOCHS + 1)]


def test_a_scorer_without_weights_may_score_weighted_rows():
    model = MLPTorchClassifier(**PARAMS, early_stopping=True, scoring=lambda estimator, X, y: 1.0)
    assert model.fit(X, Y, WEIGHTS).validation_scores_ == [1.0] * N_EPOCHS


@pytest.mark.parametrize("takes_weights", [False, True])
def test_a_scorer_gets_weights_if_it_takes_them(takes_weights):
    def metric(y, predicted, sample_weight=None):
        seen.append(sample_weight)
        return accuracy_score(y, predicted, sample_weight=sample_weight)

    seen = []
    scorer = make_scorer(metric if takes_weights else lambda y, predicted: metric(y, predicted))
    weights = WEIGHTS[: len(X_VAL)]
    MLPTorchClassifier(**PARAMS, scoring=scorer).fit(X, Y, **VALIDATION, sample_weight_val=weights)
    assert len(seen) == N_EPOCHS
    for given in seen:
        assert_array_equal(given, weights if takes_weights else None)


UNDEFINED = {
    "function": (lambda estimator, X, y: np.nan if estimator.n_iter_ == 3 else 0.5, "function .* at epoch 3"),
    "metric": (make_scorer(lambda y, predicted: np.nan), r"make_scorer\(.* at epoch 1"),
    "name": ("roc_auc", "'roc_auc' gives nan .* at epoch 1"),
}


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("name", UNDEFINED)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_a_score_of_nan_is_an_error(name, early_stopping):
    """roc_auc is not defined for rows of one class."""
    scoring, message = UNDEFINED[name]
    model, one_class = MLPTorchClassifier(**PARAMS, scoring=scoring, early_stopping=early_stopping), Y_VAL == 0
    with pytest.raises(ValueError, match=f"scoring=.*{message}.*Choose another score, or validation rows"):
        model.fit(X, Y > 0, X_val=X_VAL[one_class], y_val=Y_VAL[one_class] > 0)


def test_an_error_of_a_score_tells_how_it_was_called():
    model = MLPTorchClassifier(**PARAMS, scoring=lambda y_true, y_pred: 1.0)
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3") as raised:
        model.fit(X, Y, X_val=X_VAL, y_val=Y_VAL)
    assert raised.value.__notes__ == ["`scoring` was called as scoring(estimator, X, y) on the validation rows."]


@pytest.mark.parametrize("value", [None, [0.5], np.ones(2)], ids=str)
def test_a_score_is_a_number(value):
    def scorer(estimator, X, y):
        return value

    model = MLPTorchClassifier(**PARAMS)
    with pytest.raises(ValueError, match="scoring must return a number, got") as expected:
        cross_val_score(model, X, Y, scoring=scorer, cv=2, error_score="raise")
    with pytest.raises(ValueError, match="scoring must return a number, got") as raised:
        model.set_params(scoring=scorer).fit(X, Y, **VALIDATION)
    assert str(raised.value).partition(" (scorer=")[0] == str(expected.value).partition(" (scorer=")[0]


@pytest.mark.parametrize("value", [1, True, np.float32(1), np.array(1.0), torch.tensor(1.0)], ids=repr)
def test_a_score_is_any_kind_of_number(value):
    model = MLPTorchClassifier(**PARAMS, scoring=lambda estimator, X, y: value).fit(X, Y, **VALIDATION)
    assert model.validation_scores_ == [1.0] * N_EPOCHS


# Targets of another scale --------------------------------------------------------------


def transformed(**params):
    """A regressor whose y is transformed, and y_val not."""
    return TransformedTargetRegressor(MLPTorchRegressor(**PARAMS, **params), transformer=StandardScaler())


@pytest.mark.parametrize("early_stopping", [False, True])
def test_targets_of_validation_that_are_not_transformed_are_noticed(early_stopping):
    y = 50 * NUMBERS + 150
    model, n_train = transformed(early_stopping=early_stopping), 60
    X_val, y_val = NUMBERS_X[n_train:], y[n_train:]
    message = (
        r"Most of y_val is far outside of the range of y: it is in \[.*TransformedTargetRegressor.*y_val transformed"
    )
    with pytest.warns(UserWarning, match=message):
        model.fit(NUMBERS_X[:n_train], y[:n_train], X_val=X_val, y_val=y_val)
    scaler = StandardScaler().fit(y[:n_train, np.newaxis])
    model.fit(NUMBERS_X[:n_train], y[:n_train], X_val=X_val, y_val=scaler.transform(y_val[:, np.newaxis])[:, 0])
    transformed(early_stopping=True).fit(NUMBERS_X, y)  # the other way out


SECOND = np.array([0, 1000])
FAR = {
    "one column": (NUMBERS, NUMBERS + 100),
    "below": (NUMBERS, NUMBERS - 100),
    "one column of two": (TWO_NUMBERS, TWO_NUMBERS + SECOND),
    "a column in the range of another": (TWO_NUMBERS + SECOND, TWO_NUMBERS + 1000),
    "sparse": (sp.csr_array(TWO_NUMBERS), sp.csr_array(100 + TWO_NUMBERS)),
    "integers": (np.arange(N_ROWS, dtype=np.uint8), np.full(N_ROWS, 255, dtype=np.uint8)),
    "just so far": (np.linspace(0, 1, N_ROWS), np.full(N_ROWS, 2.001)),
}
NEAR = {
    "the same": (NUMBERS, NUMBERS),
    "wider": (NUMBERS, 2 * NUMBERS),
    "a few outliers": (NUMBERS, np.where(np.arange(N_ROWS) % 3 == 0, 1e6, NUMBERS)),
    "a constant": (np.ones(N_ROWS), np.full(N_ROWS, 2.0)),
    "sparse": (sp.csr_array(TWO_NUMBERS), sp.csr_array(TWO_NUMBERS)),
    "booleans": (NUMBERS > 0, NUMBERS > 1),
    "integers": (np.tile([-128, 127], 45).astype(np.int8), np.full(N_ROWS, 127, dtype=np.int8)),
    "just not so far": (np.linspace(0, 1, N_ROWS), np.full(N_ROWS, 1.999)),
}


@pytest.mark.parametrize("name", FAR)
def test_targets_of_validation_far_from_those_of_training(name):
    y, y_val = FAR[name]
    with pytest.warns(UserWarning, match="Most of y_val is far outside of the range of y"):
        MLPTorchRegressor(**PARAMS).fit(NUMBERS_X, y, X_val=NUMBERS_X, y_val=y_val)


@pytest.mark.parametrize("name", NEAR)
def test_targets_of_validation_near_those_of_training(name):
    y, y_val = NEAR[name]
    MLPTorchRegressor(**PARAMS).fit(NUMBERS_X, y, X_val=NUMBERS_X, y_val=y_val)  # a warning would be an error


def test_targets_of_a_part_of_the_data_say_nothing_of_their_range():
    first = np.argsort(NUMBERS)[:3]
    MLPTorchRegressor(**PARAMS | {"batch_size": 3}).partial_fit(
        NUMBERS_X[first], NUMBERS[first], X_val=NUMBERS_X, y_val=NUMBERS
    )


# Class weights -------------------------------------------------------------------------


def test_validation_rows_have_the_class_weights_of_training():
    few = Y_VAL < 2
    model = MLPTorchClassifier(**PARAMS, class_weight="balanced").fit(X, Y, X_val=X_VAL[few], y_val=Y_VAL[few])
    by_class = compute_class_weight("balanced", classes=np.arange(3), y=Y)
    row_losses = -np.log(model.predict_proba(X_VAL[few])[np.arange(few.sum()), Y_VAL[few]])
    expected = np.average(row_losses, weights=by_class[Y_VAL[few]])
    assert_allclose(model.validation_loss_curve_[-1], expected, rtol=1e-9)


def test_accuracy_does_not_know_of_class_weights():
    models = [
        MLPTorchClassifier(**PARAMS, class_weight={0: 1.0, 1: 30.0, 2: 1.0}, scoring=scoring).fit(X, Y, **VALIDATION)
        for scoring in (None, "accuracy")
    ]
    assert_allclose(*(model.validation_scores_ for model in models))
    assert models[0].validation_scores_[-1] == accuracy_score(Y_VAL, models[0].predict(X_VAL))


# Pipelines -----------------------------------------------------------------------------


def test_pipelines_transform_validation_rows_when_told_to():
    # Rows in another unit than those of training make a trap of untransformed ones.
    features, validation = 100 * X + 7, 100 * X_VAL + 7
    scaler = StandardScaler().fit(features)
    scaled = scaler.transform(features)
    expected = MLPTorchClassifier(**PARAMS).fit(scaled, Y, X_val=scaler.transform(validation), y_val=Y_VAL)
    trapped = MLPTorchClassifier(**PARAMS).fit(scaled, Y, X_val=validation, y_val=Y_VAL)
    with sklearn.config_context(enable_metadata_routing=True):
        routed = MLPTorchClassifier(**PARAMS).set_fit_request(X_val=True, y_val=True)
        for transform_input, model in ((["X_val"], expected), (None, trapped)):
            pipeline = make_pipeline(StandardScaler(), clone(routed), transform_input=transform_input)
            pipeline.fit(features, Y, X_val=validation, y_val=Y_VAL)
            assert_allclose(pipeline[-1].validation_loss_curve_, model.validation_loss_curve_, rtol=1e-9)
        pipeline = make_pipeline(StandardScaler(), clone(routed), transform_input=["X_val"])
        search = GridSearchCV(pipeline, {"mlptorchclassifier__alpha": [0.0, 1.0]}, cv=2)
        best = search.fit(features, Y, X_val=validation, y_val=Y_VAL).best_estimator_
        assert len(best[-1].validation_scores_) == N_EPOCHS
    assert not np.allclose(trapped.validation_loss_curve_, expected.validation_loss_curve_)
