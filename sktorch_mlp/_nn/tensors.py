"""Tensors of a stack, state dicts of a stack, and the boundary between numpy and PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from .compat import set_grad_enabled

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: What `state_dict` gives: tensors and lists whose first axis is that of the networks, and dicts of these.
StateDict = dict[str, Any]


def squeeze_stack(tensor: Tensor) -> Tensor:
    """Drop the network axis of a stack of one, so that 2-D calls can be used: a batched product takes 3 µs more."""
    return tensor[0] if tensor.shape[0] == 1 else tensor


def most_precise_dtype(device: torch.device) -> torch.dtype:
    """Float64, or float32 on a device without it."""
    return torch.float32 if device.type == "mps" else torch.float64


def torch_dtype(dtype: np.dtype | type) -> torch.dtype:
    """Float32 for numpy's float32, else float64."""
    return torch.float32 if dtype == np.float32 else torch.float64


class NotFiniteError(ValueError):
    """X, or what has been computed from it, is not finite. It has a class of its own, as handlers of signals raise any other."""


#: For a ``with`` in which nothing is to be done.
_NO_CONTEXT = nullcontext()

#: Dtypes of the networks of numpy arrays.
PRECISIONS = {np.dtype(np.float32), np.dtype(np.float64)}

#: Dtypes that rows can have, since PyTorch can gather rows of them on all devices. Batches of them are cast.
ROW_DTYPES = (np.float32, np.float64, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_)


def precision_of(values: Any) -> np.dtype:
    """Float32 for an array or tensor of float32, else float64."""
    return np.dtype(np.float32 if values.dtype in (np.float32, torch.float32) else np.float64)


def numpy_dtype(values: Any) -> np.dtype:
    """Dtype of an array or of the array of a tensor."""
    if isinstance(values, Tensor):
        return torch.empty(0, dtype=values.dtype, device="cpu").numpy().dtype
    dtype: np.dtype = values.dtype
    return dtype


def select_networks(state: StateDict, networks: Sequence[int]) -> StateDict:
    """Copy the state of some networks of a stack."""
    return {name: _select(value, networks) for name, value in state.items()}


def _select(value: Any, networks: Sequence[int]) -> Any:
    if isinstance(value, dict):
        return select_networks(value, networks)
    if isinstance(value, Tensor):
        return value[networks[0] : networks[0] + 1].clone() if len(networks) == 1 else value[list(networks)]
    return None if value is None else [value[k] for k in networks]


def join_states(states: Sequence[StateDict]) -> StateDict:
    """Join the states of stacks into that of one stack, in the order given."""
    return {name: _join([state[name] for state in states]) for name in states[0]}


def _join(values: Sequence[Any]) -> Any:
    if isinstance(values[0], dict):
        return join_states(values)
    if isinstance(values[0], Tensor):
        return torch.cat(list(values))
    return None if values[0] is None else [item for value in values for item in value]


def to_numpy(values: Any, name: str = "A tensor") -> Any:
    """Turn a tensor of any device into an array, a sparse matrix into a CSR array; anything else stays as it is.

    Parameters
    ----------
    values : object
    name : str
        What they are, for the message.

    Raises
    ------
    TypeError
        If it is a tensor that numpy has no array for.
    """
    if not isinstance(values, Tensor):
        return values
    try:
        return _to_numpy(values.detach())
    except (RuntimeError, TypeError) as error:
        kind = f"{values.dtype} and {values.layout}, on the device {str(values.device)!r}"
        raise TypeError(
            f"{name} is a tensor of {kind}, which cannot become an array. Pass a dense one of float64."
        ) from error


def _to_numpy(values: Tensor) -> np.ndarray | sp.csr_array:
    values = values.cpu()
    if values.dtype.is_floating_point and values.dtype not in (torch.float16, torch.float32, torch.float64):
        values = values.float()  # numpy has no bfloat16
    if values.layout != torch.strided and values.ndim == 2:
        provoke_csr_beta_warning()
        is_blocked = values.layout in (torch.sparse_bsr, torch.sparse_bsc)
        rows = (values.to_sparse() if is_blocked else values).to_sparse_csr().detach()
        parts = (part.numpy() for part in (rows.values(), rows.col_indices(), rows.crow_indices()))
        return sp.csr_array(tuple(parts), shape=tuple(rows.shape))
    values = values if values.layout == torch.strided else values.to_dense()
    return values.resolve_conj().resolve_neg().numpy()


def has_strides_of_tensors(array: np.ndarray) -> bool:
    """Whether a tensor can have the strides of an array: none is negative, or divides a number."""
    itemsize = array.itemsize
    for stride in array.strides:  # noqa: SIM110 - a generator takes three times as long
        if stride < 0 or stride % itemsize:
            return False
    return True


def as_tensor(array: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """Make a tensor over the memory of an array where device and strides allow, else over a copy.

    Nobody may write to the tensor of a read-only array: its memory can be a file.
    """
    if not has_strides_of_tensors(array):
        array = array.copy()
    if not array.flags.writeable:
        array = np.asarray(_Writeable(array))  # from_numpy would warn
    tensor = torch.from_numpy(array)
    return tensor if device == "cpu" else tensor.to(device)  # few rows notice the latter


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Move values to a device; float64 becomes float32 where the device has no float64."""
    if values.dtype == torch.float64:
        values = values.to(most_precise_dtype(device))
    return values.to(device)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Compute in the precision of the tensors, also where the caller has autocast on."""
    if not torch.is_autocast_enabled(device.type):
        return _NO_CONTEXT
    autocast: AbstractContextManager[Any] = torch.autocast(device.type, enabled=False)
    return autocast


def without_gradients(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Record nothing for gradients in a function. Ctrl-C at the beginning of `no_grad.__exit__` would leave that so for good."""

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        is_enabled = torch.is_grad_enabled()
        try:
            set_grad_enabled(False)
            return function(*args, **kwargs)
        finally:
            set_grad_enabled(is_enabled)

    return call


def empty_for_others(like: Tensor, *shape: int) -> Tensor:
    """Memory that those who are in no inference mode may use as well."""
    if not torch.is_inference_mode_enabled():
        return like.new_empty(shape)
    with torch.inference_mode(False):
        return like.new_empty(shape)


class _Writeable:
    """The same memory without its read-only flag."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}


@cache
def provoke_csr_beta_warning() -> None:
    """Provoke PyTorch's once-a-process warning that CSR is in beta where users do not see it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        indptr, indices, data = (torch.tensor(part, device="cpu") for part in ([0, 0], [], []))
        torch.sparse_csr_tensor(indptr, indices.long(), data, (1, 1), device="cpu")
