"""Observers of training: whatever is told of epochs and steps, and may stop a fit. Hooks are named as in skorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from sktorch_mlp._nn.network import StackedMLP

from .schedules import Schedule


class BatchHooks(Protocol):
    """Hooks around each step of a network that trains alone."""

    def on_segment_begin(self, batch_rows: Sequence[Tensor]) -> None:
        """Steps are about to begin, on batches of these row indices of the training data."""

    def on_grad_computed(self) -> None:
        """The gradient has been computed, and may be changed in place."""

    def on_batch_end(self, outputs: Tensor, losses: Tensor) -> None:
        """The step has been taken; outputs (n_outputs, n_rows) and losses (1, n_rows) are those before it."""


class Observer(Protocol):
    """Observer of the training of one network."""

    def on_restart(self) -> None:
        """The epochs so far do not count: training begins again."""

    def on_epoch_begin(self) -> None:
        """An epoch is about to begin."""

    def on_epoch_end(self, network: StackedMLP, k: int) -> bool:
        """An epoch has been recorded in the progress. Return whether to stop.

        Parameters
        ----------
        network : StackedMLP
            The stack as it is now; valid during the call.
        k : int
            Index of the network in it.
        """
        ...

    @property
    def trains_alone(self) -> bool:
        """Whether the network must not be in a stack with others."""
        ...

    @property
    def batch_hooks(self) -> BatchHooks | None:
        """Hooks around each step, for a network that trains alone."""
        ...


class FitObserver(Observer, Protocol):
    """Observer of a whole fit: of training, and of what comes before and after."""

    def wrap_schedule(self, schedule: Schedule) -> Schedule:
        """Return the schedule, or one that takes its place while the fit trains."""
        ...

    def on_train_begin(self) -> None:
        """Training is about to begin."""

    def on_train_end(self) -> None:
        """Training is over; the network may still be changed."""

    def on_fit_end(self) -> None:
        """The estimator is fitted."""


class ObserverList:
    """Observers of one fit as one, told in their order."""

    def __init__(self, observers: Sequence[FitObserver]) -> None:
        self._observers = list(observers)

    def __bool__(self) -> bool:
        return bool(self._observers)

    def wrap_schedule(self, schedule: Schedule) -> Schedule:
        """Return the schedule as all observers have wrapped it."""
        for observer in self._observers:
            schedule = observer.wrap_schedule(schedule)
        return schedule

    @property
    def trains_alone(self) -> bool:
        """Whether the network must not be in a stack with others."""
        return any(observer.trains_alone for observer in self._observers)

    @property
    def batch_hooks(self) -> BatchHooks | None:
        """Hooks around each step."""
        return next(filter(None, (observer.batch_hooks for observer in self._observers)), None)

    def on_restart(self) -> None:
        """The epochs so far do not count."""
        for observer in self._observers:
            observer.on_restart()

    def on_train_begin(self) -> None:
        """Training is about to begin."""
        for observer in self._observers:
            observer.on_train_begin()

    def on_epoch_begin(self) -> None:
        """An epoch is about to begin."""
        for observer in self._observers:
            observer.on_epoch_begin()

    def on_epoch_end(self, network: StackedMLP, k: int) -> bool:
        """An epoch has been recorded. Return whether one of them asks to stop; all are told."""
        answers = [observer.on_epoch_end(network, k) for observer in self._observers]
        return any(answers)

    def on_train_end(self) -> None:
        """Training is over."""
        for observer in self._observers:
            observer.on_train_end()

    def on_fit_end(self) -> None:
        """The estimator is fitted."""
        for observer in self._observers:
            observer.on_fit_end()
