"""Packs, time limits and callbacks of the estimators for raw tables."""

import dataclasses
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scipy.stats
from sklearn.callback import ProgressBar
from sklearn.exceptions import ConvergenceWarning

from sktorch_mlp import TabularMLPClassifier, TabularMLPRegressor
from sktorch_mlp._estimators import candidates
from sktorch_mlp._training.loop import train
from tests.estimators.tables import ONE_STACK, SMALL, numbers, table
from tests.interop.recorder import Recorder


@pytest.fixture(scope="module")
def fitted():
    return TabularMLPClassifier(**SMALL).fit(*table())


# Packs -------------------------------------------------------------------------------


PACK = {
    "hyperparameters": {"hidden_layer_sizes": [(4,), (16,)], "learning_rate_init": scipy.stats.loguniform(1e-3, 1e-2)}
}


def test_a_pack_is_weighted_by_held_out_losses():
    X, y = table()
    model = TabularMLPClassifier(**SMALL | PACK, n_candidates=4).fit(X, y)
    board = model.leaderboard_
    assert len(board) == 4
    assert board["validation_loss"].is_monotonic_increasing
    assert board["weight"].sum() == pytest.approx(1)
    assert board["weight"].iloc[0] > 0
    assert set(board["hidden_layer_sizes"]) <= {(16, 8), (4,), (16,)}
    assert model.estimator_weights_.sum() == pytest.approx(1)
    members_ = [member.predict_proba(X) for member in model.estimators_]
    expected = np.tensordot(model.estimator_weights_, members_, 1)
    np.testing.assert_allclose(model.predict_proba(X), expected, rtol=1e-5, atol=1e-7)


def test_the_first_candidate_of_a_pack_is_the_default():
    X, y = table()
    pack = TabularMLPClassifier(**SMALL | PACK, n_candidates=2).fit(X, y)
    alone = TabularMLPClassifier(**SMALL).fit(X, y)
    first = [r["loss"] for r in pack.history_ if r["candidate"] == 0]
    assert first == pytest.approx([r["loss"] for r in alone.history_], rel=1e-6)


def test_a_list_is_drawn_without_replacement():
    X, y = table()
    pack = {"hyperparameters": {"hidden_layer_sizes": [4, (8, 8)]}}
    board = TabularMLPClassifier(**SMALL | pack, n_candidates=10).fit(X, y).leaderboard_
    assert sorted(board["hidden_layer_sizes"]) == [(4,), (8, 8), (16, 8)]


def test_losers_of_a_pack_stop_early():
    X, y = numbers()
    pack = {"hyperparameters": {"learning_rate_init": [1e-9, 2e-9, 3e-9]}, "max_iter": 16}
    board = TabularMLPRegressor(**SMALL | pack | {"hidden_layer_sizes": (64,)}).fit(X, y).leaderboard_
    assert board["n_iter"].iloc[0] == 16
    assert (board["n_iter"].iloc[1:] < 16).all()


def test_halving_compares_networks_that_hold_out_the_same_rows():
    X, y = numbers()
    pack = {"hyperparameters": {"learning_rate_init": [1e-9, 2e-9]}, "n_estimators": 8, "max_iter": 16}
    history = pd.DataFrame(TabularMLPRegressor(**SMALL | pack).fit(X, y).history_)
    n_epochs = history.groupby(["candidate", "estimator"])["epoch"].max().unstack()
    assert (n_epochs.loc[0] == 16).all()
    assert (n_epochs.loc[1:] < 16).all(axis=None)  # both stacks of each loser


def test_losses_of_the_leaderboard_are_losses_whatever_the_score():
    X, y = table()
    pack = {"hyperparameters": {"dropout": [0.3]}, "scoring": "accuracy"}
    model = TabularMLPClassifier(**SMALL | pack).fit(X, y)
    history = pd.DataFrame(model.history_)
    best = history.loc[history.groupby(["candidate", "estimator"])["validation_score"].idxmax()]  # the first of equals
    expected = best.groupby("candidate")["validation_loss"].mean()
    board = model.leaderboard_.set_index("candidate")["validation_loss"]
    assert board.sort_index().tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize("bad", [{"learning_rate_init": [1e30]}, {"weight_decay": [1e6]}])
def test_a_candidate_that_diverges_is_left_out(bad):
    X, y = table()
    model = TabularMLPClassifier(**SMALL | {"hyperparameters": bad}).fit(X, y)
    alone = TabularMLPClassifier(**SMALL).fit(X, y)
    assert model.leaderboard_["weight"].tolist() == [1, 0]
    np.testing.assert_allclose(model.predict_proba(X), alone.predict_proba(X), rtol=1e-5)
    np.testing.assert_allclose(model.oof_prediction_, alone.oof_prediction_, rtol=1e-5)


