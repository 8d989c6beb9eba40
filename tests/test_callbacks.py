"""Callbacks of scikit-learn and of skorch, against what they see in their own estimators; and ours."""

import io
import pickle
from contextlib import nullcontext
from unittest.mock import MagicMock

import joblib
import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import FitFailedWarning
from sklearn.metrics import f1_score, log_loss
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from skorch import callbacks as skorch_callbacks
from torch.optim.lr_scheduler import OneCycleLR

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor, stacked_fits
from sktorch_mlp.callbacks import BestSnapshot, LiveMetrics, TimeLimit

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer", "ignore:lbfgs failed to converge")

X, Y = load_iris(return_X_y=True)
X = scale(X)
X_TRAIN, X_VAL, Y_TRAIN, Y_VAL = train_test_split(X, Y, stratify=Y, random_state=0)
SETTINGS = {"hidden_layer_sizes": (8,), "batch_size": 25, "max_iter": 6, "learning_rate_init": 0.01, "random_state": 0}


def classifier(**params):
    return MLPTorchClassifier(**SETTINGS | params)


class Recorder:
    """scikit-learn's protocol; notes each call."""

    def __init__(self, stop_after=None):
        self.calls, self.stop_after = [], stop_after

    def setup(self, estimator, context):
        self.calls.append("setup")

    def teardown(self, estimator, context):
        self.calls.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None):
        self.calls.append(("begin", context.task_name, context.task_id, len(X), len(y)))

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None, metadata=None):
        self.calls.append(("end", context.task_name, context.task_id, metadata))
        return context.task_name == "epoch" and context.task_id + 1 == self.stop_after


# scikit-learn's ------------------------------------------------------------------------


def test_epochs_are_tasks_of_the_fit():
    recorder = Recorder()
    classifier(max_iter=2).set_callbacks(recorder).fit(X, Y)
    n = len(X)
    epochs = [call for k in range(2) for call in (("begin", "epoch", k, n, n), ("end", "epoch", k, None))]
    fit = ("begin", "fit", 0, n, n), ("end", "fit", 0, None)
    assert recorder.calls == ["setup", fit[0], *epochs, fit[1], "teardown"]


@pytest.mark.parametrize("params", [{}, {"solver": "lbfgs"}, {"early_stopping": True}], ids=str)
def test_a_callback_that_returns_true_stops_the_fit(params):
    recorder = Recorder(stop_after=3)
    model = classifier(max_iter=50, **params).set_callbacks(recorder).fit(X, Y)
    assert model.n_iter_ == 3
    assert recorder.calls[-1] == "teardown"
    limited = classifier(max_iter=3, **params).fit(X, Y)
    for coef, expected in zip(model.coefs_, limited.coefs_, strict=True):
        np.testing.assert_array_equal(coef, expected)


def test_teardown_after_a_failure():
    recorder = Recorder()
    with pytest.raises(ValueError, match="non-finite"):
        classifier(solver="sgd", learning_rate_init=1e12).set_callbacks(recorder).fit(X * 1e6, Y)
    assert recorder.calls[-1] == "teardown"


@pytest.mark.parametrize("params", [{}, {"normalization": "batch", "dropout": 0.2}, {"solver": "lbfgs"}], ids=str)
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


@pytest.mark.parametrize(("n_jobs", "stacks_in"), [(None, None), (2, None), (None, 1), (None, 2)])
def test_scoring_monitor_in_a_search(n_jobs, stacks_in):
    monitor = ScoringMonitor(scoring="accuracy")
    pipeline = make_pipeline(StandardScaler(), classifier().set_callbacks(monitor))
    search = GridSearchCV(pipeline, {"mlptorchclassifier__alpha": [0.0, 0.1]}, cv=3, n_jobs=n_jobs, refit=False)
    with nullcontext() if stacks_in is None else stacked_fits(n_processes=stacks_in):
        search.fit(X, Y)
    logs = monitor.get_logs(select="all")
    scores = [row["accuracy"] for log in logs for row in log.data if row["task_name"] == "epoch"]
    assert len(scores) == 2 * 3 * 6
    assert max(scores) > 0.7


