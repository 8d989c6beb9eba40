"""skorch's callbacks: a net that is trained by our loop and tells its callbacks of it. Only this file imports skorch.

The net is skorch's own, so that callbacks find all they reach for: history, module, optimizer,
datasets, saving and loading. Its module has our parameters and gradients as its own; steps are
ours, which is why weights are the same with callbacks and without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet, NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback, EpochScoring, EpochTimer, LRScheduler
from skorch.callbacks.training import ParamMapper
from skorch.dataset import Dataset
from torch import Tensor, nn
from torch.utils.data import Subset

from ._data import Samples, TrainingData
from ._losses import Loss
from ._network import StackedMLP, sequential
from ._progress import BatchHooks, Progress
from ._schedules import Schedule

#: skorch's net and criterion, and what makes predictions of logits, by output activation
_NETS: dict[str, tuple[type[NeuralNet], type[nn.Module], Any]] = {
    "softmax": (NeuralNetClassifier, nn.CrossEntropyLoss, "auto"),
    "logistic": (NeuralNetBinaryClassifier, nn.BCEWithLogitsLoss, "auto"),
    "identity": (NeuralNetRegressor, nn.MSELoss, "auto"),
    "exp": (NeuralNetRegressor, nn.PoissonNLLLoss, torch.exp),
}
#: logits, up to a constant, of predictions by output activation
_INVERSES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": torch.log,
    "logistic": torch.logit,
    "identity": torch.clone,
    "exp": torch.log,
}
#: what our records hold under another name
_KNOWN = {"epoch", "batches", "dur", "train_loss", "valid_loss", "valid_score", "lr"}


class _Optimizer(torch.optim.Optimizer):
    """What schedulers of the learning rate take for the optimizer; training takes the steps."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure: Any = None) -> Any:
        """Nothing is left to be done."""

    def __getstate__(self) -> dict[str, Any]:
        """Without the parameters, which pickled schedulers would bring along."""
        state = super().__getstate__()
        return state | {"param_groups": [group | {"params": []} for group in state["param_groups"]]}


class _TrainedByUs:
    """A net whose module is trained already, and whose only callback of its own is a clock."""

    def get_default_callbacks(self) -> list[Any]:
        return [("epoch_timer", EpochTimer())]

    def initialize_optimizer(self, triggered_directly: Any = None) -> Any:
        self.optimizer_ = _Optimizer(self.module_.parameters(), self.lr)  # type: ignore[attr-defined]
        return self


class _Followed(Schedule):
    """A schedule until a callback changes the learning rate of the optimizer, then that."""

    def __init__(self, own: Schedule, optimizer: _Optimizer) -> None:
        super().__init__(own.learning_rate_init)
        self._own = own
        self._group = optimizer.param_groups[0]
        self._is_overridden = False

    @property
    def own(self) -> Schedule:
        """The schedule without its callbacks."""
        return self._own

    def next_rates(self, n_steps: int, n_steps_of_epoch: int) -> Iterator[float]:  # type: ignore[override]
        for rate in self.own.next_rates(n_steps, n_steps_of_epoch):
            self._is_overridden |= self._group["lr"] != self.learning_rate
            if not self._is_overridden:
                self._group["lr"] = rate
            self.learning_rate = float(self._group["lr"])
            yield self.learning_rate

    def epoch_ends(self, n_rows_seen: int) -> None:
        self.own.epoch_ends(n_rows_seen)
        self._take_from_own()

    def on_plateau(self) -> tuple[bool, str]:
        decision = self.own.on_plateau()
        self._take_from_own()
        return decision

    def _take_from_own(self) -> None:
        if not self._is_overridden and self._group["lr"] == self.learning_rate:
            self.learning_rate = self._group["lr"] = self.own.learning_rate


