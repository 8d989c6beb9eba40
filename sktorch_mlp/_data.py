"""What a fit is given, and its mini-batches in buffers that stay in place from epoch to epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._arrays import as_tensor
from ._network import lean
from ._rows import Batch, Load, Rows

#: Rows, and off the CPU mini-batches, that are laid out at once.
_SEGMENT_ROWS, _SEGMENT_BATCHES = 2**17, 64


@dataclass
class Samples:
    """Rows, targets and weights of the fits of a stack; training changes none of it.

    Attributes
    ----------
    rows : Rows
        X of all networks, each distinct X once.
    targets : Tensor of shape (n_targets, n_all_rows)
        Class indices (int64, one target) or target values.
    weights : Tensor of shape (n_all_rows,) or None
        Sample weights.
    indices : sequence of ndarray of shape (n_rows,)
        Those that each network is to use.
    starts : sequence of (int, int), default=()
        Where a network's rows, and where its targets and weights start; () for 0 in all cases.
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

    def keep(self, networks: Sequence[int]) -> Samples:
        """The samples of these networks."""
        starts = [self.starts[k] for k in networks] if self.starts else ()
        return replace(self, indices=[self.indices[k] for k in networks], starts=starts)

    def stack(self, rows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Each network's rows side by side, as indices of rows and of targets, both ([n_networks,] n_rows).

        Where a network has fewer rows than others, its last one fills up.
        """
        n_rows = max(map(len, rows))
        filled = [np.pad(r, (0, n_rows - len(r)), constant_values=r[-1]) if len(r) < n_rows else r for r in rows]
        indices = lean(as_tensor(np.stack(filled), self.rows.device))
        if not self.starts:
            return indices, indices
        row_starts, target_starts = torch.tensor(self.starts, device=indices.device).T.unsqueeze(-1)
        return indices + lean(row_starts), indices + lean(target_starts)

    def take_targets(self, target_rows: Tensor) -> Tensor:
        """Targets at these indices, of shape ([n_networks,] n_targets, n_rows)."""
        taken = self.targets.index_select(-1, target_rows.flatten())
        return taken.unflatten(-1, target_rows.shape).movedim(0, -2)


@dataclass
class TrainingData:
    """What the fits of a stack are given.

    Attributes
    ----------
    train : Samples
    validation : Samples or None
        What epochs are judged by: samples of their own, or those set aside, which share the tensors of `train`.
    """

    train: Samples
    validation: Samples | None = None

    @property
    def nbytes(self) -> int:
        """Memory of all samples."""
        shared = self.validation is None or self.validation.rows is self.train.rows
        return self.train.nbytes + (0 if shared or self.validation is None else self.validation.nbytes)

    def keep(self, networks: Sequence[int]) -> TrainingData:
        """The data of these networks."""
        return TrainingData(
            self.train.keep(networks), None if self.validation is None else self.validation.keep(networks)
        )

    def on_rows(self, rows: Rows) -> TrainingData:
        """The same with these training rows, which are equal to its own."""
        validation = self.validation
        if validation is not None and validation.rows is self.train.rows:
            validation = replace(validation, rows=rows)
        return TrainingData(replace(self.train, rows=rows), validation)


def join_data(parts: Sequence[TrainingData]) -> TrainingData:
    """The data of several fits as those of a stack; what several have in common is held once.

    Parameters
    ----------
    parts : sequence of TrainingData
        Dense, of one network each.
    """
    train = _join_samples([part.train for part in parts])
    validations = [part.validation for part in parts if part.validation is not None]
    if not validations:
        return TrainingData(train)
    if all(v.targets is part.train.targets for v, part in zip(validations, parts, strict=True)):
        return TrainingData(train, replace(train, indices=[rows for v in validations for rows in v.indices]))
    return TrainingData(train, _join_samples(validations))


def _join_samples(parts: Sequence[Samples]) -> Samples:
    X, row_starts = _join([(part.rows.X,) for part in parts], axis=0)
    weighted = any(part.weights is not None for part in parts)
    labels = [(part.targets, _weights(part).unsqueeze(0)) if weighted else (part.targets,) for part in parts]
    (targets, *weights), target_starts = _join(labels, axis=-1)
    return Samples(
        rows=replace(parts[0].rows, X=X[0]),
        targets=targets,
        weights=weights[0].squeeze(0) if weighted else None,
        indices=[rows for part in parts for rows in part.indices],
        starts=list(zip(row_starts, target_starts, strict=True)),
    )


def _weights(part: Samples) -> Tensor:
    if part.weights is not None:
        return part.weights
    return torch.ones(part.targets.shape[-1], dtype=part.rows.dtype, device=part.targets.device)


def _join(parts: Sequence[tuple[Tensor, ...]], axis: int) -> tuple[list[Tensor], list[int]]:
    """Concatenate the distinct tuples of tensors, each place on its own, and say where each given one starts."""
    numbers = [number_distinct(place) for place in zip(*parts, strict=True)]
    ids: dict[Any, int] = {}
    number_of_part = [ids.setdefault(number, len(ids)) for number in zip(*numbers, strict=True)]
    distinct = [parts[number_of_part.index(i)] for i in range(len(ids))]
    starts = [0, *accumulate(tensors[0].shape[axis] for tensors in distinct)]
    joined = [place[0] if len(place) == 1 else torch.cat(place, axis) for place in zip(*distinct, strict=True)]
    return joined, [starts[number] for number in number_of_part]


def number_distinct(tensors: Sequence[Tensor]) -> list[int]:
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


class Shuffler:
    """A network's order of training rows, epoch after epoch.

    Shuffles cumulatively from a numpy stream as `sklearn.utils.shuffle` does, so that
    the mini-batches are scikit-learn's.

    Parameters
    ----------
    rows : ndarray of shape (n_rows,)
        Indices to order.
    random_state : RandomState or None
        Source of the permutations; with None the order stays.
    """

    def __init__(self, rows: np.ndarray, random_state: np.random.RandomState | None) -> None:
        self._rows, self._random_state = rows, random_state
        self._is_ahead = False

    def mark(self) -> tuple[Any, ...]:
        """Note where the stream stands, for `rewind`."""
        state = None if self._random_state is None else self._random_state.get_state()
        return self._rows, self._is_ahead, state

    def rewind(self, mark: tuple[Any, ...]) -> None:
        """Go back to a mark; numpy's global stream, from which others have drawn, stays where it is."""
        self._rows, self._is_ahead, state = mark
        if self._random_state is not None and self._random_state is not np.random.mtrand._rand:
            self._random_state.set_state(state)

    def shuffle_ahead(self) -> None:
        """Shuffle for the next epoch already."""
        if self._random_state is not None and not self._is_ahead:
            self._rows = self._rows[self._random_state.permutation(len(self._rows))]
            self._is_ahead = True

    def next_epoch(self) -> np.ndarray:
        """Indices in the order of the next epoch."""
        self.shuffle_ahead()
        self._is_ahead = False
        return self._rows


class MiniBatches:
    """The training rows of a stack in mini-batches, epoch after epoch.

    An epoch is a sequence of segments. All but the last are alike and share their buffers.

    Parameters
    ----------
    samples : Samples
    shufflers : sequence of Shuffler
        One a network.
    batch_size : int
        Rows of a batch; a short last batch is kept. Networks may have unlike numbers of
        rows, but need as many batches.
    longest_segment : int, default=None
        Most batches of a segment; None for as many as memory allows.

    Attributes
    ----------
    segments : list of Segment
        Those of an epoch, in order; the same object stands for those that are alike.
    """

    def __init__(
        self, samples: Samples, shufflers: Sequence[Shuffler], batch_size: int, longest_segment: int | None = None
    ) -> None:
        self._samples, self._shufflers = samples, shufflers
        n_train = [len(rows) for rows in samples.indices]
        n_rows = max(n_train)
        sizes = [min(batch_size, n_rows - start) for start in range(0, n_rows, batch_size)]
        if min(n_train) <= n_rows - sizes[-1]:
            raise ValueError(f"{min(n_train)} and {n_rows} rows are not as many batches of {batch_size}.")
        per_segment = max(1, _SEGMENT_ROWS // batch_size)
        if samples.rows.device.type != "cpu":
            per_segment = min(per_segment, _SEGMENT_BATCHES)
        per_segment = min(per_segment, longest_segment or per_segment)
        parts = [sizes[start : start + per_segment] for start in range(0, len(sizes), per_segment)]
        last = Segment(samples, parts[-1], n_train, missing=[n_rows - n for n in n_train])
        if len(parts) > 1:
            first = Segment(samples, parts[0], n_train, missing=[0] * len(n_train))
        self.segments = [first] * (len(parts) - 1) + [last] if len(parts) > 1 else [last]
        self._lengths = [sum(part) for part in parts]
        if len(sizes) == 1:  # all training rows, whose order does not matter
            last.load(*samples.stack(samples.indices), once=True)

    def shuffle_ahead(self) -> None:
        """Shuffle for the next epoch already."""
        for shuffler in self._shufflers:
            shuffler.shuffle_ahead()

    def next_epoch(self) -> Iterator[Segment]:
        """Shuffle, and lay out the segments of the epoch one after the other."""
        orders = [shuffler.next_epoch() for shuffler in self._shufflers]
        if self.segments[-1].loaded_once:
            yield self.segments[-1]
            return
        parts = (indices.split(self._lengths, -1) for indices in self._samples.stack(orders))
        for segment, rows, target_rows in zip(self.segments, *parts, strict=True):
            segment.load(rows, target_rows)
            yield segment


class Segment:
    """Consecutive mini-batches, with targets and weights, in buffers that stay in place.

    scikit-learn weighs rows within their batch, and batches by their rows.

    Parameters
    ----------
    samples : Samples
    sizes : list of int
        Rows of each mini-batch; none is larger than the first.
    n_train : sequence of int
        Rows of an epoch, network by network.
    missing : sequence of int
        Rows that a network lacks in the last mini-batch; others stand there, without weight.

    Attributes
    ----------
    sizes : list of int
    weighted : bool
        Whether rows count differently, for their weights or because some are missing.
    reweighs : bool
        Whether each `load` changes `scales` and `totals`.
    targets : Tensor of shape (..., n_targets, n_rows)
    target_parts : sequence of Tensor of shape (..., n_targets, n_rows_of_batch)
    scales : sequence of Tensor, 0-d or of shape (..., 1, n_rows_of_batch)
        Each row's share of its batch.
    totals : Tensor of shape (n_batches, n_networks)
        Each batch's sum of weights.
    shares : Tensor of shape (n_batches, n_networks)
        Each batch's share of the epoch, by its rows.
    """

    def __init__(self, samples: Samples, sizes: list[int], n_train: Sequence[int], missing: Sequence[int]) -> None:
        n_networks, n_rows, n_batches = len(n_train), sum(sizes), len(sizes)
        like = torch.empty(0, dtype=samples.rows.dtype, device=samples.rows.device)
        self._samples, self.sizes, self.loaded_once = samples, sizes, False
        self._rows = lean(torch.zeros(n_networks, n_rows, dtype=torch.int64, device=like.device))
        self._gathered = samples.targets.new_empty(len(samples.targets), n_networks * n_rows)
        self.targets = self._gathered.unflatten(-1, self._rows.shape).movedim(0, -2)
        self.target_parts = self.targets.split(sizes, -1)
        #: whether its steps are nothing but kernels on a GPU, in tensors that stay in place
        self.can_be_captured = like.device.type == "cuda" and not samples.rows.is_sparse
        self._loads: list[Load] = []
        self._batches: list[Batch] = []

        self.reweighs = samples.weights is not None
        self.weighted = self.reweighs or any(missing)
        self._row_axes = None if n_networks == 1 else (-1, -2)
        if not self.weighted:
            self.totals = like.new_tensor(sizes).unsqueeze(-1).expand(-1, n_networks)
            self.scales = [like.new_tensor(1 / size) for size in sizes]
            self.shares = self.totals / like.new_tensor(n_train)
            self._row_share = 1 / lean(like.new_tensor(n_train))
        else:
            n_slots = n_batches * sizes[0]
            rows_of_network = like.new_tensor([n_rows - n for n in missing]).unsqueeze(-1)
            self._weights = (torch.arange(n_slots, device=like.device) < rows_of_network).to(like.dtype)
            self._present = self._weights[:, :n_rows].clone()
            self._scales = torch.zeros_like(self._weights)
            self.totals = like.new_zeros(n_batches, n_networks)
            self._may_be_empty = samples.weights is not None and bool((samples.weights <= 0).any())
            parts = self._scales.unsqueeze(1).split(sizes[0], -1)
            self.scales = [lean(part[..., :size]) for part, size in zip(parts, sizes, strict=True)]
            n_present = self._weights.unflatten(-1, (n_batches, -1)).sum(-1).mT
            self.shares = n_present / like.new_tensor(n_train)
            self._slot_shares = torch.zeros_like(self._scales)
            self._row_shares = lean(self._slot_shares[:, None, :n_rows])
            if not self.reweighs:
                self._weigh(self._present)

    def load(self, rows: Tensor, target_rows: Tensor, *, once: bool = False) -> None:
        """Take these rows, of shape ([n_networks,] n_rows); if `once`, and no others ever.

        Raises
        ------
        ZeroDivisionError
            If the weights of a mini-batch sum to zero.
        """
        if once:
            self._rows, self.loaded_once = rows, True
            self._batches = [self._samples.rows.take(rows)]
        else:
            self._rows.copy_(rows)
            self._loads = self._loads or self._samples.rows.loads(self._rows, self.sizes)
        torch.index_select(self._samples.targets, -1, target_rows.flatten(), out=self._gathered)
        if self._samples.weights is not None:
            weights = self._samples.weights.index_select(0, target_rows.flatten())
            self._weigh(weights.view_as(self._present).mul_(self._present))
            self.reweighs = not once

    def _weigh(self, weights: Tensor) -> None:
        """Let rows count as these (n_networks, n_rows) weights say."""
        n_batches, n_networks = self.shares.shape
        self._weights[:, : weights.shape[-1]] = weights
        by_batch = self._weights.view(n_networks, n_batches, -1)
        self.totals.copy_(by_batch.sum(-1).mT)
        if self._may_be_empty and not self.totals.all():
            raise ZeroDivisionError(
                "The sample weights of a mini-batch sum to zero, so that its mean loss is undefined. "
                "Leave out the rows of weight zero, or use a larger batch_size."
            )
        scales = torch.div(by_batch, self.totals.mT.unsqueeze(-1), out=self._scales.view_as(by_batch))
        torch.mul(scales, self.shares.mT.unsqueeze(-1), out=self._slot_shares.view_as(by_batch))

    @property
    def row_parts(self) -> Sequence[Tensor]:
        """Which rows of X each mini-batch has, of shape ([n_networks,] n_rows_of_batch)."""
        return self._rows.split(self.sizes, -1)

    def batches(self) -> Iterator[Batch]:
        """The mini-batches; each is valid until the next is taken."""
        yield from self._batches
        for load in self._loads:
            yield from load()

    def mean(self, row_losses: Tensor) -> Tensor:
        """The part of the epoch's loss, the mean over rows of the loss of their batch, 0-d or (n_networks,).

        Parameters
        ----------
        row_losses : Tensor of shape (..., 1, n_rows)
        """
        if not self.weighted:
            return row_losses.sum(self._row_axes) * self._row_share
        return (row_losses * self._row_shares).sum(self._row_axes)
