"""Times implementations in turn, and takes the ratios of their times."""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from .machine import cores_used_by_others, cpu_times
from .tolerances import Agreement, Tolerance, Tolerances

#: Seconds before each timing, for everyone. OpenBLAS, under numpy and scipy, keeps its
#: threads spinning for a while after a product, which slows down whoever comes next.
PAUSE = 0.2

#: Seconds that a timing lasts at least: a shorter call is made again and again.
AT_LEAST = 0.1


@dataclass(frozen=True)
class Measurement:
    """One implementation in one round.

    Attributes
    ----------
    value : float
        Seconds of one call, or another cost.
    result : object
        What the call returned.
    """

    value: float
    result: Any


@dataclass(frozen=True)
class Comparison:
    """A column of the table: a baseline, and which of ours it is compared with.

    Attributes
    ----------
    name : str
    baseline, ours : str
        Names of implementations.
    agreement : Agreement
        How closely their results must agree.
    lower_is_better : bool
        Whether the ratio is ours / baseline, not baseline / ours.
    mark : str
        Marks a cell in which ours is worse; with "" none is marked.
    margin : float
        How much worse ours may be before it is marked.
    """

    name: str
    baseline: str
    ours: str
    agreement: Agreement
    lower_is_better: bool = False
    mark: str = "slower"
    margin: float = 0.0

    @property
    def title(self) -> str:
        """Head of the column."""
        return f"{self.name} (lower is better)" if self.lower_is_better else self.name


@dataclass(frozen=True)
class Ratio:
    """The ratio of a baseline and ours.

    Attributes
    ----------
    comparison : Comparison
    rounds : list of float
        Round by round.
    spread : float
        The longest round / the shortest one, of the baseline or of ours, whichever spread is larger.
    mismatches : list of str
        The rounds whose results do not agree.
    """

    comparison: Comparison
    rounds: list[float]
    spread: float
    mismatches: list[str]

    @property
    def median(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.rounds)

    @property
    def is_worse(self) -> bool:
        """Whether ours is worse by more than the margin."""
        margin = self.comparison.margin
        return self.median > 1 + margin if self.comparison.lower_is_better else self.median < 1 - margin


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes
    ----------
    title : str
    facts : dict
        What else is recorded about it.
    measurements : dict
        Those of each implementation, one a round.
    ratios : dict
        By the title of the column; None where an implementation does not take part.
    load : float or None
        Cores that other programs kept busy meanwhile; None where that is not known.
    """

    title: str
    facts: dict[str, Any]
    measurements: dict[str, list[Measurement]]
    ratios: dict[str, Ratio | None]
    load: float | None = None


class SkippedError(Exception):
    """What was asked for cannot be measured on this system."""


def timed(call: Callable[[], Any], pause: float = PAUSE, at_least: float = AT_LEAST) -> Measurement:
    """Seconds of a call: the mean of as many as take `at_least`."""
    gc.collect()
    time.sleep(pause)
    n_calls, seconds = 0, 0.0
    start = time.perf_counter()
    while n_calls == 0 or seconds < at_least:
        result = call()
        n_calls += 1
        seconds = time.perf_counter() - start
    return Measurement(seconds / n_calls, result)


def timer(args: argparse.Namespace) -> Callable[[Callable[[], Any]], Measurement]:
    """`timed`, with the command line's `pause` and `at_least`."""
    return partial(timed, pause=args.pause, at_least=args.at_least)


def interleave(
    calls: Mapping[str, Callable[[int], Any]],
    repeats: int,
    measure: Callable[[Callable[[], Any]], Measurement],
) -> dict[str, list[Measurement]]:
    """Measure all implementations in turn, A B C A B C ….

    Parameters
    ----------
    calls : mapping
        What each implementation does, given the number of the round, which is its seed.
    repeats : int
        Rounds.
    measure : callable
        ``measure(call)`` makes the call and returns what it cost.

    Returns
    -------
    measurements : dict
        Those of each implementation, one a round.
    """
    measurements: dict[str, list[Measurement]] = {name: [] for name in calls}
    gc.freeze()  # else every collection takes 0.1 s, for all that has been imported
    try:
        for seed in range(repeats):
            for name, call in calls.items():
                measurements[name].append(measure(partial(call, seed)))
    finally:
        gc.unfreeze()
    return measurements


def measure_row(
    title: str,
    facts: dict[str, Any],
    calls: Mapping[str, Callable[[int], Any]],
    columns: Iterable[Comparison],
    tolerances: Tolerances,
    args: argparse.Namespace,
    measure: Callable[[Callable[[], Any]], Measurement] | None = None,
) -> Row:
    """Measure the implementations of a row, and compare them.

    Parameters
    ----------
    title : str
    facts : dict
        What else is recorded about the row.
    calls : mapping
        What each implementation does, given the number of the round.
    columns : iterable of Comparison
    tolerances : mapping
        For the results of these calls.
    args : Namespace
        The command line: `repeats`, `pause` and `at_least`.
    measure : callable, default=None
        ``measure(call)`` makes the call and returns what it cost; if None, it is timed.
    """
    start = cpu_times()
    measurements = interleave(calls, args.repeats, measure or timer(args))
    load = cores_used_by_others(start, cpu_times())
    return Row(title, facts, measurements, compare(columns, measurements, tolerances), load)


def compare(
    columns: Iterable[Comparison], measurements: Mapping[str, list[Measurement]], tolerances: Tolerances
) -> dict[str, Ratio | None]:
    """Ratios round by round, and whether the results agree.

    Parameters
    ----------
    columns : iterable of Comparison
    measurements : mapping
        What `interleave` returned.
    tolerances : mapping
        For results of this kind.

    Returns
    -------
    ratios : dict
        By the title of the column; None where an implementation did not take part.
    """
    return {
        column.title: (
            _ratio(column, measurements[column.baseline], measurements[column.ours], tolerances.get(column.agreement))
            if column.baseline in measurements and column.ours in measurements
            else None
        )
        for column in columns
    }


def _ratio(
    column: Comparison, baseline: list[Measurement], ours: list[Measurement], tolerance: Tolerance | None
) -> Ratio:
    rounds = list(zip(baseline, ours, strict=True))
    ratios = [b.value / o.value for b, o in rounds]
    if column.lower_is_better:
        ratios = [1 / ratio for ratio in ratios]
    spread = max(max(m.value for m in side) / min(m.value for m in side) for side in (baseline, ours))
    differences = [tolerance.difference(b.result, o.result) if tolerance else "" for b, o in rounds]
    mismatches = [
        f"{column.name}: {difference} with seed {seed}; allowed: {tolerance}"
        for seed, difference in enumerate(differences)
        if difference
    ]
    return Ratio(column, ratios, spread, mismatches)


@contextmanager
def limit_threads(n_threads: int | None) -> Iterator[None]:
    """Let PyTorch, BLAS and OpenMP use `n_threads`; with None what each chooses."""
    if n_threads is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        with threadpool_limits(n_threads):
            yield
    finally:
        torch.set_num_threads(before)
