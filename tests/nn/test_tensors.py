"""State dicts of stacks, and the boundary between numpy and PyTorch."""

import warnings

import numpy as np
import pytest
import torch

from sktorch_mlp._nn.tensors import as_tensor, join_states, select_networks, squeeze_stack, to_numpy

X = np.random.RandomState(0).randn(20, 8)


def test_the_axis_of_a_stack_of_one_is_dropped():
    assert squeeze_stack(torch.zeros(1, 2, 3)).shape == (2, 3)
    assert squeeze_stack(torch.zeros(2, 2, 3)).shape == (2, 2, 3)


def _state(start, n_networks):
    numbers = list(range(start, start + n_networks))
    return {
        "tensor": torch.tensor(numbers).view(-1, 1) * torch.ones(1, 2),
        "list": [str(number) for number in numbers],
        "nothing": None,
        "inner": {"tensor": torch.tensor(numbers)},
    }


def _assert_is(state, numbers):
    assert state["tensor"].tolist() == [[number] * 2 for number in numbers]
    assert state["list"] == [str(number) for number in numbers]
    assert state["nothing"] is None
    assert state["inner"]["tensor"].tolist() == numbers


@pytest.mark.parametrize("networks", [[1], [0, 2], [2, 0]], ids=str)
def test_states_of_some_networks_are_copies(networks):
    state = _state(0, 3)
    selected = select_networks(state, networks)
    _assert_is(selected, networks)
    selected["tensor"].fill_(9)
    selected["inner"]["tensor"].fill_(9)
    _assert_is(state, [0, 1, 2])


def test_states_of_stacks_are_joined_in_their_order():
    _assert_is(join_states([_state(4, 2), _state(0, 1), _state(7, 3)]), [4, 5, 0, 7, 8, 9])


@pytest.mark.parametrize(
    "array",
    [X, X[::2], X[:, ::-1], np.asfortranarray(X), X[::-1, 3:7], np.broadcast_to(X[0], (3, 8))],
    ids=["C", "rows", "reversed", "F", "part", "read-only"],
)
def test_tensors_share_the_memory_of_arrays_where_strides_allow(array):
    with warnings.catch_warnings(action="error"):
        tensor = as_tensor(array)
    np.testing.assert_array_equal(tensor.numpy(), array)
    shares_memory = tensor.data_ptr() == array.__array_interface__["data"][0]
    assert shares_memory == all(stride >= 0 for stride in array.strides)


def test_tensors_become_arrays():
    assert to_numpy([1, 2]) == [1, 2]
    tensor = torch.tensor([1.5, 2.0], requires_grad=True)
    np.testing.assert_array_equal(to_numpy(tensor), [1.5, 2.0])
    assert to_numpy(tensor.bfloat16()).dtype == np.float32
