"""Time ours on a device against ours on the CPU, in float32: fits, ensembles, searches, and X that stays on the host."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
from sklearn.datasets import make_classification

from benchmarks import ours
from benchmarks.problems import PROBLEMS, Problem, clouds
from benchmarks.report import Summary, ratio_table
from benchmarks.runner import Comparison, Row, measure_row
from benchmarks.tolerances import LOSSES, Agreement, ArrayTolerance, Tolerances
from sktorch_mlp import MLPTorchClassifier, TabularMLPClassifier, stacked_fits

from .fits import agreement_on
from .search import DIGITS_GRID, SCORES, Search

UNIT = "seconds"
CPU, DEVICE, ALONE, STREAMED = "the CPU", "the device", "the device, fits one by one", "the device, X on the host"
COLUMNS = [
    Comparison("on the CPU", CPU, DEVICE, Agreement.FLOAT32),
    Comparison("fits one by one", ALONE, DEVICE, Agreement.FLOAT32),
    Comparison("X on the host", STREAMED, DEVICE, Agreement.FLOAT32, mark=""),
]

#: 400 MiB of X, for networks that take less time than its way to the device, and more.
LARGE = [Problem("large", 200_000, 512, 2, layers, 1024, 3, clouds) for layers in ((256,), (1024, 1024))]

#: Scores of ensembles: masks of dropout are others on each device.
_ENSEMBLES: Tolerances = {Agreement.FLOAT32: ArrayTolerance(0.05)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Time a GPU."""
    parser.set_defaults(device="cuda")


def run(args: argparse.Namespace) -> list[Row]:
    """Time all."""
    return [measure(args) for measure in _rows(args.scale, args.device)]


def _rows(scale: float, device: str) -> Iterator[Callable[[argparse.Namespace], Row]]:
    for name in ("iris", "digits", "binary", "mnist_shape", "wide", "lbfgs", "sparse"):
        problem = PROBLEMS[name].scaled(scale)
        yield partial(_row, str(problem), _fits(problem, device), _losses_of(problem))
    for problem in LARGE:
        scaled = problem.scaled(scale)
        calls = _fits(scaled, device)
        yield partial(_row, str(scaled), {DEVICE: calls[DEVICE], STREAMED: partial(_streamed, calls[DEVICE])}, LOSSES)
    n_rows = max(200, round(5_000 * scale))
    calls = {name: partial(_ensemble, where, n_rows) for name, where in ((CPU, "cpu"), (DEVICE, device))}
    yield partial(_row, f"ensemble of 8 for a table: {n_rows}×20, 10 epochs", calls, _ENSEMBLES)
    search = Search(
        "search of digits: 20 candidates × 5 folds", PROBLEMS["digits"].scaled(scale), *DIGITS_GRID, "float32"
    )
    yield partial(_row, search.title, _searches(search, device), SCORES)


def _row(title: str, calls: dict[str, Callable[[int], Any]], tolerances: Tolerances, args: argparse.Namespace) -> Row:
    print(f"{title} …", file=sys.stderr)
    for call in calls.values():
        call(0)
    columns = [column for column in COLUMNS if column.baseline in calls]
    row = measure_row(title, {}, calls, columns, tolerances, args)
    return replace(row, ratios={column.title: row.ratios.get(column.title) for column in COLUMNS})


def _losses_of(problem: Problem) -> Tolerances:
    return LOSSES | {Agreement.FLOAT32: LOSSES[agreement_on(problem, Agreement.FLOAT32)]}


def _fits(problem: Problem, device: str) -> dict[str, Callable[[int], Any]]:
    X, y = problem.data()
    X = X.astype(np.float32)
    return {
        name: lambda seed, where=where: ours.fit(problem, X, y, seed, where).result
        for name, where in ((CPU, "cpu"), (DEVICE, device))
    }


def _streamed(fit: Callable[[int], Any], seed: int) -> Any:
    """Fit as on a device that has hardly any memory left."""
    with mock.patch("torch.cuda.mem_get_info", return_value=(2**20, 2**34)):
        return fit(seed)


def _ensemble(device: str, n_rows: int, seed: int) -> np.ndarray:
    X, y = make_classification(n_rows, 20, n_informative=10, random_state=0)
    return np.array([TabularMLPClassifier(device=device, max_iter=10, random_state=seed).fit(X, y).score(X, y)])


def _searches(search: Search, device: str) -> dict[str, Callable[[int], Any]]:
    X, y = search.problem.data()
    ways = {CPU: ("cpu", True), DEVICE: (device, True), ALONE: (device, False)}
    return {
        name: partial(
            search.fit,
            MLPTorchClassifier(dtype="float32", device=where),
            stacked_fits if stacked else nullcontext,
            X,
            y,
        )
        for name, (where, stacked) in ways.items()
    }


def tables(summary: Summary) -> str:
    """Write the ratios."""
    device = summary["machine"]["device"]
    return (
        f"Time of ours elsewhere / on the device ({device}), all in float32: median (lowest–highest) of {summary['repeats']} "
        "rounds; above 1 the device is faster. The search is one of stacks, but where fits run one by one.\n\n"
        + ratio_table(summary, "task")
    )
