"""Parameters of the estimators: their constraints, checks across parameters, and the schedules and optimizers they name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from numbers import Integral, Real
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.metrics import get_scorer

from sktorch_mlp._nn.activations import ACTIVATIONS, ActivationLike, check_activations
from sktorch_mlp._nn.initialization import WEIGHT_INITS
from sktorch_mlp._nn.network import per_hidden_layer
from sktorch_mlp._training.adam import Adam, AdamW
from sktorch_mlp._training.optimizers import SGD, Optimizer, TorchOptimizer
from sktorch_mlp._training.schedules import Adaptive, Cosine, InverseScaling, OneCycle, Schedule

from .compat import Interval, InvalidParameterError, Options, StrOptions

CONSTRAINTS: dict[str, list[Any]] = {
    "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
    "activation": [StrOptions(set(ACTIVATIONS)), callable, list, tuple],
    "solver": [StrOptions({"lbfgs", "sgd", "adam", "adamw"}), type],
    "alpha": [Interval(Real, 0, None, closed="left")],
    "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    "learning_rate": [StrOptions({"constant", "invscaling", "adaptive", "cosine", "one_cycle"})],
    "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
    "power_t": [Interval(Real, 0, None, closed="left")],
    "max_iter": [Interval(Integral, 1, None, closed="left")],
    "shuffle": ["boolean", StrOptions({"blocks"})],
    "random_state": ["random_state"],
    "tol": [Interval(Real, 0, None, closed="left")],
    "verbose": ["verbose"],
    "warm_start": ["boolean"],
    "momentum": [Interval(Real, 0, 1, closed="both")],
    "nesterovs_momentum": ["boolean"],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="left")],
    "beta_1": [Interval(Real, 0, 1, closed="left")],
    "beta_2": [Interval(Real, 0, 1, closed="left")],
    "epsilon": [Interval(Real, 0, None, closed="neither")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
    "max_fun": [Interval(Integral, 1, None, closed="left")],
    "device": [str, torch.device],
    "dtype": [StrOptions({"auto", "float32", "float64", "bfloat16"})],
    "dropout": [Interval(Real, 0, 1, closed="left"), "array-like"],
    "normalization": [StrOptions({"batch", "layer"}), None],
    "weight_init": [str, tuple, list],
    "weight_decay": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
    "solver_params": [dict, None],
    "warmup_fraction": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="left")],
    "gradient_clip_norm": [Interval(Real, 0, None, closed="neither"), None],
    "scoring": [str, callable, None],
    "callbacks": [list, tuple, None],
}


@dataclass(eq=False, repr=False, kw_only=True)
class MLPParameters:
    """Parameters of both estimators, with their defaults."""

    loss: str | Callable[..., Any]
    hidden_layer_sizes: int | Sequence[int] = (100,)
    activation: ActivationLike | Sequence[ActivationLike] = "relu"
    solver: str | type[torch.optim.Optimizer] = "adam"
    alpha: float = 0.0001
    batch_size: int | str = "auto"
    learning_rate: str = "constant"
    learning_rate_init: float = 0.001
    power_t: float = 0.5
    max_iter: int = 200
    shuffle: bool | str = True
    random_state: int | np.random.RandomState | None = None
    tol: float = 1e-4
    verbose: bool = False
    warm_start: bool = False
    momentum: float = 0.9
    nesterovs_momentum: bool = True
    early_stopping: bool = False
    validation_fraction: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    n_iter_no_change: float = 10
    max_fun: int = 15000
    device: str | torch.device = "auto"
    dtype: str = "auto"
    dropout: float | Sequence[float] = 0.0
    normalization: str | None = None
    weight_init: str | tuple[str, float] = "auto"
    weight_decay: float | str = "auto"
    solver_params: dict[str, Any] | None = None
    warmup_fraction: float | str = "auto"
    gradient_clip_norm: float | None = None
    scoring: str | Callable[..., Any] | None = None
    callbacks: Sequence[Any] | None = None


class Architecture(NamedTuple):
    """Checked parameters that make the network."""

    hidden_layer_sizes: tuple[int, ...]
    activations: tuple[ActivationLike, ...]
    dropout: tuple[float, ...]
    weight_init: str | tuple[str, float]


def check_parameters(params: MLPParameters) -> Architecture:
    """Check all that the declared constraints do not.

    Raises
    ------
    ValueError, TypeError
    """
    _check_combinations(params)
    sizes = check_layer_sizes(params.hidden_layer_sizes)
    n_hidden = len(sizes)
    return Architecture(sizes, activations(params, n_hidden), dropout_rates(params, n_hidden), weight_init(params))


def check_layer_sizes(sizes: Any) -> tuple[int, ...]:
    """Units of each hidden layer, given one number or several.

    Raises
    ------
    ValueError, TypeError
        If one is not a positive integer.
    """
    sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
    if not all(isinstance(size, Real) for size in sizes):
        raise TypeError(f"hidden_layer_sizes must be integers, got {sizes}.")
    if np.any(np.array(sizes) <= 0):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    if any(isinstance(size, bool) or not isinstance(size, Integral) for size in sizes):
        raise TypeError(f"hidden_layer_sizes must be integers, got {sizes}.")
    return tuple(int(size) for size in sizes)


def activations(params: MLPParameters, n_hidden: int) -> tuple[ActivationLike, ...]:
    """Activation of each hidden layer.

    Raises
    ------
    InvalidParameterError
    """
    try:
        layers = _one_per_layer("activation", params.activation, n_hidden)
        check_activations(layers or per_hidden_layer(params.activation, 1))
    except (ValueError, TypeError) as error:
        raise InvalidParameterError(str(error)) from error
    return layers


def fitted_activations(params: MLPParameters, n_hidden: int) -> tuple[ActivationLike, ...]:
    """Activation of each hidden layer of a fitted network, with few checks: parameters may have been set since.

    Raises
    ------
    InvalidParameterError
    """
    layers = _one_per_layer("activation", params.activation, n_hidden)
    try:  # functions are only called with units
        check_activations(layer for layer in layers if isinstance(layer, type) or not callable(layer))
    except (ValueError, TypeError) as error:
        raise InvalidParameterError(str(error)) from error
    return layers


def check_hidden_layers(params: dict[str, Any], n_hidden: int) -> None:
    """Check the parameters that predictions and `module_` read, for as many hidden layers as were fitted.

    Raises
    ------
    InvalidParameterError
    """
    as_attributes: Any = SimpleNamespace(**{"activation": "relu", "dropout": 0.0} | params)
    activations(as_attributes, n_hidden)
    dropout_rates(as_attributes, n_hidden)


def dropout_rates(params: MLPParameters, n_hidden: int) -> tuple[float, ...]:
    """Probability with which units of each hidden layer are dropped.

    Raises
    ------
    InvalidParameterError
    """
    rates: Any = params.dropout
    with suppress(TypeError):  # one number
        rates = list(rates)
    rates = _one_per_layer("dropout", rates, n_hidden)
    if not all(isinstance(rate, Real) and 0 <= float(rate) < 1 for rate in rates):
        raise InvalidParameterError(f"dropout must be in [0, 1), got {params.dropout!r}.")
    return tuple(map(float, rates))


def _one_per_layer(name: str, value: Any, n_hidden: int) -> tuple[Any, ...]:
    values = per_hidden_layer(value, n_hidden)
    if len(values) != n_hidden:
        raise InvalidParameterError(
            f"{name}={value!r} has {len(values)} values, but there are {n_hidden} hidden layers. Set one value for all of "
            "them, or one for each; after a fit, for each that was fitted."
        )
    return values


def weight_init(params: MLPParameters) -> str | tuple[str, float]:
    """Distribution of the initial weights.

    Raises
    ------
    InvalidParameterError
        If it is neither a name nor ("normal", std).
    """
    value: Any = params.weight_init
    if isinstance(value, str) and (value == "auto" or value in WEIGHT_INITS):
        return value
    if isinstance(value, tuple | list) and len(value) == 2 and value[0] == "normal" and _is_std(value[1]):
        return "normal", float(value[1])
    names = ["auto", *WEIGHT_INITS]
    raise InvalidParameterError(f"weight_init must be one of {names} or ('normal', std), got {value!r}.")


def _is_std(value: Any) -> bool:
    return isinstance(value, Real) and 0 < float(value) < math.inf


def _check_combinations(params: MLPParameters) -> None:
    """Raise where a parameter would have no effect that its user counts on.

    Raises
    ------
    ValueError
    """
    uses_class = isinstance(params.solver, type)
    if uses_class:
        _check_optimizer_class(params)
    elif params.solver_params:
        raise ValueError(
            f"solver_params={params.solver_params!r} are for a class of torch.optim, but solver is "
            f"{params.solver!r}. Its settings have parameters of their own."
        )
    if params.weight_decay != "auto" and params.solver != "adamw":
        remedy = "solver_params={'weight_decay': ...}" if uses_class else "alpha, or solver='adamw'"
        raise ValueError(f"weight_decay={params.weight_decay!r} is for solver='adamw' alone. Use {remedy}.")
    if params.warmup_fraction != "auto" and not has_planned_schedule(params):
        raise ValueError(
            f"warmup_fraction={params.warmup_fraction!r} is for learning_rate='cosine' or 'one_cycle', not "
            f"{params.learning_rate!r}."
        )
    if isinstance(params.scoring, str) and params.scoring != "loss":
        get_scorer(params.scoring)  # an unknown name is an error also where nothing is scored
    if isinstance(params.loss, type):
        raise ValueError(f"loss={params.loss.__name__} is a class. Use an instance of it, or a function.")
    if params.normalization == "batch" and params.batch_size == 1:
        raise ValueError("normalization='batch' needs batches of more than one row. Use normalization='layer'.")
    for callback in params.callbacks or ():
        _check_callback(callback)
    if params.solver == "lbfgs":
        _check_lbfgs(params)


def _check_callback(callback: Any) -> None:
    inner = callback[1] if isinstance(callback, tuple) and len(callback) == 2 else callback
    if not hasattr(inner, "on_epoch_end"):
        raise TypeError(
            "callbacks must be callbacks of skorch, or pairs of a name and one, but got "
            f"{callback!r}. Pass callbacks of scikit-learn and of sktorch_mlp.callbacks to set_callbacks."
        )


def _check_optimizer_class(params: MLPParameters) -> None:
    solver: Any = params.solver
    solver_params = params.solver_params or {}
    if not issubclass(solver, torch.optim.Optimizer) or solver is torch.optim.Optimizer:
        raise ValueError(f"solver must be a name or a class of torch.optim, got {solver!r}.")
    if issubclass(solver, torch.optim.LBFGS | torch.optim.SparseAdam):
        raise ValueError(f"solver={solver.__name__} cannot be used. Use solver='lbfgs' or another class.")
    if "lr" in solver_params:
        raise ValueError("Pass the learning rate as learning_rate_init, not as solver_params['lr'].")
    weight_and_bias = [torch.nn.Parameter(torch.zeros(shape, device="cpu")) for shape in ((1, 1), (1,))]
    try:
        solver(weight_and_bias, lr=params.learning_rate_init, **solver_params)
    except (TypeError, ValueError) as error:
        raise ValueError(f"solver_params={solver_params!r} do not fit solver={solver.__name__}: {error}") from error


def _check_lbfgs(params: MLPParameters) -> None:
    is_used = {
        "dropout": np.any(params.dropout),
        "normalization": params.normalization == "batch",
        "gradient_clip_norm": params.gradient_clip_norm is not None,
        "dtype": params.dtype == "bfloat16",
        "callbacks": bool(params.callbacks),
    }
    for name in (name for name, used in is_used.items() if used):
        raise ValueError(
            f"{name}={getattr(params, name)!r} cannot be used with solver='lbfgs', which sees all rows at once. "
            "Use a stochastic solver, such as 'adam'."
        )


def make_schedule(params: MLPParameters) -> Schedule:
    """Make the learning rate schedule of a fit."""
    rate, name, warmup = params.learning_rate_init, params.learning_rate, params.warmup_fraction
    if name == "cosine":
        return Cosine(rate, params.max_iter, 0.0 if warmup == "auto" else float(warmup))
    if name == "one_cycle":
        return OneCycle(rate, params.max_iter, 0.3 if warmup == "auto" else float(warmup))
    if params.solver == "adam" or name == "constant":  # Adam adapts by itself; scikit-learn's takes no other schedule
        return Schedule(rate)
    return InverseScaling(rate, params.power_t) if name == "invscaling" else Adaptive(rate)


def make_optimizer(params: MLPParameters, schedule: Schedule) -> Optimizer:
    """Make the optimizer of a fit."""
    if isinstance(params.solver, type):
        return TorchOptimizer([schedule], params.solver, dict(params.solver_params or {}))
    if params.solver == "sgd":
        return SGD([schedule], [params.momentum], params.nesterovs_momentum)
    betas_and_epsilon = [params.beta_1], [params.beta_2], [params.epsilon]
    if params.solver == "adamw":
        weight_decay = 0.01 if params.weight_decay == "auto" else float(params.weight_decay)
        return AdamW([schedule], *betas_and_epsilon, [weight_decay])
    return Adam([schedule], *betas_and_epsilon)


def has_planned_schedule(params: MLPParameters) -> bool:
    """Return whether learning rates are planned for `max_iter` epochs, at whose end training is done."""
    return params.learning_rate in ("cosine", "one_cycle")
