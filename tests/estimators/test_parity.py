"""Same numbers as scikit-learn: loss curves, weights, scores, epochs and predictions, fit by fit.

scikit-learn runs beside ours in every test. The parameters are crossed in three ways: every
solver × activation × target; every option × target × stochastic solver; and random draws from
the whole product, for what options do to one another. The summary of the run has their number
and the worst difference.
"""

import itertools
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import minmax_scale, scale

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# The same arithmetic in another order: rounding, 1e-16, grows with the steps. The issue allows 1e-6.
RTOL = 1e-6
# An element that is the small difference of large ones is compared at the scale of its array.
SCALE_TOL = 1e-9

N_ROWS = 230


def _targets():
    rng = np.random.RandomState(0)
    X_binary, y_binary = load_breast_cancer(return_X_y=True)
    X_digits, y_digits = load_digits(return_X_y=True)
    X_diabetes, y_diabetes = load_diabetes(return_X_y=True)
    X_labels, y_labels = make_multilabel_classification(N_ROWS, 12, n_classes=4, random_state=0)
    X_diabetes, y_diabetes = scale(X_diabetes), scale(y_diabetes)
    three = np.column_stack([y_diabetes, X_diabetes[:, 0] * y_diabetes, scale(rng.randn(len(y_diabetes)))])
    counts = rng.poisson(np.exp(0.5 * y_diabetes)).astype(float)
    names = np.array(["no", "yes"])
    return {
        "binary": (scale(X_binary)[:N_ROWS], names[y_binary[:N_ROWS]]),
        "multiclass": (minmax_scale(X_digits)[:N_ROWS], y_digits[:N_ROWS]),
        "multilabel": (scale(X_labels), y_labels),
        "regression": (X_diabetes[:N_ROWS], y_diabetes[:N_ROWS]),
        "regression-3": (X_diabetes[:N_ROWS], three[:N_ROWS]),
        "poisson": (X_diabetes[:N_ROWS], counts[:N_ROWS]),
    }


TARGETS = _targets()

# No weight moves, so each loss and score equals the best one: whether that is an improvement decides who stops.
PLATEAU = {"learning_rate_init": 1e-300, "tol": 0.0, "n_iter_no_change": 1, "shuffle": False}
# name: parameters, and how to fit
OPTIONS = {
    "invscaling": {"learning_rate": "invscaling", "power_t": 0.3, "learning_rate_init": 0.05},
    "adaptive": {"learning_rate": "adaptive", "tol": 1e-2, "n_iter_no_change": 1, "learning_rate_init": 0.05},
    "momentum-0": {"momentum": 0.0},
    "momentum-0.5": {"momentum": 0.5},
    "no-nesterov": {"nesterovs_momentum": False},
    "betas": {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-4},
    "alpha-0": {"alpha": 0.0},
    "alpha-1": {"alpha": 1.0},
    "two-layers": {"hidden_layer_sizes": (9, 7)},
    "no-hidden-layer": {"hidden_layer_sizes": ()},
    "batch-64": {"batch_size": 64},
    "batch-all": {"batch_size": N_ROWS},
    "batch-1": {"batch_size": 1, "max_iter": 2},
    "in-order": {"shuffle": False},
    "stops-early": {"tol": 1e-1, "n_iter_no_change": 2, "max_iter": 60},
    "never-stops": {"n_iter_no_change": np.inf, "tol": 10.0},
    "early-stopping": {"early_stopping": True, "validation_fraction": 0.2, "n_iter_no_change": 3, "max_iter": 30},
    "plateau": PLATEAU,
    "plateau-early-stopping": PLATEAU | {"early_stopping": True},
    "weights": {"fit": "weights"},
    "weights-early-stopping": {"fit": "weights", "early_stopping": True},
    "sparse": {"fit": "sparse"},
    "sparse-weights": {"fit": "sparse weights"},
    "partial-fit": {"fit": "partial_fit", "max_iter": 5},
    "partial-fit-weights": {"fit": "partial_fit weights", "max_iter": 5},
    "warm-start": {"fit": "warm_start", "max_iter": 4},
    "warm-start-early-stopping": {"fit": "warm_start", "early_stopping": True, "max_iter": 4},
    "fit-then-partial-fit": {"fit": "fit partial_fit", "max_iter": 3},
}

DEFAULTS = {"hidden_layer_sizes": (15,), "max_iter": 8, "random_state": 3}


