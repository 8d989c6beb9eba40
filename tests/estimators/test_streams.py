"""Training data that are not in memory: arrays on disk, and chunks. The same numbers as from memory."""

import pickle
import subprocess
import sys
import threading

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
import zarr
from sklearn import config_context
from sklearn.datasets import load_digits
from skorch.callbacks import EpochTimer
from torch.utils.data import DataLoader, Dataset, TensorDataset

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor
from tests.estimators.helpers import KINDS, LABELS, MULTILABEL, SMALL, TARGETS, WEIGHTS, Sliced, X, ours, outputs

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.usefixtures("streamed"),
]


@pytest.fixture(params=["zarr", "hdf5", "memmap"])
def on_disk(request, tmp_path):
    """A function that writes an array to disk and opens it."""
    files = []

    def write(values):
        if request.param == "zarr":
            array = zarr.create_array(tmp_path / "X.zarr", shape=values.shape, chunks=(20, 3), dtype=values.dtype)
            array[:] = values
            return array
        if request.param == "hdf5":
            files.append(h5py.File(tmp_path / "X.h5", "w"))
            return files[0].create_dataset("X", data=values, chunks=(20, 3))
        values.tofile(tmp_path / "X")
        return np.memmap(tmp_path / "X", values.dtype, "r", shape=values.shape)

    yield write
    for file in files:
        file.close()


class Chunked:
    """Chunks of so many rows, again and again."""

    def __init__(self, n_rows, X, *others):
        self.n_rows, self.arrays, self.n_passes = n_rows, (X, *others), 0

    def __iter__(self):
        self.n_passes += 1
        for start in range(0, len(self.arrays[0]), self.n_rows):
            yield tuple(array[start : start + self.n_rows] for array in self.arrays)


# Arrays on disk ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parameters", [{}, {"early_stopping": True}, {"dtype": "float32"}], ids=str)
def test_fits_on_disk_are_those_in_memory(on_disk, kind, parameters):
    stored = on_disk(X)
    expected = ours(kind, **parameters).fit(X, TARGETS[kind], WEIGHTS)
    estimator = ours(kind, **parameters).fit(stored, TARGETS[kind], WEIGHTS)
    np.testing.assert_array_equal(estimator.coefs_[0], expected.coefs_[0])
    assert estimator.loss_curve_ == expected.loss_curve_
    assert estimator.validation_scores_ == expected.validation_scores_
    np.testing.assert_array_equal(outputs(estimator, stored), outputs(expected, X))
    assert estimator.score(stored, TARGETS[kind]) == expected.score(X, TARGETS[kind])
    assert estimator.n_features_in_ == 4
    assert pickle.loads(pickle.dumps(estimator)).loss_ == expected.loss_


def test_validation_data_and_targets_may_be_on_disk(on_disk, tmp_path):
    targets = zarr.create_array(tmp_path / "y.zarr", shape=LABELS.shape, dtype=LABELS.dtype)
    targets[:] = LABELS
    stored = on_disk(X)
    for scoring in (None, "balanced_accuracy"):
        expected = ours("classifier", early_stopping=True, scoring=scoring).fit(X, LABELS, X_val=X, y_val=LABELS)
        estimator = ours("classifier", early_stopping=True, scoring=scoring)
        estimator.fit(stored, targets, X_val=stored, y_val=targets)
        assert estimator.validation_scores_ == expected.validation_scores_


def test_a_fitted_model_trains_on_from_disk(on_disk):
    expected, estimator = ours("classifier", warm_start=True), ours("classifier", warm_start=True)
    for rows in (X, on_disk(X)):
        estimator.fit(rows, LABELS)
        expected.fit(X, LABELS)
    np.testing.assert_array_equal(estimator.coefs_[0], expected.coefs_[0])
    with pytest.raises(ValueError, match="X has 3 features, but MLPTorchClassifier is expecting 4"):
        estimator.predict(Sliced(X[:, :3]))


def test_values_on_disk_that_are_not_finite_leave_a_fitted_model_as_it_was():
    estimator = ours("classifier", warm_start=True).fit(X, LABELS)
    before = estimator.coefs_[0].copy()
    bad = np.where(np.arange(len(X))[:, None] == 7, np.nan, X)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        estimator.fit(Sliced(bad), LABELS)
    np.testing.assert_array_equal(estimator.coefs_[0], before)


