"""Targets of a fit: labels or numbers in, training targets and losses out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from sklearn.utils.multiclass import unique_labels

from sktorch_mlp._nn.losses import (
    AbsoluteError,
    BinaryLogLoss,
    CallableLoss,
    HalfPoissonDeviance,
    HalfSquaredError,
    HuberLoss,
    LogLoss,
    Loss,
    OneClassLogLoss,
    QuantileLoss,
    SoftBinaryLogLoss,
    SoftLogLoss,
)

from .array_api import take_labels
from .messages import warn
from .plain import Converter

#: The name of a loss, or a function of predictions and targets.
LossLike = str | Callable[..., Any]

REGRESSION_LOSSES: dict[str, Callable[[int], Loss]] = {
    "squared_error": HalfSquaredError,
    "poisson": HalfPoissonDeviance,
    "absolute_error": AbsoluteError,
    "huber": HuberLoss,
}


class Targets(ABC):
    """What the targets of an estimator mean.

    Parameters
    ----------
    loss : str or callable
    """

    #: Whether the score that the loss comes with is the default score of the estimator.
    loss_has_default_score = True
    #: Whether held-out rows are stratified by target.
    stratifies = False

    def __init__(self, loss: LossLike) -> None:
        self.loss = loss

    @abstractmethod
    def encode(self, y: Any, dtype: np.dtype) -> np.ndarray:
        """Encode validated y as (n_targets, n_rows) training targets."""

    @abstractmethod
    def check_validation(self, y_val: Any, y: Any = None) -> None:
        """Raise if validation data have targets that the training data do not. y is None where it is only a part of them."""

    @abstractmethod
    def _default_loss(self) -> Loss:
        """Loss that `loss` names; for a function the one it takes the place of."""

    def make_loss(self, *, has_sample_weight: bool) -> Loss:
        """Make the loss of a fit, whose rows may have weights."""
        loss = self._default_loss()
        if not callable(self.loss):
            return loss
        if loss.out_activation == "logistic" and _is_cross_entropy(self.loss):
            raise ValueError(
                f"loss={getattr(self.loss, '__name__', self.loss)} is for the softmax outputs of three or more classes, "
                "but the outputs for binary and multilabel targets are logistic. Use "
                "torch.nn.functional.binary_cross_entropy_with_logits, or loss='log_loss'."
            )
        return CallableLoss(self.loss, loss, has_sample_weight=has_sample_weight)

    def check_known(self, y: Any) -> None:  # noqa: B027 - numbers are all known
        """Raise if validated y has labels that the targets do not know."""

    def has_row_weights(self, sample_weight: np.ndarray | None) -> bool:
        """Whether rows have weights in the loss."""
        return sample_weight is not None

    def row_weights(self, y: Any, sample_weight: np.ndarray | None) -> np.ndarray | None:
        """Weights of the rows in the loss."""
        return sample_weight


def _is_cross_entropy(loss: Any) -> bool:
    """Whether a loss is PyTorch's cross-entropy of softmax outputs, as a function, a module or a partial of one."""
    loss = loss.func if isinstance(loss, partial) else loss
    return loss is torch.nn.functional.cross_entropy or isinstance(loss, torch.nn.CrossEntropyLoss)


