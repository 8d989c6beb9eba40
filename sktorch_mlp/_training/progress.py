"""How to train a network, and what training has reached."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sktorch_mlp._nn.network import StackedMLP
from sktorch_mlp._nn.tensors import StateDict

from .records import from_columns, to_array, to_columns, to_list

#: Record of an epoch: its number, losses, score, learning rate and seconds.
EpochRecord = dict[str, Any]


@dataclass(frozen=True)
class TrainingOptions:
    """How to train one network of a stack. Most names are those of scikit-learn.

    Networks of a stack have batches of one size, or one batch each.

    Attributes
    ----------
    early_stopping : bool
        Whether validation scores decide when to stop and which epoch is kept.
    gradient_clip_norm : float
        Largest norm of a gradient.
    max_fun : int
        Most evaluations of the loss; L-BFGS only.
    scoring : callable or None
        ``scoring(network, k)`` scores the k-th network of a stack; None for the score of the loss.
    scores_loss : bool
        Whether the score is the negated validation loss.
    logit_factors : tuple of float
        The score is the negated loss of the logits times the best of these factors; with `scores_loss` only.
    drop_last : bool
        Whether each epoch leaves out rows that do not make a whole batch. All networks of a stack do, or none.
    """

    alpha: float
    batch_size: int
    max_iter: int
    tol: float
    n_iter_no_change: float
    verbose: bool = False
    early_stopping: bool = False
    gradient_clip_norm: float = math.inf
    max_fun: int = 15000
    scoring: Callable[[StackedMLP, int], float] | None = None
    scores_loss: bool = False
    logit_factors: tuple[float, ...] = (1.0,)
    drop_last: bool = False


@dataclass
class Progress:
    """What training has reached with one network.

    That of a fit starts from the one before with `resume`, and is added to it by `extend`
    when training has succeeded. Until then a failure loses nothing.

    Attributes
    ----------
    records : list of dict
        One for each epoch.
    loss_curve : list of float
        One number for each epoch.
    validation_losses, validation_scores : list of float
        One number for each epoch with validation samples.
    n_epochs_before : int
        Epochs of earlier fits.
    best_loss, best_validation_score : float
        Over all fits.
    best_n_iter : int
        Epoch of the best score, counted from the first fit on.
    n_epochs_no_change : int
        Epochs in a row without improvement by `tol`.
    n_iter : int
        Epochs of the present fit.
    n_rows_seen : int
        Rows trained on in all fits; scikit-learn's ``t_``.
    stop_reason : str
        "" in training; then "converged", "max_iter", "stopped", "interrupted" or "diverged".
    """

    records: list[EpochRecord] = field(default_factory=list)
    loss_curve: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    validation_scores: list[float] = field(default_factory=list)
    n_epochs_before: int = 0
    best_loss: float = math.inf
    best_validation_score: float = -math.inf
    best_n_iter: int = 0
    n_epochs_no_change: int = 0
    n_iter: int = 0
    n_rows_seen: int = 0
    stop_reason: str = ""

    @property
    def n_epochs(self) -> int:
        """Epochs of all fits."""
        return self.n_epochs_before + len(self.records)

    def resume(self) -> Progress:
        """Progress of a further fit, which has no epochs yet."""
        return Progress(
            n_epochs_before=self.n_epochs,
            best_loss=self.best_loss,
            best_validation_score=self.best_validation_score,
            best_n_iter=self.best_n_iter,
            n_epochs_no_change=self.n_epochs_no_change,
            n_rows_seen=self.n_rows_seen,
        )

    def extend(self, further: Progress) -> None:
        """Add the progress of a further fit."""
        curves = {name: value for name, value in vars(self).items() if isinstance(value, list)}
        for name, values in curves.items():
            values += getattr(further, name)
        vars(self).update(vars(further) | curves | {"n_epochs_before": self.n_epochs_before})

    def state_dict(self) -> StateDict:
        """All fields; lists and records are copied."""
        state = {name: [*value] if isinstance(value, list) else value for name, value in vars(self).items()}
        return state | {"records": [dict(record) for record in self.records]}

    def load_state_dict(self, state: StateDict) -> None:
        """Set all fields to those of a state, which is copied."""
        vars(self).update(Progress(**state).state_dict())

    def __getstate__(self) -> dict[str, Any]:
        """All fields as plain values: curves as arrays, records as columns."""
        curves = {name: to_array(value) for name, value in vars(self).items() if isinstance(value, list)}
        return vars(self) | curves | {"records": to_columns(self.records)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        curves = {name: to_list(value) for name, value in state.items() if isinstance(value, np.ndarray | list)}
        vars(self).update(state | curves | {"records": from_columns(state["records"])})

    def add_epoch(self, loss: float, learning_rate: float, seconds: float) -> None:
        """Record an epoch with its training loss."""
        self.n_iter += 1
        self.loss_curve.append(loss)
        epoch = self.n_epochs + 1
        self.records.append({"epoch": epoch, "loss": loss, "learning_rate": learning_rate, "seconds": seconds})

    def update_best_loss(self, tol: float) -> None:
        """Count the last epoch as an improvement, or not, by its training loss."""
        loss = self.loss_curve[-1]
        self.n_epochs_no_change = self.n_epochs_no_change + 1 if loss > self.best_loss - tol else 0
        self.best_loss = min(self.best_loss, loss)

    def update_best_score(self, tol: float) -> bool:
        """Count the last epoch by its validation score; return whether it is the best yet."""
        score, best = self.validation_scores[-1], self.best_validation_score
        self.n_epochs_no_change = self.n_epochs_no_change + 1 if score < best + tol else 0
        if score > best:
            self.best_validation_score, self.best_n_iter = score, self.n_epochs
        return score > best


class DivergenceError(ValueError):
    """The loss or the weights are no longer finite.

    Parameters
    ----------
    what_happened : str
    cause : str, default="The input data may contain large values ..."
        What is likely to have led there.
    remedy : str, default="Scale the features ..."
        What the user can do.
    """

    def __init__(
        self,
        what_happened: str,
        cause: str = "The input data may contain large values and need to be preprocessed.",
        remedy: str = "Scale the features (and the target of a regressor), with StandardScaler for example, or lower "
        "learning_rate_init.",
    ) -> None:
        super().__init__(f"Solver produced non-finite parameter weights. {cause} {what_happened} {remedy}")
        self._parts = what_happened, cause, remedy

    def __reduce__(self) -> tuple[Any, ...]:
        """Make it from its parts, as a process does that gets it from another; it would take the message for the first of them."""
        return type(self), self._parts, vars(self)
