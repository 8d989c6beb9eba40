"""Learning rate schedules of one network."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from sktorch_mlp._nn.tensors import StateDict


class Schedule:
    """A constant learning rate, and the base of all schedules.

    Parameters
    ----------
    learning_rate_init : float

    Attributes
    ----------
    learning_rate : float
        Rate of the last step; before the first one that of the start.
    """

    #: Whether the rate depends on what training has reached, and so differs between networks.
    depends_on_training = False
    #: Whether the rate of an epoch may differ from that of the epoch before, plateau or not.
    varies_by_epoch = False

    def __init__(self, learning_rate_init: float) -> None:
        self.learning_rate_init = learning_rate_init
        self.learning_rate = float(learning_rate_init)

    @property
    def inner(self) -> Schedule:
        """The schedule that remains after a fit: the wrapped one of a wrapper, else itself."""
        return self

    def key(self) -> tuple[Any, ...]:
        """Key that is equal for schedules with equal rates from now on. Keys can be sorted."""
        return type(self).__name__, *vars(self).values()

    def state_dict(self) -> StateDict:
        """All values, settings included."""
        return dict(vars(self))

    def load_state_dict(self, state: StateDict) -> None:
        """Set all values to those of a state."""
        vars(self).update(state)

    def next_rates(self, n_steps: int, n_steps_of_epoch: int) -> Iterable[float]:
        """Rates of the coming steps of an epoch."""
        return [self.learning_rate] * n_steps

    def end_epoch(self, n_rows_seen: int) -> None:
        """Go on to the next epoch, given the rows seen in all."""

    def on_plateau(self) -> tuple[bool, str]:
        """Stop at a plateau, or go on with a smaller learning rate.

        Returns
        -------
        stop : bool
        message : str
            The decision, for the log.
        """
        return True, "Stopping."


class InverseScaling(Schedule):
    """Divided by ``(rows seen + 1) ** power_t`` after each epoch, as scikit-learn does."""

    depends_on_training = varies_by_epoch = True

    def __init__(self, learning_rate_init: float, power_t: float) -> None:
        super().__init__(learning_rate_init)
        self.power_t = power_t

    def end_epoch(self, n_rows_seen: int) -> None:
        self.learning_rate = self.learning_rate_init / (n_rows_seen + 1) ** self.power_t


class Adaptive(Schedule):
    """Divided by 5 at each plateau, down to 1e-6, as scikit-learn does."""

    depends_on_training = True

    def on_plateau(self) -> tuple[bool, str]:
        if self.learning_rate <= 1e-6:
            return True, "Learning rate too small. Stopping."
        self.learning_rate /= 5.0
        return False, f"Setting learning rate to {self.learning_rate:f}"


class PlannedSchedule(Schedule):
    """A rate that is planned for all epochs, and keeps its last value after them.

    Parameters
    ----------
    learning_rate_init : float
        The highest rate.
    n_epochs : int
    warmup_fraction : float
        Fraction of the epochs in which the rate rises.
    """

    varies_by_epoch = True

    def __init__(self, learning_rate_init: float, n_epochs: int, warmup_fraction: float) -> None:
        super().__init__(learning_rate_init)
        self.n_epochs, self.warmup_fraction = n_epochs, warmup_fraction
        self._epoch, self._step = 0, 0

    def next_rates(self, n_steps: int, n_steps_of_epoch: int) -> Iterable[float]:
        steps = range(self._step, self._step + n_steps)
        self._step += n_steps
        rates = [self._rate(step, n_steps_of_epoch) for step in steps]
        self.learning_rate = rates[-1]
        return rates

    def _rate(self, step: int, n_steps: int) -> float:
        """Rate at a step of the present epoch, which has `n_steps`."""
        raise NotImplementedError

    def end_epoch(self, n_rows_seen: int) -> None:
        self._epoch, self._step = self._epoch + 1, 0


class Cosine(PlannedSchedule):
    """A linear warm-up step by step, then half a cosine to zero epoch by epoch (Loshchilov and Hutter, 2017).

    Without warm-up it is `torch.optim.lr_scheduler.CosineAnnealingLR`.
    """

    def _rate(self, step: int, n_steps: int) -> float:
        warmup = self.warmup_fraction * self.n_epochs
        n_done = self._epoch * n_steps + step
        if n_done + 1 < warmup * n_steps:
            return self.learning_rate_init * (n_done + 1) / (warmup * n_steps)
        epoch = min(self._epoch, self.n_epochs - 1)
        fraction = max(0.0, epoch - warmup) / max(1.0, self.n_epochs - warmup)
        return self.learning_rate_init * (1 + math.cos(math.pi * fraction)) / 2


class OneCycle(PlannedSchedule):
    """Up from a 25th and down to a 250000th, half a cosine each, step by step (Smith and Topin, 2018).

    It is `torch.optim.lr_scheduler.OneCycleLR` without its cycle of the momentum.
    """

    def _rate(self, step: int, n_steps: int) -> float:
        low, high = self.learning_rate_init / 25, self.learning_rate_init
        last = self.n_epochs * n_steps - 1
        n_done = min(self._epoch * n_steps + step, last)
        if last == 0:
            return high  # a single step
        top = self.warmup_fraction * (last + 1) - 1
        if n_done < top:
            return _half_cosine(low, high, n_done / top)
        return _half_cosine(high, low / 1e4, (n_done - top) / (last - top))


#: Schedules by the names that pickles and files have for them.
SCHEDULES: dict[str, type[Schedule]] = {
    schedule.__name__: schedule for schedule in (Schedule, InverseScaling, Adaptive, Cosine, OneCycle)
}


def schedule_to_plain(schedule: Schedule) -> dict[str, Any]:
    """Name and values of a schedule."""
    return {"name": type(schedule).__name__, **schedule.state_dict()}


def schedule_from_plain(state: dict[str, Any]) -> Schedule:
    """Make the schedule of a name and values."""
    class_ = SCHEDULES[state["name"]]
    schedule = class_.__new__(class_)
    schedule.load_state_dict({name: value for name, value in state.items() if name != "name"})
    return schedule


def _half_cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * fraction))
