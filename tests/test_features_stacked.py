"""What scikit-learn's MLP lacks, inside `stacked_fits()`: the same as alone, and really in stacks."""

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from torch.nn import functional

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor, _meeting, _stacking, stacked_fits

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Stochastic Optimizer"),
    pytest.mark.filterwarnings("ignore:Got `batch_size` less than 1 or larger"),
]

N_ROWS = 124  # folds of 82 and 83 rows
X, Y = load_digits(n_class=3, return_X_y=True)
X_VAL, Y_VAL = X[300:340] / 16, Y[300:340]
X, Y = X[:N_ROWS] / 16, Y[:N_ROWS]
BINARY, LABELS = (Y > 0).astype(int), np.stack([Y > 0, Y == 1], 1).astype(int)
NUMBERS_X, NUMBERS = load_diabetes(return_X_y=True)
NUMBERS_X, NUMBERS = scale(NUMBERS_X)[:N_ROWS], scale(NUMBERS)[:N_ROWS]
MLP = MLPTorchClassifier((8, 6), max_iter=4, batch_size=30, random_state=0)
REGRESSOR = MLPTorchRegressor(hidden_layer_sizes=(8, 6), max_iter=4, batch_size=30, random_state=0)
FOLDS = KFold(3, shuffle=True, random_state=0)


@pytest.fixture
def stack_sizes(monkeypatch):
    """Sizes of the stacks trained, which are as large as they can be; those that failed are less than 0."""
    sizes = []
    train_stack = _stacking.train_stack

    def recorded(fits, *args):
        sizes.append(-len(fits))
        train_stack(fits, *args)
        sizes.remove(-len(fits))
        sizes.append(len(fits))

    monkeypatch.setattr(_meeting, "train_stack", recorded)
    monkeypatch.setattr(_meeting, "split_into_stacks", lambda fits, _: _stacking.split_into_stacks(fits, 1))
    return sizes


def _assert_stacked(stack_sizes, n_fits):
    """A stack that fails is halved until its fits pass, which must not go unseen."""
    assert min(stack_sizes) > 0
    assert sum(stack_sizes) == n_fits
    assert max(stack_sizes) > 1


def _arrays(model):
    norms = [array for norm in model.normalizations_ for array in norm.values()]
    return [*model.coefs_, *model.intercepts_, *norms]


def _assert_same_fits(estimators, expected, rtol=1e-9):
    for ours, theirs in zip(estimators, expected, strict=True):
        for name in ("n_iter_", "t_", "best_n_iter_"):
            assert getattr(ours, name) == getattr(theirs, name)
        for name in ("loss_curve_", "validation_loss_curve_", "validation_scores_"):
            if getattr(theirs, name) is not None:
                np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=rtol)
        rates = [[record["learning_rate"] for record in m.history_] for m in (ours, theirs)]
        assert rates[0] == rates[1]
        for a, b in zip(_arrays(ours), _arrays(theirs), strict=True):
            # Stacked products sum in another order; rounding grows over the steps.
            np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-11)


def _in_parallel(fits):
    """Call all, in one parallel call."""
    return joblib.Parallel()(joblib.delayed(fit)() for fit in fits)


def _check(fits, stack_sizes, rtol=1e-9, *, all_alone=False):
    """Each of these functions gives an estimator, alone and in stacks the same."""
    expected = [fit() for fit in fits]
    del stack_sizes[:]
    with stacked_fits():
        fitted = _in_parallel(fits)
    _assert_same_fits(fitted, expected, rtol)
    if all_alone:
        assert stack_sizes == [1] * len(fits)
    else:
        _assert_stacked(stack_sizes, len(fits))
    return fitted


def _fits(base, grid, features, y, **given):
    """Of each candidate and fold a function that fits it."""

    def fit_of(params, rows):
        return lambda: clone(base).set_params(**params).fit(features[rows], y[rows], **given)

    return [fit_of(params, rows) for params in grid for rows, _ in FOLDS.split(features)]


def softplus_loss(logits, y):
    return functional.cross_entropy(logits, y, reduction="none")


