"""The estimators inside scikit-learn's other tools, beside scikit-learn's own MLP in the same tools."""

import joblib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.inspection import PartialDependenceDisplay, permutation_importance
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    LearningCurveDisplay,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_validate,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier, MultiOutputRegressor, RegressorChain
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor
from tests.estimators.helpers import weights_of

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SMALL = {"hidden_layer_sizes": (8,), "max_iter": 12, "batch_size": 32, "random_state": 0}

# Both compute in float64 and differ in the order of sums; a dozen epochs leave about 1e-14 of it.
RTOL = 1e-10

iris_X, iris_y = load_iris(return_X_y=True)
binary_X, binary_y = (part[:200] for part in load_breast_cancer(return_X_y=True))
diabetes_X, diabetes_y = (part[:150] for part in load_diabetes(return_X_y=True))
diabetes_y = diabetes_y / 100
two_targets = np.column_stack([diabetes_y, diabetes_X[:, 2] * 10])
multilabel_y = np.column_stack([iris_y == 0, iris_X[:, 0] > 5.8, iris_X[:, 1] > 3]).astype(int)
iris_weight = np.random.RandomState(0).uniform(0.1, 3, len(iris_y))


def classifiers(**parameters):
    """Our classifier and scikit-learn's with the same parameters."""
    return MLPTorchClassifier(**SMALL | parameters), MLPClassifier(**SMALL | parameters)


def regressors(**parameters):
    """Our regressor and scikit-learn's with the same parameters."""
    return MLPTorchRegressor(**SMALL | parameters), MLPRegressor(**SMALL | parameters)


def scaled(estimator):
    """The estimator behind a StandardScaler, as its last step "mlp"."""
    return make_pipeline(StandardScaler(), estimator)


# Searches and cross-validation ---------------------------------------------------------

GRID = {"alpha": [1e-5, 10.0], "learning_rate_init": [1e-3, 1e-1]}
SEARCHES = {
    "grid": lambda estimator: GridSearchCV(estimator, GRID | {"solver": ["adam", "sgd"]}, cv=3),
    "grid over shapes": lambda estimator: GridSearchCV(
        estimator,
        [{"hidden_layer_sizes": [(4,), (8, 4), 3]}, {"activation": ["tanh", "logistic"], "solver": ["lbfgs"]}],
        cv=3,
        return_train_score=True,
    ),
    "grid of two scores": lambda estimator: GridSearchCV(
        estimator, GRID, cv=2, scoring=["accuracy", "balanced_accuracy"], refit="balanced_accuracy"
    ),
    "randomized": lambda estimator: RandomizedSearchCV(estimator, GRID, n_iter=3, cv=2, random_state=0),
    "halving": lambda estimator: HalvingGridSearchCV(estimator, GRID, cv=2, factor=2, random_state=0),
    "halving over max_iter": lambda estimator: HalvingGridSearchCV(
        estimator, GRID, cv=2, factor=2, resource="max_iter", min_resources=3, max_resources=12, random_state=0
    ),
}


def assert_same_scores(search, reference):
    """Check that two fitted searches came to the same scores and ranks."""
    scores = [name for name in reference.cv_results_ if "test_" in name]
    assert len(scores) > 3
    for name in scores:  # accuracies are fractions of the same counts, so exactly equal
        assert_array_equal(search.cv_results_[name], reference.cv_results_[name], err_msg=name)
    assert_allclose(search.predict_proba(iris_X), reference.predict_proba(iris_X), rtol=RTOL)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search(name):
    search, reference = (SEARCHES[name](est).fit(iris_X, iris_y) for est in classifiers(batch_size=16))
    assert search.cv_results_["params"] == reference.cv_results_["params"]
    assert_same_scores(search, reference)
    assert search.best_params_ == reference.best_params_
    assert search.best_score_ == reference.best_score_


def search_of_a_pipeline(estimator, n_jobs=None):
    """A fitted search over the parameters of a step of a pipeline."""
    grid = {f"{type(estimator).__name__.lower()}__{name}": values for name, values in GRID.items()}
    return GridSearchCV(scaled(estimator), grid, cv=3, n_jobs=n_jobs).fit(iris_X, iris_y)


def test_a_search_over_a_pipeline():
    search, reference = map(search_of_a_pipeline, classifiers())
    candidates = ([list(p.values()) for p in s.cv_results_["params"]] for s in (search, reference))
    assert next(candidates) == next(candidates)
    assert_same_scores(search, reference)
    assert list(search.best_params_.values()) == list(reference.best_params_.values())


def test_cross_validate():
    scoring = ["neg_log_loss", "accuracy"]
    results, expected = (
        cross_validate(scaled(estimator), iris_X, iris_y, cv=3, scoring=scoring, return_train_score=True)
        for estimator in classifiers()
    )
    scores = [name for name in expected if name.startswith(("test_", "train_"))]
    assert len(scores) == 4
    for name in scores:
        assert_allclose(results[name], expected[name], rtol=RTOL, err_msg=name)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba"])
