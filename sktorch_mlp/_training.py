"""The epoch loop: what a fit is given, what changes, and when it stops."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.optimize
import torch
from torch import Tensor, nn

from ._arrays import as_tensor
from ._data import Epoch, MiniBatches, Shuffler, TrainingData
from ._gradients import ClosedForm, ForwardPass
from ._losses import Loss
from ._network import StackedMLP, lean
from ._solvers import Solver, add_scaled_, minimize_lbfgs, per_network


@dataclass(frozen=True)
class TrainingOptions:
    """How to train one network of a stack; the field names are scikit-learn's.

    `batch_size` must be the same for all networks of a stack.
    """

    alpha: float
    batch_size: int
    max_iter: int
    tol: float
    n_iter_no_change: float
    verbose: bool = False


@dataclass
class Progress:
    """What training has reached with one network; a later fit may go on from it.

    Attributes
    ----------
    loss_curve, validation_scores : list of float
        One number an epoch.
    best_loss, best_validation_score : float
    n_epochs_no_change : int
        Epochs in a row without improvement by `tol`.
    n_iter : int
        Epochs of the present fit.
    n_rows_seen : int
        Rows trained on in all fits, scikit-learn's ``t_``.
    outcome : str
        "running"; then "converged", "max_iter", "interrupted" or "diverged".
    """

    loss_curve: list[float] = field(default_factory=list)
    validation_scores: list[float] = field(default_factory=list)
    best_loss: float = math.inf
    best_validation_score: float = -math.inf
    n_epochs_no_change: int = 0
    n_iter: int = 0
    n_rows_seen: int = 0
    outcome: str = "running"

    def mark(self) -> tuple[Progress, int, int]:
        """Note where training stands, for `rewind`; lists only grow, so their lengths will do."""
        return replace(self), len(self.loss_curve), len(self.validation_scores)

    def rewind(self, mark: tuple[Progress, int, int]) -> None:
        """Go back to a mark."""
        before, n_losses, n_scores = mark
        del self.loss_curve[n_losses:]
        del self.validation_scores[n_scores:]
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
        self.best_validation_score = max(best, score)
        return score > best


class DivergenceError(ValueError):
    """Training has left the finite numbers."""

    def __init__(self, what_happened: str) -> None:
        super().__init__(
            "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
            f"preprocessed. {what_happened} Scale the features (and the target of a regressor), with StandardScaler for "
            "example, or lower learning_rate_init."
        )


class _Penalty:
    """The L2 penalty of a stack: it concerns the slice of coefficients, not the intercepts."""

    def __init__(self, network: StackedMLP, options: Sequence[TrainingOptions]) -> None:
        flat, coefs = network.flat.detach(), slice(0, network.n_coefs)
        alphas = [option.alpha for option in options]
        self._coefs, self._coef_grads = lean(flat[:, coefs]), lean(network.grad[:, coefs])
        self._alpha, self._half_alpha = per_network(alphas, flat), 0.5 * flat.new_tensor(alphas)
        self._is_zero = not any(alphas)

    def add_gradient(self, total: float | Tensor, square_norm: Tensor) -> None:
        """Add its gradient for a batch of this weight, and note the coefficients' square norm."""
        if not self._is_zero:
            torch.linalg.vecdot(self._coefs, self._coefs, out=square_norm)
            add_scaled_(self._coef_grads, self._coefs, self._alpha / total)

    def values(self, square_norms: Tensor) -> Tensor:
        """Penalties of shape (n_batches, n_networks), from the norms noted."""
        return self._half_alpha * square_norms


