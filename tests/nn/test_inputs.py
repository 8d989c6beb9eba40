"""The two products of the first layer, for dense and sparse batches, and in bfloat16.

PyTorch warns once in a process that sparse tensors are in beta. Warnings are errors here, so the first sparse test
would fail if users could see it.
"""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from sktorch_mlp._nn.inputs import DenseBatch, SparseBatch, SparseRows
from sktorch_mlp._nn.matmul import Scratch
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


def test_a_dense_batch_is_multiplied_in_its_precision():
    rows = torch.randn(N_ROWS, N_FEATURES, generator=seeded(0))
    coef, intercept = torch.randn(N_UNITS, N_FEATURES, generator=seeded(1)), torch.zeros(N_UNITS, 1)
    rounded = DenseBatch(rows.bfloat16()).affine_once(coef, intercept, Scratch())
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, (coef.bfloat16() @ rows.bfloat16().T).float())
