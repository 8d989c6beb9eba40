"""Losses with their output activation, the gradient at the logits, and the validation score.

A loss comes with its canonical output activation, so that the gradient at the logits
is ``predictions - targets``. Tensors are unit-major: ``(..., n_outputs, n_rows)``.

The losses of rows are not needed before the end of an epoch. So a step saves one
*loss term* for each row, in the fewest calls, and `row_losses` turns all terms of
an epoch into losses at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from .activations import function_key, softmax_
from .tensors import most_precise_dtype

#: Output activations by scikit-learn's names; each works in place on unit-major logits.
OUTPUT_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda logits: logits,
    "logistic": torch.sigmoid_,
    "softmax": softmax_,
    "exp": torch.exp_,
}


#: Calls after which a function that always gives the same is taken for one that draws no random numbers.
_N_REPEATS = 8


class Loss(ABC):
    """A loss, its output activation and its score of validation rows.

    Parameters
    ----------
    n_outputs : int
        Number of output units.
    """

    #: A key of `OUTPUT_ACTIVATIONS`.
    out_activation: str
    #: Whether it takes logits where others take predictions.
    of_logits = False
    #: Whether the loss of a row may depend on the other rows of its batch.
    couples_rows = False

    def __init__(self, n_outputs: int) -> None:
        self.n_outputs = n_outputs

    def stack_key(self) -> tuple[Hashable, ...]:
        """Key that is equal for losses that are the same function."""
        return type(self), self.n_outputs

    @abstractmethod
    def to_delta_(self, predictions: Tensor, targets: Tensor, loss_terms: Tensor) -> None:
        """Turn predictions into the gradient of each row's loss at its logits, in place.

        Parameters
        ----------
        predictions : Tensor of shape (..., n_outputs, n_rows)
            Or logits, for a loss `of_logits`.
        targets : Tensor of shape (..., n_outputs or 1, n_rows)
        loss_terms : Tensor of shape (..., 1, n_rows)
            Receives the number of each row that `row_losses` needs.
        """

    @abstractmethod
    def row_losses(self, loss_terms: Tensor, targets: Tensor) -> Tensor:
        """Loss of each row from the terms that `to_delta_` has saved, which it may overwrite.

        Parameters
        ----------
        loss_terms : Tensor of shape (..., n_epochs, n_rows)
            Those of the same rows in each epoch.
        targets : Tensor of shape (..., n_targets, n_rows)

        Returns
        -------
        Tensor of shape (..., n_epochs, n_rows)
        """

    @abstractmethod
    def score(self, predictions: Tensor, targets: Tensor, sample_weight: Tensor | None) -> Tensor:
        """Validation score of each network, accuracy or R²; weights are of shape (..., 1, n_rows)."""


class LogLoss(Loss):
    """Cross-entropy of softmax outputs; targets are class indices of shape (..., 1, n_rows)."""

    out_activation = "softmax"

    def to_delta_(self, predictions: Tensor, targets: Tensor, loss_terms: Tensor) -> None:
        torch.gather(predictions, -2, targets, out=loss_terms)
        predictions.scatter_(-2, targets, -1.0, reduce="add")

    def row_losses(self, loss_terms: Tensor, targets: Tensor) -> Tensor:
        return _clip_(loss_terms).log_().neg_()

    def score(self, predictions: Tensor, targets: Tensor, sample_weight: Tensor | None) -> Tensor:
        return weighted_mean(predictions.argmax(-2, keepdim=True) == targets, sample_weight).mean(-1)


class SoftLogLoss(Loss):
    """Cross-entropy of softmax outputs; targets are probabilities of the classes.

    For the score the class with the highest one is the true one.
    """

    out_activation = "softmax"

    def to_delta_(self, predictions: Tensor, targets: Tensor, loss_terms: Tensor) -> None:
        log_predictions = _clip_(predictions.clone()).log_()
        torch.sum(log_predictions.mul_(targets), -2, keepdim=True, out=loss_terms)
        predictions.sub_(targets)

    def row_losses(self, loss_terms: Tensor, targets: Tensor) -> Tensor:
        return loss_terms.neg_()

    def score(self, predictions: Tensor, targets: Tensor, sample_weight: Tensor | None) -> Tensor:
        right = predictions.argmax(-2, keepdim=True) == targets.argmax(-2, keepdim=True)
        return weighted_mean(right, sample_weight).mean(-1)


class _ElementwiseLoss(Loss):
    """A loss that is a sum or mean over outputs; targets have the shape of the predictions.

    The term of a row is its prediction where there is one output, else its loss.
    """

    @abstractmethod
    def elementwise(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Loss of each output of each row."""

    def reduce(self, losses: Tensor) -> Tensor:
        """Reduce the losses of a row's outputs to one."""
        return losses.sum(-2, keepdim=True)

    def to_delta_(self, predictions: Tensor, targets: Tensor, loss_terms: Tensor) -> None:
        if self.n_outputs == 1:
            loss_terms.copy_(predictions)
        else:
            loss_terms.copy_(self.reduce(self.elementwise(predictions, targets)))
        predictions.sub_(targets)

    def row_losses(self, loss_terms: Tensor, targets: Tensor) -> Tensor:
        return self.elementwise(loss_terms, targets) if self.n_outputs == 1 else loss_terms


