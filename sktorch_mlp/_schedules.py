"""Learning rates of one network from step to step."""

from __future__ import annotations

import math
from typing import Any


class Schedule:
    """A learning rate that stays; what the others derive from.

    Parameters
    ----------
    learning_rate_init : float

    Attributes
    ----------
    learning_rate : float
        That of the last step, or before the first that of the start.
    """

    #: whether the rate depends on what training has reached, and so differs between networks
    follows_training = False

    def __init__(self, learning_rate_init: float) -> None:
        self.learning_rate_init = learning_rate_init
        self.learning_rate = float(learning_rate_init)

    @property
    def own(self) -> Schedule:
        """What stays of it after a fit; one that only watches over another has that."""
        return self

    def key(self) -> tuple[Any, ...]:
        """Schedules of equal keys give equal rates from now on; keys can be sorted."""
        return type(self).__name__, *vars(self).values()

    def next_rates(self, n_steps: int, n_steps_of_epoch: int) -> list[float]:
        """Rates of the coming steps of an epoch."""
        return [self.learning_rate] * n_steps

    def epoch_ends(self, n_rows_seen: int) -> None:
        """Go on to the next epoch, given the rows seen in all."""

    def on_plateau(self) -> tuple[bool, str]:
        """Stop at a plateau, or go on with a smaller learning rate.

        Returns
        -------
        stop : bool
        message : str
            What was decided, for the log.
        """
        return True, "Stopping."


class InverseScaling(Schedule):
    """Divided by ``(rows seen + 1) ** power_t`` after each epoch, as scikit-learn does."""

    follows_training = True

    def __init__(self, learning_rate_init: float, power_t: float) -> None:
        super().__init__(learning_rate_init)
        self.power_t = power_t

    def epoch_ends(self, n_rows_seen: int) -> None:
        self.learning_rate = self.learning_rate_init / (n_rows_seen + 1) ** self.power_t


class Adaptive(Schedule):
    """Divided by 5 at each plateau, down to 1e-6, as scikit-learn does."""

    follows_training = True

    def on_plateau(self) -> tuple[bool, str]:
        if self.learning_rate <= 1e-6:
            return True, "Learning rate too small. Stopping."
        self.learning_rate /= 5.0
        return False, f"Setting learning rate to {self.learning_rate:f}"


class _Planned(Schedule):
    """A rate that follows a plan for all epochs, and keeps its last value after them.

    Parameters
    ----------
    learning_rate_init : float
        The highest rate.
    n_epochs : int
    warmup_fraction : float
        Share of the epochs in which the rate rises.
    """

    def __init__(self, learning_rate_init: float, n_epochs: int, warmup_fraction: float) -> None:
        super().__init__(learning_rate_init)
        self.n_epochs, self.warmup_fraction = n_epochs, warmup_fraction
        self._epoch, self._step = 0, 0

    def next_rates(self, n_steps: int, n_steps_of_epoch: int) -> list[float]:
        steps = range(self._step, self._step + n_steps)
        self._step += n_steps
        rates = [self._rate(step, n_steps_of_epoch) for step in steps]
        self.learning_rate = rates[-1]
        return rates

    def _rate(self, step: int, n_steps: int) -> float:
        """The rate at a step of the present epoch, which has `n_steps`."""
        raise NotImplementedError

    def epoch_ends(self, n_rows_seen: int) -> None:
        self._epoch, self._step = self._epoch + 1, 0


class Cosine(_Planned):
    """A linear rise at every step, then half a cosine to zero, epoch by epoch (Loshchilov and Hutter, 2017).

    Without a rise it is `torch.optim.lr_scheduler.CosineAnnealingLR`.
    """

    def _rate(self, step: int, n_steps: int) -> float:
        warmup = self.warmup_fraction * self.n_epochs
        n_done = self._epoch * n_steps + step
        if n_done + 1 < warmup * n_steps:
            return self.learning_rate_init * (n_done + 1) / (warmup * n_steps)
        epoch = min(self._epoch, self.n_epochs - 1)
        share = max(0.0, epoch - warmup) / max(1.0, self.n_epochs - warmup)
        return self.learning_rate_init * (1 + math.cos(math.pi * share)) / 2


class OneCycle(_Planned):
    """Up from a 25th and down to a 250000th, a cosine each, step by step (Smith and Topin, 2018).

    It is `torch.optim.lr_scheduler.OneCycleLR` without its cycle of the momentum.
    """

    def _rate(self, step: int, n_steps: int) -> float:
        low, high = self.learning_rate_init / 25, self.learning_rate_init
        last = self.n_epochs * n_steps - 1
        n_done = min(self._epoch * n_steps + step, last)
        if last == 0:
            return high  # of a single step
        top = self.warmup_fraction * (last + 1) - 1
        if n_done < top:
            return _between(low, high, n_done / top)
        return _between(high, low / 1e4, (n_done - top) / (last - top))


def _between(start: float, end: float, share: float) -> float:
    """Half a cosine from one to the other."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
