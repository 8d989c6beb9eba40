"""Time whole fits and print how many times longer each rival takes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from . import figures
from .arguments import positive
from .contestants import RIVALS, USUAL_RIVALS, Contestant, comparisons, entrants
from .gates import LOSSES, Agreement, Outcome
from .problems import PROBLEMS, Problem
from .report import table
from .runner import Comparison, Row, compare, race

UNIT = "seconds"
RATIOS = "Time of the rival / ours: median (lowest–highest) of {repeats} rounds; above 1 ours is faster.\n"
NAMES = {"PyTorch": "DataLoader loop", "products": "step / products"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what only this command takes."""
    names = ", ".join(PROBLEMS)
    parser.add_argument(
        "--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS), metavar="NAME", help=f"of {names}"
    )
    parser.add_argument("--epochs", type=positive, help="of every problem, or iterations (default: each problem's own)")
    add_rivals(parser)


def add_rivals(parser: argparse.ArgumentParser) -> None:
    """Add the choice of rivals."""
    parser.add_argument(
        "--rivals", nargs="+", choices=RIVALS, default=USUAL_RIVALS, metavar="NAME", help=f"of {', '.join(RIVALS)}"
    )


def run(args: argparse.Namespace) -> list[Row]:
    """Time the rivals on the problems."""
    columns = comparisons(args.rivals, args.device, NAMES)
    rows = []
    for name in args.problems:
        problem = PROBLEMS[name].scaled(args.scale)
        problem = replace(problem, epochs=args.epochs or problem.epochs)
        rows.append(fit_row(problem, columns, args))
    return rows


def summary(rows: Sequence[Row], args: argparse.Namespace) -> str:
    """The table."""
    return "\n".join([RATIOS.format_map(vars(args)), table(rows, "problem")])


def draw(rows: Sequence[Row], path: Path) -> None:
    """The picture."""
    figures.bars(rows, path, "time of the rival / ours, whole fits")


def fit_row(
    problem: Problem, columns: Sequence[Comparison], args: argparse.Namespace, without: Collection[str] = ()
) -> Row:
    """Time the fits of one problem.

    Parameters
    ----------
    problem : Problem
    columns : sequence of Comparison
    args : Namespace
        The command line: `repeats` and `device`.
    without : collection of str, default=()
        Names of contestants that do not take part.
    """
    print(f"{problem} …", file=sys.stderr)
    if problem.solver == "lbfgs":  # a line search turns on the last digits of float32
        columns = [replace(c, agreement=Agreement.SIMILAR) if c.agreement is Agreement.FLOAT32 else c for c in columns]
    contestants = [c for c in entrants(columns) if c.supports(problem) and c.name not in without]
    X, y = problem.data()
    inputs = {dtype: X.astype(dtype, copy=False) for dtype in {contestant.X_dtype for contestant in contestants}}
    short = problem.warm_up()
    for contestant in contestants:
        contestant.fit(short, inputs[contestant.X_dtype][: short.rows], y[: short.rows], 0, args.device)
    calls = {c.name: partial(outcome, c, problem, inputs[c.X_dtype], y, args.device) for c in contestants}
    measurements = race(calls, args.repeats)
    return Row(str(problem), problem.facts(), measurements, compare(columns, measurements, LOSSES))


def outcome(contestant: Contestant, problem: Problem, X: Any, y: Any, device: str, seed: int) -> Outcome:
    """Fit, and say what it came to.

    Raises
    ------
    RuntimeError
        If not all epochs were trained. L-BFGS may stop early, where both do.
    """
    reached = contestant.fit(problem, X, y, seed, device).outcome
    if problem.solver != "lbfgs" and reached.n_iter != problem.epochs:
        raise RuntimeError(
            f"{contestant.name} trained {reached.n_iter} epochs on {problem.name}, not {problem.epochs}."
        )
    return reached
