"""The estimators inside scikit-learn's other tools, beside scikit-learn's own MLP in the same tools."""

import copy
import io
import pickle

import joblib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.sparse as sp
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

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SMALL = {"hidden_layer_sizes": (8,), "max_iter": 12, "batch_size": 32, "random_state": 0}
OURS = {"device": "cpu"}  # "auto" would take a GPU, and float32, where there is one

# Both compute in float64 and differ in the order of sums; a dozen epochs leave about 1e-14 of it.
RTOL = 1e-10

iris_X, iris_y = load_iris(return_X_y=True)
binary_X, binary_y = (part[:200] for part in load_breast_cancer(return_X_y=True))
diabetes_X, diabetes_y = (part[:150] for part in load_diabetes(return_X_y=True))
diabetes_y = diabetes_y / 100
multilabel_y = np.column_stack([iris_y == 0, iris_X[:, 0] > 5.8, iris_X[:, 1] > 3]).astype(int)
iris_weight = np.random.RandomState(0).uniform(0.1, 3, len(iris_y))


def classifiers(**parameters):
    """Our classifier and scikit-learn's with the same parameters."""
    parameters = SMALL | parameters
    return MLPTorchClassifier(**parameters, **OURS), MLPClassifier(**parameters)


def regressors(**parameters):
    """Our regressor and scikit-learn's with the same parameters."""
    parameters = SMALL | parameters
    return MLPTorchRegressor(**parameters, **OURS), MLPRegressor(**parameters)


def scaled(estimator):
    """The estimator behind a StandardScaler, as its last step "mlp"."""
    return make_pipeline(StandardScaler(), estimator)


def assert_same_search(ours, theirs):
    """Two fitted searches came to the same candidates, scores, ranks and best estimator."""
    assert ours.cv_results_["params"] == theirs.cv_results_["params"]
    scores = [name for name in theirs.cv_results_ if "test_" in name]
    assert len(scores) > 3
    for name in scores:  # accuracies are fractions of the same counts, so exactly equal
        assert_array_equal(ours.cv_results_[name], theirs.cv_results_[name], err_msg=name)
    assert ours.best_params_ == theirs.best_params_
    assert ours.best_score_ == theirs.best_score_
    assert_allclose(ours.predict_proba(iris_X), theirs.predict_proba(iris_X), rtol=RTOL)


# Searches and cross-validation -------------------------------------------------------------

GRID = {"alpha": [1e-5, 10.0], "learning_rate_init": [1e-3, 1e-1]}


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_grid_search_over_a_pipeline(n_jobs):
    ours, theirs = classifiers()
    grids = [
        {f"{name}__{parameter}": values for parameter, values in GRID.items()}
        for name in ("mlptorchclassifier", "mlpclassifier")
    ]
    ours = GridSearchCV(scaled(ours), grids[0], cv=3, n_jobs=n_jobs).fit(iris_X, iris_y)
    theirs = GridSearchCV(scaled(theirs), grids[1], cv=3).fit(iris_X, iris_y)
    assert [list(p.values()) for p in ours.cv_results_["params"]] == [
        list(p.values()) for p in theirs.cv_results_["params"]
    ]
    for name in ("split0_test_score", "split1_test_score", "split2_test_score", "rank_test_score"):
        assert_array_equal(ours.cv_results_[name], theirs.cv_results_[name], err_msg=name)
    assert list(ours.best_params_.values()) == list(theirs.best_params_.values())
    assert_allclose(ours.predict_proba(iris_X), theirs.predict_proba(iris_X), rtol=RTOL)


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


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_search(search):
    ours, theirs = (search(estimator).fit(iris_X, iris_y) for estimator in classifiers(batch_size=16))
    assert_same_search(ours, theirs)


def test_cross_validate():
    ours, theirs = (
        cross_validate(
            scaled(estimator), iris_X, iris_y, cv=3, scoring=["neg_log_loss", "accuracy"], return_train_score=True
        )
        for estimator in classifiers()
    )
    scores = [name for name in theirs if name.startswith(("test_", "train_"))]
    assert len(scores) == 4
    for name in scores:
        assert_allclose(ours[name], theirs[name], rtol=RTOL, err_msg=name)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba"])