def _pair(target, params):
    """scikit-learn's estimator and ours."""
    params = {**DEFAULTS, **params}
    if target in ("binary", "multiclass", "multilabel"):
        return MLPClassifier(**params), MLPTorchClassifier(**params)
    if target == "poisson":
        # The weights of a Poisson model start far off: a smaller rate keeps the comparison about arithmetic.
        params = {"learning_rate_init": 1e-3, **params, "loss": "poisson"}
    return MLPRegressor(**params), MLPTorchRegressor(**params)


def _fit(estimator, target, how):
    """Fit as the words in `how` say; return X."""
    X, y = TARGETS[target]
    weights = np.random.RandomState(1).uniform(0.1, 3.0, N_ROWS)
    kwargs = {"sample_weight": weights} if "weights" in how else {}
    if "sparse" in how:
        X = sp.csr_matrix(np.where(np.abs(X) > 0.5, X, 0.0))
    if how.startswith("fit"):
        estimator.fit(X, y, **kwargs)
    if "partial_fit" in how:
        classes = {"classes": np.arange(4) if y.ndim == 2 else np.unique(y)}
        if not hasattr(estimator, "predict_proba"):
            classes = {}
        for part in (slice(0, 150), slice(150, N_ROWS), slice(0, 150)):
            part_kwargs = {name: value[part] for name, value in kwargs.items()}
            estimator.partial_fit(X[part], y[part], **part_kwargs, **classes)
            classes = {}
    elif "warm_start" in how:
        estimator.set_params(warm_start=True)
        for _ in range(3):
            estimator.fit(X, y, **kwargs)
    else:
        estimator.fit(X, y, **kwargs)
    return X


def _check_same(target, params, worst_difference):
    params = dict(params)
    how = params.pop("fit", "")
    reference, model = _pair(target, params)
    _fit(reference, target, how)
    X = _fit(model, target, how)

    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_"):
        assert getattr(model, name) == getattr(reference, name), name
    pairs = {"loss_": (model.loss_, reference.loss_), "outputs": (_outputs(model, X), _outputs(reference, X))}
    for name in ("coefs_", "intercepts_"):
        layers = zip(getattr(model, name), getattr(reference, name), strict=True)
        pairs |= {f"{name}[{i}]": pair for i, pair in enumerate(layers)}
    for name in ("loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_"):
        assert hasattr(model, name) == hasattr(reference, name), name
        value = getattr(reference, name, None)
        assert (getattr(model, name, None) is None) == (value is None), name
        if value is not None:
            pairs[name] = getattr(model, name), value
    for name, (actual, desired) in pairs.items():
        actual, desired = np.asarray(actual), np.asarray(desired)
        assert actual.shape == desired.shape, name
        assert actual.dtype == desired.dtype, name
        size = np.abs(desired).max(initial=0)
        worst_difference(np.abs(actual - desired).max(initial=0) / (size or 1))
        np.testing.assert_allclose(actual, desired, rtol=RTOL, atol=SCALE_TOL * size, err_msg=name)
    np.testing.assert_array_equal(_decisions(model, X), _decisions(reference, X))


def _outputs(estimator, X):
    return estimator.predict_proba(X) if hasattr(estimator, "predict_proba") else estimator.predict(X)


def _decisions(estimator, X):
    """Labels; for a regressor, which has none, its values to six digits."""
    y = estimator.predict(X)
    return y if hasattr(estimator, "predict_proba") else np.round(y / np.abs(y).max(), 6)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_solver_activation_target(solver, activation, target, worst_difference):
    # L-BFGS decides by comparing losses, so rounding grows fast: few iterations.
    max_iter = 10 if solver == "lbfgs" else 8
    _check_same(target, {"solver": solver, "activation": activation, "max_iter": max_iter}, worst_difference)


# Options that a solver does not read are tried on one target: that they change nothing.
IGNORED = {
    "adam": {"momentum-0", "momentum-0.5", "no-nesterov", "invscaling", "adaptive"},
    "sgd": {"betas"},
}


@pytest.mark.parametrize(
    ("solver", "option", "target"),
    [
        (solver, option, target)
        for solver in IGNORED
        for option in OPTIONS
        for target in TARGETS
        if option not in IGNORED[solver] or target == "multiclass"
    ],
)
def test_option_target(solver, option, target, worst_difference):
    _check_same(target, {"solver": solver, **OPTIONS[option]}, worst_difference)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("option", ["alpha-1", "two-layers", "no-hidden-layer", "weights", "sparse", "warm-start"])
