"""scikit-learn's MLPClassifier."""

from __future__ import annotations

import numpy as np
from sklearn.neural_network import MLPClassifier

from benchmarks.problems import Problem


def fit(problem: Problem, X: np.ndarray, y: np.ndarray, seed: int, device: str) -> list[float]:
    """Fit an MLPClassifier, on the CPU whatever the device."""
    model = MLPClassifier(
        problem.hidden_layer_sizes,
        batch_size=problem.batch_size,
        max_iter=problem.epochs,
        n_iter_no_change=np.inf,
        tol=0,
        random_state=seed,
    )
    return model.fit(X, y).loss_curve_
