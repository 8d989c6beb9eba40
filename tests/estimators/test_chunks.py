"""Training data in chunks, from anything that gives them again and again: the same numbers as from memory."""

import threading

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
import zarr
from sklearn import config_context
from torch.utils.data import DataLoader, Dataset, TensorDataset

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor
from tests.estimators.helpers import (
    KINDS,
    LABELS,
    MULTILABEL,
    SMALL,
    TARGETS,
    WEIGHTS,
    Chunked,
    X,
    ours,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.usefixtures("streamed"),
]


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
        lambda: [(zarr.array(X[:30]), LABELS[:30]), (zarr.array(X[30:]), LABELS[30:])],
    ],
    ids=["list", "frames", "DataLoader", "Dataset", "strings", "zarr"],
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
        ([(X, LABELS, WEIGHTS, WEIGHTS)], TypeError, "Chunk 0 of X is a tuple of length 4"),
        ([{"X": X, "y": LABELS}], TypeError, "Chunk 0 of X is a dict"),
        ([(X[:, 0], LABELS)], ValueError, "Chunk 0 of X: Expected 2D array"),
        ((X, LABELS), ValueError, "requires y to be passed"),
        ([[1, 2], [3, 4]], ValueError, "requires y to be passed"),
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
