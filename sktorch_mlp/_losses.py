"""Losses with their output activation, the gradient at the logits, and the validation score.

Each loss stands with its canonical output activation, so that the gradient at the
logits is ``predictions - targets``. Tensors are unit-major: ``(..., n_outputs, n_rows)``.

The losses of an epoch's rows are not needed before its end. A step therefore only
saves one *term* a row, with the fewest calls, and `row_losses` turns all terms of an
epoch into losses at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from ._activations import function_key

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
    #: whether it takes logits where others take predictions
    of_logits = False
    #: whether the loss of a row may depend on the other rows of its batch
    couples_rows = False

    def __init__(self, n_outputs: int) -> None:
        self.n_outputs = n_outputs

    def kind(self) -> tuple[Hashable, ...]:
        """Losses of equal kind are the same function."""
        return type(self), self.n_outputs

    @abstractmethod
    def to_delta_(self, predictions: Tensor, targets: Tensor, terms: Tensor) -> None:
        """Turn predictions into each row's gradient at the logits, in place.

        Parameters
        ----------
        predictions : Tensor of shape (..., n_outputs, n_rows)
            Or logits, for a loss `of_logits`.
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
        return weighted_mean(predictions.argmax(-2, keepdim=True) == targets, weights).mean(-1)


class SoftLogLoss(Loss):
    """Cross-entropy of softmax outputs; a target is the probability of each class.

    The one class with the highest counts as the right one.
    """

    out_activation = "softmax"

    def to_delta_(self, predictions: Tensor, targets: Tensor, terms: Tensor) -> None:
        log_predictions = _clip_(predictions.clone()).log_()
        torch.sum(log_predictions.mul_(targets), -2, keepdim=True, out=terms)
        predictions.sub_(targets)

    def row_losses(self, terms: Tensor, targets: Tensor) -> Tensor:
        return terms.neg_()

    def score(self, predictions: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        right = predictions.argmax(-2, keepdim=True) == targets.argmax(-2, keepdim=True)
        return weighted_mean(right, weights).mean(-1)


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
        return weighted_mean(right.all(-2, keepdim=True), weights).mean(-1)


class SoftBinaryLogLoss(BinaryLogLoss):
    """The same for targets between 0 and 1."""

    def elementwise(self, predictions: Tensor, targets: Tensor) -> Tensor:
        predictions = _clip_(predictions.clone())
        return torch.lerp((1 - predictions).log_(), predictions.log(), targets).neg_()


class OneClassLogLoss(BinaryLogLoss):
    """The same where there is one class, which is predicted whatever the output."""

    def score(self, predictions: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        return predictions.new_ones(predictions.shape[:-2])


class _RegressionLoss(_ElementwiseLoss):
    """What the losses of regressors share: they are judged by R², averaged over outputs."""

    def score(self, predictions: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        mean = weighted_mean(targets, weights, keepdim=True)
        unexplained = weighted_mean((targets - predictions).square(), weights)
        variance = weighted_mean((targets - mean).square(), weights)
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


class _MeanLoss(_RegressionLoss):
    """A loss that is a mean over outputs, and descended as such."""

    out_activation = "identity"

    @abstractmethod
    def differentiate_(self, residuals: Tensor) -> None:
        """Turn predictions less targets into the derivative by the prediction, in place."""

    def reduce(self, losses: Tensor) -> Tensor:
        return losses.mean(-2, keepdim=True)

    def to_delta_(self, predictions: Tensor, targets: Tensor, terms: Tensor) -> None:
        super().to_delta_(predictions, targets, terms)
        self.differentiate_(predictions)
        if self.n_outputs > 1:
            predictions.div_(self.n_outputs)


class AbsoluteError(_MeanLoss):
    """The absolute error, averaged over outputs; its minimum is a median."""

    def elementwise(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).abs_()

    def differentiate_(self, residuals: Tensor) -> None:
        residuals.sign_()


class HuberLoss(_MeanLoss):
    """Half the squared error up to an error of 1, linear beyond (Huber, 1964), averaged over outputs."""

    def elementwise(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return torch.nn.functional.huber_loss(predictions, targets.expand_as(predictions), reduction="none")

    def differentiate_(self, residuals: Tensor) -> None:
        residuals.clamp_(-1.0, 1.0)


class QuantileLoss(_MeanLoss):
    """The pinball loss (Koenker and Bassett, 1978), averaged over outputs; its minimum is a quantile.

    Parameters
    ----------
    n_outputs : int
    quantile : float
        Level of the quantile, in (0, 1).
    """

    def __init__(self, n_outputs: int, quantile: float) -> None:
        super().__init__(n_outputs)
        self.quantile = quantile

    def kind(self) -> tuple[Hashable, ...]:
        return *super().kind(), self.quantile

    def elementwise(self, predictions: Tensor, targets: Tensor) -> Tensor:
        residuals = predictions - targets
        return torch.maximum((1 - self.quantile) * residuals, -self.quantile * residuals)

    def differentiate_(self, residuals: Tensor) -> None:
        # sign / 2 + (1 / 2 - quantile), and 0 where there is no error
        sign = residuals.sign()
        torch.add(sign / 2, sign.abs(), alpha=0.5 - self.quantile, out=residuals)


class CallableLoss(Loss):
    """A function of logits and targets; autograd has its gradient.

    Parameters
    ----------
    function : callable
        ``function(logits, targets)`` gives the loss of each row, of shape (n_rows,) or
        (n_rows, n_outputs), to be averaged; or, 0-d, the mean loss of all rows.
    own : Loss
        The loss it takes the place of, whose output activation and score stay.
    weighted : bool
        Whether rows are to be weighted, which a mean loss cannot be.
    """

    of_logits = True
    couples_rows = True

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], own: Loss, weighted: bool) -> None:
        super().__init__(own.n_outputs)
        self._function, self._own, self._weighted = function, own, weighted
        self.out_activation = own.out_activation

    def kind(self) -> tuple[Hashable, ...]:
        return *super().kind(), function_key(self._function), self._own.kind(), self._weighted

    def to_delta_(self, predictions: Tensor, targets: Tensor, terms: Tensor) -> None:
        n_rows = predictions.shape[-1]
        stacked = (t.reshape(-1, *t.shape[-2:]) for t in (predictions, targets, terms))
        for logits, own_targets, own_terms in zip(*stacked, strict=True):  # each network on its own
            with torch.enable_grad():
                leaf = logits.detach().mT.clone().requires_grad_()
                losses = self._row_losses(leaf, own_targets.mT)
                (gradient,) = torch.autograd.grad(losses.sum(), leaf)
            own_terms.copy_(losses.detach().reshape(1, n_rows))
            logits.copy_(gradient.mT)

    def _row_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        n_rows = len(logits)
        squeeze = self.n_outputs == 1
        losses = self._function(
            logits[:, 0] if squeeze else logits, targets[:, 0] if targets.shape[1] == 1 else targets
        )
        if not isinstance(losses, Tensor) or not losses.requires_grad:
            raise ValueError(f"A loss function must give a tensor made from the predictions, but gave {losses!r}.")
        if losses.ndim == 0 and not self._weighted:
            return losses.expand(n_rows)
        if losses.shape[:1] != (n_rows,):
            raise ValueError(
                f"A loss function must give the loss of each of the {n_rows} rows, or without weights their mean, but "
                f'gave a tensor of shape {tuple(losses.shape)}. With functions of PyTorch\'s pass reduction="none".'
            )
        return losses.flatten(1).mean(1) if losses.ndim > 1 else losses

    def row_losses(self, terms: Tensor, targets: Tensor) -> Tensor:
        return terms

    def score(self, predictions: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        return self._own.score(predictions, targets, weights)


def _clip_(probabilities: Tensor) -> Tensor:
    """Keep probabilities off 0 and 1 by the resolution of their dtype, as scikit-learn does."""
    eps = torch.finfo(probabilities.dtype).eps
    return probabilities.clamp_(eps, 1 - eps)


def weighted_mean(values: Tensor, weights: Tensor | None, keepdim: bool = False) -> Tensor:
    """Weighted mean over rows, the last axis, in float64 where the device has it."""
    values = values.to(torch.float32 if values.device.type == "mps" else torch.float64)
    if weights is None:
        return values.mean(-1, keepdim=keepdim)
    return (values * weights).sum(-1, keepdim=keepdim) / weights.sum(-1, keepdim=keepdim)