@pytest.mark.parametrize("n_processes", [1, 2])
def test_one_progress_bar_for_a_search_in_stacks(n_processes, capsys):
    search = GridSearchCV(classifier(), {"alpha": [0.0, 0.1]}, cv=2, refit=False)
    with stacked_fits(n_processes=n_processes):
        search.set_callbacks(ProgressBar(max_propagation_depth=0)).fit(X, Y)
    output = capsys.readouterr().out
    assert "GridSearchCV - fit" in output
    assert "MLPTorchClassifier" not in output


def test_callbacks_do_not_change_the_fit():
    plain = classifier().fit(X, Y)
    watched = classifier().set_callbacks(Recorder(), ScoringMonitor(scoring="accuracy")).fit(X, Y)
    for coef, expected in zip(watched.coefs_, plain.coefs_, strict=True):
        np.testing.assert_allclose(coef, expected, rtol=1e-12)


# skorch's ------------------------------------------------------------------------------


class BatchSpy(skorch_callbacks.Callback):
    """Asks for every hook, so that batches are told of."""

    def initialize(self):
        self.batches_, self.losses_ = [], []
        return self

    def on_batch_end(self, net, batch, training, loss, y_pred, **kwargs):
        self.batches_.append((training, len(batch[0]), len(y_pred)))
        self.losses_.append(float(loss))


TARGETS = {
    "multiclass": (MLPTorchClassifier, Y, {}),
    "binary": (MLPTorchClassifier, np.array(["no", "yes"])[(Y == 2).astype(int)], {}),
    "multilabel": (MLPTorchClassifier, np.c_[Y == 1, Y == 2].astype(int), {}),
    "smoothed": (MLPTorchClassifier, Y, {"label_smoothing": 0.1}),
    "regression": (MLPTorchRegressor, X[:, 0], {}),
    "two targets": (MLPTorchRegressor, X[:, :2], {}),
    "poisson": (MLPTorchRegressor, Y, {"loss": "poisson"}),
}


