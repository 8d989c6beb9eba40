"""The joblib backend "stacked", and `stacked_fits`, which activates it."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from numbers import Integral
from typing import Any

import joblib

from .batcher import FitBatcher, current_batcher
from .compat import FallbackToBackend, LokyBackend, ParallelBackendBase, SequentialBackend, check_joblib
from .workers import StackedProcessesBackend, StackedThreadsBackend, Task

#: Tasks that run at a time.
_N_FITS = 64
#: With so many threads, nested calls run one task after the other.
_MAX_THREADS = 512


class StackedBackend(ParallelBackendBase):
    """Runs tasks so that their fits wait for each other and train as stacks.

    A context has one such backend, which hands another one to each parallel call, since
    calls may overlap.

    Parameters
    ----------
    nesting_level : int, default=None
    n_fits : int, default=64
        Tasks at a time, in each process.
    n_processes : int, default=1
        For the outermost calls; negative as `n_jobs` is.
    """

    supports_retrieve_callback = True
    supports_sharedmem = True
    uses_threads = True
    default_n_jobs = -1

    def __init__(self, nesting_level: int | None = None, n_fits: int = _N_FITS, n_processes: int = 1) -> None:
        check_joblib()
        super().__init__(nesting_level=nesting_level)
        if not _is_integer(n_fits) or n_fits < 1:
            raise ValueError(f"n_fits must be an integer of at least 1, got {n_fits!r}.")
        if not _is_integer(n_processes) or n_processes == 0:
            raise ValueError(
                "n_processes must be an integer of at least 1, or negative: -1 for all cores, -2 for all but one. "
                f"Got {n_processes!r}."
            )
        self._n_fits, self._n_processes = int(n_fits), int(n_processes)

    @cached_property
    def _batcher(self) -> FitBatcher:
        """The batcher of the task that makes the call, else a new one."""
        return current_batcher() or FitBatcher()

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """`n_fits` in each process whatever `n_jobs` is, except that 1 remains 1."""
        return self._n_tasks(n_jobs, self._count_processes())

    def _n_tasks(self, n_jobs: int | None, n_processes: int) -> int:
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs == 1 or self._batcher.n_threads >= _MAX_THREADS:
            return 1
        return self._n_fits * n_processes

    def _count_processes(self) -> int:
        is_nested = bool(self.nesting_level)
        return 1 if is_nested else LokyBackend(nesting_level=0).effective_n_jobs(self._n_processes)

    def configure(
        self, n_jobs: int = 1, parallel: Any = None, require: str | None = None, **backend_kwargs: Any
    ) -> int:
        """Hand the call over to a backend of its own."""
        level = self.nesting_level or 0
        nested = StackedBackend(level + 1, self._n_fits)
        # Generated results have to be on their way before anyone asks for them. Those of groups are not.
        in_threads = require == "sharedmem" or parallel.return_generator
        n_processes = 1 if in_threads else self._count_processes()
        if self._n_tasks(n_jobs, n_processes) == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=level))
        if n_processes == 1:
            raise FallbackToBackend(StackedThreadsBackend(self._batcher, self._n_fits, nested))
        run_group = _RunGroup(self._n_fits)
        raise FallbackToBackend(StackedProcessesBackend(run_group, n_processes, self._n_fits, nested))


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


class _RunGroup:
    """Runs tasks in the threads of a process.

    joblib's processes collect all garbage now and then (unless psutil is installed), which
    takes 0.13 s for the objects of PyTorch and scikit-learn. So when this object first arrives
    in a process, before any task, all that has been imported is exempted.

    Parameters
    ----------
    n_fits : int
    """

    def __init__(self, n_fits: int) -> None:
        self._n_fits = n_fits
        self._filters = list(warnings.filters)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _exempt_imports_from_collection()

    def __call__(self, tasks: Sequence[Task]) -> list[Any]:
        # scikit-learn sets the caller's filters for each task. Threads that then restore those of their process
        # would take them from the others, unless they are the same from the start.
        with warnings.catch_warnings(), stacked_fits(n_fits=self._n_fits):
            warnings.filters = list(self._filters)
            return joblib.Parallel()(joblib.delayed(task)() for task in tasks)


@cache
def _exempt_imports_from_collection() -> None:
    gc.collect()
    gc.freeze()


joblib.register_parallel_backend("stacked", StackedBackend)


@contextmanager
def stacked_fits(*, n_fits: int = _N_FITS, n_processes: int = 1) -> Iterator[None]:
    """Train the fits of whatever runs inside together, as stacks, instead of one after the other.

    Inside the context scikit-learn's tools that fit clones through joblib (`GridSearchCV`,
    `cross_validate`, `BaggingClassifier`, `OneVsRestClassifier` …) run their tasks in
    threads, of this process or of several. A fit of an `MLPTorchClassifier` or
    `MLPTorchRegressor` in such a thread, alone or as a step of a `Pipeline`, waits until no
    other task can still bring a fit. Then all pending fits train at once: those with the
    same layers, activation, solver, batch size and number of mini-batches as one stack of
    networks, each operation of a training step for all of them. Learning rates, penalties,
    seeds, rows and stopping may differ. Each fit gets what it would get alone, up to
    rounding.

    Everything else runs as usual: other estimators and transformers in these threads, and
    fits with ``solver="lbfgs"`` or sparse X. A fit outside of a parallel call is not
    affected, nor is a call with ``n_jobs=1``; any other `n_jobs` makes no difference. With
    ``random_state=None`` fits draw from numpy's global state in an order that differs from
    run to run.

    Parameters
    ----------
    n_fits : int, default=64
        Tasks that run at a time in each process, and so the most fits that train at once.
        More need more memory: each task holds its training data.
    n_processes : int, default=1
        Processes in which tasks run; -1 for one for each core, -2 for one less. With more
        than one, tasks and results are pickled, as with ``n_jobs=2`` outside of this
        context, and the code around fits (scaling, scoring) runs on several cores as well.
        Tasks are pickled in groups, so they must not change their arguments in place.
        Parallel calls inside of tasks stay in the process of the task.

    Yields
    ------
    None

    Raises
    ------
    ValueError
        If `n_fits` is not a positive integer, or `n_processes` is zero or not an integer.
    ImportError
        If the installed joblib lacks a name that the backend needs.

    See Also
    --------
    joblib.parallel_config : ``parallel_config("stacked", n_processes=2)`` does the same.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sktorch_mlp import MLPTorchClassifier, stacked_fits
    >>> X, y = load_iris(return_X_y=True)
    >>> grid = {"learning_rate_init": [0.001, 0.01, 0.1], "alpha": [0.0, 0.01]}
    >>> with stacked_fits():
    ...     search = GridSearchCV(MLPTorchClassifier(random_state=0, tol=0.1), grid).fit(X, y)
    >>> search.best_params_["learning_rate_init"]
    0.1
    """
    with joblib.parallel_config(StackedBackend(n_fits=n_fits, n_processes=n_processes), n_jobs=-1):
        yield