@pytest.mark.parametrize(
    ("values", "y", "message"),
    [
        (X, None, "requires y to be passed"),
        (X, LABELS[:-1], "inconsistent numbers of samples"),
        (X[:0], LABELS[:0], "Found array with 0 sample"),
        (X[0], LABELS, "must be a table of numbers"),
    ],
)
def test_bad_input_from_disk(values, y, message):
    with pytest.raises(ValueError, match=message):
        ours("classifier").fit(Sliced(values), y)


@pytest.mark.parametrize("parameters", [{"solver": "lbfgs"}, {"callbacks": [EpochTimer()]}])
def test_what_needs_all_rows_at_once_is_refused(parameters):
    with pytest.raises(ValueError, match=r"X on disk\. Use"):
        ours("classifier", **parameters).fit(Sliced(X), LABELS)
    with pytest.raises(ValueError, match=r"X in chunks\. Use"):
        ours("classifier", **parameters).fit(Chunked(20, X, LABELS))


def test_blocks_are_shuffled_as_well_as_rows():
    pixels, digits = load_digits(return_X_y=True)
    scores = {
        shuffle: MLPTorchClassifier(max_iter=20, random_state=0, shuffle=shuffle)
        .fit(pixels, digits)
        .score(pixels, digits)
        for shuffle in (True, "blocks")
    }
    assert min(scores.values()) > 0.97
    sorted_by_class = np.argsort(digits, kind="stable")
    blocks = MLPTorchClassifier(max_iter=20, random_state=0, shuffle="blocks")
    assert blocks.fit(pixels[sorted_by_class], digits[sorted_by_class]).score(pixels, digits) > 0.97


# Chunks --------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rows", [1, 7, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_chunks_in_order_are_the_rows_in_order(kind, n_rows):
    expected = ours(kind, shuffle=False).fit(X, TARGETS[kind], WEIGHTS)
    chunks = Chunked(n_rows, X, TARGETS[kind], WEIGHTS)
    estimator = ours(kind, shuffle=False).fit(chunks)
    np.testing.assert_array_equal(estimator.coefs_[0], expected.coefs_[0])
    assert estimator.loss_curve_ == expected.loss_curve_
    assert chunks.n_passes == 1 + estimator.n_iter_
    assert estimator.t_ == expected.t_


@pytest.mark.parametrize(
    "make",
    [
        lambda: [(X[:0], LABELS[:0]), (X[:20], LABELS[:20]), (X[:0], LABELS[:0]), (X[20:], LABELS[20:])],
        lambda: Chunked(20, pd.DataFrame(X, columns=list("abcd")), pd.Series(LABELS)),
        lambda: DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(LABELS)), batch_size=20),
        lambda: TensorDataset(torch.from_numpy(X), torch.from_numpy(LABELS)),
        lambda: Chunked(20, X, LABELS.astype(str)),
    ],
    ids=["list", "frames", "DataLoader", "Dataset", "strings"],
)
def test_chunks_of_all_kinds(make):
    expected = ours("classifier", shuffle=False).fit(X, LABELS)
    estimator = ours("classifier", shuffle=False).fit(make())
    np.testing.assert_allclose(estimator.coefs_[0], expected.coefs_[0], rtol=1e-6)
    assert estimator.classes_.astype(int).tolist() == [0, 1, 2]
    assert hasattr(estimator, "feature_names_in_") == (type(make()) is Chunked and hasattr(make().arrays[0], "columns"))


