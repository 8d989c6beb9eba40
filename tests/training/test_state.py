"""The state that a fit leaves: dropout's stream, and pickles."""

import copy
import pickle

import numpy as np
import pytest
import torch

from sktorch_mlp._training.progress import Progress
from sktorch_mlp._training.state import FitState
from tests.training.helpers import adam, make_fit
from tests.training.stepping import descend, gradients, random_network


def _draw(network):
    mask = torch.empty(12, 5)
    network.dropout.draw_(0, mask)
    return mask


def _state_with_dropout(seed=0):
    state, network = FitState(sparse_input=False), make_fit(adam(0)).network
    state.set_dropout(network, [0.5, 0.0], np.random.RandomState(seed))
    return state, network


def test_dropout_draws_a_stream_from_the_random_state_once():
    state, network = _state_with_dropout()
    assert network.dropout.rates == [[0.5, 0.0]]
    assert network.dropout.generators == [state.generator]
    seed = int(np.random.RandomState(0).randint(np.iinfo(np.int32).max))
    assert state.generator.initial_seed() == seed
    first = _draw(network)
    state.set_dropout(network, [0.5, 0.0], np.random.RandomState(1))  # the stream goes on
    assert not torch.equal(_draw(network), first)
    again, network = _state_with_dropout()
    assert torch.equal(_draw(network), first)
    assert again.generator is not state.generator


def test_without_rates_nothing_is_drawn():
    state, network = _state_with_dropout()
    random_state = np.random.RandomState(0)
    state.set_dropout(network, [0.0, 0.0], random_state)
    assert network.dropout is None
    assert random_state.randint(2**31) == np.random.RandomState(0).randint(2**31)


def _pickled(state):
    return pickle.loads(pickle.dumps(state))


@pytest.mark.parametrize("copied", [_pickled, copy.deepcopy], ids=["pickle", "deepcopy"])
def test_a_copy_draws_the_masks_that_come_next(copied):
    state, network = _state_with_dropout()
    _draw(network)
    duplicate = copied(state)
    assert duplicate.generator is not state.generator
    other = make_fit(adam(0)).network
    duplicate.set_dropout(other, [0.5, 0.0], np.random.RandomState(1))
    assert torch.equal(_draw(other), _draw(network))


@pytest.mark.parametrize("copied", [_pickled, copy.deepcopy], ids=["pickle", "deepcopy"])
def test_a_copy_has_the_optimizer_and_the_progress(copied):
    optimizer, network = adam(0), random_network(1)
    descend(network, optimizer, gradients(1))
    state = FitState(sparse_input=True, optimizer=optimizer, progress=Progress(n_rows_seen=7))
    duplicate = copied(state)
    assert duplicate.sparse_input is True
    assert duplicate.progress == state.progress
    assert duplicate.generator is None
    flat = network.flat.detach().clone()
    expected = descend(network, optimizer, gradients(1, seed=2)).copy()
    network.flat.data.copy_(flat)
    np.testing.assert_array_equal(descend(network, duplicate.optimizer, gradients(1, seed=2)), expected)


def test_a_stream_of_a_device_that_is_not_here_is_left_out():
    state, _ = _state_with_dropout()
    stored = state.__getstate__()
    restored = FitState.__new__(FitState)
    restored.__setstate__(stored | {"generator": (torch.device("cuda", 99), stored["generator"][1])})
    assert restored.generator is None