class SkorchObserver:
    """Tells skorch's callbacks of a fit, as `skorch.NeuralNet.fit` would.

    Parameters
    ----------
    callbacks : sequence
        As skorch takes them.
    network : StackedMLP
        Of one network; it stays the same object until the end.
    loss : Loss
    data : TrainingData
    progress : Progress
    learning_rate : float
    batch_size : int
    verbose : bool
        Whether callbacks may print.
    """

    trains_alone = True

    def __init__(
        self,
        callbacks: Sequence[Any],
        network: StackedMLP,
        loss: Loss,
        data: TrainingData,
        progress: Progress,
        learning_rate: float,
        batch_size: int,
        verbose: bool,
    ) -> None:
        self._loss, self._progress = loss, progress
        self._train, self._validation = _datasets(data, loss)
        whole = self._train.dataset if isinstance(self._train, Subset) else self._train
        self._X, self._y = _arrays(whole)  # what row numbers of batches are of
        self._validation_batch = None if self._validation is None else _batch(*_arrays(self._validation))
        base, criterion, nonlinearity = _NETS[loss.out_activation]
        if loss.out_activation == "logistic" and loss.n_outputs > 1:
            base = NeuralNet
        net_class: Any = type(base.__name__, (_TrainedByUs, base), {})
        self.net = net_class(
            _module_with_gradients(network),
            criterion=criterion,
            lr=learning_rate,
            batch_size=batch_size,
            callbacks=list(callbacks),
            predict_nonlinearity=nonlinearity,
            train_split=None,
            verbose=int(verbose),
            device=str(network.flat.device),
        ).initialize()
        self._frozen: list[tuple[Tensor, Tensor]] = []
        self._uses_batches = any(
            _uses(cb, "on_batch_begin", "on_batch_end", "on_grad_computed") for cb in self._callbacks
        )
        self._batch_rows: Iterator[Tensor] = iter(())
        self._batch: Any = None

    @property
    def _callbacks(self) -> list[Callback]:
        return [callback for _, callback in self.net.callbacks_]

    @property
    def batch_hooks(self) -> BatchHooks | None:
        """Itself, if a callback has to be told of each batch."""
        return self if any(map(_needs_steps, self._callbacks)) else None

    def follow(self, schedule: Schedule) -> Schedule:
        """A schedule that lets callbacks change the learning rate."""
        return _Followed(schedule, self.net.optimizer_)

    def begin(self) -> None:
        """The fit begins."""
        self.net.check_data(self._X, self._y)  # where classifiers find their classes
        self.net.notify("on_train_begin", X=self._X, y=self._y)

    def starts_over(self) -> None:
        """A network that trains alone does not."""

    def epoch_begins(self) -> None:
        """An epoch is about to begin."""
        self.net.optimizer_.step()  # schedulers of PyTorch warn if they come first
        self.net.notify("on_epoch_begin", **self._both())

    def batches_begin(self, rows: Sequence[Tensor]) -> None:
        """Steps are about to begin."""
        self._batch_rows = iter(rows)
        self._begin_batch()

    def gradient_is_there(self) -> None:
        """Let callbacks change the gradient."""
        self._frozen = [(p, p.detach().clone()) for p in self.net.module_.parameters() if not p.requires_grad]
        parameters = list(self.net.module_.named_parameters())
        self.net.notify("on_grad_computed", named_parameters=parameters, batch=self._batch, training=True)

    def batch_ends(self, outputs: Tensor, losses: Tensor) -> None:
        """A step has been taken; frozen parameters come back, whatever solver and penalty have done to them."""
        for parameter, value in self._frozen:
            parameter.data.copy_(value)
        logits = outputs if self._loss.of_logits else _INVERSES[self._loss.out_activation](outputs)
        self._end_batch(self._batch, "train", logits.T, losses.mean())
        self._begin_batch()

    def _begin_batch(self) -> None:
        rows = next(self._batch_rows, None)
        if rows is not None:
            chosen = rows.cpu().numpy()
            self._batch = _batch(self._X[chosen], self._y[chosen])
            self.net.notify("on_batch_begin", batch=self._batch, training=True)

    def _end_batch(self, batch: Any, prefix: str, y_pred: Tensor, loss: Tensor) -> None:
        if prefix == "train" and isinstance(self.net, NeuralNetBinaryClassifier):
            y_pred = y_pred.reshape(-1)
        self.net.history.record_batch(f"{prefix}_loss", float(loss))
        self.net.history.record_batch(f"{prefix}_batch_size", len(batch[0]))
        self.net.notify("on_batch_end", batch=batch, training=prefix == "train", loss=loss, y_pred=y_pred)

    def epoch_ends(self, network: StackedMLP, k: int) -> bool:
        """Record the epoch, and tell callbacks of it; True if one of them stops."""
        history, progress = self.net.history, self._progress
        if not history[-1]["batches"]:  # checkpoints want to see one, here all rows
            history.new_batch()
            history.record_batch("train_loss", progress.loss_curve[-1])
            history.record_batch("train_batch_size", len(self._train))
        if self._validation_batch is not None and self._uses_batches:
            self.net.notify("on_batch_begin", batch=self._validation_batch, training=False)
            y_pred = self.net.evaluation_step(self._validation_batch)
            self._end_batch(self._validation_batch, "valid", y_pred, torch.tensor(progress.validation_losses[-1]))
        _record(history, "train_loss", progress.loss_curve, min)
        history.record("lr", progress.records[-1]["learning_rate"])
        if self._validation is not None:
            _record(history, "valid_loss", progress.validation_losses, min)
            _record(history, "valid_score", progress.validation_scores, max)
        try:
            self.net.notify("on_epoch_end", **self._both())
        except KeyboardInterrupt:  # how skorch's callbacks stop
            return True
        finally:
            progress.records[-1] |= {
                name: value
                for name, value in history[-1].items()
                if name not in _KNOWN and not name.endswith(("_best", "_batch_count"))
            }
        return False

    def training_ends(self) -> None:
        """Training is over; callbacks may still change the network."""
        self.net.notify("on_train_end", X=self._X, y=self._y)

    def end(self) -> None:
        """The fit is done."""

    def _both(self) -> dict[str, Any]:
        return {"dataset_train": self._train, "dataset_valid": self._validation}