def test_several_targets_class_weights_and_types_that_differ():
    for class_, y in ((MLPTorchClassifier, MULTILABEL), (MLPTorchRegressor, np.column_stack([X[:, 0], X[:, 1]]))):
        expected = class_(**SMALL, shuffle=False).fit(X, y)
        np.testing.assert_array_equal(
            class_(**SMALL, shuffle=False).fit(Chunked(9, X, y)).coefs_[0], expected.coefs_[0]
        )
    weights = {0: 3.0, 1: 1.0, 2: 0.5}
    expected = ours("classifier", shuffle=False, class_weight=weights).fit(X, LABELS)
    estimator = ours("classifier", shuffle=False, class_weight=weights).fit(Chunked(9, X, LABELS))
    np.testing.assert_array_equal(estimator.coefs_[0], expected.coefs_[0])
    mixed = [(np.ones((20, 2), np.uint8), LABELS[:20]), (np.full((20, 2), 0.5), LABELS[20:40])]
    expected = ours("classifier", shuffle=False).fit(np.vstack([X for X, _ in mixed]), LABELS[:40])
    np.testing.assert_array_equal(ours("classifier", shuffle=False).fit(mixed).coefs_[0], expected.coefs_[0])
    some_weighted = [(X[:20], LABELS[:20]), (X[20:], LABELS[20:], WEIGHTS[20:])]
    expected = ours("classifier", shuffle=False).fit(X, LABELS, np.r_[np.ones(20), WEIGHTS[20:]])
    np.testing.assert_array_equal(ours("classifier", shuffle=False).fit(some_weighted).coefs_[0], expected.coefs_[0])


def test_chunks_are_shuffled_by_the_random_state():
    first, second = (ours("classifier").fit(Chunked(9, X, LABELS)) for _ in range(2))
    np.testing.assert_array_equal(first.coefs_[0], second.coefs_[0])
    in_order = ours("classifier", shuffle=False).fit(Chunked(9, X, LABELS))
    assert np.abs(first.coefs_[0] - in_order.coefs_[0]).max() > 1e-6


def test_early_stopping_and_warm_start_on_chunks():
    expected = ours("classifier", shuffle=False, early_stopping=True, warm_start=True)
    estimator = ours("classifier", shuffle=False, early_stopping=True, warm_start=True)
    for _ in range(2):
        expected.fit(X, LABELS, X_val=X, y_val=LABELS)
        estimator.fit(Chunked(9, X, LABELS), X_val=X, y_val=LABELS)
    assert estimator.validation_scores_ == expected.validation_scores_
    np.testing.assert_array_equal(estimator.coefs_[0], expected.coefs_[0])


class _Items(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, i):
        if i >= 3:
            raise IndexError
        return X[i]


@pytest.mark.parametrize(
    ("chunks", "error", "message"),
    [
        (iter([(X, LABELS)]), TypeError, "an iterator, which can be read only once"),
        (Chunked(9, X[:0], LABELS[:0]), ValueError, "no chunks"),
        (Chunked(9, X), TypeError, "Chunk 0 of X is a tuple of length 1"),
        (_Items(), TypeError, "Chunk 0 of X is a Tensor"),
        ([(X, LABELS), (X[:, :3], LABELS)], ValueError, "Chunk 1 of X: X has 3 features, but .* is expecting 4"),
        (
            [(X, LABELS), (X, np.column_stack([LABELS] * 2))],
            ValueError,
            r"y has numbers of shape \(n_samples, 2\), but",
        ),
        ([(X, LABELS), (X, LABELS.astype(str))], ValueError, "Chunk 1 of X: y has text .*, but .* numbers"),
        ([(X, LABELS), (X * np.nan, LABELS)], ValueError, "Chunk 1 of X: Input X contains NaN"),
        ([(X, LABELS + 0.5)], ValueError, "Unknown label type"),
        ([(X, LABELS[:-1])], ValueError, "Chunk 0 of X: Found input variables with inconsistent numbers of samples"),
    ],
)
def test_bad_chunks(chunks, error, message):
    with pytest.raises(error, match=message):
        ours("classifier").fit(chunks)


def test_sparse_chunks_are_refused():
    class Sparse(Chunked):
        def __iter__(self):
            yield sp.csr_array(X), LABELS

    with pytest.raises(TypeError, match="Chunk 0 of X is a csr_array, but must be a dense array"):
        ours("classifier").fit(Sparse(1, X))


@pytest.mark.parametrize(
    ("parameters", "arguments", "message"),
    [
        ({"early_stopping": True}, {}, "Pass X_val and y_val"),
        ({"class_weight": "balanced"}, {}, "compute_class_weight"),
        ({}, {"sample_weight": WEIGHTS}, r"Let the chunks be \(X, y, sample_weight\)"),
    ],
)
def test_what_chunks_cannot_do(parameters, arguments, message):
    with pytest.raises(ValueError, match=message):
        ours("classifier", **parameters).fit(Chunked(9, X, LABELS), **arguments)


