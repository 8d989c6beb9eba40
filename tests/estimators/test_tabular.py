"""The estimators for raw tables: what they promise, against ensembles made by hand and against scikit-learn."""

import copy
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import torch
from sklearn.base import clone
from sklearn.datasets import make_multilabel_classification
from sklearn.exceptions import NotFittedError
from sklearn.inspection import PartialDependenceDisplay, permutation_importance
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sktorch_mlp import TabularMLPClassifier, TabularMLPRegressor
from sktorch_mlp._estimators import candidates, table_data
from sktorch_mlp._estimators.inputs import Inputs
from tests.estimators.tables import SMALL, numbers, table
from tests.marks import needs_bfloat16


@pytest.fixture(scope="module")
def fitted():
    return TabularMLPClassifier(**SMALL).fit(*table())


# The ensemble ---------------------------------------------------------------------


@pytest.mark.parametrize("embedding", ["auto", "piecewise_linear", "periodic", None])
def test_the_stack_equals_networks_trained_alone(embedding, monkeypatch):
    X, y = table()
    model = TabularMLPClassifier(**SMALL | {"n_estimators": 4, "dtype": "float64", "numerical_embedding": embedding})
    stack = clone(model).fit(X, y)
    monkeypatch.setattr(candidates.Candidate, "stacks", lambda self: [[fit] for fit in self.fits])
    alone = clone(model).fit(X, y)
    np.testing.assert_allclose(stack.predict_proba(X), alone.predict_proba(X), rtol=1e-9)
    assert [r["loss"] for r in stack.history_] == pytest.approx([r["loss"] for r in alone.history_], rel=1e-9)


def test_the_ensemble_is_the_average_of_its_members(fitted):
    X, _ = table(seed=1)
    probabilities = [member.predict_proba(X) for member in fitted.estimators_]
    assert len(probabilities) == 3
    np.testing.assert_allclose(fitted.predict_proba(X), np.mean(probabilities, axis=0), rtol=1e-5, atol=1e-7)
    assert np.ptp(probabilities, axis=0).max() > 0.01  # they differ
    np.testing.assert_array_equal(fitted.estimator_weights_, np.full(3, 1 / 3))


def test_some_members_have_waves_in_place_of_bins():
    X, y = table()
    model = TabularMLPClassifier(**SMALL | {"n_estimators": 8}).fit(X, y)
    embeddings = [member.numerical_embedding for member in model.estimators_]
    assert embeddings == ["piecewise_linear"] * 4 + ["periodic"] * 4
    assert len(model._ensemble.stacks) == 2
    probabilities = [member.predict_proba(X) for member in model.estimators_]
    np.testing.assert_allclose(model.predict_proba(X), np.mean(probabilities, axis=0), rtol=1e-5, atol=1e-7)
    assert not np.isnan(model.oof_prediction_).any()
    for k, member in enumerate(model.estimators_):
        assert [r["estimator"] for r in member.history_] == [k] * member.n_iter_
    without_numbers = TabularMLPClassifier(**SMALL | {"n_estimators": 8}).fit(X[["color", "flag"]], y)
    assert len(without_numbers._ensemble.stacks) == 1


def test_members_share_the_memory_of_the_stack(fitted):
    flat = [parameters for stack in fitted._ensemble.stacks for parameters in stack.flat]
    for member, parameters in zip(fitted.estimators_, flat, strict=True):
        assert np.shares_memory(member._ensemble.stacks[0].flat, parameters)
    assert member.n_estimators == len(member.estimators_) == 1


def test_predictions_are_those_of_the_last_validation(trained):
    """What training saw of the held-out rows is what the fitted members predict, factors of bins included."""
    X, y = table()
    model = TabularMLPClassifier(**SMALL | {"dtype": "float64"}).fit(X, y)
    for member, fit in zip(model.estimators_, trained[0].fits, strict=True):
        (rows,) = fit.data.validation.indices
        loss = log_loss(y[rows], member.predict_proba(X.iloc[rows]), labels=model.classes_)
        best = fit.progress.validation_losses[fit.progress.best_n_iter - 1]
        assert loss == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("n_rows", [1, 63, 64, 65, 1000])
