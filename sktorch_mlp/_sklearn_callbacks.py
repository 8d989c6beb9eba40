"""scikit-learn's callbacks: an epoch is a task of the fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._network import StackedMLP
from ._schedules import Schedule


class TaskObserver:
    """Calls the hooks of scikit-learn's callbacks around each epoch, and before and after all.

    Parameters
    ----------
    estimator : estimator
    context : CallbackContext
        Of the fit.
    X, y : array-like
        As the user gave them.
    sample_weight : array-like or None
    attributes : callable
        ``attributes(network, k)`` gives the fitted attributes of the k-th network of a stack.
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
        attributes: Callable[[StackedMLP, int], dict[str, Any]],
    ) -> None:
        self._context, self._attributes = context, attributes
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self._arguments = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self._task: Any = None

    def follow(self, schedule: Schedule) -> Schedule:
        """These callbacks leave learning rates alone."""
        return schedule

    def begin(self) -> None:
        """The fit begins."""
        self._context.call_on_fit_task_begin(**self._arguments)

    def starts_over(self) -> None:
        """The epochs so far do not count."""
        self._context._children_map.clear()

    def epoch_begins(self) -> None:
        """An epoch is about to begin."""
        self._task = self._context.subcontext(task_name="epoch").call_on_fit_task_begin(**self._arguments)

    def epoch_ends(self, network: StackedMLP, k: int) -> bool:
        """An epoch has ended; True if a callback asks to stop."""
        return self._task.call_on_fit_task_end(
            reconstruction_attributes=lambda: self._attributes(network, k), **self._arguments
        )

    def training_ends(self) -> None:
        """Nothing is to be told before the estimator is fitted."""

    def end(self) -> None:
        """The fit is done."""
        self._context.call_on_fit_task_end(reconstruction_attributes=dict, **self._arguments)
