"""Losses with their output activation, the gradient at the logits, and the validation score.

Each loss stands with its canonical output activation, so that the gradient at the
logits is ``predictions - targets``. Tensors are unit-major: ``(..., n_outputs, n_rows)``.

The losses of an epoch's rows are not needed before its end. A step therefore only
saves one *term* a row, with the fewest calls, and `row_losses` turns all terms of an
epoch into losses at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

#: scikit-learn's names of the output activations; each works in place on unit-major logits
OUTPUT_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda logits: logits,
    "logistic": torch.sigmoid_,
    "softmax": lambda logits: torch.softmax(logits, -2, out=logits),
    "exp": torch.exp_,
}


class Loss(ABC):
    """A loss, its output activation and the score by which validation rows are judged.

    Parameters
    ----------
    n_outputs : int
        Number of output units.
    """

    #: a key of `OUTPUT_ACTIVATIONS`
    out_activation: str

    def __init__(self, n_outputs: int) -> None:
        self.n_outputs = n_outputs

    @abstractmethod
    def to_delta_(self, predictions: Tensor, targets: Tensor, terms: Tensor) -> None:
        """Turn predictions into each row's gradient at the logits, in place.

        Parameters
        ----------
        predictions : Tensor of shape (..., n_outputs, n_rows)
        targets : Tensor of shape (..., n_outputs or 1, n_rows)
        terms : Tensor of shape (..., 1, n_rows)
            Receives what `row_losses` needs of each row.
        """

    @abstractmethod
    def row_losses(self, terms: Tensor, targets: Tensor) -> Tensor:
        """Each row's loss, of shape (..., 1, n_rows), from the terms `to_delta_` saved, which it may destroy."""

    @abstractmethod
    def score(self, predictions: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """Each network's validation score, accuracy or R²; weights are of shape (..., 1, n_rows)."""


class LogLoss(Loss):
    """Cross-entropy of softmax outputs; a target is the index of the class, (..., 1, n_rows)."""

    out_activation = "softmax"

    def to_delta_(self, predictions: Tensor, targets: Tensor, terms: Tensor) -> None:
        torch.gather(predictions, -2, targets, out=terms)
        predictions.scatter_(-2, targets, -1.0, reduce="add")

    def row_losses(self, terms: Tensor, targets: Tensor) -> Tensor:
        return _clip_(terms).log_().neg_()

    def score(self, predictions: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        return _mean(predictions.argmax(-2, keepdim=True) == targets, weights).mean(-1)


class _ElementwiseLoss(Loss):
    """A loss that is a sum or mean over outputs; targets have the shape of the predictions.

    The term of a row is its prediction where there is one output, else the row's loss.
    """

    @abstractmethod
    def elementwise(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """The loss of each output of each row."""

    def reduce(self, losses: Tensor) -> Tensor:
        """Reduce the losses of a row's outputs to one."""
        return losses.sum(-2, keepdim=True)

    def to_delta_(self, predictions: Tensor, targets: Tensor, terms: Tensor) -> None:
        if self.n_outputs == 1:
            terms.copy_(predictions)
        else:
            terms.copy_(self.reduce(self.elementwise(predictions, targets)))
        predictions.sub_(targets)

    def row_losses(self, terms: Tensor, targets: Tensor) -> Tensor:
        return self.elementwise(terms, targets) if self.n_outputs == 1 else terms


class BinaryLogLoss(_ElementwiseLoss):
    """Cross-entropy of logistic outputs, summed over outputs; targets are 0 or 1."""

    out_activation = "logistic"

    def elementwise(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return _clip_(torch.where(targets > 0.5, predictions, 1 - predictions)).log_().neg_()

    def score(self, predictions: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        right = (predictions > 0.5) == (targets > 0.5)
        return _mean(right.all(-2, keepdim=True), weights).mean(-1)


class OneClassLogLoss(BinaryLogLoss):
    """The same where there is one class, which is predicted whatever the output."""

    def score(self, predictions: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        return predictions.new_ones(predictions.shape[:-2])


class _RegressionLoss(_ElementwiseLoss):
    """What the losses of regressors share: they are judged by R², averaged over outputs."""

    def score(self, predictions: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        mean = _mean(targets, weights, keepdim=True)
        unexplained = _mean((targets - predictions).square(), weights)
        variance = _mean((targets - mean).square(), weights)
        # A constant target scores 1 where it is met exactly and 0 elsewhere, as in r2_score.
        constant = (unexplained == 0).to(variance.dtype)
        return torch.where(variance == 0, constant, 1 - unexplained / variance).mean(-1)


class HalfSquaredError(_RegressionLoss):
    """Half the squared error, averaged over outputs.

    scikit-learn averages the loss over outputs but sums the gradient; so do we.
    """

    out_activation = "identity"

    def elementwise(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).square_().mul_(0.5)

    def reduce(self, losses: Tensor) -> Tensor:
        return losses.mean(-2, keepdim=True)


class HalfPoissonDeviance(_RegressionLoss):
    """Half the Poisson deviance of exponential outputs, summed over outputs."""

    out_activation = "exp"

    def elementwise(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return torch.xlogy(targets, targets / predictions) - targets + predictions


def _clip_(probabilities: Tensor) -> Tensor:
    """Keep probabilities off 0 and 1 by the resolution of their dtype, as scikit-learn does."""
    eps = torch.finfo(probabilities.dtype).eps
    return probabilities.clamp_(eps, 1 - eps)


def _mean(values: Tensor, weights: Tensor | None, keepdim: bool = False) -> Tensor:
    """Weighted mean over rows, the last axis, in float64 where the device has it."""
    values = values.to(torch.float32 if values.device.type == "mps" else torch.float64)
    if weights is None:
        return values.mean(-1, keepdim=keepdim)
    return (values * weights).sum(-1, keepdim=keepdim) / weights.sum(-1, keepdim=keepdim)
