"""Times contestants on one problem, interleaved, and compares them in pairs."""

from __future__ import annotations

import gc
import statistics
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from .problems import Problem

#: Seconds before each timing, for everyone. OpenBLAS, under numpy and scipy, keeps its
#: threads spinning for a while after a product, which slows down whoever comes next.
PAUSE = 0.2


@dataclass(frozen=True)
class Contestant:
    """Who is timed.

    Attributes
    ----------
    name : str
    fit : callable
        ``fit(problem, X, y, seed, device)`` gives the loss of every epoch.
    X_dtype : type
        Precision of the X it is given; the cast is not timed.
    """

    name: str
    fit: Callable[[Problem, np.ndarray, np.ndarray, int, str], list[float]]
    X_dtype: type[np.floating]


@dataclass(frozen=True)
class Gate:
    """How far apart two final losses may lie; both bounds must hold.

    Attributes
    ----------
    rtol : float
        Bound relative to the smaller loss.
    atol : float
        Absolute bound.
    """

    rtol: float
    atol: float

    def passes(self, loss: float, other: float) -> bool:
        """Whether two losses are close enough; one that is not finite never is."""
        gap = abs(loss - other)
        return gap <= self.rtol * min(abs(loss), abs(other)) and gap <= self.atol


@dataclass(frozen=True)
class Comparison:
    """A column of the table: a rival and which of ours it is held against."""

    name: str
    rival: Contestant
    ours: Contestant
    gate: Gate


@dataclass(frozen=True)
class Timing:
    """One fit."""

    seconds: float
    loss: float


@dataclass(frozen=True)
class Verdict:
    """What a comparison came to on one problem.

    Attributes
    ----------
    ratios : list of float
        The rival's time over ours, round by round.
    mismatches : list of str
        The rounds whose losses did not pass the gate.
    """

    comparison: Comparison
    ratios: list[float]
    mismatches: list[str]

    @property
    def ratio(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.ratios)


def race(
    contestants: Collection[Contestant], problem: Problem, repeats: int, device: str
) -> dict[Contestant, list[Timing]]:
    """Time all contestants on a problem, A B C A B C …, after a short fit each that is not timed.

    Parameters
    ----------
    contestants : collection of Contestant
    problem : Problem
    repeats : int
        Rounds; the number of the round is the seed of all its fits.
    device : str

    Returns
    -------
    timings : dict
        Each contestant's timings, one a round.
    """
    X, y = problem.make(problem)
    inputs = {dtype: X.astype(dtype) for dtype in {contestant.X_dtype for contestant in contestants}}
    warm_up = replace(problem, epochs=1, rows=min(problem.rows, 2 * problem.batch_size))
    timings: dict[Contestant, list[Timing]] = {contestant: [] for contestant in contestants}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the epochs are run exactly, converged or not
        for contestant in timings:
            contestant.fit(warm_up, inputs[contestant.X_dtype][: warm_up.rows], y[: warm_up.rows], 0, device)
        for seed in range(repeats):
            for contestant, own in timings.items():
                own.append(_time(contestant, problem, inputs[contestant.X_dtype], y, seed, device))
    return timings


def _time(contestant: Contestant, problem: Problem, X: np.ndarray, y: np.ndarray, seed: int, device: str) -> Timing:
    gc.collect()
    time.sleep(PAUSE)
    start = time.perf_counter()
    losses = contestant.fit(problem, X, y, seed, device)
    seconds = time.perf_counter() - start
    if len(losses) != problem.epochs:
        raise RuntimeError(f"{contestant.name} trained {len(losses)} epochs on {problem.name}, not {problem.epochs}.")
    return Timing(seconds, float(losses[-1]))


def compare(comparison: Comparison, timings: dict[Contestant, list[Timing]]) -> Verdict:
    """Ratios of a rival's timings to ours, round by round, and whether the losses agree."""
    rounds = list(zip(timings[comparison.rival], timings[comparison.ours], strict=True))
    ratios = [rival.seconds / ours.seconds for rival, ours in rounds]
    mismatches = [
        f"{comparison.name}: loss {rival.loss:.10g}, ours {ours.loss:.10g} with seed {seed}; allowed: {comparison.gate}"
        for seed, (rival, ours) in enumerate(rounds)
        if not comparison.gate.passes(rival.loss, ours.loss)
    ]
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
