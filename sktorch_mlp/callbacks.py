"""Callbacks that neither scikit-learn nor skorch has, for `set_callbacks`.

They follow the protocol of scikit-learn: an epoch is a task of the fit. Set on an
estimator inside a `Pipeline` or a search they observe each of its fits separately.
"""

from __future__ import annotations

import os
import time
from numbers import Real
from typing import Any

import joblib

from ._interop.compat import copy_without_callbacks
from ._interop.extras import needed_by
from ._interop.files import written_beside

__all__ = ["BestSnapshot", "LiveMetrics", "TimeLimit"]


class _Callback:
    """A callback that acts at the end of an epoch."""

    def setup(self, estimator: Any, context: Any) -> None:
        """Called before a fit."""

    def teardown(self, estimator: Any, context: Any) -> None:
        """Called after a fit."""

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Called before the fit and each of its epochs."""


class TimeLimit(_Callback):
    """Stop a fit after the epoch in which it reaches a time limit.

    The model is that of the last epoch, with early stopping that of the best one.

    Parameters
    ----------
    seconds : float
        Time limit, from the beginning of the first epoch; inf for none. Fits that train side by side have it in common.

    Raises
    ------
    ValueError
        If `seconds` is not a number of at least 0, when a fit begins.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sktorch_mlp import MLPTorchClassifier
    >>> from sktorch_mlp.callbacks import TimeLimit
    >>> X, y = load_iris(return_X_y=True)
    >>> model = MLPTorchClassifier(max_iter=10**6, tol=0, n_iter_no_change=10**6)
    >>> model.set_callbacks(TimeLimit(0.1)).fit(X, y).n_iter_ < 10**6
    True
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._began: dict[int, float] = {}  # first epochs of fits at work, on the clock of `time.monotonic`

    def setup(self, estimator: Any, context: Any) -> None:
        """Look whether there is a limit."""
        seconds = self.seconds
        if not isinstance(seconds, Real) or isinstance(seconds, bool) or not seconds >= 0:  # NaN is not
            raise ValueError(f"TimeLimit has seconds={seconds!r}. Pass a number of at least 0.")

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Start the clock, with the first epoch: a fit may have waited for others before."""
        if context.task_name == "epoch":
            self._began.setdefault(id(context.parent), time.monotonic())

    def on_fit_task_end(self, estimator: Any, context: Any) -> bool:
        """Stop if the time is over."""
        if context.task_name != "epoch":
            return False
        return bool(time.monotonic() - self._began[id(context.parent)] >= self.seconds)

    def teardown(self, estimator: Any, context: Any) -> None:
        """Forget the fit."""
        self._began.pop(id(context), None)

    def __getstate__(self) -> dict[str, Any]:
        """The clock of a fit stays in its process."""
        return vars(self) | {"_began": {}}


#: Quantities of an epoch to monitor; those that need validation data.
_MONITORED = ("loss", "validation_loss", "validation_score")
_VALIDATION_RECORDS = _MONITORED[1:]


class BestSnapshot(_Callback):
    """Keep the model of the best epoch as an estimator of its own, and optionally save it.

    It is for estimators of one network. Ensembles on tables keep each of theirs at its best epoch by themselves.

    Parameters
    ----------
    monitor : {'validation_loss', 'validation_score', 'loss'}, default='validation_loss'
        Quantity that decides; the first two need validation data.
    path : str or path-like, default=None
        File to which `joblib.dump` saves each new best model. If that fails, the file is
        left as it was. Fits of one search overwrite each other's file.

    Attributes
    ----------
    best_estimator_ : estimator
        Model of the best epoch of the last fit that ended.
    best_epoch_ : int
        Number of that epoch, counted from 1.
    best_value_ : float
        Value of the monitored quantity in it.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import train_test_split
    >>> from sktorch_mlp import MLPTorchClassifier
    >>> from sktorch_mlp.callbacks import BestSnapshot
    >>> X, X_val, y, y_val = train_test_split(*load_iris(return_X_y=True), random_state=0)
    >>> best = BestSnapshot()
    >>> model = MLPTorchClassifier(tol=1e-2, learning_rate_init=0.1, random_state=0).set_callbacks(best)
    >>> model = model.fit(X, y, X_val=X_val, y_val=y_val)
    >>> best.best_value_ == min(model.validation_loss_curve_)
    True
    """

    def __init__(self, monitor: str = "validation_loss", path: str | os.PathLike[str] | None = None) -> None:
        self.monitor = monitor
        self.path = path
        self._best: dict[int, tuple[float, int, Any]] = {}  # of each fit at work

    def setup(self, estimator: Any, context: Any) -> None:
        """Look whether there is one network."""
        if "n_estimators" in estimator.get_params(deep=False):
            raise ValueError(
                f"BestSnapshot keeps one network, but {type(estimator).__name__} trains several, and keeps each at its best "
                "epoch by itself. Fit it without this callback."
            )

    def on_fit_task_end(self, estimator: Any, context: Any, *, fitted_estimator: Any = None) -> None:
        """Compare the epoch with the best."""
        if context.task_name != "epoch":
            return
        record = fitted_estimator.history_[-1]
        known = [name for name in _MONITORED if name in record]
        if self.monitor not in known:
            remedy = "Pass X_val." if self.monitor in _VALIDATION_RECORDS else "Monitor one of these."
            raise ValueError(f"BestSnapshot has monitor={self.monitor!r}, but an epoch has {known}. {remedy}")
        value, fit = record[self.monitor], id(context.parent)
        sign = -1 if self.monitor.endswith("score") else 1
        if fit not in self._best or sign * value < sign * self._best[fit][0]:
            snapshot = copy_without_callbacks(fitted_estimator)
            self._best[fit] = value, record["epoch"], snapshot
            if self.path is not None:
                with written_beside(self.path) as path:
                    joblib.dump(snapshot, path)

    def teardown(self, estimator: Any, context: Any) -> None:
        """Publish the best of the fit."""
        if id(context) in self._best:
            self.best_value_, self.best_epoch_, self.best_estimator_ = self._best.pop(id(context))

    def __getstate__(self) -> dict[str, Any]:
        """A copy knows nothing of fits at work, whose place in memory other fits may have later."""
        return vars(self) | {"_best": {}}


class LiveMetrics(_Callback):
    """Show a progress bar for each fit with its latest loss, validation score and time left. Needs rich.

    Those of an ensemble on tables are the means over its networks in training.

    The `ProgressBar` of scikit-learn counts the tasks of a whole search. This one follows a
    single long fit.

    Parameters
    ----------
    console : rich.console.Console, default=None
        Console to print to; None for the terminal or notebook. It is not pickled.

    Raises
    ------
    ImportError
        If rich is not installed.
    """

    def __init__(self, console: Any = None) -> None:
        with needed_by("LiveMetrics", extra="progress"):
            import rich  # noqa: F401 - to tell early
        self.console = console
        self._bars: dict[int, tuple[Any, Any]] = {}

    def setup(self, estimator: Any, context: Any) -> None:
        """Show a bar."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
        )
        progress = Progress(*columns, TimeRemainingColumn(), console=self.console)
        progress.start()
        task = progress.add_task(type(estimator).__name__, total=context.max_subtasks, metrics="")
        self._bars[id(context)] = progress, task

    def on_fit_task_end(self, estimator: Any, context: Any, *, fitted_estimator: Any = None) -> None:
        """Show what an epoch has reached."""
        if context.task_name == "epoch" and id(context.parent) in self._bars:
            progress, task = self._bars[id(context.parent)]
            record = fitted_estimator.history_[-1]
            shown = [name for name in ("loss", "validation_loss", "validation_score") if name in record]
            metrics = "  ".join(f"{name.replace('_', ' ')} {record[name]:.4f}" for name in shown)
            progress.update(task, advance=1, metrics=metrics)

    def teardown(self, estimator: Any, context: Any) -> None:
        """Leave the bar as it is."""
        progress, _ = self._bars.pop(id(context))
        progress.stop()

    def __getstate__(self) -> dict[str, Any]:
        """Bars and the console stay in their process: a copy elsewhere prints to the terminal."""
        return vars(self) | {"_bars": {}, "console": None}

    def __copy__(self) -> LiveMetrics:
        """A copy in this process prints to the same console."""
        return type(self)(self.console)

    def __deepcopy__(self, memo: dict[int, Any]) -> LiveMetrics:
        return self.__copy__()
