"""sktorch_mlp."""

from __future__ import annotations

import numpy as np

from benchmarks.problems import Problem
from sktorch_mlp import MLPTorchClassifier


def fit(problem: Problem, X: np.ndarray, y: np.ndarray, seed: int, device: str, dtype: str = "auto") -> list[float]:
    """Fit an MLPTorchClassifier; apart from `device` and `dtype` the call is scikit-learn's."""
    model = MLPTorchClassifier(
        problem.hidden_layer_sizes,
        batch_size=problem.batch_size,
        max_iter=problem.epochs,
        n_iter_no_change=np.inf,
        tol=0,
        random_state=seed,
        device=device,
        dtype=dtype,
    )
    return model.fit(X, y).loss_curve_
