"""Nets of skorch with weights, loss and optimizer of an estimator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from skorch import NeuralNet, NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import GradientNormClipping
from torch import Tensor, nn

from .description import Network
from .torch import to_sequential

#: Rows of a batch where `batch_size` is "auto" and there are as many.
_AUTO_BATCH_SIZE = 200

#: Criteria of the losses of regressors, by their names. Ours are sums over outputs, or means.
_REGRESSION_CRITERIA: dict[str, Callable[[float], nn.Module]] = {
    "squared_error": lambda quantile: SumOverOutputs(nn.MSELoss(reduction="none"), 0.5),
    "poisson": lambda quantile: SumOverOutputs(nn.PoissonNLLLoss(reduction="none")),
    "absolute_error": lambda quantile: nn.L1Loss(),
    "huber": lambda quantile: nn.HuberLoss(),
    "quantile": lambda quantile: QuantileLoss(quantile),
}


class SumOverOutputs(nn.Module):
    """A loss summed over outputs and averaged over rows.

    Parameters
    ----------
    loss : Module
        Gives the loss of each output of each row.
    factor : float, default=1.0
    """

    def __init__(self, loss: nn.Module, factor: float = 1.0) -> None:
        super().__init__()
        self.loss, self.factor = loss, factor

    def forward(self, y_pred: Tensor, y: Tensor) -> Tensor:
        """Mean loss of the rows."""
        losses: Tensor = self.loss(y_pred, y)
        return self.factor * losses.sum() / len(losses)


class QuantileLoss(nn.Module):
    """The pinball loss, which PyTorch lacks, averaged over outputs and rows.

    Parameters
    ----------
    quantile : float
    """

    def __init__(self, quantile: float) -> None:
        super().__init__()
        self.quantile = quantile

    def forward(self, y_pred: Tensor, y: Tensor) -> Tensor:
        """Mean loss of the rows."""
        residuals = y_pred - y
        return torch.maximum((1 - self.quantile) * residuals, -self.quantile * residuals).mean()


class TargetsAsColumns(nn.Module):
    """A loss of predictions (n_rows, n_outputs) whose targets may lack the axis of a single output, as y of a regressor does.

    Parameters
    ----------
    loss : Module
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, y_pred: Tensor, y: Tensor) -> Tensor:
        """Mean loss of the rows."""
        losses: Tensor = self.loss(y_pred, y.unsqueeze(1) if y.ndim == 1 else y)
        return losses


