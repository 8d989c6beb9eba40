"""Training of the networks of an ensemble side by side: held-out rows, epochs, the time they may take."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
import torch

from sktorch_mlp._data.rows import Rows
from sktorch_mlp._data.samples import Samples, TrainingData
from sktorch_mlp._nn.embeddings import TableEmbedding
from sktorch_mlp._nn.network import StackedMLP
from sktorch_mlp._nn.tensors import as_tensor
from sktorch_mlp._training.fit import Fit
from sktorch_mlp._training.loop import train
from sktorch_mlp._training.progress import DivergenceError
from sktorch_mlp._training.schedules import PlannedSchedule, Schedule
from sktorch_mlp._training.threads import call_with_threads

from .ensembles import FittedStack
from .inputs import Inputs
from .recipe import PATIENCE, Settings, make_embedding
from .targets import ClassTargets, Targets


def split_folds(
    n_rows: int,
    n_members: int,
    validation_fraction: float,
    strata: np.ndarray | None,
    random_state: np.random.RandomState,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split rows for each network into those to train on and those held out.

    The networks hold out one fold after the other, so that each row is held out by about as many; after the last
    fold come those of another shuffle. Every class is spread over the folds as evenly as can be.

    Parameters
    ----------
    n_rows, n_members : int
    validation_fraction : float
        Size of a fold; 0 for none.
    strata : ndarray of shape (n_rows,) or None
        Classes.
    random_state : RandomState

    Returns
    -------
    list of (ndarray, ndarray)
        Training and validation rows of each network, in increasing order.
    """
    if validation_fraction == 0 or n_rows < 2:
        return [(np.arange(n_rows), np.arange(0))] * n_members
    n_folds = min(n_rows, max(2, round(1 / validation_fraction)))
    splits = []
    for member in range(n_members):
        if member % n_folds == 0:
            fold_of = _assign_folds(n_rows, n_folds, strata, random_state)
        held_out = fold_of == member % n_folds
        splits.append((np.flatnonzero(~held_out), np.flatnonzero(held_out)))
    return splits


def _assign_folds(
    n_rows: int, n_folds: int, strata: np.ndarray | None, random_state: np.random.RandomState
) -> np.ndarray:
    order = random_state.permutation(n_rows)
    if strata is not None:
        order = order[np.argsort(strata[order], kind="stable")]
    fold_of = np.empty(n_rows, dtype=np.int64)
    fold_of[order] = np.arange(n_rows) % n_folds
    return fold_of


class TableData:
    """Encoded data of a fit on the device, and what all networks make of them.

    Parameters
    ----------
    training, validation : Inputs
        Encoded and validated; `validation` may be empty.
    targets : Targets
    device : torch.device
    dtype : numpy.dtype

    Attributes
    ----------
    loss : Loss
    samples : Samples
        All rows.
    validation_samples : Samples or None
    """

    def __init__(
        self, training: Inputs, validation: Inputs, targets: Targets, device: torch.device, dtype: np.dtype
    ) -> None:
        self.training, self.validation, self.targets = training, validation, targets
        has_weights = targets.has_row_weights(training.sample_weight) or validation.sample_weight is not None
        self.loss = targets.make_loss(has_sample_weight=has_weights)
        self.samples = _make_samples(training, targets, device, dtype)
        self.validation_samples = None if validation.X is None else _make_samples(validation, targets, device, dtype)
        self._embeddings: dict[Any, TableEmbedding] = {}

    @property
    def n_rows(self) -> int:
        """Training rows, held-out ones included."""
        return len(self.samples.rows)

    def split(
        self, n_members: int, validation_fraction: float, random_state: np.random.RandomState
    ) -> list[TrainingData]:
        """Data of each network: what is held out is another fold for each, if no validation data are given."""
        samples = self.samples
        if self.validation_samples is not None:
            return [TrainingData(samples, self.validation_samples)] * n_members
        strata = samples.targets[0].cpu().numpy() if isinstance(self.targets, ClassTargets) else None
        folds = split_folds(self.n_rows, n_members, validation_fraction, strata, random_state)
        return [
            TrainingData(
                replace(samples, indices=[train]), replace(samples, indices=[held_out]) if len(held_out) else None
            )
            for train, held_out in folds
        ]

    def embedding(self, encoder: Any, settings: Settings) -> TableEmbedding | None:
        """Embedding of the columns, the same object for the same settings; None for sparse X."""
        if sp.issparse(self.training.X):
            return None
        key = settings.numerical_embedding, settings.n_bins, settings.n_frequencies
        if key not in self._embeddings:
            self._embeddings[key] = make_embedding(encoder, self.training.X, settings)
        return self._embeddings[key]

    def out_bias(self) -> np.ndarray:
        """Intercepts of the outputs with which they are the means of the targets."""
        targets = self.samples.targets.cpu().numpy()
        weights = None if self.samples.weights is None else self.samples.weights.cpu().numpy()
        if self.loss.out_activation == "softmax":
            counts = np.bincount(targets[0], weights=weights, minlength=self.loss.n_outputs)
            return np.log(np.maximum(counts / counts.sum(), 1e-6))
        if self.loss.out_activation == "logistic":
            means = np.average(targets, axis=1, weights=weights).clip(1e-6, 1 - 1e-6)
            return np.log(means / (1 - means))
        return np.zeros(self.loss.n_outputs)