def test_cross_val_predict(method):
    ours, theirs = (cross_val_predict(scaled(est), iris_X, iris_y, cv=3, method=method) for est in classifiers())
    assert_allclose(ours, theirs, rtol=RTOL)


# Estimators made of estimators -------------------------------------------------------------

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


@pytest.mark.parametrize(("meta", "y"), META_CLASSIFIERS.values(), ids=META_CLASSIFIERS)
def test_meta_classifier(meta, y):
    X = binary_X if y is binary_y else iris_X
    ours, theirs = (meta(estimator).fit(X, y) for estimator in classifiers())
    assert_array_equal(ours.predict(X), theirs.predict(X))
    assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=RTOL)
    if isinstance(theirs, TunedThresholdClassifierCV):
        assert_allclose(ours.best_threshold_, theirs.best_threshold_, rtol=RTOL)
        assert ours.best_score_ == theirs.best_score_


two_targets = np.column_stack([diabetes_y, diabetes_X[:, 2] * 10])

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
@pytest.mark.parametrize(("meta", "y"), META_REGRESSORS.values(), ids=META_REGRESSORS)
def test_meta_regressor(meta, y):
    ours, theirs = (meta(estimator).fit(diabetes_X, y) for estimator in regressors())
    assert_allclose(ours.predict(diabetes_X), theirs.predict(diabetes_X), rtol=RTOL)
    assert_allclose(ours.score(diabetes_X, y), theirs.score(diabetes_X, y), rtol=RTOL)


# Inspection and plots ----------------------------------------------------------------------


def test_permutation_importance():
    ours, theirs = (
        permutation_importance(estimator.fit(iris_X, iris_y), iris_X, iris_y, n_repeats=3, random_state=0)
        for estimator in classifiers(learning_rate_init=0.05)
    )
    assert_array_equal(ours.importances, theirs.importances)
    assert np.ptp(ours.importances_mean) > 0.1


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
    for ours, theirs in zip(*(display.pd_results for display in displays), strict=True):
        assert_allclose(ours["average"], theirs["average"], rtol=RTOL)


def test_learning_curve_display(figures):
    ours, theirs = (
        LearningCurveDisplay.from_estimator(estimator, iris_X, iris_y, cv=2, shuffle=True, random_state=0)
        for estimator in classifiers(learning_rate_init=0.05, batch_size=5)
    )
    assert_array_equal(ours.train_sizes, theirs.train_sizes)
    assert_array_equal(ours.train_scores, theirs.train_scores)
    assert_array_equal(ours.test_scores, theirs.test_scores)


# Metadata routing --------------------------------------------------------------------------


def test_sample_weight_is_routed_through_a_search_over_a_pipeline():
    with config_context(enable_metadata_routing=True):
        searches = []
        for estimator in classifiers():
            estimator.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
            pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), estimator)
            grid = {f"{pipeline.steps[-1][0]}__alpha": [1e-5, 10.0]}
            search = GridSearchCV(pipeline, grid, cv=2)
            searches.append(search.fit(iris_X, iris_y, sample_weight=iris_weight))
        ours, theirs = searches
        # Weighted accuracies are quotients of sums of weights: the same to rounding.
        for name in ("split0_test_score", "split1_test_score"):
            assert_allclose(ours.cv_results_[name], theirs.cv_results_[name], rtol=RTOL)
        assert_allclose(ours.predict_proba(iris_X), theirs.predict_proba(iris_X), rtol=RTOL)
        unweighted = clone(ours).fit(iris_X, iris_y)
    assert not np.allclose(unweighted.predict_proba(iris_X), ours.predict_proba(iris_X))


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
def test_unrequested_sample_weight_is_refused(method):
    for estimator in classifiers():
        refused = pytest.raises(UnsetMetadataPassedError, match=f"sample_weight.*Classifier.{method}")
        with config_context(enable_metadata_routing=True), refused:
            WEIGHTED_CALLS[method](estimator)


