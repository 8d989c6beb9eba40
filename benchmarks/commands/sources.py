"""Time fits on X that is narrow or not in memory, and measure what they add to it, each in a new process (Linux only)."""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from benchmarks.report import Summary, markdown, ratio_table, spread
from benchmarks.runner import Comparison, Measurement, Row, compare, interleave, limit_threads
from benchmarks.tolerances import LOSSES, Agreement, FitResult, LossTolerance

from .memory import in_new_process

UNIT = "seconds"

FEATURES, BATCH_SIZE, EPOCHS = 256, 200, 4
#: Sizes of X in float32, in MiB.
SIZES = (64, 256, 1024)
#: Rows of a chunk, on disk and in a stream.
CHUNK = 4096

IN_MEMORY = "float32 in memory"

#: Rows in another order lead to losses that are near zero as well, but not within a factor of two.
TOLERANCES = {**LOSSES, Agreement.SIMILAR: LossTolerance(rtol=math.inf, atol=0.1)}


@dataclass(frozen=True)
class Source:
    """Where X is.

    Attributes
    ----------
    name : str
    open : callable
        ``open(folder, n_rows)`` gives X, or chunks.
    file : str
        Name of the file or folder in which X is.
    shuffle : bool or str
    agreement : Agreement
        With the fit on X in memory.
    """

    name: str
    open: Callable[[Path, int], Any]
    file: str = "X"
    shuffle: bool | str = True
    agreement: Agreement = Agreement.FLOAT32

    @property
    def column(self) -> Comparison:
        """Column of the table."""
        return Comparison(self.name, IN_MEMORY, self.name, self.agreement)


class Chunks:
    """Chunks of a memory map, in its order."""

    def __init__(self, X: np.ndarray) -> None:
        self._X = X

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(self._X), CHUNK):
            X = np.array(self._X[start : start + CHUNK])
            yield X, labels(X)


def _memory_map(folder: Path, n_rows: int) -> np.ndarray:
    return np.memmap(folder / "X", np.float32, "r", shape=(n_rows, FEATURES))


def _zarr(name: str, folder: Path, n_rows: int) -> Any:
    import zarr

    return zarr.open_array(folder / name, mode="r")


def _hdf5(folder: Path, n_rows: int) -> Any:
    import h5py

    return h5py.File(folder / "X.h5")["X"]


SOURCES = [
    Source(IN_MEMORY, lambda folder, n_rows: np.array(_memory_map(folder, n_rows))),
    Source("uint8 in memory", lambda folder, n_rows: _memory_map(folder, n_rows).astype(np.uint8)),
    Source("memory map", _memory_map),
    Source('memory map, shuffle="blocks"', _memory_map, "X", "blocks", Agreement.SIMILAR),
    Source("Zarr", partial(_zarr, "X.zarr"), "X.zarr"),
    Source('Zarr, shuffle="blocks"', partial(_zarr, "X.zarr"), "X.zarr", "blocks", Agreement.SIMILAR),
    Source('Zarr, compressed, shuffle="blocks"', partial(_zarr, "Z.zarr"), "Z.zarr", "blocks", Agreement.SIMILAR),
    Source("HDF5", _hdf5, "X.h5"),
    Source('HDF5, shuffle="blocks"', _hdf5, "X.h5", "blocks", Agreement.SIMILAR),
    Source("chunks", lambda folder, n_rows: Chunks(_memory_map(folder, n_rows)), agreement=Agreement.SIMILAR),
]
_BY_NAME = {source.name: source for source in SOURCES}


def labels(X: np.ndarray) -> np.ndarray:
    """Two classes, by the first two features."""
    return X[:, 0] > X[:, 1]


