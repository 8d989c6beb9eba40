"""Dropout masks: their rates, their randomness, and one stream for each network."""

import numpy as np
import pytest
import torch

from sktorch_mlp._nn.dropout import Dropout
from sktorch_mlp._nn.tensors import squeeze_stack
from tests.nn.helpers import seeded


def _dropout(*rates, n_layers=1):
    return Dropout([[rate] * n_layers for rate in rates], [seeded(seed) for seed in range(len(rates))])


def _draw(dropout, shape=(30, 4), layer=0):
    masks = squeeze_stack(torch.empty(len(dropout.rates), *shape))
    dropout.draw_(layer, masks)
    return masks.view(-1, *shape)


@pytest.mark.parametrize("n_networks", [1, 2])
def test_kept_fractions_are_those_of_the_rates(n_networks):
    dropout = _dropout(*[0.2, 0.7][:n_networks])
    units = squeeze_stack(torch.ones(n_networks, 50, 2, dtype=torch.float64))
    kept = dropout.kept_fraction(0, units)
    assert (units / kept).shape == units.shape
    # Rates have a resolution of 16 bits.
    np.testing.assert_allclose(1 - kept.flatten(), [0.2, 0.7][:n_networks], atol=2**-17)


@pytest.mark.parametrize("rate", [0.0001, 0.2, 0.5, 0.9, 0.99999])
def test_masks_are_random(rate):
    dropout, mask = _dropout(rate), torch.empty(401, 501)
    kept = float(dropout.kept_fraction(0, mask))
    means = []
    for _ in range(10):
        dropout.draw_(0, mask)
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
        means.append(float(mask.mean()))
    assert len(set(means)) > 1
    # Five standard errors of a mean of two million draws.
    assert abs(np.mean(means) - kept) < 5 * (kept * (1 - kept) / 2e6) ** 0.5
    neighbors = np.corrcoef(mask[:, 1:].flatten(), mask[:, :-1].flatten())[0, 1] if 0.01 < rate < 0.99 else 0.0
    assert abs(neighbors) < 5 / 2e5**0.5


@pytest.mark.parametrize("rate", [0.0, 1.0 - 2**-40])
def test_some_units_are_kept_at_any_rate(rate):
    """And none are dropped at a rate of 0."""
    assert float(_dropout(rate).kept_fraction(0, torch.empty(1, 1))) == (1.0 if rate == 0 else 2**-16)
    if rate == 0:
        assert (_draw(_dropout(rate)) == 1).all()


def test_layers_have_rates_of_their_own():
    dropout = Dropout([[0.0, 0.5], [0.0, 0.0]], [seeded(0), seeded(1)])
    assert [dropout.is_on(layer) for layer in range(2)] == [False, True]
    masks = _draw(dropout, layer=1)
    assert 0 < masks[0].mean() < 1
    assert (masks[1] == 1).all()


def test_a_state_dict_restores_the_streams():
    dropout = _dropout(0.5, 0.5)
    state = dropout.state_dict()
    first, second = _draw(dropout), _draw(dropout)
    assert not torch.equal(first, second)
    for _ in range(2):  # a state may be loaded more than once
        dropout.load_state_dict(state)
        assert torch.equal(_draw(dropout), first)
    other = Dropout([[0.5], [0.5]], [seeded(8), seeded(9)])
    other.load_state_dict(state)
    assert torch.equal(_draw(other), first)


def test_masks_do_not_depend_on_the_others_in_the_stack():
    together = _draw(_dropout(0.5, 0.3, 0.5))
    assert not torch.equal(together[0], together[2])
    selected = _dropout(0.5, 0.3, 0.5).select([2, 1])
    assert selected.rates == [[0.5], [0.3]]
    assert torch.equal(_draw(selected), together[[2, 1]])
    parts = [_dropout(0.5, 0.3, 0.5).select(networks) for networks in ([1], [0, 2])]
    assert torch.equal(_draw(Dropout.join(parts)), together[[1, 0, 2]])


def test_selected_and_joined_networks_keep_their_streams():
    dropout = _dropout(0.5, 0.3)
    stream = dropout.generators[1]
    assert dropout.select([1]).generators[0] is stream
    assert Dropout.join([dropout.select([1]), dropout.select([0])]).generators[0] is stream