class FunctionCriterion(nn.Module):
    """A function as a loss, called as our estimators do: without the axis of a single output.

    Parameters
    ----------
    function : callable
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, y_pred: Tensor, y: Tensor) -> Tensor:
        """Mean loss of the rows."""
        if y_pred.ndim == 2 and y_pred.shape[1] == 1:
            y_pred, y = y_pred.squeeze(1), y.reshape(len(y))
        return self.function(y_pred, y).mean()


def _two_probabilities(logits: Tensor) -> Tensor:
    """Probabilities of both classes from the logit of the second."""
    second = torch.sigmoid(logits)
    return torch.stack([1 - second, second], 1)


def _softmax(logits: Tensor) -> Tensor:
    return torch.softmax(logits, 1)


def make_net(network: Network, params: dict[str, Any], device: torch.device, learning_rate: float) -> NeuralNet:
    """Make an initialized net with a copy of a network.

    Parameters
    ----------
    network : Network
    params : dict
        Parameters of the estimator.
    device : torch.device
    learning_rate : float
        The present one.

    Raises
    ------
    ValueError
        If a parameter has a value that a net of skorch has no counterpart of.
    """
    _check_params(params, network)
    module = to_sequential(network, device)
    batch_size = _AUTO_BATCH_SIZE if params["batch_size"] == "auto" else params["batch_size"]
    net_class, criterion, nonlinearity = _net_and_criterion(network, params)
    callbacks = list(params["callbacks"] or ())
    if params["gradient_clip_norm"] is not None:
        callbacks.append(("gradient_clip_norm", GradientNormClipping(params["gradient_clip_norm"])))
    optimizer, settings = _optimizer(params)
    if params["alpha"]:
        settings["weight_decay"] = params["alpha"] / batch_size
    if settings.get("weight_decay"):
        settings["param_groups"] = _without_decay(module)
    return net_class(
        module,
        criterion=criterion,
        predict_nonlinearity=nonlinearity,
        optimizer=optimizer,
        **{f"optimizer__{name}": value for name, value in settings.items()},
        lr=learning_rate,
        max_epochs=params["max_iter"],
        batch_size=batch_size,
        iterator_train__shuffle=bool(params["shuffle"]),
        train_split=None,
        callbacks=callbacks,
        verbose=int(bool(params["verbose"])),
        device=str(device),
    ).initialize()


def _check_params(params: dict[str, Any], network: Network) -> None:
    """Raise where training would go on in another way."""
    solver, schedule = params["solver"], params["learning_rate"]
    is_ignored = solver == "adam" and schedule in ("invscaling", "adaptive")
    has_smoothing = bool(params.get("label_smoothing")) and network.outputs.activation == "logistic"
    # weight decay that is decoupled cannot be that of alpha, too
    has_alpha = bool(params["alpha"]) and solver not in ("adam", "sgd", "lbfgs")
    refused = {
        "solver": (solver == "lbfgs", "adam"),
        "learning_rate": (schedule != "constant" and not is_ignored, "constant"),
        "class_weight": (params.get("class_weight") is not None, None),
        "label_smoothing": (has_smoothing, 0.0),
        "alpha": (has_alpha, 0.0),
        "dtype": (params["dtype"] == "bfloat16", "auto"),
    }
    for name, (is_refused, accepted) in refused.items():
        if is_refused:
            beside = f" with solver={getattr(solver, '__name__', solver)!r}" if name == "alpha" else ""
            raise ValueError(
                f"{name}={params[name]!r} has no counterpart in a net of skorch{beside}. Predictions do not depend on it, "
                f"but further training does. To convert the model all the same, set_params({name}={accepted!r}) first."
            )


def _net_and_criterion(network: Network, params: dict[str, Any]) -> tuple[type[NeuralNet], nn.Module, Any]:
    """Class of the net, its criterion and its `predict_nonlinearity`."""
    outputs, loss = network.outputs, params["loss"]
    custom = FunctionCriterion(loss) if callable(loss) else None
    if outputs.activation == "softmax":
        smoothing = params["label_smoothing"]
        return NeuralNetClassifier, custom or nn.CrossEntropyLoss(label_smoothing=smoothing), _softmax
    if outputs.is_binary:
        return NeuralNetBinaryClassifier, custom or nn.BCEWithLogitsLoss(), _two_probabilities
    if outputs.is_multilabel:
        return NeuralNet, custom or SumOverOutputs(nn.BCEWithLogitsLoss(reduction="none")), torch.sigmoid
    criterion = custom or TargetsAsColumns(_REGRESSION_CRITERIA[loss](params["quantile"]))
    return NeuralNetRegressor, criterion, torch.exp if outputs.activation == "exp" else None


def _optimizer(params: dict[str, Any]) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """Class and settings of the optimizer, without learning rate and `alpha`."""
    solver = params["solver"]
    if isinstance(solver, type):
        return solver, dict(params["solver_params"] or {})
    if solver == "sgd":
        momentum = params["momentum"]
        return torch.optim.SGD, {"momentum": momentum, "nesterov": bool(params["nesterovs_momentum"] and momentum)}
    settings = {"betas": (params["beta_1"], params["beta_2"]), "eps": params["epsilon"]}
    if solver == "adam":
        return torch.optim.Adam, settings
    decay = 0.01 if params["weight_decay"] == "auto" else float(params["weight_decay"])
    return torch.optim.AdamW, settings | {"weight_decay": decay}


def _without_decay(module: nn.Sequential) -> list[tuple[str, dict[str, float]]]:
    """Groups of the parameters that do not decay: intercepts, and scales and shifts of normalizations."""
    decaying = {f"{place}.weight" for place, part in enumerate(module) if isinstance(part, nn.Linear)}
    return [(name, {"weight_decay": 0.0}) for name, _ in module.named_parameters() if name not in decaying]
