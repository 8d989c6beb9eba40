"""Time many fits of one small network, one after the other and side by side in stacks."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from sktorch_mlp import stacked_fits

from . import figures
from .gates import LOSSES, Agreement, Outcome
from .problems import PROBLEMS, Problem
from .report import table
from .rivals import ours
from .runner import Comparison, Row, compare, race

UNIT = "seconds"
ALONE, STACKED = "one after another", "in stacks"
COLUMN = Comparison(f"{ALONE} / {STACKED}", ALONE, STACKED, Agreement.FLOAT32)
N_FITS = 1, 10, 100, 200, 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Set how often to repeat."""
    parser.set_defaults(repeats=3)


def run(args: argparse.Namespace) -> list[Row]:
    """Time all numbers of fits of all problems."""
    digits, iris = PROBLEMS["digits"].scaled(args.scale), PROBLEMS["iris"].scaled(args.scale)
    problems = replace(digits, epochs=min(digits.epochs, 20)), replace(iris, epochs=min(iris.epochs, 100))
    counts = sorted({max(round(n * args.scale), 1) for n in N_FITS})
    return [_race(problem, n_fits, args) for problem in problems for n_fits in counts]


def _race(problem: Problem, n_fits: int, args: argparse.Namespace) -> Row:
    title = f"{problem.name}, K = {n_fits:,}"
    print(f"{title} …", file=sys.stderr)
    X, y = problem.data()
    fit = partial(_fit_many, problem, X.astype(np.float32), y, args.device, n_fits)
    calls = {ALONE: partial(fit, False), STACKED: partial(fit, True)}
    for call in calls.values():
        call(0)  # CUDA is made ready by the first steps
    measurements = race(calls, args.repeats)
    facts = problem.facts() | {"n_fits": n_fits}
    return Row(title, facts, measurements, compare([COLUMN], measurements, LOSSES))


def _fit_many(problem: Problem, X: Any, y: np.ndarray, device: str, n_fits: int, stacked: bool, seed: int) -> Outcome:
    """The mean loss of all, and the epochs of all."""
    seeds = range(seed * n_fits, (seed + 1) * n_fits)
    fits = (joblib.delayed(_fit)(problem, X, y, one, device) for one in seeds)
    with stacked_fits(n_fits=n_fits) if stacked else nullcontext():
        losses, epochs = zip(*joblib.Parallel()(fits), strict=True)
    return Outcome(statistics.fmean(losses), sum(epochs))


def _fit(problem: Problem, X: Any, y: np.ndarray, seed: int, device: str) -> tuple[float, int]:
    outcome = ours.fit(problem, X, y, seed, device).outcome
    return outcome.loss, outcome.n_iter


def summary(rows: Sequence[Row], args: argparse.Namespace) -> str:
    """The table."""
    return (
        f"Time of fits one after another / that of the same fits in stacks: median (lowest–highest) of {args.repeats} "
        f"rounds; above 1 stacks are faster.\n\n{table(rows, 'fits')}"
    )


def draw(rows: Sequence[Row], path: Path) -> None:
    """The picture: seconds a fit against the number of fits, a panel a problem."""
    curves = []
    for problem, group in groupby(rows, key=lambda row: row.title.partition(",")[0]):
        own = list(group)
        counts = [row.facts["n_fits"] for row in own]
        for name in (STACKED, ALONE):
            medians = [statistics.median(m.value for m in row.measurements[name]) for row in own]
            seconds = [median / count for median, count in zip(medians, counts, strict=True)]
            label = f"fits of {problem}"
            curves.append(figures.Curve(label, name, counts, seconds, is_ours=name == STACKED, is_second=False))
    figures.panels(curves, path)
