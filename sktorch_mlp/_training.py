"""The epoch loop: what a fit is given, what changes, and when it stops."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from ._capture import Captured
from ._data import MiniBatches, Samples, Segment, Shuffler, TrainingData
from ._gradients import ForwardPass, Gradient
from ._losses import OUTPUT_ACTIVATIONS, Loss, weighted_mean
from ._network import StackedMLP, lean
from ._solvers import Rate, Solver, add_scaled_, minimize_lbfgs


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


class _Penalty:
    """The L2 penalty of a stack, for the mini-batches of a segment; it concerns coefficients, not intercepts."""

    def __init__(self, network: StackedMLP, options: Sequence[TrainingOptions], segment: Segment) -> None:
        flat, coefs = network.flat.detach(), slice(0, network.n_coefs)
        self._coefs, self._coef_grads = lean(flat[:, coefs]), lean(network.grad[:, coefs])
        self._alphas = flat.new_tensor([option.alpha for option in options])
        self.is_zero = not self._alphas.any()
        self._segment = segment
        # (n_batches[, n_networks]) each
        self._square_norms, self._decays, self._shares = (_squeeze(torch.zeros_like(segment.totals)) for _ in range(3))
        self.follow_weights()
        #: what `add_gradient` is to be called with, batch by batch
        self.parts = list(zip(self._decays_by_batch(), self._square_norms.unbind(0), strict=True))

    def _decays_by_batch(self) -> Sequence[float | Tensor]:
        """Alpha over each batch's sum of weights; numbers if they stay and there is one network."""
        if self._decays.ndim > 1:
            return self._decays.unsqueeze(-1).unbind(0)
        return self._decays.unbind(0) if self._segment.reweighs else self._decays.tolist()

    def follow_weights(self) -> None:
        """Take the weights that the segment's mini-batches have now."""
        torch.div(lean(self._alphas), _squeeze(self._segment.totals), out=self._decays)
        torch.mul(self._decays, _squeeze(self._segment.shares) / 2, out=self._shares)

    def add_gradient(self, decay: float | Tensor, square_norm: Tensor) -> None:
        """Add a mini-batch's share to the gradient, and note the coefficients' square norm."""
        torch.linalg.vecdot(self._coefs, self._coefs, out=square_norm)
        add_scaled_(self._coef_grads, self._coefs, decay)

    def mean(self) -> Tensor:
        """Its part of the epoch's loss, 0-d or (n_networks,), from the norms noted."""
        return torch.linalg.vecdot(self._square_norms, self._shares, dim=0)


def _squeeze(values: Tensor) -> Tensor:
    """Drop the last axis, that of the networks, of a stack of one."""
    return values.squeeze(-1) if values.shape[-1] == 1 else values


class _Clip:
    """Scales each network's gradient down to a norm, as `torch.nn.utils.clip_grad_norm_` does."""

    def __init__(self, network: StackedMLP, norms: Sequence[float]) -> None:
        self._grads = network.grad
        self._norms = network.flat.detach().new_tensor(norms).unsqueeze(-1)

    def __call__(self) -> None:
        norms = torch.linalg.vector_norm(self._grads, dim=-1, keepdim=True)
        self._grads.mul_((self._norms / (norms + 1e-6)).clamp_(max=1.0))


