"""Our own callbacks: a time limit, the best epoch, live metrics."""

import copy
import io
import pickle
import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
from rich.console import Console
from sklearn.datasets import load_iris
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.preprocessing import scale

from sktorch_mlp import MLPTorchClassifier, stacked_fits
from sktorch_mlp.callbacks import BestSnapshot, LiveMetrics, TimeLimit

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")

X, Y = load_iris(return_X_y=True)
X = scale(X)
X_TRAIN, X_VAL, Y_TRAIN, Y_VAL = train_test_split(X, Y, stratify=Y, random_state=0)
SETTINGS = {"hidden_layer_sizes": (8,), "batch_size": 25, "max_iter": 6, "learning_rate_init": 0.01, "random_state": 0}


def classifier(**params):
    return MLPTorchClassifier(**SETTINGS | params)


def test_time_limit():
    forever = classifier(max_iter=10**7, n_iter_no_change=np.inf, tol=0.0).set_callbacks(TimeLimit(0.05)).fit(X, Y)
    assert 1 <= forever.n_iter_ < 10**7
    assert classifier().set_callbacks(TimeLimit(0.0)).fit(X, Y).n_iter_ == 1
    assert classifier().set_callbacks(TimeLimit(1000.0)).fit(X, Y).n_iter_ == 6


def test_a_time_limit_counts_from_the_beginning_of_the_fit():
    now = datetime.now(UTC)
    fit = SimpleNamespace(task_name="fit", init_time=now - timedelta(seconds=1000))
    epoch = SimpleNamespace(task_name="epoch", init_time=now, parent=fit)
    assert TimeLimit(900.0).on_fit_task_end(None, epoch)
    assert not TimeLimit(2000.0).on_fit_task_end(None, epoch)
    assert not TimeLimit(900.0).on_fit_task_end(None, fit)


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


def test_best_snapshot_in_a_stack_is_that_of_a_fit():
    best = BestSnapshot("loss")
    with stacked_fits():
        GridSearchCV(classifier().set_callbacks(best), {"alpha": [0.0, 0.1]}, cv=2, refit=False).fit(X, Y)
    assert best.best_estimator_.loss_ == best.best_value_
    assert best._best == {}


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


def test_live_metrics_leave_their_bars_in_their_process():
    live = LiveMetrics()
    live._bars[0] = None, None
    assert pickle.loads(pickle.dumps(live))._bars == copy.copy(live)._bars == {}


def test_live_metrics_without_rich_say_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(ImportError, match=r"LiveMetrics needs rich\. Install it with: pip install rich"):
        LiveMetrics()
