"""What scikit-learn's estimators and ours have in common, which is all."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.problems import Problem
from benchmarks.tolerances import FitResult

from . import Fitted


def fit(estimator: Any, problem: Problem, X: Any, y: np.ndarray) -> Fitted:
    """Fit an estimator as the problem says."""
    weights = problem.sample_weight()
    if problem.incremental:
        first = {} if problem.kind == "regressor" else {"classes": np.arange(problem.n_classes)}
        estimator.partial_fit(X, y, sample_weight=weights, **first)
        for _ in range(1, problem.epochs):
            estimator.partial_fit(X, y, sample_weight=weights)
    else:
        estimator.fit(X, y, sample_weight=weights)
    n_iter = estimator.n_iter_ if problem.solver == "lbfgs" else len(estimator.loss_curve_)
    return Fitted(FitResult(estimator.loss_, n_iter), estimator)
