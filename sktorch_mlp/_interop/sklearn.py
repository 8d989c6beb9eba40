"""scikit-learn's own multilayer perceptrons: what is in a fitted one, and how to make one."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils.validation import check_is_fitted

from . import compat
from .description import Network, OptimizerState, Outputs

#: Fitted attributes that mean the same on both sides, beside weights and labels. Which of them there are depends on the
#: solver and on X.
ATTRIBUTES = (
    "n_features_in_",
    "feature_names_in_",
    "n_iter_",
    "t_",
    "loss_",
    "loss_curve_",
    "best_loss_",
    "validation_scores_",
    "best_validation_score_",
)

#: Values that scikit-learn takes, where ours are more.
_VALUES = {
    "activation": {"identity", "logistic", "tanh", "relu"},
    "solver": {"lbfgs", "sgd", "adam"},
    "learning_rate": {"constant", "invscaling", "adaptive"},
    "loss": {"log_loss", "squared_error", "poisson"},
}

#: Values with which a parameter that scikit-learn lacks does nothing; None for all others.
_WITHOUT_EFFECT: dict[str, Any] = {
    "dtype": "auto",
    "dropout": 0.0,
    "weight_init": "auto",
    "weight_decay": "auto",
    "warmup_fraction": "auto",
    "label_smoothing": 0.0,
    "quantile": 0.5,
}


@dataclass(frozen=True, eq=False)
class FittedSklearn:
    """What is in a fitted MLP of scikit-learn.

    Attributes
    ----------
    params : dict
    network : Network
    attributes : dict
        Those of `ATTRIBUTES` that there are.
    label_binarizer : LabelBinarizer or None
    n_epochs_no_change : int
        Epochs in a row without improvement.
    optimizer : OptimizerState or None
        None if there is nothing to resume.
    """

    params: dict[str, Any]
    network: Network
    attributes: dict[str, Any]
    label_binarizer: Any = None
    n_epochs_no_change: int = 0
    optimizer: OptimizerState | None = None


def read(fitted: Any, *, is_classifier: bool) -> FittedSklearn:
    """Read a fitted estimator of scikit-learn. Everything is copied.

    Raises
    ------
    TypeError
        If it is another estimator.
    NotFittedError
    """
    class_ = MLPClassifier if is_classifier else MLPRegressor
    if not isinstance(fitted, class_):
        got = fitted.__name__ if isinstance(fitted, type) else type(fitted).__name__
        raise TypeError(f"from_sklearn takes a fitted sklearn.neural_network.{class_.__name__}, but got {got}.")
    check_is_fitted(fitted, "coefs_")
    fitted = copy.deepcopy(fitted)
    binarizer = compat.label_binarizer(fitted) if is_classifier else None
    is_multilabel = binarizer is not None and binarizer.y_type_.startswith("multilabel")
    outputs = Outputs(fitted.out_activation_, getattr(fitted, "classes_", None), is_multilabel)
    activations = (fitted.activation,) * (len(fitted.coefs_) - 1)
    return FittedSklearn(
        params=fitted.get_params(deep=False),
        network=Network(fitted.coefs_, fitted.intercepts_, activations, outputs),
        attributes={name: getattr(fitted, name) for name in ATTRIBUTES if hasattr(fitted, name)},
        label_binarizer=binarizer,
        n_epochs_no_change=compat.n_epochs_no_change(fitted),
        optimizer=compat.read_optimizer(fitted),
    )


def make(fitted: FittedSklearn) -> Any:
    """Make a fitted estimator of scikit-learn. Everything is copied.

    Raises
    ------
    ValueError
        If a parameter has a value that scikit-learn lacks.
    """
    network = fitted.network
    class_ = MLPRegressor if fitted.label_binarizer is None else MLPClassifier
    estimator = class_(**_shared_params(class_, fitted))
    coefs, intercepts = ([np.array(array, order="C") for array in part] for part in (network.coefs, network.intercepts))
    attributes: dict[str, Any] = copy.deepcopy(fitted.attributes) | {
        "coefs_": coefs,
        "intercepts_": intercepts,
        "n_layers_": len(network.layer_units),
        "n_outputs_": network.layer_units[-1],
        "out_activation_": network.outputs.activation,
    }
    if fitted.label_binarizer is not None:
        attributes["classes_"] = np.array(network.outputs.classes)
    vars(estimator).update(attributes)
    compat.set_private(
        estimator, copy.deepcopy(fitted.label_binarizer), fitted.n_epochs_no_change, copy.deepcopy(fitted.optimizer)
    )
    return estimator


def _shared_params(class_: type, fitted: FittedSklearn) -> dict[str, Any]:
    """Parameters that scikit-learn has, once those that it lacks are found to be without effect."""
    params = dict(fitted.params)
    params["shuffle"] = bool(params["shuffle"])  # "blocks" is another random order
    if fitted.network.norms:  # also where the parameter has been taken back
        params["normalization"] = fitted.network.normalization
    if not isinstance(params["activation"], str) and len(set(fitted.network.activations)) == 1:
        params["activation"] = fitted.network.activations[0]
    names = set(class_().get_params())
    for name, value in params.items():
        if name in _VALUES:
            if not (isinstance(value, str) and value in _VALUES[name]):
                raise ValueError(_refusal(name, value, f"use one of {sorted(_VALUES[name])}"))
        elif name not in names and _has_effect(name, value):
            raise ValueError(_refusal(name, value, f"set_params({name}={_WITHOUT_EFFECT.get(name)!r})"))
    return copy.deepcopy({name: value for name, value in params.items() if name in names})


def _has_effect(name: str, value: Any) -> bool:
    if name == "device":
        return False
    if name == "dtype":
        return bool(value == "bfloat16")
    if name == "dropout":
        return bool(np.any(value))
    return value != _WITHOUT_EFFECT[name] if name in _WITHOUT_EFFECT else value is not None


def _refusal(name: str, value: Any, remedy: str) -> str:
    lacks = f"{name}={value!r} has no counterpart in scikit-learn's MLP."
    if name in ("activation", "normalization"):
        return lacks
    return (
        f"{lacks} Predictions do not depend on it, but further training does. To convert the model all the same, {remedy} "
        "first."
    )
