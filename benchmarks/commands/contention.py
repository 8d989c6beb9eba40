"""Time the same calls on an idle machine, a busy one, one core and a quota, on one thread and on all.

scikit-learn, ours and ours on one thread have a process each, started anew in every
state, and take turns. `benchmarks.states` has the states.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import joblib
from sklearn.neural_network import MLPClassifier

from benchmarks.arguments import positive
from benchmarks.implementations import IMPLEMENTATIONS, on_device
from benchmarks.problems import PROBLEMS, Problem
from benchmarks.report import Summary, ratio_table
from benchmarks.runner import Comparison, Measurement, Row, SkippedError, limit_threads, measure_row, timed
from benchmarks.states import STATES
from benchmarks.tolerances import LOSSES, PREDICTIONS, Agreement, Tolerances
from benchmarks.worker import ROOT, Worker
from sktorch_mlp import MLPTorchClassifier, stacked_fits

from .fits import checked_fit
from .predict import TRAINED_ON
from .search import IRIS_GRID, SCORES, Search

UNIT = "seconds"
SKLEARN, OURS, ONE_THREAD = "scikit-learn", "ours", "ours, one thread"

#: Several periods of a quota, and many turns of the processes that share a core.
AT_LEAST = 0.5

#: What threads may cost at most, as part of the time: nobody else knows how busy a machine will be.
MARGIN = 0.2

COLUMNS = [
    Comparison(f"{SKLEARN} / {OURS}", SKLEARN, OURS, Agreement.FLOAT64),
    Comparison(f"{ONE_THREAD} / {OURS}", ONE_THREAD, OURS, Agreement.FLOAT64, mark="threads cost", margin=MARGIN),
]
TOLERANCES: dict[str, Tolerances] = {"fit": LOSSES, "search": SCORES, **PREDICTIONS}


@dataclass(frozen=True)
class Case:
    """What is called.

    Attributes
    ----------
    title : str
    problem : Problem
    method : str
        "fit", "predict", "predict_proba" or "search".
    n_rows : int
        Of a prediction.
    dtype : str
        Of X.
    """

    title: str
    problem: Problem
    method: str = "fit"
    n_rows: int = 0
    dtype: str = "float64"


def cases(scale: float) -> dict[str, Case]:
    """All cases by the names on the command line, with rows and epochs scaled."""
    iris, digits, binary, shape = (PROBLEMS[name] for name in ("iris", "digits", "binary", "mnist_shape"))
    epoch = replace(binary, rows=40_000, hidden_layer_sizes=(256, 128), epochs=1)
    many_features = replace(shape, rows=20_000, features=3_072, hidden_layer_sizes=(128,), batch_size=256)
    to_search = replace(iris, epochs=200).scaled(scale)
    return {
        "predict_proba": _prediction("predict_proba", replace(binary, features=50), 20_000, scale),
        "predict_proba_mnist": _prediction("predict_proba", shape, 10_000, scale),
        "predict_proba_few": _prediction("predict_proba", shape, 200, scale),
        "predict_row": _prediction("predict", shape, 1, scale),
        "iris": _fit("fit of iris", iris, scale),
        "digits": _fit("fit of digits", digits, scale),
        "epoch_two_layers": _fit("one epoch", epoch, scale),
        "epoch_mnist": _fit("one epoch", shape, scale, "float32"),
        "epoch_many_features": _fit("one epoch", many_features, scale, "float32"),
        "search": Case("search of iris: 10 candidates × 3 folds, float64", to_search, "search"),
    }


def _fit(name: str, problem: Problem, scale: float, dtype: str = "float64") -> Case:
    problem = replace(problem, name=name).scaled(scale)
    return Case(f"{problem}, {dtype}", problem, dtype=dtype)


def _prediction(method: str, problem: Problem, n_rows: int, scale: float) -> Case:
    n_rows = min(n_rows, max(round(n_rows * scale), 200))
    problem = replace(problem, rows=max(n_rows, round(TRAINED_ON * scale), 200))
    layers = "-".join(map(str, problem.hidden_layer_sizes))
    return Case(f"{method}: {n_rows}×{problem.features}, layers {layers}, float64", problem, method, n_rows)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the choice of states and calls, and how busy the machine is to be."""
    add, names = parser.add_argument, list(cases(1))
    add("--states", nargs="+", choices=STATES, default=list(STATES), metavar="NAME", help=f"of {', '.join(STATES)}")
    add("--calls", nargs="+", choices=names, default=names, metavar="NAME", help=f"of {', '.join(names)}")
    add("--others", type=positive, metavar="N", help="processes that make it busy (default: two for each core)")
    parser.set_defaults(at_least=AT_LEAST)


