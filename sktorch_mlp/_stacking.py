"""Fits of one shape trained side by side, as one stack. Knows no threads and no scikit-learn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from ._data import Shuffler, TrainingData
from ._losses import Loss
from ._network import StackedMLP
from ._solvers import Solver
from ._training import Progress, TrainingOptions, train

#: Bytes that the steps of a stack work on: on a CPU what stays in its cache, on a GPU a share
#: of its free memory.
_CPU_BUDGET, _GPU_SHARE = 2**23, 0.5


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

    def key(self) -> Hashable:
        """Fits with equal keys can train in one stack; None if this one has to train alone."""
        data, (train_rows,), batch_size = self.data, self.data.train, self.options.batch_size
        if data.rows.is_sparse:
            return None
        n_batches = -(-len(train_rows) // batch_size)
        return (
            self.network.layer_units,
            self.network.activation,
            self.network.flat.dtype,
            self.network.flat.device,
            type(self.loss),
            self.solver.kind(),
            n_batches,
            batch_size if n_batches > 1 else None,
            data.validation is None,
            data.targets.dtype,
        )

    def work_size(self) -> int:
        """Bytes that a step works on: parameters, gradient, moments, a batch and its activations."""
        n_units = sum(self.network.layer_units) + sum(self.network.layer_units[1:])
        n_parameters = self.network.flat.shape[1]
        return self.network.flat.itemsize * (5 * n_parameters + self.options.batch_size * n_units)

    def mark(self) -> Callable[[], None]:
        """Note where the fit stands; the result puts it back there."""
        progress, shuffler = self.progress.mark(), self.shuffler.mark()

        def rewind() -> None:
            self.progress.rewind(progress)
            self.shuffler.rewind(shuffler)

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
        row_numbers = _distinct([fit.data.rows.X for fit in group])
        order = sorted(range(len(group)), key=lambda i: (row_numbers[i], group[i].solver.settings_of(0)))
        bounds = [round(i * len(group) / n_stacks) for i in range(n_stacks + 1)]
        stacks += [[group[i] for i in order[start:stop]] for start, stop in pairwise(bounds)]
    return stacks


def _largest_stack(fit: Fit) -> int:
    device = fit.network.flat.device
    budget = int(_GPU_SHARE * torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else _CPU_BUDGET
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
    first = fits[0]
    if len(fits) == 1:
        train(first.network, first.solver, first.loss, first.data, shufflers, options, progress, check)
        return
    flat = torch.cat([fit.network.flat.detach() for fit in fits])
    network = StackedMLP(
        first.network.layer_units, first.network.activation, len(fits), dtype=flat.dtype, device=flat.device
    )
    network.flat.data.copy_(flat)
    for fit in fits:
        fit.solver.bind(fit.network)  # makes moments where there are none yet
    solver = copy.copy(first.solver)
    solver.restore([fit.solver.state(0) for fit in fits])
    data = join_data([fit.data for fit in fits])
    train(network, solver, first.loss, data, shufflers, options, progress, check)
    for k, fit in enumerate(fits):
        fit.network.flat.data.copy_(network.flat[k])
        fit.solver.restore([solver.state(k)])


def join_data(parts: Sequence[TrainingData]) -> TrainingData:
    """The data of several fits as those of a stack; what several have in common is held once.

    Parameters
    ----------
    parts : sequence of TrainingData
        Dense, of one network each.
    """
    rows, row_starts = _join([(part.rows.X,) for part in parts], axis=0)
    weighted = any(part.weights is not None for part in parts)
    labels = [(part.targets, _weights(part).unsqueeze(0)) if weighted else (part.targets,) for part in parts]
    (targets, *weights), target_starts = _join(labels, axis=-1)
    has_validation = parts[0].validation is not None
    return TrainingData(
        rows=replace(parts[0].rows, X=rows[0]),
        targets=targets,
        weights=weights[0].squeeze(0) if weighted else None,
        train=[rows for part in parts for rows in part.train],
        validation=[rows for part in parts for rows in part.validation or ()] if has_validation else None,
        starts=list(zip(row_starts, target_starts, strict=True)),
    )


def _weights(part: TrainingData) -> Tensor:
    if part.weights is not None:
        return part.weights
    return torch.ones(part.targets.shape[-1], dtype=part.rows.dtype, device=part.targets.device)


def _join(parts: Sequence[tuple[Tensor, ...]], axis: int) -> tuple[list[Tensor], list[int]]:
    """Concatenate the distinct tuples of tensors, each place on its own, and say where each given one starts."""
    numbers = [_distinct(place) for place in zip(*parts, strict=True)]
    ids: dict[Any, int] = {}
    number_of_part = [ids.setdefault(number, len(ids)) for number in zip(*numbers, strict=True)]
    distinct = [parts[number_of_part.index(i)] for i in range(len(ids))]
    starts = [0, *accumulate(tensors[0].shape[axis] for tensors in distinct)]
    joined = [place[0] if len(place) == 1 else torch.cat(place, axis) for place in zip(*distinct, strict=True)]
    return joined, [starts[number] for number in number_of_part]


def _distinct(tensors: Sequence[Tensor]) -> list[int]:
    """A number for each tensor, the same for equal ones."""
    representatives: list[Tensor] = []
    numbers = []
    for tensor in tensors:
        for number, other in enumerate(representatives):
            if _is_same(tensor, other):
                numbers.append(number)
                break
        else:
            numbers.append(len(representatives))
            representatives.append(tensor)
    return numbers


def _is_same(tensor: Tensor, other: Tensor) -> bool:
    if tensor.shape != other.shape or tensor.dtype != other.dtype:
        return False
    at_same_place = tensor.data_ptr() == other.data_ptr() and tensor.stride() == other.stride()
    return at_same_place or torch.equal(tensor, other)