class ClassTargets(Targets):
    """Class labels.

    Parameters
    ----------
    labels : LabelBinarizer
        Fitted to the labels.
    loss : str or callable
    label_smoothing : float
    class_weight : dict, list of dict, "balanced" or None
    y : array-like
        Labels of the fit, for "balanced".
    """

    def __init__(self, labels: LabelBinarizer, loss: LossLike, label_smoothing: float, class_weight: Any, y: Any):
        super().__init__(loss)
        self._labels, self._classes = labels, labels.classes_
        self._is_multiclass = labels.y_type_ == "multiclass"
        self._is_multilabel = labels.y_type_.startswith("multilabel")
        self._label_smoothing = label_smoothing
        self._label_weights = None if class_weight is None else _label_weights(class_weight, y, self._classes)
        # Accuracy knows nothing of class weights, but the score of the loss weighs rows as the loss does.
        self.loss_has_default_score = class_weight is None
        self.stratifies = self._default_loss().n_outputs == 1  # as scikit-learn: with one encoded column

    def encode(self, y: Any, dtype: np.dtype) -> np.ndarray:
        """Encode labels as class indices, or as indicators where they are binary, multilabel or smoothed."""
        if self._is_multiclass and not self._label_smoothing:
            # n_classes times smaller than scikit-learn's indicators
            return np.searchsorted(self._classes, y)[np.newaxis]
        if self._is_multiclass or self._is_multilabel:
            indicators = self._labels.transform(y).astype(bool)  # of labels any number but 0 is one
            targets = np.ascontiguousarray(indicators.T, dtype=dtype)
        else:  # as the binarizer, which takes a tenth of the time around a small fit
            targets = np.searchsorted(self._classes, y)[np.newaxis].astype(dtype)
        if self._label_smoothing and len(self._classes) > 1:
            n_alternatives = len(targets) if self._is_multiclass else 2
            targets *= 1 - self._label_smoothing
            targets += self._label_smoothing / n_alternatives
        return targets

    def check_known(self, y: Any) -> None:
        """Raise if there is a label that is no class."""
        if y.ndim == 1:
            places = np.searchsorted(self._classes, y).clip(max=len(self._classes) - 1)
            unknown = self._classes[places] != y
            if unknown.any():
                raise ValueError(f"y has classes {np.unique(y[unknown])}. Known are {self._classes}.")

    def check_validation(self, y_val: Any, y: Any = None) -> None:
        """Raise if validation labels have another shape, or classes that the training data do not have."""
        n_rows = y_val.shape[0]
        expected = (n_rows, len(self._classes)) if self._is_multilabel else (n_rows,)
        if y_val.shape != expected:
            raise ValueError(f"y_val has the shape {y_val.shape}, but with this y it must be {expected}.")
        unknown = np.setdiff1d(unique_labels(y_val), self._classes)
        if len(unknown):
            raise ValueError(f"y_val has classes {unknown}, which y does not have. Known are {self._classes}.")

    def _default_loss(self) -> Loss:
        if self._label_smoothing and callable(self.loss):
            raise ValueError("label_smoothing cannot be used with a loss function. Let the function smooth the labels.")
        n_classes = len(self._classes)
        if self._is_multiclass:
            return SoftLogLoss(n_classes) if self._label_smoothing else LogLoss(n_classes)
        if n_classes == 1:
            return OneClassLogLoss(1)
        n_outputs = n_classes if self._is_multilabel else 1
        return SoftBinaryLogLoss(n_outputs) if self._label_smoothing else BinaryLogLoss(n_outputs)

    def has_row_weights(self, sample_weight: np.ndarray | None) -> bool:
        """Whether rows have weights in the loss, those of their classes included."""
        return sample_weight is not None or self._label_weights is not None

    def row_weights(self, y: Any, sample_weight: np.ndarray | None) -> np.ndarray | None:
        """Multiply sample weights by the weights of the classes."""
        if self._label_weights is None:
            return sample_weight
        weights = np.ones(y.shape[0]) if sample_weight is None else sample_weight.astype(np.float64)
        for column, weight_of in zip(_columns(y), self._label_weights, strict=True):
            labels, inverse = np.unique(column, return_inverse=True)
            weights *= np.array([weight_of.get(label, 1.0) for label in labels])[inverse]
        return weights


def fit_label_binarizer(y: Any) -> LabelBinarizer:
    """Fit a binarizer to validated y; to integers in one pass, where it would take five.

    That is a tenth of the time around a small fit.
    """
    if y.ndim > 1 or y.dtype.kind not in "iub" or not y.dtype.isnative:
        return LabelBinarizer().fit(y)
    classes = np.unique(y)
    return _make_binarizer(classes, "binary" if len(classes) <= 2 else "multiclass", sparse_input=False)


def _make_binarizer(classes: np.ndarray, y_type: str, *, sparse_input: bool) -> LabelBinarizer:
    binarizer = LabelBinarizer()
    binarizer.classes_, binarizer.y_type_, binarizer.sparse_input_ = classes, y_type, sparse_input
    return binarizer


#: What a binarizer has learned, as plain values.
BINARIZER = Converter(
    lambda learned: {"classes": learned.classes_, "y_type": learned.y_type_, "sparse_input": learned.sparse_input_},
    lambda state: _make_binarizer(**state),
)