class Trainer:
    """Steps through the training rows, an epoch a call, all networks of a stack side by side."""

    def __init__(
        self,
        network: StackedMLP,
        solver: Solver,
        loss: Loss,
        data: TrainingData,
        shufflers: Sequence[Shuffler],
        options: Sequence[TrainingOptions],
    ) -> None:
        self._loss, self._solver = loss, solver
        self._minibatches = MiniBatches(data, shufflers, options[0].batch_size)
        sizes = self._minibatches.sizes
        gradients = {size: ClosedForm(network, loss, size) for size in set(sizes)}
        solver.bind(network)

        flat = network.flat.detach()
        self._penalty = _Penalty(network, options)
        self._square_norms = flat.new_zeros(len(sizes), network.n_networks)
        self._terms = lean(flat.new_empty(network.n_networks, 1, sum(sizes)))
        norms = self._square_norms.squeeze(-1) if network.n_networks == 1 else self._square_norms
        steps = [gradients[size] for size in sizes]
        self._slots = list(zip(steps, self._terms.split(sizes, -1), norms.unbind(0), strict=True))

    def run_epoch(self) -> list[float]:
        """Train one epoch.

        Returns
        -------
        list of float
            Each network's loss, penalty included: the losses of its batches, averaged over rows.
        """
        epoch = self._minibatches.next_epoch()
        add_penalty, step = self._penalty.add_gradient, self._solver.step
        steps = zip(self._slots, epoch.batches, epoch.target_parts, epoch.scales, epoch.totals, strict=True)
        for (gradient, terms, square_norm), batch, targets, scale, total in steps:
            gradient(batch, targets, scale, terms)
            add_penalty(total, square_norm)
            step()
        row_losses = self._loss.row_losses(self._terms, epoch.targets)
        return epoch.mean(row_losses, self._penalty.values(self._square_norms)).tolist()


class Validator:
    """Scores a stack on the validation rows."""

    def __init__(self, network: StackedMLP, loss: Loss, data: TrainingData) -> None:
        assert data.validation is not None
        rows = as_tensor(data.validation, data.rows.device)
        self._loss = loss
        self._forward = ForwardPass(network, loss, len(rows))
        self._batch = data.rows[data.validation].whole(network.n_networks)
        self._targets = data.targets.index_select(-1, rows)
        self._weights = None if data.weights is None else data.weights[rows]

    def scores(self) -> list[float]:
        """Each network's accuracy or R²; nan where a prediction is not finite."""
        predictions = self._forward(self._batch)
        scores = self._loss.score(predictions, self._targets, self._weights)
        return torch.atleast_1d(scores).tolist()


@torch.no_grad()
def train(
    network: StackedMLP,
    solver: Solver,
    loss: Loss,
    data: TrainingData,
    shufflers: Sequence[Shuffler],
    options: Sequence[TrainingOptions],
    progress: Sequence[Progress],
) -> None:
    """Train the networks of a stack until each has stopped; parameters change in place.

    A network stops when its training loss, or with validation rows its score, has not
    improved by `tol` for more than `n_iter_no_change` epochs, after `max_iter` epochs,
    or when its loss is no longer finite. It then leaves the stack. Where there are
    validation rows it keeps the parameters of its best epoch.

    Parameters
    ----------
    network : StackedMLP
    solver : Solver
    loss : Loss
    data : TrainingData
    shufflers, options, progress : sequence
        One a network.
    """
    for p in progress:
        p.n_iter, p.outcome = 0, "running"
    stack = _Stack(network, solver, shufflers, options, progress)
    shrunk = True
    try:
        while stack.progress:
            if shrunk:  # buffers are as wide as the stack
                trainer = Trainer(network, solver, loss, data, stack.shufflers, stack.options)
                validator = None if data.validation is None else Validator(network, loss, data)
            losses = trainer.run_epoch()
            scores = None if validator is None else validator.scores()
            shrunk = stack.end_epoch(losses, scores, len(data.train))
    except KeyboardInterrupt:
        for p in stack.progress:
            p.outcome = "interrupted"
    stack.reassemble()


