"""Mini-batches of rows that come to the device during training: from the host, from disk, or as chunks from anywhere.

A thread reads one block of rows while training takes the one before.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from sktorch_mlp._nn.concurrent import NoThreadError, start_thread
from sktorch_mlp._nn.tensors import as_tensor, numpy_dtype
from sktorch_mlp._nn.threads import call_on, most_threads, readers, set_own_threads

from . import transfer
from .arrays import Chunk, ChunkedRows, DiskArray
from .batches import MiniBatches, SampleWeights, Segment
from .rows import BLOCK_BYTES, SEGMENT_ROWS, Rows
from .samples import Samples
from .shuffling import Shuffler

Item = TypeVar("Item")


class Block:
    """Memory for a block of rows, on the host and on the device. A reader fills it while training has another one.

    Rows stand in the order in which they are read. Mini-batches gather theirs by their places.

    Parameters
    ----------
    rows : Rows
        What it is filled with, and where it goes.
    n_rows : int
    within : Block, default=None
        A block at least as large, whose memory this one shares.

    Attributes
    ----------
    host : ndarray of shape (n_rows, n_features)
        Where the rows are written.
    host_places : ndarray of shape (n_rows,)
        Where their places are written, in the order of mini-batches.
    rows, places : Tensor
        The same on the device.
    """

    def __init__(self, rows: Rows, n_rows: int, within: Block | None = None) -> None:
        if within is None:
            self._copies = _Copies(rows.device) if rows.device.type == "cuda" else None
            self._host, self.rows = self._allocate((n_rows, rows.X.shape[1]), rows.host_dtype, rows.device)
            self._host_places, self.places = self._allocate((n_rows,), torch.int64, rows.device)
        else:
            self._copies = within._copies
            self._host, self.rows = within._host[:n_rows], within.rows[:n_rows]
            self._host_places, self.places = within._host_places[:n_rows], within.places[:n_rows]
        self.host, self.host_places = self._host.numpy(), self._host_places.numpy()

    def _allocate(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """Memory on the host and on the device, which may be the same."""
        host = torch.empty(shape, dtype=dtype, device="cpu")
        if device.type == "cpu":
            return host, host
        return host.pin_memory() if self._copies else host, torch.empty_like(host, device=device)

    def send(self) -> None:
        """Begin to copy what has been written to the device. Called by the reader."""
        parts = [(self._host, self.rows), (self._host_places, self.places)]
        if self._copies is not None:
            self._copies.begin(parts)
        elif self.rows is not self._host:
            for host, on_device in parts:
                on_device.copy_(host)

    def wait_until_writable(self) -> None:
        """Wait for the end of the last copy. Called by the reader."""
        if self._copies is not None:
            self._copies.wait_for_last()

    def acquire(self) -> None:
        """Let what is computed from now on find the rows on the device. Called by training."""
        if self._copies is not None:
            self._copies.acquire()

    def release(self) -> None:
        """Let the next copy begin once all that has been asked for by now is computed. Called by training."""
        if self._copies is not None:
            self._copies.release()


class _Copies:
    """Copies from pinned memory to a CUDA device, on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._is_copied, self._is_computed = torch.cuda.Event(), torch.cuda.Event()
        self.release()  # its memory may have been that of others, who still compute

    def begin(self, parts: Sequence[tuple[Tensor, Tensor]]) -> None:
        for _, on_device in parts:
            on_device.record_stream(self._stream)  # its memory goes to nobody else before the end, as after Ctrl-C
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._is_computed)
            for host, on_device in parts:
                on_device.copy_(host, non_blocking=True)
            self._is_copied.record(self._stream)

    def wait_for_last(self) -> None:
        self._is_copied.synchronize()

    def acquire(self) -> None:
        torch.cuda.current_stream(self._device).wait_event(self._is_copied)

    def release(self) -> None:
        self._is_computed.record(torch.cuda.current_stream(self._device))


class StreamedSegment(Segment):
    """Consecutive mini-batches whose rows a reader has put into a block.

    Parameters
    ----------
    samples, sizes, n_train, n_missing
        As those of `Segment`.
    within : StreamedSegment, default=None
        A segment whose block this one shares.
    """

    def __init__(
        self,
        samples: Samples,
        sizes: list[int],
        n_train: Sequence[int],
        n_missing: Sequence[int],
        within: StreamedSegment | None = None,
    ) -> None:
        super().__init__(samples, sizes, n_train, n_missing)
        self.block: Block = Block(samples.rows, self._rows.numel(), None if within is None else within.block)
        in_block = replace(samples.rows, X=self.block.rows)
        self._loaders = in_block.loaders(self.block.places.view_as(self._rows), sizes)

    def load(self, rows: Tensor, target_rows: Tensor, *, once: bool = False) -> None:
        """Take targets and weights of these rows, which the block has already."""
        assert not once
        self._rows.copy_(rows)
        self._load_targets(target_rows)

    def load_labels(self, targets: np.ndarray, weights: np.ndarray | None) -> None:
        """Take these targets and weights of the rows that the block has."""
        self._gathered.copy_(as_tensor(targets))
        if isinstance(self.weights, SampleWeights):
            ones = np.ones(self.block.host.shape[:1], self.block.host.dtype)
            self.weights.set(as_tensor(ones if weights is None else weights, self._gathered.device))


