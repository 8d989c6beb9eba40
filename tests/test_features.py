"""What scikit-learn's MLP lacks, against PyTorch's own modules, losses, optimisers and schedules in loops by hand."""

import copy
import pickle
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import QuantileRegressor
from sklearn.metrics import accuracy_score, get_scorer, log_loss, mean_absolute_error, mean_pinball_loss, r2_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from torch import nn
from torch.nn import functional

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor
from sktorch_mlp._initialisation import initial_parameters
from sktorch_mlp._network import Dropout

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:Stochastic Optimizer")]

N_ROWS, BATCH_SIZE, N_EPOCHS = 90, 40, 4
X, Y = load_digits(n_class=3, return_X_y=True)
X, Y = X[:N_ROWS] / 16, Y[:N_ROWS]
X_VAL, Y_VAL = load_digits(n_class=3, return_X_y=True)
X_VAL, Y_VAL = X_VAL[200:260] / 16, Y_VAL[200:260]
BINARY = (Y > 0).astype(int)
LABELS = np.stack([Y > 0, Y == 1, X[:, 10] > 0.5], 1).astype(int)
NUMBERS_X, NUMBERS = load_diabetes(return_X_y=True)
NUMBERS_X, NUMBERS = scale(NUMBERS_X)[:N_ROWS], scale(NUMBERS)[:N_ROWS]
TWO_NUMBERS = np.stack([NUMBERS, NUMBERS**2], 1)
WEIGHTS = np.random.RandomState(0).uniform(0.5, 2.0, N_ROWS)

HERE = {"hidden_layer_sizes": (8, 6), "batch_size": BATCH_SIZE, "max_iter": N_EPOCHS, "random_state": 0}
IN_ORDER = {**HERE, "shuffle": False}
PLAIN_SGD = {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.1}
# Epsilon of scikit-learn's adam is not where PyTorch has it; adamw's is.
ADAM = {"solver": "adamw", "weight_decay": 0.0, "learning_rate_init": 0.01}


# Training by hand ----------------------------------------------------------------------


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, units):
        return self.function(units)


class Dropped(nn.Module):
    """Inverted dropout by a stream of its own, which fills units before rows."""

    def __init__(self, rate, generator):
        super().__init__()
        self.rate, self.generator = rate, generator

    def forward(self, units):
        if not self.training or self.rate == 0:
            return units
        mask = torch.empty(units.shape[::-1], dtype=units.dtype)
        dropout = Dropout([[self.rate]], [self.generator])
        dropout.draw_(0, mask)
        return units * mask.T / dropout.kept(0, mask)


RELUS = (nn.ReLU(), nn.ReLU())


def modules(n_outputs, *, activations=RELUS, like="relu", norm=None, rates=(0.0, 0.0), n_in=64):
    """PyTorch's modules with the initial weights of ``random_state=0``."""
    random_state, sizes = np.random.RandomState(0), [n_in, 8, 6, n_outputs]
    coefs, intercepts = initial_parameters(sizes, like, random_state)
    # An estimator draws the seed of its masks next.
    generator = torch.Generator().manual_seed(int(random_state.randint(np.iinfo(np.int32).max)))
    layers = []
    for layer, (coef, intercept) in enumerate(zip(coefs, intercepts, strict=True)):
        linear = nn.Linear(*coef.shape, dtype=torch.float64)
        linear.load_state_dict({"weight": torch.from_numpy(coef.T), "bias": torch.from_numpy(intercept)})
        layers.append(linear)
        if layer < len(activations):
            layers += [] if norm is None else [norm(coef.shape[1], dtype=torch.float64)]
            layers += [activations[layer], Dropped(rates[layer], generator)]
    return nn.Sequential(*layers)


def decaying(module, weight_decay):
    """Parameter groups: PyTorch's AdamW decays what it is told to; here weights of Linear alone."""
    weights = [layer.weight for layer in module if isinstance(layer, nn.Linear)]
    others = [p for p in module.parameters() if all(p is not weight for weight in weights)]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def train_by_hand(
    module,
    X,
    y,
    row_loss,
    make_optimizer,
    *,
    alpha=0.0,
    weights=None,
    clip=None,
    by_epoch=None,
    by_batch=None,
    n_epochs=N_EPOCHS,
):
    """Losses of the epochs: of a batch the weighted mean and the penalty, of an epoch the mean over rows."""
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    weights = torch.ones(len(X), dtype=torch.float64) if weights is None else torch.from_numpy(weights)
    optimizer = make_optimizer(module.parameters())
    n_batches = -(-len(X) // BATCH_SIZE)
    by_epoch = None if by_epoch is None else by_epoch(optimizer)
    by_batch = None if by_batch is None else by_batch(optimizer, total_steps=n_batches * n_epochs + 1)
    losses = []
    module.train()
    for _ in range(n_epochs):
        losses.append(0.0)
        for rows in torch.arange(len(X)).split(BATCH_SIZE):
            w = weights[rows]
            penalty = sum((layer.weight**2).sum() for layer in module if isinstance(layer, nn.Linear))
            loss = (w * row_loss(module(X[rows]), y[rows])).sum() / w.sum() + 0.5 * alpha * penalty / w.sum()
            optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(module.parameters(), clip)
            optimizer.step()
            if by_batch is not None:
                by_batch.step()
            losses[-1] += loss.item() * len(rows) / len(X)
        if by_epoch is not None:
            by_epoch.step()
    return losses


def assert_is(model, module, losses):
    """The model has learned what the module has, on the way that the losses tell of."""
    close = partial(assert_allclose, rtol=1e-8, atol=1e-11)
    close(model.loss_curve_, losses)
    linears = [layer for layer in module if isinstance(layer, nn.Linear)]
    norms = [layer for layer in module if isinstance(layer, nn.BatchNorm1d | nn.LayerNorm)]
    for coef, intercept, linear in zip(model.coefs_, model.intercepts_, linears, strict=True):
        close(coef.T, linear.weight.detach())
        close(intercept, linear.bias.detach())
    for ours, theirs in zip(model.normalizations_, norms, strict=True):
        expected = {name: value for name, value in theirs.state_dict().items() if name != "num_batches_tracked"}
        assert list(ours) == list(expected)
        for name, value in expected.items():
            close(ours[name], value)


def cross_entropy(logits, y):
    return functional.cross_entropy(logits, y, reduction="none")


def binary_cross_entropy(logits, y):
    losses = functional.binary_cross_entropy_with_logits(logits, y.double().reshape(logits.shape), reduction="none")
    return losses.sum(1)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


# Hidden layers -------------------------------------------------------------------------

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
        {"activations": (nn.SELU(), nn.Sigmoid()), "like": ("selu", "logistic")},
    ),
    **{
        name: ({"activation": name}, {"activations": (module(), module())})
        for name, module in {"leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "silu": nn.SiLU, "mish": nn.Mish}.items()
    },
}


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize(("params", "made_of"), HIDDEN.values(), ids=HIDDEN)
def test_hidden_layers_are_pytorchs_modules(params, made_of, sparse):
    module = modules(3, **made_of)
    # Not adam: the gradient of an intercept before a batch norm is nothing but rounding, which adam makes larger.
    losses = train_by_hand(module, X, Y, cross_entropy, sgd, alpha=0.1)
    features = sp.csr_array(X) if sparse else X
    model = MLPTorchClassifier(**IN_ORDER, **PLAIN_SGD, alpha=0.1, **params).fit(features, Y)
    assert_is(model, module, losses)
    expected = torch.softmax(module.eval()(torch.from_numpy(X)), 1).detach()
    assert_allclose(model.predict_proba(features), expected, rtol=1e-8, atol=1e-11)
    assert not model.module_.training
    ours = torch.softmax(model.module_(torch.from_numpy(X)), 1).detach()
    assert_allclose(ours, model.predict_proba(X), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm])
