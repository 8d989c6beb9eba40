"""The epoch loop: a stack trains, and networks leave it when they stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from sktorch_mlp._data.batches import MiniBatches
from sktorch_mlp._data.rows import SEGMENT_ROWS
from sktorch_mlp._data.samples import TrainingData
from sktorch_mlp._data.streams import StreamedBatches
from sktorch_mlp._nn.network import StackedMLP
from sktorch_mlp._nn.tensors import StateDict, select_networks, without_gradients

from .fit import Fit
from .optimizers import Optimizer
from .schedules import Schedule
from .steps import Trainer
from .validation import Validator


@without_gradients
def train(
    fits: Sequence[Fit],
    check: Callable[[], None] = lambda: None,
    *,
    segment_rows: int = SEGMENT_ROWS,
    interrupts_all: bool = True,
) -> None:
    """Train fits with equal keys side by side as one stack. Each gets what it would get alone, up to rounding.

    A network stops when its training loss, or with early stopping its validation score,
    has not improved by `tol` for more than `n_iter_no_change` epochs, after `max_iter`
    epochs, when its observer says so, or when its loss is no longer finite. It then leaves
    the stack. With early stopping it keeps the parameters of its best epoch.

    Parameters
    ----------
    fits : sequence of Fit
        Their networks, optimizers, shufflers and progress change in place.
    check : callable, default=nothing
        Called before each epoch, or before a few short ones at once. It may raise KeyboardInterrupt to end training.
    segment_rows : int, default=2**17
        Rows that are laid out at once.
    interrupts_all : bool, default=True
        Whether a KeyboardInterrupt is that of all fits, as Ctrl-C is; else that of several is raised, as any other error.
    """
    for fit in fits:
        fit.progress.n_iter, fit.progress.stop_reason = 0, ""
    stack = _Stack(fits)
    trainer: Trainer | None = None
    validator: Validator | None = None
    try:
        while stack.members:
            if trainer is None:
                trainer, validator = stack.make_trainer(segment_rows), stack.make_validator()
            check()
            stack.begin_epoch()
            n_until_stop = stack.epochs_until_stop()
            n_epochs = trainer.epochs_at_once(n_until_stop)
            losses = trainer.run_epochs(n_epochs, is_followed=n_until_stop > n_epochs)
            stack.end_epochs(losses, validator)
            if stack.remove_stopped():
                trainer = validator = None  # buffers are as wide as the stack
    except KeyboardInterrupt:
        if len(fits) > 1 and not interrupts_all:
            raise
        for member in stack.members:
            member.fit.progress.stop_reason = "interrupted"
        stack.remove_stopped()


class _Member:
    """A fit in a stack."""

    def __init__(self, fit: Fit, schedule: Schedule) -> None:
        self.fit, self.schedule = fit, schedule
        self.options, self.progress, self.observer = fit.options, fit.progress, fit.observer
        self.n_rows = fit.n_rows
        self.best_epoch: StateDict | None = None  # state of its network
        self.log: list[str] = []

    def epochs_until_stop(self) -> int:
        """Epochs after which it may stop at the earliest, unless it diverges."""
        if self.observer is not None:
            return 1
        until_plateau = self.options.n_iter_no_change - self.progress.n_epochs_no_change + 1
        return int(max(1, min(until_plateau, self.options.max_iter - self.progress.n_iter)))


class _Stack:
    """The fits that are still in training, as one network, one optimizer and one set of data."""

    def __init__(self, fits: Sequence[Fit]) -> None:
        self._is_joined = len(fits) > 1
        optimizers: list[Optimizer] = [fit.optimizer for fit in fits if fit.optimizer is not None]
        if self._is_joined:
            for fit, optimizer in zip(fits, optimizers, strict=True):
                optimizer.allocate(fit.network)
            self._network = StackedMLP.join([fit.network for fit in fits])
            self._optimizer = type(optimizers[0]).join(optimizers)
            self._data = TrainingData.join([fit.data for fit in fits])
        else:
            self._network, self._optimizer, self._data = fits[0].network, optimizers[0], fits[0].data
        self.members = [_Member(fit, schedule) for fit, schedule in zip(fits, self._optimizer.schedules, strict=True)]
        self._began = 0.0

    def make_trainer(self, segment_rows: int) -> Trainer:
        """Make the buffers of training."""
        fits = [member.fit for member in self.members]
        options = [fit.options for fit in fits]
        hooks = next((fit.observer.batch_hooks for fit in fits if fit.observer is not None), None)
        make_minibatches = StreamedBatches if self._data.train.rows.is_streamed else MiniBatches
        minibatches = make_minibatches(
            self._data.train,
            [fit.shuffler for fit in fits],
            max(option.batch_size for option in options),
            # Hooks may change the learning rate of the next step, which a GPU gets segment by segment.
            longest_segment=None if hooks is None else 1,
            segment_rows=segment_rows,
            drop_last=any(option.drop_last for option in options),
            at_once=not self._looks_at_each_epoch(),
        )
        return Trainer(self._network, fits[0].loss, minibatches, options, self._optimizer, hooks)

    def make_validator(self) -> Validator | None:
        """Make the buffers of validation, if there are validation samples."""
        if self._data.validation is None:
            return None
        options = [member.options for member in self.members]
        return Validator(self._network, self.members[0].fit.loss, self._data.validation, options)

    def _looks_at_each_epoch(self) -> bool:
        """Whether the end of an epoch is more than a loss to record: a validation, an observer, a line, another rate."""
        return self._data.validation is not None or any(
            m.observer is not None or m.options.verbose or m.schedule.varies_by_epoch for m in self.members
        )

    def epochs_until_stop(self) -> int:
        """Epochs after which a network may stop at the earliest, unless it diverges."""
        return min(map(_Member.epochs_until_stop, self.members))

    def begin_epoch(self) -> None:
        """Tell observers, and start the clock."""
        for member in self.members:
            if member.observer is not None:
                member.observer.on_epoch_begin()
        self._began = time.perf_counter()

    def end_epochs(self, losses: Sequence[Sequence[float]], validator: Validator | None) -> None:
        """Record the epochs since `begin_epoch` with their losses, and decide who stops."""
        seconds = (time.perf_counter() - self._began) / len(losses)
        for losses_of_epoch in losses:
            # One that has diverged trains on until the end of a few epochs that are trained at once.
            training = [k for k, member in enumerate(self.members) if not member.progress.stop_reason]
            for k in training:
                self._record_loss(self.members[k], losses_of_epoch[k], seconds)
            if validator is not None:
                for member, (score, loss) in zip(self.members, validator(), strict=True):
                    self._record_validation(member, score, loss)
            for k in training:
                self._update_stopping(k)

    def _record_loss(self, member: _Member, loss: float, seconds: float) -> None:
        progress = member.progress
        progress.n_rows_seen += member.n_rows
        progress.add_epoch(loss, member.schedule.learning_rate, seconds)
        if member.options.verbose:
            self._log(member, f"Iteration {progress.n_iter}, loss = {loss:.8f}")

    def _record_validation(self, member: _Member, score: float, loss: float) -> None:
        progress = member.progress
        progress.validation_scores.append(score)
        progress.validation_losses.append(loss)
        progress.records[-1] |= {"validation_loss": loss, "validation_score": score}
        if member.options.verbose:
            self._log(member, f"Validation score: {score:f}")

    def _update_stopping(self, k: int) -> None:
        """Decide whether a network stops; with early stopping keep the state of its best epoch."""
        member = self.members[k]
        progress, options, observer = member.progress, member.options, member.observer
        if not math.isfinite(progress.loss_curve[-1]):
            progress.stop_reason = "diverged"
        elif not options.early_stopping:
            progress.update_best_loss(options.tol)
        elif progress.update_best_score(options.tol):
            member.best_epoch = select_networks(self._network.state_dict(), [k])
        member.schedule.end_epoch(progress.n_rows_seen)
        if not progress.stop_reason:
            if progress.n_epochs_no_change > options.n_iter_no_change and self._stops_at_plateau(member):
                progress.stop_reason = "converged"
            elif progress.n_iter == options.max_iter:
                progress.stop_reason = "max_iter"
        stops = observer is not None and observer.on_epoch_end(self._network, k)
        if stops and progress.stop_reason in ("", "max_iter"):
            progress.stop_reason = "stopped"

    def _stops_at_plateau(self, member: _Member) -> bool:
        """Stop, or go on with a smaller learning rate if the schedule has one."""
        stop, decision = member.schedule.on_plateau()
        options = member.options
        if options.verbose:
            criterion = "Validation score" if options.early_stopping else "Training loss"
            self._log(
                member,
                f"{criterion} did not improve more than tol={options.tol:f} "
                f"for {options.n_iter_no_change} consecutive epochs. {decision}",
            )
        if not stop:
            member.progress.n_epochs_no_change = 0
        return stop

    def remove_stopped(self) -> bool:
        """Let networks that have stopped go; return whether some did while others train on."""
        stopped = [k for k, member in enumerate(self.members) if member.progress.stop_reason]
        if not stopped:
            return False
        for k in stopped:
            self._write_back(k)
        staying = [k for k in range(len(self.members)) if k not in stopped]
        self.members = [self.members[k] for k in staying]
        if staying:
            self._network, self._optimizer = self._network.select(staying), self._optimizer.select(staying)
            self._data = self._data.select(staying)
        return bool(staying)

    def _write_back(self, k: int) -> None:
        """Give a fit what it has learned, or the best epoch of it."""
        member = self.members[k]
        if self._is_joined:
            network, optimizer = self._network.state_dict(), self._optimizer.state_dict()
            member.fit.network.load_state_dict(select_networks(network, [k]))
            if member.fit.optimizer is not None:
                member.fit.optimizer.load_state_dict(select_networks(optimizer, [k]))
        if member.best_epoch is not None:
            member.fit.network.load_state_dict(member.best_epoch)
        if member.log:
            print("\n".join(member.log))  # noqa: T201

    def _log(self, member: _Member, message: str) -> None:
        """Print a message; one of a stack is kept until its network stops, so that those of several do not mix."""
        if self._is_joined:
            member.log.append(message)
        else:
            print(message)  # noqa: T201