class StreamedBatches(MiniBatches):
    """The training rows of a stack in mini-batches, read ahead of training, epoch after epoch.

    Parameters
    ----------
    samples : Samples
        With streamed rows.
    shufflers : sequence of Shuffler
        One for each network. Chunks have one network, and their rows are shuffled within blocks.
    batch_size, longest_segment, segment_rows, drop_last, at_once
        As those of `MiniBatches`.
    block_bytes : int, default=2**25
        Size of X in a block, unless a mini-batch is larger.
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
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self._next: ReadAhead[Callable[[], None]] | None = None  # of the next epoch, where it is being read already
        most_rows = max(map(len, samples.indices))
        most_in_block = samples.rows.streamed_at_once(most_rows, batch_size, len(shufflers), block_bytes)
        super().__init__(
            samples,
            shufflers,
            batch_size,
            longest_segment,
            min(segment_rows, most_in_block),
            drop_last=drop_last,
            at_once=at_once,
        )

    def _make_segments(
        self, parts: Sequence[list[int]], n_train: Sequence[int], n_missing: Sequence[int]
    ) -> list[Segment]:
        make = partial(StreamedSegment, self._samples)
        full = [make(parts[0], n_train, [0] * len(n_train)) for _ in range(min(2, len(parts) - 1))]
        place = len(parts) - 1
        last = make(parts[-1], n_train, n_missing, within=full[place % 2] if place > 1 else None)
        return [*(full[i % 2] for i in range(place)), last]

    def _load_all(self) -> None:
        """Read even a single batch anew each time."""

    def next_epochs(self, n_epochs: int = 1, *, is_followed: bool = False) -> Iterator[Segment]:
        """Shuffle, and yield the segments of the epoch, each while the next one is read."""
        if isinstance(self._samples.rows.X, ChunkedRows):
            loads = ReadAhead(self._read_chunks(self._samples.rows.X))
            return self._train_and_read(loads, reads_next_epoch=False)
        return super().next_epochs(n_epochs, is_followed=is_followed)

    def _load_segments(self, orders: Sequence[np.ndarray], *, is_followed: bool) -> Iterator[Segment]:
        loads, self._next = self._next or self._begin_to_read(orders), None
        return self._train_and_read(loads, reads_next_epoch=is_followed and self._last_block_is_another)

    @property
    def _last_block_is_another(self) -> bool:
        """Whether the first block of the next epoch can be read while training has the last one."""
        first, last = self.segments[0], self.segments[-1]
        assert isinstance(first, StreamedSegment)
        assert isinstance(last, StreamedSegment)
        return first.block.host.ctypes.data != last.block.host.ctypes.data

    def _train_and_read(self, loads: ReadAhead[Callable[[], None]], *, reads_next_epoch: bool) -> Iterator[Segment]:
        for place, (segment, load) in enumerate(zip(self.segments, loads, strict=True), start=1):
            assert isinstance(segment, StreamedSegment)
            segment.block.acquire()
            load()
            if reads_next_epoch and place == len(self.segments):
                self._next = self._begin_to_read(self._shuffle_ahead())
            yield segment
            segment.block.release()

    def _begin_to_read(self, orders: Sequence[np.ndarray]) -> ReadAhead[Callable[[], None]]:
        X, on_host, on_device = self._samples.rows.X, self._split(orders, "cpu"), self._split(orders)
        n_threads = most_threads(self._lengths[0] * self._samples.rows.X.shape[1])
        if self._samples.rows.device.type == "cpu":  # one trains
            n_threads -= 1
        n_threads = max(1, min(transfer.MOST_THREADS, n_threads))
        return ReadAhead(_read_rows(X, self.segments, [rows for rows, _ in on_host], [*on_device], n_threads))

    def _read_chunks(self, X: ChunkedRows) -> Iterator[Callable[[], None]]:
        """Fill each segment with the next rows of the chunks, in random places; yield what loads their targets."""
        chunks = _Pieces(X.chunks())
        (shuffler,) = self._shufflers
        for segment in self.segments:
            assert isinstance(segment, StreamedSegment)
            segment.block.wait_until_writable()
            places = shuffler.next_places(sum(segment.sizes))
            targets, weights = self._empty_labels(len(places))
            for start, piece in chunks.take(len(places)):
                to = places[start : start + len(piece.X)]
                stop = start + len(piece.X)
                segment.block.host[start:stop], targets[:, to] = piece.X, piece.targets
                segment.block.host_places[to] = np.arange(start, stop)
                if weights is not None:
                    weights[to] = piece.weights
            segment.block.send()
            yield partial(segment.load_labels, targets, weights)
        chunks.check_end()

    def _empty_labels(self, n_rows: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Memory for the targets and weights of a block of chunks, on the host."""
        targets, weights = self._samples.targets, self._samples.weights
        return (
            np.empty((len(targets), n_rows), numpy_dtype(targets)),
            None if weights is None else np.empty(n_rows, numpy_dtype(weights)),
        )


