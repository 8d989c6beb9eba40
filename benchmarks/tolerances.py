"""How closely the results of two implementations must agree for their times to be comparable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

import numpy as np


class Agreement(Enum):
    """What two implementations have in common."""

    #: Weights, batches and formulas in float64: only rounding differs, by some 1e-15 a step.
    FLOAT64 = auto()
    #: The same in float32, where rounding is some 1e-4 after the epochs of a fit.
    FLOAT32 = auto()
    #: Other initial weights and batches, or so many steps in float32 that rounding grows to visible size.
    SIMILAR = auto()
    #: Nothing that can be compared.
    NONE = auto()


class Tolerance(Protocol):
    """Compares two results."""

    def difference(self, baseline: Any, ours: Any) -> str:
        """In what they differ too much; empty if they agree."""
        ...


#: The tolerance of each agreement, for results of one kind. What is missing is not compared.
Tolerances = Mapping[Agreement, Tolerance]


@dataclass(frozen=True)
class FitResult:
    """The last training loss of a fit, and its epochs or iterations."""

    loss: float
    n_iter: int


@dataclass(frozen=True)
class LossTolerance:
    """The same number of epochs, and losses within both bounds.

    Attributes
    ----------
    rtol : float
        Bound relative to the smaller loss.
    atol : float
        Absolute bound.
    """

    rtol: float
    atol: float

    def difference(self, baseline: FitResult, ours: FitResult) -> str:
        """In what they differ too much; a loss that is not finite never agrees."""
        if baseline.n_iter != ours.n_iter:
            return f"{baseline.n_iter} iterations, ours {ours.n_iter}"
        apart, smaller = abs(baseline.loss - ours.loss), min(abs(baseline.loss), abs(ours.loss))
        if apart <= self.rtol * smaller and apart <= self.atol:
            return ""
        return f"loss {baseline.loss:.10g}, ours {ours.loss:.10g}"


@dataclass(frozen=True)
class ShapeTolerance:
    """Arrays of one shape."""

    def difference(self, baseline: np.ndarray, ours: np.ndarray) -> str:
        """In what they differ."""
        return "" if baseline.shape == ours.shape else f"shape {baseline.shape}, ours {ours.shape}"


@dataclass(frozen=True)
class ArrayTolerance(ShapeTolerance):
    """Arrays, probabilities or scores, with no two elements further apart than this."""

    atol: float

    def difference(self, baseline: np.ndarray, ours: np.ndarray) -> str:
        """In what they differ too much; what is not finite never agrees."""
        if different := super().difference(baseline, ours):
            return different
        largest = np.abs(baseline - ours).max()
        return "" if largest <= self.atol else f"elements {largest:.3g} apart"


@dataclass(frozen=True)
class LabelTolerance(ShapeTolerance):
    """Labels, at least this fraction of them the same."""

    fraction: float

    def difference(self, baseline: np.ndarray, ours: np.ndarray) -> str:
        """In what they differ too much."""
        if different := super().difference(baseline, ours):
            return different
        same = np.mean(baseline == ours)
        return "" if same >= self.fraction else f"{same:.2%} of the labels are the same"


# The bounds leave room for other machines.
LOSSES: Tolerances = {
    Agreement.FLOAT64: LossTolerance(rtol=1e-6, atol=1e-6),
    Agreement.FLOAT32: LossTolerance(rtol=1e-3, atol=1e-3),
    Agreement.SIMILAR: LossTolerance(rtol=1.0, atol=0.2),  # learned about as well, within a factor of two
}
PREDICTIONS: dict[str, Tolerances] = {
    "predict_proba": {
        Agreement.FLOAT64: ArrayTolerance(1e-6),
        Agreement.FLOAT32: ArrayTolerance(1e-3),
        Agreement.SIMILAR: ShapeTolerance(),
    },
    "predict": {
        Agreement.FLOAT64: LabelTolerance(0.999),
        Agreement.FLOAT32: LabelTolerance(0.999),
        Agreement.SIMILAR: ShapeTolerance(),
    },
}
