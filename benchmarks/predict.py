"""Time predictions of one row to 100,000 and print how many times longer each rival takes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from . import figures
from .contestants import comparisons, entrants
from .fits import RATIOS, add_rivals
from .gates import PREDICTIONS
from .problems import PROBLEMS
from .report import table
from .runner import Row, compare, race

UNIT = "seconds"
NAMES = {"PyTorch": "torch module", "products": "call / products"}

#: Methods and rows, of the MNIST shape.
CALLS = [("predict_proba", 1), ("predict_proba", 10), ("predict_proba", 200), ("predict", 10_000), ("predict", 100_000)]

#: Rows of the one epoch that everyone's model is fitted with before.
TRAINED_ON = 6_400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what only this command takes."""
    add_rivals(parser)


def run(args: argparse.Namespace) -> list[Row]:
    """Fit the rivals' models, then time their predictions."""
    columns = comparisons(args.rivals, args.device, NAMES)
    contestants = entrants(columns)
    calls = [(method, min(n_rows, max(round(n_rows * args.scale), 200))) for method, n_rows in CALLS]
    most = max(n_rows for _, n_rows in calls)
    problem = replace(PROBLEMS["mnist_shape"], rows=most)
    X, y = problem.data()
    inputs = {dtype: X.astype(dtype, copy=False) for dtype in {contestant.X_dtype for contestant in contestants}}

    print(f"{problem}: fits …", file=sys.stderr)
    short = replace(problem.shrunk(TRAINED_ON), epochs=1)
    models = {
        c.name: c.fit(short, inputs[c.X_dtype][: short.rows], y[: short.rows], 0, args.device).model
        for c in contestants
    }
    rows = []
    for method, n_rows in calls:
        title = f"{method}, {n_rows} row{'s' if n_rows > 1 else ''}"
        print(f"{title} …", file=sys.stderr)
        timed = {
            c.name: partial(_call, getattr(models[c.name], method), inputs[c.X_dtype][:n_rows]) for c in contestants
        }
        for call in timed.values():
            call(0)  # makes views and buffers
        measurements = race(timed, args.repeats)
        facts = short.facts() | {"method": method, "n_rows": n_rows}
        rows.append(Row(title, facts, measurements, compare(columns, measurements, PREDICTIONS[method])))
    return rows


def _call(method: Callable[[Any], Any], X: Any, seed: int) -> Any:
    return method(X)


def summary(rows: Sequence[Row], args: argparse.Namespace) -> str:
    """The table."""
    return "\n".join([RATIOS.format_map(vars(args)), table(rows, "call")])


def draw(rows: Sequence[Row], path: Path) -> None:
    """The picture."""
    figures.bars(rows, path, "time of the rival / ours, predictions")