def test_a_candidate_that_is_interrupted_takes_no_rows_from_the_others():
    X, y = table()
    n_calls = 0

    def interrupting(estimator, X, y):
        nonlocal n_calls
        n_calls += 1
        if n_calls > 4 * SMALL["max_iter"]:  # in the first networks of the second candidate
            raise KeyboardInterrupt
        return float(n_calls)

    pack = {"hyperparameters": {"learning_rate_init": [0.01]}, "scoring": interrupting, "n_estimators": 4}
    folds = {"validation_fraction": 0.25}
    with pytest.warns(UserWarning, match="interrupted"):
        model = TabularMLPClassifier(**SMALL | pack | folds).fit(X, y)
    assert not np.isnan(model.oof_prediction_).any()
    assert len(model.leaderboard_) == 2


@pytest.mark.parametrize(
    "sizes", [[8, 4], [[8], [4]], np.array([8, 4]), [np.array([8]), np.array([4])], scipy.stats.randint(4, 5)]
)
def test_layer_sizes_may_be_given_in_many_ways(sizes):
    pack = {"hyperparameters": {"hidden_layer_sizes": sizes}, "max_iter": 1}
    board = TabularMLPClassifier(**SMALL | pack, n_candidates=3).fit(*table()).leaderboard_
    assert set(board["hidden_layer_sizes"]) <= {(16, 8), (8,), (4,)}
    assert (4,) in set(board["hidden_layer_sizes"])


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"hyperparameters": {"n_bins": 3}}, "list or a distribution of scipy for each name, got 3 for 'n_bins'"),
        ({"hyperparameters": {"n_bins": "abc"}}, "list or a distribution of scipy"),
        ({"hyperparameters": {"n_bins": []}}, "empty list for 'n_bins'"),
        (
            {"hyperparameters": {"n_bins": {8, 16}}},
            "list or a distribution of scipy",
        ),  # whose order is not reproducible
        ({"hyperparameters": {1: [1], "a": [1]}}, "unknown names"),
        ({"hyperparameters": {"hidden_layer_sizes": ["8"]}}, "hidden_layer_sizes"),
        ({"hyperparameters": {"momentum": [0.9]}}, "unknown names.*momentum"),
        ({"hyperparameters": {"dropout": [1.5]}}, "dropout"),
        ({"hyperparameters": {"hidden_layer_sizes": [(0,)]}}, "must be > 0"),
        ({"n_candidates": 3}, "n_candidates=3 is for hyperparameters"),
        ({"hyperparameters": "auto", "validation_fraction": 0}, "held-out rows"),
        ({"hyperparameters": "all"}, "hyperparameters"),
    ],
)
def test_a_pack_that_cannot_be_is_an_error(params, match):
    with pytest.raises(ValueError, match=match):
        TabularMLPClassifier(**SMALL | params).fit(*table())


# Time and progress -------------------------------------------------------------------


def test_a_time_limit_ends_training_within_an_epoch(monkeypatch):
    """The clock goes a third of a second with each look, and there is one look in each epoch."""
    X, y = numbers()
    clock = iter(np.arange(10000) / 3)
    monkeypatch.setattr(candidates, "_now", lambda: float(next(clock)))
    model = TabularMLPRegressor(**SMALL | {"max_iter": 500, "time_limit": 12.0})
    with pytest.warns(ConvergenceWarning, match=r"time_limit=12.0 ended training after \d+ of 500 epochs"):
        model.fit(X, y)
    assert 2 <= model.n_iter_ <= 36


@pytest.fixture
def seconds_of_epochs(monkeypatch):
    """A clock on which the epochs take these seconds, one after the other, and all else nothing."""
    now, seconds = [0.0], []
    monkeypatch.setattr(candidates, "_now", lambda: now[0])
    end = candidates.StackMonitor.end_epoch

    def end_later(self, network, k):
        if self._is_in_epoch:
            now[0] += seconds.pop(0) if len(seconds) > 1 else seconds[0]
        return end(self, network, k)

    monkeypatch.setattr(candidates.StackMonitor, "end_epoch", end_later)
    monkeypatch.setattr(candidates, "PATIENCE", 1000)
    return seconds


def test_the_rate_falls_to_zero_within_a_time_limit(seconds_of_epochs):
    seconds_of_epochs[:] = [1.0]
    X, y = numbers()
    with pytest.warns(ConvergenceWarning, match="ended training after 20 of 500 epochs"):
        model = TabularMLPRegressor(**ONE_STACK | {"max_iter": 500, "time_limit": 20.0}).fit(X, y)
    rates = [r["learning_rate"] for r in model.history_ if r["estimator"] == 0]
    assert len(rates) == 20
    assert rates[-1] < 0.01 * rates[0]
    assert rates == sorted(rates, reverse=True)


def test_a_slow_first_epoch_does_not_shorten_training(seconds_of_epochs):
    seconds_of_epochs[:] = [10.0, 0.1]
    X, y = numbers()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        limited = TabularMLPRegressor(**ONE_STACK | {"max_iter": 20, "time_limit": 20.0}).fit(X, y)
    free = TabularMLPRegressor(**ONE_STACK | {"max_iter": 20}).fit(X, y)
    rates = [[r["learning_rate"] for r in model.history_ if r["estimator"] == 0] for model in (limited, free)]
    assert len(rates[0]) == 20
    assert rates[0] == rates[1]