class _SegmentPass:
    """Steps through the mini-batches of a segment, all networks of a stack side by side."""

    def __init__(
        self,
        network: StackedMLP,
        loss: Loss,
        segment: Segment,
        options: Sequence[TrainingOptions],
        solver: Solver | None,
        hooks: BatchHooks | None,
    ) -> None:
        self._loss, self._segment, self._solver, self._hooks = loss, segment, solver, hooks
        gradients = {size: Gradient(network, loss, size, keep_outputs=hooks is not None) for size in set(segment.sizes)}
        self._penalty = _Penalty(network, options, segment)
        clip_norms = [option.gradient_clip_norm for option in options]
        self._clip = _Clip(network, clip_norms) if any(map(math.isfinite, clip_norms)) else None
        n_networks, n_rows = network.n_networks, sum(segment.sizes)
        self._terms = lean(network.flat.detach().new_empty(n_networks, 1, n_rows))
        self._slots = [
            (gradients[size], *arguments)
            for size, *arguments in zip(
                segment.sizes,
                segment.target_parts,
                segment.scales,
                segment.totals.unbind(0),
                self._terms.split(segment.sizes, -1),
                self._penalty.parts,
                strict=True,
            )
        ]
        self._take_steps: Callable[..., Tensor] = self._take_steps_now
        can_be_captured = segment.can_be_captured and (solver is None or solver.can_be_captured)
        if can_be_captured and network.can_be_captured and not loss.couples_rows and hooks is None:
            self._take_steps = Captured(self._take_steps_now, network.flat.device)

    def __call__(self) -> Tensor:
        """Train on the segment; each network's part of the epoch's loss, 0-d or (n_networks,)."""
        if self._segment.reweighs:
            self._penalty.follow_weights()
        n_steps = len(self._slots)
        rates = itertools.repeat(0.0, n_steps) if self._solver is None else self._solver.rates(n_steps)
        return self._take_steps(rates)

    def _take_steps_now(self, rates: Iterable[Rate]) -> Tensor:
        penalised, add_penalty = not self._penalty.is_zero, self._penalty.add_gradient
        step = None if self._solver is None else self._solver.step
        clip, hooks = self._clip, self._hooks
        if hooks is not None:
            hooks.batches_begin(self._segment.row_parts)
        batches = zip(self._slots, self._segment.batches(), rates, strict=True)
        for (gradient, targets, scale, total, terms, penalty), batch, rate in batches:
            gradient(batch, targets, scale, total, terms)
            if penalised:
                add_penalty(*penalty)
            if clip is not None:
                clip()
            if hooks is not None:
                hooks.gradient_is_there()
            if step is not None:
                step(rate)
            if hooks is not None:
                hooks.batch_ends(gradient.kept_outputs, self._loss.row_losses(terms.clone(), targets))
        loss = self._segment.mean(self._loss.row_losses(self._terms, self._segment.targets))
        return loss + self._penalty.mean() if penalised else loss


class Trainer:
    """Steps through the training rows, an epoch a call, all networks of a stack side by side.

    Parameters
    ----------
    network : StackedMLP
    loss : Loss
    minibatches : MiniBatches
    options : sequence of TrainingOptions
        One a network.
    solver : Solver, default=None
        None to leave the parameters, and the gradient of the last mini-batch.
    hooks : BatchHooks, default=None
        What is called around each step.
    """

    def __init__(
        self,
        network: StackedMLP,
        loss: Loss,
        minibatches: MiniBatches,
        options: Sequence[TrainingOptions],
        solver: Solver | None = None,
        hooks: BatchHooks | None = None,
    ) -> None:
        if solver is not None:
            solver.bind(network, sum(len(segment.sizes) for segment in minibatches.segments))
        self._minibatches = minibatches
        self._passes = {
            segment: _SegmentPass(network, loss, segment, options, solver, hooks)
            for segment in dict.fromkeys(minibatches.segments)
        }

    def run_epoch(self, *, shuffle_ahead: bool = False) -> list[float]:
        """Train one epoch.

        Parameters
        ----------
        shuffle_ahead : bool, default=False
            Whether to shuffle for another epoch already while the device is at work.

        Returns
        -------
        list of float
            Each network's loss, penalty included: the losses of its batches, averaged over rows.
        """
        parts = [self._passes[segment]() for segment in self._minibatches.next_epoch()]
        if shuffle_ahead:
            self._minibatches.shuffle_ahead()
        total = parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
        return total.reshape(-1).tolist()


#: Rows validated at a time.
_VALIDATION_ROWS = 2**14


