"""Arrays on disk: what is read of them, and how often."""

import warnings

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import torch
import zarr

from sktorch_mlp._data.arrays import DiskArray, is_disk_array, may_be_closed
from tests.data.helpers import X


class Recorded:
    """An array that is read by slices, which it counts."""

    chunks = (7, 64)

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.slices = values, values.shape, values.dtype, []

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        self.slices.append((rows.start, rows.stop))
        return self.values[rows]


@pytest.fixture(params=["zarr", "hdf5", "hdf5 without chunks"])
def stored(request, tmp_path):
    if request.param == "zarr":
        array = zarr.create_array(tmp_path / "X.zarr", shape=X.shape, chunks=(40, 64), dtype=X.dtype)
        array[:] = X
        yield array
        return
    with h5py.File(tmp_path / "X.h5", "w") as file:
        yield file.create_dataset("X", data=X, chunks=(40, 64) if request.param == "hdf5" else None)


def test_rows_are_those_of_the_file(stored):
    array = DiskArray(stored)
    assert is_disk_array(stored)
    assert (len(array), array.shape, array.dtype, array.nbytes) == (len(X), X.shape, X.dtype, X.nbytes)
    assert array.chunk_rows == (stored.chunks or [1])[0]
    np.testing.assert_array_equal(array[10:70], X[10:70])
    rows = np.random.RandomState(0).randint(len(X), size=200)  # in no order, and some twice
    np.testing.assert_array_equal(array[rows], X[rows])


def test_what_is_in_memory_is_no_array_on_disk(tmp_path):
    file = tmp_path / "X"
    X.tofile(file)
    assert not any(map(is_disk_array, [X, np.memmap(file), X.tolist(), None, memoryview(X)]))


def test_neighbors_are_read_at_once():
    array = Recorded(np.arange(2000.0).reshape(-1, 1))
    rows = np.array([500, 3, 5, 4, 4, 1999, 64, 501])
    np.testing.assert_array_equal(DiskArray(array)[rows].ravel(), rows)
    assert array.slices == [(3, 65), (500, 502), (1999, 2000)]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(np.uint8, np.uint8), (np.float16, np.float16), (np.uint16, np.float64), (">f4", np.float64), (bool, bool)],
)
def test_dtypes_are_kept_if_pytorch_has_them(dtype, expected):
    values = (X > 0.5).astype(dtype)
    array = DiskArray(Recorded(values))
    assert array.dtype == expected
    assert array[3:5].dtype == expected
    np.testing.assert_array_equal(array[3:5], values[3:5])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_found_when_it_is_read(bad):
    values = X.copy()
    values[30, 2] = bad
    array = DiskArray(Recorded(values))
    np.testing.assert_array_equal(array[:30], X[:30])
    with pytest.raises(ValueError, match="Input X contains NaN or infinity, in row 30"):
        array[20:40]


@pytest.mark.parametrize("values", [X[0], X[None], X.astype(str), X.astype(complex)])
def test_only_tables_of_numbers_are_taken(values):
    with pytest.raises(ValueError, match="must be a table of numbers"):
        DiskArray(Recorded(values))


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [(None, 1), ((), 1), ("auto", 1), ((7, 64), 7), ((np.int64(9), 2), 9), (((5, 8, 3), (64,)), 8), (((), ()), 1)],
)
def test_chunks_of_many_libraries(chunks, expected):
    array = Recorded(X)
    array.chunks = chunks
    assert DiskArray(array).chunk_rows == expected


@pytest.mark.parametrize("n_at_once", [1, 100, 1000, 4000])
@pytest.mark.parametrize("chunk_rows", [1, 30, 500])
def test_how_often_random_rows_read_an_array(chunk_rows, n_at_once):
    array = Recorded(np.zeros((20_000, 1)))
    array.chunks = chunk_rows, 1
    blocks = np.random.default_rng(0).permutation(len(array.values))[:8000].reshape(-1, n_at_once)[:200]
    n_read = 0
    for block in blocks:
        array.slices.clear()
        DiskArray(array)[block]
        chunks = np.concatenate(
            [np.arange(start // chunk_rows, -(-stop // chunk_rows)) for start, stop in array.slices]
        )
        n_read += min(len(np.unique(chunks)) * chunk_rows, len(array.values))
    expected = n_read / len(blocks) * (8000 / n_at_once) / len(array.values)
    assert DiskArray(array).times_read(8000, n_at_once) == pytest.approx(expected, rel=0.3)


def test_rows_whose_sum_overflows_are_read_without_a_warning(tmp_path):
    values = np.full((200, 400), 60000, np.float16)
    array = zarr.create_array(tmp_path / "X.zarr", shape=values.shape, chunks=(50, 400), dtype=values.dtype)
    array[:] = values
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(DiskArray(array)[:], values)


@pytest.mark.filterwarnings("error")
def test_what_a_lower_precision_cannot_hold_is_found_when_it_is_read():
    values = X.astype(np.float64)
    values[30, 2] = 1e300
    array, out = DiskArray(Recorded(values)), np.empty((20, 64), np.float32)
    array.read_into(out, np.arange(20))
    np.testing.assert_array_equal(out, X[:20].astype(np.float32))
    with pytest.raises(ValueError, match=r"in row 30, or a value too large for dtype\('float32'\)"):
        array.read_into(out, np.arange(20, 40))
    array.read_into(np.empty((20, 64)), np.arange(20, 40))


def test_which_memory_may_be_closed(tmp_path):
    own = np.ones((4, 3))
    np.save(tmp_path / "X.npy", own)
    mapped, shared = np.load(tmp_path / "X.npy", mmap_mode="r"), np.frombuffer(bytearray(96)).reshape(4, 3)
    for array in (own, own[::2].T, np.frombuffer(own.tobytes()), torch.ones(4, 3).T):
        assert not may_be_closed(array)
    for array in (mapped[1:], shared, torch.from_numpy(shared)[1:], torch.frombuffer(bytearray(8), dtype=torch.uint8)):
        assert may_be_closed(array)
    assert may_be_closed(torch.from_numpy(shared).numpy())
    rows = sp.csr_array(own)
    assert not may_be_closed(rows)
    assert may_be_closed(sp.csr_array((np.frombuffer(bytearray(96)), rows.indices, rows.indptr), shape=(4, 3)))