def test_normalization_with_few_features(norm):
    """The first layer's weights then lie in another order."""
    module = modules(1, norm=norm, n_in=10)
    losses = train_by_hand(module, NUMBERS_X, NUMBERS, lambda p, y: 0.5 * (p[:, 0] - y) ** 2, sgd)
    name = {nn.BatchNorm1d: "batch", nn.LayerNorm: "layer"}[norm]
    model = MLPTorchRegressor(**IN_ORDER, **PLAIN_SGD, alpha=0.0, normalization=name).fit(NUMBERS_X, NUMBERS)
    assert_is(model, module, losses)


def test_rows_of_a_batch_norm_count_by_their_weight():
    """A weight of n is n equal rows."""
    counts = np.random.RandomState(0).randint(1, 4, N_ROWS)
    own = {**IN_ORDER, **ADAM, "normalization": "batch", "batch_size": 1000}
    with pytest.warns(UserWarning, match="batch_size"):
        weighted = MLPTorchClassifier(**own).fit(X, Y, sample_weight=counts)
    with pytest.warns(UserWarning, match="batch_size"):
        repeated = MLPTorchClassifier(**own).fit(np.repeat(X, counts, 0), np.repeat(Y, counts))
    assert_allclose(weighted.loss_curve_, repeated.loss_curve_, rtol=1e-9)
    assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-9, atol=1e-12)


def test_running_variances_hardly_depend_on_the_unit_of_weights():
    own = {**IN_ORDER, **ADAM, "alpha": 0.0, "normalization": "batch"}
    model = MLPTorchClassifier(**own).fit(X, Y, sample_weight=WEIGHTS)
    small = MLPTorchClassifier(**own).fit(X, Y, sample_weight=WEIGHTS / WEIGHTS.sum())
    assert_allclose(small.loss_curve_, model.loss_curve_, rtol=1e-9)
    # The correction is n / (n - 1), for batches of 40 and 10.
    expected = model.normalizations_[0]["running_var"]
    assert_allclose(small.normalizations_[0]["running_var"], expected, rtol=0.1)


def test_a_last_batch_of_one_row_does_not_spoil_batch_norm():
    own = {**IN_ORDER, **ADAM, "normalization": "batch", "max_iter": 40}
    model = MLPTorchClassifier(**own).fit(X[:81], Y[:81])  # 40, 40 and 1
    hidden = X[:81] @ model.coefs_[0]
    # The running variance averages over some 20 batches in which the weights hardly move.
    assert_allclose(model.normalizations_[0]["running_var"], hidden.var(0), rtol=0.3)


@pytest.mark.parametrize("activation", [nn.ReLU(inplace=True), torch.relu_], ids=str)
def test_an_activation_may_work_in_place(activation):
    expected = MLPTorchClassifier(**HERE).fit(X, Y)
    assert_allclose(MLPTorchClassifier(**HERE, activation=activation).fit(X, Y).loss_curve_, expected.loss_curve_)


def test_predictions_drop_nothing():
    model = MLPTorchClassifier(**HERE, dropout=0.5).fit(X, Y)
    assert_array_equal(model.predict_proba(X), model.predict_proba(X))
    assert [layer.p for layer in model.module_ if isinstance(layer, nn.Dropout)] == [0.5, 0.5]
    model.module_.train()
    assert not torch.equal(model.module_(torch.from_numpy(X)), model.module_(torch.from_numpy(X)))


def test_what_is_written_to_normalizations_predicts():
    model = MLPTorchClassifier(**HERE, normalization="batch").fit(X, Y)
    for norm in model.normalizations_:
        norm["weight"][:] = 0.0
    constant = model.predict_proba(X)
    assert_allclose(constant, constant[:1].repeat(len(X), 0), rtol=1e-12)
    model.normalizations_[-1] = {**model.normalizations_[-1], "weight": np.ones(6), "bias": np.full(6, 2.0)}
    assert not np.allclose(model.predict_proba(X), constant)
    ours = torch.softmax(model.module_(torch.from_numpy(X)), 1).detach()
    assert_allclose(ours, model.predict_proba(X), rtol=1e-9)


# Initial weights -----------------------------------------------------------------------

INITS = {
    "glorot_uniform": nn.init.xavier_uniform_,
    "glorot_normal": nn.init.xavier_normal_,
    "he_uniform": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
    "he_normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "lecun_normal": partial(nn.init.kaiming_normal_, nonlinearity="linear"),
    "orthogonal": nn.init.orthogonal_,
    ("normal", 0.3): partial(nn.init.normal_, std=0.3),
}


def _untrained(**params):
    """One step of a rate that moves no weight."""
    params = {**HERE, **PLAIN_SGD, "learning_rate_init": 1e-300, "max_iter": 1, **params}
    return MLPTorchClassifier(**params).fit(X, Y)


@pytest.mark.parametrize("weight_init", INITS, ids=str)
def test_initial_weights_are_pytorchs(weight_init):
    generator = torch.Generator().manual_seed(int(np.random.RandomState(0).randint(np.iinfo(np.int32).max)))
    model = _untrained(weight_init=weight_init)
    for coef, intercept in zip(model.coefs_, model.intercepts_, strict=True):
        expected = INITS[weight_init](torch.empty(coef.shape[::-1], dtype=torch.float64), generator=generator)
        assert_allclose(coef.T, expected, rtol=1e-12)
        assert_allclose(intercept, 0.0, atol=1e-200)


