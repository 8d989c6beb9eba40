"""Pictures of fits and searches."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import loguniform, randint
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, RandomizedSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktorch_mlp import LossCurveDisplay, SearchDisplay, TabularMLPClassifier, TabularMLPRegressor, stacked_fits
from sktorch_mlp._estimators.curves import LossCurve
from tests.estimators.helpers import LABELS, NUMBERS, SMALL, X, ours

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
SMALL_TABLE = {"n_estimators": 3, "hidden_layer_sizes": (8,), "max_iter": 5, "random_state": 0}


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def stopped():
    """A classifier with early stopping."""
    return ours("classifier", early_stopping=True, max_iter=12).fit(X, LABELS)


@pytest.fixture(scope="module")
def ensemble():
    return TabularMLPClassifier(**SMALL_TABLE).fit(X, LABELS)


def labels_of(display):
    return [line.get_label() for line in display.lines_ if not line.get_label().startswith("_")]


def texts_of_legend(display):
    return [text.get_text() for text in (display.score_ax_ or display.ax_).get_legend().get_texts()]


def drawn(display):
    """Draw it whole, for errors and warnings."""
    display.figure_.canvas.draw()
    return display


# Losses ----------------------------------------------------------------------------------


def test_losses_of_one_fit(stopped):
    display = drawn(LossCurveDisplay.from_estimator(stopped))
    assert labels_of(display) == ["training loss", "validation loss", "best epoch"]
    training, validation, best = display.lines_
    assert_array_equal(training.get_ydata(), stopped.loss_curve_)
    assert_array_equal(training.get_xdata(), np.arange(1, stopped.n_iter_ + 1))
    assert_array_equal(validation.get_ydata(), stopped.validation_loss_curve_)
    assert best.get_xdata() == stopped.best_n_iter_
    assert best.get_ydata() == stopped.validation_loss_curve_[stopped.best_n_iter_ - 1]
    assert training.get_linestyle() != validation.get_linestyle()
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("Epoch", "Loss")
    assert display.score_ax_ is None
    assert display.figure_ is display.ax_.figure
    assert texts_of_legend(display) == labels_of(display)


def test_scores_have_axes_of_their_own(stopped):
    display = drawn(LossCurveDisplay.from_estimator(stopped, score=True, name="mine"))
    assert labels_of(display)[:3] == [
        f"mine: {what}" for what in ("training loss", "validation loss", "validation score")
    ]
    (score,) = display.score_ax_.get_lines()
    assert_array_equal(score.get_ydata(), stopped.validation_scores_)
    assert display.score_ax_.get_ylabel() == "Validation score"
    assert len(texts_of_legend(display)) == 4


def test_without_early_stopping_the_lowest_validation_loss_is_marked():
    model = ours("classifier").fit(X, LABELS, X_val=X, y_val=LABELS)
    best = LossCurveDisplay.from_estimator(model).lines_[-1]
    assert best.get_xdata() == 1 + np.argmin(model.validation_loss_curve_)
    assert labels_of(LossCurveDisplay.from_estimator(ours("classifier").fit(X, LABELS))) == ["training loss"]


def test_several_differ_without_colors(stopped, ensemble):
    models = {"a": stopped, "b": ours("classifier", solver="sgd").fit(X, LABELS), "c: d": ensemble}
    display = drawn(LossCurveDisplay.from_estimators(models, score=True))
    lines = [line for line in display.lines_ if line.get_linestyle() != "None"]
    assert len({(line.get_marker(), line.get_linestyle()) for line in lines}) == len(lines)
    kinds = ["training loss", "validation loss", "validation score", "best epoch"]
    assert texts_of_legend(display) == [*models, *kinds]
    assert labels_of(display).count("best epoch") == 1


def test_names_of_a_list(stopped):
    reference = MLPClassifier(**SMALL).fit(X, LABELS)
    display = LossCurveDisplay.from_estimators([stopped, reference, stopped])
    names = [curve.name for curve in display.curves]
    assert names == ["MLPTorchClassifier 1", "MLPClassifier", "MLPTorchClassifier 2"]


def test_scikit_learns_own_mlp():
    reference = MLPClassifier(**SMALL, early_stopping=True).fit(X, LABELS)
    display = LossCurveDisplay.from_estimator(reference, score=True)
    assert_array_equal(display.lines_[0].get_ydata(), reference.loss_curve_)
    assert_array_equal(display.score_ax_.get_lines()[0].get_ydata(), reference.validation_scores_)


def test_iterations_of_lbfgs_and_calls_of_partial_fit():
    lbfgs = ours("regressor", solver="lbfgs", max_iter=20).fit(X, NUMBERS)
    display = LossCurveDisplay.from_estimator(lbfgs, log=True)
    assert display.ax_.get_xlabel() == "Iteration"
    assert display.ax_.get_yscale() == "log"
    assert_array_equal(display.lines_[0].get_ydata(), [record["loss"] for record in lbfgs.history_])
    partly = ours("regressor").partial_fit(X, NUMBERS)
    display = LossCurveDisplay.from_estimators([lbfgs, partly.partial_fit(X, NUMBERS)])
    assert display.ax_.get_xlabel() == "Epoch or iteration"
    assert len(display.lines_[1].get_ydata()) == 2


@pytest.mark.parametrize("members", ["band", "lines", None])
def test_ensembles(ensemble, members):
    display = drawn(LossCurveDisplay.from_estimator(ensemble, members=members, log=True))
    losses = np.array([[record["loss"] for record in member.history_] for member in ensemble.estimators_])
    assert_allclose(display.lines_[0].get_ydata(), losses.mean(0))
    assert len(display.bands_) == (2 if members == "band" else 0)
    assert len(display.lines_) == 3 + (6 if members == "lines" else 0)
    if members == "band":
        heights = display.bands_[0].get_paths()[0].vertices[:, 1]
        assert (heights.min(), heights.max()) == (losses.min(), losses.max())
    if members == "lines":
        assert_allclose([line.get_ydata() for line in display.lines_[1:4]], losses)


def test_a_member_and_a_regressor(ensemble):
    display = LossCurveDisplay.from_estimator(ensemble.estimators_[0])
    assert not display.bands_
    scores = [record["validation_score"] for record in ensemble.estimators_[0].history_]
    assert display.lines_[-1].get_xdata() == 1 + np.argmax(scores)
    regressor = TabularMLPRegressor(**SMALL_TABLE, validation_fraction=0).fit(X, NUMBERS)
    assert labels_of(LossCurveDisplay.from_estimator(regressor)) == ["training loss"]


def test_a_pack_has_a_curve_for_each_of_its_candidates():
    grid = {"learning_rate_init": loguniform(5e-4, 5e-3)}
    pack = TabularMLPClassifier(**SMALL_TABLE | {"max_iter": 12}, hyperparameters=grid, n_candidates=3).fit(X, LABELS)
    display = drawn(LossCurveDisplay.from_estimator(pack, name="pack"))
    used = (pack.leaderboard_["weight"] > 0).sum()
    assert len(display.curves) == used
    assert used == 1 or display.curves[0].name.startswith("pack, candidate ")


def test_pipelines_and_searches_are_looked_through(stopped):
    pipeline = make_pipeline(StandardScaler(), ours("classifier"))
    search = GridSearchCV(pipeline, {"mlptorchclassifier__alpha": [1e-4, 1.0]}, cv=2).fit(X, LABELS)
    losses = LossCurveDisplay.from_estimator(search).lines_[0].get_ydata()
    assert_array_equal(losses, search.best_estimator_[-1].loss_curve_)
    target = TransformedTargetRegressor(ours("regressor"), transformer=StandardScaler()).fit(X, NUMBERS)
    losses = LossCurveDisplay.from_estimator(target).lines_[0].get_ydata()
    assert_array_equal(losses, target.regressor_.loss_curve_)


def test_two_displays_on_the_same_axes(stopped):
    _, ax = plt.subplots()
    first = LossCurveDisplay.from_estimator(stopped, ax=ax, name="a", score=True)
    second = drawn(LossCurveDisplay.from_estimator(stopped, ax=ax, name="b", score=True))
    assert first.score_ax_ is second.score_ax_
    assert first.lines_[0].get_color() != second.lines_[0].get_color()
    assert first.lines_[0].get_marker() != second.lines_[0].get_marker()
    assert texts_of_legend(second)[:2] == ["a", "b"]


def test_a_display_can_be_drawn_again(stopped):
    display = LossCurveDisplay.from_estimator(stopped)
    first = display.ax_
    assert display.plot(name="again", line_kw={"linewidth": 3}) is display
    assert display.ax_ is not first
    assert labels_of(display)[0] == "again: training loss"
    assert display.lines_[0].get_linewidth() == 3


def test_not_fitted():
    for model in (ours("classifier"), TabularMLPClassifier(), make_pipeline(StandardScaler(), ours("classifier"))):
        with pytest.raises(NotFittedError, match="is not fitted yet"):
            LossCurveDisplay.from_estimator(model)
    with pytest.raises(NotFittedError, match="This GridSearchCV instance is not fitted yet"):
        LossCurveDisplay.from_estimator(GridSearchCV(ours("classifier"), {"alpha": [1.0]}))


def test_wrong_calls(stopped):
    plain = ours("regressor").fit(X, NUMBERS)
    with pytest.raises(ValueError, match=r"This LogisticRegression has no loss curve.* Pass an MLPTorchClassifier"):
        LossCurveDisplay.from_estimator(LogisticRegression().fit(X, LABELS))
    search = GridSearchCV(ours("classifier"), {"alpha": [1.0]}, refit=False, cv=2).fit(X, LABELS)
    with pytest.raises(ValueError, match="GridSearchCV has no best_estimator_, since refit is False"):
        LossCurveDisplay.from_estimator(search)
    with pytest.raises(ValueError, match=r"score=True needs validation scores.*early_stopping=True"):
        LossCurveDisplay.from_estimator(plain, score=True)
    with pytest.raises(ValueError, match="members must be 'band', 'lines' or None, got 'std'"):
        LossCurveDisplay.from_estimator(stopped, members="std")
    for wrong in (stopped, [], {}, 3, make_pipeline(stopped)):
        with pytest.raises(ValueError, match="from_estimators takes a list of fitted estimators, or a dict"):
            LossCurveDisplay.from_estimators(wrong)
    mine = LossCurve("mine", np.array([[0.5, -0.25]]))  # of a loss function of one's own
    with pytest.raises(ValueError, match=r"log=True needs losses above 0, but one of mine is -0\.25\. Set log=False"):
        LossCurveDisplay(curves=[mine]).plot(log=True)
    assert not plt.get_fignums()


# Searches --------------------------------------------------------------------------------


def search_over(grid, class_=GridSearchCV, **params):
    pipeline = make_pipeline(StandardScaler(), ours("classifier", batch_size="auto"))
    grid = {f"mlptorchclassifier__{name}": values for name, values in grid.items()}
    with stacked_fits():
        return class_(pipeline, grid, cv=3, **params).fit(X, LABELS)


ALPHAS = [1e-4, 1e-2, 1.0]


@pytest.fixture(scope="module")
def grid():
    return search_over({"alpha": ALPHAS, "activation": ["tanh", "relu"]})


@pytest.mark.parametrize("style", ["errorbar", "fill_between", None])
def test_two_parameters(grid, style):
    display = drawn(SearchDisplay.from_search(grid, std_display_style=style))
    assert [line.get_label() for line in display.lines_] == ["tanh", "relu"]
    assert display.ax_.get_legend().get_title().get_text() == "activation"
    assert (display.ax_.get_xlabel(), display.ax_.get_xscale(), display.ax_.get_ylabel()) == ("alpha", "log", "Score")
    results = grid.cv_results_
    is_relu = results["param_mlptorchclassifier__activation"] == "relu"
    assert_array_equal(display.lines_[1].get_xdata(), ALPHAS)
    assert_array_equal(display.lines_[1].get_ydata(), results["mean_test_score"][is_relu])
    assert len(display.errorbars_) == (2 if style == "errorbar" else 0)
    assert len(display.bands_) == (2 if style == "fill_between" else 0)
    markers = {(line.get_marker(), line.get_linestyle()) for line in display.lines_}
    assert len(markers) == 2
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["tanh", "relu", "best"]


def test_the_spread_is_within_the_axes(grid):
    display = drawn(SearchDisplay.from_search(grid))
    low, high = display.ax_.get_ylim()
    mean, std = grid.cv_results_["mean_test_score"], grid.cv_results_["std_test_score"]
    assert low < (mean - std).min()
    assert high > (mean + std).max()
    left, right = display.ax_.get_xlim()
    assert left < 1e-4 < 1.0 < right


def test_one_parameter_has_the_best_of_the_others(grid):
    display = SearchDisplay.from_search(grid, x="alpha")
    (line,) = display.lines_
    of_alpha = [grid.cv_results_["param_mlptorchclassifier__alpha"] == alpha for alpha in ALPHAS]
    assert_array_equal(line.get_ydata(), [grid.cv_results_["mean_test_score"][rows].max() for rows in of_alpha])
    full = SearchDisplay.from_search(grid, x="mlptorchclassifier__alpha")
    assert_array_equal(full.lines_[0].get_ydata(), line.get_ydata())


def test_categories_are_ticks(grid):
    display = drawn(SearchDisplay.from_search(grid, x="activation", hue="alpha"))
    assert [text.get_text() for text in display.ax_.get_xticklabels()] == ["tanh", "relu"]
    assert [line.get_label() for line in display.lines_] == ["0.0001", "0.01", "1"]
    assert display.ax_.get_xscale() == "linear"


def test_tuples_functions_and_none_are_categories():
    values = {"hidden_layer_sizes": [(3,), (3, 2)], "activation": ["relu", torch.nn.functional.softplus]}
    display = drawn(SearchDisplay.from_search(search_over(values), x="hidden_layer_sizes", hue="activation"))
    assert [text.get_text() for text in display.ax_.get_xticklabels()] == ["(3,)", "(3, 2)"]
    assert [line.get_label() for line in display.lines_] == ["relu", "softplus"]
    display = drawn(SearchDisplay.from_search(search_over({"normalization": [None, "layer"]})))
    assert [text.get_text() for text in display.ax_.get_xticklabels()] == ["None", "layer"]


def test_zero_among_decades():
    display = drawn(SearchDisplay.from_search(search_over({"alpha": [0, 1e-4, 1e-3, 0.1]})))
    assert display.ax_.get_xscale() == "symlog"
    assert_array_equal(display.lines_[0].get_xdata(), [0, 1e-4, 1e-3, 0.1])


def test_numbers_drawn_uniformly_are_on_a_linear_axis():
    search = search_over({"max_iter": randint(1, 9)}, RandomizedSearchCV, n_iter=5, random_state=0)
    display = drawn(SearchDisplay.from_search(search))
    assert display.ax_.get_xscale() == "linear"
    assert display.lines_[0].get_linestyle() == "None"


def test_drawn_numbers_are_colors():
    space = {"alpha": loguniform(1e-4, 1), "learning_rate_init": loguniform(1e-4, 1e-1)}
    search = search_over(space, RandomizedSearchCV, n_iter=8, random_state=0, scoring="neg_log_loss")
    display = drawn(SearchDisplay.from_search(search, negate_score=True))
    assert not display.lines_
    assert display.ax_.get_ylabel() == "Log loss"
    (points,) = display.ax_.collections[1:]
    assert_allclose(points.get_offsets()[:, 1], -search.cv_results_["mean_test_score"])
    assert_array_equal(points.get_array(), search.cv_results_["param_mlptorchclassifier__learning_rate_init"])
    assert SearchDisplay.from_search(search).ax_.get_ylabel() == "Negative log loss"
    assert SearchDisplay.from_search(search, score_name="mine").ax_.get_ylabel() == "mine"


def test_halving_has_a_line_for_each_round():
    options = {"min_resources": 20, "factor": 2, "random_state": 0}
    search = search_over({"alpha": ALPHAS}, HalvingGridSearchCV, **options)
    display = drawn(SearchDisplay.from_search(search))
    assert [line.get_label() for line in display.lines_] == [f"{n}" for n in search.n_resources_]
    assert [len(line.get_xdata()) for line in display.lines_] == search.n_candidates_
    last = SearchDisplay.from_search(search, x="alpha").lines_[0]
    final = search.cv_results_["iter"] == search.n_iterations_ - 1
    assert set(search.cv_results_["mean_test_score"][final]) <= set(last.get_ydata())
    assert len(last.get_xdata()) == 3


def test_several_metrics():
    search = search_over({"alpha": ALPHAS}, scoring=["accuracy", "neg_log_loss"], refit="neg_log_loss")
    display = SearchDisplay.from_search(search)
    assert_array_equal(display.lines_[0].get_ydata(), search.cv_results_["mean_test_neg_log_loss"])
    display = SearchDisplay.from_search(search, metric="accuracy")
    assert_array_equal(display.lines_[0].get_ydata(), search.cv_results_["mean_test_accuracy"])
    without = search_over({"alpha": ALPHAS}, scoring=["accuracy", "neg_log_loss"], refit=False)
    with pytest.raises(ValueError, match=r"metric=None is not a score of the search.*'accuracy', 'neg_log_loss'"):
        SearchDisplay.from_search(without)


@pytest.mark.filterwarnings("ignore:Some fits failed|\n.*fits failed", "ignore:One or more of the test scores")
def test_candidates_that_failed_are_left_out():
    search = search_over({"learning_rate_init": [1e-3, 1e300]}, error_score=np.nan)
    assert_array_equal(SearchDisplay.from_search(search).lines_[0].get_xdata(), [1e-3])
    search.cv_results_["mean_test_score"] = np.full(2, np.nan)
    with pytest.raises(ValueError, match="The search has no scores: all its candidates have failed"):
        SearchDisplay.from_search(search)


def test_wrong_names(grid):
    with pytest.raises(ValueError, match=r"x='alfa' is not a parameter of the search. Its parameters are \['mlp.*pass"):
        SearchDisplay.from_search(grid, x="alfa")
    with pytest.raises(ValueError, match="hue='cv' is not a parameter"):
        SearchDisplay.from_search(grid, hue="cv")
    with pytest.raises(ValueError, match="x and hue are both 'mlptorchclassifier__alpha'"):
        SearchDisplay.from_search(grid, x="alpha", hue="mlptorchclassifier__alpha")
    with pytest.raises(ValueError, match=r"metric='recall' is not a score of the search. Its scores are \['score'\]"):
        SearchDisplay.from_search(grid, metric="recall")
    with pytest.raises(ValueError, match=r"hue='alpha' is the only parameter of the search\. Pass it as x"):
        SearchDisplay.from_search(search_over({"alpha": [0.1]}), hue="alpha")
    with pytest.raises(ValueError, match=r"The search has no parameters to draw its scores over\. Give"):
        SearchDisplay.from_search(search_over({}))
    with pytest.raises(ValueError, match="std_display_style must be one of"):
        SearchDisplay.from_search(grid, std_display_style="band")
    with pytest.raises(ValueError, match="This MLPTorchClassifier is not a search"):
        SearchDisplay.from_search(ours("classifier"))
    with pytest.raises(NotFittedError, match="This GridSearchCV instance is not fitted yet"):
        SearchDisplay.from_search(GridSearchCV(ours("classifier"), {"alpha": [1.0]}))
    assert not plt.get_fignums()
