"""
Training on more rows than fit into memory
==========================================

Ten million rows in a parquet file, of which only a few are in memory at a time. The example makes the file itself::

    python examples/larger_than_memory.py
    python examples/larger_than_memory.py --rows 1000000
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.exceptions import ConvergenceWarning

from sktorch_mlp import MLPTorchClassifier

parser = argparse.ArgumentParser(description="Training on more rows than fit into memory")
parser.add_argument("--rows", type=int, default=10_000_000)
n_rows = parser.parse_args().rows

GROUP = 100_000  # rows of a row group: what is read at once
FEATURES = [f"x{i}" for i in range(20)]


def make_rows(n: int, rng: np.random.Generator) -> pa.Table:
    """Rows of which three features decide, with a tenth of the labels at random."""
    X = rng.standard_normal((n, len(FEATURES)), dtype=np.float32)
    y = np.where(rng.random(n) < 0.1, rng.random(n) < 0.5, X[:, 0] * X[:, 1] + X[:, 2] > 0)
    return pa.table(dict(zip(FEATURES, X.T, strict=True)) | {"y": y})


# %%
# The file is written as it will be read: one row group after the other.

folder = tempfile.TemporaryDirectory()
file = Path(folder.name) / "rows.parquet"
rng = np.random.default_rng(0)
with pq.ParquetWriter(file, make_rows(1, rng).schema) as writer:
    for start in range(0, n_rows, GROUP):
        writer.write_table(make_rows(min(GROUP, n_rows - start), rng))
print(f"{n_rows:,} rows, {file.stat().st_size / 2**20:,.0f} MiB of parquet")

# %%
# An iterable of chunks ``(X, y)`` is all that `fit` needs, if it can be read again for each epoch. A thread reads the
# next chunk while the network trains.


class RowGroups:
    """The row groups of a parquet file, each as a chunk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        with pq.ParquetFile(self.path) as parquet:
            for i in range(parquet.num_row_groups):
                group = parquet.read_row_group(i)
                X = np.column_stack([group[name].to_numpy() for name in FEATURES])
                yield X, group["y"].to_numpy()


warnings.simplefilter("ignore", ConvergenceWarning)  # two epochs of so many rows are enough
test = make_rows(20_000, rng)
X_test, y_test = np.column_stack([test[name].to_numpy() for name in FEATURES]), test["y"].to_numpy()
model = MLPTorchClassifier((64,), batch_size=1000, max_iter=2, early_stopping=True, random_state=0, verbose=True)
began = time.perf_counter()
model.fit(RowGroups(file), X_val=X_test, y_val=y_test)
print(f"{model.n_iter_} epochs in {time.perf_counter() - began:.0f} s, accuracy {model.score(X_test, y_test):.3f}")
folder.cleanup()