def write(folder: Path, n_rows: int) -> None:
    """Write small whole numbers to all kinds of files."""
    import h5py
    import zarr

    shape, chunks = (n_rows, FEATURES), (min(CHUNK, n_rows), FEATURES)
    files = [
        np.memmap(folder / "X", np.float32, "w+", shape=shape),
        zarr.create_array(folder / "X.zarr", shape=shape, chunks=chunks, dtype="f4", compressors=None),
        zarr.create_array(folder / "Z.zarr", shape=shape, chunks=chunks, dtype="f4"),
    ]
    rng = np.random.default_rng(0)
    with h5py.File(folder / "X.h5", "w") as hdf5:
        files.append(hdf5.create_dataset("X", shape, "f4", chunks=chunks))
        for start in range(0, n_rows, CHUNK):
            n = min(CHUNK, n_rows - start)
            values = rng.integers(4, size=(n, FEATURES)).astype(np.float32)
            for file in files:
                file[start : start + n] = values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Set how often to repeat."""
    parser.set_defaults(repeats=3)


def run(args: argparse.Namespace, call: Callable[..., Any] = in_new_process) -> list[Row]:
    """Measure all sources and sizes.

    Parameters
    ----------
    args : Namespace
        The command line: `repeats`, `threads`, `device` and `scale`.
    call : callable
        ``call(function, *args)`` calls it, in a process of its own.

    Returns
    -------
    rows : list of Row
        For each size one of seconds, and one of the MiB that a fit adds.
    """
    rows = []
    for size in SIZES:
        n_rows = max(1000, round(args.scale * size * 2**20 / (4 * FEATURES)))
        print(f"{n_rows}×{FEATURES} …", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), n_rows)
            rows += _rows(Path(folder), n_rows, args, call)
    return rows


def _rows(folder: Path, n_rows: int, args: argparse.Namespace, call: Callable[..., Any]) -> list[Row]:
    calls = {name: partial(call, fit, name, folder, n_rows, args.device, args.threads) for name in _BY_NAME}
    fits = interleave(calls, args.repeats, lambda fit: Measurement(0, fit()))
    seconds, added = (
        {name: [Measurement(m.result[i], m.result[2]) for m in measurements] for name, measurements in fits.items()}
        for i in (0, 1)
    )
    facts = {"rows": n_rows, "features": FEATURES, "batch_size": BATCH_SIZE, "epochs": EPOCHS}
    title = f"{n_rows * FEATURES * 4 / 2**20:.0f} MiB"
    columns = [source.column for source in SOURCES[1:]]
    return [
        Row(title, facts | {"unit": "seconds"}, seconds, compare(columns, seconds, TOLERANCES)),
        Row(title, facts | {"unit": "MiB"}, added, {}),
    ]


def fit(
    name: str, folder: Path, n_rows: int, device: str, n_threads: int | None, seed: int
) -> tuple[float, float, FitResult]:
    """Fit on a source, after a short fit that makes what stays.

    Returns
    -------
    seconds, added : float
        Time, and MiB of memory that the fit adds at most to what was in use before. Pages of files do not count, since
        the system takes them back.
    result : FitResult
    """
    from sktorch_mlp import MLPTorchClassifier

    source = _BY_NAME[name]
    X = source.open(folder, n_rows)
    y = labels(_memory_map(folder, n_rows))
    model = MLPTorchClassifier(
        batch_size=BATCH_SIZE,
        max_iter=EPOCHS,
        n_iter_no_change=EPOCHS,
        shuffle=source.shuffle,
        random_state=seed,
        device=device,
        dtype="float32",
        alpha=0.0,
    )
    with limit_threads(n_threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        first = _memory_map(folder, n_rows)[: 2 * BATCH_SIZE]
        model.fit(first, labels(first))
        _bring_into_cache(folder / source.file)
        with _added_memory() as added:
            began = time.perf_counter()
            model.fit(X) if isinstance(X, Chunks) else model.fit(X, y)
            seconds = time.perf_counter() - began
    return seconds, max(added), FitResult(model.loss_, model.n_iter_)


def _bring_into_cache(path: Path) -> None:
    """Read a file, or all files of a folder: some systems take pages from their cache that have not been used for a while."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb", buffering=0) as opened:
                while opened.read(2**22):
                    pass


@contextmanager
def _added_memory() -> Iterator[list[float]]:
    """MiB of memory beyond that of now, every few milliseconds."""
    before, done = _anonymous_memory(), threading.Event()
    added = [0.0]

    def watch() -> None:
        while not done.wait(0.005):
            added.append((_anonymous_memory() - before) / 2**20)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield added
    finally:
        done.set()
        watcher.join()


def _anonymous_memory() -> int:
    """Bytes in use that belong to no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def tables(summary: Summary) -> str:
    """Write the ratios of times, and the memory added."""
    by_unit = {unit: [row for row in summary["rows"] if row["facts"]["unit"] == unit] for unit in ("seconds", "MiB")}
    added = [[row["title"], *(spread(values) for values in row["values"].values())] for row in by_unit["MiB"]]
    return "\n".join(
        [
            f"Time on {IN_MEMORY} / time on the source: median (lowest–highest) of {summary['repeats']} processes; files "
            "are in the cache of the system.\n",
            ratio_table(summary, "X in float32", by_unit["seconds"]),
            "\nMiB that a fit adds to the memory in use before, X included only where it is copied:\n",
            markdown(["X in float32", *by_unit["MiB"][0]["values"]], added),
        ]
    )