ES = {"early_stopping": True, "max_iter": 12, "n_iter_no_change": 1, "learning_rate_init": 0.02}
FAST = {"solver": "adamw", "learning_rate_init": 0.05}
GRIDS = {
    "label_smoothing": [{"label_smoothing": rate} for rate in (0.05, 0.3)],
    "class_weight": [{"class_weight": weights} for weights in (None, "balanced", {0: 1.0, 1: 9.0, 2: 0.1})],
    "loss": [{"loss": softplus_loss, "alpha": alpha} for alpha in (0.0, 1.0)],
    "mean loss": [{"loss": functional.cross_entropy, "alpha": alpha} for alpha in (0.0, 1.0)],
    "mean loss, early stopping": [{"loss": functional.cross_entropy, **ES, "alpha": alpha} for alpha in (0.0, 1.0)],
    "activation": [{"activation": "gelu", "random_state": seed} for seed in (0, 1)],
    "function": [{"activation": functional.softplus, "random_state": seed} for seed in (0, 1)],
    "one a layer": [{"activation": ("selu", torch.sin), "random_state": seed} for seed in (0, 1)],
    "batch": [{"normalization": "batch", "alpha": alpha} for alpha in (0.0, 1.0)],
    "batch, early stopping": [{"normalization": "batch", **ES, "alpha": alpha} for alpha in (0.0, 1.0)],
    "layer": [{"normalization": "layer", "alpha": alpha} for alpha in (0.0, 1.0)],
    "weight_init": [{"weight_init": name} for name in ("torch", "orthogonal", ("normal", 0.1))],
    "weight_decay": [{"solver": "adamw", "weight_decay": decay} for decay in (0.0, 0.1, 1.0)],
    "adamw, unlike": [{"solver": "adamw", "beta_1": beta, "learning_rate_init": beta / 10} for beta in (0.5, 0.9)],
    "cosine": [{"learning_rate": "cosine", "warmup_fraction": share} for share in ("auto", 0.1, 0.5)],
    "one_cycle": [{"learning_rate": "one_cycle", "max_iter": n} for n in (3, 4, 6)],
    "one_cycle of sgd": [{"learning_rate": "one_cycle", "solver": "sgd", "warmup_fraction": s} for s in (0.1, 0.5)],
    "schedules": [{"solver": "adamw", "learning_rate": name} for name in ("constant", "cosine", "one_cycle")],
    "clip": [{"gradient_clip_norm": norm} for norm in (None, 0.1, 1.0)],
    "scoring": [
        {**ES, "validation_fraction": 0.4, "scoring": scoring}
        for scoring in (None, "loss", "roc_auc_ovr", "neg_log_loss")
    ],
    "adamw, early stopping": [{**ES, "solver": "adamw", "weight_decay": decay} for decay in (0.0, 1.0)],
    "bfloat16": [{"dtype": "bfloat16", "alpha": alpha} for alpha in (0.0, 1.0)],
    "dropout": [{"dropout": rate} for rate in (0.1, 0.5)],
    "dropout, or not": [{"dropout": rate} for rate in (0.0, [0.2, 0.0], 0.5)],
    "dropout, early stopping": [{"dropout": rate, **ES} for rate in (0.1, 0.5)],
    "invscaling of adamw": [{**FAST, "learning_rate": "invscaling", "random_state": seed} for seed in (0, 1)],
    "adaptive adamw": [
        {**FAST, "learning_rate": "adaptive", "tol": tol, "n_iter_no_change": 1, "max_iter": 12} for tol in (0.1, 0.3)
    ],
}


@pytest.mark.parametrize("name", GRIDS)
def test_each_feature_is_the_same_in_stacks(name, stack_sizes):
    if name == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("no bfloat16 on this processor")
    fits = _fits(MLP, GRIDS[name], X, Y)
    if name != "bfloat16":
        _check(fits, stack_sizes)
        return
    # A product in bfloat16 that is summed in another order may be rounded otherwise, by 2**-9 of it.
    expected = [fit().loss_curve_ for fit in fits]
    with stacked_fits():
        np.testing.assert_allclose([fit.loss_curve_ for fit in _in_parallel(fits)], expected, rtol=2**-8)
    assert max(stack_sizes) > 1
    assert min(stack_sizes) > 0


@pytest.mark.parametrize("y", [BINARY, LABELS], ids=["binary", "multilabel"])
def test_labels_of_other_kinds(y, stack_sizes):
    weights = {0: 1.0, 1: 5.0}
    grid = [
        {"label_smoothing": 0.1, "normalization": "batch"},
        {"label_smoothing": 0.2, "normalization": "batch", "class_weight": weights if y.ndim == 1 else [weights] * 2},
    ]
    _check(_fits(MLP, grid, X, y), stack_sizes)


