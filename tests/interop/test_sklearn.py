"""Estimators from scikit-learn's MLP and back: the same predictions, and the same training from there on."""

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor
from tests.estimators.helpers import LABELS, MULTILABEL, NUMBERS, SMALL, TWO_NUMBERS, X, dense, outputs

pytestmark = pytest.mark.filterwarnings(
    "ignore:Stochastic Optimizer|lbfgs failed:sklearn.exceptions.ConvergenceWarning"
)

OURS = {"classifier": MLPTorchClassifier, "regressor": MLPTorchRegressor}
THEIRS = {"classifier": MLPClassifier, "regressor": MLPRegressor}
TARGETS = {
    "binary": ("classifier", LABELS > 0),
    "three classes": ("classifier", np.array(["a", "c", "b"])[LABELS]),
    "labels": ("classifier", MULTILABEL),
    "one class": ("classifier", LABELS * 0),
    "number": ("regressor", NUMBERS),
    "two numbers": ("regressor", TWO_NUMBERS),
}
SOLVERS = {
    "adam": {"solver": "adam"},
    "sgd": {"solver": "sgd", "learning_rate_init": 0.1},
    "plain sgd": {"solver": "sgd", "momentum": 0.0, "nesterovs_momentum": False},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5, "power_t": 0.3},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 1.0, "n_iter_no_change": 1},
    "early stopping": {"solver": "adam", "early_stopping": True, "validation_fraction": 0.3},
    "lbfgs": {"solver": "lbfgs"},
}
#: What is fitted in public, where there is.
ATTRIBUTES = [
    "n_features_in_",
    "n_iter_",
    "t_",
    "n_layers_",
    "n_outputs_",
    "out_activation_",
    "loss_",
    "loss_curve_",
    "best_loss_",
    "validation_scores_",
    "best_validation_score_",
]
#: Both add up in another order; training goes on from there.
RTOL = 1e-10


def train_on(estimator, y, solver):
    """Go on in all ways in which both do the same; after early stopping that is none, see the guide."""
    if solver != "early stopping":
        estimator.set_params(warm_start=True).fit(X, y)
    if solver not in ("lbfgs", "early stopping"):  # with which scikit-learn cannot
        for _ in range(2):
            estimator.partial_fit(X, y)
    return estimator


def public(estimator):
    return {name for name in vars(estimator) if not name.startswith("_")}


def assert_same(estimator, other, rtol=RTOL):
    """Compare all that is public, and predictions."""
    for name in ATTRIBUTES:
        assert hasattr(estimator, name) == hasattr(other, name), name
        if getattr(estimator, name, None) is not None:
            ours, theirs = getattr(estimator, name), getattr(other, name)
            assert ours == theirs if isinstance(ours, str) else np.allclose(ours, theirs, rtol=rtol), name
        else:
            assert getattr(other, name, None) is None, name
    for ours, theirs in zip(
        (*estimator.coefs_, *estimator.intercepts_), (*other.coefs_, *other.intercepts_), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=1e-12)
        assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(outputs(estimator, X), outputs(other, X), rtol=rtol, atol=1e-12)
    np.testing.assert_array_equal(estimator.predict(X).dtype, other.predict(X).dtype)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_from_sklearn_goes_on_as_scikit_learn_would(target, solver):
    kind, y = TARGETS[target]
    theirs = THEIRS[kind](**SMALL | SOLVERS[solver]).fit(X, y)
    ours = OURS[kind].from_sklearn(theirs)
    assert_same(ours, theirs)
    # Small differences before L-BFGS become larger ones.
    assert_same(train_on(ours, y, solver), train_on(theirs, y, solver), 1e-5 if solver == "lbfgs" else RTOL)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_to_sklearn_goes_on_as_ours_would(target, solver):
    kind, y = TARGETS[target]
    ours = OURS[kind](**SMALL | SOLVERS[solver]).fit(X, y)
    theirs = ours.to_sklearn()
    assert_same(ours, theirs)
    assert_same(train_on(ours, y, solver), train_on(theirs, y, solver), 1e-5 if solver == "lbfgs" else RTOL)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_there_and_back_is_the_same_bit_by_bit(solver, dtype):
    theirs = MLPClassifier(**SMALL | SOLVERS[solver]).fit(X.astype(dtype), LABELS)
    back = MLPTorchClassifier.from_sklearn(theirs).to_sklearn()
    assert public(back) == public(theirs)
    assert back.get_params() == theirs.get_params()
    np.testing.assert_array_equal(back.predict_proba(X), theirs.predict_proba(X))
    for model in (back, theirs):
        train_on(model, LABELS, solver)
    np.testing.assert_array_equal(back.predict_proba(X), theirs.predict_proba(X))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_warm_start_after_early_stopping_may_find_no_better_epoch(solver, seed):
    params = SMALL | {"hidden_layer_sizes": (4, 3), "max_iter": 8, "tol": 0.01, "n_iter_no_change": 2}
    params |= {"solver": solver, "random_state": seed, "early_stopping": True, "warm_start": True}
    model = MLPTorchClassifier(**params, learning_rate_init=0.05).fit(X, LABELS)
    converted = model.to_sklearn()
    for each in (model, converted):
        each.fit(X, LABELS)
    np.testing.assert_allclose(converted.predict_proba(X), model.predict_proba(X), rtol=1e-9)