# Copies ------------------------------------------------------------------------------------


def _through_joblib(estimator):
    file = io.BytesIO()
    joblib.dump(estimator, file)
    file.seek(0)
    return joblib.load(file)


COPIES = {
    "pickle": lambda estimator: pickle.loads(pickle.dumps(estimator)),
    "joblib": _through_joblib,
    "deepcopy": copy.deepcopy,
}
STOCHASTIC = {
    "adam": {},
    "sgd": {"solver": "sgd", "learning_rate_init": 0.05},
    "sgd invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5},
    "sgd adaptive": {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.5, "n_iter_no_change": 1},
    "RandomState": {"random_state": np.random.RandomState(3)},
}


def weights(estimator):
    """All weights of a fitted estimator, copied into one array."""
    return np.concatenate([array.ravel() for array in (*estimator.coefs_, *estimator.intercepts_)])


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copy_before_fit(copied):
    estimator = MLPTorchClassifier(**SMALL, **OURS)
    twin = copied(estimator)
    assert twin.get_params() == estimator.get_params()
    assert_array_equal(weights(twin.fit(iris_X, iris_y)), weights(estimator.fit(iris_X, iris_y)))


@pytest.mark.parametrize("X", [iris_X, iris_X.astype(np.float32), sp.csr_array(iris_X)], ids=["f64", "f32", "sparse"])
@pytest.mark.parametrize("parameters", STOCHASTIC.values(), ids=STOCHASTIC)
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copy_goes_on_where_the_original_was(copied, parameters, X):
    original = MLPTorchClassifier(**SMALL | copy.deepcopy(parameters), **OURS)
    original.partial_fit(X, iris_y, classes=[0, 1, 2]).partial_fit(X, iris_y)
    twin = copied(original)
    assert twin.n_iter_ == original.n_iter_
    assert twin.loss_curve_ == original.loss_curve_
    assert_array_equal(twin.predict_proba(X), original.predict_proba(X))

    at_copy = weights(original)
    for _ in range(3):
        twin.partial_fit(X, iris_y)
    assert_array_equal(weights(original), at_copy)  # the original has not moved
    assert len(original.loss_curve_) == 2
    for _ in range(3):
        original.partial_fit(X, iris_y)
    assert_array_equal(weights(twin), weights(original))
    assert twin.loss_curve_ == original.loss_curve_
    assert twin.t_ == original.t_


@pytest.mark.parametrize(
    "parameters",
    [{"early_stopping": True}, {"solver": "lbfgs"}, {"activation": "tanh", "max_iter": 3}, {"hidden_layer_sizes": ()}],
    ids=str,
)
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copy_of_a_warm_start(copied, parameters):
    original = MLPTorchClassifier(**SMALL | parameters, **OURS, warm_start=True).fit(iris_X, iris_y)
    twin = copied(original)
    at_copy = weights(original)
    assert_array_equal(weights(twin), at_copy)
    twin.fit(iris_X, iris_y)
    assert_array_equal(weights(original), at_copy)
    assert_array_equal(weights(original.fit(iris_X, iris_y)), weights(twin))


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copy_of_a_regressor(copied):
    original = MLPTorchRegressor(loss="poisson", **SMALL, **OURS).fit(diabetes_X, diabetes_y)
    twin = copied(original)
    predicted = original.predict(diabetes_X)
    assert_array_equal(twin.predict(diabetes_X), predicted)
    twin.partial_fit(diabetes_X, diabetes_y)
    assert_array_equal(original.predict(diabetes_X), predicted)
    assert_array_equal(original.partial_fit(diabetes_X, diabetes_y).predict(diabetes_X), twin.predict(diabetes_X))


def test_pickle_holds_the_weights_once():
    estimator = MLPTorchClassifier((300,), solver="lbfgs", max_iter=1, **OURS).fit(binary_X, binary_y)
    estimator.module_  # noqa: B018 - kept after the first access, and not to be pickled
    assert len(pickle.dumps(estimator)) < 1.1 * weights(estimator).nbytes + 4000