@pytest.mark.parametrize("params", [{"early_stopping": True}, {"dropout": 0.3, "normalization": "batch"}], ids=str)
@pytest.mark.parametrize("kind", TARGETS)
def test_weights_are_the_same_with_callbacks_and_without(kind, params):
    estimator, y, own = TARGETS[kind]
    settings = SETTINGS | own | params
    plain = estimator(**settings).fit(X, y)
    by_epoch = estimator(**settings, callbacks=[skorch_callbacks.EarlyStopping(monitor="train_loss")]).fit(X, y)
    spy = BatchSpy()
    by_batch = estimator(**settings, callbacks=[spy]).fit(X, y)
    for watched in (by_epoch, by_batch):
        for coef, expected in zip(watched.coefs_, plain.coefs_, strict=True):
            # Buffers of single batches lie elsewhere in memory, and products may round otherwise.
            np.testing.assert_allclose(coef, expected, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(watched.loss_curve_, plain.loss_curve_, rtol=1e-12)
    n_train = len(X) - (15 if "early_stopping" in params else 0)
    sizes = [25] * (n_train // 25) + ([n_train % 25] if n_train % 25 else [])
    assert [size for training, size, _ in spy.batches_ if training] == sizes * 6
    assert all(size == n_predicted for _, size, n_predicted in spy.batches_)


def test_losses_of_batches_make_the_loss_of_the_epoch():
    spy = BatchSpy()
    model = classifier(callbacks=[spy], alpha=0.0, batch_size=50, max_iter=1).fit(X, Y)
    assert np.mean(spy.losses_) == pytest.approx(model.loss_, rel=1e-12)


def test_epoch_scoring_on_validation_and_training_rows():
    f1 = skorch_callbacks.EpochScoring("f1_macro", lower_is_better=False)
    train_loss = skorch_callbacks.EpochScoring("neg_log_loss", on_train=True, use_caching=False, name="train_nll")
    model = classifier(callbacks=[f1, train_loss]).fit(X_TRAIN, Y_TRAIN, X_val=X_VAL, y_val=Y_VAL)
    last = model.history_[-1]
    assert last["f1_macro"] == pytest.approx(f1_score(Y_VAL, model.predict(X_VAL), average="macro"))
    assert last["train_nll"] == pytest.approx(-log_loss(Y_TRAIN, model.predict_proba(X_TRAIN)))
    assert last["validation_loss"] == pytest.approx(log_loss(Y_VAL, model.predict_proba(X_VAL)))


def test_cached_predictions_of_training_are_those_of_the_steps():
    cached = skorch_callbacks.EpochScoring("neg_log_loss", on_train=True, name="cached")
    model = classifier(callbacks=[cached], batch_size=150, max_iter=1, alpha=0.0).fit(X, Y)
    assert model.history_[0]["cached"] == pytest.approx(-model.loss_)  # before the only step, not after it


@pytest.mark.parametrize("solver", ["sgd", "adam", "adamw"])
def test_schedulers_of_the_learning_rate(solver):
    ours = classifier(solver=solver, learning_rate="cosine").fit(X, Y)
    by_epoch = skorch_callbacks.LRScheduler("CosineAnnealingLR", T_max=6)
    theirs = classifier(solver=solver, callbacks=[by_epoch]).fit(X, Y)
    np.testing.assert_allclose(theirs.coefs_[0], ours.coefs_[0], rtol=1e-10)

    ours = classifier(solver=solver, learning_rate="one_cycle").fit(X, Y)
    by_batch = skorch_callbacks.LRScheduler(
        OneCycleLR, max_lr=0.01, total_steps=6 * 6, cycle_momentum=False, step_every="batch"
    )
    theirs = classifier(solver=solver, callbacks=[by_batch]).fit(X, Y)
    np.testing.assert_allclose(theirs.coefs_[0], ours.coefs_[0], rtol=1e-10)
    assert [r["learning_rate"] for r in theirs.history_] == pytest.approx([r["learning_rate"] for r in ours.history_])


def test_gradient_norm_clipping():
    ours = classifier(gradient_clip_norm=0.1).fit(X, Y)
    theirs = classifier(callbacks=[skorch_callbacks.GradientNormClipping(0.1)]).fit(X, Y)
    plain = classifier().fit(X, Y)
    np.testing.assert_allclose(theirs.coefs_[0], ours.coefs_[0], rtol=1e-10)
    assert not np.allclose(theirs.coefs_[0], plain.coefs_[0], rtol=1e-3)


def test_checkpoint_saves_and_loads_the_best(tmp_path):
    checkpoint = skorch_callbacks.Checkpoint(monitor="valid_loss_best", dirname=tmp_path, load_best=True)
    settings = {"max_iter": 40, "learning_rate_init": 0.5, "alpha": 0.0, "callbacks": [checkpoint]}
    model = classifier(**settings).fit(X_TRAIN, Y_TRAIN, X_val=X_VAL, y_val=Y_VAL)
    losses = [record["validation_loss"] for record in model.history_]
    assert np.argmin(losses) < len(losses) - 1
    assert log_loss(Y_VAL, model.predict_proba(X_VAL)) == pytest.approx(min(losses))
    saved = torch.load(tmp_path / "params.pt")
    np.testing.assert_array_equal(saved["0.weight"].numpy().T, model.coefs_[0])


def test_early_stopping_stops(capsys):
    stop = skorch_callbacks.EarlyStopping(patience=2, monitor="valid_loss", load_best=True)
    model = classifier(max_iter=200, learning_rate_init=0.5, callbacks=[stop], verbose=True)
    model.fit(X_TRAIN, Y_TRAIN, X_val=X_VAL, y_val=Y_VAL)
    assert "Stopping since valid_loss has not improved" in capsys.readouterr().out
    losses = model.validation_loss_curve_
    assert model.n_iter_ == len(losses) == np.argmin(losses) + 1 + 2
    assert log_loss(Y_VAL, model.predict_proba(X_VAL)) == pytest.approx(min(losses))


def test_frozen_parameters_stay():
    model = classifier(callbacks=[skorch_callbacks.Freezer("0.*")], alpha=1.0).fit(X, Y)
    untrained = classifier(max_iter=1, learning_rate_init=1e-300).fit(X, Y)
    np.testing.assert_array_equal(model.coefs_[0], untrained.coefs_[0])
    assert not np.allclose(model.coefs_[1], untrained.coefs_[1])


def test_a_model_with_skorch_callbacks_can_be_pickled_and_searched_over(tmp_path):
    grid = {"callbacks": [None, [skorch_callbacks.EpochScoring("accuracy", name="acc")]], "alpha": [0.0, 0.1]}
    with stacked_fits():
        search = GridSearchCV(classifier(), grid, cv=2).fit(X, Y)
    by_callbacks = search.cv_results_["mean_test_score"].reshape(2, 2)
    assert set(map(tuple, by_callbacks)) == {tuple(by_callbacks[0])} or (by_callbacks[:, 0] == by_callbacks[:, 1]).all()
    model = classifier(**grid["callbacks"][1] and {"callbacks": grid["callbacks"][1]}).fit(X, Y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))


def test_sparse_rows():
    import scipy.sparse as sp

    spy = BatchSpy()
    model = classifier(callbacks=[spy]).fit(sp.csr_array(X), Y)
    assert model.score(X, Y) > 0.7
    assert len(spy.batches_) == 36


# Ours ----------------------------------------------------------------------------------


def test_time_limit():
    forever = classifier(max_iter=10**7, n_iter_no_change=np.inf, tol=0.0).set_callbacks(TimeLimit(0.05)).fit(X, Y)
    assert 1 <= forever.n_iter_ < 10**7
    assert classifier().set_callbacks(TimeLimit(0.0)).fit(X, Y).n_iter_ == 1
    assert classifier().set_callbacks(TimeLimit(1000.0)).fit(X, Y).n_iter_ == 6


@pytest.mark.parametrize("monitor", ["validation_loss", "validation_score", "loss"])
def test_best_snapshot(monitor, tmp_path):
    best = BestSnapshot(monitor, path=tmp_path / "best.joblib")
    model = classifier(max_iter=40, learning_rate_init=0.5).set_callbacks(best)
    model.fit(X_TRAIN, Y_TRAIN, X_val=X_VAL, y_val=Y_VAL)
    values = [record[monitor] for record in model.history_]
    assert best.best_value_ == (max if monitor == "validation_score" else min)(values)
    assert best.best_epoch_ == values.index(best.best_value_) + 1
    if monitor == "validation_loss":
        assert log_loss(Y_VAL, best.best_estimator_.predict_proba(X_VAL)) == pytest.approx(min(values))
    loaded = joblib.load(tmp_path / "best.joblib")
    np.testing.assert_array_equal(loaded.predict_proba(X_VAL), best.best_estimator_.predict_proba(X_VAL))


def test_best_snapshot_without_validation_says_what_to_do():
    with pytest.raises(ValueError, match=r"'validation_loss'.*Pass X_val"):
        classifier().set_callbacks(BestSnapshot()).fit(X, Y)


def test_live_metrics():
    console = Console(file=io.StringIO(), width=120)
    model = classifier().set_callbacks(LiveMetrics(console)).fit(X_TRAIN, Y_TRAIN, X_val=X_VAL, y_val=Y_VAL)
    output = console.file.getvalue()
    assert f"loss {model.loss_:.4f}" in output
    assert f"validation loss {model.validation_loss_curve_[-1]:.4f}" in output
    assert "6/6" in output


def test_nothing_is_printed_by_default(capsys):
    diabetes = load_diabetes(return_X_y=True)
    MLPTorchRegressor(max_iter=2, callbacks=[BatchSpy()], random_state=0).fit(*diabetes)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("wrong", [[3], [TimeLimit(1.0)], [("name", 3)]], ids=str)
def test_other_things_are_no_skorch_callbacks(wrong):
    with pytest.raises(TypeError, match=r"skorch's.*set_callbacks"):
        classifier(callbacks=wrong).fit(X, Y)


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")
def test_a_stack_that_is_trained_again_has_each_epoch_once():
    """A fit fails in the third epoch; its stack is rewound and halved, and callbacks see the others begin anew."""

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


LOGGERS = {
    "tensorboard": (skorch_callbacks.TensorBoard, "add_scalar"),
    "mlflow": (lambda log: skorch_callbacks.MlflowLogger(MagicMock(), log), "log_metric"),
    "sacred": (skorch_callbacks.SacredLogger, "log_scalar"),
}


@pytest.mark.parametrize("name", LOGGERS)
def test_loggers_of_skorch_log_each_epoch(name):
    make, method = LOGGERS[name]
    log = MagicMock()
    classifier(callbacks=[make(log)]).fit(X_TRAIN, Y_TRAIN, X_val=X_VAL, y_val=Y_VAL)
    logged = [str(call) for call in getattr(log, method).call_args_list]
    assert sum("train_loss" in call for call in logged) == sum("valid_loss" in call for call in logged) == 6


def test_progress_bar_of_skorch(capsys):
    classifier(callbacks=[skorch_callbacks.ProgressBar()]).fit(X, Y)
    assert "0/6" in capsys.readouterr().err
