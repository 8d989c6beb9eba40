"""Hidden layers, initial weights and precision beyond scikit-learn's, against PyTorch's modules."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn
from torch.nn import functional

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor
from tests.estimators.by_hand import (
    ADAM,
    IN_ORDER,
    N_ROWS,
    NUMBERS,
    NUMBERS_X,
    PARAMS,
    PLAIN_SGD,
    WEIGHTS,
    Call,
    X,
    Y,
    assert_learned_as,
    cross_entropy,
    modules,
    sgd,
    train_by_hand,
)
from tests.marks import needs_bfloat16
from tests.nn.helpers import INITS

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")

# name: our parameters, and what PyTorch's modules are made of
HIDDEN = {
    "batch": ({"normalization": "batch"}, {"norm": nn.BatchNorm1d}),
    "layer": ({"normalization": "layer"}, {"norm": nn.LayerNorm}),
    "dropout": ({"dropout": 0.3}, {"rates": (0.3, 0.3)}),
    "dropout of one layer": ({"dropout": [0.0, 0.5]}, {"rates": (0.0, 0.5)}),
    "all": (
        {"normalization": "batch", "dropout": (0.2, 0.4), "activation": ["gelu", torch.sin]},
        {"norm": nn.BatchNorm1d, "rates": (0.2, 0.4), "activations": (nn.GELU(), Call(torch.sin))},
    ),
    "softplus": ({"activation": functional.softplus}, {"activations": (nn.Softplus(), nn.Softplus())}),
    "module": ({"activation": nn.Softsign()}, {"activations": (nn.Softsign(), nn.Softsign())}),
    "selu, logistic": (
        {"activation": ("selu", "logistic")},
        {"activations": (nn.SELU(), nn.Sigmoid()), "initial": ("selu", "logistic")},
    ),
    **{
        name: ({"activation": name}, {"activations": (module(), module())})
        for name, module in {"leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "silu": nn.SiLU, "mish": nn.Mish}.items()
    },
}
# Sparse rows meet the first layer alone: the memory of its units, which normalizations, masks and functions work on.
SPARSE = ["batch", "layer", "all", "module", "silu"]


@pytest.mark.parametrize(("name", "sparse"), [*((name, False) for name in HIDDEN), *((name, True) for name in SPARSE)])
def test_hidden_layers_are_pytorchs_modules(name, sparse):
    params, made_of = HIDDEN[name]
    module = modules(3, **made_of)
    # Not adam: the gradient of an intercept before a batch norm is nothing but rounding, which adam makes larger.
    losses = train_by_hand(module, X, Y, cross_entropy, sgd, alpha=0.1)
    rows = sp.csr_array(X) if sparse else X
    model = MLPTorchClassifier(**IN_ORDER, **PLAIN_SGD, alpha=0.1, **params).fit(rows, Y)
    assert_learned_as(model, module, losses)
    expected = torch.softmax(module.eval()(torch.from_numpy(X)), 1).detach()
    assert_allclose(model.predict_proba(rows), expected, rtol=1e-8, atol=1e-11)
    assert not model.module_.training
    by_module = torch.softmax(model.module_(torch.from_numpy(X)), 1).detach()
    assert_allclose(by_module, model.predict_proba(X), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "norm"), [("batch", nn.BatchNorm1d), ("layer", nn.LayerNorm)])
def test_normalization_with_few_features(name, norm):
    """The first layer's weights then lie in another order."""
    module = modules(1, norm=norm, n_in=10)
    losses = train_by_hand(module, NUMBERS_X, NUMBERS, lambda p, y: 0.5 * (p[:, 0] - y) ** 2, sgd)
    model = MLPTorchRegressor(**IN_ORDER, **PLAIN_SGD, alpha=0.0, normalization=name).fit(NUMBERS_X, NUMBERS)
    assert_learned_as(model, module, losses)


# Batch normalization -------------------------------------------------------------------


def test_rows_of_a_batch_count_by_their_weight():
    """A weight of n is n equal rows."""
    counts = np.random.RandomState(0).randint(1, 4, N_ROWS)
    params = {**IN_ORDER, **ADAM, "normalization": "batch", "batch_size": 1000}
    with pytest.warns(UserWarning, match="batch_size"):
        weighted = MLPTorchClassifier(**params).fit(X, Y, sample_weight=counts)
    with pytest.warns(UserWarning, match="batch_size"):
        repeated = MLPTorchClassifier(**params).fit(np.repeat(X, counts, 0), np.repeat(Y, counts))
    assert_allclose(weighted.loss_curve_, repeated.loss_curve_, rtol=1e-9)
    assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-9, atol=1e-12)


def test_running_variances_hardly_depend_on_the_unit_of_weights():
    params = {**IN_ORDER, **ADAM, "alpha": 0.0, "normalization": "batch"}
    model = MLPTorchClassifier(**params).fit(X, Y, sample_weight=WEIGHTS)
    small = MLPTorchClassifier(**params).fit(X, Y, sample_weight=WEIGHTS / WEIGHTS.sum())
    assert_allclose(small.loss_curve_, model.loss_curve_, rtol=1e-9)
    # The correction is n / (n - 1), for batches of 40 and 10.
    expected = model.normalizations_[0]["running_var"]
    assert_allclose(small.normalizations_[0]["running_var"], expected, rtol=0.1)


