"""skorch's callbacks: a net of skorch that our loop trains, and that tells its callbacks.

The net is one of skorch's classes, so that callbacks find all they use: history, module,
optimizer, datasets, saving and loading. Its module has our parameters and gradients. The steps
are ours, so weights are the same with callbacks and without.
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

from sktorch_mlp._data.samples import Samples, TrainingData
from sktorch_mlp._nn.losses import Loss
from sktorch_mlp._nn.modules import sequential
from sktorch_mlp._nn.network import StackedMLP
from sktorch_mlp._nn.tensors import StateDict
from sktorch_mlp._training.fit import Fit
from sktorch_mlp._training.observers import BatchHooks
from sktorch_mlp._training.schedules import Schedule

#: Logits, up to a constant, from predictions, for each output activation.
_INVERSES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": torch.log,
    "logistic": torch.logit,
    "identity": torch.clone,
    "exp": torch.log,
}
#: Columns of skorch's history that our records hold under another name.
_KNOWN = {"epoch", "batches", "dur", "train_loss", "valid_loss", "valid_score", "lr"}


class _Optimizer(torch.optim.Optimizer):
    """Stands for the optimizer where schedulers of the learning rate ask for one. Training takes the steps."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure: Any = None) -> Any:
        """Do nothing."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the parameters, which pickled schedulers would take along."""
        state = super().__getstate__()
        return state | {"param_groups": [group | {"params": []} for group in state["param_groups"]]}


class _TrainedElsewhere:
    """Mixin for a net that does not train its module, and whose only default callback is a clock."""

    def get_default_callbacks(self) -> list[Any]:
        return [("epoch_timer", EpochTimer())]

    def initialize_optimizer(self, triggered_directly: Any = None) -> Any:
        self.optimizer_ = _Optimizer(self.module_.parameters(), self.lr)  # type: ignore[attr-defined]
        return self


class _Net(_TrainedElsewhere, NeuralNet):
    """`skorch.NeuralNet`, with a name by which it can be pickled."""


class _Classifier(_TrainedElsewhere, NeuralNetClassifier):
    """`skorch.NeuralNetClassifier`, likewise."""


class _BinaryClassifier(_TrainedElsewhere, NeuralNetBinaryClassifier):
    """`skorch.NeuralNetBinaryClassifier`, likewise."""


class _Regressor(_TrainedElsewhere, NeuralNetRegressor):
    """`skorch.NeuralNetRegressor`, likewise."""


#: Net, criterion and `predict_nonlinearity` for each output activation.
_NETS: dict[str, tuple[Any, type[nn.Module], Any]] = {
    "softmax": (_Classifier, nn.CrossEntropyLoss, "auto"),
    "logistic": (_BinaryClassifier, nn.BCEWithLogitsLoss, "auto"),
    "identity": (_Regressor, nn.MSELoss, "auto"),
    "exp": (_Regressor, nn.PoissonNLLLoss, torch.exp),
}


class _CallbackSchedule(Schedule):
    """A schedule until a callback changes the learning rate of the optimizer, from then on that rate."""

    def __init__(self, inner: Schedule, optimizer: _Optimizer) -> None:
        super().__init__(inner.learning_rate_init)
        self._inner = inner
        self._group = optimizer.param_groups[0]
        self._is_overridden = False

    @property
    def inner(self) -> Schedule:
        """The schedule without its callbacks."""
        return self._inner

    def state_dict(self) -> StateDict:
        """State of the inner schedule."""
        return self._inner.state_dict()

    def load_state_dict(self, state: StateDict) -> None:
        """Set the inner schedule to a state."""
        self._inner.load_state_dict(state)

    def next_rates(self, n_steps: int, n_steps_of_epoch: int) -> Iterator[float]:
        for rate in self._inner.next_rates(n_steps, n_steps_of_epoch):
            self._is_overridden |= self._group["lr"] != self.learning_rate
            if not self._is_overridden:
                self._group["lr"] = rate
            self.learning_rate = float(self._group["lr"])
            yield self.learning_rate

    def end_epoch(self, n_rows_seen: int) -> None:
        self._inner.end_epoch(n_rows_seen)
        self._update()

    def on_plateau(self) -> tuple[bool, str]:
        decision = self._inner.on_plateau()
        self._update()
        return decision

    def _update(self) -> None:
        if not self._is_overridden and self._group["lr"] == self.learning_rate:
            self.learning_rate = self._group["lr"] = self._inner.learning_rate


