"""What a fit leaves for the next one to resume from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sktorch_mlp._data.device import is_available
from sktorch_mlp._nn.dropout import Dropout
from sktorch_mlp._nn.network import StackedMLP

from .adam import Adam, AdamW
from .optimizers import SGD, Optimizer, TorchOptimizer
from .progress import Progress

#: Optimizers by the names that pickles and files have for them.
OPTIMIZERS: dict[str, type[Optimizer]] = {class_.__name__: class_ for class_ in (SGD, Adam, AdamW, TorchOptimizer)}


@dataclass(eq=False)
class FitState:
    """Optimizer and progress of an estimator, whose `coefs_` and `intercepts_` are the weights.

    Attributes
    ----------
    sparse_input : bool
        How the network, and with it the moments of the optimizer, are laid out in memory.
    optimizer : Optimizer or None
        None if there is nothing to resume.
    progress : Progress
        Of all fits.
    generator : Generator or None
        Random stream of the dropout masks, once there have been any.
    """

    sparse_input: bool
    optimizer: Optimizer | None = None
    progress: Progress = field(default_factory=Progress)
    generator: torch.Generator | None = None

    def set_dropout(self, network: StackedMLP, rates: Sequence[float], random_state: np.random.RandomState) -> None:
        """Let a network drop units at these rates; a random stream that there is goes on."""
        network.dropout = None
        if not any(rates):
            return
        if self.generator is None or self.generator.device != network.device:
            seed = int(random_state.randint(np.iinfo(np.int32).max))
            self.generator = torch.Generator(network.device).manual_seed(seed)
        network.dropout = Dropout([rates], [self.generator])

    def __getstate__(self) -> dict[str, Any]:
        """All as plain values."""
        generator, optimizer = self.generator, self.optimizer
        return {
            "sparse_input": self.sparse_input,
            "optimizer": None if optimizer is None else {"name": type(optimizer).__name__, **optimizer.__getstate__()},
            "progress": self.progress.__getstate__(),
            "generator": None if generator is None else (str(generator.device), generator.get_state().numpy()),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        optimizer, generator = state["optimizer"], state["generator"]
        self.sparse_input, self.progress = state["sparse_input"], Progress()
        self.progress.__setstate__(state["progress"])
        self.optimizer = None if optimizer is None else _make_optimizer(**optimizer)
        self.generator = None if generator is None else _make_generator(*generator)


def _make_optimizer(name: str, **state: Any) -> Optimizer:
    optimizer = OPTIMIZERS[name].__new__(OPTIMIZERS[name])
    optimizer.__setstate__(state)
    return optimizer


def _make_generator(device_name: str, stream: np.ndarray) -> torch.Generator | None:
    """Generator in this state; None where its device is not available."""
    device = torch.device(device_name)
    if not is_available(device):
        return None
    generator = torch.Generator(device)
    generator.set_state(torch.from_numpy(np.require(stream, requirements="W")))
    return generator
