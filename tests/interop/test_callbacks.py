"""Our own callbacks: a time limit, the best epoch, live metrics."""

import copy
import gzip
import io
import os
import pickle
import time
from types import SimpleNamespace

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV

from sktorch_mlp import TabularMLPClassifier, stacked_fits
from sktorch_mlp.callbacks import BestSnapshot, LiveMetrics, TimeLimit
from tests.interop.watched import X_TRAIN, X_VAL, Y_TRAIN, Y_VAL, X, Y, classifier

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")


def test_time_limit():
    forever = classifier(max_iter=10**7, n_iter_no_change=np.inf, tol=0.0).set_callbacks(TimeLimit(0.05)).fit(X, Y)
    assert 1 <= forever.n_iter_ < 10**7
    assert classifier().set_callbacks(TimeLimit(0.0)).fit(X, Y).n_iter_ == 1
    assert classifier().set_callbacks(TimeLimit(1000.0)).fit(X, Y).n_iter_ == 6


def test_a_time_limit_counts_from_the_first_epoch(monkeypatch):
    """Before that, a fit may have waited for others."""
    now = 50.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    limit, fit = TimeLimit(900.0), SimpleNamespace(task_name="fit")
    epoch = SimpleNamespace(task_name="epoch", parent=fit)
    limit.setup(None, fit)
    limit.on_fit_task_begin(None, fit)
    for now in (100.0, 300.0):  # noqa: B007 - what the clock says
        limit.on_fit_task_begin(None, epoch)
    now = 999.0
    assert not limit.on_fit_task_end(None, epoch)
    now = 1000.0
    assert not limit.on_fit_task_end(None, fit)
    assert limit.on_fit_task_end(None, epoch)
    assert pickle.loads(pickle.dumps(limit))._began == {}
    limit.teardown(None, fit)
    assert limit._began == {}


@pytest.mark.parametrize("seconds", [None, "1", np.nan, -1, True])
def test_a_time_limit_is_a_number(seconds):
    with pytest.raises(ValueError, match=rf"TimeLimit has seconds={seconds!r}\. Pass a number of at least 0"):
        classifier().set_callbacks(TimeLimit(seconds)).fit(X, Y)
    assert classifier().set_callbacks(TimeLimit(np.inf)).fit(X, Y).n_iter_ == 6


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


def test_a_copy_of_a_best_snapshot_knows_nothing_of_fits_at_work():
    best = BestSnapshot()
    best._best[7] = 0.5, 3, None
    assert copy.deepcopy(best)._best == pickle.loads(pickle.dumps(best))._best == {}


def test_best_snapshot_without_validation_says_what_to_do():
    with pytest.raises(ValueError, match=r"'validation_loss'.*Pass X_val"):
        classifier().set_callbacks(BestSnapshot()).fit(X, Y)


@pytest.mark.parametrize("validates", [False, True], ids=["", "validation rows"])
def test_best_snapshot_of_nothing_names_what_there_is(validates):
    given = {"X_val": X_VAL, "y_val": Y_VAL} if validates else {}
    known = "'loss'" + ", 'validation_loss', 'validation_score'" * validates
    for monitor in ("val_loss", "epoch"):
        match = rf"monitor='{monitor}', but an epoch has \[{known}\]\. Monitor one of these"
        with pytest.raises(ValueError, match=match):
            classifier().set_callbacks(BestSnapshot(monitor)).fit(X_TRAIN, Y_TRAIN, **given)


def test_live_metrics_of_an_ensemble_are_means_of_its_networks():
    shown = io.StringIO()
    params = {"n_estimators": 3, "hidden_layer_sizes": (8,), "numerical_embedding": None, "max_iter": 4}  # one stack
    model = TabularMLPClassifier(**params, random_state=0)
    model.set_callbacks(LiveMetrics(Console(file=shown, width=120))).fit(X, Y)
    records = pd.DataFrame(model.history_)
    last = records[records["epoch"] == 4]
    assert len(last) == 3
    assert (
        f"4/4 loss {last['loss'].mean():.4f}  validation loss {last['validation_loss'].mean():.4f}" in shown.getvalue()
    )