def test_initial_weights_of_torch_are_those_of_linear():
    model = _untrained(weight_init="torch")
    with torch.random.fork_rng():
        torch.manual_seed(int(np.random.RandomState(0).randint(np.iinfo(np.int32).max)))
        for coef, intercept in zip(model.coefs_, model.intercepts_, strict=True):
            linear = nn.Linear(*coef.shape, dtype=torch.float64)
            assert_allclose(coef.T, linear.weight.detach(), rtol=1e-12)
            assert_allclose(intercept, linear.bias.detach(), rtol=1e-12)


# Losses --------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
def test_label_smoothing_is_cross_entropys(weighted, sparse):
    module = modules(3)
    smooth = nn.CrossEntropyLoss(label_smoothing=0.2, reduction="none")
    weights = WEIGHTS if weighted else None
    losses = train_by_hand(module, X, Y, smooth, adam, weights=weights)
    model = MLPTorchClassifier(**IN_ORDER, **ADAM, alpha=0.0, label_smoothing=0.2)
    assert_is(model.fit(sp.csr_array(X) if sparse else X, Y, sample_weight=weights), module, losses)


@pytest.mark.parametrize("y", [BINARY, LABELS], ids=["binary", "multilabel"])
def test_label_smoothing_of_logistic_outputs_is_towards_a_half(y):
    module = modules(1 if y.ndim == 1 else 3)
    losses = train_by_hand(module, X, 0.8 * y + 0.1, binary_cross_entropy, adam)
    model = MLPTorchClassifier(**IN_ORDER, **ADAM, alpha=0.0, label_smoothing=0.2).fit(X, y)
    assert_is(model, module, losses)
    assert_array_equal(np.unique(model.predict(X)), [0, 1])


CLASS_WEIGHTS = {
    "dict": (Y, {0: 1.0, 1: 3.0, 2: 0.5}),
    "some": (Y, {1: 3.0}),
    "balanced": (Y[Y.argsort()] % 3, "balanced"),
    "binary": (BINARY, {0: 5.0, 1: 1.0}),
    "binary, balanced": (BINARY, "balanced"),
    "names": (np.array(["a", "b", "c"])[Y], {"a": 1.0, "b": 3.0, "c": 0.5}),
    "multilabel": (LABELS, [{0: 1.0, 1: 3.0}, {0: 2.0, 1: 1.0}, {0: 1.0, 1: 0.25}]),
}


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize(("y", "class_weight"), CLASS_WEIGHTS.values(), ids=CLASS_WEIGHTS)
def test_class_weights_are_sample_weights(y, class_weight, weighted):
    if isinstance(class_weight, dict):
        by_label = {label: class_weight.get(label, 1.0) for label in np.unique(y).tolist()}
        weights = np.array([by_label[label] for label in y.tolist()])
    elif class_weight == "balanced":
        weights = len(y) / (len(np.unique(y)) * np.bincount(y))[y]
    else:
        weights = np.prod(
            [[by_label[label] for label in column] for by_label, column in zip(class_weight, y.T, strict=True)], 0
        )
    weights = weights * WEIGHTS if weighted else weights
    module = modules({1: 3 if len(np.unique(y)) == 3 else 1, 2: 3}[y.ndim])
    encoded = np.unique(y, return_inverse=True)[1].reshape(y.shape)
    row_loss = cross_entropy if y.ndim == 1 and encoded.max() == 2 else binary_cross_entropy
    losses = train_by_hand(module, X, encoded, row_loss, adam, weights=weights, alpha=0.1)
    model = MLPTorchClassifier(**IN_ORDER, **ADAM, alpha=0.1, class_weight=class_weight)
    assert_is(model.fit(X, y, sample_weight=WEIGHTS if weighted else None), module, losses)


REGRESSIONS = {
    "absolute_error": ({"loss": "absolute_error"}, lambda p, y: (p - y).abs()),
    "huber": ({"loss": "huber"}, nn.HuberLoss(reduction="none")),
    "quantile": (
        {"loss": "quantile", "quantile": 0.8},
        lambda p, y: torch.where(y > p, 0.8 * (y - p), 0.2 * (p - y)),
    ),
    "function": ({"loss": partial(functional.smooth_l1_loss, reduction="none")}, nn.SmoothL1Loss(reduction="none")),
    "log cosh": ({"loss": lambda p, y: (p - y).cosh().log()}, lambda p, y: (p - y).cosh().log()),
}


@pytest.mark.parametrize("y", [NUMBERS, TWO_NUMBERS], ids=["", "two outputs"])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize(("params", "loss"), REGRESSIONS.values(), ids=REGRESSIONS)
def test_losses_of_regressors(params, loss, weighted, y):
    module = modules(1 if y.ndim == 1 else 2, n_in=10)
    weights = WEIGHTS if weighted else None

    def row_loss(outputs, y):
        return loss(outputs, y.reshape(outputs.shape)).mean(1)

    losses = train_by_hand(module, NUMBERS_X, y, row_loss, sgd, weights=weights, alpha=0.1)
    model = MLPTorchRegressor(**IN_ORDER, **PLAIN_SGD, alpha=0.1, **params)
    assert_is(model.fit(NUMBERS_X, y, sample_weight=weights), module, losses)


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.9])
def test_a_linear_model_of_quantiles_is_scikit_learns(quantile):
    expected = QuantileRegressor(quantile=quantile, alpha=0.0).fit(NUMBERS_X, NUMBERS).predict(NUMBERS_X)
    model = MLPTorchRegressor(
        "quantile", (), quantile=quantile, alpha=0.0, learning_rate="cosine", learning_rate_init=0.03, max_iter=400,
        batch_size=N_ROWS, tol=0.0, n_iter_no_change=np.inf, random_state=0,
    ).fit(NUMBERS_X, NUMBERS)  # fmt: skip
    best = mean_pinball_loss(NUMBERS, expected, alpha=quantile)
    reached = mean_pinball_loss(NUMBERS, model.predict(NUMBERS_X), alpha=quantile)
    assert best - 1e-9 <= reached < 1.01 * best
    if quantile == 0.5:
        absolute = clone(model).set_params(loss="absolute_error").fit(NUMBERS_X, NUMBERS)
        assert mean_absolute_error(NUMBERS, absolute.predict(NUMBERS_X)) < 2.02 * best


def focal(logits, y):
    log_probabilities = functional.log_softmax(logits, 1).gather(1, y[:, None])[:, 0]
    return -((1 - log_probabilities.exp()) ** 2) * log_probabilities


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("mean", [False, True], ids=["rows", "mean"])
def test_a_function_is_a_loss_for_classifiers(mean, sparse):
    module = modules(3)
    losses = train_by_hand(module, X, Y, focal, adam, alpha=0.1)
    loss = (lambda logits, y: focal(logits, y).mean()) if mean else focal
    model = MLPTorchClassifier(**IN_ORDER, **ADAM, alpha=0.1, loss=loss)
    assert_is(model.fit(sp.csr_array(X) if sparse else X, Y), module, losses)
    assert model.predict_proba(X).sum(1) == pytest.approx(1)


