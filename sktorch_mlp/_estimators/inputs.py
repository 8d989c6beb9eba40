"""Input of the estimators: checks, and samples to train on and to validate with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.base import is_classifier
from sklearn.model_selection import train_test_split
from sklearn.utils import assert_all_finite, check_consistent_length, column_or_1d
from sklearn.utils.validation import check_non_negative, validate_data

from sktorch_mlp._data.arrays import DiskArray, is_disk_array, memory_map
from sktorch_mlp._data.rows import Rows
from sktorch_mlp._data.samples import Samples, TrainingData
from sktorch_mlp._data.transfer import MOST_THREADS
from sktorch_mlp._nn.matmul import ONE_BLAS_THREAD_FOR_VECTORS
from sktorch_mlp._nn.network import NetworkSpec
from sktorch_mlp._nn.tensors import PRECISIONS, ROW_DTYPES, as_tensor
from sktorch_mlp._nn.threads import call_on, threads_for_large_calls
from sktorch_mlp._training.threads import available_threads

from .array_api import to_array_or_tensor, to_host
from .compat import BaseEstimator, check_sample_weight, check_y, safe_indexing
from .targets import Targets

#: Numbers of X from which a GPU, or several threads beside it, find out sooner whether they are finite.
MANY_NUMBERS = 2**20


class Inputs(NamedTuple):
    """X, y and sample weights, as the user passes them or validated."""

    X: Any = None
    y: Any = None
    sample_weight: Any = None


def check_validation_arguments(validation: Inputs, *, solver: object, needs_validation: bool) -> None:
    """Raise if validation data are incomplete, would not be used, or are missing where they are needed.

    Raises
    ------
    ValueError
    """
    X_val, y_val, sample_weight_val = validation
    if (X_val is None) != (y_val is None):
        given, missing = ("X_val", "y_val") if y_val is None else ("y_val", "X_val")
        raise ValueError(f"{given} is provided, but {missing} was not provided.")
    if X_val is None and sample_weight_val is not None:
        raise ValueError("sample_weight_val is provided, but X_val and y_val were not provided.")
    if X_val is not None and solver == "lbfgs":
        raise ValueError("X_val and y_val are not used by solver='lbfgs'. Use a stochastic solver, such as 'adam'.")
    if X_val is None and needs_validation:
        raise ValueError(
            "partial_fit does not support early_stopping=True\nwithout validation data. Pass X_val and y_val."
        )


def validate_training(
    estimator: BaseEstimator,
    inputs: Inputs,
    dtype: np.dtype | None,
    *,
    reset: bool,
    is_part: bool = False,
    n_threads: int = 1,
) -> Inputs:
    """Validate the input of a fit, as scikit-learn's MLP does.

    X keeps a dtype of real numbers, and is cast batch by batch; any other is converted here. An array on disk stays there.

    Parameters
    ----------
    estimator : estimator
    inputs : Inputs
    dtype : numpy.dtype or None
        Precision to train in; None for that of X.
    reset : bool
        Whether to learn the number and names of features, or to check them.
    is_part : bool, default=False
        Whether other parts of the training data may have the weights that these lack.
    n_threads : int, default=1
        Threads that may look whether X is finite.
    """
    X, y = memory_map(inputs.X), to_host(inputs.y, "y")
    if is_disk_array(X):
        X, y = _validate_disk_array(estimator, X, reset=reset), _validate_y(estimator, y)
        check_consistent_length(X, y)
    else:
        given = to_array_or_tensor(X)
        # The first one is what other dtypes become.
        dtypes: list[Any] = [np.float32 if dtype == np.float32 else np.float64, *ROW_DTYPES]
        if isinstance(given, torch.Tensor):
            dtypes = [as_tensor(np.empty(0, each)).dtype for each in dtypes]
        with _columns_named_in_errors(inputs.X):
            X, y = validate_data(
                estimator,
                given,
                y,
                accept_sparse=["csr", "csc"],
                multi_output=True,
                y_numeric=not is_classifier(estimator),
                dtype=dtypes,
                ensure_all_finite=not _is_finite_by_threads(given, n_threads),
                reset=reset,
            )
    if y.ndim == 2 and y.shape[1] == 1:
        y = column_or_1d(y, warn=True)
    sample_weight = inputs.sample_weight
    if sample_weight is not None:
        sample_weight = check_sample_weight(to_host(sample_weight, "sample_weight"), y, allow_all_zero_weights=is_part)
    return Inputs(X, y, sample_weight)


def _check_not_empty(estimator: BaseEstimator, shape: tuple[int, int]) -> None:
    for size, what in zip(shape, ("sample", "feature"), strict=True):
        if size == 0:
            raise ValueError(
                f"Found array with 0 {what}(s) (shape={shape}) while a minimum of 1 is required by "
                f"{type(estimator).__name__}."
            )


def _validate_disk_array(estimator: BaseEstimator, X: Any, *, reset: bool) -> DiskArray:
    array = DiskArray(X)
    _check_not_empty(estimator, array.shape)
    validate_data(estimator, array, skip_check_array=True, reset=reset)
    return array


def _validate_y(estimator: BaseEstimator, y: Any) -> np.ndarray:
    if y is None:
        raise ValueError(f"This {type(estimator).__name__} requires y to be passed, but the target y is None.")
    validated: np.ndarray = check_y(y, multi_output=True, y_numeric=not is_classifier(estimator))
    return validated


def validate_table(estimator: BaseEstimator, X: Any, *, reset: bool) -> Any:
    """Validate a table, which stays a frame if it is one.

    Parameters
    ----------
    estimator : estimator
    X : frame, array-like, sparse matrix or Tensor
    reset : bool
        Whether to learn the number and names of features, or to check them.
    """
    X = to_host(X, "X")
    _check_collected(X)
    if hasattr(X, "columns"):
        validate_data(estimator, X, skip_check_array=True, reset=reset)
        _check_not_empty(estimator, X.shape)
        return X
    if isinstance(X, list | tuple) and np.asarray(X).dtype.kind in "UT":  # which would make text of its numbers
        X = np.array(X, dtype=object)
    return validate_data(
        estimator,
        X,
        accept_sparse=["csr", "csc"],
        dtype=(np.float64, np.float32) if sp.issparse(X) else None,
        ensure_all_finite=True if sp.issparse(X) else "allow-nan",
        reset=reset,
    )


def _check_collected(X: Any) -> None:
    if hasattr(X, "collect") and not hasattr(X, "shape"):
        raise TypeError(
            f"X is a {type(X).__name__}, whose rows are not in memory. Pass a frame: X.collect() in polars."
        )


def validate_table_training(estimator: BaseEstimator, inputs: Inputs, *, reset: bool) -> Inputs:
    """Validate a table with y and weights."""
    X = validate_table(estimator, inputs.X, reset=reset)
    if sp.issparse(inputs.y):
        raise TypeError("Sparse y was passed, but dense labels are required. Use y.toarray().")
    y = _validate_y(estimator, to_host(inputs.y, "y"))
    check_consistent_length(X, y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = column_or_1d(y, warn=True)
    sample_weight = inputs.sample_weight
    if sample_weight is not None:
        sample_weight = check_sample_weight(
            to_host(sample_weight, "sample_weight"), np.empty((len(y), 0)), ensure_non_negative=True
        )
    return Inputs(X, y, sample_weight)


def select_rows(inputs: Inputs, takes_part: np.ndarray) -> Inputs:
    """Some rows of validated input, by a mask; the same object if these are all."""
    if takes_part.all():
        return inputs
    X, y, sample_weight = inputs
    sample_weight = None if sample_weight is None else sample_weight[takes_part]
    return Inputs(safe_indexing(X, np.flatnonzero(takes_part)), y[takes_part], sample_weight)


def has_weight(weights: np.ndarray | None, n_rows: int) -> np.ndarray:
    """Mask of the rows with a weight that float32 can tell from zero beside the largest one.

    Raises
    ------
    ValueError
        If there is none.
    """
    if weights is None:
        return np.ones(n_rows, dtype=bool)
    mask: np.ndarray = weights > weights.max() * np.finfo(np.float32).tiny
    if not mask.any():
        raise ValueError("Sample weights must contain at least one non-zero number, those of classes counted in.")
    return mask


@contextmanager
def _columns_named_in_errors(X: Any) -> Iterator[None]:
    """Name the columns of a frame that are not numbers, where numpy says only that it cannot convert something.

    A frame whose rows are not in memory is refused before.
    """
    _check_collected(X)
    try:
        yield
    except (ValueError, TypeError) as error:
        columns = [name for name in _column_names(X) if not _is_numeric(X[name])]
        if not columns:
            raise
        remedy = (
            f"X has columns that are not numbers: {columns}. Encode or drop them; a datetime, for example, can become "
            "its year, month and day, or seconds since a date."
        )
        if isinstance(error, ValueError):  # in the words of scikit-learn
            raise ValueError(f"{error}\n{remedy}") from error
        raise TypeError(remedy) from error


def _column_names(X: Any) -> Sequence[Any]:
    """Names of the columns of a frame, by which it gives them; those of pyarrow have an attribute of their own."""
    names: Sequence[Any] = getattr(X, "column_names", getattr(X, "columns", ()))
    return names


def _is_numeric(column: Any) -> bool:
    kind = getattr(getattr(column, "dtype", None), "kind", None)
    if kind is None:  # not of pandas
        kind = np.asarray(column).dtype.kind
    if kind == "O":  # of objects that may be numbers, as text may
        try:
            np.asarray(column).astype(float)
        except (TypeError, ValueError):
            return False
    return kind in "fiubO"


def validate_validation(
    estimator: BaseEstimator, inputs: Inputs, training: Inputs | None, dtype: np.dtype, targets: Targets
) -> Inputs:
    """Validate validation data; errors say that they are about these. Without all training data they are not compared."""
    if inputs.X is None:
        return inputs
    with validation_named_in_errors():
        inputs = validate_training(estimator, inputs, dtype, reset=False)
        if inputs.sample_weight is not None:  # a score of negative weights may be infinite
            check_non_negative(inputs.sample_weight, "`sample_weight_val`")
        if isinstance(inputs.X, DiskArray):  # which is read later
            inputs.X.name = "X_val"
    targets.check_validation(inputs.y, None if training is None else training.y)
    return inputs


@contextmanager
def validation_named_in_errors() -> Iterator[None]:
    """Say in errors that they are about validation data."""
    try:
        yield
    except (ValueError, TypeError) as error:
        class_ = ValueError if isinstance(error, ValueError) else TypeError
        raise class_(f"X_val, y_val or sample_weight_val: {error}") from error


def validate_prediction(
    estimator: BaseEstimator, X: Any, place: Callable[[np.ndarray], np.ndarray | Rows] | None = None
) -> Any:
    """Validate the input of a prediction; `place` may bring it to where it is found to be finite, and predicted."""
    values = X
    if type(X) is not np.ndarray:  # which is nothing of these; a prediction of few rows notices the questions
        X = memory_map(X)
        if is_disk_array(X):
            return _validate_disk_array(estimator, X, reset=False)
        values = to_array_or_tensor(X)
    if _has_valid_form(estimator, values):
        placed = values if place is None else place(values)
        if _is_finite(placed):
            return placed
    with _columns_named_in_errors(X):
        values = validate_data(estimator, values, accept_sparse=["csr", "csc"], reset=False)
        if isinstance(values, torch.Tensor) or values.dtype.kind in "fiub":
            return values
        if values.dtype.kind in "mM":
            raise TypeError(f"X has the dtype {values.dtype}. Pass numbers, seconds since a date for example.")
        values = values.astype(np.float64)  # some frames and lists remain objects, of which not all are looked at
        assert_all_finite(values, estimator_name=type(estimator).__name__, input_name="X")
        return values


def _has_valid_form(estimator: BaseEstimator, X: Any) -> bool:
    """Whether `validate_data`, which takes most of the time of a prediction of one row, would return a finite X as it is."""
    return (
        type(X) is np.ndarray
        and X.dtype in PRECISIONS
        and X.ndim == 2
        and len(X) > 0
        and X.shape[1] == getattr(estimator, "n_features_in_", None)
        and not hasattr(estimator, "feature_names_in_")
    )


def is_valid_if_finite(estimator: BaseEstimator, X: Any) -> bool:
    """Whether a prediction may find out by itself that X is finite, in a fraction of the time that it takes to look at all of it."""
    return type(X) is np.ndarray and X.size > ONE_BLAS_THREAD_FOR_VECTORS and _has_valid_form(estimator, X)


def _is_finite(X: np.ndarray | Rows) -> bool:
    """Whether X is finite; false also where a sum overflows."""
    if isinstance(X, Rows):
        assert isinstance(X.X, torch.Tensor)
        return math.isfinite(X.X.sum())
    if X.size <= ONE_BLAS_THREAD_FOR_VECTORS:
        return math.isfinite(np.vdot(X, X))  # which does not warn of overflow
    return math.isfinite(as_tensor(X).sum())


def _is_finite_by_threads(X: Any, n_threads: int) -> bool:
    """Whether several threads have found X finite, in a fraction of the time that scikit-learn takes."""
    if n_threads == 1 or type(X) is not np.ndarray or X.dtype not in PRECISIONS or X.size < MANY_NUMBERS:
        return False
    return math.isfinite(call_on(min(MOST_THREADS, n_threads), as_tensor(X).sum))


def make_samples(inputs: Inputs, targets: Targets, spec: NetworkSpec) -> Samples:
    """Place validated input on the device of a network."""
    dtype = np.dtype(np.float32 if spec.dtype == torch.float32 else np.float64)
    weights = targets.row_weights(inputs.y, inputs.sample_weight)
    with threads_for_large_calls(available_threads()):
        rows = Rows.from_array(inputs.X, spec.device, dtype, bfloat16=spec.bfloat16)
    return Samples(
        rows=rows,
        targets=as_tensor(targets.encode(inputs.y, dtype), spec.device),
        weights=None if weights is None else as_tensor(_cast_weights(weights, dtype, spec.device), spec.device),
        indices=[np.arange(inputs.X.shape[0])],
    )


def _cast_weights(weights: np.ndarray, dtype: np.dtype, device: torch.device) -> np.ndarray:
    """Cast weights to the precision of training; on the CPU those of float32 stay, as scikit-learn sums them so."""
    return weights if weights.dtype == np.float32 and device.type == "cpu" else weights.astype(dtype, copy=False)


def hold_out(
    samples: Samples, validation_fraction: float, random_state: np.random.RandomState, *, stratify: bool
) -> TrainingData:
    """Hold out validation rows, as scikit-learn does.

    Raises
    ------
    ValueError
        If they are too few, or have no weight.
    """
    train_rows, validation_rows = train_test_split(
        samples.indices[0],
        random_state=random_state,
        test_size=validation_fraction,
        stratify=(samples.targets.cpu().numpy() > 0.5).T if stratify else None,
    )
    if len(validation_rows) < 2:
        raise ValueError("The validation set is too small. Increase 'validation_fraction' or the size of your dataset.")
    if samples.weights is not None and not samples.weights[as_tensor(validation_rows, samples.rows.device)].any():
        raise ValueError(
            "Sample weights must contain at least one non-zero number. Those of the validation rows are all zero: "
            "leave out rows of weight zero, or increase validation_fraction."
        )
    return TrainingData(replace(samples, indices=[train_rows]), replace(samples, indices=[validation_rows]))