def test_best_snapshot_refuses_an_ensemble():
    model = TabularMLPClassifier(n_estimators=2, max_iter=2).set_callbacks(BestSnapshot())
    with pytest.raises(
        ValueError, match="TabularMLPClassifier trains several, and keeps each at its best epoch by itself"
    ):
        model.fit(X, Y)


class Brittle:
    """An activation that can be pickled a few times."""

    def __init__(self, n_times):
        self.n_times = n_times

    def __call__(self, units):
        return torch.tanh(units)

    def __reduce__(self):
        self.n_times -= 1
        if self.n_times < 0:
            raise OSError("No space left on device")
        return Brittle, (self.n_times,)


def test_a_failing_write_keeps_the_best_before(tmp_path):
    path = tmp_path / "best.joblib"
    model = classifier(activation=Brittle(2)).set_callbacks(BestSnapshot("loss", path=path))
    with pytest.raises(OSError, match="No space left"):
        model.fit(X, Y)
    assert os.listdir(tmp_path) == ["best.joblib"]
    expected = classifier(activation=torch.tanh, max_iter=2).fit(X, Y)
    np.testing.assert_allclose(joblib.load(path).predict_proba(X), expected.predict_proba(X), rtol=1e-12)


def test_a_path_that_is_a_folder_is_an_error_and_stays_empty(tmp_path):
    folder = tmp_path / "best.joblib"
    folder.mkdir()
    with pytest.raises(OSError, match=r"best\.joblib"):
        classifier().set_callbacks(BestSnapshot("loss", path=folder)).fit(X, Y)
    assert os.listdir(tmp_path) == ["best.joblib"]
    assert os.listdir(folder) == []


def test_a_snapshot_is_written_as_joblib_writes_to_its_path(tmp_path):
    """Compressed by the name, readable by whom the system lets, through a link, in place of what was there."""
    (tmp_path / "link.joblib.gz").symlink_to(tmp_path / "best.joblib.gz")
    (tmp_path / "best.joblib.gz").write_text("before")
    best = BestSnapshot("loss", path=str(tmp_path / "link.joblib.gz"))
    classifier().set_callbacks(best).fit(X, Y)
    assert (tmp_path / "link.joblib.gz").is_symlink()
    joblib.dump(best.best_estimator_, tmp_path / "expected.joblib.gz")
    assert sorted(os.listdir(tmp_path)) == ["best.joblib.gz", "expected.joblib.gz", "link.joblib.gz"]
    written, expected = tmp_path / "best.joblib.gz", tmp_path / "expected.joblib.gz"
    assert gzip.decompress(written.read_bytes()) == gzip.decompress(expected.read_bytes())
    assert written.stat().st_mode == expected.stat().st_mode


def test_live_metrics():
    console = Console(file=io.StringIO(), width=120)
    model = classifier().set_callbacks(LiveMetrics(console)).fit(X_TRAIN, Y_TRAIN, X_val=X_VAL, y_val=Y_VAL)
    output = console.file.getvalue()
    assert f"loss {model.loss_:.4f}" in output
    assert f"validation loss {model.validation_loss_curve_[-1]:.4f}" in output
    assert "6/6" in output


def test_live_metrics_leave_their_bars_in_their_process():
    live = LiveMetrics(Console(file=io.StringIO()))
    live._bars[0] = None, None
    elsewhere, here = pickle.loads(pickle.dumps(live)), (copy.copy(live), copy.deepcopy(live))
    assert elsewhere._bars == here[0]._bars == here[1]._bars == {}
    assert elsewhere.console is None  # it has locks
    assert here[0].console is here[1].console is live.console