@pytest.mark.parametrize("loss", ["absolute_error", "huber", "quantile", functional.smooth_l1_loss], ids=str)
@pytest.mark.parametrize("y", [NUMBERS, np.stack([NUMBERS, NUMBERS**2], 1)], ids=["", "two outputs"])
def test_losses_of_regressors(loss, y, stack_sizes):
    grid = [{"loss": loss, "quantile": 0.8, "normalization": "layer", "alpha": alpha} for alpha in (0.0, 1.0)]
    _check(_fits(REGRESSOR, grid, NUMBERS_X, y), stack_sizes)


def test_quantiles_do_not_mix(stack_sizes):
    grid = [{"loss": "quantile", "quantile": q, "random_state": s} for q in (0.1, 0.5, 0.9) for s in range(3)]
    fits = _fits(REGRESSOR, grid, NUMBERS_X, NUMBERS)
    medians = [model.predict(NUMBERS_X).mean() for model in _check(fits, stack_sizes)]
    assert medians[0] != medians[-1]


def test_optimisers_of_pytorch_train_beside_stacks(stack_sizes):
    grid = [
        {},
        {"alpha": 1.0},
        {"solver": torch.optim.RMSprop, "solver_params": {"momentum": 0.5}},
        {"solver": torch.optim.RMSprop, "solver_params": {"momentum": 0.9}},
    ]
    _check(_fits(MLP, grid, X, Y), stack_sizes)
    assert stack_sizes.count(1) == 6


def _fits_with_validation(grid, some_validations):
    def fit_of(params, given):
        return lambda: clone(MLP).set_params(**params).fit(X, Y, **given)

    return [fit_of(params, given) for params in grid for given in some_validations]


def _validation(n_rows, weighted=False, sparse=False):
    weights = np.linspace(0.5, 2, n_rows) if weighted else None
    features = sp.csr_array(X_VAL[:n_rows]) if sparse else X_VAL[:n_rows]
    return {"X_val": features, "y_val": Y_VAL[:n_rows], "sample_weight_val": weights}


VALIDATIONS = {
    "one for all": [_validation(40)] * 3,
    "of unlike lengths": [_validation(40), _validation(25), _validation(33)],
    "some with weights": [_validation(40), _validation(25, weighted=True), _validation(33, weighted=True)],
    "some without any": [{}, {}, _validation(33), _validation(33)],
    "sparse": [_validation(40, sparse=True)] * 3,
    "some sparse": [_validation(40, sparse=True), _validation(40), _validation(25)],
}


@pytest.mark.parametrize("name", VALIDATIONS)
@pytest.mark.parametrize(
    "grid",
    [
        [{}, {"alpha": 1.0}],
        [{**ES, "scoring": scoring} for scoring in (None, "neg_log_loss")],
        [{"normalization": "batch", "label_smoothing": rate} for rate in (0.1, 0.2)],
    ],
    ids=["", "early stopping", "batch"],
)
def test_each_fit_has_its_own_validation_rows(grid, name, stack_sizes):
    fitted = _check(_fits_with_validation(grid, VALIDATIONS[name]), stack_sizes, all_alone=name == "sparse")
    for model, given in zip(fitted, VALIDATIONS[name] * len(grid), strict=True):
        assert (model.validation_scores_ is None) == (not given and not model.early_stopping)


def test_a_mean_loss_of_validation_rows_of_unlike_lengths(stack_sizes):
    grid = [{"loss": functional.cross_entropy, "alpha": alpha} for alpha in (0.0, 1.0, 2.0)]
    _check(_fits_with_validation(grid, VALIDATIONS["of unlike lengths"]), stack_sizes)


def test_a_mean_loss_of_rows_set_aside(stack_sizes):
    """Of 100 and 101 rows 90 train, and 10 or 11 validate."""

    def fit_of(n_rows, alpha):
        params = {"loss": functional.cross_entropy, "early_stopping": True, "alpha": alpha}
        return lambda: clone(MLP).set_params(**params).fit(X[:n_rows], Y[:n_rows])

    _check([fit_of(n_rows, alpha) for alpha in (0.0, 1.0, 2.0) for n_rows in (100, 101)], stack_sizes)


