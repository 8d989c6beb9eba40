"""Time fits against rows, epochs, parameters, the number of networks, or in every configuration."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from benchmarks import figures, ours
from benchmarks.arguments import seconds
from benchmarks.configurations import configurations
from benchmarks.implementations import X_FLOAT32, X_FLOAT64, on_device
from benchmarks.problems import PROBLEMS, Problem
from benchmarks.report import Summary, markdown, ratio_table
from benchmarks.runner import Comparison, Row, measure_row
from benchmarks.series import Series, all_series, sizes
from benchmarks.tolerances import LOSSES, Agreement, FitResult
from sktorch_mlp import stacked_fits

from .fits import RATIOS, fit_row

UNIT = "seconds"

#: A thousand epochs in float32 let rounding grow, so the losses are only similar.
BY_SIZE = replace(X_FLOAT32, name="scikit-learn", agreement=Agreement.SIMILAR)

ALONE, STACKED = "one after another", "in stacks"
BY_NETWORKS = Comparison(f"{ALONE} / {STACKED}", ALONE, STACKED, Agreement.FLOAT32)
N_NETWORKS = 1, 10, 100, 200, 1000

BY_CONFIGURATION = [replace(X_FLOAT64, name="X float64"), replace(X_FLOAT32, name="X float32")]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the fits are timed against."""
    parser.set_defaults(repeats=3)
    parser.add_argument(
        "--against",
        nargs="+",
        choices=AGAINST,
        default=["rows", "epochs", "parameters"],
        metavar="QUANTITY",
        help=f"of {', '.join(AGAINST)} (default: the first three)",
    )
    parser.add_argument(
        "--limit",
        type=seconds,
        default=10.0,
        help="leave scikit-learn out where its fit is expected to take more seconds (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> list[Row]:
    """Time the fits against each quantity that was asked for."""
    return [row for quantity in args.against for row in AGAINST[quantity](quantity, args)]


# Rows, epochs, parameters --------------------------------------------------------------


def _size_rows(quantity: str, args: argparse.Namespace) -> Iterator[Row]:
    for series in all_series(args.scale):
        if series.quantity == quantity:
            yield from _series_rows(series, args)


def _series_rows(series: Series, args: argparse.Namespace) -> Iterator[Row]:
    seconds_each = 0.0  # scikit-learn's, at the point before
    for size, problem in series.points:
        without = {BY_SIZE.baseline} if seconds_each * size > args.limit else ()
        row = fit_row(problem, [BY_SIZE], args, without)
        if BY_SIZE.baseline in row.measurements:
            seconds_each = statistics.median(m.value for m in row.measurements[BY_SIZE.baseline]) / size
        facts = {"against": series.quantity, "label": series.label, "size": size}
        yield replace(row, title=f"{series}: {size:,}", facts=row.facts | facts)


def slope(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    """Exponent of the time of an implementation, over the upper half of the sizes; None if there is one size only."""
    found, times = _points(rows[len(rows) // 2 :], name)
    return float(np.polyfit(np.log(found), np.log(times), 1)[0]) if len(found) > 1 else None


def _slopes(rows: Sequence[dict[str, Any]]) -> str:
    names = BY_SIZE.ours, BY_SIZE.baseline
    lines = []
    for (quantity, label), points in _by_series(rows):
        found = [slope(points, name) for name in names]
        lines.append(
            [f"{quantity}, {label}" if label else quantity, *("–" if s is None else f"{s:.2f}" for s in found)]
        )
    return markdown(["time against", "ours", "scikit-learn"], lines)


# Networks ------------------------------------------------------------------------------


def _network_rows(quantity: str, args: argparse.Namespace) -> Iterator[Row]:
    """Fits of one small network, one after another and in stacks."""
    digits, iris = PROBLEMS["digits"].scaled(args.scale), PROBLEMS["iris"].scaled(args.scale)
    for problem in replace(digits, epochs=min(digits.epochs, 20)), replace(iris, epochs=min(iris.epochs, 100)):
        X, y = problem.data()
        for n_fits in sizes(N_NETWORKS, args.scale):
            title = f"{problem.name}, K = {n_fits:,}"
            print(f"{title} …", file=sys.stderr)
            fit = partial(_fit_many, problem, X.astype(np.float32), y, args.device, n_fits)
            calls = {ALONE: partial(fit, False), STACKED: partial(fit, True)}
            for call in calls.values():
                call(0)  # CUDA is made ready by the first steps
            facts = {"against": quantity, "label": problem.name, "size": n_fits, "n_fits": n_fits}
            yield measure_row(title, problem.facts() | facts, calls, [BY_NETWORKS], LOSSES, args)


def _fit_many(problem: Problem, X: Any, y: np.ndarray, device: str, n_fits: int, stacked: bool, seed: int) -> FitResult:
    """The mean loss of all, and the epochs of all."""
    seeds = range(seed * n_fits, (seed + 1) * n_fits)
    fits = (joblib.delayed(_fit)(problem, X, y, one, device) for one in seeds)
    with stacked_fits(n_fits=n_fits) if stacked else nullcontext():
        losses, epochs = zip(*joblib.Parallel()(fits), strict=True)
    return FitResult(statistics.fmean(losses), sum(epochs))


def _fit(problem: Problem, X: Any, y: np.ndarray, seed: int, device: str) -> tuple[float, int]:
    result = ours.fit(problem, X, y, seed, device).result
    return result.loss, result.n_iter


# Configurations ------------------------------------------------------------------------


def _configuration_rows(quantity: str, args: argparse.Namespace) -> list[Row]:
    """Fits in every configuration; the row with the worst ratio comes first."""
    columns = [on_device(column, args.device) for column in BY_CONFIGURATION]
    small = replace(PROBLEMS["digits"], epochs=10).scaled(args.scale)
    large = replace(PROBLEMS["binary"], rows=10_000, epochs=3).scaled(args.scale)
    rows = []
    for problem in (small, large):
        for configuration in configurations(every_activation=problem is small):
            row = fit_row(configuration.of(problem), columns, args)
            title = f"{problem.name} {problem.rows}×{problem.features}, {configuration}"
            rows.append(replace(row, title=title, facts=row.facts | {"against": quantity}))
    return sorted(rows, key=_worst)


def _worst(row: Row) -> float:
    return min(ratio.median for ratio in row.ratios.values() if ratio is not None)


# What is kept --------------------------------------------------------------------------

AGAINST: dict[str, Callable[..., Any]] = {
    "rows": _size_rows,
    "epochs": _size_rows,
    "parameters": _size_rows,
    "networks": _network_rows,
    "configurations": _configuration_rows,
}


def tables(summary: Summary) -> str:
    """Write the ratios, for rows, epochs and parameters also the slopes."""
    rows: dict[Callable[..., Any], list[dict[str, Any]]] = {measure: [] for measure in AGAINST.values()}
    for row in summary["rows"]:
        rows[AGAINST[row["facts"]["against"]]].append(row)
    ratios = RATIOS.format_map(summary)
    parts = []
    if by_size := rows[_size_rows]:
        parts += [
            ratios + ratio_table(summary, "size", by_size),
            "Slope of log time over log size, upper half of the sizes; 1 is proportional.",
            _slopes(by_size),
        ]
    if by_networks := rows[_network_rows]:
        parts.append(
            f"Time of fits {ALONE} / that of the same fits {STACKED}: median (lowest–highest) of {summary['repeats']} "
            "rounds; above 1 stacks are faster.\n\n" + ratio_table(summary, "fits", by_networks)
        )
    if by_configuration := rows[_configuration_rows]:
        parts.append(ratios + ratio_table(summary, "configuration", by_configuration))
    return "\n\n".join(parts)


def draw(summary: Summary, path: Path) -> None:
    """Draw seconds a fit against each size, a panel a quantity.

    Raises
    ------
    SystemExit
        If there are configurations only, which have no size.
    """
    curves = []
    for (quantity, label), points in _by_series([row for row in summary["rows"] if "size" in row["facts"]]):
        is_second = label == "two layers"
        panel = f"fits of {label}" if quantity == "networks" else quantity
        names = {STACKED: STACKED, ALONE: ALONE} if quantity == "networks" else _names(is_second)
        for name, legend in names.items():
            is_ours = name in (STACKED, BY_SIZE.ours)
            curves.append(figures.Curve(panel, legend, *_points(points, name), is_ours, is_second))
    if not curves:
        raise SystemExit("configurations have no size to draw time against")
    figures.panels(curves, path)


def _names(is_second: bool) -> dict[str, str]:
    suffix = ", two layers" if is_second else ""
    return {BY_SIZE.ours: f"ours{suffix}", BY_SIZE.baseline: f"scikit-learn{suffix}"}


def _by_series(rows: Sequence[dict[str, Any]]) -> list[tuple[tuple[str, str], list[dict[str, Any]]]]:
    groups = groupby(rows, key=lambda row: (row["facts"]["against"], row["facts"]["label"]))
    return [(key, list(group)) for key, group in groups]


def _points(rows: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Sizes, and seconds a fit."""
    facts = [(row["facts"], row["values"][name]) for row in rows if name in row["values"]]
    return [f["size"] for f, _ in facts], [v["median"] / f.get("n_fits", 1) for f, v in facts]
