"""Where scikit-learn's training has come to, as ours would have, and the other way round."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sktorch_mlp._interop.description import OptimizerState
from sktorch_mlp._nn.network import StackedMLP
from sktorch_mlp._nn.tensors import as_tensor
from sktorch_mlp._training.adam import Adam
from sktorch_mlp._training.optimizers import SGD, Optimizer
from sktorch_mlp._training.progress import Progress
from sktorch_mlp._training.schedules import Adaptive, InverseScaling, Schedule

#: Our names of the moments of scikit-learn's optimizers.
_MOMENTS = {"ms": "first_moment", "vs": "second_moment", "velocities": "velocity"}


def read_progress(attributes: dict[str, Any], n_epochs_no_change: int) -> Progress:
    """Progress of a fit with these fitted attributes. Records of its epochs lack what scikit-learn does not keep."""
    losses = list(attributes.get("loss_curve_") or ())
    scores = list(attributes.get("validation_scores_") or ())
    records: list[dict[str, Any]] = [{"epoch": epoch, "loss": loss} for epoch, loss in enumerate(losses, 1)]
    for record, score in zip(records, scores, strict=False):
        record["validation_score"] = score
    best_loss, best_score = (attributes.get(name) for name in ("best_loss_", "best_validation_score_"))
    return Progress(
        records=records,
        loss_curve=losses,
        validation_scores=scores,
        best_loss=math.inf if best_loss is None else best_loss,
        best_validation_score=-math.inf if best_score is None else best_score,
        best_n_iter=scores.index(best_score) + 1 if best_score in scores else 0,
        n_epochs_no_change=n_epochs_no_change,
        n_iter=attributes["n_iter_"],
        n_rows_seen=attributes["t_"],
    )


def make_optimizer(state: OptimizerState, network: StackedMLP) -> Optimizer:
    """Make our optimizer of a network with the settings and moments of scikit-learn's."""
    settings, rate = state.settings, state.settings["learning_rate_init"]
    optimizer: Optimizer
    if state.name == "adam":
        optimizer = Adam([Schedule(rate)], [settings["beta_1"]], [settings["beta_2"]], [settings["epsilon"]])
        optimizer.n_steps = [settings["t"]]
    else:
        schedule = Adaptive(rate) if settings["lr_schedule"] == "adaptive" else Schedule(rate)
        if settings["lr_schedule"] == "invscaling":
            schedule = InverseScaling(rate, settings["power_t"])
        schedule.learning_rate = settings["learning_rate"]
        optimizer = SGD([schedule], [settings["momentum"]], settings["nesterov"])
    for name, arrays in state.moments.items():
        setattr(optimizer, _MOMENTS[name], _to_flat(arrays, network))
    return optimizer


def describe_optimizer(optimizer: Optimizer | None, network: StackedMLP, power_t: float) -> OptimizerState | None:
    """Describe an optimizer of a network by the names of scikit-learn's; None if that has no such optimizer.

    Parameters
    ----------
    optimizer : Optimizer or None
    network : StackedMLP
        One of the same layout; its values do not matter.
    power_t : float
        Exponent of schedules that do not use it.
    """
    if type(optimizer) not in (Adam, SGD):
        return None
    assert isinstance(optimizer, Adam | SGD)
    (schedule,) = optimizer.schedules
    settings: dict[str, Any] = {"learning_rate_init": schedule.learning_rate_init}
    if isinstance(optimizer, Adam):
        (settings["beta_1"],), (settings["beta_2"],), (settings["epsilon"],) = (
            optimizer.beta_1,
            optimizer.beta_2,
            optimizer.epsilon,
        )
        (settings["t"],) = optimizer.n_steps
    else:
        names = {Schedule: "constant", InverseScaling: "invscaling", Adaptive: "adaptive"}
        settings |= {"learning_rate": schedule.learning_rate, "lr_schedule": names.get(type(schedule), "constant")}
        settings |= {"momentum": optimizer.momentum[0], "nesterov": optimizer.nesterov}
        settings["power_t"] = getattr(schedule, "power_t", power_t)
    moments = {theirs: getattr(optimizer, ours) for theirs, ours in _MOMENTS.items() if ours in optimizer.moments}
    if any(moment is None for moment in moments.values()):
        return None  # no step has been taken
    return OptimizerState(
        type(optimizer).__name__.lower(), settings, {n: _to_arrays(m, network) for n, m in moments.items()}
    )


def _to_flat(arrays: list[np.ndarray], network: StackedMLP) -> Tensor:
    """Bring arrays of the shapes of all coefs, then of all intercepts, into the layout of a network."""
    flat = torch.zeros_like(network.flat.detach())
    coefs, intercepts = network.views(flat)
    for view, array in zip([*coefs, *intercepts], arrays, strict=True):
        view[0].copy_(as_tensor(array.T))
    return flat


def _to_arrays(flat: Tensor, network: StackedMLP) -> list[np.ndarray]:
    coefs, intercepts = network.views(flat.cpu())
    return [np.array(view[0].numpy().T, order="C") for view in (*coefs, *intercepts)]
