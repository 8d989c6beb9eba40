"""What the parameters of an estimator stand for: checked values, schedules, solvers, initial weights."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.metrics import get_scorer
from sklearn.utils._param_validation import InvalidParameterError

from ._activations import ActivationLike, check_activations
from ._initialisation import WEIGHT_INITS
from ._network import per_hidden_layer
from ._schedules import Adaptive, Cosine, InverseScaling, OneCycle, Schedule
from ._solvers import SGD, Adam, AdamW, Solver, TorchOptimizer


def hidden_layer_sizes(estimator: Any) -> list[int]:
    """Units of each hidden layer.

    Raises
    ------
    ValueError, TypeError
        If one is not a positive integer.
    """
    sizes = estimator.hidden_layer_sizes
    sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
    if np.any(np.array(sizes) <= 0):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    if any(isinstance(size, bool) or not isinstance(size, Integral) for size in sizes):
        raise TypeError(f"hidden_layer_sizes must be integers, got {sizes}.")
    return [int(size) for size in sizes]


def activations(estimator: Any, n_hidden: int) -> tuple[ActivationLike, ...]:
    """The activation of each hidden layer."""
    try:
        chosen = _one_per_layer("activation", estimator.activation, n_hidden)
        check_activations(chosen or per_hidden_layer(estimator.activation, 1))
    except (ValueError, TypeError) as error:
        raise InvalidParameterError(str(error)) from error
    return chosen


def dropout_rates(estimator: Any, n_hidden: int) -> tuple[float, ...]:
    """The probability with which units of each hidden layer are dropped."""
    rates = estimator.dropout
    rates = _one_per_layer("dropout", rates if isinstance(rates, Real) else list(rates), n_hidden)
    if not all(isinstance(rate, Real) and 0 <= float(rate) < 1 for rate in rates):
        raise InvalidParameterError(f"dropout must be in [0, 1), got {estimator.dropout!r}.")
    return tuple(map(float, rates))


def _one_per_layer(name: str, value: Any, n_hidden: int) -> tuple[Any, ...]:
    values = per_hidden_layer(value, n_hidden)
    if len(values) != n_hidden:
        raise ValueError(f"{name}={value!r} has {len(values)} values, but there are {n_hidden} hidden layers.")
    return values


def weight_init(estimator: Any) -> str | tuple[str, float]:
    """How initial weights are drawn.

    Raises
    ------
    InvalidParameterError
        If it is neither a name nor ("normal", std).
    """
    value = estimator.weight_init
    if isinstance(value, str) and (value == "auto" or value in WEIGHT_INITS):
        return value
    if isinstance(value, tuple | list) and len(value) == 2 and value[0] == "normal" and _is_std(value[1]):
        return "normal", float(value[1])
    names = ["auto", *WEIGHT_INITS]
    raise InvalidParameterError(f"weight_init must be one of {names} or ('normal', std), got {value!r}.")


def _is_std(value: Any) -> bool:
    return isinstance(value, Real) and 0 < float(value) < math.inf


class Settings(NamedTuple):
    """Parameters that make the network, checked."""

    hidden_layer_sizes: list[int]
    activations: tuple[ActivationLike, ...]
    dropout: tuple[float, ...]
    weight_init: str | tuple[str, float]


def check(estimator: Any) -> Settings:
    """Check all that the declared constraints of parameters do not.

    Raises
    ------
    ValueError, TypeError
    """
    _check_combinations(estimator)
    sizes = hidden_layer_sizes(estimator)
    n_hidden = len(sizes)
    return Settings(sizes, activations(estimator, n_hidden), dropout_rates(estimator, n_hidden), weight_init(estimator))


def _check_combinations(estimator: Any) -> None:
    """Raise where a parameter would have no effect that its user counts on.

    Raises
    ------
    ValueError
    """
    uses_class = isinstance(estimator.solver, type)
    if uses_class:
        _check_optimizer_class(estimator)
    elif estimator.solver_params:
        raise ValueError(
            f"solver_params={estimator.solver_params!r} are for a class of torch.optim, but solver is "
            f"{estimator.solver!r}. Its settings have parameters of their own."
        )
    if estimator.weight_decay != "auto" and estimator.solver != "adamw":
        other = "solver_params={'weight_decay': ...}" if uses_class else "alpha, or solver='adamw'"
        raise ValueError(f"weight_decay={estimator.weight_decay!r} is for solver='adamw' alone. Use {other}.")
    if estimator.warmup_fraction != "auto" and not follows_plan(estimator):
        raise ValueError(
            f"warmup_fraction={estimator.warmup_fraction!r} is for learning_rate='cosine' or 'one_cycle', not "
            f"{estimator.learning_rate!r}."
        )
    if isinstance(estimator.scoring, str) and estimator.scoring != "loss":
        get_scorer(estimator.scoring)  # unknown names are errors also where nothing is scored
    if isinstance(estimator.loss, type):
        raise ValueError(f"loss={estimator.loss.__name__} is a class. Use an instance of it, or a function.")
    if estimator.normalization == "batch" and estimator.batch_size == 1:
        raise ValueError("normalization='batch' needs batches of more than one row. Use normalization='layer'.")
    for callback in estimator.callbacks or ():
        _check_callback(callback)
    if estimator.solver == "lbfgs":
        _check_lbfgs(estimator)


def _check_callback(callback: Any) -> None:
    own = callback[1] if isinstance(callback, tuple) and len(callback) == 2 else callback
    if not hasattr(own, "on_epoch_end"):
        raise TypeError(
            f"callbacks are skorch's, or pairs of a name and one, but got {callback!r}. Those of scikit-learn, and of "
            "sktorch_mlp.callbacks, are set by set_callbacks."
        )


def _check_optimizer_class(estimator: Any) -> None:
    solver, params = estimator.solver, estimator.solver_params or {}
    if not issubclass(solver, torch.optim.Optimizer) or solver is torch.optim.Optimizer:
        raise ValueError(f"solver must be a name or a class of torch.optim, got {solver!r}.")
    if issubclass(solver, torch.optim.LBFGS | torch.optim.SparseAdam):
        raise ValueError(f"solver={solver.__name__} cannot be used. Use solver='lbfgs' or another class.")
    if "lr" in params:
        raise ValueError("Give the learning rate as learning_rate_init, not as solver_params['lr'].")
    weight_and_bias = [torch.nn.Parameter(torch.zeros(1, 1)), torch.nn.Parameter(torch.zeros(1))]
    try:
        solver(weight_and_bias, lr=estimator.learning_rate_init, **params)
    except TypeError as error:
        raise ValueError(f"solver_params={params!r} do not suit {solver.__name__}: {error}") from error


def _check_lbfgs(estimator: Any) -> None:
    unusable = {
        "dropout": np.any(estimator.dropout),
        "normalization": estimator.normalization == "batch",
        "gradient_clip_norm": estimator.gradient_clip_norm is not None,
        "dtype": estimator.dtype == "bfloat16",
        "callbacks": bool(estimator.callbacks),
    }
    for name, is_used in unusable.items():
        if is_used:
            raise ValueError(
                f"{name}={getattr(estimator, name)!r} cannot be used with solver='lbfgs', which sees all rows at once. "
                "Use a stochastic solver, such as 'adam'."
            )


def new_schedule(estimator: Any) -> Schedule:
    """The learning rates of a fit."""
    rate, name = estimator.learning_rate_init, estimator.learning_rate
    warmup = estimator.warmup_fraction
    if name == "cosine":
        return Cosine(rate, estimator.max_iter, 0.0 if warmup == "auto" else warmup)
    if name == "one_cycle":
        return OneCycle(rate, estimator.max_iter, 0.3 if warmup == "auto" else warmup)
    if estimator.solver == "adam" or name == "constant":  # Adam adapts by itself; scikit-learn's takes no other
        return Schedule(rate)
    return InverseScaling(rate, estimator.power_t) if name == "invscaling" else Adaptive(rate)


def new_solver(estimator: Any, schedule: Schedule) -> Solver:
    """The update rule of a fit."""
    if isinstance(estimator.solver, type):
        return TorchOptimizer([schedule], estimator.solver, dict(estimator.solver_params or {}))
    if estimator.solver == "sgd":
        return SGD([schedule], [estimator.momentum], estimator.nesterovs_momentum)
    settings = [estimator.beta_1], [estimator.beta_2], [estimator.epsilon]
    if estimator.solver == "adamw":
        return AdamW([schedule], *settings, [0.01 if estimator.weight_decay == "auto" else estimator.weight_decay])
    return Adam([schedule], *settings)


def follows_plan(estimator: Any) -> bool:
    """Whether the learning rates are planned for `max_iter` epochs, at whose end training is done."""
    return estimator.learning_rate in ("cosine", "one_cycle")


def clip_norm(estimator: Any) -> float:
    """The largest norm of a gradient."""
    return math.inf if estimator.gradient_clip_norm is None else float(estimator.gradient_clip_norm)