def test_partial_fit_from_the_first_epoch_on():
    theirs = MLPClassifier(**SMALL).partial_fit(X[:20], LABELS[:20], classes=[0, 1, 2])
    ours = MLPTorchClassifier.from_sklearn(theirs)
    assert_same(ours.partial_fit(X, LABELS), theirs.partial_fit(X, LABELS))
    with pytest.raises(ValueError, match="classes"):
        ours.partial_fit(X, LABELS + 1)


def test_settings_changed_since_the_fit_are_those_of_the_next_optimizer():
    """Both keep the optimizer with its settings in `partial_fit`."""
    theirs = MLPClassifier(**SMALL).fit(X, LABELS).set_params(beta_1=0.5, learning_rate_init=0.1)
    ours = MLPTorchClassifier.from_sklearn(theirs)
    assert_same(ours.partial_fit(X, LABELS), theirs.partial_fit(X, LABELS))
    back = MLPTorchClassifier(**SMALL).fit(X, LABELS).set_params(solver="sgd")
    assert_same(back.to_sklearn().partial_fit(X, LABELS), back.partial_fit(X, LABELS))


@pytest.mark.parametrize("as_input", [np.asarray, sp.csr_array], ids=["dense", "sparse"])
def test_moments_are_found_in_every_layout(as_input):
    """The first layer of a wide or a sparse network is stored another way round."""
    rows = as_input(np.tile(X, 6))
    ours = MLPTorchClassifier(**SMALL).fit(rows, LABELS)
    ours = pickle.loads(pickle.dumps(ours))  # without its network, which is made again
    theirs = ours.to_sklearn()
    for model in (ours, theirs):
        model.partial_fit(rows, LABELS)
    np.testing.assert_allclose(ours.predict_proba(rows), theirs.predict_proba(rows), rtol=RTOL)
    taken = MLPTorchClassifier.from_sklearn(theirs)
    for model in (taken, theirs):
        model.partial_fit(rows, LABELS)
    np.testing.assert_allclose(taken.predict_proba(dense(rows)), theirs.predict_proba(rows), rtol=RTOL)


def test_nothing_is_shared():
    state = np.random.RandomState(3)
    theirs = MLPClassifier(**SMALL | {"random_state": state}).fit(X, LABELS)
    ours = MLPTorchClassifier.from_sklearn(theirs)
    before = theirs.predict_proba(X)
    back = ours.to_sklearn()
    for other in (ours, back):
        other.coefs_[0][:] = 0
        other.classes_[:] = 7
        other.loss_curve_.append(0.0)
        other.partial_fit(X, LABELS * 0 + 7)
        other.random_state.uniform()
    np.testing.assert_array_equal(theirs.predict_proba(X), before)
    assert len(theirs.loss_curve_) == SMALL["max_iter"]
    assert not np.array_equal(state.uniform(size=9), ours.random_state.uniform(size=9))


def test_frames_keep_the_names_of_their_columns():
    frame, y = load_iris(return_X_y=True, as_frame=True)
    theirs = MLPClassifier(**SMALL).fit(frame, y)
    ours = MLPTorchClassifier.from_sklearn(theirs)
    np.testing.assert_array_equal(ours.feature_names_in_, theirs.feature_names_in_)
    np.testing.assert_array_equal(ours.to_sklearn().feature_names_in_, theirs.feature_names_in_)
    ours.predict(frame)
    with pytest.warns(UserWarning, match="valid feature names"):
        ours.predict(frame.to_numpy())


def test_a_taken_estimator_is_like_a_fitted_one():
    theirs = MLPClassifier(**SMALL | {"early_stopping": True}).fit(X, LABELS)
    ours = MLPTorchClassifier.from_sklearn(theirs, device="cpu")
    assert ours.best_n_iter_ == np.argmax(theirs.validation_scores_) + 1
    assert [record["loss"] for record in ours.history_] == theirs.loss_curve_
    assert [record["validation_score"] for record in ours.history_] == theirs.validation_scores_
    assert ours.device == "cpu"
    assert ours.device_ == torch.device("cpu")
    copied = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(copied.predict_proba(X), ours.predict_proba(X))
    assert clone(ours).fit(X, LABELS).score(X, LABELS) > 0.2
    poisson = MLPRegressor(loss="poisson", **SMALL).fit(X, NUMBERS)
    np.testing.assert_allclose(MLPTorchRegressor.from_sklearn(poisson).predict(X), poisson.predict(X))