def _make_samples(data: Inputs, targets: Targets, device: torch.device, dtype: np.dtype) -> Samples:
    """Place encoded data on the device."""
    weights = targets.row_weights(data.y, data.sample_weight)
    return Samples(
        rows=Rows.from_array(data.X, device, dtype),
        targets=as_tensor(targets.encode(data.y, dtype), device),
        weights=None if weights is None else as_tensor(weights.astype(dtype, copy=False), device),
        indices=[np.arange(data.X.shape[0])],
    )


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
    began : float
        On the clock of `time.perf_counter`.
    was_reached : bool
        Whether training ended early for it.
    """

    seconds: float = math.inf
    began: float = field(default_factory=_now)
    was_reached: bool = False

    @property
    def remaining(self) -> float:
        """Seconds left."""
        return self.seconds - (time.perf_counter() - self.began)


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
        """Mean of the best validation losses so far."""
        return float(np.mean([-fit.progress.best_validation_score for fit in self.fits]))

    @property
    def was_interrupted(self) -> bool:
        """Whether the user has interrupted training."""
        return any(fit.progress.stop_reason == "interrupted" for fit in self.fits)


class SuccessiveHalving:
    """Stops a candidate that is among the worse half of those that came as far (Li et al., 2020).

    Parameters
    ----------
    fractions : sequence of float
        Parts of the epochs after which candidates are compared.
    """

    def __init__(self, fractions: Sequence[float] = (0.125, 0.25, 0.5)) -> None:
        self._losses: dict[float, list[float]] = {fraction: [] for fraction in fractions}

    def stops(self, candidate: Candidate) -> bool:
        """Return whether a candidate that has ended an epoch is to stop."""
        for fraction, losses in self._losses.items():
            if candidate.n_epochs == math.ceil(fraction * candidate.settings.max_iter):
                losses.append(candidate.loss)
                if len(losses) > 1 and candidate.loss > np.median(losses):
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
        self._began = time.perf_counter()
        self._n_planned = candidate.settings.max_iter
        self._n_epochs, self._is_in_epoch, self._stops = 0, False, False
        for fit in self._fits:
            fit.observer = _MemberObserver(self)

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
            loses = self._halving is not None and self._halving.stops(self._candidate)
            self._stops = any(asks) or loses or self._has_converged() or self._is_late()
        return self._stops

    def _has_converged(self) -> bool:
        """Whether no network has become better for some epochs. One that still does may lead others to lower rates."""
        counts = (fit.progress.n_epochs_no_change for fit in self._fits if fit.options.early_stopping)
        return min(counts, default=0) >= PATIENCE

    def _is_late(self) -> bool:
        """Plan fewer epochs where time asks for it; return whether there is time for none."""
        if math.isinf(self._seconds):
            return False
        elapsed = time.perf_counter() - self._began
        affordable = int(self._seconds / elapsed * self._n_epochs)
        if affordable < self._n_planned:
            self._deadline.was_reached = True
            for schedule in self._schedules():
                schedule.n_epochs = max(affordable, self._n_epochs)
        return self._n_epochs >= min(affordable, self._n_planned)

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
    """Prints a line for each epoch of a stack."""

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate

    def on_epoch_begin(self) -> None:
        """Nothing to print yet."""

    def on_epoch_end(self, network: StackedMLP, k: int) -> bool:
        """Print the mean losses of the networks that are still in training."""
        n_epochs = self._candidate.n_epochs
        records = [fit.progress.records[-1] for fit in self._candidate.fits if fit.progress.n_epochs == n_epochs]
        means = {
            name: np.mean([record[name] for record in records])
            for name in ("loss", "validation_loss")
            if all(name in record for record in records)
        }
        losses = ", ".join(f"{name.replace('_', ' ')} = {mean:.6f}" for name, mean in means.items())
        print(f"Epoch {n_epochs}, {len(records)} networks: {losses}")  # noqa: T201
        return False


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
        Divided between stacks. Candidates for which no time is left are not trained, except for the first.
    callbacks : sequence of EpochCallback
    verbose : bool, default=False
        Whether to print a line for each epoch.
    """
    trained: list[Candidate] = []
    halving = SuccessiveHalving() if len(candidates) > 1 else None
    for i, candidate in enumerate(candidates):
        if trained and deadline.remaining <= 0:
            deadline.was_reached = True
            break
        began = time.perf_counter()
        log = [EpochLog(candidate)] if verbose else []
        stacks = _stacks(candidate.fits)
        n_left = len(stacks) * (len(candidates) - i)
        for n_trained, fits in enumerate(stacks):
            StackMonitor(candidate, fits, deadline, 1 / (n_left - n_trained), [*callbacks, *log], halving)
            _train(fits)
        candidate.seconds = time.perf_counter() - began
        trained.append(candidate)
        if candidate.was_interrupted:
            break
    return trained