def _record(history: Any, name: str, values: list[float], best: Any) -> None:
    history.record(name, values[-1])
    history.record(f"{name}_best", len(values) == 1 or best(values[:-1]) != best(values))


def _module_with_gradients(network: StackedMLP) -> nn.Sequential:
    """The network as modules, whose parameters have our gradient as theirs."""
    module = network.member(0)
    coefs, intercepts = ([view[0] for view in views] for views in network.views(network.grad))
    norms = [[view[0] for view in pair] for pair in network.norm_views(network.grad)]
    gradients = sequential(coefs, intercepts, network.activations, norms)
    for parameter, gradient in zip(module.parameters(), gradients.parameters(), strict=True):
        parameter.grad = gradient.data
    return module


def _datasets(data: TrainingData, loss: Loss) -> tuple[Any, ...]:
    """Training and validation data as skorch's datasets; rows set aside as subsets."""
    whole = _dataset(data.train, loss)
    if data.validation is None:
        return whole, None
    if data.validation.targets is not data.train.targets:
        return whole, _dataset(data.validation, loss)
    parts: list[Any] = [part.indices[0] for part in (data.train, data.validation)]
    return tuple(Subset(whole, rows) for rows in parts)


def _arrays(dataset: Any) -> tuple[Any, Any]:
    """X and y of a dataset or a subset of one."""
    if not isinstance(dataset, Subset):
        return dataset.X, dataset.y
    X, y = _arrays(dataset.dataset)
    return X[dataset.indices], y[dataset.indices]


def _dataset(samples: Samples, loss: Loss) -> Dataset:
    X: Any = samples.rows.X
    if isinstance(X, Tensor):
        X = X.to(samples.rows.dtype).cpu().numpy()
    targets = samples.targets.cpu()
    if loss.out_activation == "softmax":
        y = targets[0] if len(targets) == 1 else targets.argmax(0)
    elif loss.out_activation == "logistic":
        y = (targets.T > 0.5).to(samples.rows.dtype).squeeze(1)
    else:
        y = targets.T
    return Dataset(X, y.numpy())


def _batch(X: Any, y: np.ndarray) -> tuple[Tensor, Tensor]:
    """A batch as a loader would give it."""
    return torch.from_numpy(X if isinstance(X, np.ndarray) else X.toarray()), torch.from_numpy(y)


def _uses(callback: Callback, *hooks: str) -> bool:
    return any(getattr(type(callback), hook, None) is not getattr(Callback, hook) for hook in hooks)


def _needs_steps(callback: Callback) -> bool:
    """Whether a callback has to be told of each training step; some of skorch's own look away."""
    if isinstance(callback, LRScheduler):
        return callback.step_every != "epoch"
    if isinstance(callback, EpochScoring):
        return callback.on_train
    if getattr(callback, "log_on_batch_end", True) is False:  # the loggers
        return False
    return isinstance(callback, ParamMapper) or _uses(callback, "on_batch_begin", "on_batch_end", "on_grad_computed")