def test_the_number_of_rows_changes_no_prediction(fitted, n_rows):
    X, _ = table(1000)
    np.testing.assert_allclose(fitted.predict_proba(X[:n_rows]), fitted.predict_proba(X)[:n_rows], rtol=1e-5)


def test_large_predictions_by_helpers_are_those_of_one_thread(monkeypatch):
    X, y = numbers()
    model = TabularMLPRegressor(**SMALL | {"hidden_layer_sizes": (256,)}).fit(X, y)
    rows = np.tile(X, (200, 1))
    shared = model.predict(rows)
    monkeypatch.setattr("sktorch_mlp._estimators.blocks.available_threads", lambda: 1)
    np.testing.assert_array_equal(model.predict(rows), shared)


# Tables ------------------------------------------------------------------------------


def test_a_frame_of_any_library_gives_the_same_model(fitted):
    import polars as pl
    import pyarrow as pa

    X, y = table()
    expected = fitted.predict_proba(X)
    plain = X.assign(color=X["color"].astype("string"))
    for frame in (plain, pl.from_pandas(plain), pa.Table.from_pandas(plain), pa.Table.from_pandas(X)):
        model = TabularMLPClassifier(**SMALL).fit(frame, y)
        np.testing.assert_allclose(model.predict_proba(frame), expected, rtol=1e-5)


def test_unknown_categories_are_as_missing_ones(fitted):
    X, _ = table()
    unknown = X.assign(color="violet")
    np.testing.assert_array_equal(fitted.predict_proba(unknown), fitted.predict_proba(X.assign(color=None)))


def test_columns_without_information_change_nothing():
    X, y = table()
    more = X.assign(one=1.0, none=np.nan, word="same")
    model = TabularMLPClassifier(**SMALL).fit(more, y)
    np.testing.assert_array_equal(model.predict_proba(more), TabularMLPClassifier(**SMALL).fit(X, y).predict_proba(X))


def test_a_table_of_constants_predicts_the_shares_of_the_classes():
    y = ["a"] * 30 + ["b"] * 10
    model = TabularMLPClassifier(**SMALL | {"max_iter": 1}).fit(np.ones((40, 2)), y)
    np.testing.assert_allclose(model.predict_proba(np.ones((1, 2))), [[0.75, 0.25]], atol=0.15)


def test_sparse_rows_are_never_dense():
    X, y = numbers()
    wide = sp.hstack([sp.csr_array(X), sp.csr_array((len(X), 2_000_000))]).tocsr()
    model = TabularMLPRegressor(**SMALL | {"hidden_layer_sizes": (2,), "max_iter": 1, "n_estimators": 1}).fit(wide, y)
    assert model.predict(wide).shape == y.shape


def test_sparse_rows_predict_as_dense_ones():
    X, y = numbers()
    model = TabularMLPRegressor(**SMALL).fit(sp.csr_array(X), y)
    np.testing.assert_allclose(model.predict(X), model.predict(sp.csc_matrix(X)), rtol=1e-5)
    assert np.ptp(model.predict(X)) > 0


@pytest.mark.parametrize(
    "params",
    [
        {"numerical_embedding": "periodic"},
        {"categorical_features": [0]},
        {"hyperparameters": {"n_bins": [8]}},
    ],
)
def test_a_setting_without_effect_on_sparse_rows_is_an_error(params):
    X, y = numbers()
    with pytest.raises(ValueError, match=f"{next(iter(params))}=.* has no effect on sparse X"):
        TabularMLPRegressor(**SMALL | params).fit(sp.csr_array(X), y)


@pytest.mark.parametrize("as_table", [np.asarray, pd.DataFrame])
def test_missing_values_are_an_error_after_a_fit_on_sparse_rows(as_table):
    X, y = numbers()
    model = TabularMLPRegressor(**SMALL).fit(sp.csr_array(X), y)
    np.testing.assert_allclose(model.predict(as_table(X)), model.predict(sp.csr_array(X)), rtol=1e-5)
    X[3, 1] = np.nan
    with pytest.raises(ValueError, match="Input X contains NaN"):
        model.predict(as_table(X))
    with pytest.raises(ValueError, match=r"X_val.*Input X contains NaN"):
        model.fit(sp.csr_array(X[:2]), y[:2], X_val=as_table(X), y_val=y)
    with pytest.raises(ValueError, match="could not convert string to float"):
        model.predict(as_table([["a"] * X.shape[1]]))


