"""How to train a network, what it has reached, and who is told: what training and its callers have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from torch import Tensor

from ._network import StackedMLP


@dataclass(frozen=True)
class TrainingOptions:
    """How to train one network of a stack; most field names are scikit-learn's.

    Networks of a stack have batches of one size, or one batch each.

    Attributes
    ----------
    early_stopping : bool
        Whether validation scores decide when to stop and which epoch is kept.
    gradient_clip_norm : float
        Largest norm of a gradient.
    scoring : callable or None
        ``scoring(network, k)`` scores the k-th network of a stack; None for the loss's own score.
    scores_loss : bool
        Whether the score is the validation loss, negated.
    """

    alpha: float
    batch_size: int
    max_iter: int
    tol: float
    n_iter_no_change: float
    verbose: bool = False
    early_stopping: bool = False
    gradient_clip_norm: float = math.inf
    scoring: Callable[[StackedMLP, int], float] | None = None
    scores_loss: bool = False


@dataclass
class Progress:
    """What training has reached with one network; a later fit may go on from it.

    Attributes
    ----------
    records : list of dict
        What is known of each epoch, those of earlier fits included.
    loss_curve : list of float
        One number an epoch.
    validation_losses, validation_scores : list of float
        One number for each epoch with validation rows.
    best_loss, best_validation_score : float
    best_n_iter : int
        Epoch of the best score, counted from the first fit on.
    n_epochs_no_change : int
        Epochs in a row without improvement by `tol`.
    n_iter : int
        Epochs of the present fit.
    n_rows_seen : int
        Rows trained on in all fits, scikit-learn's ``t_``.
    outcome : str
        "running"; then "converged", "max_iter", "stopped", "interrupted" or "diverged".
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    loss_curve: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    validation_scores: list[float] = field(default_factory=list)
    best_loss: float = math.inf
    best_validation_score: float = -math.inf
    best_n_iter: int = 0
    n_epochs_no_change: int = 0
    n_iter: int = 0
    n_rows_seen: int = 0
    outcome: str = "running"

    def mark(self) -> tuple[Progress, dict[str, int]]:
        """Note where training stands, for `rewind`; lists only grow, so their lengths will do."""
        return replace(self), {name: len(values) for name, values in vars(self).items() if isinstance(values, list)}

    def snapshot(self) -> Progress:
        """A copy that training does not change."""
        copies: dict[str, Any] = {name: [*values] for name, values in vars(self).items() if isinstance(values, list)}
        return replace(self, **copies | {"records": [dict(record) for record in self.records]})

    def rewind(self, mark: tuple[Progress, dict[str, int]]) -> None:
        """Go back to a mark."""
        before, lengths = mark
        for name, length in lengths.items():
            del getattr(self, name)[length:]
        vars(self).update(vars(before))

    def follow_loss(self, tol: float) -> None:
        """Count the last epoch as an improvement, or not, by its training loss."""
        loss = self.loss_curve[-1]
        self.n_epochs_no_change = self.n_epochs_no_change + 1 if loss > self.best_loss - tol else 0
        self.best_loss = min(self.best_loss, loss)

    def follow_score(self, tol: float) -> bool:
        """Count the last epoch by its validation score; True if it is the best yet."""
        score, best = self.validation_scores[-1], self.best_validation_score
        self.n_epochs_no_change = self.n_epochs_no_change + 1 if score < best + tol else 0
        if score > best:
            self.best_validation_score, self.best_n_iter = score, len(self.records)
        return score > best


class Observer(Protocol):
    """What watches the training of one network."""

    def starts_over(self) -> None:
        """The epochs so far do not count: training begins anew."""

    def epoch_begins(self) -> None:
        """An epoch is about to begin."""

    def epoch_ends(self, network: StackedMLP, k: int) -> bool:
        """An epoch has been recorded in the progress; True to stop.

        Parameters
        ----------
        network : StackedMLP
            The stack as it now is; valid during the call.
        k : int
            Place of the network in it.
        """
        ...

    @property
    def trains_alone(self) -> bool:
        """Whether the network is not to be one of a stack."""
        ...

    @property
    def batch_hooks(self) -> BatchHooks | None:
        """What is to be called around each step of a network that trains alone."""
        ...


class BatchHooks(Protocol):
    """What is called around each step of a network that trains alone."""

    def batches_begin(self, rows: Sequence[Tensor]) -> None:
        """Steps are about to begin, on the rows of these indices of the training data."""

    def gradient_is_there(self) -> None:
        """The gradient has been computed, and may be changed in place."""

    def batch_ends(self, outputs: Tensor, losses: Tensor) -> None:
        """The step has been taken; outputs (n_outputs, n_rows) and losses (1, n_rows) are those before it."""


class DivergenceError(ValueError):
    """Training has left the finite numbers."""

    def __init__(self, what_happened: str) -> None:
        super().__init__(
            "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
            f"preprocessed. {what_happened} Scale the features (and the target of a regressor), with StandardScaler for "
            "example, or lower learning_rate_init."
        )
