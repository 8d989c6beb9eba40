"""Products of single matrices and of stacks, small and large, against numpy."""

import numpy as np
import pytest
import torch

from sktorch_mlp._nn import matmul
from sktorch_mlp._nn.matmul import (
    _SMALL,
    _SMALL_IF_FOREIGN,
    Scratch,
    addmm,
    bind_addmm,
    bind_mm,
    bind_row_sums,
    bind_vecdot,
    call_quietly,
)
from tests.nn.helpers import seeded

#: (n_out, n_in, n_rows): narrow, small, wide, and larger than what numpy's BLAS does here.
SHAPES = [(1, 5, 7), (5, 1, 3), (3, 4, 1), (10, 100, 60), (40, 50, 60), (300, 100, 60)]


def _random(*shape, seed, dtype=torch.float64, transposed=False):
    if transposed:
        return _random(*shape[:-2], shape[-1], shape[-2], seed=seed, dtype=dtype).mT
    return torch.randn(*shape, dtype=dtype, generator=seeded(seed))


def test_shapes_are_on_both_sides_of_the_limit():
    sizes = [np.prod(shape) for shape in SHAPES]
    assert min(sizes) < _SMALL < max(sizes) < _SMALL_IF_FOREIGN


@pytest.fixture(params=[True, False], ids=["own kernels", "foreign kernels"])
def kernels(request, monkeypatch):
    """A processor for which PyTorch's BLAS has kernels, and one for which it has not."""
    monkeypatch.setattr(matmul, "has_own_kernels", lambda: request.param)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("transposed", [(), ("a",), ("b",), ("out",), ("a", "b", "out")], ids="".join)
@pytest.mark.parametrize("stack", [(), (3,)], ids=["one", "stack"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_match_numpy(shape, stack, transposed):
    n_out, n_in, n_rows = shape
    a = _random(*stack, n_out, n_in, seed=0, transposed="a" in transposed)
    b = _random(*stack, n_in, n_rows, seed=1, transposed="b" in transposed)
    out = _random(*stack, n_out, n_rows, seed=2, transposed="out" in transposed)
    summand = _random(*stack, n_out, 1, seed=3)

    multiply, add = bind_mm(a, b, out), bind_addmm(summand, a, b, out)
    for _ in range(2):
        multiply()
        np.testing.assert_allclose(out, a.numpy() @ b.numpy(), rtol=1e-12, atol=1e-12)
        add()
        np.testing.assert_allclose(out, a.numpy() @ b.numpy() + summand.numpy(), rtol=1e-12, atol=1e-12)
        b.neg_()  # a bound product takes the values of the moment
    if not stack:
        result = addmm(summand, a, b, Scratch())
        np.testing.assert_allclose(result, a.numpy() @ b.numpy() + summand.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("shape", [(10, 100, 60), (3, 100, 150), (100, 7, 200)], ids=str)
def test_a_small_product_has_the_same_bits_in_a_stack_of_any_height(shape):
    n_out, n_in, n_rows = shape
    a, b = _random(100, n_out, n_in, seed=0), _random(100, n_in, n_rows, seed=1)
    assert a.numel() * n_rows > _SMALL_IF_FOREIGN
    out, alone = torch.empty(100, n_out, n_rows, dtype=a.dtype), torch.empty(n_out, n_rows, dtype=a.dtype)
    bind_mm(a, b, out)()
    for k in range(100):
        bind_mm(a[k], b[k], alone)()
        assert torch.equal(out[k], alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_products_of_a_prediction_take_turns_in_memory(dtype):
    scratch, rows = Scratch(), _random(700, 20, seed=0, dtype=dtype)
    coefs = [_random(n_out, n_in, seed=n_out, dtype=dtype) for n_in, n_out in [(20, 30), (30, 10), (10, 30)]]
    units, expected, addresses = rows.mT, rows.mT.double().numpy(), []
    for coef in coefs:
        intercept = _random(len(coef), 1, seed=9, dtype=dtype)
        units = addmm(intercept, coef, units, scratch)
        expected = coef.double().numpy() @ expected + intercept.double().numpy()
        np.testing.assert_allclose(units, expected, rtol=1e-9, atol=1e-3 if dtype == torch.float32 else 1e-9)
        addresses.append(units.data_ptr())
    assert addresses[0] == addresses[2] != addresses[1]


def test_parts_of_larger_buffers():
    flat = _random(2, 500, seed=0)
    coefs, grads = flat[:, 20:50].unflatten(1, (6, 5)), torch.zeros_like(flat)
    rows = _random(2, 11, 5, seed=1)
    out = torch.empty(2, 6, 11, dtype=torch.float64)
    bind_mm(coefs, rows.mT, out)()
    np.testing.assert_allclose(out, coefs.numpy() @ rows.numpy().swapaxes(1, 2), rtol=1e-12)
    bind_mm(out, rows, grads[:, 20:50].unflatten(1, (6, 5)))()
    np.testing.assert_allclose(grads[:, 20:50], (out.numpy() @ rows.numpy()).reshape(2, 30), rtol=1e-12)
    assert not grads[:, :20].any()
    assert not grads[:, 50:].any()


@pytest.mark.parametrize("stack", [(), (2,)], ids=["one", "stack"])
def test_bfloat16_rounds_operands_and_not_results(stack):
    a, b, summand = (_random(*stack, 4, 4, seed=seed, dtype=torch.float32) for seed in range(3))
    expected = (a.bfloat16() @ b.bfloat16()).float()
    out = torch.empty(*stack, 4, 4)
    bind_mm(a, b, out, bfloat16=True)()
    assert torch.equal(out, expected)
    bind_addmm(summand, a, b, out, bfloat16=True)()
    assert torch.equal(out, expected + summand)
    if not stack:
        assert torch.equal(addmm(summand, a, b, Scratch(), bfloat16=True), expected + summand)
    bind_mm(a, b, out)()
    assert not torch.equal(out, expected)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("stack", [(), (2,)], ids=["one", "stack"])
def test_what_is_not_finite_makes_no_noise(stack):
    a = torch.full((*stack, 3, 3), 1e308, dtype=torch.float64)
    out = torch.empty_like(a)
    call_quietly(bind_mm(a, a, out))
    assert out.isinf().all()
    call_quietly(bind_mm(out, -out, out.clone()))
    assert stack or call_quietly(addmm, a, a, a, Scratch()).isinf().all()


@pytest.mark.parametrize("length", [700, 30_000], ids=["numpy", "torch"])
@pytest.mark.parametrize("stack", [(), (3,)], ids=["one", "stack"])
def test_products_of_vectors_match_numpy(stack, length):
    a, b, out = (
        _random(*stack, length, seed=0),
        _random(*stack, length, seed=1),
        torch.empty(stack, dtype=torch.float64),
    )
    multiply = bind_vecdot(a, b, out)
    for _ in range(2):
        multiply()
        np.testing.assert_allclose(out, (a * b).sum(-1), rtol=1e-12)
        b.neg_()  # a bound product takes the values of the moment


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (100, 150), (1200, 1000), (3, 5, 7)], ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_sums_of_rows_match_numpy(shape, transposed, dtype):
    a, out = _random(*shape, seed=0, dtype=dtype, transposed=transposed), torch.empty(shape[:-1], dtype=dtype)
    write_sums = bind_row_sums(a, out)
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-12}[dtype]  # of up to 1000 numbers, in another order
    for _ in range(2):
        write_sums()
        np.testing.assert_allclose(out, a.numpy().astype(np.float64).sum(-1), rtol=tolerance, atol=tolerance)
        a.neg_()
