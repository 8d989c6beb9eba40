"""Products of float32 by oneDNN: what it multiplies, and that it gives what the BLAS gives."""

import numpy as np
import pytest
import torch

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor
from sktorch_mlp._nn import compat, onednn
from sktorch_mlp._nn.matmul import bind_addmm, bind_mm
from sktorch_mlp._nn.onednn import RowsOfPredictions, multiplies_batch, multiplies_prediction
from sktorch_mlp._nn.products import Product
from tests.nn.helpers import seeded

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.skipif(
        not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN, so nothing is multiplied by it"
    ),
]


class _Linear:
    """The operator, which counts its calls."""

    def __init__(self):
        self.shapes = []

    def __call__(self, x, weight, bias):
        self.shapes.append((len(x), *weight.shape))
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@pytest.fixture
def linear(monkeypatch):
    """A processor for which oneDNN is quicker, whatever this one is."""
    operator = _Linear()
    monkeypatch.setattr(onednn, "onednn_linear", lambda: operator)
    return operator


@pytest.fixture
def without_onednn(monkeypatch):
    monkeypatch.setattr(onednn, "onednn_linear", lambda: None)


def _matrix(n_rows, n_columns, layout="C", dtype=torch.float32):
    generator = seeded(n_rows)
    wide = torch.randn(2 * n_rows, 2 * n_columns, generator=generator).to(dtype)
    matrix = wide[:n_rows, :n_columns]
    return {
        "C": matrix.contiguous(),
        "Fortran": matrix.mT.contiguous().mT,
        "gaps": matrix,
        "every second row": wide[::2, :n_columns].contiguous(),
        "every second column": wide[:n_rows, ::2],
    }[layout]


LAYOUTS = ["C", "Fortran", "gaps", "every second row", "every second column"]


