"""Training of candidates, one stack after the other: epochs, when to stop, the time they may take."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Protocol

import numpy as np

from sktorch_mlp._nn.network import StackedMLP
from sktorch_mlp._training.fit import Fit
from sktorch_mlp._training.loop import train
from sktorch_mlp._training.progress import EpochRecord
from sktorch_mlp._training.schedules import PlannedSchedule, Schedule
from sktorch_mlp._training.threads import call_with_threads

from .recipe import PATIENCE, Settings

#: Part of the time of the first candidate without which another one does not begin.
_LEAST_TIME = 0.5


@dataclass(eq=False)
class Candidate:
    """Networks with the same hyperparameters, each with its own held-out rows.

    Attributes
    ----------
    settings : Settings
    fits : list of Fit
    seconds : float
        What training has taken.
    """

    settings: Settings
    fits: list[Fit]
    seconds: float = 0.0

    @property
    def n_epochs(self) -> int:
        """Epochs of its longest fit."""
        return max(fit.progress.n_epochs for fit in self.fits)

    @property
    def loss(self) -> float:
        """Mean of the validation losses at the best epochs so far; inf if a network has none."""
        return float(np.mean([_best_loss(fit) for fit in self.fits]))

    @property
    def was_interrupted(self) -> bool:
        """Whether the user has interrupted training."""
        return any(fit.progress.stop_reason == "interrupted" for fit in self.fits)

    def shapes(self) -> list[list[Fit]]:
        """Fits by the shape of their networks, in their order."""
        return [list(fits) for _, fits in groupby(self.fits, key=lambda fit: fit.network.spec)]

    def stacks(self) -> list[list[Fit]]:
        """Fits that are trained side by side: those of one shape; of sparse rows each alone."""
        return [[fit] for fit in self.fits] if self.fits[0].data.train.rows.is_sparse else self.shapes()


def _best_loss(fit: Fit) -> float:
    best_epoch = fit.progress.best_n_iter
    return fit.progress.validation_losses[best_epoch - 1] if best_epoch else math.inf


class EpochCallback(Protocol):
    """What is told of the epochs of a stack."""

    def on_epoch_begin(self) -> None:
        """An epoch is about to begin."""

    def on_epoch_end(self, network: StackedMLP, k: int) -> bool:
        """An epoch of a stack has ended; return whether to stop."""
        ...


def _now() -> float:
    return time.perf_counter()


@dataclass
class Deadline:
    """Time that training may take.

    Attributes
    ----------
    seconds : float
        inf for no limit.
    was_reached : bool
        Whether training ended early for it.
    began : float
        On the clock of `time.perf_counter`.
    """

    seconds: float = math.inf
    was_reached: bool = False
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = _now()

    @property
    def remaining(self) -> float:
        """Seconds left."""
        return self.seconds - (_now() - self.began)


class SuccessiveHalving:
    """Stops a stack that is among the worse half of those that came as far (Li et al., 2020).

    Only stacks that hold out the same rows are compared, by the scores by which their epochs are chosen.

    Parameters
    ----------
    fractions : sequence of float
        Parts of the epochs after which they are compared.
    """

    def __init__(self, fractions: Sequence[float] = (0.125, 0.25, 0.5)) -> None:
        self._fractions = fractions
        self._scores: defaultdict[Hashable, list[float]] = defaultdict(list)

    def stops(self, candidate: Candidate, fits: Sequence[Fit], n_epochs: int) -> bool:
        """Return whether these fits of a candidate, which have ended an epoch, are to stop."""
        members = tuple(map(candidate.fits.index, fits))
        score = float(np.mean([fit.progress.best_validation_score for fit in fits]))
        for fraction in self._fractions:
            if n_epochs == math.ceil(fraction * candidate.settings.max_iter):
                scores = self._scores[fraction, members]
                scores.append(score)
                if len(scores) > 1 and score < np.median(scores):
                    return True
        return False


class StackMonitor:
    """Follows the epochs of a stack: tells callbacks, and decides when all networks stop.

    Where the epochs that are planned would take too long, learning rates follow the plan of fewer.

    Parameters
    ----------
    candidate : Candidate
    fits : sequence of Fit
        Those of the candidate that are in the stack, with optimizers. They receive their observers.
    deadline : Deadline
    share : float
        Part of the remaining time that this stack may take.
    callbacks : sequence of EpochCallback
    halving : SuccessiveHalving or None
    """

    def __init__(
        self,
        candidate: Candidate,
        fits: Sequence[Fit],
        deadline: Deadline,
        share: float = 1.0,
        callbacks: Sequence[EpochCallback] = (),
        halving: SuccessiveHalving | None = None,
    ) -> None:
        self._candidate, self._fits, self._deadline = candidate, fits, deadline
        self._callbacks, self._halving = callbacks, halving
        self._seconds = deadline.remaining * share
        self._began = _now()
        self._n_planned = self._n_affordable = candidate.settings.max_iter
        self._first_epoch = 0.0
        self._n_epochs, self._is_in_epoch, self._stops, self._is_asked_to_stop = 0, False, False, False
        for fit in self._fits:
            fit.observer = _MemberObserver(self)

    @property
    def ends_all(self) -> bool:
        """Whether a callback or the user has asked to stop, so that no other stack begins."""
        return self._is_asked_to_stop or self._candidate.was_interrupted

    def begin_epoch(self) -> None:
        """The first network of the stack is about to begin an epoch, or another one is."""
        if not self._is_in_epoch:
            self._is_in_epoch = True
            for callback in self._callbacks:
                callback.on_epoch_begin()

    def end_epoch(self, network: StackedMLP, k: int) -> bool:
        """A network has ended an epoch; return whether all stop."""
        if self._is_in_epoch:  # the first one
            self._is_in_epoch = False
            self._n_epochs += 1
            asks = [callback.on_epoch_end(network, k) for callback in self._callbacks]
            self._is_asked_to_stop = any(asks)
            halving = self._halving
            loses = halving is not None and halving.stops(self._candidate, self._fits, self._n_epochs)
            self._stops = self._is_asked_to_stop or loses or self._has_converged() or self._is_at_the_end()
            if self._stops:
                self._deadline.was_reached |= self._n_affordable < self._n_planned
        return self._stops

    def _has_converged(self) -> bool:
        """Whether no network has become better for some epochs. One that still does may lead others to lower rates."""
        counts = (fit.progress.n_epochs_no_change for fit in self._fits if fit.options.early_stopping)
        return min(counts, default=0) >= PATIENCE

    def _is_at_the_end(self) -> bool:
        """Plan as many epochs as there is time for, by those so far; return whether there is time for no other one."""
        if math.isinf(self._seconds):
            return False
        elapsed = _now() - self._began
        if self._n_epochs == 1:
            self._first_epoch = elapsed
        seconds_of_epoch = (elapsed - self._first_epoch) / (self._n_epochs - 1) if self._n_epochs > 1 else elapsed
        n_more = max(0.0, self._seconds - elapsed) // seconds_of_epoch if seconds_of_epoch else math.inf
        if self._n_epochs == 1 and n_more:  # it is slower than others, so the plan stays for another one
            n_more = math.inf
        self._n_affordable = int(min(self._n_planned, self._n_epochs + n_more))
        for schedule in self._schedules():
            schedule.n_epochs = self._n_affordable
        return self._n_epochs == self._n_affordable

    def _schedules(self) -> list[PlannedSchedule]:
        schedules: list[Schedule] = [s for fit in self._fits if fit.optimizer for s in fit.optimizer.schedules]
        return [schedule for schedule in schedules if isinstance(schedule, PlannedSchedule)]


class _MemberObserver:
    """Passes the epochs of one network on to the monitor of its stack."""

    trains_alone = False
    batch_hooks = None

    def __init__(self, monitor: StackMonitor) -> None:
        self._monitor = monitor

    def on_restart(self) -> None:
        """Not called: stacks of an ensemble are trained once."""

    def on_epoch_begin(self) -> None:
        """An epoch is about to begin."""
        self._monitor.begin_epoch()

    def on_epoch_end(self, network: StackedMLP, k: int) -> bool:
        """An epoch has been recorded. Return whether to stop."""
        return self._monitor.end_epoch(network, k)


class EpochLog:
    """Prints a line for each epoch of a stack of these fits."""

    def __init__(self, fits: Sequence[Fit]) -> None:
        self._fits = fits

    def on_epoch_begin(self) -> None:
        """Nothing to print yet."""

    def on_epoch_end(self, network: StackedMLP, k: int) -> bool:
        """Print the mean losses of the networks that are still in training."""
        records, means = _last_records(self._fits), mean_record(self._fits)
        networks = "1 network" if len(records) == 1 else f"{len(records)} networks"
        names = [name for name in ("loss", "validation_loss") if name in means]
        losses = ", ".join(f"{name.replace('_', ' ')} = {means[name]:.6f}" for name in names)
        print(f"Epoch {means['epoch']}, {networks}: {losses}")  # noqa: T201
        return False


def mean_record(fits: Sequence[Fit]) -> EpochRecord:
    """Record of the last epoch of a stack of these fits: the means over the networks that are still in training."""
    records = _last_records(fits)
    names = [name for name in records[0] if all(name in record for record in records)]
    means = {name: float(np.mean([record[name] for record in records])) for name in names}
    return means | {"epoch": records[0]["epoch"]}


def _last_records(fits: Sequence[Fit]) -> list[EpochRecord]:
    n_epochs = max(fit.progress.n_epochs for fit in fits)
    return [fit.progress.records[-1] for fit in fits if fit.progress.n_epochs == n_epochs]


def stack_in_training(candidates: Sequence[Candidate]) -> list[Fit]:
    """Fits of the last stack that has ended an epoch."""
    stacks = [fits for candidate in candidates for fits in candidate.stacks()]
    return next(fits for fits in reversed(stacks) if fits[0].progress.n_epochs)


def train_candidates(
    candidates: Sequence[Candidate],
    deadline: Deadline,
    callbacks: Sequence[EpochCallback] = (),
    *,
    verbose: bool = False,
) -> list[Candidate]:
    """Train the networks of each candidate as a stack; return the candidates that have been trained.

    Parameters
    ----------
    candidates : sequence of Candidate
    deadline : Deadline
        The first candidate may take all of it. Another one begins where half the time of the first is left.
    callbacks : sequence of EpochCallback
    verbose : bool, default=False
        Whether to print a line for each epoch.
    """
    trained: list[Candidate] = []
    halving = SuccessiveHalving() if len(candidates) > 1 else None
    for candidate in candidates:
        if trained and deadline.remaining < _LEAST_TIME * trained[0].seconds:
            deadline.was_reached = True
            break
        began = _now()
        stacks = candidate.stacks()
        for n_trained, fits in enumerate(stacks):
            log = [EpochLog(fits)] if verbose else []
            share = len(fits) / sum(map(len, stacks[n_trained:]))
            monitor = StackMonitor(candidate, fits, deadline, share, [*callbacks, *log], halving)
            _train(fits)
            if monitor.ends_all:
                candidate.fits = [fit for fit in candidate.fits if fit.progress.n_epochs] or candidate.fits
                break
        candidate.seconds = _now() - began
        for fit in candidate.fits:
            fit.optimizer = None  # its moments would take twice the memory of the network
        trained.append(candidate)
        if monitor.ends_all:
            break
    return trained


def _train(fits: Sequence[Fit]) -> None:
    network, options = fits[0].network, fits[0].options
    n_steps = fits[0].n_rows / options.batch_size * options.max_iter
    call_with_threads(partial(train, fits), len(fits) * network.n_coefs * options.batch_size, n_steps)
