"""Mini-batches of an epoch, in buffers that stay in place from epoch to epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from sktorch_mlp._nn.inputs import Batch
from sktorch_mlp._nn.tensors import squeeze_stack

from .rows import SEGMENT_ROWS, BatchLoader
from .samples import Samples
from .shuffling import Shuffler

#: Most mini-batches of a segment. Each has views of its own, some 5 KiB, which count where X is bytes. Off the CPU: enough for
#: a GPU to be busy while the next ones are prepared, and few to record.
_SEGMENT_BATCHES = {"cpu": 256, "other": 16}

#: Rows of all epochs that are trained at once where each has the same single mini-batch, and epochs, at most: after Ctrl-C
#: coefficients are those of the last step, and the records those of the epochs before. A GPU takes less time for more rows.
_ROWS_OF_EPOCHS, _ROWS_OF_EPOCHS_ON_GPU, _MOST_EPOCHS = 2**11, 2**16, 16


class MiniBatches:
    """The training rows of a stack in mini-batches, epoch after epoch.

    An epoch is a sequence of segments. All but the last are alike and share their buffers.

    Parameters
    ----------
    samples : Samples
    shufflers : sequence of Shuffler
        One for each network.
    batch_size : int
        Rows of a batch. Networks may differ in their number of rows, but not in that of
        batches.
    longest_segment : int, default=None
        Most batches of a segment; None for as many as memory allows.
    segment_rows : int, default=2**17
        Most rows of a segment.
    drop_last : bool, default=False
        Whether to leave out, in each epoch, rows at the end of the order that do not make a
        whole batch for every network. Else a short last batch is kept.
    at_once : bool, default=False
        Whether a few epochs may be trained at once, if all are the same mini-batch.

    Attributes
    ----------
    segments : list of Segment
        Segments of an epoch, in order. Those that are alike are the same object.
    """

    def __init__(
        self,
        samples: Samples,
        shufflers: Sequence[Shuffler],
        batch_size: int,
        longest_segment: int | None = None,
        segment_rows: int = SEGMENT_ROWS,
        *,
        drop_last: bool = False,
        at_once: bool = False,
    ) -> None:
        self._samples, self._shufflers = samples, shufflers
        n_train = [len(rows) for rows in samples.indices]
        takes_all = not drop_last or set(n_train) == {batch_size}
        if drop_last:
            n_train = [max(1, min(n_train) // batch_size) * batch_size] * len(n_train)
        n_rows = max(n_train)
        sizes = [min(batch_size, n_rows - start) for start in range(0, n_rows, batch_size)]
        if min(n_train) <= n_rows - sizes[-1]:
            raise ValueError(f"{min(n_train)} and {n_rows} rows differ in their number of batches of {batch_size}.")
        most_batches = _SEGMENT_BATCHES["cpu" if samples.rows.device.type == "cpu" else "other"]
        per_segment = min(max(1, segment_rows // batch_size), most_batches)
        per_segment = min(per_segment, longest_segment or per_segment)
        parts = [sizes[start : start + per_segment] for start in range(0, len(sizes), per_segment)]
        self._lengths = [sum(part) for part in parts]
        self.segments = self._make_segments(parts, n_train, [n_rows - n for n in n_train])
        # A single batch of all rows, whose order does not matter.
        self._order_is_fixed = len(sizes) == 1 and takes_all and not samples.sums_weights_in_order
        if self._order_is_fixed:
            self._load_all()
        if at_once and self.segments[-1].is_loaded_once:
            most_rows = _ROWS_OF_EPOCHS if samples.rows.device.type == "cpu" else _ROWS_OF_EPOCHS_ON_GPU
            self.segments[-1].most_epochs = min(_MOST_EPOCHS, max(1, most_rows // n_rows))

    def _make_segments(
        self, parts: Sequence[list[int]], n_train: Sequence[int], n_missing: Sequence[int]
    ) -> list[Segment]:
        last = Segment(self._samples, parts[-1], n_train, n_missing)
        if len(parts) == 1:
            return [last]
        return [Segment(self._samples, parts[0], n_train, [0] * len(n_train))] * (len(parts) - 1) + [last]

    def _load_all(self) -> None:
        """Load the single batch of all training rows for good."""
        self.segments[0].load(*self._samples.stack_indices(self._samples.indices), once=True)

    def epochs_at_once(self, most: int) -> int:
        """How many of the next epochs can be trained at once, at most `most`: several if all are the same mini-batch."""
        n_epochs = min(most, self.segments[-1].most_epochs)
        if self.segments[-1].can_be_captured:  # a graph for each number: so there are few numbers
            n_epochs = 2 ** (n_epochs.bit_length() - 1)
        return n_epochs

    def next_epochs(self, n_epochs: int = 1, *, is_followed: bool = False) -> Iterator[Segment]:
        """Shuffle, and load the segments of the epoch one after the other.

        Parameters
        ----------
        n_epochs : int, default=1
            Epochs that have the same segment, as `epochs_at_once` gives it.
        is_followed : bool, default=False
            Whether another epoch will follow, for which to shuffle while the device is at work.
        """
        for _ in range(n_epochs):
            orders = self._in_order([shuffler.next_epoch() for shuffler in self._shufflers])
        if self.segments[-1].is_loaded_once:
            yield self.segments[-1]
        else:
            yield from self._load_segments(orders, is_followed=is_followed)
        if is_followed:
            self._shuffle_ahead()

    def _shuffle_ahead(self) -> list[np.ndarray]:
        """Shuffle for the next epoch already."""
        return self._in_order([shuffler.shuffle_ahead() for shuffler in self._shufflers])

    def _in_order(self, shuffled: list[np.ndarray]) -> list[np.ndarray]:
        """The rows of each network in the order of an epoch."""
        return list(self._samples.indices) if self._order_is_fixed else shuffled

    def _load_segments(self, orders: Sequence[np.ndarray], *, is_followed: bool) -> Iterator[Segment]:
        """Load the rows of each network, in this order, into one segment after the other."""
        for segment, (rows, target_rows) in zip(self.segments, self._split(orders), strict=True):
            segment.load(rows, target_rows)
            yield segment

    def _split(
        self, orders: Sequence[np.ndarray], device: torch.device | str | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows and target rows of each segment."""
        n_rows = sum(self._lengths)  # fewer than a network has where the last are dropped
        indices = self._samples.stack_indices([order[:n_rows] for order in orders], device)
        return zip(*[part.split(self._lengths, -1) for part in indices], strict=True)