def run(args: argparse.Namespace) -> list[Row]:
    """Time all calls in one state after the other."""
    rows, left_out = [], {}
    for state in args.states:
        try:
            rows += _rows(state, args)
        except SkippedError as reason:
            print(f"SKIPPED: {state}: {reason}", file=sys.stderr)
            left_out[state] = str(reason)
    if not rows:
        raise SkippedError("; ".join(left_out.values()))
    return [replace(row, facts=row.facts | {"left_out": left_out}) for row in rows]


def _rows(state: str, args: argparse.Namespace) -> list[Row]:
    """Time all calls in one state."""
    every = cases(args.scale)
    n_others = args.others or 2 * joblib.cpu_count()
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(ROOT)) for name in (SKLEARN, OURS, ONE_THREAD)}
        # They have not imported numpy and PyTorch yet, which choose their threads then.
        meaning = stack.enter_context(STATES[state]([worker.pid for worker in workers.values()], n_others))
        facts = {"state": state, "meaning": meaning, "cores": workers[OURS].call(joblib.cpu_count)}
        return [_row(every[name], workers, facts, args) for name in args.calls]


def _row(case: Case, workers: dict[str, Worker], facts: dict[str, Any], args: argparse.Namespace) -> Row:
    print(f"{facts['state']}: {case.title} …", file=sys.stderr)
    agreement = Agreement.FLOAT64 if case.dtype == "float64" else Agreement.FLOAT32
    columns = [on_device(replace(column, agreement=agreement), args.device) for column in COLUMNS]
    calls = {name: partial(worker.call, measure, case, name, args) for name, worker in workers.items()}
    facts = {"call": case.title, "method": case.method, "n_rows": case.n_rows, **facts}
    facts = case.problem.facts() | {"dtype": case.dtype} | facts
    title = f"{facts['state']}: {case.title}"
    return measure_row(title, facts, calls, columns, TOLERANCES[case.method], args, measure=lambda call: call())


def tables(summary: Summary) -> str:
    """Write what the states are, then a table for each ratio, with a column for each state."""
    facts = [row["facts"] for row in summary["rows"]]
    states = {fact["state"]: fact["meaning"] for fact in facts}
    left_out = {state: f"left out, {reason}" for state, reason in facts[0]["left_out"].items()}
    slower, costly = (_table(summary, column.title) for column in COLUMNS)
    return "\n".join(
        [
            *(f"- {state}: {meaning}" for state, meaning in (states | left_out).items()),
            f"\nMedian (lowest–highest) of {summary['repeats']} rounds; above 1 ours is faster. Time of scikit-learn / "
            "ours, which is marked below 1:\n",
            slower,
            f"\nTime of ours on one thread / ours, which is marked below {1 - MARGIN:.1f}:\n",
            costly,
        ]
    )


def _table(summary: Summary, column: str) -> str:
    """One ratio, a row for each call; a row is busy if it is in one of the states."""
    merged: dict[str, dict[str, Any]] = {}
    for row in summary["rows"]:
        call = merged.setdefault(row["facts"]["call"], {"busy": False, "load": None, "ratios": {}})
        call["ratios"][row["facts"]["state"]] = row["ratios"][column]
        call["busy"] |= row["busy"]
        if row["load"] is not None:
            call["load"] = max(row["load"], call["load"] or 0.0)
    return ratio_table(summary, "call", [{"title": title, **call} for title, call in merged.items()])


# In the workers ------------------------------------------------------------------------


def measure(case: Case, name: str, args: argparse.Namespace, seed: int) -> Measurement:
    """Time one call of a case by one implementation."""
    with limit_threads(1 if name == ONE_THREAD else args.threads):
        call = prepare(case, SKLEARN if name == SKLEARN else OURS, args.device)
        gc.freeze()  # as `interleave` does
        try:
            return timed(partial(call, seed), args.pause, args.at_least)
        finally:
            gc.unfreeze()


@lru_cache(maxsize=1)
def prepare(case: Case, name: str, device: str) -> Callable[[int], Any]:
    """Make data and model, warm up, and return what is to be timed, given the seed."""
    problem = case.problem
    X, y = problem.data()
    X = X.astype(case.dtype, copy=False)
    if case.method == "search":
        estimator = MLPClassifier() if name == SKLEARN else MLPTorchClassifier(device=device)
        search = Search(case.title, problem, IRIS_GRID[0], [1e-4], case.dtype, n_folds=3)
        call = partial(search.fit, estimator, nullcontext if name == SKLEARN else stacked_fits, X, y)
        call(0)
        return call
    implementation = IMPLEMENTATIONS[f"{name}, X {case.dtype}"]
    short = replace(problem.shrunk(TRAINED_ON), epochs=1) if case.n_rows else problem.warm_up()
    model = implementation.fit(short, X[: short.rows], y[: short.rows], 0, device).model
    if case.method == "fit":
        return lambda seed: checked_fit(implementation, problem, X, y, device, seed)
    predict, rows = getattr(model, case.method), X[: case.n_rows]
    predict(rows)
    return lambda seed: predict(rows)
