"""Progress: improvement counted as scikit-learn counts it, and progress over several fits."""

import copy
import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier

from sktorch_mlp._training.progress import DivergenceError, Progress


def _sklearns_model(tol):
    """A model of scikit-learn that can count improvements, and has not been fitted."""
    model = MLPClassifier(tol=tol)
    model._no_improvement_count, model.best_loss_, model.best_validation_score_ = 0, np.inf, -np.inf
    model.loss_curve_, model.validation_scores_, model.coefs_, model.intercepts_ = [], [], [], []
    return model


#: Steps of exactly `tol`, among others, and plateaus.
VALUES = [2.0, 1.5, 1.0, 0.5, 0.5, 0.75, 0.25, 0.25, 0.125, 0.0, 3.0, -0.5]


@pytest.mark.parametrize("tol", [0.0, 0.25, 0.5])
def test_losses_are_counted_as_by_sklearn(tol):
    theirs, progress = _sklearns_model(tol), Progress()
    for value in VALUES:
        theirs.loss_curve_.append(value)
        theirs._update_no_improvement_count(False, None, None, None)
        progress.loss_curve.append(value)
        progress.update_best_loss(tol)
        assert progress.n_epochs_no_change == theirs._no_improvement_count
        assert progress.best_loss == theirs.best_loss_


@pytest.mark.parametrize("tol", [0.0, 0.25, 0.5])
def test_scores_are_counted_as_by_sklearn(tol):
    theirs, progress = _sklearns_model(tol), Progress()
    for epoch, value in enumerate(VALUES, start=1):
        theirs._score, theirs._best_coefs = lambda X, y, sample_weight, value=value: -value, None
        theirs._update_no_improvement_count(True, None, None, None)
        progress.add_epoch(1.0, 0.1, 0.0)
        progress.validation_scores.append(-value)
        is_best = progress.update_best_score(tol)
        assert is_best == (theirs._best_coefs is not None)
        assert progress.n_epochs_no_change == theirs._no_improvement_count
        assert progress.best_validation_score == theirs.best_validation_score_
        if is_best:
            assert progress.best_n_iter == epoch


def test_an_epoch_is_recorded_with_its_number():
    progress = Progress(n_epochs_before=4)
    progress.add_epoch(0.5, 0.01, 2.0)
    progress.add_epoch(0.4, 0.02, 3.0)
    assert progress.records == [
        {"epoch": 5, "loss": 0.5, "learning_rate": 0.01, "seconds": 2.0},
        {"epoch": 6, "loss": 0.4, "learning_rate": 0.02, "seconds": 3.0},
    ]
    assert (progress.n_iter, progress.n_epochs, progress.loss_curve) == (2, 6, [0.5, 0.4])


# Several fits --------------------------------------------------------------------------


def _advance(progress, losses, scores):
    """Train epochs with these losses and scores."""
    progress.n_iter = 0
    for loss, score in zip(losses, scores, strict=True):
        progress.add_epoch(loss, 0.1, 0.0)
        progress.n_rows_seen += 10
        progress.validation_scores.append(score)
        progress.validation_losses.append(-score)
        progress.update_best_score(0.1)
        progress.best_loss = min(progress.best_loss, loss)
    progress.stop_reason = "max_iter"


LOSSES, SCORES = [5.0, 4.0, 4.5, 3.0, 3.5, 3.4, 3.6], [0.1, 0.5, 0.4, 0.45, 0.8, 0.7, 0.75]


@pytest.mark.parametrize("bounds", [[0, 2, 7], [0, 6, 7], [0, 1, 3, 7]], ids=str)
def test_fits_that_resume_add_up_to_one(bounds):
    whole, added = Progress(), Progress()
    _advance(whole, LOSSES, SCORES)
    for start, stop in pairwise(bounds):
        further = added.resume()
        assert (further.records, further.loss_curve, further.n_iter, further.stop_reason) == ([], [], 0, "")
        assert further.n_epochs == start
        _advance(further, LOSSES[start:stop], SCORES[start:stop])
        before = copy.deepcopy(further)
        added.extend(further)
        assert further == before
        assert added.n_iter == stop - start
    added.n_iter = whole.n_iter
    assert added == whole
    assert added.best_n_iter == 5


def test_a_failure_loses_nothing():
    progress = Progress()
    _advance(progress, LOSSES[:3], SCORES[:3])
    before = copy.deepcopy(progress)
    _advance(progress.resume(), LOSSES[3:], SCORES[3:])
    assert progress == before


def test_a_state_dict_restores_progress():
    progress = Progress()
    _advance(progress, LOSSES[:3], SCORES[:3])
    state, expected = progress.state_dict(), copy.deepcopy(progress)
    for _ in range(2):  # a state may be loaded more than once: it does not change with the progress
        _advance(progress, LOSSES[3:], SCORES[3:])
        progress.records[0]["loss"] = math.nan
        progress.load_state_dict(state)
        assert progress == expected
    other = Progress()
    other.load_state_dict(state)
    assert other == expected
    other.records[0]["loss"] = math.nan
    assert state["records"][0]["loss"] == 5.0


def test_a_divergence_says_what_to_do():
    message = str(DivergenceError("The loss became nan."))
    assert message.startswith("Solver produced non-finite parameter weights. The input data may contain large values")
    assert "The loss became nan. Scale the features" in message
    assert "lower learning_rate_init" in message


def test_a_divergence_comes_from_another_process_as_it_was():
    error = DivergenceError("The loss became nan.", remedy="Lower the learning rate.")
    error.add_note("fold 3")
    for _ in range(2):
        copied = pickle.loads(pickle.dumps(error))
        assert (str(copied), copied.args, copied.__notes__) == (str(error), error.args, ["fold 3"])
