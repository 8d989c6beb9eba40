"""The joblib backend "stacked", and `stacked_fits`, which puts it to use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import joblib
from joblib._parallel_backends import FallbackToBackend, ParallelBackendBase, SequentialBackend

from ._meeting import Meeting, Pool

#: Tasks that run at a time.
_N_FITS = 64
#: Threads from which on nested calls run one task after the other.
_MOST_THREADS = 512


class StackedBackend(ParallelBackendBase):
    """Runs tasks in threads whose fits wait for each other and train as stacks.

    A context has one such backend, which hands another one, with a pool of its own, to each
    parallel call, since calls may overlap.

    Parameters
    ----------
    nesting_level : int, default=None
    n_fits : int, default=64
        Tasks at a time.
    meeting : Meeting, default=None
        That of the backend around this one; None for a new one.
    """

    supports_retrieve_callback = True
    supports_sharedmem = True
    uses_threads = True
    default_n_jobs = -1

    def __init__(
        self, nesting_level: int | None = None, n_fits: int = _N_FITS, meeting: Meeting | None = None, **kwargs: Any
    ) -> None:
        super().__init__(nesting_level=nesting_level, **kwargs)
        if isinstance(n_fits, bool) or not isinstance(n_fits, Integral) or n_fits < 1:
            raise ValueError(f"n_fits must be an integer of at least 1, got {n_fits!r}.")
        self._n_fits: int = int(n_fits)
        self._meeting: Meeting = meeting or Meeting()
        self.parallel: Any = None
        self._pool: Pool | None = None
        self._is_to_dispatch: bool = False

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """`n_fits` whatever number of processes was asked for, save that 1 remains 1."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs == 1 or self._meeting.n_threads >= _MOST_THREADS:
            return 1
        return self._n_fits

    def configure(self, n_jobs: int = 1, parallel: Any = None, **backend_kwargs: Any) -> int:
        """Prepare for a call; the number of workers."""
        n_workers = self.effective_n_jobs(n_jobs)
        if n_workers == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        if self.parallel is not parallel:
            own = StackedBackend(self.nesting_level, self._n_fits, self._meeting)
            own.parallel = parallel
            raise FallbackToBackend(own)
        self._pool = Pool(self._meeting, n_workers)
        return n_workers

    def start_call(self) -> None:
        """A call begins; one whose results are generated hands out tasks when it pleases."""
        self._is_to_dispatch = not self.parallel.return_generator

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """While the caller does nothing but wait for results."""
        assert self._pool is not None
        self._pool.end_dispatch()
        with self._meeting.waiting_for(self._pool):
            yield

    def stop_call(self) -> None:
        """The call is over."""
        if self._pool is not None:
            self._pool.end_dispatch()

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], None] | None = None) -> Future[Any]:
        """Schedule a task."""
        assert self._pool is not None
        if self._is_to_dispatch:
            self._is_to_dispatch = False
            self._pool.begin_dispatch()
        future = self._pool.submit(func)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """The result of a task, or its error."""
        return out.result()

    def terminate(self) -> None:
        """Wait for all threads to end."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Stop: fits that wait end now, those in training after the epoch."""
        if self._pool is not None:
            self._pool.stop()
        self.terminate()
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)

    def get_nested_backend(self) -> tuple[ParallelBackendBase, int]:
        """The backend of the parallel calls of a task: another one of these, at the same meeting."""
        level = (self.nesting_level or 0) + 1
        return StackedBackend(nesting_level=level, n_fits=self._n_fits, meeting=self._meeting), -1


joblib.register_parallel_backend("stacked", StackedBackend)


@contextmanager
def stacked_fits(*, n_fits: int = _N_FITS) -> Iterator[None]:
    """Train the fits of whatever runs inside together, as stacks, instead of one after the other.

    Inside the context scikit-learn's tools that fit clones through joblib (`GridSearchCV`,
    `cross_validate`, `BaggingClassifier`, `OneVsRestClassifier` …) run their tasks in
    threads. A fit of an `MLPTorchClassifier` or `MLPTorchRegressor` in such a thread, alone
    or as a step of a `Pipeline`, waits until no task is left that could still come to a
    fit. Then all that wait train at once: those with the same layers, activation,
    solver, batch size and number of mini-batches as one stack of networks, every
    operation of a training step being done for all of them. Learning rates, penalties,
    seeds, rows and stopping may differ. Each fit gets what it would get alone, up to
    rounding.

    All else runs as always: other estimators and transformers in these threads, fits
    with ``solver="lbfgs"`` or sparse X too. A fit outside of a parallel call is not
    affected, nor is what a call with ``n_jobs=1`` runs; any other `n_jobs` stands for
    `n_fits`. With ``random_state=None`` the fits draw from numpy's global state in an order
    that is another each time.

    Parameters
    ----------
    n_fits : int, default=64
        Tasks that run at a time, and with it the most fits that train at once. More need
        more memory: each task holds its training data.

    Yields
    ------
    None

    See Also
    --------
    joblib.parallel_config : ``parallel_config("stacked")`` does the same.

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
    with joblib.parallel_config(StackedBackend(n_fits=n_fits), n_jobs=-1):
        yield
