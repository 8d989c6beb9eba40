"""sktorch_mlp."""

from __future__ import annotations

from typing import Any

import numpy as np

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor

from .baselines import Fitted, _estimator
from .problems import Problem


def fit(problem: Problem, X: Any, y: np.ndarray, seed: int, device: str, dtype: str = "auto") -> Fitted:
    """Fit our estimator; apart from `device` and `dtype` the call is scikit-learn's."""
    estimator = MLPTorchRegressor if problem.kind == "regressor" else MLPTorchClassifier
    return _estimator.fit(estimator(**problem.mlp_params(seed), device=device, dtype=dtype), problem, X, y)