def decode_labels(outputs: Any, binarizer: LabelBinarizer) -> Any:
    """Turn activated outputs (n_rows, n_outputs) into labels, those of a tensor on its device."""
    if binarizer.y_type_ == "multiclass":
        return take_labels(binarizer.classes_, outputs.argmax(1))
    if not isinstance(outputs, torch.Tensor):
        return binarizer.inverse_transform(outputs.ravel() if outputs.shape[1] == 1 else outputs)
    is_second = (outputs > 0.5).long()
    if binarizer.y_type_.startswith("multilabel"):
        return is_second
    return take_labels(binarizer.classes_, is_second.ravel() * (len(binarizer.classes_) - 1))


def _columns(y: Any) -> list[np.ndarray]:
    """Labels themselves, or the columns of an indicator matrix."""
    if y.ndim == 1:
        return [y]
    return list((y.toarray() if sp.issparse(y) else y).T)


def _label_weights(class_weight: Any, y: Any, classes: np.ndarray) -> list[dict[Any, float]]:
    """Weight of each label, for each column of y."""
    columns = _columns(y)
    if len(columns) == 1 and isinstance(class_weight, list):
        raise ValueError(
            f"class_weight={class_weight!r} is a list, which is for multilabel y, with a dict for each of its columns. Pass a "
            "dict of classes and their weights, or 'balanced'."
        )
    if isinstance(class_weight, list) and not all(
        each in (None, "balanced") or isinstance(each, dict) for each in class_weight
    ):
        raise ValueError(f"class_weight={class_weight!r} must have a dict, 'balanced' or None for each column of y.")
    if len(columns) == 1 or class_weight == "balanced":
        class_weights = [class_weight] * len(columns)
    else:
        compute_sample_weight(class_weight, y)  # for its errors
        class_weights = class_weight
    weights = []
    for weight, column in zip(class_weights, columns, strict=True):
        for label, value in weight.items() if isinstance(weight, dict) else ():
            if not _is_weight(value):
                raise ValueError(
                    f"class_weight must have numbers that are finite and not negative, got {value!r} for class {label!r}."
                )
        labels = classes if len(columns) == 1 else np.array([0, 1])
        if len(columns) > 1 and weight == "balanced":  # a column may have one label
            labels = np.unique(column)
        weights.append(dict(zip(labels, compute_class_weight(weight, classes=labels, y=column), strict=True)))
    return weights


def _is_weight(value: Any) -> bool:
    try:
        return 0 <= float(value) < math.inf
    except (TypeError, ValueError, OverflowError):
        return False


class NumericTargets(Targets):
    """Numbers.

    Parameters
    ----------
    n_targets : int
        Columns of y.
    loss : str or callable
    quantile : float
        Level of the loss "quantile".
    """

    def __init__(self, n_targets: int, loss: LossLike, quantile: float) -> None:
        super().__init__(loss)
        self._n_targets, self._quantile = n_targets, quantile

    def encode(self, y: Any, dtype: np.dtype) -> np.ndarray:
        """Transpose numbers.

        Raises
        ------
        ValueError
            If y is not numeric, or negative for the Poisson deviance.
        """
        y = _dense_numbers(y, "y")
        if self.loss == "poisson" and np.min(y) < 0:
            raise ValueError("loss='poisson' requires y >= 0, but y has negative values. Use loss='squared_error'.")
        return np.ascontiguousarray(np.atleast_2d(y.T), dtype=dtype)

    def check_validation(self, y_val: Any, y: Any = None) -> None:
        """Raise if validation targets have another number of columns; warn if they cannot be of one scale with y."""
        n_targets = count_columns(y_val)
        if n_targets != self._n_targets:
            raise ValueError(f"y_val has {n_targets} columns, but y has {self._n_targets}.")
        if y is None:
            return
        parts = _dense_numbers(y, "y"), _dense_numbers(y_val, "y_val")
        columns = (part.reshape(-1, n_targets).T.astype(np.float64) for part in parts)
        for column, column_val in zip(*columns, strict=True):
            low, high = column.min(), column.max()
            # Half of each, lest a difference of large numbers overflow.
            is_far = np.abs(column_val / 2 - (low + high) / 4) > 0.75 * (high - low)
            if high > low and np.mean(is_far) > 0.5:
                warn(
                    f"Most of y_val is far outside of the range of y: it is in [{column_val.min():g}, "
                    f"{column_val.max():g}], y in [{low:g}, {high:g}]. So validation scores and early stopping may mean "
                    "nothing. TransformedTargetRegressor transforms y but not y_val: pass y_val transformed, or leave it "
                    "out and set early_stopping=True with validation_fraction.",
                    UserWarning,
                )
                return

    def _default_loss(self) -> Loss:
        if callable(self.loss):
            return HalfSquaredError(self._n_targets)
        if self.loss == "quantile":
            return QuantileLoss(self._n_targets, self._quantile)
        return REGRESSION_LOSSES[self.loss](self._n_targets)