def test_labels_that_come_later_are_found():
    class Changing(Chunked):
        def __iter__(self):
            self.n_passes += 1
            yield X, LABELS + (self.n_passes > 2) * (LABELS == 2)

    estimator = ours("classifier")
    with pytest.raises(ValueError, match=r"y has classes \[3\]. Known are \[0 1 2\]"):
        estimator.fit(Changing(1, X))
    assert not hasattr(estimator, "coefs_")


def test_errors_of_the_iterable_leave_a_fitted_model_as_it_was():
    class Failing(Chunked):
        def __iter__(self):
            yield from super().__iter__()
            if self.n_passes > 2:
                raise OSError("the disk is gone")

    estimator = ours("classifier", warm_start=True).fit(X, LABELS)
    before, n_threads = estimator.coefs_[0].copy(), threading.active_count()
    with pytest.raises(OSError, match="the disk is gone"):
        estimator.fit(Failing(9, X, LABELS))
    np.testing.assert_array_equal(estimator.coefs_[0], before)
    assert threading.active_count() == n_threads


def test_the_reader_has_the_configuration_of_the_fit():
    """Which scikit-learn has for each thread."""
    bad = np.where(np.arange(len(X))[:, None] == 7, np.inf, X)
    with config_context(assume_finite=True), pytest.raises(ValueError, match="The loss is nan at epoch 1"):
        ours("classifier").fit(Chunked(9, bad, LABELS))


@pytest.mark.parametrize(
    "later",
    [(X.astype(np.float32), LABELS), (X.astype(int) + 300, LABELS), (X.astype(np.int8), LABELS, WEIGHTS)],
    ids=["float", "wider", "weights"],
)
def test_what_changes_after_the_first_pass_is_found(later):
    class Changing(Chunked):
        def __iter__(self):
            self.n_passes += 1
            yield (X.astype(np.int8), LABELS) if self.n_passes == 1 else later

    with pytest.raises(ValueError, match="another dtype than the first time, or sample weights that they had not"):
        ours("classifier").fit(Changing(1, X))


def test_chunks_without_weight():
    weights = np.where(np.arange(len(X)) < 20, 0, WEIGHTS)
    expected = ours("classifier", shuffle=False, batch_size=40).fit(X, LABELS, weights)
    estimator = ours("classifier", shuffle=False, batch_size=40).fit(Chunked(20, X, LABELS, weights))
    np.testing.assert_array_equal(estimator.coefs_[0], expected.coefs_[0])
    with pytest.raises(ValueError, match="at least one non-zero number"):
        ours("classifier").fit(Chunked(20, X, LABELS, 0 * weights))


def test_a_cold_fit_that_fails_leaves_the_model_of_before():
    estimator = ours("classifier").fit(X, LABELS)
    before = dict(vars(estimator))
    bad = np.where(np.arange(len(X))[:, None] == 7, np.nan, X)[:, :3]
    with pytest.raises(ValueError, match="Input X contains NaN"):
        estimator.fit(Sliced(bad), LABELS + 5)
    assert vars(estimator) == before


def test_a_file_that_an_epoch_reads_many_times_is_warned_of(recwarn):
    disk = Sliced(np.arange(700_000, dtype=np.uint8).reshape(-1, 1))
    disk.chunks = (10_000, 1)
    y = disk.values[:, 0] > 100
    with pytest.warns(UserWarning, match=r"an epoch reads X about 6 times. Pass shuffle='blocks'"):
        ours("classifier", max_iter=1, batch_size=10_000).fit(disk, y)
    for small_or_ordered in ({"shuffle": "blocks"}, {"shuffle": False}, {"batch_size": 700_000}):
        ours("classifier", max_iter=1, **{"batch_size": 10_000} | small_or_ordered).fit(disk, y)
    assert not [warning for warning in recwarn if "reads X" in str(warning.message)]