class Validator:
    """Judges a stack on the validation rows, each network on its own."""

    def __init__(self, network: StackedMLP, loss: Loss, samples: Samples, options: Sequence[TrainingOptions]) -> None:
        rows, target_rows = samples.stack(samples.indices)
        self._network, self._loss, self._options = network, loss, options
        blocks = rows.split(_VALIDATION_ROWS, -1)
        forwards = {n: ForwardPass(network, "identity", n) for n in {block.shape[-1] for block in blocks}}
        self._blocks = [(forwards[block.shape[-1]], samples.rows.take(block)) for block in blocks]
        self._activate_ = OUTPUT_ACTIVATIONS[loss.out_activation]
        self._targets = samples.take_targets(target_rows)
        self._terms = self._targets.new_empty((*rows.shape[:-1], 1, rows.shape[-1]), dtype=samples.rows.dtype)
        self._weights = None
        n_rows = torch.tensor([len(own) for own in samples.indices], device=rows.device)
        if samples.weights is not None or len(n_rows.unique()) > 1:
            present = lean(torch.arange(rows.shape[-1], device=rows.device) < n_rows.unsqueeze(-1))
            weights = (
                present.to(samples.rows.dtype) if samples.weights is None else present * samples.weights[target_rows]
            )
            self._weights = weights.unsqueeze(-2)

    def __call__(self) -> list[tuple[float, float]]:
        """Each network's score and loss; nan where a prediction is not finite."""
        logits = self._logits()
        predictions = self._activate_(logits.clone() if self._loss.of_logits else logits)
        own_scores = self._loss.score(predictions, self._targets, self._weights)
        self._loss.to_delta_(logits, self._targets, self._terms)  # for the terms
        row_losses = self._loss.row_losses(self._terms, self._targets)
        losses = weighted_mean(row_losses, self._weights).reshape(-1).tolist()
        scores = torch.atleast_1d(own_scores).tolist()
        return [
            (self._score(k, own_score, loss), loss)
            for k, (own_score, loss) in enumerate(zip(scores, losses, strict=True))
        ]

    def _logits(self) -> Tensor:
        if len(self._blocks) == 1:
            ((forward, batch),) = self._blocks
            return forward(batch)
        return torch.cat([forward(batch).clone() for forward, batch in self._blocks], -1)

    def _score(self, k: int, own_score: float, loss: float) -> float:
        options = self._options[k]
        if options.scores_loss:
            return -loss
        return own_score if options.scoring is None else options.scoring(self._network, k)


