"""Time predictions of one row to 100,000 and print how many times longer each baseline takes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import figures
from benchmarks.arguments import add_baselines
from benchmarks.implementations import IMPLEMENTATIONS, Implementation, columns_of, implementations_of
from benchmarks.problems import PROBLEMS
from benchmarks.report import Summary, ratio_table
from benchmarks.runner import Comparison, Row, measure_row
from benchmarks.tolerances import PREDICTIONS

from .fits import RATIOS

UNIT = "seconds"
NAMES = {"PyTorch": "torch module", "products": "call / products"}

#: Methods and rows, of the MNIST shape.
CALLS = [("predict_proba", 1), ("predict_proba", 10), ("predict_proba", 200), ("predict", 10_000), ("predict", 100_000)]

#: Rows of the one epoch that all models are fitted with before.
TRAINED_ON = 6_400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what only this command takes."""
    add_baselines(parser)


def run(args: argparse.Namespace) -> list[Row]:
    """Fit a model with each implementation, then time the predictions."""
    return prediction_rows(scaled(CALLS, args.scale), columns_of(args.baselines, args.device, NAMES), args)


def scaled(calls: Sequence[tuple[str, int]], scale: float) -> list[tuple[str, int]]:
    """The calls with fewer rows, for smoke tests."""
    return [(method, min(n_rows, max(round(n_rows * scale), 200))) for method, n_rows in calls]


def prediction_rows(
    calls: Sequence[tuple[str, int]],
    columns: Sequence[Comparison],
    args: argparse.Namespace,
    implementations: Mapping[str, Implementation] = IMPLEMENTATIONS,
) -> list[Row]:
    """Time some calls.

    Parameters
    ----------
    calls : sequence of (str, int)
        Methods and rows.
    columns : sequence of Comparison
    args : Namespace
        The command line: `device`, and what `measure_row` needs.
    implementations : mapping, default=IMPLEMENTATIONS
        By their names in the columns.
    """
    measured = implementations_of(columns, implementations)
    problem = replace(PROBLEMS["mnist_shape"], rows=max(n_rows for _, n_rows in calls))
    X, y = problem.data()
    inputs = {dtype: X.astype(dtype, copy=False) for dtype in {i.X_dtype for i in measured}}

    print(f"{problem}: fits …", file=sys.stderr)
    short = replace(problem.shrunk(TRAINED_ON), epochs=1)
    models = {
        i.name: i.fit(short, inputs[i.X_dtype][: short.rows], y[: short.rows], 0, args.device).model for i in measured
    }
    rows = []
    for method, n_rows in calls:
        title = f"{method}, {n_rows} row{'s' if n_rows > 1 else ''}"
        print(f"{title} …", file=sys.stderr)
        to_time = {
            i.name: partial(_call, getattr(models[i.name], method), inputs[i.X_dtype][:n_rows]) for i in measured
        }
        for call in to_time.values():
            call(0)  # makes views and buffers
        facts = short.facts() | {"method": method, "n_rows": n_rows}
        rows.append(measure_row(title, facts, to_time, columns, PREDICTIONS[method], args))
    return rows


def _call(method: Callable[[Any], Any], X: Any, seed: int) -> Any:
    return method(X)


def tables(summary: Summary) -> str:
    """Write the ratios of all calls."""
    return RATIOS.format_map(summary) + ratio_table(summary, "call")


def draw(summary: Summary, path: Path) -> None:
    """Draw the ratios as bars."""
    figures.bars(summary["rows"], path, "time of the baseline / ours, predictions (right of 1 ours is faster)")
