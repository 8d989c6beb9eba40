"""The implementations, one file each.

Each has ``fit(problem, X, y, seed, device)``, timed as a whole, from the data as numpy
arrays or CSR to a trained model, and returns what was `Fitted`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.tolerances import FitResult


@dataclass(frozen=True)
class Fitted:
    """A trained model.

    Attributes
    ----------
    result : FitResult
        Epochs, and the training loss of the last one: the losses of its batches, as they
        were when trained on, averaged over rows. For L-BFGS its iterations and the loss
        that it ends with.
    model : object
        Has ``predict(X)`` and ``predict_proba(X)``, from and to numpy arrays.
    """

    result: FitResult
    model: Any
