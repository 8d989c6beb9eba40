"""The epoch loop: what changes, who leaves the stack, and when it stops."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from ._data import MiniBatches, Samples, Shuffler, TrainingData
from ._gradients import ForwardPass
from ._losses import OUTPUT_ACTIVATIONS, Loss, weighted_mean
from ._network import StackedMLP, lean
from ._progress import Observer, Progress, TrainingOptions
from ._solvers import Solver, minimize_lbfgs
from ._steps import Trainer

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
