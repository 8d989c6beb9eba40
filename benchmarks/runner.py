"""Times contestants in turn, and compares them in pairs."""

from __future__ import annotations

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

from .gates import Agreement, Gate

#: Seconds before each timing, for everyone. OpenBLAS, under numpy and scipy, keeps its
#: threads spinning for a while after a product, which slows down whoever comes next.
PAUSE = 0.2

#: Seconds that a timing lasts at least: a shorter call is made again and again.
AT_LEAST = 0.1


@dataclass(frozen=True)
class Measurement:
    """One contestant in one round.

    Attributes
    ----------
    value : float
        Seconds of one call, or another cost.
    result : object
        What the call came to.
    """

    value: float
    result: Any


@dataclass(frozen=True)
class Comparison:
    """A column of the table: a rival and which of ours it is held against.

    Attributes
    ----------
    name : str
    rival, ours : str
        Names of contestants.
    agreement : Agreement
        How well their results must agree.
    lower_is_better : bool
        Whether the ratio is ours / rival, not rival / ours.
    mark : str
        Marks a cell in which ours is worse; with "" none is marked.
    """

    name: str
    rival: str
    ours: str
    agreement: Agreement
    lower_is_better: bool = False
    mark: str = "slower"

    @property
    def title(self) -> str:
        """Head of the column."""
        return f"{self.name} (lower is better)" if self.lower_is_better else self.name


@dataclass(frozen=True)
class Verdict:
    """What a comparison came to.

    Attributes
    ----------
    comparison : Comparison
    ratios : list of float
        Round by round.
    mismatches : list of str
        The rounds whose results do not agree.
    """

    comparison: Comparison
    ratios: list[float]
    mismatches: list[str]

    @property
    def ratio(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.ratios)

    @property
    def is_lost(self) -> bool:
        """Whether ours is worse, where that is a loss."""
        worse = self.ratio > 1 if self.comparison.lower_is_better else self.ratio < 1
        return worse and bool(self.comparison.mark)


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes
    ----------
    title : str
    facts : dict
        What else JSON says about it.
    measurements : dict
        Each contestant's, one a round.
    verdicts : dict
        By the title of the column; None where a contestant does not take part.
    """

    title: str
    facts: dict[str, Any]
    measurements: dict[str, list[Measurement]]
    verdicts: dict[str, Verdict | None]


class SkippedError(Exception):
    """What was asked for cannot be measured on this system."""


def timed(call: Callable[[], Any]) -> Measurement:
    """Seconds of a call: the mean of as many as take `AT_LEAST`."""
    gc.collect()
    time.sleep(PAUSE)
    n_calls, seconds = 0, 0.0
    start = time.perf_counter()
    while n_calls == 0 or seconds < AT_LEAST:
        result = call()
        n_calls += 1
        seconds = time.perf_counter() - start
    return Measurement(seconds / n_calls, result)


def race(
    calls: Mapping[str, Callable[[int], Any]],
    repeats: int,
    measure: Callable[[Callable[[], Any]], Measurement] = timed,
) -> dict[str, list[Measurement]]:
    """Measure all contestants, A B C A B C ….

    Parameters
    ----------
    calls : mapping
        What each contestant does, given the number of the round, which is its seed.
    repeats : int
        Rounds.
    measure : callable, default=timed
        ``measure(call)`` makes the call and says what it cost.

    Returns
    -------
    measurements : dict
        Each contestant's, one a round.
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


def compare(
    comparisons: Iterable[Comparison],
    measurements: Mapping[str, list[Measurement]],
    gates: Mapping[Agreement, Gate] | None = None,
) -> dict[str, Verdict | None]:
    """Ratios round by round, and whether the results agree.

    Parameters
    ----------
    comparisons : iterable of Comparison
    measurements : mapping
        What `race` returned.
    gates : mapping, default=None
        What an agreement means for results of this kind; what is not in it agrees.

    Returns
    -------
    verdicts : dict
        By the title of the column; None where a contestant did not take part.
    """
    return {
        comparison.title: (
            _judge(comparison, measurements, (gates or {}).get(comparison.agreement))
            if comparison.rival in measurements and comparison.ours in measurements
            else None
        )
        for comparison in comparisons
    }


def _judge(comparison: Comparison, measurements: Mapping[str, list[Measurement]], gate: Gate | None) -> Verdict:
    rounds = list(zip(measurements[comparison.rival], measurements[comparison.ours], strict=True))
    if comparison.lower_is_better:
        ratios = [ours.value / rival.value for rival, ours in rounds]
    else:
        ratios = [rival.value / ours.value for rival, ours in rounds]
    gaps = [gate.gap(rival.result, ours.result) if gate else "" for rival, ours in rounds]
    mismatches = [f"{comparison.name}: {gap} with seed {seed}; allowed: {gate}" for seed, gap in enumerate(gaps) if gap]
    return Verdict(comparison, ratios, mismatches)


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
