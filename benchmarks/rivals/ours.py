"""sktorch_mlp."""

from __future__ import annotations

import numpy as np

from benchmarks.problems import Problem
from sktorch_mlp import MLPTorchClassifier


def fit(problem: Problem, X: np.ndarray, y: np.ndarray, seed: int, device: str, dtype: str = "auto") -> list[float]:
    """Fit an MLPTorchClassifier; apart from `device` and `dtype` the call is scikit-learn's."""
    return MLPTorchClassifier(**problem.mlp_params(seed), device=device, dtype=dtype).fit(X, y).loss_curve_
