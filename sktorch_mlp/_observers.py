"""All that watches one fit, as one observer."""

from __future__ import annotations

from typing import Protocol

from ._network import StackedMLP
from ._progress import BatchHooks, Observer
from ._schedules import Schedule


class FitObserver(Observer, Protocol):
    """An observer of training that is also told what comes before and after."""

    def follow(self, schedule: Schedule) -> Schedule:
        """The schedule, or what is to take its place."""
        ...

    def begin(self) -> None:
        """The fit begins."""

    def training_ends(self) -> None:
        """Training is over; the network may still be changed."""

    def end(self) -> None:
        """The fit is done, and the estimator is fitted."""


class Observers:
    """Observers of one fit, told one after the other."""

    def __init__(self) -> None:
        self._observers: list[FitObserver] = []

    def add(self, observer: FitObserver) -> None:
        """Let another one watch."""
        self._observers.append(observer)

    def active(self) -> Observer | None:
        """What training has to tell; None if nothing watches."""
        return self if self._observers else None

    def follow(self, schedule: Schedule) -> Schedule:
        """The schedule, or what an observer puts in its place."""
        for observer in self._observers:
            schedule = observer.follow(schedule)
        return schedule

    @property
    def trains_alone(self) -> bool:
        """Whether the network is not to be one of a stack."""
        return any(observer.trains_alone for observer in self._observers)

    @property
    def batch_hooks(self) -> BatchHooks | None:
        """What is to be called around each step."""
        return next(filter(None, (observer.batch_hooks for observer in self._observers)), None)

    def begin(self) -> None:
        """The fit begins."""
        for observer in self._observers:
            observer.begin()

    def starts_over(self) -> None:
        """The epochs so far do not count."""
        for observer in self._observers:
            observer.starts_over()

    def epoch_begins(self) -> None:
        """An epoch is about to begin."""
        for observer in self._observers:
            observer.epoch_begins()

    def epoch_ends(self, network: StackedMLP, k: int) -> bool:
        """An epoch has been recorded; True if one of them asks to stop."""
        answers = [observer.epoch_ends(network, k) for observer in self._observers]
        return any(answers)

    def training_ends(self) -> None:
        """Training is over; the network may still be changed."""
        for observer in self._observers:
            observer.training_ends()

    def end(self) -> None:
        """The fit is done, and the estimator is fitted."""
        for observer in self._observers:
            observer.end()
