"""Optimizers, schedules and clipping beyond scikit-learn's, against those of PyTorch."""

from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch.optim import lr_scheduler

from sktorch_mlp import MLPTorchClassifier
from tests.estimators.by_hand import (
    BATCH_SIZE,
    IN_ORDER,
    N_EPOCHS,
    N_ROWS,
    PARAMS,
    PLAIN_SGD,
    X,
    Y,
    assert_learned_as,
    cross_entropy,
    modules,
    sgd,
    train_by_hand,
)
from tests.pairwise import pairwise

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")

RATE = 0.02


class Bounded:
    """A scheduler that is stepped a number of times at most."""

    def __init__(self, scheduler, n_steps):
        self.scheduler, self.n_steps = scheduler, n_steps

    def step(self):
        if self.n_steps:
            self.n_steps -= 1
            self.scheduler.step()


def one_cycle(optimizer, pct_start):
    """PyTorch's OneCycleLR, which starts at the first rate and so is stepped once less than the optimizer."""
    n_steps = -(-N_ROWS // BATCH_SIZE) * N_EPOCHS
    scheduler = lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=n_steps, pct_start=pct_start, cycle_momentum=False)
    return Bounded(scheduler, n_steps - 1)


# name: our parameters, and what steps the rate of PyTorch's optimizer
SCHEDULES = {
    "constant": ({}, {}),
    "cosine": ({"learning_rate": "cosine"}, {"by_epoch": partial(lr_scheduler.CosineAnnealingLR, T_max=N_EPOCHS)}),
    "one_cycle": ({"learning_rate": "one_cycle"}, {"by_batch": partial(one_cycle, pct_start=0.3)}),
    "one_cycle, long rise": (
        {"learning_rate": "one_cycle", "warmup_fraction": 0.6},
        {"by_batch": partial(one_cycle, pct_start=0.6)},
    ),
}
# name: our parameters, PyTorch's optimizer and its settings
OPTIMIZERS = {
    "sgd": ({"solver": "sgd", "momentum": 0.0}, torch.optim.SGD, {}),
    "adamw": ({"solver": "adamw", "weight_decay": 0.3}, torch.optim.AdamW, {"weight_decay": 0.3}),
    "adamw, defaults": ({"solver": "adamw"}, torch.optim.AdamW, {"weight_decay": 0.01}),
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


def decaying(module, weight_decay):
    """Parameter groups: PyTorch's AdamW decays what it is told to; here weights of Linear alone."""
    weights = [layer.weight for layer in module if isinstance(layer, nn.Linear)]
    others = [p for p in module.parameters() if all(p is not weight for weight in weights)]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers_and_schedules_are_pytorchs(optimizer, schedule):
    (params, class_, settings), (schedule_params, steps) = OPTIMIZERS[optimizer], SCHEDULES[schedule]
    module = modules(3)

    def make(parameters):
        if class_ is torch.optim.AdamW:
            parameters = decaying(module, settings["weight_decay"])
        return class_(parameters, **{"lr": RATE, **settings})

    losses = train_by_hand(module, X, Y, cross_entropy, make, alpha=0.1, **steps)
    model = MLPTorchClassifier(**IN_ORDER, **params, **schedule_params, learning_rate_init=RATE, alpha=0.1).fit(X, Y)
    assert_learned_as(model, module, losses)


def test_the_default_decay_is_pytorchs():
    (parameter,) = torch.optim.AdamW([nn.Parameter(torch.zeros(1))]).param_groups
    assert OPTIMIZERS["adamw, defaults"][2]["weight_decay"] == parameter["weight_decay"]


def rates_of(model):
    return [record["learning_rate"] for record in model.history_]


# PyTorch before 2.7 warns of its own call.
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")
def test_cosine_with_a_rise_is_linear_then_cosine():
    """PyTorch's rise is by the epoch where ours is by the batch: they agree with one batch an epoch."""
    n_epochs, n_rise = 10, 4
    optimizer = sgd([nn.Parameter(torch.zeros(1))])
    both = lr_scheduler.SequentialLR(
        optimizer,
        [
            lr_scheduler.LinearLR(optimizer, 1 / n_rise, 1.0, n_rise - 1),
            lr_scheduler.CosineAnnealingLR(optimizer, n_epochs - n_rise),
        ],
        [n_rise],
    )
    expected = []
    for _ in range(n_epochs):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        both.step()
    params = {**PARAMS, **PLAIN_SGD, "max_iter": n_epochs, "batch_size": N_ROWS}
    model = MLPTorchClassifier(**params, learning_rate="cosine", warmup_fraction=0.4).fit(X, Y)
    assert_allclose(rates_of(model), expected, rtol=1e-12)


def test_a_planned_schedule_ends_without_a_warning(recwarn):
    for learning_rate in ("cosine", "one_cycle"):
        model = MLPTorchClassifier(**PARAMS, learning_rate=learning_rate).fit(X, Y)
        assert model.n_iter_ == N_EPOCHS
    assert not recwarn.list
    assert rates_of(model)[-1] == pytest.approx(0.001 / 25 / 1e4)


def test_a_planned_schedule_is_not_ended_by_a_plateau():
    params = {**PARAMS, "max_iter": 12, "tol": 100.0, "n_iter_no_change": 1}
    assert MLPTorchClassifier(**params, learning_rate="cosine").fit(X, Y).n_iter_ == 12
    assert MLPTorchClassifier(**params, learning_rate="cosine", early_stopping=True).fit(X, Y).n_iter_ < 12
    assert MLPTorchClassifier(**params).fit(X, Y).n_iter_ < 12


@pytest.mark.parametrize("solver", ["sgd", "adamw", torch.optim.RMSprop], ids=["sgd", "adamw", "RMSprop"])
def test_adaptive_rates_fall_at_plateaus(solver):
    params = {**PARAMS, "max_iter": 8, "tol": 100.0, "n_iter_no_change": 1}
    model = MLPTorchClassifier(**params, solver=solver, learning_rate="adaptive").fit(X, Y)
    assert_allclose(rates_of(model), 0.001 / np.array([1, 1, 1, 5, 5, 25, 25, 125]), rtol=1e-12)


# Clipping ------------------------------------------------------------------------------

NORMS = {"": (None, None), "layer norm": ("layer", nn.LayerNorm)}
FORMATS = {"dense": np.asarray, "sparse": sp.csr_array}


@pytest.mark.parametrize(("clip", "norm", "format_"), pairwise([0.05, 0.5, 1e6], NORMS, FORMATS))
def test_clipping_is_that_of_clip_grad_norm(clip, norm, format_):
    normalization, made_of = NORMS[norm]
    module = modules(3, norm=made_of)
    losses = train_by_hand(module, X, Y, cross_entropy, sgd, alpha=0.5, clip=clip)
    params = {**IN_ORDER, **PLAIN_SGD, "gradient_clip_norm": clip, "normalization": normalization}
    model = MLPTorchClassifier(**params, alpha=0.5).fit(FORMATS[format_](X), Y)
    assert_learned_as(model, module, losses)
