"""Data of fits: rows, targets and weights to train on and to validate with, for one network or a stack."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from sktorch_mlp._nn.tensors import as_tensor, squeeze_stack

from .rows import Rows


@dataclass
class Samples:
    """Rows, targets and weights of the networks of a stack. Training does not change them.

    Attributes
    ----------
    rows : Rows
        X of all networks, each distinct X once.
    targets : Tensor of shape (n_targets, n_all_rows)
        Class indices (int64, one target) or target values.
    weights : Tensor of shape (n_all_rows,) or None
        Sample weights.
    indices : sequence of ndarray of shape (n_rows,)
        Rows that each network uses.
    starts : sequence of (int, int), default=()
        For each network, where its rows start, and where its targets and weights do; () for 0 in all cases.
    """

    rows: Rows
    targets: Tensor
    weights: Tensor | None
    indices: Sequence[np.ndarray]
    starts: Sequence[tuple[int, int]] = ()

    @property
    def nbytes(self) -> int:
        """Memory of X, targets and weights."""
        return self.rows.nbytes + self.targets.nbytes + (0 if self.weights is None else self.weights.nbytes)

    @property
    def sums_weights_in_order(self) -> bool:
        """Whether sums of weights depend on the order of the rows: in a lower precision than the arithmetic they do."""
        return self.weights is not None and self.weights.dtype != self.rows.dtype

    def select(self, networks: Sequence[int]) -> Samples:
        """Samples of some networks; tensors are shared."""
        starts = [self.starts[k] for k in networks] if self.starts else ()
        return replace(self, indices=[self.indices[k] for k in networks], starts=starts)

    def stack_indices(
        self, rows: Sequence[np.ndarray], device: torch.device | str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Rows of each network side by side, as indices of rows and of targets, both ([n_networks,] n_rows).

        Where a network has fewer rows than others, its last one fills up. Indices are on the device of the batches, if
        no other one is named.
        """
        n_rows = max(map(len, rows))
        filled = [np.pad(r, (0, n_rows - len(r)), constant_values=r[-1]) if len(r) < n_rows else r for r in rows]
        stacked = filled[0][np.newaxis] if len(filled) == 1 else np.stack(filled)  # those of one network are not copied
        indices = squeeze_stack(as_tensor(stacked, device or self.rows.device))
        if not self.starts:
            return indices, indices
        row_starts, target_starts = torch.tensor(self.starts, device=indices.device).T.unsqueeze(-1)
        return indices + squeeze_stack(row_starts), indices + squeeze_stack(target_starts)

    def take_targets(self, target_rows: Tensor) -> Tensor:
        """Targets at these indices, of shape ([n_networks,] n_targets, n_rows)."""
        taken = self.targets.index_select(-1, target_rows.flatten())
        return taken.view(len(self.targets), *target_rows.shape).movedim(0, -2)


@dataclass
class TrainingData:
    """Data of the networks of a stack.

    Attributes
    ----------
    train : Samples
    validation : Samples or None
        Samples that epochs are scored on: those of a validation set, or those held out, which share the tensors
        of `train`.
    """

    train: Samples
    validation: Samples | None = None

    @property
    def is_held_out(self) -> bool:
        """Whether the validation samples are held out of the training data."""
        return self.validation is not None and self.validation.targets is self.train.targets

    @property
    def nbytes(self) -> int:
        """Memory of all samples."""
        if self.validation is None or self.validation.rows is self.train.rows:
            return self.train.nbytes
        return self.train.nbytes + self.validation.nbytes

    def select(self, networks: Sequence[int]) -> TrainingData:
        """Data of some networks; tensors are shared."""
        validation = None if self.validation is None else self.validation.select(networks)
        return TrainingData(self.train.select(networks), validation)

    def with_rows(self, rows: Rows) -> TrainingData:
        """The same data with these training rows, which are equal to its own."""
        validation = self.validation
        if validation is not None and validation.rows is self.train.rows:
            validation = replace(validation, rows=rows)
        return TrainingData(replace(self.train, rows=rows), validation)

    @staticmethod
    def join(parts: Sequence[TrainingData]) -> TrainingData:
        """Data of several fits as that of a stack; equal tensors are held once.

        Parameters
        ----------
        parts : sequence of TrainingData
            Dense, of one network each.
        """
        train = _join_samples([part.train for part in parts])
        validations = [part.validation for part in parts if part.validation is not None]
        if not validations:
            return TrainingData(train)
        if all(part.is_held_out for part in parts):
            return TrainingData(train, replace(train, indices=[rows for v in validations for rows in v.indices]))
        return TrainingData(train, _join_samples(validations))


def _join_samples(parts: Sequence[Samples]) -> Samples:
    X, row_starts = _join_tensors([(_dense(part.rows),) for part in parts], axis=0)
    has_weights = any(part.weights is not None for part in parts)
    labels = [(part.targets, _weights(part).unsqueeze(0)) if has_weights else (part.targets,) for part in parts]
    (targets, *weights), target_starts = _join_tensors(labels, axis=-1)
    return Samples(
        rows=replace(parts[0].rows, X=X[0]),
        targets=targets,
        weights=weights[0].squeeze(0) if has_weights else None,
        indices=[rows for part in parts for rows in part.indices],
        starts=list(zip(row_starts, target_starts, strict=True)),
    )


def _dense(rows: Rows) -> Tensor:
    assert isinstance(rows.X, Tensor)
    return rows.X


def _weights(part: Samples) -> Tensor:
    if part.weights is not None:
        return part.weights
    return torch.ones(part.targets.shape[-1], dtype=part.rows.dtype, device=part.targets.device)


def _join_tensors(parts: Sequence[tuple[Tensor, ...]], axis: int) -> tuple[list[Tensor], list[int]]:
    """Concatenate the distinct tuples of tensors, each position on its own, and say where each given one starts."""
    ids = [unique_ids(position) for position in zip(*parts, strict=True)]
    part_ids = _number(list(zip(*ids, strict=True)))
    distinct = [parts[part_ids.index(i)] for i in range(max(part_ids) + 1)]
    starts = [0, *accumulate(tensors[0].shape[axis] for tensors in distinct)]
    positions = zip(*distinct, strict=True)
    joined = [position[0] if len(position) == 1 else torch.cat(position, axis) for position in positions]
    return joined, [starts[i] for i in part_ids]


def _number(keys: Sequence[Hashable]) -> list[int]:
    """Number keys by their first occurrence."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def unique_ids(tensors: Sequence[Tensor]) -> list[int]:
    """Give each tensor a number, the same for equal ones, by their first occurrence."""
    representatives: list[Tensor] = []
    ids = []
    for tensor in tensors:
        for i, other in enumerate(representatives):
            if _equal(tensor, other):
                ids.append(i)
                break
        else:
            ids.append(len(representatives))
            representatives.append(tensor)
    return ids


def _equal(tensor: Tensor, other: Tensor) -> bool:
    if tensor.shape != other.shape or tensor.dtype != other.dtype:
        return False
    in_same_memory = tensor.data_ptr() == other.data_ptr() and tensor.stride() == other.stride()
    return in_same_memory or torch.equal(tensor, other)
