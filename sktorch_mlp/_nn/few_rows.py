"""The outputs of one network for few rows on a CPU, where calls take longer than what they compute."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from .activations import ActivationLike
from .losses import OUTPUT_ACTIVATIONS
from .matmul import ONE_BLAS_THREAD, ONE_BLAS_THREAD_FOR_VECTORS
from .network import hidden_functions
from .onednn import RowsOfPredictions, multiplies_prediction
from .products import bind_shared, mm
from .tensors import NotFiniteError, as_tensor, without_gradients
from .threads import allowed_threads, worthwhile_threads

#: Rows that are few, at most; and in a block of many, where calls matter less than products, which take up to 1.4 times as long.
FEW_ROWS, FEW_ROWS_OF_A_BLOCK = 1536, 512

#: Parts of one row, at most. With fewer numpy's BLAS is quicker: kernels that are 512 bits wide, as PyTorch's has for one row, slow
#: down the clock of the core for a millisecond.
_MOST_PARTS = 16

#: Layouts of rows for which the product on several threads is kept.
_N_LAYOUTS = 64

#: Rows from which a product and the intercept are one call, which takes longer than two for fewer. Of so many rows the sums of
#: narrow layers, up to 16 units, are quicker with rows next to each other in memory: with ten units up to three times.
_ADDED_AT_ONCE, _NARROW = 128, 16

#: Multiply-adds that are worth a thread. Those of PyTorch wait for the next product since the last one.
_OPERATIONS_PER_THREAD = 800_000

#: What stands between two calls: that which the one before has made, since to turn one into the other takes as long as a small call.
_Units = np.ndarray | Tensor

#: Units of a layer up to which numpy's ReLU is quicker.
_FEW_UNITS = 4_000


def _array(units: _Units) -> np.ndarray:
    return units if isinstance(units, np.ndarray) else units.numpy()


def _tensor(units: _Units) -> Tensor:
    return as_tensor(units) if isinstance(units, np.ndarray) else units


def _relu_(units: _Units) -> _Units:
    if isinstance(units, Tensor):
        return torch.relu_(units)
    if units.size <= _FEW_UNITS:
        np.maximum(units, 0, out=units)
    else:
        torch.relu_(torch.from_numpy(units))
    return units


def _tanh_(units: _Units) -> _Units:
    array = _array(units)
    np.tanh(array, out=array)
    return units


def _softmax(logits: _Units) -> np.ndarray:
    """Softmax of each row, with rows next to each other in memory: sums over few outputs are quicker so."""
    columns = _array(logits).T.copy()
    columns -= np.maximum.reduce(columns)
    np.exp(columns, out=columns)
    columns /= np.add.reduce(columns)
    result: np.ndarray = columns.T.copy()
    return result


#: Activations of hidden units and of outputs whose calls are quicker in numpy, or are none.
_FUNCTIONS: dict[ActivationLike, Callable[[_Units], _Units]] = {
    "identity": lambda units: units,
    "relu": _relu_,
    "tanh": _tanh_,
    "softmax": _softmax,
}


class _Affine:
    """Sums of a layer, in new memory: by numpy where its BLAS has one thread, or has it for parts of one row.

    Parameters
    ----------
    coef : Tensor of shape (n_in, n_out)
    intercept : Tensor of shape (n_out,)
    """

    def __init__(self, coef: Tensor, intercept: Tensor) -> None:
        n_in, n_out = coef.shape
        self._coef, self._intercept = coef.numpy(), intercept.numpy()
        self._numpy_rows = _numpy_rows(n_out, n_in)
        self._parts = None if 1 in self._numpy_rows else _parts_of_one_row(coef)
        self._bind = lru_cache(maxsize=_N_LAYOUTS)(partial(_bind, coef, intercept.unsqueeze(0)))

    def __call__(self, units: _Units, n_rows: int, n_threads: int) -> _Units:
        """The sums of so many rows, of which large products have so many threads."""
        if n_rows in self._numpy_rows:
            sums: np.ndarray = np.dot(_array(units), self._coef)
        elif n_rows == 1 and self._parts is not None:
            sums = np.matmul(_array(units).reshape(len(self._parts), 1, -1), self._parts).sum(0)
        else:
            tensor = _tensor(units)
            result = self._bind(n_rows, tensor.stride(), n_threads)(tensor)
            if n_rows >= _ADDED_AT_ONCE:
                return result
            sums = result.numpy()
        sums += self._intercept
        return sums


def _bind(
    coef: Tensor, row: Tensor, n_rows: int, strides: tuple[int, ...], n_threads: int
) -> Callable[[Tensor], Tensor]:
    """Return ``multiply(units)`` for units of so many rows and of these strides. It adds the intercept, a row, if they are many."""
    n_in, n_out = coef.shape
    n_threads = worthwhile_threads(n_rows * n_in * n_out * coef.itemsize // 4, n_threads, _OPERATIONS_PER_THREAD)
    if n_rows < _ADDED_AT_ONCE:
        return bind_shared(coef, n_rows, strides, n_threads)
    by_onednn = multiplies_prediction(n_rows, coef, n_rows)
    if n_out <= _NARROW and not by_onednn:
        return lambda units: mm(coef.mT.contiguous(), units.mT, row.mT).mT
    return bind_shared(coef, n_rows, strides, n_threads, row, by_onednn=by_onednn)


class FewRows:
    """Outputs of few rows, in new memory.

    Units stand next to each other in memory, as the features of X do: MKL needs half as long for five such rows as for
    five columns, and half of that or less where `coefs` are views of transposed ones in C order, as a fit leaves them. Calls
    are numpy's, which take a third of the time of PyTorch's, as long as its products have one thread.

    Parameters
    ----------
    coefs : sequence of Tensor of shape (n_out, n_in)
    intercepts : sequence of Tensor of shape (n_out,)
    activations : sequence of str or callable
        One for each hidden layer.
    out_activation : str
        A key of ``OUTPUT_ACTIVATIONS``.
    norms : sequence of sequence of Tensor, default=()
        The tensors of each normalization.
    """

    def __init__(
        self,
        coefs: Sequence[Tensor],
        intercepts: Sequence[Tensor],
        activations: Sequence[ActivationLike],
        out_activation: str,
        norms: Sequence[Sequence[Tensor]] = (),
    ) -> None:
        functions: list[Callable[[_Units], _Units]] = []
        for name, function in zip(activations, hidden_functions(activations, norms), strict=True):
            functions.append(partial(_call_transposed, function) if norms else _function(name, function))
        functions.append(_function(out_activation, OUTPUT_ACTIVATIONS[out_activation]))
        affines = [_Affine(coef.T, intercept) for coef, intercept in zip(coefs, intercepts, strict=True)]
        self._layers = list(zip(affines, functions, strict=True))
        self._parts = RowsOfPredictions(coefs)

    def __call__(self, X: np.ndarray, check: bool = False) -> np.ndarray:
        """Activated outputs of shape (n_rows, n_outputs), for X of the precision of the network; see `check_sums`.

        To be called without autocast, on one thread, and within `call_quietly`.
        """
        n_rows = len(X)
        if n_rows >= _ADDED_AT_ONCE and (n_first := self._parts.count_first(n_rows)) < n_rows:
            return np.concatenate([self._compute(part, check) for part in (X[:n_first], X[n_first:])])
        return self._compute(X, check)

    def _compute(self, X: np.ndarray, check: bool) -> np.ndarray:
        n_rows, n_threads = len(X), allowed_threads()
        units: _Units = X
        for affine, activate in self._layers:
            units = affine(units, n_rows, n_threads)
            if check:
                check_sums(_array(units)[:, 0])
                check = False
            units = activate(units)
        return np.ascontiguousarray(_array(units))


def check_sums(sums: np.ndarray) -> None:
    """Raise an error if the sums of a unit of the first layer are not finite, as those of rows are that are not.

    NaN or infinity times any weight, and plus anything, is one of the two. There is one sum for each row, where X has all features.
    """
    if not math.isfinite(sums.sum()):
        raise NotFiniteError("X, or a sum of the first layer, is not finite.")


def _numpy_rows(n_out: int, n_in: int) -> range:
    """Numbers of rows with which the BLAS of numpy has one thread."""
    of_matrices = ONE_BLAS_THREAD if n_out > 1 else ONE_BLAS_THREAD_FOR_VECTORS
    first = 1 if n_out * n_in <= ONE_BLAS_THREAD_FOR_VECTORS else 2
    return range(first, of_matrices // (n_out * n_in) + 1)


def _parts_of_one_row(coef: Tensor) -> np.ndarray | None:
    """Coefficients (n_parts, n_in / n_parts, n_out) of parts that are small enough; None where a few equal ones are not."""
    n_in, n_out = coef.shape
    for n_parts in range(2, _MOST_PARTS + 1):
        if n_in % n_parts == 0 and n_in // n_parts * n_out <= ONE_BLAS_THREAD_FOR_VECTORS:
            parts: np.ndarray = coef.unflatten(0, (n_parts, -1)).numpy()
            return parts
    return None


def _function(name: ActivationLike, function: Callable[[Tensor], Tensor]) -> Callable[[_Units], _Units]:
    return _FUNCTIONS.get(name) or partial(_call, function)


@without_gradients
def _call(function: Callable[[Tensor], Tensor], units: _Units) -> Tensor:
    return function(_tensor(units)).resolve_neg()


@without_gradients
def _call_transposed(function: Callable[[Tensor], Tensor], units: _Units) -> Tensor:
    return function(_tensor(units).T).resolve_neg().T
