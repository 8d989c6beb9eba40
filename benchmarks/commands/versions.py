"""Time this checkout beside another one, an older commit say, and print how many times longer the other takes.

Each has a process of its own, which makes the calls of both tables, fits and predictions,
in turn with the other::

    git worktree add ../before COMMIT
    python -m benchmarks versions --other ../before
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ours
from benchmarks.configurations import Configuration
from benchmarks.implementations import on_device
from benchmarks.problems import PROBLEMS, Problem
from benchmarks.report import Summary, ratio_table
from benchmarks.runner import Comparison, Measurement, Row, limit_threads, measure_row, timed
from benchmarks.tolerances import LOSSES, PREDICTIONS, Agreement, ArrayTolerance, LossTolerance, Tolerances
from benchmarks.worker import ROOT, Worker
from sktorch_mlp import MLPTorchClassifier, stacked_fits

from .fits import agreement_on
from .predict import TRAINED_ON
from .search import DIGITS_GRID, SCORES, Search

UNIT = "seconds"

#: How much slower this checkout may be before a cell is marked: room for noise.
MARGIN = 0.02

# Two versions make the same operations in another order at most: closer than to scikit-learn.
TOLERANCES: dict[str, Tolerances] = {
    "fit": {**LOSSES, Agreement.FLOAT64: LossTolerance(rtol=1e-9, atol=1e-9)},
    "predict_proba": {**PREDICTIONS["predict_proba"], Agreement.FLOAT64: ArrayTolerance(1e-9)},
    "search": SCORES,
}


@dataclass(frozen=True)
class Case:
    """What both checkouts do.

    Attributes
    ----------
    title : str
    problem : Problem
    method : str
        "fit", "predict_proba" or "search".
    n_rows : int
        Of a prediction.
    """

    title: str
    problem: Problem
    method: str = "fit"
    n_rows: int = 0


def cases(scale: float) -> dict[str, list[Case]]:
    """All cases by the names on the command line, with rows and epochs scaled."""
    problems = {name: problem.scaled(scale) for name, problem in PROBLEMS.items()}
    digits, shape = problems["digits"], PROBLEMS["mnist_shape"]
    n_rows = [min(n, max(round(n * scale), 200)) for n in (1, 10, 200, 10_000, 100_000)]
    to_predict = replace(shape, rows=max(n_rows))
    return {
        **{name: [Case(f"fit, {problem}", problem)] for name, problem in problems.items()},
        "partial_fit": [Case("partial_fit, digits", Configuration(incremental=True).of(digits))],
        "early_stopping": [Case("early stopping, digits", Configuration(early_stopping=True).of(digits))],
        "predict": [
            Case(f"predict_proba, {n} row{'s' if n > 1 else ''}", to_predict, "predict_proba", n) for n in n_rows
        ],
        "search": [Case("search in stacks, digits, 20 candidates × 5 folds", digits, "search")],
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the other checkout."""
    names = list(cases(1))
    parser.add_argument("--other", type=Path, metavar="FOLDER", required=True, help="the other checkout")
    parser.add_argument(
        "--problems", nargs="+", choices=names, default=names, metavar="NAME", help=f"of {', '.join(names)}"
    )


def run(args: argparse.Namespace) -> list[Row]:
    """Time both checkouts on the problems, in float64 and in float32."""
    other = args.other.resolve()
    facts = {"other": _commit(other), "this": _commit(ROOT)}
    with Worker(other) as before, Worker(ROOT) as after:
        workers = {"other": before, "this": after}
        every = cases(args.scale)
        return [_row(case, workers, facts, args) for name in args.problems for case in every[name]]


def _commit(checkout: Path) -> str:
    """Its commit, or the name of the folder where there is none."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude=*"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or checkout.name


def _row(case: Case, workers: dict[str, Worker], facts: dict[str, str], args: argparse.Namespace) -> Row:
    print(f"{case.title} …", file=sys.stderr)
    columns, calls = [], {}
    for dtype, agreement in (("float64", Agreement.FLOAT64), ("float32", Agreement.FLOAT32)):
        names = {which: f"{which}, X {dtype}" for which in workers}
        agreement = agreement_on(case.problem, agreement)
        column = Comparison(f"X {dtype}", names["other"], names["this"], agreement, margin=MARGIN)
        columns.append(on_device(column, args.device))
        for which, worker in workers.items():
            calls[names[which]] = partial(worker.call, measure, case, dtype, args)
    facts = case.problem.facts() | {"method": case.method, "n_rows": case.n_rows} | facts
    return measure_row(case.title, facts, calls, columns, TOLERANCES[case.method], args, measure=lambda call: call())


def tables(summary: Summary) -> str:
    """Write the ratios of all cases."""
    facts = summary["rows"][0]["facts"]
    return (
        f"Time of {facts['other']} / {facts['this']}: median (lowest–highest) of {summary['repeats']} rounds; above 1 "
        f"the latter, which is this checkout, is faster. Below {1 - MARGIN:.2f} it is marked.\n\n"
        + ratio_table(summary, "call")
    )


# In the workers ------------------------------------------------------------------------


def measure(case: Case, dtype: str, args: argparse.Namespace, seed: int) -> Measurement:
    """Time one call of a case."""
    with limit_threads(args.threads):
        call = prepare(case, dtype, args.device)
        gc.freeze()  # as `interleave` does
        try:
            return timed(partial(call, seed), args.pause, args.at_least)
        finally:
            gc.unfreeze()


@lru_cache(maxsize=2)  # both precisions of one case
def prepare(case: Case, dtype: str, device: str) -> Callable[[int], Any]:
    """Make data and model, warm up, and return what is to be timed, given the seed."""
    problem = case.problem
    X, y = _data(problem, dtype)
    if case.method == "search":
        search = Search(case.title, problem, *DIGITS_GRID, dtype)
        call = partial(search.fit, MLPTorchClassifier(dtype=dtype, device=device), stacked_fits, X, y)
        call(0)
        return call
    short = replace(problem.shrunk(TRAINED_ON), epochs=1) if case.method == "predict_proba" else problem.warm_up()
    fitted = ours.fit(short, X[: short.rows], y[: short.rows], 0, device)
    if case.method == "fit":
        return lambda seed: ours.fit(problem, X, y, seed, device).result
    rows = X[: case.n_rows]
    fitted.model.predict_proba(rows)
    return lambda seed: fitted.model.predict_proba(rows)


@lru_cache(maxsize=2)
def _data(problem: Problem, dtype: str) -> tuple[Any, np.ndarray]:
    X, y = problem.data()
    return X.astype(dtype, copy=False), y
