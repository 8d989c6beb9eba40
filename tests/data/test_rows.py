"""Rows on the device: what is copied and what is not, casting, and gathering by batch."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from sktorch_mlp._data.arrays import DiskArray
from sktorch_mlp._data.rows import Rows
from tests.data.helpers import CPU, X
from tests.data.test_arrays import Recorded

FLOAT32 = np.dtype(np.float32)


def _dense(batch):
    """The rows of a batch, dense or sparse, as an array; those of a stack along the first axis."""
    if hasattr(batch, "rows"):
        return batch.rows.numpy()
    return np.stack([rows.csr.to_dense().numpy() for rows in batch._networks])


# Memory --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_share_the_memory_of_the_array(dtype):
    values = X.astype(dtype)
    rows = Rows.from_array(values, CPU)
    assert rows.X.data_ptr() == values.ctypes.data
    assert rows.all_rows().rows.data_ptr() == values.ctypes.data
    assert rows[10:20].X.data_ptr() == values[10:].ctypes.data
    assert len(rows) == len(X)
    assert rows.nbytes == values.nbytes


def test_columns_are_not_copied_to_predict():
    values = np.asfortranarray(X)
    assert Rows.from_array(values, CPU).all_rows().rows.data_ptr() == values.ctypes.data


def test_small_rows_are_cast_once():
    rows = Rows.from_array(X, CPU, FLOAT32)
    assert rows.X.dtype == torch.float32
    assert rows.all_rows().rows.data_ptr() == rows.X.data_ptr()


def test_large_rows_are_not_copied_to_be_cast():
    rows = Rows.from_array(X, CPU, FLOAT32, copy_bytes=0)
    assert rows.X.data_ptr() == X.ctypes.data
    assert rows.dtype == torch.float32
    (load,) = rows.loaders(torch.tensor([5, 7, 5]), [3])
    (batch,) = load()
    assert batch.rows.dtype == torch.float32
    np.testing.assert_array_equal(batch.rows, X[[5, 7, 5]].astype(np.float32))


@pytest.mark.parametrize("copy_bytes", [0, 2**24])
def test_bfloat16_is_that_of_dense_batches(copy_bytes):
    rows = Rows.from_array(X, CPU, FLOAT32, bfloat16=True, copy_bytes=copy_bytes)
    assert rows.dtype == torch.float32
    assert rows.all_rows().rows.dtype == torch.bfloat16
    assert torch.equal(rows.all_rows().rows, torch.from_numpy(X).bfloat16())
    (batch,) = rows.loaders(torch.tensor([5, 7]), [2])[0]()
    assert torch.equal(batch.rows, torch.from_numpy(X[[5, 7]]).bfloat16())


def test_sparse_rows_leave_the_users_matrix():
    indices, data = np.array([3, 1, 1]), np.array([1.0, 2.0, 3.0])
    matrix = sp.csr_array((data, indices, np.array([0, 3])), shape=(1, 5))
    rows = Rows.from_array(matrix, CPU, FLOAT32)
    np.testing.assert_array_equal(rows.X.toarray(), [[0, 5, 0, 1, 0]])
    assert rows.X.dtype == np.float32
    assert rows.is_sparse
    assert matrix.dtype == np.float64
    np.testing.assert_array_equal(matrix.indices, [3, 1, 1])
    np.testing.assert_array_equal(matrix.data, [1, 2, 3])


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("copy_bytes", [0, 2**24])
def test_what_does_not_fit_into_float32_is_an_error(sparse, copy_bytes):
    huge = sp.csr_array(X * 1e300) if sparse else X * 1e300
    with pytest.raises(ValueError, match=r"infinity or a value too large for dtype\('float32'\)\. Scale the features"):
        Rows.from_array(huge, CPU, FLOAT32, copy_bytes=copy_bytes).all_rows()


def test_a_sum_that_overflows_is_no_error():
    rows = Rows.from_array(np.full((10, 1), 1e38), CPU, FLOAT32)
    assert rows.X.isfinite().all()


# Batches -------------------------------------------------------------------------------

#: Enough rows for several groups of batches: 16 MiB in float64.
WIDE = np.random.RandomState(0).standard_normal((4096, 512))


@pytest.mark.parametrize(
    ("order", "dtype", "batch_size", "n_loads"),
    [
        # Two networks: 2 * batch_size * 512 * itemsize bytes, of which 2**18 are gathered at once.
        ("C", np.float64, 32, 4),
        ("C", np.float64, 16, 2),
        ("C", np.float64, 64, 4),
        ("C", np.float32, 32, 2),
        ("C", np.float64, 2, 1),
        # Of columns a 32nd of X is gathered at once, here 2**19 bytes.
        ("F", np.float64, 32, 2),
        ("F", np.float64, 16, 1),
        ("F", np.float32, 64, 2),
    ],
)
def test_batches_follow_their_indices(order, dtype, batch_size, n_loads):
    rows = Rows.from_array(np.asarray(WIDE, order=order), CPU, np.dtype(dtype), copy_bytes=0)
    assert rows.X.shape == WIDE.shape
    sizes = [batch_size] * 3 + [1]
    indices = torch.zeros(2, sum(sizes), dtype=torch.int64)
    loads = rows.loaders(indices, sizes)
    assert len(loads) == n_loads
    for seed in range(2):
        indices.copy_(torch.from_numpy(np.random.RandomState(seed).randint(0, len(WIDE), indices.shape)))
        batches = [batch.rows.clone() for load in loads for batch in load()]
        assert [batch.shape[1] for batch in batches] == sizes
        np.testing.assert_array_equal(torch.cat(batches, 1), WIDE[indices].astype(dtype))


def test_small_columns_are_brought_into_row_order_once():
    rows = Rows.from_array(np.asfortranarray(X), CPU)
    indices = torch.arange(6)
    (load,) = rows.loaders(indices, [4, 2])
    batches = load()
    np.testing.assert_array_equal(torch.cat([batch.rows for batch in batches]), X[:6])
    assert batches[0].rows.is_contiguous()


@pytest.mark.parametrize("indices", [[4, 2, 7], [[4, 2, 7], [0, 2, 0]]], ids=["one", "stack"])
def test_sparse_batches_are_those_rows(indices):
    rows, indices = Rows.from_array(sp.csr_array(X), CPU), torch.tensor(indices)
    batches = [batch for load in rows.loaders(indices, [2, 1]) for batch in load()]
    expected = X[np.atleast_2d(indices.numpy())]
    np.testing.assert_array_equal(np.concatenate([_dense(batch) for batch in batches], 1), expected)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("indices", [[3, 1], [[3, 1], [3, 1]], [[3, 1], [0, 2]]], ids=str)
def test_networks_with_the_same_rows_share_them(indices, sparse):
    batch = Rows.from_array(sp.csr_array(X) if sparse else X, CPU).take(torch.tensor(indices))
    expected = X[np.array(indices)]
    np.testing.assert_array_equal(_dense(batch).reshape(expected.shape), expected)
    is_shared = indices == [[3, 1], [3, 1]]
    if sparse:
        assert (len({id(rows) for rows in batch._networks}) < len(batch._networks)) == is_shared
    else:
        assert (batch.rows.stride(0) == 0) == is_shared


@pytest.mark.parametrize("n_networks", [1, 2])
def test_all_rows_are_taken_without_a_copy(n_networks):
    indices = torch.arange(len(X)).expand(n_networks, -1)
    batch = Rows.from_array(X, CPU).take(indices[0] if n_networks == 1 else indices)
    assert batch.rows.data_ptr() == X.ctypes.data


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_all_rows_in_another_order(sparse):
    order = np.random.RandomState(0).permutation(len(X))
    batch = Rows.from_array(sp.csr_array(X) if sparse else X, CPU).take(torch.from_numpy(order))
    np.testing.assert_array_equal(_dense(batch).reshape(X.shape), X[order])


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("chosen", [slice(2, 5), np.array([7, 0, 7])], ids=["slice", "indices"])
def test_some_rows(chosen, sparse):
    rows = Rows.from_array(sp.csr_array(X) if sparse else X, CPU, FLOAT32, copy_bytes=0)[chosen]
    assert rows.dtype == torch.float32
    assert rows.is_sparse == sparse
    np.testing.assert_array_equal(_dense(rows.all_rows()).reshape(3, -1), X[chosen].astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8])
@pytest.mark.parametrize("fits", [True, False])
def test_an_array_on_disk_is_read_at_once_if_blocks_would_take_as_much(fits, dtype, monkeypatch):
    values = (X * 16).astype(dtype)
    n_bytes = X.size * (1 if dtype == np.uint8 else 4)  # wide values come narrow, narrow ones as they are
    monkeypatch.setattr("sktorch_mlp._data.rows._HELD_BYTES", n_bytes if fits else n_bytes - 1)
    array = Recorded(values)
    rows = Rows.from_array(DiskArray(array), CPU, np.dtype(np.float32), copy_bytes=0)
    assert rows.is_streamed != fits
    assert sum(stop - start for start, stop in array.slices) == (len(X) if fits else 0)
    indices = torch.arange(5, 25)
    np.testing.assert_array_equal(rows.take(indices).rows, values[5:25].astype(np.float32))


def test_narrow_rows_are_shuffled_in_the_blocks_of_wide_ones():
    float64 = np.dtype(np.float64)
    wide, *narrow = (
        Rows.from_array(np.ones((9000, 300), dtype), CPU, float64) for dtype in (float64, np.float32, np.uint8, bool)
    )
    assert wide.block_rows == 2**20 // (300 * 8)
    for rows in narrow:
        assert rows.X.itemsize < 8
        assert (rows.block_rows, rows.streamed_at_once(9000, 200)) == (
            wide.block_rows,
            wide.streamed_at_once(9000, 200),
        )
