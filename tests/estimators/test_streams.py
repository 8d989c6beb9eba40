"""Training data that are not in memory: arrays on disk, and chunks. The same numbers as from memory."""

import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest
import zarr
from sklearn.datasets import load_digits
from skorch.callbacks import EpochTimer

from sktorch_mlp import MLPTorchClassifier
from tests.estimators.helpers import (
    KINDS,
    LABELS,
    TARGETS,
    WEIGHTS,
    Chunked,
    Sliced,
    X,
    ours,
    outputs,
)

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


def test_validation_values_on_disk_are_named():
    bad = np.where(np.arange(len(X))[:, None] == 7, np.nan, X)
    with pytest.raises(ValueError, match="Input X_val contains NaN or infinity, in row 7"):
        ours("classifier", early_stopping=True).fit(X, LABELS, X_val=Sliced(bad), y_val=LABELS)


def test_arrays_that_have_not_counted_their_rows_are_read_as_a_whole():
    """As those of Dask made from frames."""

    class Uncounted(Sliced):
        chunks = ((float("nan"), float("nan")), (4,))

        def __init__(self, values):
            super().__init__(values)
            self.shape = float("nan"), values.shape[1]

        def __array__(self, dtype=None, copy=None):
            return self.values

    expected, model = ours("classifier").fit(X, LABELS), ours("classifier").fit(Uncounted(X), LABELS)
    np.testing.assert_array_equal(model.coefs_[0], expected.coefs_[0])
    np.testing.assert_array_equal(model.predict_proba(Uncounted(X)), expected.predict_proba(X))


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
