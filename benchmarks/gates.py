"""How well the results of two contestants must agree for their times to be comparable."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

import numpy as np


class Agreement(Enum):
    """What two contestants have in common."""

    #: Weights, batches and formulas in float64: only rounding differs, by some 1e-15 a step.
    FLOAT64 = auto()
    #: The same in float32, where rounding is some 1e-4 after the epochs of a fit.
    FLOAT32 = auto()
    #: Other initial weights and batches, or so many steps in float32 that rounding grows to visible size.
    SIMILAR = auto()
    #: Nothing that can be compared.
    NONE = auto()


class Gate(Protocol):
    """Compares two results."""

    def gap(self, theirs: Any, ours: Any) -> str:
        """In what they differ too much; empty if they agree."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What a fit came to: its last training loss, and its epochs or iterations."""

    loss: float
    n_iter: int


@dataclass(frozen=True)
class Losses:
    """Outcomes of the same number of epochs with losses within both bounds.

    Attributes
    ----------
    rtol : float
        Bound relative to the smaller loss.
    atol : float
        Absolute bound.
    """

    rtol: float
    atol: float

    def gap(self, theirs: Outcome, ours: Outcome) -> str:
        """In what they differ too much; a loss that is not finite never agrees."""
        if theirs.n_iter != ours.n_iter:
            return f"{theirs.n_iter} iterations, ours {ours.n_iter}"
        gap, smaller = abs(theirs.loss - ours.loss), min(abs(theirs.loss), abs(ours.loss))
        if gap <= self.rtol * smaller and gap <= self.atol:
            return ""
        return f"loss {theirs.loss:.10g}, ours {ours.loss:.10g}"


@dataclass(frozen=True)
class Shapes:
    """Arrays of one shape."""

    def gap(self, theirs: np.ndarray, ours: np.ndarray) -> str:
        """In what they differ."""
        return "" if theirs.shape == ours.shape else f"shape {theirs.shape}, ours {ours.shape}"


@dataclass(frozen=True)
class Probabilities(Shapes):
    """Probabilities, none of them further apart than this."""

    atol: float

    def gap(self, theirs: np.ndarray, ours: np.ndarray) -> str:
        """In what they differ too much; one that is not finite never agrees."""
        if different := super().gap(theirs, ours):
            return different
        largest = np.abs(theirs - ours).max()
        return "" if largest <= self.atol else f"probabilities {largest:.3g} apart"


@dataclass(frozen=True)
class Labels(Shapes):
    """Labels of which at least this share are the same."""

    share: float

    def gap(self, theirs: np.ndarray, ours: np.ndarray) -> str:
        """In what they differ too much."""
        if different := super().gap(theirs, ours):
            return different
        same = np.mean(theirs == ours)
        return "" if same >= self.share else f"{same:.2%} of the labels are the same"


# The bounds leave room for other machines.
LOSSES: dict[Agreement, Gate] = {
    Agreement.FLOAT64: Losses(rtol=1e-6, atol=1e-6),
    Agreement.FLOAT32: Losses(rtol=1e-3, atol=1e-3),
    Agreement.SIMILAR: Losses(rtol=1.0, atol=0.2),  # learnt about as well, within a factor of two
}
PREDICTIONS: dict[str, dict[Agreement, Gate]] = {
    "predict_proba": {
        Agreement.FLOAT64: Probabilities(1e-6),
        Agreement.FLOAT32: Probabilities(1e-3),
        Agreement.SIMILAR: Shapes(),
    },
    "predict": {
        Agreement.FLOAT64: Labels(0.999),
        Agreement.FLOAT32: Labels(0.999),
        Agreement.SIMILAR: Shapes(),
    },
}