class UniformWeights:
    """Weights of mini-batches whose rows all count the same.

    Parameters
    ----------
    sizes : sequence of int
        Rows of each mini-batch.
    n_train : sequence of int
        Rows of an epoch, for each network.
    like : Tensor
        Of the dtype and device wanted.

    Attributes
    ----------
    fractions : list of Tensor, 0-d
        Weight of a row as a fraction of its batch.
    totals : Tensor of shape (n_batches, n_networks)
        Sum of the weights of each batch.
    batch_fractions : Tensor of shape (n_batches, n_networks)
        Rows of each batch as a fraction of the epoch.
    """

    #: Whether each load of a segment sets new weights.
    vary = False

    def __init__(self, sizes: Sequence[int], n_train: Sequence[int], like: Tensor) -> None:
        n_networks = len(n_train)
        self.fractions = list(like.new_tensor([1 / size for size in sizes]).unbind(0))  # to a device in one copy
        self.totals = like.new_tensor(sizes).unsqueeze(-1).expand(-1, n_networks)
        self.batch_fractions = self.totals / like.new_tensor(n_train)
        self._row_fraction = 1 / squeeze_stack(like.new_tensor(n_train).unsqueeze(-1))

    def mean(self, row_losses: Tensor) -> Tensor:
        """Share of the segment in the loss of each epoch, of shape (..., n_epochs).

        The loss of an epoch is the mean over rows of the losses of their batches.

        Parameters
        ----------
        row_losses : Tensor of shape (..., n_epochs, n_rows)
        """
        return row_losses.sum(-1) * self._row_fraction


