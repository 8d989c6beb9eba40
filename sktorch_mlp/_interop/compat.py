"""Private names of scikit-learn's callbacks and MLP and of PyTorch's modules, with the reason for each and its fallback."""

from __future__ import annotations

import copy
from typing import Any

from .description import OptimizerState


def clear_subtasks(context: Any) -> None:
    """Forget the subtasks of a callback context, ``CallbackContext._children_map``.

    A fit whose training begins again numbers its epochs from the start, but scikit-learn has no way to take
    subtasks back. Where the attribute is gone, the epochs of both attempts are counted, and scikit-learn raises if
    they are more than `max_iter`.
    """
    subtasks = getattr(context, "_children_map", None)
    if subtasks is not None:
        subtasks.clear()


#: What `set_callbacks` and a fit keep on an estimator.
_CALLBACK_ATTRIBUTES = ("_skl_callbacks", "_skl_callbacks_to_teardown", "_callback_fit_ctx", "_parent_callback_ctx")


def callback_attributes(estimator: Any) -> dict[str, Any]:
    """Attributes by which scikit-learn ends callbacks after a fit, one that fails as well.

    Without them a progress bar goes on, and the process does not end.
    """
    return {name: value for name, value in vars(estimator).items() if name in _CALLBACK_ATTRIBUTES}


def copy_without_callbacks(estimator: Any) -> Any:
    """Copy an estimator without its callbacks and their contexts, which `set_callbacks` and `fit` keep on it.

    A snapshot that a callback keeps or saves must not hold that callback. An attribute that is gone needs no removal.
    """
    twin = copy.copy(estimator)
    for name in _CALLBACK_ATTRIBUTES:
        twin.__dict__.pop(name, None)
    return twin


def label_binarizer(mlp: Any) -> Any:
    """Return ``_label_binarizer``, which says of the classes of scikit-learn's MLP whether they are labels.

    Nothing public does. Where it is gone, this raises AttributeError.
    """
    return mlp._label_binarizer


def n_epochs_no_change(mlp: Any) -> int:
    """Return ``_no_improvement_count``: epochs without improvement that a warm start goes on to count.

    An L-BFGS fit has none. Where it is gone, a warm start counts from 0.
    """
    return int(getattr(mlp, "_no_improvement_count", 0))


def has_forward_hooks(module: Any) -> bool:
    """Whether ``_forward_hooks`` or ``_forward_pre_hooks`` of a module of PyTorch may change what it gives.

    Nothing public lists hooks. Where an attribute is gone, its hooks are overlooked, which the tests would show.
    """
    return bool(getattr(module, "_forward_hooks", None) or getattr(module, "_forward_pre_hooks", None))


#: Moments of scikit-learn's optimizers, and their other attributes.
_MOMENTS = {"adam": ("ms", "vs"), "sgd": ("velocities",)}
_SETTINGS = {
    "adam": ("learning_rate_init", "beta_1", "beta_2", "epsilon", "t"),
    "sgd": ("learning_rate_init", "learning_rate", "lr_schedule", "momentum", "nesterov", "power_t"),
}


def read_optimizer(mlp: Any) -> OptimizerState | None:
    """Read ``_optimizer`` of scikit-learn's MLP, whose moments `partial_fit` resumes.

    None if there is none, or if it has other attributes than we know. Then `partial_fit` begins with a new one.
    """
    optimizer = getattr(mlp, "_optimizer", None)
    for name, settings in _SETTINGS.items():
        if all(hasattr(optimizer, attribute) for attribute in (*settings, *_MOMENTS[name])):
            return OptimizerState(
                name,
                {attribute: getattr(optimizer, attribute) for attribute in settings},
                {moment: getattr(optimizer, moment) for moment in _MOMENTS[name]},
            )
    return None


def _make_optimizer(state: OptimizerState) -> Any:
    """Make an optimizer of scikit-learn's module ``_stochastic_optimizers``; None where that is gone."""
    try:
        from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
    except ImportError:
        return None
    optimizer = AdamOptimizer([]) if state.name == "adam" else SGDOptimizer([])
    vars(optimizer).update(state.settings | state.moments)
    if state.name == "adam" and optimizer.t:  # the rate of the last step, which scikit-learn keeps but does not use
        correction = (1 - optimizer.beta_2**optimizer.t) ** 0.5 / (1 - optimizer.beta_1**optimizer.t)
        optimizer.learning_rate = optimizer.learning_rate_init * correction
    return optimizer


def set_private(mlp: Any, label_binarizer: Any, n_epochs_no_change: int, optimizer: OptimizerState | None) -> None:
    """Set what scikit-learn's MLP keeps under private names, to predict and to be trained on.

    ``_best_coefs`` and ``_best_intercepts`` are what a warm start with early stopping falls back to: after a fit the
    weights themselves, which training changes in place. A version that keeps these things elsewhere predicts and trains
    wrongly or not at all, which the tests would show.
    """
    if label_binarizer is not None:
        mlp._label_binarizer = label_binarizer
    if mlp.solver == "lbfgs":
        return
    mlp._no_improvement_count = n_epochs_no_change
    mlp._best_coefs, mlp._best_intercepts = mlp.coefs_, mlp.intercepts_
    if optimizer is not None:
        made = _make_optimizer(optimizer)
        if made is not None:
            mlp._optimizer = made
