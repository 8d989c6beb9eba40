"""Tools of scikit-learn that fit several estimators give in stacks what they give without."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier, StackingClassifier, VotingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
    learning_curve,
    permutation_test_score,
    validation_curve,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktorch_mlp import stacked_fits
from tests.parallel.fits import FILTERS, MLP, PIPELINE, PIPELINE_GRID, Y3, X, Y, counted_fits, fits_of, in_parallel

pytestmark = [pytest.mark.usefixtures("two_trainers", "no_thread_left"), *map(pytest.mark.filterwarnings, FILTERS)]

MAX_ITER = "mlptorchclassifier__max_iter"


def _scores(search, y=Y):
    return search.fit(X, y).cv_results_["mean_test_score"]


def _bagging(mlp):
    return BaggingClassifier(mlp, 3, random_state=0)


TOOLS = {
    "GridSearchCV": lambda: _scores(GridSearchCV(PIPELINE, PIPELINE_GRID, cv=3)),
    "RandomizedSearchCV": lambda: _scores(RandomizedSearchCV(PIPELINE, PIPELINE_GRID, n_iter=4, cv=3, random_state=0)),
    "HalvingGridSearchCV": lambda: _scores(
        HalvingGridSearchCV(PIPELINE, PIPELINE_GRID, cv=3, resource=MAX_ITER, max_resources=9, random_state=0)
    ),
    "cross_val_score": lambda: cross_val_score(PIPELINE, X, Y),
    "cross_val_predict": lambda: cross_val_predict(PIPELINE, X, Y, method="predict_proba"),
    "learning_curve": lambda: learning_curve(PIPELINE, X, Y, cv=3)[2],
    "validation_curve": lambda: validation_curve(MLP, X, Y, param_name="alpha", param_range=[0, 1.0])[1],
    "permutation_test_score": lambda: permutation_test_score(MLP, X, Y, n_permutations=4, random_state=0)[1],
    "BaggingClassifier": lambda: _bagging(clone(MLP).set_params(batch_size=203)).fit(X, Y).predict_proba(X),
    "OneVsRestClassifier": lambda: OneVsRestClassifier(MLP).fit(X, Y).predict_proba(X),
    "OneVsOneClassifier": lambda: OneVsOneClassifier(MLP).fit(X, Y3).predict(X),
    "MultiOutputClassifier": lambda: np.stack(
        MultiOutputClassifier(MLP).fit(X, np.stack([Y3, Y3[::-1]], 1)).predict_proba(X)
    ),
    "StackingClassifier": lambda: (
        StackingClassifier([("a", MLP), ("b", PIPELINE), ("c", LogisticRegression())], cv=3).fit(X, Y).predict_proba(X)
    ),
    "VotingClassifier": lambda: (
        VotingClassifier([("a", MLP), ("b", PIPELINE)], voting="soft").fit(X, Y).predict_proba(X)
    ),
    "CalibratedClassifierCV": lambda: CalibratedClassifierCV(PIPELINE, cv=3).fit(X, Y).predict_proba(X),
    "search of OneVsRest": lambda: _scores(
        GridSearchCV(OneVsRestClassifier(MLP), {"estimator__alpha": [0.0, 1.0]}, cv=2), Y3
    ),
    "search of a pipeline of Bagging of a pipeline": lambda: _scores(
        GridSearchCV(
            make_pipeline(StandardScaler(), _bagging(PIPELINE)), {"baggingclassifier__max_samples": [0.5, 1.0]}, cv=2
        ),
        Y3,
    ),
    "search of a search": lambda: cross_val_score(GridSearchCV(PIPELINE, PIPELINE_GRID, cv=2), X, Y, cv=2),
    "search of a forest": lambda: _scores(
        GridSearchCV(RandomForestClassifier(5, random_state=0), {"max_depth": [2, 4]}, cv=2)
    ),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_get_what_they_get_without(tool, stacks):
    with counted_fits() as alone:
        expected = TOOLS[tool]()
    assert stacks.sizes == []  # a plain fit is no stack
    with stacked_fits(), counted_fits() as outside:
        np.testing.assert_allclose(TOOLS[tool](), expected, rtol=1e-7, atol=1e-9)
    # A tool may fit one estimator itself, as a search does in the end; it does so in this thread.
    assert sum(stacks.sizes) + len(outside) == len(alone)
    # Two fits are one for each trainer; one-vs-one has other rows, and numbers of mini-batches, for each pair.
    if len(alone) > 2 and tool != "OneVsOneClassifier":
        assert max(stacks.sizes) > 1


REPORTS = {
    "pipeline": (PIPELINE, PIPELINE_GRID),
    "regularization": (MLP, {"dropout": [0.1, 0.5], "alpha": [0.0, 1.0]}),
    "smoothing and clipping": (MLP, {"label_smoothing": [0.0, 0.1], "gradient_clip_norm": [None, 0.5]}),
    "adamw": (MLP, {"solver": ["adamw"], "weight_decay": [0.0, 0.5], "learning_rate": ["cosine", "one_cycle"]}),
    "layers": (MLP, {"normalization": [None, "batch", "layer"], "activation": ["relu", ("mish",)]}),
    "balance": (MLP, {"class_weight": [None, "balanced"], "weight_init": ["auto", "he_normal"]}),
}


@pytest.mark.parametrize("name", REPORTS)
def test_a_search_is_the_same_in_all_it_reports(name, stacks):
    estimator, grid = REPORTS[name]
    scoring = ["accuracy", "neg_log_loss"]
    search = GridSearchCV(estimator, grid, cv=3, return_train_score=True, scoring=scoring, refit="accuracy")
    expected = clone(search).fit(X, Y)
    with stacked_fits():
        search.fit(X, Y)
    assert search.best_params_ == expected.best_params_
    assert search.cv_results_.keys() == expected.cv_results_.keys()
    for column, values in expected.cv_results_.items():
        if column.startswith("param"):
            assert list(search.cv_results_[column]) == list(values)
        elif "time" not in column:
            np.testing.assert_allclose(search.cv_results_[column], values, rtol=1e-8)
    stacks.assert_stacked(3 * len(search.cv_results_["params"]))


def test_verbose_fits_print_one_after_the_other(capsys):
    grid = [{"verbose": True, "max_iter": n, "alpha": n} for n in (2, 4, 3)]
    fits = fits_of(MLP, grid, X, Y)
    for fit in fits:
        fit()
    expected = capsys.readouterr().out.splitlines()
    with stacked_fits():
        in_parallel(fits)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(expected) == 3 * (2 + 4 + 3)
    numbers = [int(line.split()[1].rstrip(",")) for line in lines]
    begins = [i for i, number in enumerate(numbers) if number == 1]
    blocks = [numbers[start:stop] for start, stop in zip(begins, [*begins[1:], None], strict=True)]
    assert sorted(blocks) == sorted([[1, 2], [1, 2, 3, 4], [1, 2, 3]] * 3)
