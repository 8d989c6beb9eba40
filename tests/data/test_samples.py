"""Samples of fits: what stacks share, and what a stack of fits is made of."""

import numpy as np
import pytest
import torch

from sktorch_mlp._data.rows import Rows
from sktorch_mlp._data.samples import Samples, TrainingData, unique_ids
from tests.data.helpers import CPU, N_ROWS, WEIGHTS, X, Y, make_samples


def _samples(first, *, weight=None, start=0):
    """100 digits from `first` on in memory of their own; the fit uses those from `start` on."""
    values, labels = X[first : first + 100].copy(), Y[first : first + 100].copy()
    return Samples(
        rows=Rows.from_array(values, CPU),
        targets=torch.from_numpy(labels)[None],
        weights=None if weight is None else torch.full((100,), weight, dtype=torch.float64),
        indices=[np.arange(start, 100)],
    )


def _assert_uses_what_the_part_used(joined, k, part):
    """The k-th network of joined samples sees the rows, targets and weights that it saw alone."""
    rows, target_rows = joined.select([k]).stack_indices(joined.indices[k : k + 1])
    np.testing.assert_array_equal(joined.rows.X[rows], part.rows.X[part.indices[0]])
    np.testing.assert_array_equal(joined.targets[:, target_rows], part.targets[:, part.indices[0]])
    if joined.weights is not None:
        expected = 1.0 if part.weights is None else part.weights[part.indices[0]]
        assert (joined.weights[target_rows] == expected).all()


def test_equal_rows_are_held_once():
    parts = [_samples(0, weight=2.0), _samples(0, start=10), _samples(50, start=20)]
    joined = TrainingData.join([TrainingData(part) for part in parts]).train
    assert joined.rows.X.shape == (200, 64)
    # The same labels with other weights count as others.
    assert joined.targets.shape == (1, 300)
    for k, part in enumerate(parts):
        _assert_uses_what_the_part_used(joined, k, part)


def test_samples_without_weights_are_joined_without():
    parts = [_samples(0), _samples(50), _samples(0)]
    joined = TrainingData.join([TrainingData(part) for part in parts]).train
    assert joined.weights is None
    assert joined.rows.X.shape == (200, 64)
    assert joined.targets.shape == (1, 200)
    for k, part in enumerate(parts):
        _assert_uses_what_the_part_used(joined, k, part)


def test_one_tensor_for_all_is_not_copied():
    samples = make_samples()
    joined = TrainingData.join([TrainingData(samples)] * 3)
    assert joined.train.rows.X.data_ptr() == samples.rows.X.data_ptr()
    assert joined.train.targets is samples.targets
    assert joined.validation is None


def test_held_out_rows_are_joined_with_those_of_training():
    order = np.random.RandomState(0).permutation(N_ROWS)
    parts = []
    for first in (0, 30):
        samples = make_samples(weighted=True)
        train, validation = (_with_indices(samples, part) for part in (order[first:][:100], order[:20]))
        parts.append(TrainingData(train, validation))
        assert parts[-1].is_held_out
    joined = TrainingData.join(parts)
    assert joined.is_held_out
    assert joined.validation.rows is joined.train.rows
    for k, part in enumerate(parts):
        _assert_uses_what_the_part_used(joined.train, k, part.train)
        _assert_uses_what_the_part_used(joined.validation, k, part.validation)


def test_validation_sets_are_joined_on_their_own():
    validations = [_samples(20), _samples(40, weight=0.5, start=30)]
    parts = [TrainingData(_samples(0), validation) for validation in validations]
    joined = TrainingData.join(parts)
    assert not joined.is_held_out
    assert joined.train.rows.X.shape == (100, 64)
    assert joined.validation.rows.X.shape == (200, 64)
    for k, validation in enumerate(validations):
        _assert_uses_what_the_part_used(joined.validation, k, validation)


def _with_indices(samples, indices):
    return Samples(samples.rows, samples.targets, samples.weights, [indices])


def test_select_shares_tensors():
    parts = [_samples(0), _samples(50), _samples(0)]
    joined = TrainingData.join([TrainingData(part, part) for part in parts])
    selected = joined.select([2, 1])
    assert selected.train.rows is joined.train.rows
    assert selected.train.targets is joined.train.targets
    for k, part in enumerate([parts[2], parts[1]]):
        _assert_uses_what_the_part_used(selected.train, k, part)
        _assert_uses_what_the_part_used(selected.validation, k, part)
    assert TrainingData(parts[0]).select([0]).validation is None


def test_shorter_networks_fill_up_with_their_last_row():
    samples = make_samples([np.array([4, 2, 7]), np.array([1])])
    rows, target_rows = samples.stack_indices(samples.indices)
    assert rows.tolist() == target_rows.tolist() == [[4, 2, 7], [1, 1, 1]]
    samples.starts = [(0, 10), (20, 0)]
    rows, target_rows = samples.stack_indices(samples.indices)
    assert rows.tolist() == [[4, 2, 7], [21, 21, 21]]
    assert target_rows.tolist() == [[14, 12, 17], [1, 1, 1]]
    (row, target_row) = samples.select([1]).stack_indices([np.array([1, 3])])
    assert (row.tolist(), target_row.tolist()) == ([21, 23], [1, 3])


@pytest.mark.parametrize("shape", [(4,), (2, 4)], ids=["one", "stack"])
def test_targets_are_taken_for_each_network(shape):
    targets = torch.arange(20).view(2, 10)
    samples = Samples(Rows.from_array(X, CPU), targets, None, [])
    chosen = torch.arange(8).view(2, 4)[: shape[0] if len(shape) == 2 else 1].view(shape)
    expected = targets.numpy()[:, chosen.numpy()]
    np.testing.assert_array_equal(samples.take_targets(chosen), np.moveaxis(expected, 0, -2))


def test_rows_can_be_replaced_by_equal_ones():
    samples, own = make_samples(), make_samples()
    data = TrainingData(samples, _with_indices(samples, np.arange(5)))
    shared = data.with_rows(own.rows)
    assert shared.train.rows is own.rows
    assert shared.validation.rows is own.rows
    assert shared.is_held_out
    assert data.train.rows is samples.rows
    other = _samples(0)
    assert TrainingData(samples, other).with_rows(own.rows).validation.rows is other.rows
    assert TrainingData(samples).with_rows(own.rows).validation is None


def test_memory_is_that_of_the_tensors():
    samples, weighted = make_samples(), make_samples(weighted=True)
    assert samples.nbytes == X.nbytes + Y.nbytes
    assert weighted.nbytes == X.nbytes + Y.nbytes + WEIGHTS.nbytes
    assert TrainingData(samples).nbytes == samples.nbytes
    assert TrainingData(samples, samples).nbytes == samples.nbytes
    assert TrainingData(samples, weighted).nbytes == samples.nbytes + weighted.nbytes
    sparse = make_samples(sparse=True)
    matrix = sparse.rows.X
    assert sparse.rows.nbytes == matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes


def test_equal_tensors_have_one_number():
    a, b = torch.arange(6.0), torch.arange(6.0) + 1
    view = a.view(2, 3)
    tensors = [a, b, a.clone(), a, view, view.mT, view.double(), view.mT.contiguous()]
    assert unique_ids(tensors) == [0, 1, 0, 0, 2, 3, 4, 3]
    square = torch.arange(9.0).view(3, 3)
    assert unique_ids([square, square.mT, square.mT.mT]) == [0, 1, 0]  # in the same memory
    nan = torch.full((2,), float("nan"))
    assert unique_ids([nan, nan, nan.clone()]) == [0, 0, 1]
