"""Arrays of other libraries under scikit-learn's array API dispatch: tensors within, the library and device of X without."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import wraps
from typing import Any, Self, TypeVar

import numpy as np
import torch
from sklearn import get_config
from torch import Tensor

from sktorch_mlp._data.arrays import is_disk_array
from sktorch_mlp._nn.tensors import ROW_DTYPES, as_tensor, most_precise_dtype, to_device, to_numpy

from .compat import BaseEstimator, check_same_namespace, get_namespace_and_device, move_to

Predict = TypeVar("Predict", bound=Callable[..., Any])

#: Dtypes of X that it keeps.
_KEPT = {as_tensor(np.empty(0, dtype)).dtype for dtype in ROW_DTYPES}


def is_dispatching() -> bool:
    """Whether scikit-learn dispatches by the library of arrays."""
    return bool(get_config()["array_api_dispatch"])


def is_foreign(values: Any) -> bool:
    """Whether values are an array of another library than numpy."""
    return not isinstance(values, np.ndarray) and (isinstance(values, Tensor) or hasattr(values, "__array_namespace__"))


def to_host(values: Any, name: str) -> Any:
    """Turn a tensor into an array, and with dispatch an array of any library; anything else stays as it is.

    Parameters
    ----------
    values : object
    name : str
        What they are, for the message.
    """
    if isinstance(values, Tensor) or not (is_foreign(values) and is_dispatching()):
        return to_numpy(values, name)
    return move_to(values, xp=np, device="cpu")


def to_array_or_tensor(X: Any) -> Any:
    """Turn X into an array; with dispatch arrays of other libraries become tensors, where they are if PyTorch can be there."""
    if not (is_foreign(X) and is_dispatching()):
        return to_numpy(X, "X")
    if not isinstance(X, Tensor):
        X = _tensor_of(X)
    if X.layout != torch.strided or X.is_complex() or X.is_neg() or X.is_meta:
        return to_numpy(X, "X")
    X = X.detach()
    if X.is_inference():  # could not be trained on
        X = X.clone()
    if X.dtype in _KEPT:
        return X
    return X.to(torch.float32 if X.is_floating_point() else most_precise_dtype(X.device))


def _tensor_of(array: Any) -> Tensor:
    """A tensor over the memory of an array, or over a copy on the host."""
    try:
        return torch.utils.dlpack.from_dlpack(array)
    except (BufferError, RuntimeError, TypeError, ValueError):
        return as_tensor(move_to(array, xp=np, device="cpu"))


def for_metric(values: Any, name: str) -> Any:
    """Targets or weights of a score. With dispatch those on a device stay there: metrics move them to the predictions."""
    return values if is_foreign(values) and is_dispatching() else to_numpy(values, name)


def library_of(outputs: Any) -> Any:
    """The module of functions for outputs: torch or numpy, as far as these have the same names."""
    return torch if isinstance(outputs, Tensor) else np


def take_labels(classes: np.ndarray, indices: Any) -> Any:
    """Labels of indices, on their device if it can hold such labels: it can hold no strings, for example."""
    if not isinstance(indices, Tensor):
        return classes[indices]
    try:
        return to_device(as_tensor(classes), indices.device)[indices]
    except (TypeError, ValueError, NotImplementedError):
        return classes[indices.cpu().numpy()]


class InputNamespace:
    """Library and device of the X of a fit with dispatch. Not pickled: a model opened elsewhere takes arrays of any library.

    Parameters
    ----------
    array : array, default=None
        Any array of this library on this device; None for any library.
    """

    def __init__(self, array: Any = None) -> None:
        self.array = array

    @classmethod
    def of(cls, X: Any) -> InputNamespace:
        """That of an X; an array on disk is of none."""
        if not is_dispatching() or is_disk_array(X):
            return cls()
        xp, _, device = get_namespace_and_device(X)
        return cls(xp.empty(0, device=device))


class ArrayApiMixin(BaseEstimator):
    """Estimators that predict in the library and on the device of X."""

    _input_namespace = InputNamespace()

    @property
    def _input_array(self) -> Any:
        return self._input_namespace.array

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_input_namespace"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._input_namespace = InputNamespace()

    def __sklearn_array_api_convert__(self, convert: Callable[[Any], Any]) -> Self:
        """Copy the estimator for X of another library or device, as `move_estimator_to` of scikit-learn does.

        Only what it takes has changed. Its arrays are always those of numpy.
        """
        moved = copy.deepcopy(self)
        moved._input_namespace = InputNamespace(convert(np.empty(0)))
        return moved

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        return tags


def follows_input(method: Predict) -> Predict:
    """Have a method of predictions answer in the library and on the device of X, where scikit-learn dispatches by these.

    With dispatch X has to be of the library and device of the fit, if that had dispatch as well.
    """

    @wraps(method)
    def predict(self: Any, X: Any) -> Any:
        # A prediction of one row notices the question whether there is dispatch.
        if (type(X) is np.ndarray and self._input_array is None) or not is_dispatching() or is_disk_array(X):
            return method(self, X)
        if self._input_array is not None:
            check_same_namespace(X, self, attribute="_input_array", method=method.__name__)
        predicted = method(self, X)
        return _follow(predicted, X) if is_foreign(X) else predicted

    return predict  # type: ignore[return-value]


def _follow(predicted: Any, X: Any) -> Any:
    """Predictions in the library and on the device of X; texts stay arrays of numpy, as no other library has them."""
    if isinstance(predicted, np.ndarray):
        if predicted.dtype.kind not in "fiub":
            return predicted
        predicted = predicted.astype(predicted.dtype.newbyteorder("="), copy=False)
    if isinstance(X, Tensor):
        return to_device(predicted if isinstance(predicted, Tensor) else as_tensor(predicted), X.device)
    xp, _, device = get_namespace_and_device(X)
    return move_to(predicted, xp=xp, device=device)
