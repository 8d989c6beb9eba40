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

from .optimizers import Optimizer
from .progress import Progress


@dataclass(eq=False)
class FitState:
    """Network, optimizer and progress of an estimator.

    Attributes
    ----------
    sparse_input : bool
        How the network, and with it the moments of the optimizer, are laid out in memory.
    network : StackedMLP or None
        None after unpickling: `coefs_` and `intercepts_` of the estimator hold the weights.
    optimizer : Optimizer or None
        None if there is nothing to resume.
    progress : Progress
        Of all fits.
    generator : Generator or None
        Random stream of the dropout masks, once there have been any.
    """

    sparse_input: bool
    network: StackedMLP | None = None
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
        """Leave out the network, whose weights the estimator stores; store the generator as its state."""
        generator = self.generator
        stream = None if generator is None else (generator.device, generator.get_state().numpy())
        return vars(self) | {"network": None, "generator": stream}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if state["generator"] is not None:
            device, stream = state["generator"]
            self.generator = torch.Generator(device) if is_available(device) else None
            if self.generator is not None:
                self.generator.set_state(torch.from_numpy(stream))