class SkorchObserver:
    """Tells skorch's callbacks of a fit, as `skorch.NeuralNet.fit` would.

    Parameters
    ----------
    callbacks : sequence
        As skorch takes them.
    fit : Fit
        Its network stays the same object until the end.
    learning_rate : float
        At the start.
    """

    trains_alone = True

    def __init__(self, callbacks: Sequence[Any], fit: Fit, learning_rate: float) -> None:
        loss = self._loss = fit.loss
        self._progress = fit.progress
        self._train, self._validation = _datasets(fit.data, loss)
        whole = self._train.dataset if isinstance(self._train, Subset) else self._train
        self._X, self._y = _arrays(whole)  # indices of batches are of these
        self._validation_batch = None if self._validation is None else _batch(*_arrays(self._validation))
        net_class, criterion, nonlinearity = _NETS[loss.out_activation]
        if loss.out_activation == "logistic" and loss.n_outputs > 1:
            net_class = _Net
        self.net = net_class(
            _module_with_gradients(fit.network),
            criterion=criterion,
            lr=learning_rate,
            batch_size=fit.options.batch_size,
            callbacks=list(callbacks),
            predict_nonlinearity=nonlinearity,
            train_split=None,
            verbose=int(fit.options.verbose),
            device=str(fit.network.device),
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

    def wrap_schedule(self, schedule: Schedule) -> Schedule:
        """Return a schedule that lets callbacks change the learning rate."""
        return _CallbackSchedule(schedule, self.net.optimizer_)

    def on_train_begin(self) -> None:
        """The fit begins."""
        self.net.check_data(self._X, self._y)  # where classifiers find their classes
        self.net.notify("on_train_begin", X=self._X, y=self._y)

    def on_restart(self) -> None:
        """A network that trains alone does not begin again."""

    def on_epoch_begin(self) -> None:
        """An epoch is about to begin."""
        self.net.optimizer_.step()  # schedulers of PyTorch warn if they come first
        self.net.notify("on_epoch_begin", **self._both())

    def on_segment_begin(self, batch_rows: Sequence[Tensor]) -> None:
        """Steps are about to begin."""
        self._batch_rows = iter(batch_rows)
        self._begin_batch()

    def on_grad_computed(self) -> None:
        """Let callbacks change the gradient."""
        self._frozen = [(p, p.detach().clone()) for p in self.net.module_.parameters() if not p.requires_grad]
        parameters = list(self.net.module_.named_parameters())
        self.net.notify("on_grad_computed", named_parameters=parameters, batch=self._batch, training=True)

    def on_batch_end(self, outputs: Tensor, losses: Tensor) -> None:
        """A step has been taken. Restore frozen parameters, which optimizer and penalty may have moved."""
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

    def on_epoch_end(self, network: StackedMLP, k: int) -> bool:
        """Record the epoch, and tell callbacks. Return whether one of them stops training."""
        history, progress = self.net.history, self._progress
        if not history[-1]["batches"]:  # checkpoints want to see one, here all rows
            history.new_batch()
            history.record_batch("train_loss", progress.loss_curve[-1])
            history.record_batch("train_batch_size", len(self._train))
        if self._validation_batch is not None and self._uses_batches:
            self.net.notify("on_batch_begin", batch=self._validation_batch, training=False)
            y_pred = self.net.evaluation_step(self._validation_batch)
            self._end_batch(
                self._validation_batch, "valid", y_pred, torch.tensor(progress.validation_losses[-1], device="cpu")
            )
        _record(history, "train_loss", progress.loss_curve, min)
        history.record("lr", progress.records[-1]["learning_rate"])
        if self._validation is not None:
            _record(history, "valid_loss", progress.validation_losses, min)
            _record(history, "valid_score", progress.validation_scores, max)
        try:
            self.net.notify("on_epoch_end", **self._both())
        except KeyboardInterrupt:  # how skorch's callbacks stop
            return True
        except KeyError as error:
            if "not found in history" not in str(error):
                raise
            names = sorted(name for name in history[-1] if name != "batches" and not name.endswith("_batch_count"))
            remedy = (
                "" if self._validation else " For a validation loss pass X_val and y_val, or set early_stopping=True."
            )
            raise ValueError(f"{error.args[0]} Callbacks of skorch can monitor {names}.{remedy}") from error
        finally:
            progress.records[-1] |= {
                name: value
                for name, value in history[-1].items()
                if name not in _KNOWN and not name.endswith(("_best", "_batch_count"))
            }
        return False

    def on_train_end(self) -> None:
        """Training is over; callbacks may still change the network."""
        self.net.notify("on_train_end", X=self._X, y=self._y)

    def on_fit_end(self) -> None:
        """Callbacks have been told of the end of training."""

    def _both(self) -> dict[str, Any]:
        return {"dataset_train": self._train, "dataset_valid": self._validation}


def _record(history: Any, name: str, values: list[float], best: Any) -> None:
    history.record(name, values[-1])
    history.record(f"{name}_best", len(values) == 1 or best(values[:-1]) != best(values))


def _module_with_gradients(network: StackedMLP) -> nn.Sequential:
    """The network as modules, whose parameters share its gradient."""
    module = network.member(0)
    coefs, intercepts = ([view[0] for view in views] for views in network.views(network.grad))
    norms = [[view[0] for view in pair] for pair in network.norm_views(network.grad)]
    gradients = sequential(coefs, intercepts, network.spec.activations, norms)
    for parameter, gradient in zip(module.parameters(), gradients.parameters(), strict=True):
        parameter.grad = gradient.data
    return module


def _datasets(data: TrainingData, loss: Loss) -> tuple[Any, ...]:
    """Training and validation data as datasets of skorch; held-out rows as subsets."""
    whole = _dataset(data.train, loss)
    if data.validation is None:
        return whole, None
    if not data.is_held_out:
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
    """A batch as a DataLoader would give it."""
    return torch.from_numpy(X if isinstance(X, np.ndarray) else X.toarray()), torch.from_numpy(y)


def _uses(callback: Callback, *hooks: str) -> bool:
    return any(getattr(type(callback), hook, None) is not getattr(Callback, hook) for hook in hooks)


def _needs_steps(callback: Callback) -> bool:
    """Whether a callback has to be told of each training step; some of skorch's hooks of batches do nothing."""
    if isinstance(callback, LRScheduler):
        return callback.step_every != "epoch"
    if isinstance(callback, EpochScoring):
        return callback.on_train
    if getattr(callback, "log_on_batch_end", True) is False:  # the loggers
        return False
    return isinstance(callback, ParamMapper) or _uses(callback, "on_batch_begin", "on_batch_end", "on_grad_computed")
