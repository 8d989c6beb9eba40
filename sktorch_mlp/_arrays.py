"""The border between numpy and PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_numpy(values: Any) -> Any:
    """A tensor of any device as an array; anything else as it is."""
    if not isinstance(values, Tensor):
        return values
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def as_tensor(array: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """A tensor over the array's memory where device and strides allow, else over a copy.

    Nobody may write to the tensor of a read-only array: that memory can be a file.
    """
    if any(stride < 0 for stride in array.strides):  # PyTorch has none
        array = array.copy()
    if not array.flags.writeable:
        array = np.asarray(_Writeable(array))  # from_numpy would warn
    return torch.from_numpy(array).to(device)


class _Writeable:
    """The same memory without its read-only flag."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}
