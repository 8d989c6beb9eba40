"""Outputs of few rows, against those of PyTorch's modules, for every activation and normalization."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from sktorch_mlp._nn import few_rows
from sktorch_mlp._nn.activations import ACTIVATIONS, get_activation
from sktorch_mlp._nn.few_rows import FEW_ROWS, FewRows
from sktorch_mlp._nn.matmul import ONE_BLAS_THREAD, ONE_BLAS_THREAD_FOR_VECTORS, call_quietly
from tests.nn.helpers import OUT_ACTIVATIONS, seeded


def network(units, *, dtype=torch.float64):
    """Coefficients and intercepts of random layers."""
    generator = seeded(0)
    coefs = [torch.randn(n_out, n_in, dtype=dtype, generator=generator) / n_in**0.5 for n_in, n_out in pairwise(units)]
    return coefs, [torch.randn(len(coef), dtype=dtype, generator=generator) for coef in coefs]


def forward_pass(coefs, intercepts, activation, out_activation="softmax", norms=()):
    forward = FewRows(coefs, intercepts, [activation] * (len(coefs) - 1), out_activation, norms)

    def call(X):
        return call_quietly(forward, X)

    return call


def expected(X, coefs, intercepts, activation, out_activation="softmax", norms=()):
    units = torch.from_numpy(np.ascontiguousarray(X))
    modules = [*[get_activation(activation).module()] * (len(coefs) - 1), OUT_ACTIVATIONS[out_activation]]
    for layer, (coef, intercept, module) in enumerate(zip(coefs, intercepts, modules, strict=True)):
        units = functional.linear(units, coef, intercept)
        if norms and layer < len(norms):
            units = functional.layer_norm(units, (len(coef),), *norms[layer])
        units = module(units)
    return units.numpy()


def random_rows(n_rows, n_features, dtype=np.float64):
    return np.random.RandomState(n_rows).normal(size=(n_rows, n_features)).astype(dtype)


@pytest.mark.parametrize("out_activation", OUT_ACTIVATIONS)
@pytest.mark.parametrize("activation", [*ACTIVATIONS, functional.softplus, nn.Softsign()], ids=str)
def test_every_activation(activation, out_activation):
    layers = network((5, 7, 6, 3))
    for n_rows in (1, 2, FEW_ROWS):
        X = random_rows(n_rows, 5)
        result = forward_pass(*layers, activation, out_activation)(X)
        assert result.flags.c_contiguous
        assert result.flags.writeable
        np.testing.assert_allclose(result, expected(X, *layers, activation, out_activation), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_rows", [1, 2, 5, 256])
@pytest.mark.parametrize("units", [(4, 1), (30, 1, 2), (700, 40, 50, 10), (300, 2000, 1), (20, 300, 300, 1)], ids=str)
def test_products_of_both_libraries(units, n_rows, dtype, monkeypatch):
    layers = network(units, dtype=torch.from_numpy(np.empty(0, dtype)).dtype)
    X = random_rows(n_rows, units[0], dtype)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-13}
    for numpy_rows in (few_rows._numpy_rows, lambda *shape: range(0), lambda *shape: range(257)):
        monkeypatch.setattr(few_rows, "_numpy_rows", numpy_rows)
        result = forward_pass(*layers, "relu", "identity")(X)
        assert result.dtype == dtype
        assert result.flags.c_contiguous
        np.testing.assert_allclose(result, expected(X, *layers, "relu", "identity"), **tolerance)


def test_numpy_multiplies_where_its_blas_has_one_thread():
    for n_out, n_in in [(1, 10), (10, 10), (1, 20_000), (300, 300), (3000, 3000)]:
        rows = few_rows._numpy_rows(n_out, n_in)
        assert (1 in rows) == (n_out * n_in <= ONE_BLAS_THREAD_FOR_VECTORS)
        limit = ONE_BLAS_THREAD if n_out > 1 else ONE_BLAS_THREAD_FOR_VECTORS
        assert all(n_rows * n_out * n_in <= limit for n_rows in rows)
        assert rows.stop * n_out * n_in > limit


@pytest.mark.parametrize("order", ["C", "Fortran"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_row_is_divided_into_few_equal_parts(dtype, order, monkeypatch):
    monkeypatch.setattr(few_rows, "_bind", pytest.fail)  # which would be called otherwise
    for n_in, n_out in [(784, 128), (9002, 1), (98, 100)]:
        coefs, intercepts = network((n_in, n_out), dtype=torch.from_numpy(np.empty(0, dtype)).dtype)
        layers = [coefs[0] if order == "Fortran" else coefs[0].T.contiguous().T], intercepts
        for X in (random_rows(1, n_in, dtype), np.repeat(random_rows(1, n_in, dtype), 2, axis=1)[:, ::2]):
            result = forward_pass(*layers, "relu", "identity")(X)
            tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-13}
            np.testing.assert_allclose(result, expected(X, *layers, "relu", "identity"), **tolerance)


def test_one_row_is_not_divided_where_parts_would_be_many_or_unequal():
    for n_in, n_out in [(787, 128), (784, 1000), (3, 30)]:
        assert few_rows._Affine(torch.ones(n_in, n_out), torch.ones(n_out))._parts is None


def test_layer_normalization():
    coefs, intercepts = network((5, 7, 6, 3))
    norms = [(torch.rand(len(coef), dtype=torch.float64), torch.rand(len(coef), dtype=torch.float64)) for coef in coefs]
    X = random_rows(9, 5)
    result = forward_pass(coefs, intercepts, "tanh", norms=norms[:-1])(X)
    np.testing.assert_allclose(result, expected(X, coefs, intercepts, "tanh", norms=norms[:-1]), rtol=1e-10)


LAYOUTS = {
    "column order": np.asfortranarray,
    "every second row": lambda X: np.repeat(X, 2, axis=0)[::2],
    "reversed": lambda X: X[::-1].copy()[::-1],
    "one row reversed": lambda X: np.ascontiguousarray(X[:1])[::-1],
    "read-only": lambda X: np.frombuffer(X.tobytes()).reshape(X.shape),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_of_any_layout_stay_as_they_are(layout):
    layers = network((700, 40, 50, 10))
    for n_rows in (3, 30):  # by numpy, by PyTorch
        X = LAYOUTS[layout](random_rows(n_rows, 700))
        before = X.copy()
        result = forward_pass(*layers, "relu")(X)
        np.testing.assert_allclose(result, expected(before, *layers, "relu"), rtol=1e-12)
        np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("norms", [False, True])
def test_functions_that_return_views_of_any_kind(norms):
    coefs, intercepts = network((5, 7, 3))
    norms = [(torch.ones(7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64))] if norms else ()
    X = random_rows(9, 5)
    for function in (lambda x: (-torch.sin(x))._neg_view(), lambda x: torch.complex(x, -torch.sin(x)).conj().imag):
        result = forward_pass(coefs, intercepts, function, norms=norms)(X)
        np.testing.assert_allclose(result, forward_pass(coefs, intercepts, torch.sin, norms=norms)(X), rtol=1e-12)


@pytest.mark.filterwarnings("error")
def test_overflow_makes_no_noise():
    coefs, intercepts = network((5, 7, 3))
    assert np.isnan(forward_pass([coef * 1e308 for coef in coefs], intercepts, "identity")(random_rows(3, 5))).any()