def test_cross_val_predict(method):
    result, expected = (cross_val_predict(scaled(est), iris_X, iris_y, cv=3, method=method) for est in classifiers())
    assert_allclose(result, expected, rtol=RTOL)


# Estimators made of estimators ---------------------------------------------------------

META_CLASSIFIERS = {
    "pipeline": (scaled, binary_y),
    "calibrated": (lambda est: CalibratedClassifierCV(scaled(est), cv=2), binary_y),
    "voting": (
        lambda est: VotingClassifier(
            [("mlp", scaled(est)), ("linear", scaled(LogisticRegression()))], voting="soft", weights=[2, 1]
        ),
        binary_y,
    ),
    "stacking": (
        lambda est: StackingClassifier([("mlp", scaled(est)), ("linear", scaled(LogisticRegression()))], cv=2),
        binary_y,
    ),
    "bagging": (lambda est: BaggingClassifier(scaled(est), n_estimators=3, random_state=0), binary_y),
    "bagging of features": (
        lambda est: BaggingClassifier(scaled(est), n_estimators=3, max_features=0.5, random_state=0),
        binary_y,
    ),
    "one against rest": (OneVsRestClassifier, iris_y),
    "multioutput": (MultiOutputClassifier, multilabel_y),
    "chain": (ClassifierChain, multilabel_y),
    "tuned threshold": (lambda est: TunedThresholdClassifierCV(scaled(est), cv=2, thresholds=20), binary_y),
}


@pytest.mark.parametrize("name", META_CLASSIFIERS)
def test_a_meta_classifier(name):
    meta, y = META_CLASSIFIERS[name]
    X = binary_X if y is binary_y else iris_X
    model, reference = (meta(estimator).fit(X, y) for estimator in classifiers())
    assert_array_equal(model.predict(X), reference.predict(X))
    assert_allclose(model.predict_proba(X), reference.predict_proba(X), rtol=RTOL)
    if isinstance(reference, TunedThresholdClassifierCV):
        assert_allclose(model.best_threshold_, reference.best_threshold_, rtol=RTOL)
        assert model.best_score_ == reference.best_score_


META_REGRESSORS = {
    "pipeline": (scaled, diabetes_y),
    "transformed target": (lambda est: TransformedTargetRegressor(est, transformer=StandardScaler()), diabetes_y),
    "transformed targets": (
        lambda est: TransformedTargetRegressor(est, func=np.cbrt, inverse_func=np.exp2),
        two_targets,
    ),
    "voting": (lambda est: VotingRegressor([("mlp", est), ("linear", LinearRegression())]), diabetes_y),
    "stacking": (lambda est: StackingRegressor([("mlp", est), ("linear", LinearRegression())], cv=2), diabetes_y),
    "bagging": (lambda est: BaggingRegressor(est, n_estimators=3, random_state=0), diabetes_y),
    "multioutput": (MultiOutputRegressor, two_targets),
    "chain": (RegressorChain, two_targets),
}


@pytest.mark.filterwarnings("ignore:The provided functions.*inverse:UserWarning")
@pytest.mark.parametrize("name", META_REGRESSORS)
def test_a_meta_regressor(name):
    meta, y = META_REGRESSORS[name]
    model, reference = (meta(estimator).fit(diabetes_X, y) for estimator in regressors())
    assert_allclose(model.predict(diabetes_X), reference.predict(diabetes_X), rtol=RTOL)
    assert_allclose(model.score(diabetes_X, y), reference.score(diabetes_X, y), rtol=RTOL)


# Inspection and plots ------------------------------------------------------------------


def test_permutation_importance():
    result, expected = (
        permutation_importance(estimator.fit(iris_X, iris_y), iris_X, iris_y, n_repeats=3, random_state=0)
        for estimator in classifiers(learning_rate_init=0.05)
    )
    assert_array_equal(result.importances, expected.importances)
    assert np.ptp(result.importances_mean) > 0.1


@pytest.fixture
def figures():
    """Close all figures after the test; conftest.py has them drawn in memory."""
    yield
    plt.close("all")


def test_partial_dependence_display(figures):
    displays = [
        PartialDependenceDisplay.from_estimator(
            estimator.fit(iris_X, iris_y), iris_X, features=[2, (2, 3)], target=1, grid_resolution=5
        )
        for estimator in classifiers(learning_rate_init=0.05)
    ]
    for result, expected in zip(*(display.pd_results for display in displays), strict=True):
        assert_allclose(result["average"], expected["average"], rtol=RTOL)


def test_learning_curve_display(figures):
    display, expected = (
        LearningCurveDisplay.from_estimator(estimator, iris_X, iris_y, cv=2, shuffle=True, random_state=0)
        for estimator in classifiers(learning_rate_init=0.05, batch_size=5)
    )
    assert_array_equal(display.train_sizes, expected.train_sizes)
    assert_array_equal(display.train_scores, expected.train_scores)
    assert_array_equal(display.test_scores, expected.test_scores)


