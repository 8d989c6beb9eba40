"""Dropout masks of a stack, drawn from one random stream for each network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .tensors import StateDict, squeeze_stack

#: Values of 16 bits, and with it the resolution of a dropout rate.
_N_VALUES = 2**16


class Dropout:
    """Masks of hidden units. A network's masks do not depend on who else is in the stack.

    Parameters
    ----------
    rates : sequence of sequence of float
        For each network, the probability with which a unit of each hidden layer is dropped.
    generators : sequence of Generator
        One for each network, on its device.
    """

    def __init__(self, rates: Sequence[Sequence[float]], generators: Sequence[torch.Generator]) -> None:
        self.rates, self.generators = list(rates), list(generators)

    def is_on(self, layer: int) -> bool:
        """Return whether any network drops units of this hidden layer."""
        return any(rates[layer] for rates in self.rates)

    def kept_fraction(self, layer: int, like: Tensor) -> Tensor:
        """Fraction of units kept, of shape ([n_networks,] 1, 1)."""
        dropped = like.new_tensor([_n_dropped_values(rates[layer]) for rates in self.rates]) / _N_VALUES
        return squeeze_stack((1 - dropped)[:, None, None])

    def draw_(self, layer: int, mask: Tensor) -> None:
        """Fill a ([n_networks,] n_units, n_rows) tensor with one for each unit that is kept, else zero."""
        masks = [mask] if mask.ndim == 2 else mask.unbind(0)
        for rates, generator, own_mask in zip(self.rates, self.generators, masks, strict=True):
            n_dropped = _n_dropped_values(rates[layer])
            if own_mask.device.type != "cpu":
                own_mask.bernoulli_(1 - n_dropped / _N_VALUES, generator=generator)
                continue
            # 16 bits for each unit, four units a number: a fifth of the time of `bernoulli_`.
            bits = torch.empty(-(-own_mask.numel() // 4), dtype=torch.int64, device="cpu")
            bits.random_(-(2**63), None, generator=generator)
            values = bits.view(torch.int16)[: own_mask.numel()].view_as(own_mask)
            torch.ge(values, n_dropped - _N_VALUES // 2, out=own_mask)

    def select(self, networks: Sequence[int]) -> Dropout:
        """Dropout of some networks, with their random streams."""
        return Dropout([self.rates[k] for k in networks], [self.generators[k] for k in networks])

    @staticmethod
    def join(parts: Sequence[Dropout]) -> Dropout:
        """Dropout of several stacks as that of one, with their random streams."""
        return Dropout(
            [rates for part in parts for rates in part.rates],
            [generator for part in parts for generator in part.generators],
        )

    def state_dict(self) -> StateDict:
        """State of each random stream; rates are settings."""
        return {"generators": [generator.get_state() for generator in self.generators]}

    def load_state_dict(self, state: StateDict) -> None:
        """Set the random streams to a state."""
        for generator, own_state in zip(self.generators, state["generators"], strict=True):
            generator.set_state(own_state)


def _n_dropped_values(rate: float) -> int:
    """How many of all values of 16 bits drop a unit."""
    return min(round(rate * _N_VALUES), _N_VALUES - 1)