@pytest.mark.parametrize(
    ("y", "loss"),
    [
        (Y, functional.cross_entropy),
        (Y, nn.CrossEntropyLoss(reduction="none")),
        (BINARY, functional.binary_cross_entropy_with_logits),
        (BINARY, partial(functional.binary_cross_entropy_with_logits, reduction="none")),
        (LABELS, lambda logits, y: 3 * functional.binary_cross_entropy_with_logits(logits, y, reduction="none")),
    ],
    ids=["mean", "rows", "binary, mean", "binary", "multilabel"],
)
@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_the_loss_as_a_function_is_the_loss(y, loss, solver):
    own = {**HERE, "solver": solver, "max_iter": 5, "alpha": 0.1}
    expected, model = MLPTorchClassifier(**own).fit(X, y), MLPTorchClassifier(**own, loss=loss).fit(X, y)
    assert_allclose(model.loss_, expected.loss_, rtol=1e-7)
    # The line search of lbfgs amplifies rounding.
    assert_allclose(model.predict_proba(X), expected.predict_proba(X), rtol=1e-7 if solver == "adam" else 1e-3)
    assert_array_equal(model.predict(X), expected.predict(X))


@pytest.mark.parametrize(
    "params", [{"normalization": "layer"}, {"label_smoothing": 0.1}, {"activation": functional.softplus}], ids=str
)
def test_lbfgs_takes_features_and_ends_where_the_gradient_is_small(params):
    model = MLPTorchClassifier((4,), solver="lbfgs", alpha=1.0, max_iter=2000, tol=1e-4, random_state=0, **params)
    model.fit(X, Y)
    module = model.module_
    for parameter in module.parameters():
        parameter.requires_grad_()
    loss = functional.cross_entropy(
        module(torch.from_numpy(X)), torch.from_numpy(Y), label_smoothing=params.get("label_smoothing", 0.0)
    )
    loss = loss + 0.5 / N_ROWS * sum((layer.weight**2).sum() for layer in module if isinstance(layer, nn.Linear))
    assert_allclose(loss.item(), model.loss_, rtol=1e-9)
    loss.backward()
    # scipy also stops where an iteration lowers the loss by less than 2e-9 of it.
    assert max(parameter.grad.abs().max().item() for parameter in module.parameters()) < 2e-3


# Optimisers, schedules, clipping -------------------------------------------------------

SCHEDULES = {
    "constant": ({}, {}),
    "cosine": (
        {"learning_rate": "cosine"},
        {"by_epoch": partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=N_EPOCHS)},
    ),
    "one_cycle": ({"learning_rate": "one_cycle"}, {"by_batch": 0.3}),
    "one_cycle, long rise": ({"learning_rate": "one_cycle", "warmup_fraction": 0.6}, {"by_batch": 0.6}),
}
OPTIMIZERS = {
    "sgd": ({"solver": "sgd", "momentum": 0.0}, torch.optim.SGD, {}),
    "adamw": ({"solver": "adamw", "weight_decay": 0.3}, torch.optim.AdamW, {"weight_decay": 0.3}),
    "adamw, betas": (
        {"solver": "adamw", "weight_decay": 0.0, "beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3},
        torch.optim.AdamW,
        {"weight_decay": 0.0, "betas": (0.5, 0.9), "eps": 1e-3},
    ),
    "RMSprop": (
        {"solver": torch.optim.RMSprop, "solver_params": {"momentum": 0.5, "weight_decay": 0.1}},
        torch.optim.RMSprop,
        {"momentum": 0.5, "weight_decay": 0.1},
    ),
    "NAdam": ({"solver": torch.optim.NAdam}, torch.optim.NAdam, {}),
    "nesterov": (
        {"solver": torch.optim.SGD, "solver_params": {"momentum": 0.9, "nesterov": True}},
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True},
    ),
}


