"""Each fit of a stack is validated with its own rows."""

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional

from sktorch_mlp import MLPTorchClassifier, stacked_fits
from tests.parallel.fits import FILTERS, assert_same_fits, in_parallel

pytestmark = [pytest.mark.usefixtures("one_trainer"), *map(pytest.mark.filterwarnings, FILTERS)]

X, Y = load_digits(n_class=3, return_X_y=True)
X_VAL, Y_VAL = X[300:340] / 16, Y[300:340]
X, Y = X[:124] / 16, Y[:124]
MLP = MLPTorchClassifier((8, 6), max_iter=4, batch_size=30, random_state=0)
MEAN_LOSS = {"loss": functional.cross_entropy}


def _validation(n_rows, weights=None, sparse=False):
    """Some rows, whose weights rise up to a number, fall from it if it is negative, or are all the same (None)."""
    if weights is not None:
        weights = np.linspace(0.5, abs(weights), n_rows)[:: np.sign(weights)].copy()
    features = sp.csr_array(X_VAL[:n_rows]) if sparse else X_VAL[:n_rows]
    return {"X_val": features, "y_val": Y_VAL[:n_rows], "sample_weight_val": weights}


VALIDATIONS = {
    "one for all": [_validation(40)] * 3,
    "of unlike lengths": [_validation(40), _validation(25), _validation(33)],
    "some with weights": [_validation(40), _validation(25, weights=2), _validation(33, weights=2)],
    "the same with other weights": [_validation(40, weights=weights) for weights in (None, 2, -2, 9)],
    "some without any": [{}, {}, _validation(33), _validation(33)],
    "all sparse": [_validation(40, sparse=True)] * 3,
    "some sparse": [_validation(40, sparse=True), _validation(40), _validation(25)],
}
ES = {"early_stopping": True, "max_iter": 12, "n_iter_no_change": 1, "learning_rate_init": 0.02}
GRIDS = {
    "plain": [{}, {"alpha": 1.0}],
    "early stopping": [{**ES, "scoring": scoring} for scoring in (None, "neg_log_loss")],
    "batch normalization": [{"normalization": "batch", "label_smoothing": rate} for rate in (0.1, 0.2)],
    "mean loss": [{**MEAN_LOSS, "alpha": alpha} for alpha in (0.0, 1.0)],
}
#: Rows of unlike lengths and weights change validation in all grids; who is stacked with whom does not depend on these.
PAIRS = [
    *(("plain", name) for name in VALIDATIONS),
    *(("early stopping", name) for name in ("of unlike lengths", "the same with other weights", "some without any")),
    *(("batch normalization", name) for name in ("of unlike lengths", "some with weights")),
    ("mean loss", "of unlike lengths"),
]


def _check(fits, stacks):
    expected = [fit() for fit in fits]
    with stacked_fits():
        fitted = in_parallel(fits)
    assert_same_fits(fitted, expected)
    assert sum(stacks.sizes) == len(fits)
    assert stacks.failed == []
    return fitted


@pytest.mark.parametrize(("grid", "validation"), PAIRS)
def test_each_fit_has_its_own_validation_rows(grid, validation, stacks):
    def fit_of(params, given):
        return lambda: clone(MLP).set_params(**params).fit(X, Y, **given)

    fits = [fit_of(params, given) for params in GRIDS[grid] for given in VALIDATIONS[validation]]
    for model, given in zip(_check(fits, stacks), VALIDATIONS[validation] * 2, strict=True):
        assert (model.validation_scores_ is None) == (not given and not model.early_stopping)
    n_alone = {"all sparse": 6, "some sparse": 2}.get(validation, 0)
    # A loss that sees all rows at once is not stacked with one of other validation rows.
    assert stacks.sizes.count(1) == n_alone
    assert (max(stacks.sizes) > 1) == (validation != "all sparse")


def test_a_mean_loss_of_rows_set_aside(stacks):
    """Of 100 and 101 rows 90 train, and 10 or 11 validate."""

    def fit_of(n_rows, alpha):
        params = {**MEAN_LOSS, "early_stopping": True, "alpha": alpha}
        return lambda: clone(MLP).set_params(**params).fit(X[:n_rows], Y[:n_rows])

    _check([fit_of(n_rows, alpha) for alpha in (0.0, 1.0, 2.0) for n_rows in (100, 101)], stacks)
    assert sorted(stacks.sizes) == [3, 3]


def test_a_search_routes_validation_rows(stacks):
    features, validation = 100 * X, 100 * X_VAL
    with sklearn.config_context(enable_metadata_routing=True):
        mlp = clone(MLP).set_params(**ES, scoring="neg_log_loss").set_fit_request(X_val=True, y_val=True)
        pipeline = make_pipeline(StandardScaler(), mlp, transform_input=["X_val"])

        def fitted():
            params = {"X_val": validation, "y_val": Y_VAL}
            pipelines = cross_validate(pipeline, features, Y, cv=6, params=params, return_estimator=True)["estimator"]
            return [pipeline[-1] for pipeline in pipelines]

        expected = fitted()
        with stacked_fits():
            ours = fitted()
    assert_same_fits(ours, expected)
    # Each fold scales validation rows in its own way.
    assert len({model.validation_loss_curve_[0] for model in ours}) == 6
    stacks.assert_stacked(6)
