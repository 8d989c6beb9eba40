"""scikit-learn's MLPClassifier."""

from __future__ import annotations

import numpy as np
from sklearn.neural_network import MLPClassifier

from benchmarks.problems import Problem


def fit(problem: Problem, X: np.ndarray, y: np.ndarray, seed: int, device: str) -> list[float]:
    """Fit an MLPClassifier, on the CPU whatever the device."""
    return MLPClassifier(**problem.mlp_params(seed)).fit(X, y).loss_curve_
