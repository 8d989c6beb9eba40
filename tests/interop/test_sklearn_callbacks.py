"""Callbacks of scikit-learn: an epoch is a task of the fit, alone, in searches and in stacks."""

from contextlib import nullcontext

import numpy as np
import pytest
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktorch_mlp import stacked_fits
from tests.interop.recorder import Recorder
from tests.interop.watched import X, Y, classifier

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer", "ignore:lbfgs failed to converge")


# A fit ----------------------------------------------------------------------------------


def test_epochs_are_tasks_of_the_fit():
    recorder = Recorder()
    classifier(max_iter=2).set_callbacks(recorder).fit(X, Y)
    n = len(X)
    epochs = [call for k in range(2) for call in (("begin", "epoch", k, n, n), ("end", "epoch", k, None))]
    fit = ("begin", "fit", 0, n, n), ("end", "fit", 0, None)
    assert recorder.calls == ["setup", fit[0], *epochs, fit[1], "teardown"]


def test_callbacks_see_sample_weights_as_metadata():
    recorder = Recorder()
    weights = np.linspace(0.5, 1.5, len(X))
    classifier(max_iter=1).set_callbacks(recorder).fit(X, Y, weights)
    (metadata,) = [call[3] for call in recorder.calls if call[:2] == ("end", "epoch")]
    assert metadata == {"sample_weight": weights}


@pytest.mark.parametrize(
    "params", [{}, {"solver": "lbfgs"}, {"early_stopping": True}], ids=["adam", "lbfgs", "early stopping"]
)
def test_a_callback_that_returns_true_stops_the_fit(params):
    recorder = Recorder(stop_after=3)
    model = classifier(max_iter=50, **params).set_callbacks(recorder).fit(X, Y)
    assert model.n_iter_ == 3
    assert recorder.calls[-1] == "teardown"
    limited = classifier(max_iter=3, **params).fit(X, Y)
    for coef, expected in zip(model.coefs_, limited.coefs_, strict=True):
        np.testing.assert_array_equal(coef, expected)


def test_all_callbacks_are_told_although_one_stops_the_fit():
    recorders = Recorder(stop_after=2), Recorder()
    classifier().set_callbacks(*recorders).fit(X, Y)
    assert recorders[0].calls == recorders[1].calls


def test_teardown_after_a_failure():
    recorder = Recorder()
    with pytest.raises(ValueError, match="non-finite"):
        classifier(solver="sgd", learning_rate_init=1e12).set_callbacks(recorder).fit(X * 1e6, Y)
    assert recorder.calls[-1] == "teardown"


@pytest.mark.parametrize(
    "params",
    [{}, {"normalization": "batch", "dropout": 0.2}, {"solver": "lbfgs"}],
    ids=["adam", "batch normalization and dropout", "lbfgs"],
)
def test_the_fitted_estimator_of_an_epoch_is_that_of_a_shorter_fit(params):
    seen = []

    class Keep(Recorder):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            if context.task_name == "epoch":
                seen.append((fitted_estimator, fitted_estimator.predict_proba(X)))

    model = classifier(**params).set_callbacks(Keep()).fit(X, Y)
    assert len(seen) == 6
    for n_epochs, (fitted, probabilities) in enumerate(seen, start=1):
        np.testing.assert_array_equal(fitted.predict_proba(X), probabilities)  # it stays what it was
        shorter = classifier(**params | {"max_iter": n_epochs}).fit(X, Y)
        # scipy's line search may leave the last digits of a later iteration in memory.
        np.testing.assert_allclose(probabilities, shorter.predict_proba(X), rtol=1e-10)
    np.testing.assert_array_equal(probabilities, model.predict_proba(X))


def test_callbacks_do_not_change_the_fit():
    plain = classifier().fit(X, Y)
    watched = classifier().set_callbacks(Recorder(), ScoringMonitor(scoring="accuracy")).fit(X, Y)
    for coef, expected in zip(watched.coefs_, plain.coefs_, strict=True):
        # Buffers may lie elsewhere in memory, where products round otherwise.
        np.testing.assert_allclose(coef, expected, rtol=1e-12)


# Searches and stacks --------------------------------------------------------------------


@pytest.mark.parametrize("place", [nullcontext, stacked_fits], ids=["plain", "stacks"])
def test_scoring_monitor_in_a_search(place):
    monitor = ScoringMonitor(scoring="accuracy")
    pipeline = make_pipeline(StandardScaler(), classifier().set_callbacks(monitor))
    with place():
        GridSearchCV(pipeline, {"mlptorchclassifier__alpha": [0.0, 0.1]}, cv=3, refit=False).fit(X, Y)
    logs = monitor.get_logs(select="all")
    scores = [row["accuracy"] for log in logs for row in log.data if row["task_name"] == "epoch"]
    assert len(scores) == 2 * 3 * 6
    assert max(scores) > 0.7


def test_one_progress_bar_for_a_search_in_stacks(capsys):
    search = GridSearchCV(classifier(), {"alpha": [0.0, 0.1]}, cv=2, refit=False)
    with stacked_fits():
        search.set_callbacks(ProgressBar(max_propagation_depth=0)).fit(X, Y)
    output = capsys.readouterr().out
    assert "GridSearchCV - fit" in output
    assert "MLPTorchClassifier" not in output


def test_a_callback_stops_one_fit_of_a_stack():
    class StopsOne(Recorder):
        def on_fit_task_end(self, estimator, context):
            return estimator.alpha == 0.1 and context.task_id == 1

    class Keeps(Recorder):
        n_iter = {}

        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            if context.task_name == "fit":
                self.n_iter[estimator.alpha] = fitted_estimator.n_iter_

    mlp = classifier().set_callbacks(StopsOne(), Keeps())
    with stacked_fits():
        GridSearchCV(mlp, {"alpha": [0.0, 0.1, 0.2]}, cv=2, refit=False).fit(X, Y)
    assert Keeps.n_iter == {0.0: 6, 0.1: 2, 0.2: 6}


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")
def test_a_stack_that_is_trained_again_has_each_epoch_once():
    """A fit fails in the third epoch; its stack is halved, and callbacks see the others begin anew."""

    class FailsIn(Recorder):
        def on_fit_task_end(self, estimator, context):
            if estimator.alpha == 0.2 and context.task_id == 2:
                raise RuntimeError("in the third epoch")
            return super().on_fit_task_end(estimator, context)

    recorder = FailsIn()
    search = GridSearchCV(classifier().set_callbacks(recorder), {"alpha": [0.0, 0.1, 0.2, 0.3]}, cv=2, refit=False)
    with stacked_fits(), pytest.warns(FitFailedWarning, match="2 fits failed"):
        search.fit(X, Y)
    scores = search.cv_results_["mean_test_score"]
    assert np.isnan(scores).tolist() == [False, False, True, False]
    assert recorder.calls.count("setup") == recorder.calls.count("teardown") == 8
    assert sum(call[:3] == ("end", "epoch", 5) for call in recorder.calls) == 6  # those that did not fail
