"""Fits of one shape trained side by side, as one stack. Knows no threads and no scikit-learn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from ._data import Shuffler, TrainingData, join_data, number_distinct
from ._losses import Loss
from ._network import StackedMLP
from ._progress import Observer, Progress, TrainingOptions
from ._solvers import Solver
from ._training import train

#: Bytes that the steps of a stack work on: on a CPU what stays in its cache.
_BUDGETS = {"cpu": 2**23, "mps": 2**30}
#: The same for CUDA, as a share of the memory that is free.
_GPU_SHARE = 0.5


@dataclass(eq=False)
class Fit:
    """One fit, ready to be trained; the fields are what `train` takes."""

    network: StackedMLP
    solver: Solver
    loss: Loss
    data: TrainingData
    shuffler: Shuffler
    options: TrainingOptions
    progress: Progress
    observer: Observer | None = None

    def key(self) -> Hashable:
        """Fits with equal keys can train in one stack; None if this one has to train alone."""
        train, (rows,), batch_size = self.data.train, self.data.train.indices, self.options.batch_size
        watched_closely = self.observer is not None and self.observer.trains_alone
        is_sparse = any(samples is not None and samples.rows.is_sparse for samples in (train, self.data.validation))
        if is_sparse or self.solver.kind() is None or watched_closely:
            return None
        n_batches = -(-len(rows) // batch_size)
        # Masks, and losses that see whole batches, must not meet the rows that fill up a shorter batch.
        fills_up = self.network.dropout is None and not self.loss.couples_rows
        return (
            self.network.kind(),
            self.loss.kind(),
            self.solver.kind(),
            n_batches,
            batch_size if n_batches > 1 else None,
            None if fills_up else len(rows),
            self._validation_kind(fills_up),
            train.targets.dtype,
        )

    def _validation_kind(self, fills_up: bool) -> Hashable:
        """Fits have validation rows all or none, and all of them their own or set aside."""
        validation = self.data.validation
        if validation is None:
            return None
        return validation.targets is self.data.train.targets, None if fills_up else len(validation.indices[0])

    def work_size(self) -> int:
        """Bytes that a step works on: parameters, gradient, moments, a batch and its activations."""
        n_units = sum(self.network.layer_units) + sum(self.network.layer_units[1:])
        n_parameters = self.network.flat.shape[1]
        return self.network.flat.itemsize * (5 * n_parameters + self.options.batch_size * n_units)

    def mark(self) -> Callable[[], None]:
        """Note where the fit stands; the result puts it back there."""
        progress, shuffler = self.progress.mark(), self.shuffler.mark()
        dropout = None if self.network.dropout is None else self.network.dropout.mark()

        def rewind() -> None:
            self.progress.rewind(progress)
            self.shuffler.rewind(shuffler)
            if dropout is not None:
                dropout()
            if self.observer is not None:
                self.observer.starts_over()

        return rewind


def split_into_stacks(fits: Sequence[Fit], n_workers: int) -> list[list[Fit]]:
    """Group fits that can train together, in stacks that fit into memory and are enough for all workers."""
    groups: dict[Hashable, list[Fit]] = {}
    for fit in fits:
        key = fit.key()
        groups.setdefault(fit if key is None else key, []).append(fit)
    stacks = []
    for group in groups.values():
        n_stacks = -(-len(group) // _largest_stack(group[0]))
        if group[0].network.flat.device.type == "cpu":
            n_stacks = min(len(group), -(-n_stacks // n_workers) * n_workers)
        # Fits on the same rows come next to each other, so that few stacks hold these rows, and
        # among them those with the same rates, which a solver can update in one call.
        row_numbers = number_distinct([fit.data.train.rows.X for fit in group])
        for fit, number in zip(group, row_numbers, strict=True):
            fit.data = fit.data.on_rows(group[row_numbers.index(number)].data.train.rows)
        order = sorted(range(len(group)), key=lambda i: (row_numbers[i], group[i].solver.settings_of(0)))
        bounds = [round(i * len(group) / n_stacks) for i in range(n_stacks + 1)]
        stacks += [[group[i] for i in order[start:stop]] for start, stop in pairwise(bounds)]
    return stacks


def _largest_stack(fit: Fit) -> int:
    device = fit.network.flat.device
    budget = int(_GPU_SHARE * torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else _BUDGETS[device.type]
    return max(1, budget // fit.work_size())


def train_stack(fits: Sequence[Fit], check: Callable[[], None] = lambda: None) -> None:
    """Train fits with equal keys side by side; each gets what it would get alone.

    Parameters
    ----------
    fits : sequence of Fit
    check : callable, default=nothing
        Called before each epoch; it may raise KeyboardInterrupt to end training.
    """
    shufflers = [fit.shuffler for fit in fits]
    options, progress = [fit.options for fit in fits], [fit.progress for fit in fits]
    observers = [fit.observer for fit in fits]
    first = fits[0]
    if len(fits) == 1:
        train(first.network, first.solver, first.loss, first.data, shufflers, options, progress, observers, check)
        return
    network = StackedMLP.join([fit.network for fit in fits])
    for fit in fits:
        fit.solver.bind(fit.network, 1)  # makes moments where there are none yet
    solver = copy.copy(first.solver)
    solver.restore([fit.solver.state(0) for fit in fits])
    data = join_data([fit.data for fit in fits])
    train(network, solver, first.loss, data, shufflers, options, progress, observers, check)
    for k, fit in enumerate(fits):
        fit.network.load_state(0, network.state(k))
        fit.solver.restore([solver.state(k)])