def test_validation_scores_of_ones_own_stay_here():
    ours = MLPTorchClassifier(**SMALL).fit(X, LABELS, X_val=X, y_val=LABELS)
    assert ours.validation_scores_
    assert ours.to_sklearn().validation_scores_ is None


REFUSED = [
    ({"normalization": "layer"}, "normalization='layer'"),
    ({"activation": "gelu"}, "activation='gelu'"),
    ({"activation": ["relu", "tanh"], "hidden_layer_sizes": (3, 2)}, r"activation=\['relu', 'tanh'\]"),
    ({"activation": torch.sin}, "activation=<built-in"),
    ({"dropout": 0.2}, r"dropout=0.2.*set_params\(dropout=0.0\)"),
    ({"class_weight": "balanced"}, r"class_weight='balanced'.*set_params\(class_weight=None\)"),
    ({"label_smoothing": 0.1}, r"label_smoothing=0.1.*set_params\(label_smoothing=0.0\)"),
    ({"solver": "adamw"}, r"solver='adamw'.*use one of \['adam', 'lbfgs', 'sgd'\]"),
    ({"solver": torch.optim.RMSprop}, "solver=<class"),
    ({"learning_rate": "cosine"}, "learning_rate='cosine'"),
    ({"weight_init": "he_normal"}, "weight_init='he_normal'"),
    ({"gradient_clip_norm": 1.0}, "gradient_clip_norm=1.0"),
    ({"scoring": "loss"}, "scoring='loss'"),
]


@pytest.mark.parametrize(("params", "message"), REFUSED)
def test_what_scikit_learn_lacks_is_refused_by_name(params, message):
    ours = MLPTorchClassifier(**SMALL | params).fit(X, LABELS)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        ours.to_sklearn()
    if "set_params" in message:  # the remedy helps, and changes no prediction
        name, value = str(error.value).rpartition("set_params(")[2].partition(")")[0].split("=")
        before = ours.predict_proba(X)
        theirs = ours.set_params(**{name: eval(value)}).to_sklearn()
        np.testing.assert_allclose(theirs.predict_proba(X), before, rtol=RTOL)


@pytest.mark.parametrize("loss", ["huber", "quantile", torch.nn.functional.mse_loss])
def test_losses_that_scikit_learn_lacks_are_refused(loss):
    ours = MLPTorchRegressor(loss=loss, **SMALL).fit(X, NUMBERS)
    with pytest.raises(ValueError, match=r"^loss="):
        ours.to_sklearn()
    theirs = ours.set_params(loss="squared_error").to_sklearn()
    np.testing.assert_allclose(theirs.predict(X), ours.predict(X), rtol=RTOL)


def test_a_normalization_stays_refused_when_its_parameter_is_taken_back():
    ours = MLPTorchClassifier(normalization="batch", **SMALL).fit(X, LABELS).set_params(normalization=None)
    with pytest.raises(ValueError, match="normalization='batch'"):
        ours.to_sklearn()


def test_rounding_in_training_is_refused():
    """Not every processor can train so, but any can be told to."""
    ours = MLPTorchClassifier(**SMALL).fit(X, LABELS).set_params(dtype="bfloat16")
    with pytest.raises(ValueError, match=r"^dtype='bfloat16'.*set_params\(dtype='auto'\)"):
        ours.to_sklearn()
    with pytest.raises(ValueError, match=r"^dtype='bfloat16'.*set_params\(dtype='auto'\)"):
        ours.to_skorch()


def test_equal_values_for_all_layers_are_one():
    params = {"activation": ["tanh", "tanh"], "dropout": [0, 0.0], "hidden_layer_sizes": (3, 2)}
    ours = MLPTorchClassifier(**SMALL | params).fit(X, LABELS)
    assert ours.to_sklearn().activation == "tanh"


@pytest.mark.parametrize("other", [MLPRegressor(), LogisticRegression(), MLPClassifier, None, MLPTorchClassifier()])
def test_other_estimators_are_refused(other):
    with pytest.raises(
        TypeError, match=r"from_sklearn takes a fitted sklearn.neural_network.MLPClassifier, but got \w+"
    ):
        MLPTorchClassifier.from_sklearn(other)


def test_unfitted_ones_are_not_converted():
    with pytest.raises(NotFittedError):
        MLPTorchClassifier.from_sklearn(MLPClassifier())
    with pytest.raises(NotFittedError):
        MLPTorchRegressor().to_sklearn()
