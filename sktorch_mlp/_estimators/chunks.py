"""Training data that come in chunks, as often as they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from sklearn import config_context, get_config
from sklearn.base import is_classifier
from torch.utils.data import DataLoader, Dataset

from sktorch_mlp._data.arrays import Chunk, ChunkedRows, DiskArray, is_disk_array
from sktorch_mlp._data.rows import Rows, cast
from sktorch_mlp._data.samples import Samples
from sktorch_mlp._nn.network import NetworkSpec
from sktorch_mlp._nn.tensors import as_tensor, torch_dtype

from .array_api import to_host
from .compat import BaseEstimator
from .inputs import Inputs, validate_training
from .targets import Targets, check_unbalanced

#: Samples of a dataset of PyTorch in a chunk.
_DATASET_CHUNK = 1024

_WHAT_IT_IS = (
    "Without y, X must be an iterable of chunks (X, y) or (X, y, sample_weight) that can be read several times, such as a "
    "DataLoader of PyTorch, a list, or an object whose __iter__ begins anew"
)


class Chunks:
    """Chunks of training data that have been read once, for what has to be known before training.

    Parameters
    ----------
    estimator : estimator
    source : iterable of (X, y) or (X, y, sample_weight), or torch.utils.data.Dataset
    dtype : numpy.dtype or None
        Precision to train in; None for that of the chunks.
    reset : bool
        Whether to learn the number and names of features, or to check them.

    Attributes
    ----------
    shape : (int, int)
        Rows and features of all chunks together.
    dtype : numpy.dtype
        That holds the X of all chunks.
    y : ndarray
        What stands for all y: each label once, or some rows of several targets or of numbers.
    has_weights : bool
        Whether some chunk has sample weights.

    Raises
    ------
    TypeError
        If the source can be read only once, or gives something else.
    ValueError
        If a chunk is invalid, or there is none.
    """

    def __init__(self, estimator: BaseEstimator, source: Any, dtype: np.dtype | None, *, reset: bool) -> None:
        self._estimator, self._precision = estimator, dtype
        self._config = get_config()  # a thread reads chunks later
        self._source = DataLoader(source, _DATASET_CHUNK) if isinstance(source, Dataset) else source
        if isinstance(source, Iterator):
            raise TypeError(f"X is an iterator, which can be read only once. {_WHAT_IT_IS}.")
        self._kind: tuple[Any, ...] | None = None
        n_rows, dtypes, has_weight, self.has_weights = 0, set[np.dtype](), False, False
        samples_of_y: list[np.ndarray] = []
        for X, y, sample_weight in self._validated(reset=reset):
            n_rows += len(X)
            dtypes.add(X.dtype)
            self.has_weights |= sample_weight is not None
            has_weight |= sample_weight is None or bool(np.any(sample_weight))
            if y.ndim == 1 and is_classifier(estimator):
                samples_of_y = [np.unique(np.concatenate([*samples_of_y, y]))]
            elif not samples_of_y:
                samples_of_y = [y]
            n_features = X.shape[1]
        if not samples_of_y:
            raise ValueError(f"X has no chunks. {_WHAT_IT_IS}.")
        if not has_weight:
            raise ValueError("Sample weights must contain at least one non-zero number.")
        self.shape, self.dtype, self.y = (n_rows, n_features), np.result_type(*dtypes), samples_of_y[0]

    def as_inputs(self) -> Inputs:
        """Itself, with what stands for y and weights."""
        return Inputs(self, self.y, np.ones(len(self.y)) if self.has_weights else None)

    def make_samples(self, targets: Targets, spec: NetworkSpec) -> Samples:
        """Samples whose targets and weights come with their rows."""
        dtype = np.dtype(np.float32 if spec.dtype == torch.float32 else np.float64)
        row_dtype = dtype if self.dtype.itemsize > dtype.itemsize else self.dtype

        def chunks() -> Iterator[Chunk]:
            for X, y, sample_weight in self._validated(reset=False):
                targets.check_known(y)
                if not np.can_cast(X.dtype, self.dtype) or (sample_weight is not None and not self.has_weights):
                    raise ValueError(
                        "The chunks of X have another dtype than the first time, or sample weights that they had not. An "
                        "iterable of chunks must give the same each time."
                    )
                if self.has_weights and sample_weight is None:
                    sample_weight = np.ones(len(X))
                weights = targets.row_weights(y, sample_weight)
                X = cast(as_tensor(X.astype(self.dtype, copy=False)), torch_dtype(row_dtype)).numpy()
                yield Chunk(X, targets.encode(y, dtype), weights)

        rows = ChunkedRows(chunks, self.shape, row_dtype)
        weights = targets.row_weights(self.y, self.as_inputs().sample_weight)
        return Samples(
            rows=Rows.from_array(rows, spec.device, dtype, bfloat16=spec.bfloat16),
            targets=as_tensor(targets.encode(self.y, dtype), spec.device),  # of their kind, as the weights are
            weights=None if weights is None else torch.zeros(1, dtype=spec.dtype, device=spec.device),  # may be zero
            indices=[np.broadcast_to(np.int64(0), self.shape[0])],  # as many, in no memory
        )

    def _check_kind(self, chunk: Inputs) -> None:
        """Raise if y is not of one kind with that of the first chunk: its columns, and whether it has texts."""
        y = chunk.y
        kind = y.shape[1:], "text" if y.dtype.kind in "OUS" else "numbers"
        self._kind = self._kind or kind
        if kind != self._kind:
            found, first = (
                f"{what} of shape {('n_samples', *shape)}".replace("'", "") for shape, what in (kind, self._kind)
            )
            raise ValueError(f"y has {found}, but that of the first chunk has {first}.")

    def _validated(self, *, reset: bool) -> Iterator[Inputs]:
        for i, chunk in enumerate(self._source):
            if not isinstance(chunk, tuple | list) or len(chunk) not in (2, 3):
                raise TypeError(f"Chunk {i} of X is {_describe(chunk)}. {_WHAT_IT_IS}.")
            if np.shape(chunk[0])[:1] == (0,):  # as partitions may be
                continue
            try:
                with config_context(**self._config):
                    X = np.asarray(chunk[0][:]) if is_disk_array(chunk[0]) else to_host(chunk[0], "X")
                    inputs = Inputs(X, *chunk[1:])
                    validated = validate_training(self._estimator, inputs, self._precision, reset=reset, is_part=True)
                self._check_kind(validated)
            except ValueError as error:
                raise ValueError(f"Chunk {i} of X: {error}") from error
            if sp.issparse(validated.X):
                raise TypeError(f"Chunk {i} of X is {_describe(chunk[0])}, but must be a dense array.")
            reset = False
            yield validated


def is_chunked(inputs: Inputs) -> bool:
    """Whether X stands for chunks, which have y in them."""
    X, y, _ = inputs
    if y is not None or isinstance(X, str | bytes | dict):
        return False
    if isinstance(X, Dataset):
        return True
    is_array = any(hasattr(X, name) for name in ("shape", "__array__", "__dataframe__", "columns"))
    if is_array or not isinstance(X, Iterable):
        return False
    # A list may also be an X whose y has been forgotten.
    return not isinstance(X, list | tuple) or (len(X) > 0 and _has_arrays(X[0]))


def _has_arrays(chunk: Any) -> bool:
    """Whether this is no row of numbers, but a chunk or meant to be one."""
    if not isinstance(chunk, tuple | list):
        return isinstance(chunk, dict)
    return len(chunk) > 0 and (np.ndim(chunk[0]) == 2 or bool(getattr(chunk[0], "shape", ())))


def _describe(value: Any) -> str:
    length = f" of length {len(value)}" if isinstance(value, tuple | list) else ""
    return f"a {type(value).__name__}{length}"


def check_streamable(estimator: Any, given: Inputs, X: Any, validation: Inputs) -> None:
    """Raise if a fit needs all rows at once, but X is not in memory.

    Parameters
    ----------
    estimator : estimator
    given, validation : Inputs
        As the user has passed them.
    X : object
        Validated.

    Raises
    ------
    ValueError
    """
    if not isinstance(X, Chunks | DiskArray):
        return
    what = "X in chunks" if isinstance(X, Chunks) else "X on disk"
    if estimator.solver == "lbfgs":
        raise ValueError(
            f"solver='lbfgs' needs all rows at once, but got {what}. Use a stochastic solver, such as 'adam'."
        )
    if estimator.callbacks:
        raise ValueError(
            f"Callbacks of skorch get all rows, but got {what}. Use callbacks of scikit-learn, set with set_callbacks."
        )
    if not isinstance(X, Chunks):
        return
    if given.sample_weight is not None:
        raise ValueError(f"sample_weight cannot be used with {what}. Let the chunks be (X, y, sample_weight).")
    if estimator.early_stopping and validation.X is None:
        raise ValueError(f"early_stopping=True holds out no rows of {what}. Pass X_val and y_val.")
    if is_classifier(estimator):
        check_unbalanced(estimator.class_weight, what)