def test_what_is_not_in_memory_or_sparse_is_named():
    X, y = table()
    with pytest.raises(TypeError, match=r"X is a LazyFrame.*X\.collect"):
        TabularMLPClassifier(**SMALL).fit(pl.from_pandas(X).lazy(), y)
    with pytest.raises(TypeError, match=r"Sparse y was passed.*y\.toarray"):
        TabularMLPClassifier(**SMALL).fit(X, sp.csr_array(np.eye(len(X))[:, :2]))


def test_a_list_of_rows_is_the_table_that_objects_are():
    x = np.random.default_rng(0).normal(size=60)
    rows = [[value, "ab"[i % 2], None if i % 7 == 0 else np.nan if i % 5 == 0 else "c"] for i, value in enumerate(x)]
    model, expected = (TabularMLPRegressor(**SMALL).fit(X, x) for X in (rows, np.array(rows, object)))
    assert len(model._encoder.numbers) == 1
    np.testing.assert_array_equal(model.predict(rows), expected.predict(np.array(rows, object)))
    np.testing.assert_array_equal(model.predict(tuple(rows[:3])), expected.predict(pd.DataFrame(rows[:3])))


def test_bools_and_numbers_beside_strings_are_levels_of_their_own():
    column = pd.Series([True, "a", 1, 0, False, np.True_] * 20, dtype=object)
    y = np.array(list("pqrstp") * 20)
    model = TabularMLPClassifier(**SMALL | {"max_iter": 2}).fit(pd.DataFrame({"s": column}), y)
    assert model._encoder.categories[0].levels == ("0", "1", "False", "True", "a")
    frame = pd.DataFrame({"s": column[:6]})
    alone = np.vstack([model.predict_proba(frame[i : i + 1]) for i in range(6)])
    np.testing.assert_allclose(model.predict_proba(frame), alone, rtol=1e-6)
    np.testing.assert_allclose(model.predict_proba(frame[::-1]), alone[::-1], rtol=1e-6)


def test_many_columns_have_few_bins():
    rng = np.random.RandomState(0)
    X = rng.randn(500, 1000)
    n_bins = {}
    for embedding in ("auto", "piecewise_linear"):
        model = TabularMLPRegressor(**SMALL | {"max_iter": 1, "numerical_embedding": embedding}).fit(X, X[:, 0])
        n_bins[embedding] = model._ensemble.stacks[0].spec.embedding.n_bins
    assert n_bins == {"auto": 0, "piecewise_linear": 4000}


def test_waves_have_bins_beside_them_where_one_value_fills_most_rows():
    X, y = table()
    X["gain"] = np.where(np.arange(len(X)) % 5 == 0, np.arange(len(X)), 0)
    model = TabularMLPClassifier(**SMALL, numerical_embedding="periodic").fit(X, y)
    embedding = model._ensemble.stacks[0].spec.embedding
    assert [len(edges) for edges in embedding.edges] == [0, 0, 0, 17]
    assert embedding.n_frequencies == 16
    assert model.estimators_[0].numerical_embedding == "periodic"


def test_missing_numbers_have_an_indicator_where_fit_saw_them(fitted):
    assert fitted._ensemble.stacks[0].spec.embedding.indicated == (0,)


def test_numbers_that_are_missing_in_prediction_alone_are_as_the_median():
    X, y = numbers()
    model = TabularMLPRegressor(**SMALL).fit(X, y)
    missing, median = X[:5].copy(), X[:5].copy()
    missing[:, 2], median[:, 2] = np.nan, np.median(X[:, 2])
    np.testing.assert_allclose(model.predict(missing), model.predict(median), rtol=1e-5)