class SampleWeights:
    """Weights of mini-batches whose rows count differently, by sample weights or because some are missing.

    Rows are weighted within their batch, and batches by their number of rows, as in scikit-learn.

    Parameters
    ----------
    sizes : sequence of int
        Rows of each mini-batch; none is larger than the first.
    n_train : sequence of int
        Rows of an epoch, for each network.
    n_missing : sequence of int
        Rows that each network lacks in the last mini-batch. Others fill up, without weight.
    sample_weight : Tensor of shape (n_all_rows,) or None
        All sample weights there are; None if rows are only missing.
    like : Tensor
        Of the dtype and device wanted.

    Attributes
    ----------
    fractions : list of Tensor of shape (..., 1, n_rows_of_batch)
        Weight of each row as a fraction of its batch.
    totals, batch_fractions
        As those of `UniformWeights`.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        n_train: Sequence[int],
        n_missing: Sequence[int],
        sample_weight: Tensor | None,
        like: Tensor,
    ) -> None:
        self._sizes = list(sizes)
        n_networks, n_rows, n_batches = len(n_train), sum(sizes), len(sizes)
        n_slots = n_batches * sizes[0]  # as if all batches were as large as the first
        n_present = like.new_tensor([n_rows - n for n in n_missing]).unsqueeze(-1)
        self._weights = (torch.arange(n_slots, device=like.device) < n_present).to(like.dtype)
        self._is_present = self._weights[:, :n_rows].clone()
        self._fractions = torch.zeros_like(self._weights)
        self._epoch_fractions = torch.zeros_like(self._weights)
        self.totals = like.new_zeros(n_batches, n_networks)
        rows_of_batches = self._weights.unflatten(-1, (n_batches, -1)).sum(-1).mT
        self.batch_fractions = rows_of_batches / like.new_tensor(n_train)
        parts = self._fractions.unsqueeze(1).split(sizes[0], -1)
        self.fractions = [squeeze_stack(part[..., :size]) for part, size in zip(parts, sizes, strict=True)]
        self._row_fractions = squeeze_stack(self._epoch_fractions[:, None, :n_rows])
        self.vary = sample_weight is not None
        self._can_sum_to_zero = sample_weight is not None and bool((sample_weight <= 0).any())
        if sample_weight is None:
            self.set(torch.ones_like(self._is_present))

    def set(self, weights: Tensor) -> None:
        """Set the weights of the rows, (n_networks, n_rows).

        Raises
        ------
        ZeroDivisionError
            If those of a mini-batch sum to zero.
        """
        n_batches, n_networks = self.totals.shape
        weights = weights.view_as(self._is_present)
        torch.mul(weights, self._is_present, out=self._weights[:, : self._is_present.shape[-1]])
        by_batch = self._weights.view(n_networks, n_batches, -1)
        sums = by_batch.sum(-1).mT
        self.totals.copy_(sums if weights.dtype == self.totals.dtype else self._sum_as_given(weights))
        if self._can_sum_to_zero and not self.totals.all():
            raise ZeroDivisionError(
                "The sample weights of a mini-batch sum to zero, so that its mean loss is undefined. "
                "Leave out the rows of weight zero, or use a larger batch_size."
            )
        torch.div(by_batch, self.totals.mT.unsqueeze(-1), out=self._fractions.view_as(by_batch))
        torch.mul(by_batch, (self.batch_fractions / sums).mT.unsqueeze(-1), out=self._epoch_fractions.view_as(by_batch))

    def _sum_as_given(self, weights: Tensor) -> Tensor:
        """Sums of the batches, (n_batches, n_networks), in the precision and order of numpy.

        scikit-learn divides a gradient by the sum of float32 weights in float32, also if X is in float64.
        """
        rows = (weights * self._is_present.to(weights.dtype)).cpu().numpy()
        stops = np.cumsum(self._sizes)
        sums = [[own[stop - size : stop].sum() for size, stop in zip(self._sizes, stops, strict=True)] for own in rows]
        return torch.from_numpy(np.array(sums, dtype=np.float64).T)

    def mean(self, row_losses: Tensor) -> Tensor:
        """Share of the segment in the loss of each epoch, of shape (..., n_epochs)."""
        return (row_losses * self._row_fractions).sum(-1)


class Segment:
    """Consecutive mini-batches, with targets and weights, in buffers that stay in place.

    Parameters
    ----------
    samples : Samples
    sizes : list of int
        Rows of each mini-batch; none is larger than the first.
    n_train : sequence of int
        Rows of an epoch, for each network.
    n_missing : sequence of int
        Rows that each network lacks in the last mini-batch.

    Attributes
    ----------
    sizes : list of int
    targets : Tensor of shape (..., n_targets, n_rows)
    batch_targets : sequence of Tensor of shape (..., n_targets, n_rows_of_batch)
    weights : UniformWeights or SampleWeights
    can_be_captured : bool
        Whether its steps are nothing but kernels on a GPU, in tensors that stay in place.
    is_loaded_once : bool
        Whether it always has the same rows.
    most_epochs : int
        Epochs that can be trained on it at once.
    """

    def __init__(self, samples: Samples, sizes: list[int], n_train: Sequence[int], n_missing: Sequence[int]) -> None:
        n_networks, n_rows = len(n_train), sum(sizes)
        like = torch.empty(0, dtype=samples.rows.dtype, device=samples.rows.device)
        self._samples, self.sizes = samples, sizes
        self.is_loaded_once, self.most_epochs = False, 1
        self._rows = squeeze_stack(torch.zeros(n_networks, n_rows, dtype=torch.int64, device=like.device))
        self._gathered = samples.targets.new_empty(len(samples.targets), n_networks * n_rows)
        self.targets = self._gathered.unflatten(-1, self._rows.shape).movedim(0, -2)
        self.batch_targets = self.targets.split(sizes, -1)
        self.can_be_captured = like.device.type == "cuda" and not samples.rows.is_sparse
        self._loaders: list[BatchLoader] = []
        self._batches: list[Batch] = []
        self.weights: UniformWeights | SampleWeights
        if samples.weights is None and not any(n_missing):
            self.weights = UniformWeights(sizes, n_train, like)
        else:
            self.weights = SampleWeights(sizes, n_train, n_missing, samples.weights, like)

    def load(self, rows: Tensor, target_rows: Tensor, *, once: bool = False) -> None:
        """Take these rows, of shape ([n_networks,] n_rows); if `once`, no others will follow.

        Raises
        ------
        ZeroDivisionError
            If the sample weights of a mini-batch sum to zero.
        """
        if once:
            self._rows, self.is_loaded_once = rows, True
            self._batches = [self._samples.rows.take(rows)]
        else:
            self._rows.copy_(rows)
            self._loaders = self._loaders or self._samples.rows.loaders(self._rows, self.sizes)
        self._load_targets(target_rows)
        if isinstance(self.weights, SampleWeights) and self._samples.weights is not None:
            self.weights.vary = not once

    def _load_targets(self, target_rows: Tensor) -> None:
        """Take the targets and weights of these rows."""
        torch.index_select(self._samples.targets, -1, target_rows.flatten(), out=self._gathered)
        if isinstance(self.weights, SampleWeights) and self._samples.weights is not None:
            self.weights.set(self._samples.weights.index_select(0, target_rows.flatten()))

    @property
    def batch_rows(self) -> Sequence[Tensor]:
        """Indices of the rows of each mini-batch, of shape ([n_networks,] n_rows_of_batch)."""
        return [*self._rows.split(self.sizes, -1)]

    def batches(self, n_epochs: int = 1) -> Iterator[Batch]:
        """Yield the mini-batches of so many epochs; each is valid until the next one."""
        yield from self._batches * n_epochs
        for load in self._loaders:
            yield from load()
