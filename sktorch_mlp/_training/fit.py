"""One fit: a network with all that its training takes."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from sktorch_mlp._data.samples import TrainingData
from sktorch_mlp._data.shuffling import Shuffler
from sktorch_mlp._nn.losses import Loss
from sktorch_mlp._nn.network import StackedMLP
from sktorch_mlp._nn.tensors import StateDict, select_networks

from .observers import Observer
from .optimizers import Optimizer
from .progress import Progress, TrainingOptions


@dataclass(eq=False)
class Fit:
    """One network and all that its training takes.

    Training changes network, optimizer, shuffler and progress; `state_dict` is their state. It does not change
    loss, data and options.

    Attributes
    ----------
    network : StackedMLP
        Of one network.
    loss : Loss
    data : TrainingData
    shuffler : Shuffler
    options : TrainingOptions
    progress : Progress
    optimizer : Optimizer or None
        None for L-BFGS.
    observer : Observer or None
    """

    network: StackedMLP
    loss: Loss
    data: TrainingData
    shuffler: Shuffler
    options: TrainingOptions
    progress: Progress
    optimizer: Optimizer | None = None
    observer: Observer | None = None

    @property
    def n_rows(self) -> int:
        """Training rows."""
        return len(self.data.train.indices[0])

    def stack_key(self) -> Hashable:
        """Key that is equal for fits that can train in one stack; None if this one has to train alone."""
        train, validation = self.data.train, self.data.validation
        all_rows = [samples.rows for samples in (train, validation) if samples is not None]
        trains_alone = any(rows.is_sparse or rows.is_streamed for rows in all_rows)
        optimizer_key = None if self.optimizer is None else self.optimizer.stack_key()
        if trains_alone or optimizer_key is None or (self.observer is not None and self.observer.trains_alone):
            return None
        batch_size = self.options.batch_size
        n_batches = -(-self.n_rows // batch_size)
        # Masks, and losses that see whole batches, must not meet the rows that fill up a shorter batch.
        can_fill_up = self.network.dropout is None and not self.loss.couples_rows
        n_validation_rows = None if validation is None else len(validation.indices[0])
        return (
            self.network.stack_key(),
            self.loss.stack_key(),
            optimizer_key,
            n_batches,
            batch_size if n_batches > 1 else None,
            None if can_fill_up else (self.n_rows, n_validation_rows),
            None if validation is None else self.data.is_held_out,
            train.sums_weights_in_order,
            train.targets.dtype,
            train.rows.source_dtype,
        )

    def work_bytes(self) -> int:
        """Memory that a step works on: parameters, gradient, moments, a batch and its activations."""
        layer_units = self.network.spec.layer_units
        n_units = sum(layer_units) + sum(layer_units[1:])
        n_parameters = self.network.flat.shape[1]
        return self.network.flat.itemsize * (5 * n_parameters + self.options.batch_size * n_units)

    def state_dict(self) -> StateDict:
        """Copy the state of all that training changes."""
        optimizer, dropout = self.optimizer, self.network.dropout
        return {
            "network": select_networks(self.network.state_dict(), [0]),
            "dropout": None if dropout is None else dropout.state_dict(),
            "optimizer": None if optimizer is None else select_networks(optimizer.state_dict(), [0]),
            "shuffler": self.shuffler.state_dict(),
            "progress": self.progress.state_dict(),
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Go back to a state."""
        self.network.load_state_dict(state["network"])
        if self.network.dropout is not None:
            self.network.dropout.load_state_dict(state["dropout"])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        self.shuffler.load_state_dict(state["shuffler"])
        self.progress.load_state_dict(state["progress"])
