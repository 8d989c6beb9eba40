"""Measure the peak memory of fits, each in a process of its own (Linux only)."""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import resource
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.exceptions import ConvergenceWarning

from .contestants import CAST, CONTESTANTS, X_FLOAT32, X_FLOAT64, on_device
from .fits import outcome
from .gates import LOSSES
from .problems import PROBLEMS, Problem
from .report import markdown, spread, table
from .runner import Comparison, Measurement, Row, SkippedError, compare, limit_threads, race

UNIT = "sizes of X"


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
    """

    title: str
    problem: Problem
    comparison: Comparison
    order: str = "C"


_TALL = replace(PROBLEMS["binary"], name="tall", rows=200_000, features=200, epochs=1)
_TALL_SPARSE = replace(PROBLEMS["sparse"], name="tall sparse", rows=200_000, epochs=1)
CASES = [
    Case("float32, C order", _TALL, X_FLOAT32),
    Case("float32, Fortran order", _TALL, X_FLOAT32, "F"),
    Case("float64, C order", _TALL, X_FLOAT64),
    Case('float64, dtype="float32"', _TALL, CAST),
    Case("float64, CSR", _TALL_SPARSE, X_FLOAT64),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Set how often to repeat."""
    parser.set_defaults(repeats=3)


def run(args: argparse.Namespace) -> list[Row]:
    """Measure scikit-learn and ours.

    Raises
    ------
    SkippedError
        Where the system does not reset the peak.
    """
    try:
        _reset_peak()
    except OSError as error:
        raise SkippedError(f"memory needs Linux, and leave to write to /proc/self/clear_refs: {error}") from error
    return [_measure(replace(case, problem=case.problem.scaled(args.scale)), args) for case in CASES]


def summary(rows: Sequence[Row], args: argparse.Namespace) -> str:
    """Peaks in sizes of X, and their ratio."""
    peaks = []
    for row in rows:
        rival, ours = row.measurements.values()
        peaks.append([row.title, *(spread([m.value for m in own]) for own in (rival, ours))])
    return "\n".join(
        [
            "Peak memory of X and its fit, less what else was in use before: median (lowest–highest) of "
            f"{args.repeats} processes.\n",
            markdown(
                ["X", "scikit-learn, in sizes of X (lower is better)", "ours, in sizes of X (lower is better)"], peaks
            ),
            "",
            table(rows, "X"),
        ]
    )


def _measure(case: Case, args: argparse.Namespace) -> Row:
    print(f"{case.title}: {case.problem} …", file=sys.stderr)
    compared = replace(
        on_device(case.comparison, args.device), name="ours / scikit-learn", lower_is_better=True, mark="more"
    )
    calls = {
        name: partial(_in_new_process, peak_of_fit, name, case, args.device, args.threads)
        for name in (compared.rival, compared.ours)
    }
    measurements = race(calls, args.repeats, measure=lambda call: call())
    return Row(case.title, case.problem.facts(), measurements, compare([compared], measurements, LOSSES))


def _in_new_process(function: Callable[..., Any], *args: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def peak_of_fit(name: str, case: Case, device: str, n_threads: int | None, seed: int) -> Measurement:
    """Fit in this process, after a short fit that makes what stays.

    Parameters
    ----------
    name : str
        Of the contestant.
    case : Case
    device : str
    n_threads : int or None
    seed : int

    Returns
    -------
    measurement : Measurement
        X and what the peak added to the memory in use, in sizes of X, and what the fit came to.
    """
    contestant, problem, short = CONTESTANTS[name], case.problem, case.problem.warm_up()
    with limit_threads(n_threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        X, y = problem.data()
        X = X.astype(contestant.X_dtype, copy=False)
        if case.order == "F":
            X = np.asfortranarray(X)
        contestant.fit(short, X[: short.rows], y[: short.rows], seed, device)
        gc.collect()
        _give_back_free_memory()
        _reset_peak()
        before = _memory("VmRSS")
        result = outcome(contestant, problem, X, y, device, seed)
        added = max(_memory("VmHWM") - before, resource.getpagesize())  # memory is counted in pages
        return Measurement(1 + added / _n_bytes(X), result)


def _give_back_free_memory() -> None:
    """Return what the C library keeps of freed memory, which the fit would use unseen."""
    with suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _memory(field: str) -> int:
    """Bytes, from /proc: VmRSS is what is in use, VmHWM its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def _n_bytes(X: Any) -> int:
    parts = (X.data, X.indices, X.indptr) if sp.issparse(X) else (X,)
    return sum(part.nbytes for part in parts)