def test_hdf5_in_one_piece_is_used_like_a_memory_map(tmp_path):
    params = {"solver": "lbfgs", "random_state": 0, "max_iter": 20}
    with h5py.File(tmp_path / "X.h5", "w") as file:
        disk = file.create_dataset("X", data=X)
        on_disk = ours("classifier", **params).fit(disk, LABELS)
        np.testing.assert_array_equal(on_disk.predict_proba(disk), on_disk.predict_proba(X))
    in_memory = ours("classifier", **params).fit(X, LABELS)
    np.testing.assert_array_equal(on_disk.predict_proba(X), in_memory.predict_proba(X))


def test_a_validation_row_that_a_lower_precision_cannot_hold_is_named():
    values = X.astype(np.float64)
    values[30, 1] = 1e300
    estimator = ours("classifier", dtype="float32", max_iter=2, early_stopping=True)
    with pytest.raises(ValueError, match=r"in row 30, or a value too large for dtype\('float32'\)"):
        estimator.fit(X, LABELS, X_val=Sliced(values), y_val=LABELS)
    with pytest.raises(ValueError, match=r"in row 30, or a value too large for dtype\('float32'\)"):
        estimator.fit(X, LABELS).predict(Sliced(values))


def test_verbose_says_what_is_read(capsys):
    ours("classifier", verbose=True, max_iter=1).fit(Chunked(9, X, LABELS))
    assert "of X are read in blocks" in capsys.readouterr().out


# Memory --------------------------------------------------------------------------------


_FIT_UNDER_A_LIMIT = """
import resource, sys, threading, warnings
import h5py, numpy as np, zarr
from sktorch_mlp import MLPTorchClassifier

warnings.simplefilter("ignore")
source, path, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
limit, n_chunk = 192 * 2**20, 2**13
n_rows = times * limit // 1024  # of 256 numbers in float32

noise = np.random.default_rng(0).standard_normal((n_chunk, 256), dtype=np.float32)

def chunk(start):
    return np.roll(noise, start // n_chunk, axis=1)

class Chunks:
    def __iter__(self):
        for start in range(0, n_rows, n_chunk):
            X = chunk(start)
            yield X, X[:, 0] > 0

def in_use(what):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what)) * 1024

y = np.concatenate([labels for _, labels in Chunks()])
if source == "memmap":
    X = np.memmap(path, np.float32, "w+", shape=(n_rows, 256))
elif source == "zarr":
    X = zarr.create_array(path, shape=(n_rows, 256), chunks=(4096, 256), dtype="f4", compressors=None)
elif source == "hdf5":
    X = h5py.File(path, "w").create_dataset("X", (n_rows, 256), "f4", chunks=(4096, 256))
if source != "chunks":
    for start in range(0, n_rows, n_chunk):
        X[start : start + n_chunk] = chunk(start)
model = MLPTorchClassifier((8,), max_iter=1, shuffle="blocks", batch_size=1024, learning_rate_init=0.01)
model.fit(X[:100] if source != "chunks" else chunk(0)[:100], y[:100])  # imports, and memory that stays
resource.setrlimit(resource.RLIMIT_DATA, (in_use("VmData") + limit, -1))
try:
    np.ones((n_rows + n_rows // 10, 256), np.float32)
except MemoryError:
    pass
else:
    sys.exit("no limit")
before, peak, done = in_use("RssAnon"), [0], threading.Event()

def watch():
    while not done.wait(0.005):
        peak.append(in_use("RssAnon") - before)

watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
fitted = model.fit(Chunks()) if source == "chunks" else model.fit(X, y)
done.set()
watcher.join()
print(fitted.score(chunk(7), chunk(7)[:, 0] > 0), max(peak) / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit of memory is Linux's")
@pytest.mark.parametrize("source", ["memmap", "zarr", "hdf5", "chunks"])
def test_memory_is_flat_for_1_4_and_16_times_what_there_is(source, tmp_path):
    peaks = []
    for times in (1, 4, 16):
        command = [sys.executable, "-c", _FIT_UNDER_A_LIMIT, source, str(tmp_path / f"X{times}"), str(times)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert result.returncode == 0, result.stderr[-2000:]
        score, peak = map(float, result.stdout.split())
        assert score > 0.9
        peaks.append(peak)
    print(source, *(f"{peak:.0f} MiB" for peak in peaks))
    # What grows are the labels and their order: some 24 bytes for each row, which has 1024 itself.
    assert peaks[2] < 1.1 * peaks[1] + 80
