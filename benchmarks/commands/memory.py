"""Measure the peak memory of fits and predictions, each in a process of its own (Linux only)."""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.exceptions import ConvergenceWarning

from benchmarks import ours
from benchmarks.baselines import sklearn_mlp
from benchmarks.implementations import CAST, IMPLEMENTATIONS, X_FLOAT32, X_FLOAT64, Implementation, on_device
from benchmarks.problems import PROBLEMS, Problem
from benchmarks.report import Summary, markdown, ratio_table, spread
from benchmarks.runner import Comparison, Measurement, Row, SkippedError, limit_threads, measure_row
from benchmarks.tolerances import LOSSES, Agreement

from .fits import checked_fit

UNIT = "sizes of X"

#: A write of 5 there resets the peak of the process.
CLEAR_REFS = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Case:
    """One kind of X.

    Attributes
    ----------
    title : str
    problem : Problem
    comparison : Comparison
    order : str
        "C" or "F", of a dense X.
    predicts : bool
        Whether the peak is that of a prediction for X, not of a fit on it.
    """

    title: str
    problem: Problem
    comparison: Comparison
    order: str = "C"
    predicts: bool = False


def pixels(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Bytes, four fifths of them zero as in MNIST; each class is bright elsewhere."""
    rng = np.random.default_rng(0)
    y = rng.integers(problem.n_classes, size=problem.rows)
    X = rng.integers(100, size=(problem.rows, problem.features), dtype=np.uint8)
    X[rng.random(X.shape, np.float32) < 0.8] = 0
    width = problem.features // problem.n_classes
    for label in range(problem.n_classes):
        X[y == label, label * width : (label + 1) * width] += 100
    return X, y


#: Those that are given bytes.
_OF_BYTES = {
    i.name: i
    for i in (
        Implementation("scikit-learn, X uint8", sklearn_mlp.fit, np.uint8),
        Implementation("ours, X uint8", ours.fit, np.uint8),
        Implementation('ours, X uint8, dtype="float32"', partial(ours.fit, dtype="float32"), np.uint8),
    )
}
_BYTES = Comparison("", "scikit-learn, X uint8", "ours, X uint8", Agreement.FLOAT64)
#: Losses of float32 are not those of float64 to many digits where X is as large as bytes.
_BYTES_CAST = replace(_BYTES, ours='ours, X uint8, dtype="float32"', agreement=Agreement.NONE)

_TALL = replace(PROBLEMS["binary"], name="tall", rows=200_000, features=200, epochs=1)
_TALL_SPARSE = replace(PROBLEMS["sparse"], name="tall sparse", rows=200_000, epochs=1)
_MNIST = replace(PROBLEMS["mnist_shape"], name="MNIST's bytes", make=pixels)
CASES = [
    Case("float32, C order", _TALL, X_FLOAT32),
    Case("float32, Fortran order", _TALL, X_FLOAT32, "F"),
    Case("float64, C order", _TALL, X_FLOAT64),
    Case('float64, dtype="float32"', _TALL, CAST),
    Case("float64, CSR", _TALL_SPARSE, X_FLOAT64),
    Case("uint8, as MNIST", _MNIST, _BYTES),
    Case('uint8, dtype="float32"', _MNIST, _BYTES_CAST),
    Case("uint8, predictions", _MNIST, _BYTES, predicts=True),
    Case('uint8, dtype="float32", predictions', _MNIST, _BYTES_CAST, predicts=True),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Set how often to repeat."""
    parser.set_defaults(repeats=3)


def in_new_process(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def run(args: argparse.Namespace, call: Callable[..., Any] = in_new_process) -> list[Row]:
    """Measure scikit-learn and ours.

    Parameters
    ----------
    args : Namespace
        The command line: `device`, `threads` and what `measure_row` needs.
    call : callable
        ``call(function, *args)`` calls it, in a process of its own.
    """
    reset_peak()
    return [_row(replace(case, problem=case.problem.scaled(args.scale)), args, call) for case in CASES]


def _row(case: Case, args: argparse.Namespace, call: Callable[..., Any]) -> Row:
    print(f"{case.title}: {case.problem} …", file=sys.stderr)
    column = replace(
        on_device(case.comparison, args.device), name="ours / scikit-learn", lower_is_better=True, mark="more"
    )
    calls = {
        name: partial(call, peak_of_fit, (IMPLEMENTATIONS | _OF_BYTES)[name], case, args.device, args.threads)
        for name in (column.baseline, column.ours)
    }
    return measure_row(case.title, case.problem.facts(), calls, [column], LOSSES, args, measure=lambda fit: fit())


def peak_of_fit(
    implementation: Implementation, case: Case, device: str, n_threads: int | None, seed: int
) -> Measurement:
    """Fit or predict in this process, after a short fit, or the same prediction, that makes what stays.

    Parameters
    ----------
    implementation : Implementation
    case : Case
    device : str
    n_threads : int or None
    seed : int

    Returns
    -------
    measurement : Measurement
        X and what the peak added to the memory in use, in sizes of X, and the result of the last fit.
    """
    problem, short = case.problem, case.problem.warm_up()
    with limit_threads(n_threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        X, y = problem.data()
        X = X.astype(implementation.X_dtype, copy=False)
        if case.order == "F":
            X = np.asfortranarray(X)
        fitted = implementation.fit(short, X[: short.rows], y[: short.rows], seed, device)
        if case.predicts:
            fitted.model.predict_proba(X)
        gc.collect()
        _give_back_free_memory()
        reset_peak()
        before = _memory("VmRSS")
        if case.predicts:
            result = fitted.result
            fitted.model.predict_proba(X)
        else:
            result = checked_fit(implementation, problem, X, y, device, seed)
        added = max(_memory("VmHWM") - before, os.sysconf("SC_PAGE_SIZE"))  # memory is counted in pages
        return Measurement(1 + added / _n_bytes(X), result)


def _give_back_free_memory() -> None:
    """Return what the C library keeps of freed memory, which the fit would use unseen."""
    with suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak(file: Path = CLEAR_REFS) -> None:
    """Make the memory in use the peak.

    Raises
    ------
    SkippedError
        Where the system does not do so.
    """
    try:
        file.write_text("5")
    except OSError as error:
        raise SkippedError(f"memory needs Linux, and leave to write to {file}: {error}") from error


def _memory(field: str) -> int:
    """Bytes, from /proc: VmRSS is what is in use, VmHWM its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def _n_bytes(X: Any) -> int:
    parts = (X.data, X.indices, X.indptr) if sp.issparse(X) else (X,)
    return sum(part.nbytes for part in parts)


def tables(summary: Summary) -> str:
    """Write the peaks in sizes of X, and their ratio."""
    peaks = [[row["title"], *(spread(values) for values in row["values"].values())] for row in summary["rows"]]
    return "\n".join(
        [
            "Peak memory of X and its fit or its predictions, less what else was in use before: median (lowest–highest) of "
            f"{summary['repeats']} processes.\n",
            markdown(
                ["X", "scikit-learn, in sizes of X (lower is better)", "ours, in sizes of X (lower is better)"], peaks
            ),
            "",
            ratio_table(summary, "X"),
        ]
    )
