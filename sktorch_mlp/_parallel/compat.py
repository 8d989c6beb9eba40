"""Private names of joblib that the backend needs, with the reason for each and what happens when one is gone.

joblib documents `register_parallel_backend`, but not the classes that backends derive from, nor how they
report errors. Where one of these names is gone, everything works but `stacked_fits`, which says why.
"""

from __future__ import annotations

from typing import Any

#: The error of the import below; None if joblib has all names.
missing: ImportError | None = None

try:
    # The base class of all backends, that of joblib's processes, the one for one job, and the exception by which
    # a backend hands a call over to another.
    from joblib._parallel_backends import FallbackToBackend, LokyBackend, ParallelBackendBase, SequentialBackend

    # They carry the traceback of a task's error to the caller, as in joblib's own backend of threads.
    from joblib._utils import _retrieve_traceback_capturing_wrapped_call as retrieve_result
    from joblib._utils import _TracebackCapturingWrapper as TracebackCapturingTask
except ImportError as error:
    missing = error

    class ParallelBackendBase:  # type: ignore[no-redef]
        """Placeholder."""

    class LokyBackend(ParallelBackendBase):  # type: ignore[no-redef]
        """Placeholder."""

    SequentialBackend = LokyBackend
    FallbackToBackend, TracebackCapturingTask, retrieve_result = Exception, None, None

__all__ = [
    "FallbackToBackend",
    "LokyBackend",
    "ParallelBackendBase",
    "SequentialBackend",
    "TracebackCapturingTask",
    "check_joblib",
    "process_pool",
    "retrieve_result",
]


def check_joblib() -> None:
    """Raise if joblib lacks a name.

    Raises
    ------
    ImportError
    """
    if missing is not None:
        raise ImportError(
            f"stacked_fits needs a name that this version of joblib does not have: {missing}. Install joblib>=1.5,<1.7."
        ) from missing


def process_pool(backend: Any) -> Any:
    """Return the executor of joblib's processes, ``LokyBackend._workers``, which `configure` has made."""
    return backend._workers