def test_a_plan_that_was_shortened_is_reported_whatever_ends_training(seconds_of_epochs, monkeypatch):
    seconds_of_epochs[:] = [1.0]
    monkeypatch.setattr(candidates, "PATIENCE", 1)
    X, y = numbers()
    model = TabularMLPRegressor(**ONE_STACK | {"max_iter": 500, "time_limit": 300.0})
    with pytest.warns(ConvergenceWarning, match=r"time_limit=300.0 ended training after \d+ of 500 epochs"):
        model.fit(X, y)
    assert model.n_iter_ < 300


def test_the_default_of_a_pack_has_all_the_time_it_needs(seconds_of_epochs):
    seconds_of_epochs[:] = [1.0]
    X, y = numbers()
    pack = {"hyperparameters": {"learning_rate_init": [1e-4, 2e-4, 3e-4]}, "max_iter": 10, "time_limit": 14.0}
    with pytest.warns(ConvergenceWarning):
        board = TabularMLPRegressor(**ONE_STACK | pack).fit(X, y).leaderboard_.set_index("candidate")
    assert board["n_iter"][0] == 10  # 4 seconds are left, and 5 would be enough for another one
    assert list(board.index) == [0]


def test_no_warning_without_a_time_limit_that_was_reached():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TabularMLPClassifier(**SMALL, time_limit=1000).fit(*table())


def test_a_line_for_each_epoch(capsys):
    TabularMLPClassifier(**ONE_STACK, verbose=True).fit(*table())
    lines = capsys.readouterr().out.splitlines()
    assert [re.match(r"Epoch (\d), 3 networks: loss = \S+, validation loss = \S+", line)[1] for line in lines] == list(
        "1234"
    )


def test_one_progress_bar_for_all_networks(capsys):
    TabularMLPClassifier(**SMALL).set_callbacks(ProgressBar()).fit(*table())
    assert capsys.readouterr().out.count("TabularMLPClassifier - fit") == 1


def test_sparse_rows_are_trained_network_by_network(capsys):
    X, y = numbers()
    model = TabularMLPRegressor(**SMALL, verbose=True).set_callbacks(ProgressBar()).fit(sp.csr_array(X), y)
    epochs = re.findall(r"Epoch \d", capsys.readouterr().out)
    assert epochs == [f"Epoch {epoch}" for epoch in range(1, 5)] * 3
    assert model.n_iter_ == 4


def test_a_callback_that_stops_ends_all_candidates():
    model = TabularMLPClassifier(**SMALL | PACK, n_candidates=3).set_callbacks(Recorder(stop_after=2))
    board = model.fit(*table()).leaderboard_
    assert board["n_iter"].tolist() == [2]


def test_callbacks_end_where_a_fit_fails():
    torn_down = []

    class Watch(Recorder):
        def teardown(self, estimator, context):
            torn_down.append(estimator)

    model = TabularMLPClassifier(**SMALL, scoring=lambda *_: np.nan).set_callbacks(Watch())
    with pytest.raises(ValueError, match="gives nan"):
        model.fit(*table())
    assert torn_down == [model]
    assert not hasattr(model, "classes_")


def test_callbacks_get_fitted_estimators():
    X, y = table()
    seen = []

    class Watch(Recorder):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            if context.task_name == "epoch":
                seen.append(fitted_estimator.predict_proba(X))
            return len(seen) == 2

    model = TabularMLPClassifier(**SMALL).set_callbacks(Watch()).fit(X, y)
    assert len(seen) == model.n_iter_ == 2
    assert np.abs(seen[0] - seen[1]).max() > 1e-4


def test_ctrl_c_keeps_what_has_been_learned(monkeypatch):
    def interrupted(fits, *args):
        calls = []

        def check():
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt

        train(fits, check)

    monkeypatch.setattr(candidates, "train", interrupted)
    X, y = table()
    with pytest.warns(UserWarning, match="interrupted"):
        model = TabularMLPClassifier(**SMALL).fit(X, y)
    assert model.n_iter_ == 2
    assert model.predict(X).shape == y.shape


def test_ctrl_c_leaves_out_networks_that_have_not_begun(monkeypatch):
    def interrupted(fits, *args):
        for fit in fits:
            fit.options = dataclasses.replace(fit.options, max_iter=1)
        train(fits)
        fits[0].progress.stop_reason = "interrupted"

    monkeypatch.setattr(candidates, "train", interrupted)
    X, y = numbers()
    with pytest.warns(UserWarning, match="interrupted"):
        model = TabularMLPRegressor(**SMALL).fit(sp.csr_array(X), y)
    assert len(model.estimators_) == len(model.estimator_weights_) == 1


def test_history_has_a_record_for_each_network_and_epoch(fitted):
    history = pd.DataFrame(fitted.history_)
    assert len(history) == 3 * fitted.n_iter_
    assert {"candidate", "estimator", "epoch", "loss", "validation_loss", "learning_rate", "seconds"} <= set(history)
