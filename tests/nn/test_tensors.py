"""State dicts of stacks, and the boundary between numpy and PyTorch."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from sktorch_mlp._nn.tensors import as_tensor, join_states, select_networks, squeeze_stack, to_numpy

X = np.random.RandomState(0).randn(20, 8)
FIELD = np.zeros(20, dtype=[("id", "u1"), ("x", "f8", 8)])["x"]
FIELD[:] = X


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
    [X, X[::2], X[:, ::-1], np.asfortranarray(X), X[::-1, 3:7], np.broadcast_to(X[0], (3, 8)), FIELD],
    ids=["C", "rows", "reversed", "F", "part", "read-only", "field of records"],
)
def test_tensors_share_the_memory_of_arrays_where_strides_allow(array):
    with warnings.catch_warnings(action="error"):
        tensor = as_tensor(array)
    np.testing.assert_array_equal(tensor.numpy(), array)
    shares_memory = tensor.data_ptr() == array.__array_interface__["data"][0]
    assert shares_memory == all(stride >= 0 and stride % 8 == 0 for stride in array.strides)


def test_tensors_become_arrays():
    assert to_numpy([1, 2]) == [1, 2]
    tensor = torch.tensor([1.5, 2.0], requires_grad=True)
    np.testing.assert_array_equal(to_numpy(tensor), [1.5, 2.0])
    assert to_numpy(tensor.bfloat16()).dtype == np.float32


T = torch.from_numpy(X).clone()
COMPLEX = torch.complex(T, -2 * T)
KINDS_OF_TENSORS = {
    "conjugate": (COMPLEX.conj(), X + 2j * X),
    "imaginary part": (COMPLEX.conj().imag, 2 * X),  # of a lazy conjugate: with a negative bit
    "real part": (COMPLEX.conj().real, X),
    "float8": (torch.ones(2, 3).to(torch.float8_e5m2), np.ones((2, 3))),
    "coo of one dimension": (T[:, 0].to_sparse(), X[:, 0]),
    "coo of three dimensions": (T[None].to_sparse(), X[None]),
    "hybrid": (torch.stack([T, T], 2).to_sparse(2), np.stack([X, X], 2)),
}


@pytest.mark.parametrize("name", KINDS_OF_TENSORS)
def test_tensors_of_any_kind_become_arrays(name):
    tensor, expected = KINDS_OF_TENSORS[name]
    array = to_numpy(tensor)
    assert type(array) is np.ndarray
    np.testing.assert_array_equal(array, expected)


ZEROS = torch.where(T > 0, T, 0)
SPARSE_TENSORS = {
    "coo": lambda T: T.to_sparse(),
    "csr": lambda T: T.to_sparse_csr(),
    "csc": lambda T: T.to_sparse_csc(),
    "bsr": lambda T: T.to_sparse_bsr((5, 2)),
    "bsc": lambda T: T.to_sparse_bsc((5, 2)),
    "requires grad": lambda T: T.clone().requires_grad_().to_sparse(),
    "float32": lambda T: T.float().to_sparse(),
    "bfloat16": lambda T: T.bfloat16().to_sparse_csr(),
    "integers": lambda T: T.long().to_sparse(),
}


@pytest.mark.filterwarnings("ignore:Sparse (CSR|CSC|BSR|BSC) tensor support is in beta:UserWarning")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning")
@pytest.mark.parametrize("name", SPARSE_TENSORS)
def test_sparse_tensors_become_csr_arrays(name):
    tensor = SPARSE_TENSORS[name](ZEROS)
    array = to_numpy(tensor)
    assert isinstance(array, sp.csr_array)
    dense = tensor.to_dense().detach()
    np.testing.assert_array_equal(array.toarray(), dense.float() if dense.dtype == torch.bfloat16 else dense)


def test_duplicates_of_a_sparse_tensor_are_summed():
    tensor = torch.sparse_coo_tensor([[0, 0, 1], [1, 1, 0]], [1.0, 2.0, 4.0], (3, 2))
    np.testing.assert_array_equal(to_numpy(tensor).toarray(), [[0, 3], [4, 0], [0, 0]])


WITHOUT_ARRAY = {
    "meta": (lambda: T.to("meta"), "on the device 'meta'"),
    "mkldnn": (lambda: T.float().to_mkldnn(), "torch._mkldnn"),
    "ragged": (lambda: torch.nested.nested_tensor([T, T[:3]], layout=torch.jagged), "torch.jagged"),
}


@pytest.mark.parametrize("name", WITHOUT_ARRAY)
def test_tensors_that_numpy_has_no_array_for_are_named(name):
    make, kind = WITHOUT_ARRAY[name]
    with pytest.raises(TypeError, match=rf"^y_val is a tensor of .*{kind}.* cannot become an array\. Pass a dense one"):
        to_numpy(make(), "y_val")