class BinaryLogLoss(_ElementwiseLoss):
    """Cross-entropy of logistic outputs, summed over outputs; targets are 0 or 1."""

    out_activation = "logistic"

    def elementwise(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return _clip_(torch.where(targets > 0.5, predictions, 1 - predictions)).log_().neg_()

    def score(self, predictions: Tensor, targets: Tensor, sample_weight: Tensor | None) -> Tensor:
        right = (predictions > 0.5) == (targets > 0.5)
        return weighted_mean(right.all(-2, keepdim=True), sample_weight).mean(-1)


class SoftBinaryLogLoss(BinaryLogLoss):
    """Cross-entropy of logistic outputs, summed over outputs; targets are between 0 and 1."""

    def elementwise(self, predictions: Tensor, targets: Tensor) -> Tensor:
        predictions = _clip_(predictions.clone())
        return torch.lerp((1 - predictions).log_(), predictions.log(), targets).neg_()


class OneClassLogLoss(BinaryLogLoss):
    """Cross-entropy of a logistic output with one class, which is predicted whatever the output."""

    def score(self, predictions: Tensor, targets: Tensor, sample_weight: Tensor | None) -> Tensor:
        return predictions.new_ones(predictions.shape[:-2])


class _RegressionLoss(_ElementwiseLoss):
    """A loss of regressors; their score is R², averaged over outputs."""

    def score(self, predictions: Tensor, targets: Tensor, sample_weight: Tensor | None) -> Tensor:
        mean = weighted_mean(targets, sample_weight, keepdim=True)
        unexplained = weighted_mean((targets - predictions).square(), sample_weight)
        variance = weighted_mean((targets - mean).square(), sample_weight)
        # A constant target scores 1 if it is met exactly and 0 otherwise, as in r2_score.
        constant = (unexplained == 0).to(variance.dtype)
        return torch.where(variance == 0, constant, 1 - unexplained / variance).mean(-1)


class HalfSquaredError(_RegressionLoss):
    """Half the squared error, averaged over outputs.

    The gradient is that of the sum over outputs, as in scikit-learn.
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
    """A loss that is a mean over outputs, and so is its gradient."""

    out_activation = "identity"

    @abstractmethod
    def differentiate_(self, residuals: Tensor) -> None:
        """Turn residuals, predictions − targets, into the derivative at the prediction, in place."""

    def reduce(self, losses: Tensor) -> Tensor:
        return losses.mean(-2, keepdim=True)

    def to_delta_(self, predictions: Tensor, targets: Tensor, loss_terms: Tensor) -> None:
        super().to_delta_(predictions, targets, loss_terms)
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

    def stack_key(self) -> tuple[Hashable, ...]:
        return *super().stack_key(), self.quantile

    def elementwise(self, predictions: Tensor, targets: Tensor) -> Tensor:
        residuals = predictions - targets
        return torch.maximum((1 - self.quantile) * residuals, -self.quantile * residuals)

    def differentiate_(self, residuals: Tensor) -> None:
        # sign / 2 + (1 / 2 - quantile), and 0 for a residual of 0
        sign = residuals.sign()
        torch.add(sign / 2, sign.abs(), alpha=0.5 - self.quantile, out=residuals)


class CallableLoss(Loss):
    """A function of logits and targets, differentiated by autograd.

    Parameters
    ----------
    function : callable
        ``function(logits, targets)`` gives the loss of each row, of shape (n_rows,) or
        (n_rows, n_outputs), to be averaged; or, 0-d, the mean loss of all rows.
    replaced : Loss
        The loss it takes the place of, whose output activation and score remain.
    has_sample_weight : bool
        Whether rows are to be weighted, which a mean loss cannot be.
    """

    of_logits = True
    couples_rows = True

    def __init__(
        self, function: Callable[[Tensor, Tensor], Tensor], replaced: Loss, *, has_sample_weight: bool
    ) -> None:
        super().__init__(replaced.n_outputs)
        self._function, self._replaced, self._has_sample_weight = function, replaced, has_sample_weight
        self._is_checked = False
        self.out_activation = replaced.out_activation

    def stack_key(self) -> tuple[Hashable, ...]:
        function = function_key(self._function)
        return *super().stack_key(), function, self._replaced.stack_key(), self._has_sample_weight

    def to_delta_(self, predictions: Tensor, targets: Tensor, loss_terms: Tensor) -> None:
        n_rows = predictions.shape[-1]
        stacked = (t.reshape(-1, *t.shape[-2:]) for t in (predictions, targets, loss_terms))
        for logits, network_targets, terms in zip(*stacked, strict=True):  # one network after the other
            with torch.enable_grad():
                leaf = logits.detach().mT.clone().requires_grad_()
                losses = self._row_losses(leaf, network_targets.mT)
                (gradient,) = torch.autograd.grad(losses.sum(), leaf)
            terms.copy_(losses.detach().reshape(1, n_rows))
            logits.copy_(gradient.mT)

    def _row_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        losses = self._call(logits, targets)
        if not self._is_checked:
            self._check_rows(losses.detach(), logits.detach(), targets)
            self._is_checked = bool(losses.any())  # zeros, as of a first batch of one class, tell nothing
        return losses

    def _call(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Losses of rows, (n_rows,), from logits (n_rows, n_outputs) and targets (n_rows, n_targets)."""
        n_rows = len(logits)
        given = logits[:, 0] if self.n_outputs == 1 else logits, targets[:, 0] if targets.shape[1] == 1 else targets
        try:
            losses = self._function(*given)
        except Exception as error:
            error.add_note(f"`loss` was called as loss(predictions, targets), with {_shapes(given)}.")
            raise
        if not isinstance(losses, Tensor) or not losses.requires_grad:
            raise ValueError(f"A loss function must give a tensor made from the predictions, but gave {losses!r}.")
        if losses.ndim == 0 and not self._has_sample_weight:
            return losses.expand(n_rows)
        if losses.shape[:1] != (n_rows,):
            raise ValueError(
                f"A loss function must give the loss of each of the {n_rows} rows, or without weights their mean, but "
                f'gave a tensor of shape {tuple(losses.shape)}. With functions of PyTorch\'s pass reduction="none".'
            )
        return losses.flatten(1).mean(1) if losses.ndim > 1 else losses

    def _check_rows(self, losses: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Raise if the loss of a row depends on other rows, or a loss of all rows is not their mean, weighted or not.

        A function that draws random numbers cannot be checked.

        Raises
        ------
        ValueError
        """

        def losses_of(rows: Tensor, shift: Tensor | float = 0.0) -> Tensor:
            return self._call((logits[rows] + shift).requires_grad_(), targets[rows]).detach()

        rows = torch.arange(len(logits), device=logits.device)
        of_first = torch.zeros_like(logits[0]).index_fill_(0, rows[:1], 1.0)
        remedy = 'With functions of PyTorch pass reduction="none" or "mean".'
        if not (_close(losses_of(rows.repeat(2)), losses.repeat(2)) and _are_of_rows(losses_of, losses)):
            problem = (
                "must give the loss of each row by itself, or the mean over rows, but what it gives depends on which "
                "other rows there are, or on how many"
            )
        elif (
            self.out_activation == "logistic"
            and _close(losses_of(rows, shift=1.0), losses)
            and not _close(losses_of(rows, shift=of_first), losses)  # else no logit matters here
        ):
            problem = (
                "must be one of logistic outputs, but stays the same when all logits of a row grow alike, as for "
                "softmax outputs"
            )
        else:
            return
        if not all(_close(losses_of(rows), losses) for _ in range(_N_REPEATS)):
            return
        if self.out_activation == "logistic":
            remedy = (
                "For two classes, and for labels, torch.nn.functional.binary_cross_entropy_with_logits fits, but "
                f"cross_entropy does not. {remedy}"
            )
        called = f"It was called with {_shapes([values.squeeze(1) for values in (logits, targets)])}."
        raise ValueError(f"The loss function {problem}. {called} {remedy}")

    def row_losses(self, loss_terms: Tensor, targets: Tensor) -> Tensor:
        return loss_terms

    def score(self, predictions: Tensor, targets: Tensor, sample_weight: Tensor | None) -> Tensor:
        return self._replaced.score(predictions, targets, sample_weight)


def _clip_(probabilities: Tensor) -> Tensor:
    """Keep probabilities off 0 and 1 by the resolution of their dtype, as scikit-learn does."""
    eps = torch.finfo(probabilities.dtype).eps
    return probabilities.clamp_(eps, 1 - eps)


def weighted_mean(values: Tensor, sample_weight: Tensor | None, keepdim: bool = False) -> Tensor:
    """Weighted mean over rows, the last axis, in float64 where the device has it."""
    values = values.to(most_precise_dtype(values.device))
    if sample_weight is None:
        return values.mean(-1, keepdim=keepdim)
    return (values * sample_weight).sum(-1, keepdim=keepdim) / sample_weight.sum(-1, keepdim=keepdim)


def _are_of_rows(losses_of: Callable[[Tensor], Tensor], losses: Tensor) -> bool:
    """Whether losses are those of rows by themselves, or a mean over rows, as halves of the rows tell.

    For a mean, of weighted rows too, the halves A and B tell that of A, A and B.
    """
    rows = torch.arange(len(losses), device=losses.device)
    if len(rows) < 4:
        return True
    a, b = rows.tensor_split(2)
    of_a, of_b = losses_of(a), losses_of(b)
    if _close(torch.cat([of_a, of_b]), losses) or not (of_a.isfinite().all() and of_b.isfinite().all()):
        return True  # or the weighted mean of rows that all have no weight
    mean, mean_a, mean_b = losses[0], of_a[0], of_b[0]
    share_a = ((mean - mean_b) / (mean_a - mean_b)).nan_to_num(0.5)
    expected = mean_b + 2 * (mean - mean_b) / (1 + share_a.clamp(0, 1))
    is_between = _close(mean.clamp(torch.minimum(mean_a, mean_b), torch.maximum(mean_a, mean_b)), mean)
    return bool((losses == mean).all()) and is_between and _close(losses_of(torch.cat([a, a, b]))[0], expected)


def _close(values: Tensor, expected: Tensor) -> bool:
    """Whether they are equal up to rounding in float32."""
    return torch.allclose(values, expected, rtol=1e-3, atol=1e-6, equal_nan=True)


def _shapes(tensors: Sequence[Tensor]) -> str:
    """Shapes of predictions and targets, for a message."""
    predictions, targets = (tuple(tensor.shape) for tensor in tensors)
    return f"predictions of shape {predictions} and targets of shape {targets}"