def test_option_target_lbfgs(option, target, worst_difference):
    _check_same(target, {"solver": "lbfgs", **OPTIONS[option], "max_iter": 6}, worst_difference)


def _random_combinations(n):
    rng = np.random.RandomState(0)
    space = {
        "solver": ["adam", "sgd"],
        "activation": ["identity", "logistic", "tanh", "relu"],
        "learning_rate": ["constant", "invscaling", "adaptive"],
        "momentum": [0.0, 0.6, 0.9],
        "nesterovs_momentum": [True, False],
        "early_stopping": [True, False],
        "shuffle": [True, True, False],
        "batch_size": ["auto", 37, 64, 1000],
        "alpha": [0.0, 1e-4, 0.1],
        "hidden_layer_sizes": [(11,), (8, 6), (5, 5, 5)],
        "fit": ["", "weights", "sparse", "sparse weights", "warm_start", "partial_fit", "fit partial_fit weights"],
        "tol": [1e-4, 1e-1],
        "n_iter_no_change": [1, 10],
    }
    for _ in range(n):
        params = {name: values[rng.randint(len(values))] for name, values in space.items()}
        if "partial_fit" in params["fit"]:
            params["early_stopping"] = False
        yield list(TARGETS)[rng.randint(len(TARGETS))], params


RANDOM_COMBINATIONS = list(_random_combinations(60))


@pytest.mark.parametrize("i", range(len(RANDOM_COMBINATIONS)))
@pytest.mark.filterwarnings("ignore:Got `batch_size` less than 1")
def test_random_combination(i, worst_difference):
    _check_same(*RANDOM_COMBINATIONS[i], worst_difference)


@pytest.mark.parametrize("target", ["binary", "multiclass"])
@pytest.mark.parametrize(("X_dtype", "dtype"), [(np.float32, "auto"), (np.float64, "float32")])
def test_float32_scores_within_the_spread_over_seeds(target, X_dtype, dtype):
    X, y = TARGETS[target]
    X = X.astype(X_dtype)
    train, test = slice(0, 150), slice(150, None)
    params = {"hidden_layer_sizes": (15,), "max_iter": 30, "learning_rate_init": 0.01}
    expected, scores = [], []
    for seed in range(8):
        expected.append(MLPClassifier(**params, random_state=seed).fit(X[train], y[train]).score(X[test], y[test]))
        model = MLPTorchClassifier(**params, random_state=seed, dtype=dtype).fit(X[train], y[train])
        assert model.coefs_[0].dtype == np.float32
        scores.append(model.score(X[test], y[test]))
    assert abs(np.mean(scores) - np.mean(expected)) <= np.std(expected)


def test_verbose_prints_the_same_lines(capsys):
    X, y = TARGETS["binary"]
    printed = []
    for estimator in (MLPClassifier, MLPTorchClassifier):
        for params in (
            {"tol": 1.0, "n_iter_no_change": 2},
            {"solver": "sgd", "learning_rate": "adaptive", "tol": 1.0, "n_iter_no_change": 1, "max_iter": 20},
            {"early_stopping": True, "tol": 1.0, "n_iter_no_change": 2},
        ):
            estimator(verbose=True, random_state=0, **params).fit(X, y)
        printed.append(capsys.readouterr().out)
    assert "Validation score" in printed[0]
    assert "Setting learning rate to" in printed[0]
    assert printed[1] == printed[0]


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_the_same_warnings(solver):
    X, y = TARGETS["binary"]
    messages = []
    for estimator in (MLPClassifier, MLPTorchClassifier):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            estimator(solver=solver, max_iter=3, batch_size=1000, random_state=0).fit(X, y)
        messages.append([(w.category, str(w.message).split("\n")[0]) for w in caught])
        assert ConvergenceWarning in {w.category for w in caught}
    assert messages[1] == messages[0]


def test_a_random_state_instance_is_drawn_from_as_often():
    X, y = TARGETS["multiclass"]
    draws = []
    for estimator in (MLPClassifier, MLPTorchClassifier):
        random_state = np.random.RandomState(5)
        for early_stopping, batch_size in itertools.product([True, False], [40, N_ROWS // 2]):
            params = {"early_stopping": early_stopping, "batch_size": batch_size}
            estimator(max_iter=2, random_state=random_state, **params).fit(X, y)
        draws.append(random_state.randint(2**31))
    assert draws[1] == draws[0]
