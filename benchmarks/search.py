"""Time whole grid searches: stacked fits, in one process and in two, against two processes without stacks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from joblib.externals.loky import get_reusable_executor
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktorch_mlp import MLPTorchClassifier, stacked_fits

from . import figures
from .gates import Agreement, Probabilities
from .problems import PROBLEMS, Problem
from .report import table
from .runner import Comparison, Measurement, Row, compare, race, timed

UNIT = "seconds"
N_PROCESSES = 2
SKLEARN, OURS = f"scikit-learn, n_jobs={N_PROCESSES}", f"ours, n_jobs={N_PROCESSES}"
RIVALS = SKLEARN, OURS
STACKS = "stacked", f"stacked in {N_PROCESSES} processes"
#: Mean scores of the candidates. In float32 rows near the border fall otherwise.
SCORES = {Agreement.FLOAT64: Probabilities(1e-12), Agreement.FLOAT32: Probabilities(0.03)}


@dataclass(frozen=True)
class Search:
    """One grid search.

    Attributes
    ----------
    title : str
    problem : Problem
    learning_rates, alphas : sequence of float
    dtype : str
        Of ours.
    """

    title: str
    problem: Problem
    learning_rates: Sequence[float]
    alphas: Sequence[float]
    dtype: str

    def fit(
        self, estimator: BaseEstimator, context: Callable[[], Any], X: np.ndarray, y: np.ndarray, seed: int
    ) -> np.ndarray:
        """Run it in a context; the mean score of each candidate."""
        pipeline = make_pipeline(
            StandardScaler(), estimator.set_params(**self.problem.mlp_params(seed) | {"batch_size": "auto"})
        )
        step = pipeline.steps[-1][0]
        grid = {f"{step}__learning_rate_init": self.learning_rates, f"{step}__alpha": self.alphas}
        with context():
            search = GridSearchCV(pipeline, grid, cv=5, refit=False).fit(X, y)
        return search.cv_results_["mean_test_score"]

    def calls(self, device: str) -> dict[str, Callable[[int], Any]]:
        """What each contestant does."""
        X, y = self.problem.data()
        theirs, ours = MLPClassifier(), MLPTorchClassifier(dtype=self.dtype, device=device)
        processes = partial(joblib.parallel_config, n_jobs=N_PROCESSES)
        stacks_in_processes = partial(stacked_fits, n_processes=N_PROCESSES)
        return {
            SKLEARN: partial(self.fit, theirs, processes, X, y),
            OURS: partial(self.fit, ours, processes, X, y),
            STACKS[0]: partial(self.fit, ours, stacked_fits, X, y),
            STACKS[1]: partial(self.fit, ours, stacks_in_processes, X, y),
        }


def searches(scale: float) -> list[Search]:
    """The searches, with rows and epochs scaled."""
    digits, iris = PROBLEMS["digits"].scaled(scale), PROBLEMS["iris"].scaled(scale)
    rates, alphas = np.logspace(-3.5, -2, 4).tolist(), np.logspace(-5, -1, 5).tolist()
    tiny = np.logspace(-4, -2, 10).tolist(), np.logspace(-5, -1, 10).tolist()
    iris = replace(iris, epochs=min(iris.epochs, 200))
    return [
        Search('digits, 20 candidates × 5 folds, dtype="float32"', digits, rates, alphas, "float32"),
        Search("digits, 20 candidates × 5 folds, float64", digits, rates, alphas, "float64"),
        Search('iris, 100 candidates × 5 folds, dtype="float32"', iris, *tiny, "float32"),
        Search("iris, 100 candidates × 5 folds, float64", iris, *tiny, "float64"),
    ]


def timed_in_own_processes(call: Callable[[], Any]) -> Measurement:
    """Time a call for which joblib's processes have made it once before, and nothing else."""
    get_reusable_executor().shutdown(wait=True)
    call()
    return timed(call)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Set how often to repeat."""
    parser.set_defaults(repeats=3)


def run(args: argparse.Namespace) -> list[Row]:
    """Time the searches."""
    rows = []
    for search in searches(args.scale):
        print(f"{search.title} …", file=sys.stderr)
        calls = search.calls(args.device)
        measurements = race(calls, args.repeats, timed_in_own_processes)
        agreement = Agreement.FLOAT64 if search.dtype == "float64" else Agreement.FLOAT32
        columns = [
            Comparison(f"{rival} / {stacked}", rival, stacked, agreement) for stacked in STACKS for rival in RIVALS
        ]
        facts = search.problem.facts() | {"n_fits": 5 * len(search.learning_rates) * len(search.alphas)}
        rows.append(Row(search.title, facts, measurements, compare(columns, measurements, SCORES)))
    return rows


def summary(rows: Sequence[Row], args: argparse.Namespace) -> str:
    """The table."""
    return (
        f"Time of a search / that inside `stacked_fits()`, in one process and with `n_processes={N_PROCESSES}`: median "
        f"(lowest–highest) of {args.repeats} rounds; above 1 the stack is faster.\n\n{table(rows, 'search')}"
    )


def draw(rows: Sequence[Row], path: Path) -> None:
    """The picture."""
    figures.bars(rows, path, "time of a search / inside stacked_fits()")
