"""scikit-learn's MLPClassifier and MLPRegressor."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor

from benchmarks.problems import Problem

from . import Fitted, _estimator


def fit(problem: Problem, X: Any, y: np.ndarray, seed: int, device: str) -> Fitted:
    """Fit scikit-learn's estimator, on the CPU whatever the device."""
    estimator = MLPRegressor if problem.kind == "regressor" else MLPClassifier
    return _estimator.fit(estimator(**problem.mlp_params(seed)), problem, X, y)