class _Pieces:
    """Chunks, cut into pieces that make blocks."""

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self._chunks = chunks
        self._rest: Chunk | None = None

    def take(self, n_rows: int) -> Iterator[tuple[int, Chunk]]:
        """Yield the next rows, in one piece or several, each with its place among them."""
        start = 0
        while start < n_rows:
            chunk = self._rest or next(self._chunks, None)
            if chunk is None:
                raise ValueError(f"The chunks of X have fewer rows than the first time. {_SAME_EACH_TIME}")
            X, targets, weights = chunk
            n = min(n_rows - start, len(X))
            self._rest = Chunk(X[n:], targets[:, n:], None if weights is None else weights[n:]) if n < len(X) else None
            yield start, Chunk(X[:n], targets[:, :n], None if weights is None else weights[:n])
            start += n

    def check_end(self) -> None:
        """Raise if there are more rows."""
        if self._rest is not None or next(self._chunks, None) is not None:
            raise ValueError(f"The chunks of X have more rows than the first time. {_SAME_EACH_TIME}")


_SAME_EACH_TIME = "An iterable of chunks must give the same rows each time, in any order."


def _read_rows(
    X: object,
    segments: Sequence[Segment],
    on_host: Sequence[Tensor],
    on_device: Sequence[tuple[Tensor, Tensor]],
    n_threads: int,
) -> Iterator[Callable[[], None]]:
    """Read the rows of each segment; yield what loads their targets.

    No method, so that a reader that is not needed ends with its `StreamedBatches`, which know it.
    """
    for segment, rows, indices in zip(segments, on_host, on_device, strict=True):
        assert isinstance(segment, StreamedSegment)
        block, in_batches = segment.block, rows.flatten().numpy()
        block.wait_until_writable()
        order = np.argsort(in_batches)
        _read_block(X, in_batches[order], block.host, n_threads)
        block.host_places[order] = np.arange(len(order))
        block.send()
        yield partial(segment.load, *indices)


def _read_block(X: object, indices: np.ndarray, out: np.ndarray, n_threads: int) -> None:
    """Read rows of X, of ascending indices, into an array, on so many threads."""
    if isinstance(X, DiskArray):
        X.read_into(out, indices, n_threads)
        return
    assert isinstance(X, Tensor)
    places, target = torch.from_numpy(indices), torch.from_numpy(out)
    if X.dtype == target.dtype:
        call_on(n_threads, torch.index_select, X, 0, places, out=target)
    else:
        call_on(n_threads, lambda: target.copy_(X.index_select(0, places)))


class ReadAhead(Generic[Item]):
    """Items, each of which a thread makes while the one before is used. It begins at once.

    The two talk by queues that are written in C. Ctrl-C between two statements of an executor, of a future or of a condition
    may leave a lock that the thread waits for until the end of the program.

    Parameters
    ----------
    items : iterator
    """

    def __init__(self, items: Iterator[Item]) -> None:
        self._items, self._orders = items, SimpleQueue[_Reading | None]()
        stop = partial(self._orders.put, None)
        # The callback is no function of Python, in which Ctrl-C might come before anything has been done.
        gone = weakref.ref(self, stop)
        self._thread: threading.Thread | None = threading.Thread(
            target=_read, args=(self._orders, gone), name="read-ahead", daemon=True
        )
        try:
            start_thread(self._thread)
        except NoThreadError:  # the main thread has ended for example
            self._thread = None
        weakref.finalize(self, stop)  # at the end of the program
        self._following = self._begin()

    def _begin(self) -> _Reading:
        """Begin to make the next item."""
        reading = _Reading(self._items)
        if self._thread is not None:
            readers.begin(reading)  # before the thread begins: no call on all cores is to meet it
            self._orders.put(reading)
        return reading

    def __iter__(self) -> Iterator[Item]:
        try:
            while (item := self._take()) is not _END:
                self._following = self._begin()
                yield item  # type: ignore[misc] # it is not the end
        finally:
            self._orders.put(None)
            if self._thread is not None:
                self._thread.join()

    def _take(self) -> object:
        """What was begun last."""
        if self._thread is None:
            self._following()
        return self._following.made.get()()


class _Reading:
    """The making of the next item.

    Attributes
    ----------
    has_ended : bool
    made : SimpleQueue
        Receives a function that gives the item, or raises what went wrong.
    """

    def __init__(self, items: Iterator[object]) -> None:
        self._items, self.has_ended = items, False
        self.made = SimpleQueue[Callable[[], object]]()

    def __call__(self) -> None:
        """Make it."""
        try:
            item = next(self._items, _END)
            self.made.put(lambda: item)
        except BaseException as error:
            self.made.put(partial(_raise, error))
        finally:
            self.has_ended = True


_END = object()


def _read(orders: SimpleQueue[_Reading | None], gone: object) -> None:
    """Make what is ordered, until nothing more will be. The reference lasts as long."""
    set_own_threads(1)  # unless a call asks for more
    while (reading := orders.get()) is not None:
        reading()
        del reading  # which is known by what it has made


def _raise(error: BaseException) -> None:
    raise error
