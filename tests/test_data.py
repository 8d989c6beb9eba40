"""Rows on the device: what is copied and what is not, and casting."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.datasets import load_digits

from sktorch_mlp import MLPTorchClassifier, _rows
from sktorch_mlp._arrays import as_tensor, to_numpy
from sktorch_mlp._rows import Rows

CPU = torch.device("cpu")
X, Y = load_digits(return_X_y=True)
X, Y = X[:200] / 16, Y[:200]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_share_the_memory_of_the_array(dtype):
    values = X.astype(dtype)
    rows = Rows.of(values, CPU)
    assert rows.X.data_ptr() == values.ctypes.data
    assert rows.whole()._rows.data_ptr() == values.ctypes.data
    assert rows[10:20].X.data_ptr() == values[10:].ctypes.data


def test_columns_are_not_copied_to_predict():
    values = np.asfortranarray(X)
    assert Rows.of(values, CPU).whole()._rows.data_ptr() == values.ctypes.data


def test_large_rows_are_not_copied_to_be_cast(monkeypatch):
    monkeypatch.setattr(_rows, "_COPY_AT_ONCE", 0)
    rows = Rows.of(X, CPU, np.dtype(np.float32))
    assert rows.X.data_ptr() == X.ctypes.data
    (load,) = rows.loads(torch.tensor([5, 7, 5]), [3])
    (batch,) = load()
    assert batch._rows.dtype == torch.float32
    np.testing.assert_array_equal(batch._rows, X[[5, 7, 5]].astype(np.float32))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("params", [{}, {"early_stopping": True}, {"batch_size": 200}, {"solver": "lbfgs"}], ids=str)
@pytest.mark.parametrize("order", ["C", "F"])
def test_casting_by_batch_gives_the_same_numbers(monkeypatch, params, order):
    rows = np.asarray(X, order=order)

    def fit():
        model = MLPTorchClassifier(max_iter=3, dtype="float32", device="cpu", random_state=0, **params).fit(rows, Y)
        return [*model.coefs_, model.predict_proba(X)]

    at_once = fit()
    monkeypatch.setattr(_rows, "_COPY_AT_ONCE", 0)
    for ours, expected in zip(fit(), at_once, strict=True):
        assert ours.dtype == np.float32
        # The products of columns sum in another order.
        np.testing.assert_allclose(ours, expected, rtol=0, atol=0 if order == "C" else 1e-6)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("gather_bytes", [1, 3 * 2 * 64 * 8, 2**20])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_batches_follow_their_indices(monkeypatch, gather_bytes, dtype, order):
    monkeypatch.setattr(_rows, "_GATHER_BYTES", {"cpu": gather_bytes, "other": 0})
    monkeypatch.setattr(_rows, "_COPY_AT_ONCE", 0)
    monkeypatch.setattr(_rows, "_COLUMN_SHARE", 0)
    rows = Rows.of(np.asarray(X, order=order), CPU, np.dtype(dtype))
    assert rows.X.shape == X.shape
    indices, sizes = torch.zeros(2, 7, dtype=torch.int64), [2, 2, 2, 1]
    loads = rows.loads(indices, sizes)
    assert len(loads) == {1: 4, 2**20: 1}.get(gather_bytes, 4 if dtype == np.float64 else 2)
    for seed in range(2):
        indices.copy_(torch.from_numpy(np.random.RandomState(seed).randint(0, len(X), (2, 7))))
        gathered = torch.cat([batch._rows.clone() for load in loads for batch in load()], 1)
        np.testing.assert_array_equal(gathered, X[indices].astype(dtype))


@pytest.mark.parametrize("indices", [[3, 1], [[3, 1], [3, 1]], [[3, 1], [0, 2]]], ids=str)
def test_networks_with_the_same_rows_share_them(indices):
    batch = Rows.of(X, CPU).take(torch.tensor(indices))
    np.testing.assert_array_equal(batch._rows, X[np.array(indices)])
    assert (batch._rows.stride(0) == 0) == (indices == [[3, 1], [3, 1]])


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_what_does_not_fit_into_float32_is_an_error(sparse):
    huge = sp.csr_array(X * 1e300) if sparse else X * 1e300
    with pytest.raises(ValueError, match=r"too large for dtype\('float32'\)"):
        Rows.of(huge, CPU, np.dtype(np.float32)).whole()


def test_sparse_rows_leave_the_users_matrix():
    indices, data = np.array([3, 1, 1]), np.array([1.0, 2.0, 3.0])
    matrix = sp.csr_array((data, indices, np.array([0, 3])), shape=(1, 5))
    rows = Rows.of(matrix, CPU, np.dtype(np.float32))
    np.testing.assert_array_equal(rows.X.toarray(), [[0, 5, 0, 1, 0]])
    assert rows.X.dtype == np.float32
    assert matrix.dtype == np.float64
    np.testing.assert_array_equal(matrix.indices, [3, 1, 1])


@pytest.mark.parametrize(
    "array",
    [X, X[::2], X[:, ::-1], np.asfortranarray(X), X[::-1, 3:7], np.broadcast_to(X[0], (3, 64))],
    ids=["C", "rows", "reversed", "F", "part", "read-only"],
)
def test_as_tensor(array):
    tensor = as_tensor(array)
    np.testing.assert_array_equal(tensor.numpy(), array)
    shares_memory = tensor.data_ptr() == array.__array_interface__["data"][0]
    assert shares_memory == all(stride >= 0 for stride in array.strides)


def test_to_numpy():
    assert to_numpy([1, 2]) == [1, 2]
    tensor = torch.tensor([1.5, 2.0], requires_grad=True)
    np.testing.assert_array_equal(to_numpy(tensor), [1.5, 2.0])
    assert to_numpy(tensor.bfloat16()).dtype == np.float32
