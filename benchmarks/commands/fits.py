"""Time whole fits and print how many times longer each baseline takes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import figures
from benchmarks.arguments import add_baselines, positive
from benchmarks.implementations import IMPLEMENTATIONS, Implementation, columns_of, implementations_of
from benchmarks.problems import PROBLEMS, Problem
from benchmarks.report import Summary, ratio_table
from benchmarks.runner import Comparison, Row, measure_row
from benchmarks.tolerances import LOSSES, Agreement, FitResult

UNIT = "seconds"
RATIOS = "Time of the baseline / ours: median (lowest–highest) of {repeats} rounds; above 1 ours is faster.\n\n"
NAMES = {"PyTorch": "DataLoader loop", "products": "step / products"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what only this command takes."""
    names = ", ".join(PROBLEMS)
    parser.add_argument(
        "--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS), metavar="NAME", help=f"of {names}"
    )
    parser.add_argument("--epochs", type=positive, help="of every problem, or iterations (default: each problem's own)")
    add_baselines(parser)


def run(args: argparse.Namespace) -> list[Row]:
    """Time the baselines on the problems."""
    columns = columns_of(args.baselines, args.device, NAMES)
    rows = []
    for name in args.problems:
        problem = PROBLEMS[name].scaled(args.scale)
        problem = replace(problem, epochs=args.epochs or problem.epochs)
        rows.append(fit_row(problem, columns, args))
    return rows


def tables(summary: Summary) -> str:
    """Write the ratios of all problems."""
    return RATIOS.format_map(summary) + ratio_table(summary, "problem")


def draw(summary: Summary, path: Path) -> None:
    """Draw the ratios as bars."""
    figures.bars(summary["rows"], path, "time of the baseline / ours, whole fits (right of 1 ours is faster)")


def fit_row(
    problem: Problem,
    columns: Sequence[Comparison],
    args: argparse.Namespace,
    without: Collection[str] = (),
    implementations: Mapping[str, Implementation] = IMPLEMENTATIONS,
) -> Row:
    """Time the fits of one problem.

    Parameters
    ----------
    problem : Problem
    columns : sequence of Comparison
    args : Namespace
        The command line: `device`, and what `measure_row` needs.
    without : collection of str, default=()
        Names of implementations that do not take part.
    implementations : mapping, default=IMPLEMENTATIONS
        By their names in the columns.
    """
    print(f"{problem} …", file=sys.stderr)
    columns = [replace(column, agreement=agreement_on(problem, column.agreement)) for column in columns]
    measured = [
        i for i in implementations_of(columns, implementations) if i.supports(problem) and i.name not in without
    ]
    X, y = problem.data()
    inputs = {dtype: X.astype(dtype, copy=False) for dtype in {i.X_dtype for i in measured}}
    short = problem.warm_up()
    for i in measured:
        i.fit(short, inputs[i.X_dtype][: short.rows], y[: short.rows], 0, args.device)
    calls = {i.name: partial(checked_fit, i, problem, inputs[i.X_dtype], y, args.device) for i in measured}
    return measure_row(str(problem), problem.facts(), calls, columns, LOSSES, args)


def agreement_on(problem: Problem, agreement: Agreement) -> Agreement:
    """Expect less of L-BFGS in float32: a line search depends on the last digits."""
    is_loose = problem.solver == "lbfgs" and agreement is Agreement.FLOAT32
    return Agreement.SIMILAR if is_loose else agreement


def checked_fit(implementation: Implementation, problem: Problem, X: Any, y: Any, device: str, seed: int) -> FitResult:
    """Fit, and check that all epochs were trained.

    Raises
    ------
    RuntimeError
        If they were not. L-BFGS may stop early, where both do.
    """
    result = implementation.fit(problem, X, y, seed, device).result
    if problem.solver != "lbfgs" and result.n_iter != problem.epochs:
        raise RuntimeError(
            f"{implementation.name} trained {result.n_iter} epochs on {problem.name}, not {problem.epochs}."
        )
    return result
