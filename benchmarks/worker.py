"""A process that makes calls with the package of a checkout, this one or another.

``python -m benchmarks.worker CHECKOUT`` reads pickled calls from stdin and writes their
results to stdout. Its `benchmarks` are those of this checkout, `sktorch_mlp` is the other's.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

#: This checkout.
ROOT = Path(__file__).resolve().parents[1]


class Worker:
    """The process, as seen by the one that starts it.

    Parameters
    ----------
    checkout : Path
        Folder that has the package.

    Raises
    ------
    SystemExit
        If the package does not come from there.
    """

    def __init__(self, checkout: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.worker", str(checkout)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin
        assert self._process.stdout  # both are pipes
        self._calls, self._replies = self._process.stdin, self._process.stdout
        if (found := self.call(package_folder)) != checkout.resolve():
            self.close()
            raise SystemExit(f"sktorch_mlp was to come from {checkout}, but comes from {found}")

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function there and wait for its result.

        Raises
        ------
        RuntimeError
            If it raises, with its traceback, or if the process has ended.
        """
        pickle.dump((function, args), self._calls)
        self._calls.flush()
        try:
            result, error = pickle.load(self._replies)
        except EOFError:
            raise RuntimeError(f"the worker has ended with status {self._process.wait()}") from None
        if error:
            raise RuntimeError(f"in the worker:\n{error}")
        return result

    def close(self) -> None:
        """End the process."""
        self._calls.close()
        self._process.wait()
        self._replies.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def package_folder() -> Path | None:
    """Folder that the package is imported from, None if there is none."""
    spec = importlib.util.find_spec("sktorch_mlp")
    return Path(spec.origin).resolve().parents[1] if spec and spec.origin else None


def _serve() -> None:
    """Make calls until stdin ends."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what calls print must not get between the replies
    warnings.simplefilter("ignore")
    while True:
        try:
            function, args = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            reply = function(*args), ""
        except Exception:
            reply = None, traceback.format_exc()
        pickle.dump(reply, replies, protocol=pickle.HIGHEST_PROTOCOL)
        replies.flush()


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])  # `benchmarks` has been imported, and stays
    _serve()