def _stacks(fits: list[Fit]) -> list[list[Fit]]:
    """All as one stack; of sparse rows each alone."""
    return [[fit] for fit in fits] if fits[0].data.train.rows.is_sparse else [fits]


def _train(fits: Sequence[Fit]) -> None:
    network, options = fits[0].network, fits[0].options
    n_steps = fits[0].n_rows / options.batch_size * options.max_iter
    call_with_threads(partial(train, fits), len(fits) * network.n_coefs * options.batch_size, n_steps)


def fitted_stack(candidate: Candidate, out_activation: str) -> FittedStack:
    """The trained networks of a candidate, each with the same weight.

    Raises
    ------
    DivergenceError
        If the parameters of one are no longer finite.
    """
    networks = [fit.network for fit in candidate.fits]
    if not all(bool(network.flat.isfinite().all()) for network in networks):
        raise DivergenceError("The weights of a network are no longer finite.")
    return FittedStack.from_networks(networks, out_activation, np.full(len(networks), 1 / len(networks)))


def predict_held_out(stack: FittedStack, fits: Sequence[Fit]) -> np.ndarray:
    """Outputs (n_rows, n_outputs) for the validation rows of each network, averaged; nan for rows that have none."""
    samples = fits[0].data.validation or fits[0].data.train
    n_rows = len(samples.rows)
    total = np.zeros((n_rows, stack.spec.layer_units[-1]))
    n_predicted = np.zeros(n_rows)
    for k, fit in enumerate(fits):
        if fit.data.validation is not None:
            (rows,) = fit.data.validation.indices
            total[rows] += stack.member(k).predict(samples.rows[rows]).cpu().numpy()
            n_predicted[rows] += 1
    with np.errstate(invalid="ignore"):
        return total / n_predicted[:, np.newaxis]
