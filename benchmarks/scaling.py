"""Time fits against rows, epochs and parameters, and print the slopes in log-log scale."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np

from . import figures
from .contestants import X_FLOAT32
from .fits import RATIOS, fit_row
from .gates import Agreement
from .problems import PROBLEMS, Problem
from .report import markdown, table
from .runner import Row

UNIT = "seconds"

#: A thousand epochs in float32 let rounding grow, so the losses are only similar.
COLUMN = replace(X_FLOAT32, name="scikit-learn", agreement=Agreement.SIMILAR)

#: Seconds a fit that scikit-learn may be expected to take.
LIMIT = 10.0


@dataclass(frozen=True)
class Series:
    """Problems that differ in one quantity.

    Attributes
    ----------
    quantity : str
        "rows", "epochs" or "parameters".
    label : str
        Of which series of this quantity this is; "" if there is only one.
    points : list of (int, Problem)
        The quantity and its problem, in ascending order.
    """

    quantity: str
    label: str
    points: list[tuple[int, Problem]]

    def __str__(self) -> str:
        return f"{self.quantity}, {self.label}" if self.label else self.quantity


def all_series(scale: float) -> list[Series]:
    """What is measured; `scale` shrinks the largest sizes, for smoke tests."""
    rows = _sizes((1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000), scale, at_least=200)
    epochs = _sizes((1, 3, 10, 30, 100, 300, 1_000), scale, at_least=1)
    units = _sizes((10, 32, 128, 512, 2_048, 8_192), scale, at_least=10)
    binary, digits = replace(PROBLEMS["binary"], epochs=1), PROBLEMS["digits"]
    one_layer, two_layers = (
        [replace(binary, rows=1_000, hidden_layer_sizes=(n,) * n_layers) for n in units] for n_layers in (1, 2)
    )
    return [
        Series("rows", "", [(n, replace(binary, rows=n)) for n in rows]),
        Series("epochs", "", [(n, replace(digits, epochs=n)) for n in epochs]),
        Series("parameters", "one layer", [(_n_parameters(problem), problem) for problem in one_layer]),
        Series("parameters", "two layers", [(_n_parameters(problem), problem) for problem in two_layers]),
    ]


def _sizes(sizes: Iterable[int], scale: float, at_least: int) -> list[int]:
    return sorted({max(round(size * scale), at_least) for size in sizes})


def _n_parameters(problem: Problem) -> int:
    return sum((n_in + 1) * n_out for n_in, n_out in pairwise(problem.layer_units))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Set how often to repeat."""
    parser.set_defaults(repeats=3)


def run(args: argparse.Namespace) -> list[Row]:
    """Time ours on all points, and scikit-learn where it is not expected to exceed `LIMIT`."""
    return [row for series in all_series(args.scale) for row in _run_series(series, args)]


def _run_series(series: Series, args: argparse.Namespace) -> Iterable[Row]:
    seconds_each = 0.0  # scikit-learn's, at the point before
    for size, problem in series.points:
        without = {COLUMN.rival} if seconds_each * size > LIMIT else ()
        row = fit_row(problem, [COLUMN], args, without)
        if COLUMN.rival in row.measurements:
            seconds_each = _median(row, COLUMN.rival) / size
        facts = {"quantity": series.quantity, "label": series.label, "size": size}
        yield replace(row, title=f"{series}: {size:,}", facts=row.facts | facts)


def summary(rows: Sequence[Row], args: argparse.Namespace) -> str:
    """The ratios at all points, and the slopes."""
    slopes = [
        [", ".join(filter(None, key)), *(_written(_slope(points, name)) for name in (COLUMN.ours, COLUMN.rival))]
        for key, points in _by_series(rows)
    ]
    return "\n".join(
        [
            RATIOS.format_map(vars(args)),
            table(rows, "size"),
            "\nSlope of log time over log size, upper half of the sizes; 1 is proportional.\n",
            markdown(["time against", "ours", "scikit-learn"], slopes),
        ]
    )


def draw(rows: Sequence[Row], path: Path) -> None:
    """The picture: a panel a quantity."""
    curves = [
        _curve(quantity, label == "two layers", points, is_ours)
        for (quantity, label), points in _by_series(rows)
        for is_ours in (True, False)
    ]
    figures.panels(curves, path)


def _curve(quantity: str, is_second: bool, rows: Sequence[Row], is_ours: bool) -> figures.Curve:
    who, name = ("ours", COLUMN.ours) if is_ours else ("scikit-learn", COLUMN.rival)
    sizes, seconds = _points(rows, name)
    return figures.Curve(quantity, f"{who}, two layers" if is_second else who, sizes, seconds, is_ours, is_second)


def _by_series(rows: Sequence[Row]) -> list[tuple[tuple[str, str], list[Row]]]:
    groups = groupby(rows, key=lambda row: (row.facts["quantity"], row.facts["label"]))
    return [(key, list(group)) for key, group in groups]


def _points(rows: Iterable[Row], name: str) -> tuple[list[int], list[float]]:
    measured = [row for row in rows if name in row.measurements]
    return [row.facts["size"] for row in measured], [_median(row, name) for row in measured]


def _slope(rows: Sequence[Row], name: str) -> float | None:
    sizes, seconds = _points(rows[len(rows) // 2 :], name)
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]) if len(sizes) > 1 else None


def _written(slope: float | None) -> str:
    return "–" if slope is None else f"{slope:.2f}"


def _median(row: Row, name: str) -> float:
    return statistics.median(measurement.value for measurement in row.measurements[name])