class StandardizedTargets(NumericTargets):
    """Numbers that a network sees with mean 0 and variance 1, so that their unit does not matter.

    Parameters
    ----------
    y : ndarray of shape (n_rows,) or (n_rows, n_targets)

    Attributes
    ----------
    center, scale : ndarray of shape (n_targets,)
        The scale of a constant is 0.
    """

    def __init__(self, y: Any) -> None:
        super().__init__(count_columns(y), "squared_error", 0.5)
        numbers = _dense_numbers(y, "y").astype(np.float64).reshape(-1, self._n_targets)
        low, high = numbers.min(0), numbers.max(0)
        middle, half = low / 2 + high / 2, high / 2 - low / 2  # first, lest squares overflow
        half[half == 0] = 1
        within = (numbers - middle) / half
        self.center = middle + half * within.mean(0)
        self.scale = np.where(low < high, half * within.std(0), 0.0)

    def __getstate__(self) -> dict[str, np.ndarray]:
        """Center and scale: what predictions need."""
        return {"center": self.center, "scale": self.scale}

    def __setstate__(self, state: dict[str, np.ndarray]) -> None:
        super().__init__(len(state["center"]), "squared_error", 0.5)
        self.center, self.scale = state["center"], state["scale"]

    def encode(self, y: Any, dtype: np.dtype) -> np.ndarray:
        """Standardize and transpose numbers."""
        numbers = _dense_numbers(y, "y").astype(np.float64).reshape(-1, self._n_targets)
        divisor = np.where(self.scale == 0, 1.0, self.scale)
        return np.ascontiguousarray(((numbers - self.center) / divisor).T, dtype=dtype)

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """Turn outputs (n_rows, n_targets) back into numbers, in float64."""
        return outputs * self.scale + self.center


def _dense_numbers(y: Any, name: str) -> np.ndarray:
    """Make an array of targets.

    Raises
    ------
    ValueError
        If it is not numeric.
    """
    y = y.toarray() if sp.issparse(y) else y
    if y.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be numeric, but has dtype {y.dtype}. Convert it to float.")
    return np.asarray(y)


def count_columns(y: Any) -> int:
    """Columns of y, one if it is one-dimensional."""
    return 1 if y.ndim == 1 else int(y.shape[1])


def check_unbalanced(class_weight: Any, what: str) -> None:
    """Raise for "balanced", which takes all rows at once.

    Raises
    ------
    ValueError
    """
    if isinstance(class_weight, str):
        raise ValueError(
            f"class_weight='balanced' is not supported for {what}, which does not see all rows at once. Compute the "
            "weights with sklearn.utils.class_weight.compute_class_weight and pass them as a dict."
        )


def check_known_classes(y: Any, labels: LabelBinarizer, *, same: bool) -> None:
    """Raise if y has classes beyond the known ones; or, with `same`, if it does not have the same ones; or indicators for them.

    Raises
    ------
    ValueError
    """
    known = labels.classes_
    classes = unique_labels(y)
    if same:
        if set(classes) != set(known):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                f"Previously got {known}, `y` has {classes}"
            )
    elif len(np.setdiff1d(classes, known, assume_unique=True)):
        raise ValueError(f"`y` has classes not in `self.classes_`. `self.classes_` has {known}. 'y' has {classes}.")
    if getattr(y, "ndim", 1) == 2 and not labels.y_type_.startswith("multilabel"):
        raise ValueError(
            f"The object was not fitted with multilabel input. y has the shape {y.shape}; pass a class of {known} for each row."
        )
