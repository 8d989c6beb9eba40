"""Mini-batches: scikit-learn's, whatever the segments; and their weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.utils import gen_batches, shuffle

from sktorch_mlp._data.batches import MiniBatches, SampleWeights, UniformWeights
from sktorch_mlp._data.shuffling import Shuffler
from tests.data.helpers import ALL_ROWS, N_ROWS, WEIGHTS, X, make_samples

LIKE = torch.empty(0, dtype=torch.float64)


def _shufflers(samples, n_networks=1):
    return [Shuffler(samples.indices[k], np.random.RandomState(k)) for k in range(n_networks)]


# Mini-batches --------------------------------------------------------------------------


@pytest.mark.parametrize("segment_rows", [2**17, 128, 64, 1])
@pytest.mark.parametrize("n_networks", [1, 3])
def test_mini_batches_match_sklearn(n_networks, segment_rows):
    samples = make_samples([np.arange(N_ROWS)] * n_networks, weighted=True)
    minibatches = MiniBatches(samples, _shufflers(samples, n_networks), 64, segment_rows=segment_rows)
    expected_rows = [np.arange(N_ROWS)] * n_networks
    streams = [np.random.RandomState(k) for k in range(n_networks)]
    for epoch in range(3):
        expected_rows = [shuffle(rows, random_state=s) for rows, s in zip(expected_rows, streams, strict=True)]
        slices = gen_batches(N_ROWS, 64)
        for segment in minibatches.next_epochs(is_followed=epoch == 0):
            parts = segment.batches(), segment.batch_targets, segment.weights.fractions, segment.batch_rows
            for batch, targets, fractions, batch_rows in zip(*parts, strict=True):
                batch_slice = next(slices)
                for k, rows in enumerate(expected_rows):
                    chosen = rows[batch_slice]
                    np.testing.assert_array_equal(batch_rows.view(n_networks, -1)[k], chosen)
                    np.testing.assert_array_equal(batch.rows.view(n_networks, len(chosen), 64)[k], X[chosen])
                    np.testing.assert_array_equal(targets.reshape(n_networks, -1)[k], samples.targets[0, chosen])
                    expected = WEIGHTS[chosen] / WEIGHTS[chosen].sum()
                    np.testing.assert_allclose(fractions.reshape(n_networks, -1)[k], expected, rtol=1e-14)
        assert next(slices, None) is None


@pytest.mark.parametrize(
    ("segment_rows", "longest_segment", "expected"),
    [
        (2**17, None, [[64, 64, 22]]),
        (128, None, [[64, 64], [22]]),
        (127, None, [[64], [64], [22]]),
        (1, None, [[64], [64], [22]]),
        (2**17, 2, [[64, 64], [22]]),
        (64, 2, [[64], [64], [22]]),
    ],
)
def test_segments_are_as_long_as_allowed(segment_rows, longest_segment, expected):
    samples = make_samples()
    segments = MiniBatches(samples, _shufflers(samples), 64, longest_segment, segment_rows).segments
    assert [segment.sizes for segment in segments] == expected
    assert len({id(segment) for segment in segments}) == min(2, len(segments))  # those that are alike share buffers


def test_small_batches_are_in_segments_of_a_few_hundred():
    """Each has views of its own, which would take more memory than rows of bytes."""
    samples = make_samples([np.resize(ALL_ROWS, 1000)])
    segments = MiniBatches(samples, _shufflers(samples), 1).segments
    lengths = [len(segment.sizes) for segment in segments]
    assert sum(lengths) == len(samples.indices[0])
    assert lengths == [256] * (len(lengths) - 1) + lengths[-1:]
    assert sum(len(segment.sizes) for segment in set(segments)) < 2 * 256


def test_one_batch_of_all_rows_is_gathered_once_but_draws_as_often():
    samples = make_samples()
    random_state, expected = np.random.RandomState(0), np.random.RandomState(0)
    minibatches = MiniBatches(samples, [Shuffler(samples.indices[0], random_state)], N_ROWS)
    batches = []
    for _ in range(2):
        (segment,) = minibatches.next_epochs()
        batches += segment.batches()
        expected.permutation(N_ROWS)
    assert batches[0] is batches[1]
    assert batches[0].rows.data_ptr() == samples.rows.X.data_ptr()
    assert random_state.randint(2**31) == expected.randint(2**31)


def test_a_shorter_network_has_its_missing_rows_without_weight():
    indices = [np.arange(130), np.arange(20, 149)]
    samples = make_samples(indices)
    minibatches = MiniBatches(samples, [Shuffler(rows, None) for rows in indices], 64)
    (segment,) = minibatches.next_epochs()
    np.testing.assert_array_equal(segment.weights.fractions[-1][:, 0], [[0.5, 0.5], [1.0, 0.0]])
    np.testing.assert_array_equal(segment.batch_rows[-1], [[128, 129], [148, 148]])
    assert segment.weights.vary is False


def test_other_numbers_of_batches_do_not_stack():
    samples = make_samples([np.arange(64), np.arange(65)])
    with pytest.raises(ValueError, match="64 and 65 rows differ in their number of batches of 64"):
        MiniBatches(samples, _shufflers(samples, 2), 64)


# Weights -------------------------------------------------------------------------------

SIZES = [5, 5, 3]


def _losses(n_networks):
    return np.random.RandomState(1).uniform(size=(n_networks, sum(SIZES)))


def _stacked(values):
    """Values of each network as (..., 1, n_rows)."""
    stacked = torch.from_numpy(values).unsqueeze(1)
    return stacked[0] if len(stacked) == 1 else stacked


@pytest.mark.parametrize("n_networks", [1, 2])
def test_uniform_weights_are_means_over_rows(n_networks):
    n_train = [23] * n_networks  # of which this segment has 13
    weights, losses = UniformWeights(SIZES, n_train, LIKE), _losses(n_networks)
    np.testing.assert_array_equal(torch.stack(weights.fractions), 1 / np.array(SIZES))
    np.testing.assert_array_equal(weights.totals, np.tile(SIZES, (n_networks, 1)).T)
    np.testing.assert_allclose(weights.batch_fractions, np.tile(SIZES, (n_networks, 1)).T / 23, rtol=1e-15)
    mean = weights.mean(_stacked(losses))
    assert mean.shape == ((1,) if n_networks == 1 else (n_networks, 1))
    np.testing.assert_allclose(mean.reshape(-1), losses.sum(1) / 23, rtol=1e-14)
    assert not weights.vary


def _numpys_weights(sample_weight, n_missing, n_train):
    """Weights of the batches of one network: fractions of rows, totals, fractions of batches, those of rows in the epoch."""
    present = np.arange(sum(SIZES)) < sum(SIZES) - n_missing
    batches = np.split(sample_weight * present, np.cumsum(SIZES)[:-1])
    n_present = [part.sum() for part in np.split(present, np.cumsum(SIZES)[:-1])]
    fractions = [batch / batch.sum() for batch in batches]
    batch_fractions = np.array(n_present) / n_train
    epoch = np.concatenate([f * share for f, share in zip(fractions, batch_fractions, strict=True)])
    return fractions, [batch.sum() for batch in batches], batch_fractions, epoch


@pytest.mark.parametrize("n_missing", [[0], [0, 0], [0, 2], [1, 0, 2]], ids=str)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
def test_sample_weights_match_numpy(weighted, n_missing):
    n_networks, rng = len(n_missing), np.random.RandomState(0)
    n_train = [23 - n for n in n_missing]
    sample_weight = rng.uniform(0.1, 2, (n_networks, sum(SIZES))) if weighted else np.ones((n_networks, sum(SIZES)))
    all_weights = torch.from_numpy(sample_weight.ravel()) if weighted else None
    weights = SampleWeights(SIZES, n_train, n_missing, all_weights, LIKE)
    assert weights.vary == weighted
    losses = _losses(n_networks)
    for _ in range(2):  # the buffers of an epoch are those of the next
        if weighted:
            sample_weight = sample_weight[:, ::-1].copy()
            weights.set(torch.from_numpy(sample_weight))
        mean = weights.mean(_stacked(losses))
        assert mean.shape == ((1,) if n_networks == 1 else (n_networks, 1))
        for k in range(n_networks):
            fractions, totals, batch_fractions, epoch = _numpys_weights(sample_weight[k], n_missing[k], n_train[k])
            for ours, expected in zip(weights.fractions, fractions, strict=True):
                np.testing.assert_allclose(ours.reshape(n_networks, -1)[k], expected, rtol=1e-14)
            np.testing.assert_allclose(weights.totals[:, k], totals, rtol=1e-14)
            np.testing.assert_allclose(weights.batch_fractions[:, k], batch_fractions, rtol=1e-14)
            np.testing.assert_allclose(mean.reshape(-1)[k], (epoch * losses[k]).sum(), rtol=1e-13)


@pytest.mark.parametrize("n_networks", [1, 2])
def test_weights_of_a_batch_must_not_sum_to_zero(n_networks):
    sample_weight = torch.ones(n_networks, sum(SIZES), dtype=torch.float64)
    sample_weight[-1, 5:9] = 0
    weights = SampleWeights(SIZES, [13] * n_networks, [0] * n_networks, sample_weight.flatten(), LIKE)
    weights.set(sample_weight)
    np.testing.assert_array_equal(weights.fractions[1].reshape(n_networks, -1)[-1], [0, 0, 0, 0, 1])
    sample_weight[-1, 9] = 0
    with pytest.raises(ZeroDivisionError, match=r"sum to zero.*Leave out the rows of weight zero, or use a larger"):
        weights.set(sample_weight)


def test_weights_of_one_batch_of_all_rows_are_set_once():
    samples = make_samples(weighted=True)
    (segment,) = MiniBatches(samples, _shufflers(samples), N_ROWS).next_epochs()
    assert segment.is_loaded_once
    assert segment.weights.vary is False
    np.testing.assert_allclose(segment.weights.fractions[0][0], WEIGHTS / WEIGHTS.sum(), rtol=1e-14)


def test_float32_weights_of_one_batch_are_summed_in_the_order_of_each_epoch():
    """As scikit-learn sums them. In float64 that rounds otherwise."""
    samples = replace(make_samples(), weights=torch.from_numpy(WEIGHTS.astype(np.float32)))
    assert samples.sums_weights_in_order
    assert not make_samples(weighted=True).sums_weights_in_order
    batches, random_state, rows = MiniBatches(samples, _shufflers(samples), N_ROWS), np.random.RandomState(0), ALL_ROWS
    totals = []
    for _ in range(5):
        (segment,) = batches.next_epochs()
        rows = shuffle(rows, random_state=random_state)
        totals.append(float(segment.weights.totals))
        assert totals[-1] == WEIGHTS.astype(np.float32)[rows].sum()
        np.testing.assert_allclose(segment.weights.mean(torch.ones(1, N_ROWS, dtype=torch.float64)), 1, rtol=1e-14)
    assert len(set(totals)) > 1


def test_segments_on_the_cpu_are_not_captured():
    for sparse in (False, True):
        samples = make_samples(sparse=sparse)
        (segment,) = MiniBatches(samples, _shufflers(samples), 64).segments
        assert not segment.can_be_captured