# Metadata routing ----------------------------------------------------------------------


def test_sample_weights_are_routed_through_a_search_over_a_pipeline():
    with config_context(enable_metadata_routing=True):
        searches = []
        for estimator in classifiers():
            estimator.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
            pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), estimator)
            grid = {f"{pipeline.steps[-1][0]}__alpha": [1e-5, 10.0]}
            search = GridSearchCV(pipeline, grid, cv=2)
            searches.append(search.fit(iris_X, iris_y, sample_weight=iris_weight))
        search, reference = searches
        # Weighted accuracies are quotients of sums of weights: the same to rounding.
        for name in ("split0_test_score", "split1_test_score"):
            assert_allclose(search.cv_results_[name], reference.cv_results_[name], rtol=RTOL)
        assert_allclose(search.predict_proba(iris_X), reference.predict_proba(iris_X), rtol=RTOL)
        unweighted = clone(search).fit(iris_X, iris_y)
    assert not np.allclose(unweighted.predict_proba(iris_X), search.predict_proba(iris_X))


def test_routed_partial_fit():
    with config_context(enable_metadata_routing=True):
        results = []
        for estimator in classifiers():
            meta = MultiOutputClassifier(estimator.set_partial_fit_request(sample_weight=True))
            for _ in range(3):
                meta.partial_fit(iris_X, multilabel_y, classes=[[0, 1]] * 3, sample_weight=iris_weight)
            results.append(np.stack(meta.predict_proba(iris_X)))
        assert_allclose(*results, rtol=RTOL)
        by_hand = classifiers()[0]
        for _ in range(3):
            by_hand.partial_fit(iris_X, multilabel_y[:, 0], iris_weight, classes=[0, 1])
    assert_array_equal(results[0][0], by_hand.predict_proba(iris_X))


WEIGHTED_CALLS = {
    "fit": lambda est: GridSearchCV(est, GRID, cv=2).fit(iris_X, iris_y, sample_weight=iris_weight),
    "score": lambda est: cross_validate(
        est.set_fit_request(sample_weight=True), iris_X, iris_y, cv=2, params={"sample_weight": iris_weight}
    ),
    "partial_fit": lambda est: MultiOutputClassifier(est).partial_fit(
        iris_X, multilabel_y, classes=[[0, 1]] * 3, sample_weight=iris_weight
    ),
}


@pytest.mark.parametrize("method", WEIGHTED_CALLS)
def test_unrequested_sample_weights_are_refused(method):
    for estimator in classifiers():
        refused = pytest.raises(UnsetMetadataPassedError, match=f"sample_weight.*Classifier.{method}")
        with config_context(enable_metadata_routing=True), refused:
            WEIGHTED_CALLS[method](estimator)


# Threads and processes -----------------------------------------------------------------


# Below and above the size from which a fit takes more than one thread.
@pytest.mark.parametrize("hidden_layer_sizes", [(8,), (1500,)], ids=str)
def test_fits_in_threads(two_torch_threads, hidden_layer_sizes):
    estimator = MLPTorchClassifier(**SMALL | {"hidden_layer_sizes": hidden_layer_sizes, "max_iter": 2})
    X = np.hstack([binary_X] * 4) / 1000  # 120 features
    ensemble = BaggingClassifier(estimator.set_params(batch_size=100), n_estimators=6, random_state=0)
    alone = clone(ensemble).fit(X, binary_y)
    assert torch.get_num_threads() == 2
    with joblib.parallel_backend("threading", n_jobs=2):
        together = clone(ensemble).set_params(n_jobs=2).fit(X, binary_y)
        proba = joblib.Parallel()(joblib.delayed(member.predict_proba)(X) for member in together.estimators_)
    assert torch.get_num_threads() == 2
    for member, expected in zip(together.estimators_, alone.estimators_, strict=True):
        assert_array_equal(weights_of(member), weights_of(expected))
    assert_array_equal(proba, [member.predict_proba(X) for member in alone.estimators_])


def test_fits_in_processes():
    """They come to what one process does, and share its cores."""
    estimator, _ = classifiers()
    alone, together = search_of_a_pipeline(estimator), search_of_a_pipeline(estimator, n_jobs=2)
    for name in ("mean_test_score", "rank_test_score"):
        assert_array_equal(together.cv_results_[name], alone.cv_results_[name])
    assert_array_equal(together.predict_proba(iris_X), alone.predict_proba(iris_X))

    def threads_around_a_fit():
        before = torch.get_num_threads()
        clone(estimator).fit(iris_X, iris_y)
        return before, torch.get_num_threads()

    counts = joblib.Parallel(n_jobs=2)(joblib.delayed(threads_around_a_fit)() for _ in range(2))
    for before, after in counts:
        assert before == after
        assert before * 2 <= max(2, joblib.cpu_count())
