"""The two products of the first layer, for dense and sparse batches, and in bfloat16.

PyTorch warns once in a process that sparse tensors are in beta. Warnings are errors here, so the first sparse test
would fail if users could see it.
"""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from sktorch_mlp._nn import inputs
from sktorch_mlp._nn.inputs import DenseBatch, SparseBatch, SparseRows
from sktorch_mlp._nn.matmul import Scratch
from sktorch_mlp._nn.threads import threads_for_large_calls
from tests.nn.helpers import CPU, seeded

N_ROWS, N_FEATURES, N_UNITS = 6, 5, 3


def _batch(n_networks, *, sparse):
    """A batch, and the rows of each network."""
    X = np.random.RandomState(0).randn(n_networks, N_ROWS, N_FEATURES)
    X[X < -0.5] = 0
    if sparse:
        return SparseBatch([SparseRows(sp.csr_array(x), CPU) for x in X]), X
    rows = torch.from_numpy(X)
    return DenseBatch(rows[0] if n_networks == 1 else rows), X


def _random(*shape, n_networks):
    tensor = torch.randn(n_networks, *shape, dtype=torch.float64, generator=seeded(0))
    return tensor[0] if n_networks == 1 else tensor


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("n_networks", [1, 2])
def test_products_match_numpy(n_networks, sparse):
    batch, X = _batch(n_networks, sparse=sparse)
    coef = _random(N_FEATURES, N_UNITS, n_networks=n_networks).mT  # input-major, as sparse products want it
    intercept = _random(N_UNITS, 1, n_networks=n_networks)
    expected = coef.numpy() @ X.swapaxes(1, 2).reshape(*coef.shape[:-2], N_FEATURES, N_ROWS) + intercept.numpy()
    out = torch.empty(*coef.shape[:-2], N_ROWS, N_UNITS, dtype=torch.float64).mT
    batch.affine(coef, intercept, out)
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-14)
    if n_networks == 1:
        np.testing.assert_allclose(batch.affine_once(coef, intercept, Scratch()), expected, rtol=1e-12, atol=1e-14)
    delta = _random(N_ROWS, N_UNITS, n_networks=n_networks).mT
    coef_grad = torch.full_like(coef, float("nan"))
    batch.coef_grad(delta, coef_grad)
    expected = delta.numpy() @ X.reshape(*coef.shape[:-2], N_ROWS, N_FEATURES)
    np.testing.assert_allclose(coef_grad, expected, rtol=1e-12, atol=1e-14)


class _Always:
    """A choice that always takes several threads, and counts."""

    n_calls = 0

    def call(self, alone, shared, n_operations):
        self.n_calls += 1
        return shared()


@pytest.mark.usefixtures("two_torch_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(200, 3000, 70), (33, 20000, 40), (1001, 50, 129)], ids=str)
def test_large_products_of_sparse_rows_have_the_same_bits_on_two_threads(shape, dtype, monkeypatch):
    n_rows, n_features, n_units = shape
    torch.set_num_threads(1)
    density = 20_000 / (n_rows * n_features)
    X = (
        sp.random_array((n_rows, n_features), density=density, rng=np.random.default_rng(0))
        .tocsr()
        .astype(str(dtype)[6:])
    )
    batch = SparseBatch([SparseRows(X, CPU)])
    coef, delta = (torch.randn(n, n_units, dtype=dtype, generator=seeded(0)).mT for n in (n_features, n_rows))
    intercept, choice = torch.randn(n_units, 1, dtype=dtype, generator=seeded(1)), _Always()
    monkeypatch.setattr(inputs, "_choice_of_sparse_products", lambda n_bits: choice)
    results = []
    for n_threads in 1, 2:
        outputs, coef_grad = torch.empty(n_rows, n_units, dtype=dtype).mT, torch.empty_like(coef)
        with threads_for_large_calls(n_threads):
            batch.affine(coef, intercept, outputs)
            batch.coef_grad(delta, coef_grad)
        results.append((outputs, coef_grad))
        assert choice.n_calls == 2 * (n_threads - 1)
    for on_one, on_two in zip(*results, strict=True):
        assert torch.equal(on_one, on_two)


def test_a_dense_batch_is_multiplied_in_its_precision():
    rows = torch.randn(N_ROWS, N_FEATURES, generator=seeded(0))
    coef, intercept = torch.randn(N_UNITS, N_FEATURES, generator=seeded(1)), torch.zeros(N_UNITS, 1)
    rounded = DenseBatch(rows.bfloat16()).affine_once(coef, intercept, Scratch())
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, (coef.bfloat16() @ rows.bfloat16().T).float())
