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

from benchmarks import figures
from benchmarks.problems import PROBLEMS, Problem
from benchmarks.report import Summary, ratio_table
from benchmarks.runner import Comparison, Measurement, Row, measure_row, timer
from benchmarks.tolerances import Agreement, ArrayTolerance, Tolerances
from sktorch_mlp import MLPTorchClassifier, stacked_fits

UNIT = "seconds"
N_PROCESSES = 2
BASELINES = f"scikit-learn, n_jobs={N_PROCESSES}", f"ours, n_jobs={N_PROCESSES}"
STACKS = "stacked", f"stacked in {N_PROCESSES} processes"

#: Learning rates and penalties.
DIGITS_GRID = np.logspace(-3.5, -2, 4).tolist(), np.logspace(-5, -1, 5).tolist()
IRIS_GRID = np.logspace(-4, -2, 10).tolist(), np.logspace(-5, -1, 10).tolist()

#: Mean scores of the candidates. In float32 rows near the border are classified otherwise.
SCORES: Tolerances = {Agreement.FLOAT64: ArrayTolerance(1e-12), Agreement.FLOAT32: ArrayTolerance(0.03)}


@dataclass(frozen=True)
class Search:
    """A grid search over learning rates and penalties.

    Attributes
    ----------
    title : str
    problem : Problem
    learning_rates, alphas : sequence of float
    dtype : str
        Of ours.
    n_folds : int
    """

    title: str
    problem: Problem
    learning_rates: Sequence[float]
    alphas: Sequence[float]
    dtype: str
    n_folds: int = 5

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
            search = GridSearchCV(pipeline, grid, cv=self.n_folds, refit=False).fit(X, y)
        return search.cv_results_["mean_test_score"]

    def calls(self, device: str) -> dict[str, Callable[[int], Any]]:
        """The same search in two processes, by scikit-learn and by ours, and in stacks."""
        X, y = self.problem.data()
        sklearn, ours = MLPClassifier(), MLPTorchClassifier(dtype=self.dtype, device=device)
        in_processes = partial(joblib.parallel_config, n_jobs=N_PROCESSES)
        stacked_in_processes = partial(stacked_fits, n_processes=N_PROCESSES)
        return {
            BASELINES[0]: partial(self.fit, sklearn, in_processes, X, y),
            BASELINES[1]: partial(self.fit, ours, in_processes, X, y),
            STACKS[0]: partial(self.fit, ours, stacked_fits, X, y),
            STACKS[1]: partial(self.fit, ours, stacked_in_processes, X, y),
        }


def all_searches(scale: float) -> list[Search]:
    """The searches, with rows and epochs scaled."""
    digits, iris = PROBLEMS["digits"].scaled(scale), PROBLEMS["iris"].scaled(scale)
    iris = replace(iris, epochs=min(iris.epochs, 200))
    return [
        Search('digits, 20 candidates × 5 folds, dtype="float32"', digits, *DIGITS_GRID, "float32"),
        Search("digits, 20 candidates × 5 folds, float64", digits, *DIGITS_GRID, "float64"),
        Search('iris, 100 candidates × 5 folds, dtype="float32"', iris, *IRIS_GRID, "float32"),
        Search("iris, 100 candidates × 5 folds, float64", iris, *IRIS_GRID, "float64"),
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Set how often to repeat."""
    parser.set_defaults(repeats=3)


def run(args: argparse.Namespace) -> list[Row]:
    """Time all searches."""
    return [search_row(search, search.calls(args.device), args) for search in all_searches(args.scale)]


def search_row(search: Search, calls: dict[str, Callable[[int], Any]], args: argparse.Namespace) -> Row:
    """Time one search.

    Parameters
    ----------
    search : Search
    calls : dict
        ``search.calls(device)``
    args : Namespace
        The command line, see `measure_row`.
    """
    print(f"{search.title} …", file=sys.stderr)
    agreement = Agreement.FLOAT64 if search.dtype == "float64" else Agreement.FLOAT32
    columns = [
        Comparison(f"{baseline} / {stacked}", baseline, stacked, agreement)
        for stacked in STACKS
        for baseline in BASELINES
    ]
    facts = search.problem.facts() | {"n_fits": search.n_folds * len(search.learning_rates) * len(search.alphas)}
    return measure_row(search.title, facts, calls, columns, SCORES, args, partial(_in_own_processes, timer(args)))


def _in_own_processes(measure: Callable[[Callable[[], Any]], Measurement], call: Callable[[], Any]) -> Measurement:
    """Measure a call for which joblib's processes have made it once before, and nothing else."""
    get_reusable_executor().shutdown(wait=True)
    call()
    return measure(call)


def tables(summary: Summary) -> str:
    """Write the ratios of all searches."""
    return (
        f"Time of a search / that inside `stacked_fits()`, in one process and with `n_processes={N_PROCESSES}`: median "
        f"(lowest–highest) of {summary['repeats']} rounds; above 1 the stack is faster.\n\n"
        + ratio_table(summary, "search")
    )


def draw(summary: Summary, path: Path) -> None:
    """Draw the ratios as bars."""
    figures.bars(summary["rows"], path, "time of a search / inside stacked_fits() (right of 1 stacks are faster)")