def test_a_column_that_cannot_be_used_is_named():
    X, y = table()
    with pytest.raises(TypeError, match=r"'when'.*TableVectorizer"):
        TabularMLPClassifier().fit(X.assign(when=pd.Timestamp("2026-01-01")), y)
    text = [f"the review of customer {i}" for i in range(len(X))]
    with pytest.raises(ValueError, match=r"'text' of X contains free text.*TableVectorizer"):
        TabularMLPClassifier().fit(X.assign(text=text), y)


def test_categorical_features_are_those_asked_for():
    X, y = table()
    model = TabularMLPClassifier(**SMALL, categorical_features=["color", "count"]).fit(X, y)
    assert model._ensemble.stacks[0].spec.embedding.n_levels == (3, 4)
    with pytest.raises(ValueError, match="'weight' which is not a valid feature name"):
        TabularMLPClassifier(categorical_features=["weight"]).fit(X, y)


def test_names_of_columns_are_checked(fitted):
    X, _ = table()
    np.testing.assert_array_equal(fitted.feature_names_in_, X.columns)
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.predict(X.rename(columns={"size": "weight"}))


# Targets and weights ---------------------------------------------------------------


def test_the_unit_of_a_regression_does_not_matter():
    X, y = numbers()
    model = TabularMLPRegressor(**SMALL | {"dtype": "float64"})
    expected = clone(model).fit(X, y).predict(X)
    np.testing.assert_allclose(clone(model).fit(X, 1e9 + 1e-3 * y).predict(X), 1e9 + 1e-3 * expected, rtol=1e-12)


@pytest.mark.parametrize("y", [np.full(120, 7.0), np.full((120, 2), 7.0), np.full(120, 1e300)])
def test_constant_targets_are_predicted(y):
    X, _ = numbers()
    model = TabularMLPRegressor(**SMALL).fit(X, y)
    assert model.predict(X).shape == y.shape
    np.testing.assert_array_equal(model.predict(X), y)


def test_several_targets_are_learned_at_once():
    X, y = numbers()
    model = TabularMLPRegressor(**SMALL | {"max_iter": 40, "hidden_layer_sizes": (64,)}).fit(X, np.c_[y, 1e6 * X[:, 2]])
    correlations = [np.corrcoef(model.predict(X)[:, i], target)[0, 1] for i, target in enumerate([y, X[:, 2]])]
    assert min(correlations) > 0.7


def test_labels_of_several_outputs():
    X, y = make_multilabel_classification(100, random_state=0)
    model = TabularMLPClassifier(**SMALL).fit(X, y)
    assert model.predict(X).shape == model.predict_proba(X).shape == model.oof_prediction_.shape == y.shape
    np.testing.assert_array_equal(model.predict(X), model.predict_proba(X) > 0.5)


def test_rows_of_weight_zero_are_as_if_they_were_not_there():
    X, y = table()
    weights = np.arange(len(X)) % 3.0
    model = TabularMLPClassifier(**SMALL)
    kept = weights > 0
    weighted = clone(model).fit(X, y, weights)
    assert weighted.oof_prediction_.shape == (len(X), 3)
    assert np.isnan(weighted.oof_prediction_[~kept]).all()
    np.testing.assert_array_equal(
        weighted.predict_proba(X), clone(model).fit(X[kept], y[kept], weights[kept]).predict_proba(X)
    )
    with pytest.raises(ValueError, match="non-zero"):
        model.fit(X, y, np.zeros(len(X)))


def test_a_frame_without_columns_is_an_error():
    X, y = table()
    with pytest.raises(ValueError, match=r"0 feature\(s\) \(shape=\(150, 0\)\).* required by TabularMLPClassifier"):
        TabularMLPClassifier(**SMALL).fit(X[[]], y)


def test_weights_of_classes_are_weights_of_rows():
    X, y = table()
    by_class = TabularMLPClassifier(**SMALL, class_weight={"high": 3.0}).fit(X, y)
    by_row = TabularMLPClassifier(**SMALL).fit(X, y, np.where(y == "high", 3.0, 1.0))
    np.testing.assert_allclose(by_class.predict_proba(X), by_row.predict_proba(X), rtol=1e-6)
    plain = TabularMLPClassifier(**SMALL).fit(X, y)
    assert by_class.predict_proba(X)[:, 0].mean() > plain.predict_proba(X)[:, 0].mean() + 0.05