SEARCHES = {
    "dropout": {"dropout": [0.1, 0.5], "alpha": [0.0, 1.0]},
    "regularization": {"label_smoothing": [0.0, 0.1], "gradient_clip_norm": [None, 0.5]},
    "adamw": {"solver": ["adamw"], "weight_decay": [0.0, 0.5], "learning_rate": ["cosine", "one_cycle"]},
    "layers": {"normalization": [None, "batch", "layer"], "activation": ["relu", "silu", ("tanh", "mish")]},
    "balance": {"class_weight": [None, "balanced"], "weight_init": ["auto", "he_normal"]},
}


@pytest.mark.parametrize("grid", [SEARCHES[name] for name in SEARCHES])
def test_searches_report_the_same(grid, stack_sizes):
    own = GridSearchCV(MLP, grid, cv=3, return_train_score=True, scoring=["accuracy", "neg_log_loss"], refit="accuracy")
    expected = clone(own).fit(X, Y)
    del stack_sizes[:]
    with stacked_fits():
        search = own.fit(X, Y)
    assert search.best_params_ == expected.best_params_
    assert search.cv_results_.keys() == expected.cv_results_.keys()
    for name, values in expected.cv_results_.items():
        if "time" in name or name == "params" or name.startswith("param_"):
            continue
        np.testing.assert_allclose(search.cv_results_[name], values, rtol=1e-8)
    n_alone = len(search.cv_results_["params"]) * 3 + 1  # and the refit
    _assert_stacked(stack_sizes, n_alone)


def test_a_search_routes_validation_rows(stack_sizes):
    features, validation = 100 * X, 100 * X_VAL
    with sklearn.config_context(enable_metadata_routing=True):
        mlp = clone(MLP).set_params(**ES, scoring="neg_log_loss").set_fit_request(X_val=True, y_val=True)
        pipeline = make_pipeline(StandardScaler(), mlp, transform_input=["X_val"])

        def fitted():
            return cross_validate(
                pipeline, features, Y, cv=6, params={"X_val": validation, "y_val": Y_VAL}, return_estimator=True
            )["estimator"]

        expected = fitted()
        del stack_sizes[:]
        with stacked_fits():
            ours = fitted()
    _assert_same_fits([pipeline[-1] for pipeline in ours], [pipeline[-1] for pipeline in expected])
    # Each fold scales validation rows in its own way.
    assert len({pipeline[-1].validation_loss_curve_[0] for pipeline in ours}) == 6
    _assert_stacked(stack_sizes, 6)


def test_streams_of_masks_go_back_when_a_stack_is_split(monkeypatch):
    fits = _fits(MLP, [{"dropout": 0.3, "random_state": seed} for seed in range(3)], X, Y)
    expected = [fit() for fit in fits]
    sizes, train = [], _stacking.train

    def scarce(network, *args):
        sizes.append(network.n_networks)
        train(network, *args)  # fails late, when streams have moved on
        if network.n_networks > 1:
            raise MemoryError

    monkeypatch.setattr(_stacking, "train", scarce)
    with stacked_fits():
        _assert_same_fits(_in_parallel(fits), expected)
    assert max(sizes) > 1


def test_a_scorer_that_fails_fails_alone():
    def scorer(estimator, X, y):
        if estimator.alpha == 1.0:
            raise RuntimeError("this scorer fails")
        return 0.5

    grid = {"alpha": [0.0, 0.5, 1.0]}
    search = GridSearchCV(clone(MLP).set_params(scoring=scorer, early_stopping=True), grid, cv=3, refit=False)
    with stacked_fits(), pytest.warns(match="fits failed|scores are non-finite"):
        scores = search.fit(X, Y).cv_results_["mean_test_score"]
    assert np.isnan(scores).tolist() == [False, False, True]


@pytest.mark.parametrize(
    "params",
    [
        {"normalization": "batch"},
        {"solver": "adamw", "learning_rate": "one_cycle"},
        {"dropout": 0.4},
    ],
    ids=str,
)
def test_epochs_one_by_one_in_stacks(params, stack_sizes):
    """What a fit leaves to go on from is its own, not the stack's."""

    def fit_of(seed):
        def fit():
            model = clone(MLP).set_params(**params, random_state=seed)
            for _ in range(3):
                model.partial_fit(X, Y, classes=[0, 1, 2])
            return model

        return fit

    fits = [fit_of(seed) for seed in range(6)]
    expected = [fit() for fit in fits]
    del stack_sizes[:]
    with stacked_fits():
        fitted = _in_parallel(fits)
    _assert_same_fits(fitted, expected)
    _assert_stacked(stack_sizes, 18)
