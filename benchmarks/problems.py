"""The list of problems, from iris to wide networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.datasets import load_digits, load_iris


@dataclass(frozen=True)
class Problem:
    """A data set, a network and how long to train it: Adam, relu, learning rate 0.001.

    Attributes
    ----------
    name : str
    rows, features, n_classes : int
        Shape of the data.
    hidden_layer_sizes : tuple of int
    batch_size : int
    epochs : int
        Trained exactly: nothing stops earlier.
    make : callable
        ``make(problem)`` gives X in float64 and y as class indices in int64.
    """

    name: str
    rows: int
    features: int
    n_classes: int
    hidden_layer_sizes: tuple[int, ...]
    batch_size: int
    epochs: int
    make: Callable[[Problem], tuple[np.ndarray, np.ndarray]]

    @property
    def n_steps(self) -> int:
        """Updates of the weights in one fit."""
        return self.epochs * math.ceil(self.rows / self.batch_size)

    def mlp_params(self, seed: int) -> dict[str, Any]:
        """Parameters of scikit-learn's MLP and of ours, which are the same."""
        return {
            "hidden_layer_sizes": self.hidden_layer_sizes,
            "batch_size": self.batch_size,
            "max_iter": self.epochs,
            "n_iter_no_change": np.inf,
            "tol": 0,
            "random_state": seed,
        }

    def scaled(self, scale: float) -> Problem:
        """Fewer rows and epochs, for smoke tests."""
        rows = min(self.rows, max(round(self.rows * scale), 10 * self.n_classes))
        epochs = max(round(self.epochs * scale), 1)
        return replace(self, rows=rows, epochs=epochs, batch_size=min(self.batch_size, rows))

    def __str__(self) -> str:
        layers = "-".join(map(str, self.hidden_layer_sizes))
        return f"{self.name}: {self.rows}×{self.features}, layers {layers}, batch {self.batch_size}"


def iris(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Iris, in random order since its rows are sorted by class."""
    X, y = load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))[: problem.rows]
    return X[order], y[order].astype(np.int64)


def digits(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Digits, its first rows, pixels between 0 and 1."""
    X, y = load_digits(return_X_y=True)
    return X[: problem.rows] / 16, y[: problem.rows].astype(np.int64)


def clouds(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """A normal cloud a class, of standard deviation 1, its centre about 4 away from the origin."""
    rng = np.random.default_rng(0)
    y = rng.integers(problem.n_classes, size=problem.rows)
    centres = rng.standard_normal((problem.n_classes, problem.features)) * 4 / math.sqrt(problem.features)
    return centres[y] + rng.standard_normal((problem.rows, problem.features)), y


_ALL = [
    # name, rows, features, n_classes, hidden_layer_sizes, batch_size, epochs, make
    Problem("iris", 150, 4, 3, (100,), 150, 300, iris),
    Problem("digits", 1437, 64, 10, (100,), 200, 40, digits),  # 80 % of the rows, as after a split
    Problem("binary", 40_000, 100, 2, (100,), 200, 3, clouds),
    Problem("mnist_shape", 60_000, 784, 10, (128, 64), 64, 1, clouds),
    Problem("wide", 20_000, 512, 10, (1024, 1024), 512, 1, clouds),
]
PROBLEMS = {problem.name: problem for problem in _ALL}