@pytest.mark.parametrize("of_b", LAYOUTS)
@pytest.mark.parametrize("of_a", LAYOUTS)
def test_products_of_matrices_of_any_layout(of_a, of_b, linear):
    a, b = _matrix(256, 400, of_a), _matrix(400, 256, of_b)
    row = torch.randn(1, 512)[:, ::2]
    for summand in (row, torch.randn(512, 1)[::2], None):
        out = _matrix(256, 256, "gaps")
        Product(a, b, out, summand, onednn._is_quicker(a.shape[-2], b)).bind()()
        expected = (a.double() @ b.double() + (0 if summand is None else summand)).float()
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    assert bool(linear.shapes) == (of_b in ("C", "Fortran", "every second row"))
    if linear.shapes:
        torch.testing.assert_close(onednn.multiply(a, b, row), a @ b + row, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("linear")
def test_it_multiplies_what_is_large_wide_and_round():
    a, b = _matrix(256, 400), _matrix(400, 256)
    assert multiplies_batch(a, b, 256)
    assert multiplies_batch(a, b, 150)
    assert not multiplies_batch(a, b, 257)
    assert not multiplies_batch(a, b, 0)
    assert multiplies_prediction(256, b, 256)
    assert multiplies_prediction(256, b, 192)
    assert not multiplies_prediction(256, b, 200)
    assert not multiplies_prediction(256, b, 576)
    assert not multiplies_batch(a.double(), b.double(), 256)
    assert not multiplies_batch(a.expand(3, -1, -1), b, 256)
    assert not multiplies_batch(a.to("meta"), b.to("meta"), 256)
    assert not multiplies_batch(a[:112], b, 256)
    assert not multiplies_batch(_matrix(257, 400), b, 256)
    assert not multiplies_batch(_matrix(256, 401), _matrix(401, 256), 256)
    for n_rows, n_inner, n_columns in ((8, 16_000, 256), (16_000, 8, 256), (16_000, 256, 8)):
        assert not multiplies_batch(_matrix(n_rows, n_inner), _matrix(n_inner, n_columns), 256)


@pytest.mark.usefixtures("linear")
def test_first_rows_of_a_prediction_are_those_of_few_shapes():
    parts = RowsOfPredictions([torch.ones(200, 400), torch.ones(2, 200)])
    assert [parts.count_first(n_rows) for n_rows in (199, 255, 256, 330, 1000)] == [199, 255, 256, 320, 896]
    assert [parts.round_up(n_rows) for n_rows in (64, 128, 1250)] == [128, 128, 1280]
    others = [torch.ones(200, 400).double()], [torch.ones(2, 4000), torch.ones(4000, 2)], [torch.ones(201, 400)]
    for coefs in others:
        assert RowsOfPredictions(coefs).count_first(1001) == 1001
        assert RowsOfPredictions(coefs).round_up(1001) == 1001


@pytest.mark.parametrize("has_summand", [False, True])
def test_stacks_are_multiplied_one_by_one(has_summand, linear):
    a, b = torch.randn(3, 256, 400), torch.randn(3, 256, 400).mT
    summand, out = torch.randn(3, 256, 1), torch.empty(3, 256, 256)
    (bind_addmm(summand, a, b, out) if has_summand else bind_mm(a, b, out, n_rows=256))()
    torch.testing.assert_close(out, a @ b + (summand if has_summand else 0), rtol=1e-4, atol=1e-4)
    assert linear.shapes == [(256, 256, 400)] * 3


def test_without_it_there_is_one_part(without_onednn):
    parts = RowsOfPredictions([torch.ones(200, 400)])
    assert (parts.count_first(1001), parts.round_up(1001)) == (1001, 1001)


def test_bound_products_take_the_values_of_the_moment(linear):
    coef, units, intercept = _matrix(256, 400), _matrix(400, 256), torch.randn(256, 1)
    out, grad = torch.empty(256, 256), torch.empty(256, 400)
    add, multiply = bind_addmm(intercept, coef, units, out), bind_mm(out, units.mT, grad, n_rows=256)
    for _ in range(2):
        add()
        multiply()
        torch.testing.assert_close(out, coef @ units + intercept, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(grad, out @ units.mT, rtol=1e-3, atol=1e-2)
        units.neg_()
    assert linear.shapes == [(256, 256, 400), (256, 400, 256)] * 2


def _table(n_rows, dtype=np.float32):
    random_state = np.random.RandomState(0)
    X = random_state.normal(size=(n_rows, 152)).astype(dtype)
    return X, (X[:, :40].sum(1) > 0).astype(int)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_fit_is_that_of_the_blas(solver, linear, monkeypatch):
    X, y = _table(1032)
    model = MLPTorchRegressor(
        hidden_layer_sizes=(504, 256), solver=solver, batch_size=256, max_iter=4, tol=0, random_state=0
    )
    loss = model.fit(X, y.astype(np.float32)).loss_
    assert {n_inner for _, _, n_inner in linear.shapes} > {152, 504}  # forward passes
    assert {256, 504} == {n_units for n_units, _, _ in linear.shapes}
    monkeypatch.setattr(onednn, "onednn_linear", lambda: None)
    assert loss == pytest.approx(model.fit(X, y.astype(np.float32)).loss_, rel=1e-3)


@pytest.mark.parametrize("n_rows", [384, 400, 1000, 5003])
def test_predictions_are_those_of_the_blas(n_rows, linear, monkeypatch):
    X, y = _table(n_rows)
    model = MLPTorchClassifier((400, 300), max_iter=1, random_state=0).fit(X[:192], y[:192])
    linear.shapes.clear()
    layouts = X, np.asfortranarray(X), np.repeat(X, 2, axis=0)[::2], np.repeat(X, 2, axis=1)[:, ::2]
    results = [model.predict_proba(layout) for layout in layouts]
    assert any(n_rows > 128 and n_rows % 128 == 0 for shape in linear.shapes for n_rows in shape[:2])
    monkeypatch.setattr(onednn, "onednn_linear", lambda: None)
    model = MLPTorchClassifier((400, 300), max_iter=1, random_state=0).fit(X[:192], y[:192])
    for result in results:
        np.testing.assert_allclose(result, model.predict_proba(X), rtol=1e-3, atol=1e-5)


@pytest.mark.usefixtures("linear")
@pytest.mark.parametrize("n_rows", [200, 1000, 5003])
def test_bits_of_predictions_do_not_depend_on_threads(n_rows, two_torch_threads):
    X, y = _table(n_rows)
    model = MLPTorchClassifier((400, 300), max_iter=1, random_state=0).fit(X[:192], y[:192])
    several = [model.predict_proba(X) for _ in range(12)]
    torch.set_num_threads(1)
    alone = model.predict_proba(X)
    for result in several:
        np.testing.assert_array_equal(result, alone)


def test_whether_it_is_quicker(monkeypatch):
    find = compat.onednn_linear.__wrapped__
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(compat, "has_own_kernels", lambda: False)
    x, weight = _matrix(30, 40), _matrix(20, 40)
    torch.testing.assert_close(find()(x, weight, torch.ones(20)), torch.nn.functional.linear(x, weight, torch.ones(20)))
    monkeypatch.setattr(compat, "has_own_kernels", lambda: True)
    assert find() is None
    monkeypatch.setattr(compat, "has_own_kernels", lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert find() is None
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert find() is None