def test_a_last_batch_of_one_row_does_not_spoil_the_running_variances():
    params = {**IN_ORDER, **ADAM, "normalization": "batch", "max_iter": 40}
    model = MLPTorchClassifier(**params).fit(X[:81], Y[:81])  # 40, 40 and 1
    hidden = X[:81] @ model.coefs_[0]
    # The running variance averages over some 20 batches in which the weights hardly move.
    assert_allclose(model.normalizations_[0]["running_var"], hidden.var(0), rtol=0.3)


def test_written_normalizations_are_predicted_with():
    model = MLPTorchClassifier(**PARAMS, normalization="batch").fit(X, Y)
    for norm in model.normalizations_:
        norm["weight"][:] = 0.0
    constant = model.predict_proba(X)
    assert_allclose(constant, constant[:1].repeat(len(X), 0), rtol=1e-12)
    model.normalizations_[-1] = {**model.normalizations_[-1], "weight": np.ones(6), "bias": np.full(6, 2.0)}
    assert not np.allclose(model.predict_proba(X), constant)
    by_module = torch.softmax(model.module_(torch.from_numpy(X)), 1).detach()
    assert_allclose(by_module, model.predict_proba(X), rtol=1e-9)


# Activations and dropout ---------------------------------------------------------------


@pytest.mark.parametrize("activation", [nn.ReLU(inplace=True), torch.relu_], ids=["module", "function"])
def test_an_activation_may_work_in_place(activation):
    expected = MLPTorchClassifier(**PARAMS).fit(X, Y)
    assert_allclose(MLPTorchClassifier(**PARAMS, activation=activation).fit(X, Y).loss_curve_, expected.loss_curve_)


def test_predictions_drop_nothing():
    model = MLPTorchClassifier(**PARAMS, dropout=0.5).fit(X, Y)
    assert_array_equal(model.predict_proba(X), model.predict_proba(X))
    assert [layer.p for layer in model.module_ if isinstance(layer, nn.Dropout)] == [0.5, 0.5]
    with torch.random.fork_rng():
        model.module_.train()
        assert not torch.equal(model.module_(torch.from_numpy(X)), model.module_(torch.from_numpy(X)))


# Initial weights -----------------------------------------------------------------------


def untrained(**params):
    """A model after one epoch at a rate that moves no weight."""
    params = {**PARAMS, **PLAIN_SGD, "learning_rate_init": 1e-300, "max_iter": 1, **params}
    return MLPTorchClassifier(**params).fit(X, Y)


def first_seed():
    """The seed that an estimator with ``random_state=0`` draws first."""
    return int(np.random.RandomState(0).randint(np.iinfo(np.int32).max))


@pytest.mark.parametrize("weight_init", INITS, ids=str)
def test_initial_weights_are_pytorchs(weight_init):
    generator = torch.Generator().manual_seed(first_seed())
    model = untrained(weight_init=weight_init)
    for coef, intercept in zip(model.coefs_, model.intercepts_, strict=True):
        expected = INITS[weight_init](torch.empty(coef.shape[::-1], dtype=torch.float64), generator=generator)
        assert_allclose(coef.T, expected, rtol=1e-12)
        assert_allclose(intercept, 0.0, atol=1e-200)


def test_initial_weights_of_torch_are_those_of_linear():
    model = untrained(weight_init="torch")
    with torch.random.fork_rng():
        torch.manual_seed(first_seed())
        for coef, intercept in zip(model.coefs_, model.intercepts_, strict=True):
            linear = nn.Linear(*coef.shape, dtype=torch.float64)
            assert_allclose(coef.T, linear.weight.detach(), rtol=1e-12)
            assert_allclose(intercept, linear.bias.detach(), rtol=1e-12)


# Precision -----------------------------------------------------------------------------


@needs_bfloat16
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("params", [{}, {"normalization": "batch"}, {"dropout": 0.3}], ids=str)
def test_bfloat16_rounds_products_and_nothing_else(params, sparse):
    rows = sp.csr_array(X) if sparse else X
    model = MLPTorchClassifier(**PARAMS, **params, dtype="bfloat16").fit(rows, Y)
    expected = MLPTorchClassifier(**PARAMS, **params, dtype="float32").fit(rows, Y)
    assert {array.dtype for array in model.coefs_ + model.intercepts_} == {np.dtype(np.float32)}
    # Operands have 8 bits.
    assert_allclose(model.loss_curve_, expected.loss_curve_, rtol=2**-7)
    assert model.loss_curve_ != expected.loss_curve_
    exact = torch.softmax(model.module_.double()(torch.from_numpy(X)), 1).detach()
    assert_allclose(model.predict_proba(X), exact, rtol=1e-4)  # float32