@torch.no_grad()
def train(
    network: StackedMLP,
    solver: Solver,
    loss: Loss,
    data: TrainingData,
    shufflers: Sequence[Shuffler],
    options: Sequence[TrainingOptions],
    progress: Sequence[Progress],
    observers: Sequence[Observer | None] = (),
    check: Callable[[], None] = lambda: None,
) -> None:
    """Train the networks of a stack until each has stopped; parameters change in place.

    A network stops when its training loss, or with early stopping its validation score,
    has not improved by `tol` for more than `n_iter_no_change` epochs, after `max_iter`
    epochs, when its observer says so, or when its loss is no longer finite. It then leaves
    the stack. With early stopping it keeps the parameters of its best epoch.

    Parameters
    ----------
    network : StackedMLP
    solver : Solver
    loss : Loss
    data : TrainingData
    shufflers, options, progress : sequence
        One a network.
    observers : sequence of Observer or None, default=()
        One a network; () for none.
    check : callable, default=nothing
        Called before each epoch; it may raise KeyboardInterrupt to end training.
    """
    for p in progress:
        p.n_iter, p.outcome = 0, "running"
    stack = _Stack(network, solver, data, shufflers, options, progress, observers or [None] * len(progress))
    trainer: Trainer | None = None
    validator: Validator | None = None
    shrunk = True
    try:
        while stack.progress:
            if trainer is None or shrunk:  # buffers are as wide as the stack
                trainer = validator = None  # the old ones first
                batch_size = max(option.batch_size for option in stack.options)
                hooks = next((observer.batch_hooks for observer in stack.observers if observer is not None), None)
                # Hooks may change the learning rate of the next step, which a GPU's are given by segment.
                longest = None if hooks is None else 1
                minibatches = MiniBatches(stack.data.train, stack.shufflers, batch_size, longest)
                trainer = Trainer(network, loss, minibatches, stack.options, solver, hooks)
                if stack.data.validation is not None:
                    validator = Validator(network, loss, stack.data.validation, stack.options)
            check()
            stack.begin_epoch()
            losses = trainer.run_epoch(shuffle_ahead=not stack.may_shrink())
            shrunk = stack.end_epoch(losses, validator)
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
        data: TrainingData,
        shufflers: Sequence[Shuffler],
        options: Sequence[TrainingOptions],
        progress: Sequence[Progress],
        observers: Sequence[Observer | None],
    ) -> None:
        self.network, self.solver, self.data = network, solver, data
        self.shufflers, self.options, self.progress = list(shufflers), list(options), list(progress)
        self.observers = list(observers)
        self._positions = list(range(len(progress)))  # in the stack as it was given
        self._dropout = network.dropout
        self._best: dict[int, Tensor] = {}  # position: state of the best epoch
        self._left: dict[int, tuple[Tensor, dict[str, Any]]] = {}  # position: state, solver state
        self._logs: list[list[str]] = [[] for _ in progress]
        self._began = 0.0

    def may_shrink(self) -> bool:
        """Whether a network may stop after the coming epoch, unless it diverges."""
        return any(
            p.n_epochs_no_change >= options.n_iter_no_change or p.n_iter + 1 >= options.max_iter or observer is not None
            for p, options, observer in zip(self.progress, self.options, self.observers, strict=True)
        )

    def begin_epoch(self) -> None:
        """Tell observers, and look at the clock."""
        for observer in filter(None, self.observers):
            observer.epoch_begins()
        self._began = time.perf_counter()

    def end_epoch(self, losses: list[float], validator: Validator | None) -> bool:
        """Record an epoch and let stopped networks go; True if some did while others train on."""
        seconds = time.perf_counter() - self._began
        for i, loss in enumerate(losses):
            self._note_loss(i, loss, seconds)
        if validator is not None:
            for i, (score, loss) in enumerate(validator()):
                self._note_validation(i, score, loss)
        for i in range(len(losses)):
            self._judge(i)
        return self._let_go()

    def _note_loss(self, i: int, loss: float, seconds: float) -> None:
        p, options, schedule = self.progress[i], self.options[i], self.solver.schedules[i]
        p.n_iter += 1
        p.n_rows_seen += len(self.data.train.indices[i])
        p.loss_curve.append(loss)
        rate = schedule.learning_rate
        p.records.append({"epoch": len(p.records) + 1, "loss": loss, "learning_rate": rate, "seconds": seconds})
        if options.verbose:
            self._log(i, f"Iteration {p.n_iter}, loss = {loss:.8f}")

    def _note_validation(self, i: int, score: float, loss: float) -> None:
        p = self.progress[i]
        p.validation_scores.append(score)
        p.validation_losses.append(loss)
        p.records[-1] |= {"validation_loss": loss, "validation_score": score}
        if self.options[i].verbose:
            self._log(i, f"Validation score: {score:f}")

    def _judge(self, i: int) -> None:
        """Decide whether a network trains on."""
        p, options, schedule, observer = self.progress[i], self.options[i], self.solver.schedules[i], self.observers[i]
        if not math.isfinite(p.loss_curve[-1]):
            p.outcome = "diverged"
        elif not options.early_stopping:
            p.follow_loss(options.tol)
        elif p.follow_score(options.tol):
            self._best[self._positions[i]] = self.network.state(i)
        schedule.epoch_ends(p.n_rows_seen)
        if p.outcome == "running":
            self._decide(i, p, options)
        if observer is not None and observer.epoch_ends(self.network, i) and p.outcome in ("running", "max_iter"):
            p.outcome = "stopped"

    def _decide(self, i: int, p: Progress, options: TrainingOptions) -> None:
        if p.n_epochs_no_change > options.n_iter_no_change:
            stop, decision = self.solver.schedules[i].on_plateau()
            criterion = "Validation score" if options.early_stopping else "Training loss"
            if options.verbose:
                self._log(
                    i,
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
        self._print_logs(leaving)
        if staying or self._left:
            self._record(leaving)
        if staying:
            self.network.keep(staying)
            self.solver.keep(staying)
            self.data = self.data.keep(staying)
        self.shufflers = [self.shufflers[i] for i in staying]
        self.options = [self.options[i] for i in staying]
        self.observers = [self.observers[i] for i in staying]
        self.progress = [self.progress[i] for i in staying]
        self._positions = [self._positions[i] for i in staying]
        return bool(staying)

    def _log(self, i: int, message: str) -> None:
        """Print a message, or keep it until the network leaves, so that those of several do not mix."""
        if len(self._logs) == 1:
            print(message)  # noqa: T201
        else:
            self._logs[self._positions[i]].append(message)

    def _print_logs(self, indices: Iterable[int]) -> None:
        lines = [line for i in indices for line in self._logs[self._positions[i]]]
        if lines:
            print("\n".join(lines))  # noqa: T201

    def _restore_best(self, indices: Iterable[int]) -> None:
        for i in indices:
            best = self._best.pop(self._positions[i], None)
            if best is not None:
                self.network.load_state(i, best)

    def _record(self, indices: Iterable[int]) -> None:
        for i in indices:
            self._left[self._positions[i]] = self.network.state(i), self.solver.state(i)

    def reassemble(self) -> None:
        """Put all networks back into the order in which they were given."""
        self._restore_best(range(len(self.progress)))
        self._print_logs(range(len(self.progress)))
        if self._left:
            self._record(range(len(self.progress)))
            networks, solvers = zip(*(self._left[position] for position in sorted(self._left)), strict=True)
            self.network.become(torch.stack(networks))
            self.network.dropout = self._dropout
            self.solver.restore(solvers)


@torch.no_grad()
def train_lbfgs(
    network: StackedMLP,
    loss: Loss,
    data: TrainingData,
    options: TrainingOptions,
    progress: Progress,
    *,
    max_fun: int,
    observer: Observer | None = None,
) -> scipy.optimize.OptimizeResult:
    """Minimise the loss of one network over all rows with L-BFGS; parameters change in place.

    An iteration is recorded, and told an observer, as an epoch is.

    Returns
    -------
    OptimizeResult
        scipy's report: the loss reached, the iterations, the reason of the end.
    """
    parameters = network.flat.detach()[0]
    (rows,) = data.train.indices
    minibatches = MiniBatches(data.train, [Shuffler(rows, None)], len(rows))
    trainer = Trainer(network, loss, minibatches, [options])

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        parameters.copy_(torch.from_numpy(x))
        (value,) = trainer.run_epoch()
        return value, network.grad[0].to("cpu", torch.float64, copy=True).numpy()

    began = time.perf_counter()

    def end_iteration(x: np.ndarray, value: float) -> bool:
        nonlocal began
        seconds, began = time.perf_counter() - began, time.perf_counter()
        progress.records.append({"epoch": len(progress.records) + 1, "loss": value, "seconds": seconds})
        if observer is None:
            return False
        observer.epoch_begins()
        parameters.copy_(torch.from_numpy(x))
        return observer.epoch_ends(network, 0)

    start = parameters.to("cpu", torch.float64, copy=True).numpy()
    result = minimize_lbfgs(
        objective, start, max_iter=options.max_iter, max_fun=max_fun, tol=options.tol, on_iteration=end_iteration
    )
    parameters.copy_(torch.from_numpy(result.x))
    return result
