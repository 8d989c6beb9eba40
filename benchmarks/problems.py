"""The list of problems, from iris to wide networks, and the data they train on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.datasets import load_digits, load_iris


@dataclass(frozen=True)
class Problem:
    """A data set, a network and how long to train it, with a learning rate of 0.001.

    Attributes
    ----------
    name : str
    rows, features, n_classes : int
        Shape of the data.
    hidden_layer_sizes : tuple of int
    batch_size : int
        Rows of a step; all rows for L-BFGS.
    epochs : int
        Trained exactly: nothing stops earlier. For L-BFGS, its iterations at most.
    make : callable
        ``make(problem)`` gives X in float64, dense or CSR, and class indices in int64.
    solver : str
        "adam", "sgd" or "lbfgs".
    kind : str
        What is learnt of the classes: "classifier" (them), "multilabel" (an indicator
        column each) or "regressor" (the index, standardized).
    params : mapping
        Further parameters of scikit-learn's estimators and of ours.
    weighted : bool
        Whether rows have weights.
    incremental : bool
        Whether the epochs are calls of ``partial_fit``.
    """

    name: str
    rows: int
    features: int
    n_classes: int
    hidden_layer_sizes: tuple[int, ...]
    batch_size: int
    epochs: int
    make: Callable[[Problem], tuple[Any, np.ndarray]]
    solver: str = "adam"
    kind: str = "classifier"
    params: Mapping[str, Any] = field(default_factory=dict, hash=False)
    weighted: bool = False
    incremental: bool = False

    @property
    def n_outputs(self) -> int:
        """Outputs of a classifier's network: one for two classes, as in scikit-learn and ours."""
        return 1 if self.n_classes == 2 else self.n_classes

    @property
    def layer_units(self) -> tuple[int, ...]:
        """Units of every layer, from the features to the outputs."""
        return self.features, *self.hidden_layer_sizes, self.n_outputs

    @property
    def n_steps(self) -> int:
        """Updates of the weights in one fit."""
        return self.epochs * math.ceil(self.rows / self.batch_size)

    @property
    def is_basic(self) -> bool:
        """Whether all baselines can do it: Adam, dense X, classes."""
        plain = not (self.params or self.weighted or self.incremental or self.make is words)
        return plain and self.solver == "adam" and self.kind == "classifier"

    def mlp_params(self, seed: int) -> dict[str, Any]:
        """Parameters of scikit-learn's MLP and of ours, which are the same."""
        return {
            "hidden_layer_sizes": self.hidden_layer_sizes,
            "solver": self.solver,
            "batch_size": self.batch_size,
            "max_iter": self.epochs,
            "n_iter_no_change": np.inf,
            "tol": 0,
            "random_state": seed,
            **self.params,
        }

    def data(self) -> tuple[Any, np.ndarray]:
        """X in float64 and the targets of its kind."""
        X, y = self.make(self)
        if self.kind == "multilabel":
            return X, np.eye(self.n_classes, dtype=np.int64)[y]
        if self.kind == "regressor":
            return X, (y - y.mean()) / y.std()
        return X, y

    def sample_weight(self) -> np.ndarray | None:
        """A weight a row, if rows have weights."""
        return np.linspace(0.5, 1.5, self.rows) if self.weighted else None

    def shrunk(self, rows: int) -> Problem:
        """At most these rows, and batches of no more."""
        rows = min(self.rows, rows)
        return replace(self, rows=rows, batch_size=min(self.batch_size, rows))

    def scaled(self, scale: float) -> Problem:
        """Fewer rows and epochs, for smoke tests."""
        rows = max(round(self.rows * scale), 10 * self.n_classes)
        return replace(self.shrunk(rows), epochs=max(round(self.epochs * scale), 1))

    def warm_up(self) -> Problem:
        """A short fit, which imports modules and makes threads."""
        return replace(self.shrunk(2 * self.batch_size), epochs=1)

    def facts(self) -> dict[str, Any]:
        """All its fields, for JSON."""
        return asdict(self) | {"make": self.make.__name__, "n_steps": self.n_steps}

    def __str__(self) -> str:
        layers = "-".join(map(str, self.hidden_layer_sizes))
        steps = f"{self.epochs} iterations" if self.solver == "lbfgs" else f"batch {self.batch_size}"
        return f"{self.name}: {self.rows}×{self.features}, layers {layers}, {steps}"


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
    """A normal cloud a class, of standard deviation 1, its center about 4 away from the origin."""
    rng = np.random.default_rng(0)
    y = rng.integers(problem.n_classes, size=problem.rows)
    centers = rng.standard_normal((problem.n_classes, problem.features)) * 4 / math.sqrt(problem.features)
    X = rng.standard_normal((problem.rows, problem.features))
    X += centers[y]
    return X, y


def words(problem: Problem) -> tuple[sp.csr_array, np.ndarray]:
    """Counts of words, 0.5 % of them not zero; each class has its own words, half of those in its rows."""
    rng = np.random.default_rng(0)
    n_words, n_own = problem.features // 200, problem.features // problem.n_classes
    y = rng.integers(problem.n_classes, size=problem.rows)
    columns = rng.integers(problem.features, size=(problem.rows, n_words), dtype=np.int32)
    columns[:, ::2] = columns[:, ::2] % n_own + (y * n_own)[:, np.newaxis]
    starts = np.arange(0, columns.size + 1, n_words, dtype=np.int32)
    X = sp.csr_array((np.ones(columns.size), columns.ravel(), starts), shape=(problem.rows, problem.features))
    X.sum_duplicates()
    return X, y


_ALL = [
    # name, rows, features, n_classes, hidden_layer_sizes, batch_size, epochs, make
    Problem("iris", 150, 4, 3, (100,), 150, 300, iris),
    Problem("digits", 1437, 64, 10, (100,), 200, 40, digits),  # 80 % of the rows, as after a split
    Problem("binary", 40_000, 100, 2, (100,), 200, 3, clouds),
    Problem("mnist_shape", 60_000, 784, 10, (128, 64), 64, 1, clouds),
    Problem("wide", 20_000, 512, 10, (1024, 1024), 512, 1, clouds),
    Problem("lbfgs", 1437, 64, 10, (100,), 1437, 50, digits, solver="lbfgs"),
    Problem("sparse", 10_000, 20_000, 5, (100,), 200, 2, words),
]
PROBLEMS = {problem.name: problem for problem in _ALL}