@pytest.mark.parametrize(("schedule", "steps"), SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize(("params", "optimizer", "settings"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizers_and_schedules_are_pytorchs(params, optimizer, settings, schedule, steps):
    module, settings = modules(3), {"lr": 0.02, **settings}
    if "by_batch" in steps:
        cycle = torch.optim.lr_scheduler.OneCycleLR
        pct_start = steps["by_batch"]

        def by_batch(optimizer, total_steps):  # one more than steps are taken, as the scheduler steps after the last
            made = cycle(optimizer, 0.02, total_steps=total_steps - 1, pct_start=pct_start, cycle_momentum=False)
            return _Bounded(made, total_steps - 2)

        steps = {"by_batch": by_batch}

    def make(parameters):
        if optimizer is torch.optim.AdamW:
            return optimizer(decaying(module, settings["weight_decay"]), **settings)
        return optimizer(parameters, **settings)

    losses = train_by_hand(module, X, Y, cross_entropy, make, alpha=0.1, **steps)
    model = MLPTorchClassifier(**IN_ORDER, **params, **schedule, learning_rate_init=0.02, alpha=0.1).fit(X, Y)
    assert_is(model, module, losses)


class _Bounded:
    """A scheduler that is stepped a number of times at most."""

    def __init__(self, scheduler, n_steps):
        self.scheduler, self.n_steps = scheduler, n_steps

    def step(self):
        if self.n_steps:
            self.n_steps -= 1
            self.scheduler.step()


def test_cosine_with_a_rise_is_linear_then_cosine():
    """PyTorch's rise is by the epoch where ours is by the batch: they agree with one batch an epoch."""
    n_epochs, n_rise = 10, 4
    optimizer = sgd([nn.Parameter(torch.zeros(1))])
    scheduler = torch.optim.lr_scheduler
    both = scheduler.SequentialLR(
        optimizer,
        [
            scheduler.LinearLR(optimizer, 1 / n_rise, 1.0, n_rise - 1),
            scheduler.CosineAnnealingLR(optimizer, n_epochs - n_rise),
        ],
        [n_rise],
    )
    expected = []
    for _ in range(n_epochs):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        both.step()
    model = MLPTorchClassifier(
        **{**HERE, **PLAIN_SGD, "max_iter": n_epochs, "batch_size": N_ROWS}, learning_rate="cosine", warmup_fraction=0.4
    ).fit(X, Y)
    assert_allclose([record["learning_rate"] for record in model.history_], expected, rtol=1e-12)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("clip", [0.05, 0.5, 1e6])
@pytest.mark.parametrize("norm", [None, nn.LayerNorm])
def test_clipping_is_that_of_clip_grad_norm(norm, clip, sparse):
    module = modules(3, norm=norm)
    losses = train_by_hand(module, X, Y, cross_entropy, sgd, alpha=0.5, clip=clip)
    model = MLPTorchClassifier(
        **IN_ORDER, **PLAIN_SGD, alpha=0.5, gradient_clip_norm=clip, normalization=None if norm is None else "layer"
    )
    assert_is(model.fit(sp.csr_array(X) if sparse else X, Y), module, losses)


def test_a_planned_schedule_ends_without_a_warning(recwarn):
    for learning_rate in ("cosine", "one_cycle"):
        model = MLPTorchClassifier(**HERE, learning_rate=learning_rate).fit(X, Y)
        assert model.n_iter_ == N_EPOCHS
    assert not recwarn.list
    rates = [record["learning_rate"] for record in model.history_]
    assert rates[-1] == pytest.approx(0.001 / 25 / 1e4)


@pytest.mark.parametrize("solver", ["sgd", "adamw", torch.optim.RMSprop], ids=str)
def test_adaptive_rates_fall_at_plateaus(solver):
    model = MLPTorchClassifier(
        **{**HERE, "max_iter": 8}, solver=solver, learning_rate="adaptive", tol=100.0, n_iter_no_change=1
    ).fit(X, Y)
    rates = [record["learning_rate"] for record in model.history_]
    assert_allclose(rates, 0.001 / np.array([1, 1, 1, 5, 5, 25, 25, 125]), rtol=1e-12)


# Validation ----------------------------------------------------------------------------

JUDGED = {
    "plain": {},
    "batch": {"normalization": "batch"},
    "dropout": {"dropout": 0.4, "activation": "gelu"},
    "smooth": {"label_smoothing": 0.1},
    "function": {"loss": cross_entropy},
}


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("params", JUDGED.values(), ids=JUDGED)
def test_each_epoch_is_judged_by_the_validation_rows(params, weighted, sparse):
    weights = WEIGHTS[: len(X_VAL)] if weighted else None
    given = {"X_val": sp.csr_array(X_VAL) if sparse else X_VAL, "y_val": Y_VAL, "sample_weight_val": weights}
    model = MLPTorchClassifier(**HERE, **params).fit(X, Y, **given)
    assert model.best_validation_score_ is None
    assert model.t_ == N_EPOCHS * N_ROWS
    for n_epochs in range(1, N_EPOCHS + 1):
        then = MLPTorchClassifier(**{**HERE, "max_iter": n_epochs}, **params).fit(X, Y)
        assert then.validation_scores_ is None
        assert then.loss_curve_ == model.loss_curve_[:n_epochs]  # judging changes nothing
        truth = np.eye(3)[Y_VAL] * (1 - model.label_smoothing) + model.label_smoothing / 3
        row_losses = -(truth * then.predict_log_proba(X_VAL)).sum(1)
        assert_allclose(model.validation_loss_curve_[n_epochs - 1], np.average(row_losses, weights=weights), rtol=1e-9)
        score = accuracy_score(Y_VAL, then.predict(X_VAL), sample_weight=weights)
        assert_allclose(model.validation_scores_[n_epochs - 1], score, rtol=1e-12)


SCORINGS = {
    "classifier": [None, "loss", "accuracy", "roc_auc_ovr", "neg_log_loss", "f1_macro"],
    "regressor": [None, "loss", "r2", "neg_mean_absolute_error"],
}


@pytest.mark.parametrize("own_rows", [False, True], ids=["set aside", "X_val"])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize(("kind", "scoring"), [(kind, s) for kind, some in SCORINGS.items() for s in some])
def test_early_stopping_keeps_the_epoch_that_the_scorer_likes_best(kind, scoring, weighted, own_rows):
    params = {**HERE, "max_iter": 12, "n_iter_no_change": 3, "early_stopping": True, "learning_rate_init": 0.02}
    classifies = kind == "classifier"
    features, y, make = (X, Y, MLPTorchClassifier) if classifies else (NUMBERS_X, NUMBERS, MLPTorchRegressor)
    random_state = np.random.RandomState(0)
    initial_parameters([features.shape[1], 8, 6, 3 if classifies else 1], "relu", random_state)
    train, rest = train_test_split(np.arange(N_ROWS), random_state=random_state, test_size=0.4)
    weights = WEIGHTS if weighted else None
    given = {}
    if own_rows:
        given = {
            "X_val": features[rest],
            "y_val": y[rest],
            "sample_weight_val": None if weights is None else weights[rest],
        }
        fitted_on = features[train], y[train], None if weights is None else weights[train]
    else:
        params["validation_fraction"] = 0.4
        fitted_on = features, y, weights
    model = make(**params, scoring=scoring).fit(*fitted_on, **given)
    assert model.t_ == model.n_iter_ * len(train)
    judged = model, features[rest], y[rest]
    kwargs = {} if weights is None else {"sample_weight": weights[rest]}
    if scoring == "loss":
        predictions = model.predict_proba(features[rest]) if classifies else model.predict(features[rest])
        loss = log_loss(y[rest], predictions, **kwargs) if classifies else (1 - r2_score(y[rest], predictions))
        assert model.validation_scores_ == [-loss for loss in model.validation_loss_curve_]
        if classifies:
            assert_allclose(model.best_validation_score_, -loss, rtol=1e-9)
    else:
        scorer = get_scorer(scoring or ("accuracy" if classifies else "r2"))
        assert_allclose(model.best_validation_score_, scorer(*judged, **kwargs), rtol=1e-9)
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert model.best_n_iter_ == np.argmax(model.validation_scores_) + 1
    assert len(model.history_) == model.n_iter_


def test_a_scorer_may_be_a_function():
    seen, scores, names = [], iter([0.1, 0.7, 0.3, 0.2]), np.array(["zero", "one", "two"])

    def scorer(estimator, X, y):
        seen.append((estimator.predict(X).tolist(), estimator.predict_proba(X), list(y)))
        return next(scores)

    features = {"normalization": "batch", "dropout": 0.2}
    model = MLPTorchClassifier(**HERE, **features, early_stopping=True, scoring=scorer)
    model.fit(X, names[Y], X_val=X_VAL, y_val=names[Y_VAL])
    assert (model.best_n_iter_, model.best_validation_score_) == (2, 0.7)
    assert model.validation_scores_ == [0.1, 0.7, 0.3, 0.2]
    for n_epochs, (predicted, probabilities, y) in enumerate(seen, start=1):
        then = MLPTorchClassifier(**{**HERE, "max_iter": n_epochs}, **features).fit(X, names[Y])
        assert predicted == then.predict(X_VAL).tolist()
        assert_allclose(probabilities, then.predict_proba(X_VAL), rtol=1e-12)
        assert y == list(names[Y_VAL])
    two = MLPTorchClassifier(**{**HERE, "max_iter": 2}, **features).fit(X, names[Y])
    assert_array_equal(model.predict_proba(X), two.predict_proba(X))


def test_a_scorer_sees_the_epoch_that_it_judges():
    seen = []

    def scorer(estimator, X, y):
        seen.append((estimator.n_iter_, len(estimator.loss_curve_)))
        return 0.0

    MLPTorchClassifier(**HERE, scoring=scorer).fit(X, Y, X_val=X_VAL, y_val=Y_VAL)
    assert seen == [(n, n) for n in range(1, N_EPOCHS + 1)]


def test_a_scorer_leaves_the_threads_of_training_alone():
    seen = []

    def scorer(estimator, X, y):
        seen.append(torch.get_num_threads())
        return estimator.score(X, y)

    torch.set_num_threads(2)
    MLPTorchClassifier(**HERE, scoring=scorer).fit(X, Y, X_val=X_VAL, y_val=Y_VAL)
    assert seen == [1] * N_EPOCHS
    assert torch.get_num_threads() == 2


def test_wrong_validation_data_leave_a_fitted_model_as_it_was():
    """As wrong X and y do."""
    model = MLPTorchClassifier(**HERE).fit(X, Y)
    for wrong in ({"X": X[:, 1:], "y": Y[1:]}, {"X": X, "y": Y, "X_val": X_VAL[:, 1:], "y_val": Y_VAL}):
        with pytest.raises(ValueError, match=r"features|samples"):
            model.fit(**wrong)
        assert model.coefs_[0].shape == (64, 8)


def test_an_epoch_that_fails_leaves_rates_and_streams_as_they_were():
    n_calls = iter(range(100))

    def fails_once(logits, y):
        if next(n_calls) == 4:
            raise RuntimeError("the second batch of the second epoch")
        return cross_entropy(logits, y)

    curves = []
    for loss in (fails_once, cross_entropy):
        model = MLPTorchClassifier(**IN_ORDER, **PLAIN_SGD, learning_rate="one_cycle", dropout=0.3, loss=loss)
        model.partial_fit(X, Y, classes=[0, 1, 2])
        if loss is fails_once:
            with pytest.raises(RuntimeError):
                model.partial_fit(X, Y)
        curves.append(model.partial_fit(X, Y).loss_curve_)
    assert_allclose(*curves, rtol=1e-12)


def test_history_is_a_record_of_each_epoch():
    model = MLPTorchClassifier(**HERE, learning_rate="cosine").fit(X, Y, X_val=X_VAL, y_val=Y_VAL)
    columns = {name: [record[name] for record in model.history_] for name in model.history_[0]}
    seconds = columns.pop("seconds")
    assert min(seconds) > 0
    rates = columns.pop("learning_rate")
    assert_allclose(rates, [0.001 * (1 + np.cos(np.pi * n / N_EPOCHS)) / 2 for n in range(N_EPOCHS)], rtol=1e-12)
    assert columns == {
        "epoch": list(range(1, N_EPOCHS + 1)),
        "loss": model.loss_curve_,
        "validation_loss": model.validation_loss_curve_,
        "validation_score": model.validation_scores_,
    }


def test_validation_rows_have_the_class_weights_of_training():
    few = Y_VAL < 2
    model = MLPTorchClassifier(**HERE, class_weight="balanced").fit(X, Y, X_val=X_VAL[few], y_val=Y_VAL[few])
    by_class = compute_class_weight("balanced", classes=np.arange(3), y=Y)
    row_losses = -np.log(model.predict_proba(X_VAL[few])[np.arange(few.sum()), Y_VAL[few]])
    expected = np.average(row_losses, weights=by_class[Y_VAL[few]])
    assert_allclose(model.validation_loss_curve_[-1], expected, rtol=1e-9)


def test_class_weights_are_for_the_loss_and_leave_accuracy_alone():
    scores = [
        MLPTorchClassifier(**HERE, class_weight={0: 1.0, 1: 30.0, 2: 1.0}, scoring=scoring)
        .fit(X, Y, X_val=X_VAL, y_val=Y_VAL)
        .validation_scores_
        for scoring in (None, "accuracy")
    ]
    assert_allclose(*scores)


def test_a_mean_loss_cannot_weigh_validation_rows():
    model = MLPTorchClassifier(**HERE, loss=functional.cross_entropy)
    with pytest.raises(ValueError, match='reduction="none"'):
        model.fit(X, Y, X_val=X_VAL, y_val=Y_VAL, sample_weight_val=WEIGHTS[: len(X_VAL)])


def test_a_scorer_without_weights_may_score_weighted_rows():
    model = MLPTorchClassifier(**HERE, early_stopping=True, scoring=lambda estimator, X, y: 1.0)
    assert model.fit(X, Y, WEIGHTS).validation_scores_ == [1.0] * N_EPOCHS


@pytest.mark.parametrize("early_stopping", [False, True])
def test_partial_fit_judges_as_fit_does(early_stopping):
    params = {**IN_ORDER, "early_stopping": early_stopping, "normalization": "batch", "learning_rate_init": 0.02}
    given = {"X_val": X_VAL, "y_val": Y_VAL}
    fitted = MLPTorchClassifier(**params).fit(X, Y, **given)
    model = MLPTorchClassifier(**params)
    for _ in range(N_EPOCHS):
        model.partial_fit(X, Y, classes=[0, 1, 2], **given)
    for name in (
        "loss_curve_",
        "validation_scores_",
        "validation_loss_curve_",
        "best_validation_score_",
        "best_n_iter_",
    ):
        assert getattr(model, name) == getattr(fitted, name)


def test_pipelines_transform_validation_rows_when_told_to():
    # Rows in another unit than those of training make a trap of untransformed ones.
    features, validation = 100 * X + 7, 100 * X_VAL + 7
    scaler = StandardScaler().fit(features)
    expected = MLPTorchClassifier(**HERE).fit(
        scaler.transform(features), Y, X_val=scaler.transform(validation), y_val=Y_VAL
    )
    trapped = MLPTorchClassifier(**HERE).fit(scaler.transform(features), Y, X_val=validation, y_val=Y_VAL)
    with sklearn.config_context(enable_metadata_routing=True):
        routed = MLPTorchClassifier(**HERE).set_fit_request(X_val=True, y_val=True)
        for transform_input, model in ((["X_val"], expected), (None, trapped)):
            pipeline = make_pipeline(StandardScaler(), clone(routed), transform_input=transform_input)
            pipeline.fit(features, Y, X_val=validation, y_val=Y_VAL)
            assert_allclose(pipeline[-1].validation_loss_curve_, model.validation_loss_curve_, rtol=1e-9)
        pipeline = make_pipeline(StandardScaler(), clone(routed), transform_input=["X_val"])
        search = GridSearchCV(pipeline, {"mlptorchclassifier__alpha": [0.0, 1.0]}, cv=2)
        best = search.fit(features, Y, X_val=validation, y_val=Y_VAL).best_estimator_
        assert len(best[-1].validation_scores_) == N_EPOCHS
    assert not np.allclose(trapped.validation_loss_curve_, expected.validation_loss_curve_)


# Going on ------------------------------------------------------------------------------

CONTINUED = {
    "dropout": {"dropout": [0.3, 0.5]},
    "batch": {"normalization": "batch", "solver": "sgd"},
    "layer": {"normalization": "layer"},
    "adamw": {"solver": "adamw"},
    "RMSprop": {"solver": torch.optim.RMSprop, "solver_params": {"momentum": 0.5, "centered": True}},
    "Adam of PyTorch": {"solver": torch.optim.Adam, "solver_params": {"amsgrad": True}},
    "cosine": {"learning_rate": "cosine", "warmup_fraction": 0.5},
    "one_cycle": {"learning_rate": "one_cycle", "solver": "sgd"},
    "one_cycle of RMSprop": {"learning_rate": "one_cycle", "solver": torch.optim.RMSprop},
    "functions": {"activation": (functional.softplus, "gelu"), "loss": cross_entropy},
    "clip, smooth, weights": {"gradient_clip_norm": 0.1, "label_smoothing": 0.1, "class_weight": {0: 2, 1: 1, 2: 1}},
    "weight_init": {"weight_init": "orthogonal"},
}


def _pickled(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("between", [lambda model: model, _pickled, copy.deepcopy], ids=["", "pickle", "deepcopy"])
@pytest.mark.parametrize("params", CONTINUED.values(), ids=CONTINUED)
def test_epochs_one_by_one_are_a_fit(params, between):
    fitted = MLPTorchClassifier(**IN_ORDER, **params).fit(X, Y)
    model = MLPTorchClassifier(**IN_ORDER, **params)
    for _ in range(N_EPOCHS):
        before, model = model, between(model.partial_fit(X, Y, classes=[0, 1, 2]))
        if before is not model:
            assert_array_equal(model.predict_proba(X), before.predict_proba(X))
            before.partial_fit(X, Y)  # a copy has streams and moments of its own
    assert_allclose(model.loss_curve_, fitted.loss_curve_, rtol=1e-12)
    assert_allclose(model.predict_proba(X), fitted.predict_proba(X), rtol=1e-10)
    rates = [[record["learning_rate"] for record in m.history_] for m in (model, fitted)]
    assert rates[0] == rates[1]


@pytest.mark.parametrize("params", [{"normalization": "batch"}, {"normalization": "layer", "dropout": 0.3}], ids=str)
def test_a_warm_start_goes_on(params):
    """Plain gradient descent has nothing but weights, running means and masks to go on from."""
    own = {**IN_ORDER, **PLAIN_SGD, **params}
    model = MLPTorchClassifier(**{**own, "max_iter": 2}, warm_start=True).fit(X, Y).fit(X, Y)
    assert_allclose(model.predict_proba(X), MLPTorchClassifier(**own).fit(X, Y).predict_proba(X), rtol=1e-12)
    with pytest.raises(ValueError, match=r"normalization='\w+'.* warm_start=False"):
        model.set_params(normalization=None).fit(X, Y)


def test_a_planned_rate_keeps_its_last_value():
    model = MLPTorchClassifier(**IN_ORDER, learning_rate="cosine")
    for _ in range(N_EPOCHS + 2):
        model.partial_fit(X, Y, classes=[0, 1, 2])
    rates = [record["learning_rate"] for record in model.history_]
    assert rates[N_EPOCHS:] == [rates[N_EPOCHS - 1]] * 2


@pytest.mark.parametrize("params", [p for p in CONTINUED.values() if "loss" not in p], ids=str)
def test_a_clone_fits_alike(params):
    model = MLPTorchClassifier(**HERE, **params)
    assert_array_equal(clone(model).fit(X, Y).predict_proba(X), model.fit(X, Y).predict_proba(X))


def test_global_streams_are_left_alone():
    numpys, torchs = np.random.mtrand._rand.get_state()[1].copy(), torch.get_rng_state()
    MLPTorchClassifier(**HERE, dropout=0.5, weight_init="torch").fit(X, Y)
    assert_array_equal(np.random.mtrand._rand.get_state()[1], numpys)
    assert torch.equal(torch.get_rng_state(), torchs)


# Precision -----------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("params", [{}, {"normalization": "batch"}, {"dropout": 0.3}], ids=str)
def test_bfloat16_rounds_products_and_nothing_else(params, sparse):
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("no bfloat16 on this processor")
    features = sp.csr_array(X) if sparse else X
    model = MLPTorchClassifier(**HERE, **params, dtype="bfloat16").fit(features, Y)
    expected = MLPTorchClassifier(**HERE, **params, dtype="float32").fit(features, Y)
    assert {array.dtype for array in model.coefs_ + model.intercepts_} == {np.dtype(np.float32)}
    # Operands have 8 bits.
    assert_allclose(model.loss_curve_, expected.loss_curve_, rtol=2**-7)
    assert model.loss_curve_ != expected.loss_curve_
    exact = torch.softmax(model.module_.double()(torch.from_numpy(X)), 1).detach()
    assert_allclose(model.predict_proba(X), exact, rtol=1e-4)


# Bad input -----------------------------------------------------------------------------

WRONG = {
    "a class as loss": ({"loss": nn.CrossEntropyLoss}, ValueError, "instance"),
    "batch norm of single rows": ({"normalization": "batch", "batch_size": 1}, ValueError, "'layer'"),
    "dropout of 1": ({"dropout": 1.0}, InvalidParameterError, "dropout"),
    "dropout in text": ({"dropout": ["0.1", "0.1"]}, InvalidParameterError, r"dropout must be in \[0, 1\)"),
    "too few rates": ({"dropout": [0.1]}, ValueError, "dropout=.* has 1 values, but there are 2 hidden layers"),
    "too few activations": ({"activation": ["relu"]}, InvalidParameterError, "has 1 values, but there are 2"),
    "unknown activation": ({"activation": "swish"}, InvalidParameterError, "activation"),
    "unknown activation of a layer": ({"activation": ["relu", "swish"]}, InvalidParameterError, "swish.* Use one of"),
    "not elementwise": ({"activation": partial(torch.softmax, dim=-1)}, InvalidParameterError, "not elementwise"),
    "fails": ({"activation": partial(torch.softmax, dim=5)}, InvalidParameterError, "cannot be applied"),
    "with parameters": ({"activation": nn.PReLU()}, InvalidParameterError, "parameters, which would not be trained"),
    "a class of modules": ({"activation": nn.ReLU}, InvalidParameterError, "must be a name"),
    "unknown normalization": ({"normalization": "group"}, InvalidParameterError, "normalization"),
    "unknown init": ({"weight_init": "he"}, InvalidParameterError, "he_normal.*got 'he'"),
    "init without std": ({"weight_init": ("normal",)}, InvalidParameterError, "weight_init must be"),
    "no optimiser": ({"solver": dict}, ValueError, "class of torch.optim"),
    "torch's lbfgs": ({"solver": torch.optim.LBFGS}, ValueError, "Use solver='lbfgs'"),
    "params of a name": ({"solver_params": {"momentum": 0.5}}, ValueError, "parameters of their own"),
    "lr": ({"solver": torch.optim.SGD, "solver_params": {"lr": 1.0}}, ValueError, "learning_rate_init"),
    "warmup": ({"warmup_fraction": 1.0}, InvalidParameterError, "warmup_fraction"),
    "clip": ({"gradient_clip_norm": 0.0}, InvalidParameterError, "gradient_clip_norm"),
    "smoothing": ({"label_smoothing": 1.0}, InvalidParameterError, "label_smoothing"),
    "smoothing of a function": ({"label_smoothing": 0.1, "loss": cross_entropy}, ValueError, "label_smoothing"),
    "loss by name": ({"loss": "hinge"}, InvalidParameterError, "loss"),
    "loss of the wrong shape": ({"loss": lambda p, y: p.mean(0)}, ValueError, 'pass reduction="none"'),
    "loss of a constant": ({"loss": lambda p, y: torch.zeros(len(p))}, ValueError, "made from the predictions"),
    "scoring": ({"scoring": "acuracy", "early_stopping": True}, ValueError, "get_scorer_names"),
    "class_weight of no class": ({"class_weight": {7: 2.0}}, ValueError, r"\[0 1 2\]|\[np.int64\(0\)|class_weight"),
    "lbfgs, dropout": ({"solver": "lbfgs", "dropout": 0.1}, ValueError, "Use a stochastic solver"),
    "lbfgs, batch": ({"solver": "lbfgs", "normalization": "batch"}, ValueError, "Use a stochastic solver"),
    "lbfgs, clip": ({"solver": "lbfgs", "gradient_clip_norm": 1.0}, ValueError, "Use a stochastic solver"),
    "lbfgs, bfloat16": ({"solver": "lbfgs", "dtype": "bfloat16"}, ValueError, "Use a stochastic solver"),
    "quiet scoring": ({"scoring": "acuracy"}, ValueError, "acuracy"),
    "negative std": ({"weight_init": ("normal", -1.0)}, InvalidParameterError, "weight_init"),
    "no optimiser but its base": ({"solver": torch.optim.Optimizer}, ValueError, "class of torch.optim"),
    "unknown solver_params": ({"solver": torch.optim.SGD, "solver_params": {"mu": 1}}, ValueError, "solver_params"),
    "no layers, no activations": ({"hidden_layer_sizes": (), "activation": []}, None, None),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_parameters_are_named(name):
    params, error, match = WRONG[name]
    model = MLPTorchClassifier(**{**HERE, **params})
    if error is None:
        assert model.fit(X, Y).n_layers_ == 2
        return
    with pytest.raises(error, match=match):
        model.fit(X, Y)


MULTILABEL_VAL = np.stack([Y_VAL > 0, Y_VAL == 1, Y_VAL == 2], 1).astype(int)
WRONG_VALIDATION = {
    "no y_val": (Y, {"X_val": X_VAL}, "X_val is provided, but y_val"),
    "no X_val": (Y, {"y_val": Y_VAL}, "y_val is provided, but X_val"),
    "weights alone": (Y, {"sample_weight_val": WEIGHTS}, "sample_weight_val is provided"),
    "other lengths": (Y, {"X_val": X_VAL, "y_val": Y_VAL[1:]}, "inconsistent numbers of samples"),
    "weights of another length": (Y, {"X_val": X_VAL, "y_val": Y_VAL, "sample_weight_val": WEIGHTS}, "sample_weight"),
    "other features": (Y, {"X_val": X_VAL[:, 1:], "y_val": Y_VAL}, "63 features"),
    "nan": (Y, {"X_val": np.where(X_VAL, X_VAL, np.nan), "y_val": Y_VAL}, "NaN"),
    "unknown class": (Y, {"X_val": X_VAL, "y_val": Y_VAL + 1}, r"y_val has classes \[3\], which y does not have"),
    "unknown class, class_weight": (
        Y,
        {"X_val": X_VAL, "y_val": Y_VAL + 1, "class_weight": {0: 1.0}},
        r"y_val has classes \[3\]",
    ),
    "multilabel for multiclass": (Y, {"X_val": X_VAL, "y_val": MULTILABEL_VAL}, "y_val"),
    "multiclass for multilabel": (LABELS, {"X_val": X_VAL, "y_val": Y_VAL}, "y_val"),
    "one of three labels": (LABELS, {"X_val": X_VAL, "y_val": MULTILABEL_VAL[:, :1]}, "y_val"),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")
@pytest.mark.parametrize("name", WRONG_VALIDATION)
def test_wrong_validation_data_are_named(name):
    y, given, match = WRONG_VALIDATION[name]
    given = dict(given)
    model = MLPTorchClassifier(**HERE, class_weight=given.pop("class_weight", None))
    with pytest.raises(ValueError, match=match):
        model.fit(X, y, **given)


def test_other_wrong_calls_are_named():
    with pytest.raises(ValueError, match="X_val and y_val are not used by solver='lbfgs'"):
        MLPTorchClassifier(solver="lbfgs").fit(X, Y, X_val=X_VAL, y_val=Y_VAL)
    with pytest.raises(ValueError, match="Pass X_val and y_val"):
        MLPTorchClassifier(early_stopping=True).partial_fit(X, Y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="compute_class_weight and pass them as a dict"):
        MLPTorchClassifier(class_weight="balanced").partial_fit(X, Y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="y_val has 2 columns, but y has 1"):
        MLPTorchRegressor(**HERE).fit(X, NUMBERS, X_val=X, y_val=TWO_NUMBERS)
    with pytest.raises(ValueError, match="without weights their mean"):
        MLPTorchClassifier(**HERE, loss=functional.cross_entropy).fit(X, Y, WEIGHTS)
    for quantile in (0, 1.0):
        with pytest.raises(InvalidParameterError, match="quantile"):
            MLPTorchRegressor("quantile", quantile=quantile).fit(X, NUMBERS)


def test_multilabel_class_weights_agree_with_scikit_learns_sample_weights():
    class_weight = CLASS_WEIGHTS["multilabel"][1]
    weights = compute_sample_weight(class_weight, LABELS)
    expected = MLPTorchClassifier(**HERE).fit(X, LABELS, weights)
    model = MLPTorchClassifier(**HERE, class_weight=class_weight).fit(X, LABELS)
    assert_array_equal(model.predict_proba(X), expected.predict_proba(X))
