"""scikit-learn's callbacks: an epoch is a task of the fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sktorch_mlp._nn.network import StackedMLP
from sktorch_mlp._training.schedules import Schedule

from .compat import clear_subtasks


class SklearnObserver:
    """Calls the hooks of scikit-learn's callbacks around each epoch, and around the whole fit.

    Parameters
    ----------
    estimator : estimator
    context : CallbackContext
        Of the fit.
    X, y : array-like
        As the user gave them.
    sample_weight : array-like or None
    get_attributes : callable
        ``get_attributes(network, k)`` gives the fitted attributes of the k-th network of a stack.
    """

    trains_alone = False
    batch_hooks = None

    def __init__(
        self,
        estimator: Any,
        context: Any,
        X: Any,
        y: Any,
        sample_weight: Any,
        get_attributes: Callable[[StackedMLP, int], dict[str, Any]],
    ) -> None:
        self._context, self._get_attributes = context, get_attributes
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self._arguments = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self._task: Any = None

    def wrap_schedule(self, schedule: Schedule) -> Schedule:
        """Return the schedule as it is."""
        return schedule

    def on_train_begin(self) -> None:
        """The fit begins."""
        self._context.call_on_fit_task_begin(**self._arguments)

    def on_restart(self) -> None:
        """The epochs so far do not count."""
        clear_subtasks(self._context)

    def on_epoch_begin(self) -> None:
        """An epoch is about to begin."""
        self._task = self._context.subcontext(task_name="epoch").call_on_fit_task_begin(**self._arguments)

    def on_epoch_end(self, network: StackedMLP, k: int) -> bool:
        """An epoch has ended. Return whether a callback asks to stop."""
        return bool(
            self._task.call_on_fit_task_end(
                reconstruction_attributes=lambda: self._get_attributes(network, k), **self._arguments
            )
        )

    def on_train_end(self) -> None:
        """Callbacks are told when the estimator is fitted."""

    def on_fit_end(self) -> None:
        """The estimator is fitted."""
        self._context.call_on_fit_task_end(reconstruction_attributes=dict, **self._arguments)