def test_outputs_begin_at_the_shares_of_the_classes(trained):
    X, y = table()
    TabularMLPClassifier(**SMALL | {"max_iter": 1}).fit(X, y)
    shares = np.array([np.mean(y == label) for label in np.unique(y)])
    np.testing.assert_allclose(trained[0].fits[0].network.spec.layer_units[-1], 3)
    bias = trained_data(X, y).out_bias
    np.testing.assert_allclose(np.exp(bias), shares)


def trained_data(X, y):
    """Data of a fit on these labels."""
    targets = TabularMLPClassifier()._make_targets(y)
    columns = np.zeros((len(y), 1), dtype=np.float32)
    takes_part = np.ones(len(y), dtype=bool)
    return table_data.TableData(Inputs(columns, y), Inputs(), targets, torch.device("cpu"), columns.dtype, takes_part)


# scikit-learn ------------------------------------------------------------------------


def test_tools_of_sklearn_take_raw_frames(fitted):
    X, y = table()
    importances = permutation_importance(fitted, X, y, n_repeats=2, random_state=0).importances_mean
    assert importances.shape == (5,)
    PartialDependenceDisplay.from_estimator(fitted, X, ["height"], target="high", grid_resolution=5)
    scores = cross_validate(TabularMLPClassifier(**SMALL), X, y, cv=2, params={"sample_weight": np.ones(len(X))})
    assert scores["test_score"].shape == (2,)
    pipeline = make_pipeline(FunctionTransformer(), TabularMLPClassifier(**SMALL))
    search = GridSearchCV(pipeline, {"tabularmlpclassifier__n_estimators": [1, 2]}, cv=2).fit(X, y)
    assert search.predict(X).shape == y.shape


def test_the_same_random_state_gives_the_same_model(fitted):
    X, y = table()
    np.testing.assert_array_equal(clone(fitted).fit(X, y).predict_proba(X), fitted.predict_proba(X))
    other = clone(fitted).set_params(random_state=1).fit(X, y)
    assert np.abs(other.predict_proba(X) - fitted.predict_proba(X)).max() > 1e-3


def test_a_pickle_predicts_the_same_and_has_the_weights_once(fitted):
    X, _ = table()
    fitted.predict(X)  # makes what is not pickled
    dumped = pickle.dumps(fitted)
    np.testing.assert_array_equal(pickle.loads(dumped).predict_proba(X), fitted.predict_proba(X))
    model = TabularMLPClassifier(**SMALL | {"hidden_layer_sizes": (256, 256)}).fit(*table())
    assert len(pickle.dumps(model)) < 1.2 * sum(stack.flat.nbytes for stack in model._ensemble.stacks)


def test_a_failing_fit_leaves_a_fitted_model(fitted):
    X, y = table()
    model = copy.deepcopy(fitted)
    with pytest.raises(ValueError, match="infinity"):
        model.fit(X.assign(size=np.inf), y)
    np.testing.assert_array_equal(model.predict_proba(X), fitted.predict_proba(X))


def test_an_unfitted_model_says_so():
    with pytest.raises(NotFittedError):
        TabularMLPClassifier().predict(table()[0])
    with pytest.raises(NotFittedError):
        _ = TabularMLPRegressor().estimators_


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-3), pytest.param("bfloat16", 0.2, marks=needs_bfloat16)]
)
def test_low_precision_is_close_to_float64(dtype, tolerance):
    X, y = numbers()
    expected, predicted = (
        TabularMLPRegressor(**SMALL | {"dtype": dtype}).fit(X, y).predict(X) for dtype in ("float64", dtype)
    )
    assert np.sqrt(mean_squared_error(expected, predicted)) < tolerance * expected.std()


def test_an_ensemble_without_hidden_layers_is_linear():
    X, y = numbers()
    model = TabularMLPRegressor(
        **SMALL | {"hidden_layer_sizes": (), "numerical_embedding": None, "dtype": "float64"}
    ).fit(X, y)
    middle = model.predict((X[:1] + X[1:2]) / 2)
    near_linear = model.predict(X[:2]).mean()
    assert middle == pytest.approx(near_linear, rel=0.05)  # but for the smooth clip
