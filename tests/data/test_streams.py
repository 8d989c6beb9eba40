"""Mini-batches that are read during training: the same as those of rows in memory, whatever is read at once."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from sktorch_mlp._data.arrays import Chunk, ChunkedRows, DiskArray
from sktorch_mlp._data.batches import MiniBatches
from sktorch_mlp._data.rows import BLOCK_BYTES, SEGMENT_ROWS, Rows
from sktorch_mlp._data.shuffling import Shuffler
from sktorch_mlp._data.streams import ReadAhead, StreamedBatches
from sktorch_mlp._nn.threads import readers
from tests.data.helpers import CPU, N_ROWS, WEIGHTS, X, Y, make_samples
from tests.data.test_arrays import Recorded

pytestmark = pytest.mark.usefixtures("streamed")

PIXELS = (X * 16).astype(np.uint8)


def _shufflers(samples):
    return [Shuffler(rows, np.random.RandomState(k)) for k, rows in enumerate(samples.indices)]


def _epoch(minibatches, *, is_followed=False):
    """All that training gets to see in an epoch, copied."""
    return [
        [part.clone() for part in (batch.rows, targets, fractions.expand(*targets.shape), rows)]
        for segment in minibatches.next_epochs(is_followed=is_followed)
        for batch, targets, fractions, rows in zip(
            segment.batches(), segment.batch_targets, segment.weights.fractions, segment.batch_rows, strict=True
        )
    ]


@pytest.mark.parametrize(("batch_size", "block_bytes"), [(64, 2**25), (64, 1), (N_ROWS, 1)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8])
@pytest.mark.parametrize("indices", [[np.arange(N_ROWS)], [np.arange(130), np.arange(20, 149)]])
def test_streamed_batches_are_those_of_rows_in_memory(indices, dtype, batch_size, block_bytes):
    values = PIXELS.astype(dtype)
    samples = make_samples(indices, weighted=len(indices) == 1)
    in_memory = replace(samples, rows=Rows.from_array(values, CPU, np.dtype(np.float64)))
    on_disk = replace(samples, rows=Rows.from_array(DiskArray(Recorded(values)), CPU, np.dtype(np.float64)))
    expected = MiniBatches(in_memory, _shufflers(samples), batch_size)
    streamed = StreamedBatches(on_disk, _shufflers(samples), batch_size, block_bytes=block_bytes)
    assert len(streamed.segments) == (3 if block_bytes == 1 and batch_size < N_ROWS else 1)
    for is_followed in (True, True, False):
        for batch, expected_batch in zip(_epoch(streamed, is_followed=is_followed), _epoch(expected), strict=True):
            for part, expected_part in zip(batch, expected_batch, strict=True):
                torch.testing.assert_close(part, expected_part, rtol=0, atol=0)


class Signalling(Recorded):
    """Rows that say when they are read."""

    def __init__(self, values):
        super().__init__(values)
        self.is_read = threading.Event()

    def __getitem__(self, rows):
        values = super().__getitem__(rows)
        self.is_read.set()
        return values


@pytest.mark.parametrize(("batch_size", "n_segments"), [(40, 4), (50, 3), (N_ROWS, 1)])
def test_the_next_epoch_is_read_while_training_has_the_last_block_if_it_goes_to_another(batch_size, n_segments):
    array, samples = Signalling(X), make_samples()
    samples = replace(samples, rows=Rows.from_array(DiskArray(array), CPU))
    streamed = StreamedBatches(samples, _shufflers(samples), batch_size, block_bytes=1)
    assert len(streamed.segments) == n_segments
    for is_followed in (True, False):
        for place, _ in enumerate(streamed.next_epochs(is_followed=is_followed), start=1):
            if place == max(1, n_segments - 1):
                time.sleep(0.05)  # the last block of this epoch is read meanwhile
                array.is_read.clear()
        is_ahead = is_followed and n_segments % 2 == 0
        assert array.is_read.wait(10 if is_ahead else 0.05) == is_ahead


def test_an_epoch_that_is_read_ahead_and_not_trained_leaves_no_thread():
    before = threading.active_count()
    samples = replace(make_samples(), rows=Rows.from_array(DiskArray(Recorded(X)), CPU))
    streamed = StreamedBatches(samples, _shufflers(samples), 40, block_bytes=1)
    _epoch(streamed, is_followed=True)
    assert threading.active_count() > before
    del streamed
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


@pytest.mark.parametrize("n_rows", [1, 10, 1000, 65_536, 10**7])
@pytest.mark.parametrize("batch_size", [1, 7, 200, 10**6])
@pytest.mark.parametrize("n_features", [1, 256, 10**5])
def test_blocks_are_as_large_as_allowed_and_mostly_of_an_even_number(n_rows, batch_size, n_features):
    rows = Rows(np.broadcast_to(np.float32(0), (n_rows, n_features)), CPU, torch.float32)
    batch_size = min(batch_size, n_rows)
    at_once = rows.streamed_at_once(n_rows, batch_size)
    assert at_once % batch_size == 0
    assert at_once == batch_size or (at_once <= SEGMENT_ROWS and at_once * n_features * 4 <= BLOCK_BYTES)
    n_blocks = -(-n_rows // at_once)
    if at_once >= 20 * batch_size and n_blocks < 10 and n_rows * n_features * 4 > 2**20:
        assert n_blocks % 2 == 0


def test_the_same_two_blocks_are_filled_in_turn():
    samples = make_samples()
    samples = replace(samples, rows=Rows.from_array(DiskArray(Recorded(X)), CPU))
    segments = StreamedBatches(samples, _shufflers(samples), 30, block_bytes=1).segments
    assert len(segments) == 5
    assert segments[0] is segments[2]
    assert segments[1] is segments[3]
    assert segments[4].block.host.ctypes.data == segments[0].block.host.ctypes.data
    assert len({segment.block.host.ctypes.data for segment in segments}) == 2


def _chunked(sizes, weighted, n_rows=N_ROWS):
    """Samples of so many rows, which come in chunks of these sizes."""

    def chunks():
        start = 0
        for size in sizes:
            part = slice(start, start + size)
            yield Chunk(X[part], Y[None, part], WEIGHTS[part] if weighted else None)
            start += size

    samples = make_samples([np.arange(n_rows)], weighted=weighted)
    return replace(samples, rows=Rows.from_array(ChunkedRows(chunks, (n_rows, 64), X.dtype), CPU))


@pytest.mark.parametrize("sizes", [[N_ROWS], [1] * N_ROWS, [100, 50], [7, 0, 143]])
@pytest.mark.parametrize("weighted", [False, True])
def test_chunks_in_order_are_the_mini_batches_in_order(weighted, sizes):
    expected = MiniBatches(make_samples(weighted=weighted), [Shuffler(np.arange(N_ROWS), None)], 40)
    streamed = StreamedBatches(_chunked(sizes, weighted), [Shuffler(np.arange(0), None)], 40, block_bytes=1)
    for _ in range(2):
        for batch, expected_batch in zip(_epoch(streamed), _epoch(expected), strict=True):
            for part, expected_part in zip(batch[:-1], expected_batch[:-1], strict=True):  # not the indices
                torch.testing.assert_close(part, expected_part, rtol=0, atol=0)


def test_chunks_are_shuffled_within_blocks_with_their_targets():
    samples = _chunked([100, 50], weighted=True)
    streamed = StreamedBatches(samples, [Shuffler(np.arange(0), np.random.RandomState(0))], 30, block_bytes=60 * 64 * 8)
    orders = []
    for _ in range(2):
        epoch = _epoch(streamed)
        rows = torch.cat([batch[0] for batch in epoch]).numpy()
        found = [int(np.flatnonzero((row == X).all(1))[0]) for row in rows]
        orders.append(found)
        np.testing.assert_array_equal(torch.cat([batch[1] for batch in epoch], -1)[0], Y[found])
        for start in range(0, N_ROWS, 60):
            assert sorted(found[start : start + 60]) == list(range(start, min(start + 60, N_ROWS)))
    assert orders[0] != orders[1] != list(range(N_ROWS))


@pytest.mark.parametrize(
    ("sizes", "n_rows", "what"),
    [([100, 49], 150, "fewer rows"), ([100, 50], 149, "more rows"), ([99, 1], 99, "more")],
)
def test_chunks_must_give_the_same_rows_each_time(sizes, n_rows, what):
    streamed = StreamedBatches(_chunked(sizes, False, n_rows), [Shuffler(np.arange(0), None)], 40, block_bytes=1)
    with pytest.raises(ValueError, match=f"{what}.* than the first time"):
        _epoch(streamed)


def test_the_next_item_is_made_while_one_is_used():
    made = [threading.Event() for _ in range(3)]

    def items():
        for event in made:
            event.set()
            yield event

    for place, event in enumerate(ReadAhead(items())):
        assert event is made[place]
        if place < 2:
            assert made[place + 1].wait(10)


def test_the_reader_is_known_while_it_reads():
    known = [threading.Event() for _ in range(4)]

    def items():
        for event in known:
            assert event.wait(10)
            yield

    read = iter(ReadAhead(items()))
    for event in known:
        assert readers.are_at_work()
        event.set()
        next(read)
    assert list(read) == []
    assert not readers.are_at_work()


def test_without_threads_to_start_items_are_made_when_they_are_needed(monkeypatch):
    def no_threads(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_threads)
    assert list(ReadAhead(iter(range(5)))) == list(range(5))
    assert not readers.are_at_work()


def test_an_error_of_the_reader_is_that_of_the_epoch():
    def items():
        yield 1
        raise OSError("no such file")

    read = iter(ReadAhead(items()))
    assert next(read) == 1
    with pytest.raises(OSError, match="no such file"):
        next(read)
    assert not readers.are_at_work()


def test_a_reader_ends_with_its_epoch():
    before = threading.active_count()
    epoch = iter(ReadAhead(iter(range(5))))
    assert next(epoch) == 0
    epoch.close()
    assert threading.active_count() == before