class _Stack:
    """The networks still training, and what became of those that have left."""

    def __init__(
        self,
        network: StackedMLP,
        solver: Solver,
        shufflers: Sequence[Shuffler],
        options: Sequence[TrainingOptions],
        progress: Sequence[Progress],
    ) -> None:
        self.network, self.solver = network, solver
        self.shufflers, self.options, self.progress = list(shufflers), list(options), list(progress)
        self._positions = list(range(len(progress)))  # in the stack as it was given
        self._best: dict[int, Tensor] = {}  # position: parameters of the best epoch
        self._left: dict[int, tuple[Tensor, dict[str, Any]]] = {}  # position: parameters, solver state

    def end_epoch(self, losses: list[float], scores: list[float] | None, n_rows: int) -> bool:
        """Record an epoch and let stopped networks go; True if some did while others train on."""
        for i, (p, options) in enumerate(zip(self.progress, self.options, strict=True)):
            p.n_iter += 1
            p.n_rows_seen += n_rows
            p.loss_curve.append(losses[i])
            _log(options, f"Iteration {p.n_iter}, loss = {losses[i]:.8f}")
            if scores is not None:
                p.validation_scores.append(scores[i])
                _log(options, f"Validation score: {scores[i]:f}")
            if not math.isfinite(losses[i]):
                p.outcome = "diverged"
            elif scores is None:
                p.follow_loss(options.tol)
            elif p.follow_score(options.tol):
                self._best[self._positions[i]] = self.network.flat[i].detach().clone()
        self.solver.epoch_ends([p.n_rows_seen for p in self.progress])
        for i, (p, options) in enumerate(zip(self.progress, self.options, strict=True)):
            if p.outcome == "running":
                self._decide(i, p, options, "Training loss" if scores is None else "Validation score")
        return self._let_go()

    def _decide(self, i: int, p: Progress, options: TrainingOptions, criterion: str) -> None:
        if p.n_epochs_no_change > options.n_iter_no_change:
            stop, decision = self.solver.on_plateau(i)
            _log(
                options,
                f"{criterion} did not improve more than tol={options.tol:f} "
                f"for {options.n_iter_no_change} consecutive epochs. {decision}",
            )
            if stop:
                p.outcome = "converged"
                return
            p.n_epochs_no_change = 0
        if p.n_iter == options.max_iter:
            p.outcome = "max_iter"

    def _let_go(self) -> bool:
        staying = [i for i, p in enumerate(self.progress) if p.outcome == "running"]
        if len(staying) == len(self.progress):
            return False
        leaving = [i for i, p in enumerate(self.progress) if p.outcome != "running"]
        self._restore_best(leaving)
        if staying or self._left:
            self._record(leaving)
        if staying:
            self.network.keep(staying)
            self.solver.keep(staying)
        self.shufflers = [self.shufflers[i] for i in staying]
        self.options = [self.options[i] for i in staying]
        self.progress = [self.progress[i] for i in staying]
        self._positions = [self._positions[i] for i in staying]
        return bool(staying)

    def _restore_best(self, indices: Iterable[int]) -> None:
        for i in indices:
            best = self._best.pop(self._positions[i], None)
            if best is not None:
                self.network.flat[i].copy_(best)

    def _record(self, indices: Iterable[int]) -> None:
        for i in indices:
            self._left[self._positions[i]] = self.network.flat[i].detach().clone(), self.solver.state(i)

    def reassemble(self) -> None:
        """Put all networks back into the order in which they were given."""
        self._restore_best(range(len(self.progress)))
        if self._left:
            self._record(range(len(self.progress)))
            parameters, states = zip(*(self._left[position] for position in sorted(self._left)), strict=True)
            self.network.flat = nn.Parameter(torch.stack(parameters))
            self.solver.restore(states)


def _log(options: TrainingOptions, message: str) -> None:
    if options.verbose:
        print(message)  # noqa: T201


@torch.no_grad()
def train_lbfgs(
    network: StackedMLP,
    loss: Loss,
    data: TrainingData,
    options: TrainingOptions,
    *,
    max_fun: int,
) -> scipy.optimize.OptimizeResult:
    """Minimise the loss of one network over all rows with L-BFGS; parameters change in place.

    Returns
    -------
    OptimizeResult
        scipy's report: the loss reached, the iterations, the reason of the end.
    """
    parameters = network.flat.detach()[0]
    gradient = ClosedForm(network, loss, len(data.rows))
    batch = data.rows.whole()
    terms = parameters.new_empty(1, len(data.rows))
    epoch = Epoch([len(data.rows)], [batch], data.targets, None if data.weights is None else data.weights.unsqueeze(0))
    penalty, square_norm = _Penalty(network, [options]), parameters.new_zeros(())

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        parameters.copy_(torch.from_numpy(x))
        gradient(batch, data.targets, epoch.scales[0], terms)
        penalty.add_gradient(epoch.totals[0], square_norm)
        value = epoch.mean(loss.row_losses(terms, data.targets), penalty.values(square_norm.view(1, 1))).item()
        return value, network.grad[0].to("cpu", torch.float64, copy=True).numpy()

    start = parameters.to("cpu", torch.float64, copy=True).numpy()
    result = minimize_lbfgs(objective, start, max_iter=options.max_iter, max_fun=max_fun, tol=options.tol)
    parameters.copy_(torch.from_numpy(result.x))
    return result