def test_model_mapped_from_a_file(tmp_path):
    path = tmp_path / "model.joblib"
    original = MLPTorchClassifier(**SMALL, **OURS).fit(iris_X, iris_y)
    joblib.dump(original, path)
    content = path.read_bytes()
    mapped = joblib.load(path, mmap_mode="r")
    assert not mapped.coefs_[0].flags.writeable
    torch.set_warn_always(True)  # PyTorch would warn of read-only memory, but once a process
    try:
        assert_array_equal(mapped.predict_proba(iris_X), original.predict_proba(iris_X))
        for _ in range(2):
            assert_array_equal(
                weights(mapped.partial_fit(iris_X, iris_y)), weights(original.partial_fit(iris_X, iris_y))
            )
    finally:
        torch.set_warn_always(False)
    assert path.read_bytes() == content


def test_model_of_a_device_that_is_not_here():
    original = MLPTorchClassifier(**SMALL, **OURS).fit(iris_X, iris_y)
    pickled = pickle.dumps(original)
    expected = original.predict_proba(iris_X)
    original.device_ = torch.device("cuda", 99)
    elsewhere = pickle.dumps(original)
    with pytest.warns(UserWarning, match="'cuda:99', which is not available here. It will predict on the CPU"):
        twin = pickle.loads(elsewhere)
    assert_array_equal(twin.predict_proba(iris_X), expected)
    at_home = pickle.loads(pickled)
    assert_array_equal(weights(twin.partial_fit(iris_X, iris_y)), weights(at_home.partial_fit(iris_X, iris_y)))


def test_clone_has_the_parameters_and_nothing_else():
    estimator = MLPTorchRegressor("poisson", (7, 5), "tanh", alpha=0.5, random_state=1, max_iter=3, **OURS)
    parameters = estimator.get_params()
    twin = clone(estimator.fit(diabetes_X, diabetes_y))
    assert vars(twin) == parameters
    assert_array_equal(twin.fit(diabetes_X, diabetes_y).coefs_[0], estimator.coefs_[0])


# Threads and processes ---------------------------------------------------------------------


@pytest.fixture
def two_torch_threads():
    """Have torch use two threads, so that a test sees them change."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


# Below and above the size from which a fit takes more than one thread.
@pytest.mark.parametrize("hidden_layer_sizes", [(8,), (1500,)], ids=str)
def test_fits_in_threads(two_torch_threads, hidden_layer_sizes):
    estimator = MLPTorchClassifier(**SMALL | {"hidden_layer_sizes": hidden_layer_sizes, "max_iter": 2}, **OURS)
    X = np.hstack([binary_X] * 4) / 1000  # 120 features
    ensemble = BaggingClassifier(estimator.set_params(batch_size=100), n_estimators=6, random_state=0)
    alone = clone(ensemble).fit(X, binary_y)
    assert torch.get_num_threads() == 2
    with joblib.parallel_backend("threading", n_jobs=2):
        together = clone(ensemble).set_params(n_jobs=2).fit(X, binary_y)
        proba = joblib.Parallel()(joblib.delayed(member.predict_proba)(X) for member in together.estimators_)
    assert torch.get_num_threads() == 2
    for ours, theirs in zip(together.estimators_, alone.estimators_, strict=True):
        assert_array_equal(weights(ours), weights(theirs))
    assert_array_equal(proba, [member.predict_proba(X) for member in alone.estimators_])


def test_processes_share_the_cores():
    estimator = MLPTorchClassifier(**SMALL | {"max_iter": 2}, **OURS)

    def threads_after_fit():
        before = torch.get_num_threads()
        estimator.fit(iris_X, iris_y)
        return before, torch.get_num_threads()

    with joblib.parallel_backend("loky", n_jobs=2):
        counts = joblib.Parallel()(joblib.delayed(threads_after_fit)() for _ in range(2))
    for before, after in counts:
        assert before == after
        assert before * 2 <= max(2, joblib.cpu_count())
