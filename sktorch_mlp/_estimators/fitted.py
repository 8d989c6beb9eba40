"""Fitted attributes: what a fit publishes, and what is made from it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import nn

from sktorch_mlp._data.device import available_or_cpu, resolve_device, training_dtype
from sktorch_mlp._data.rows import Rows
from sktorch_mlp._interop.compat import callback_attributes
from sktorch_mlp._nn.losses import Loss
from sktorch_mlp._nn.modules import NORM_NAMES, sequential
from sktorch_mlp._nn.network import NetworkSpec, StackedMLP
from sktorch_mlp._nn.tensors import (
    PRECISIONS,
    ROW_DTYPES,
    NotFiniteError,
    as_tensor,
    has_strides_of_tensors,
    numpy_dtype,
)
from sktorch_mlp._nn.threads import threads_for_large_calls
from sktorch_mlp._training.progress import Progress
from sktorch_mlp._training.state import FitState
from sktorch_mlp._training.threads import available_threads

from . import inputs
from .compat import BaseEstimator
from .parameters import MLPParameters, dropout_rates, fitted_activations
from .plain import Converter, of_class
from .predictor import Predictor
from .saving import SavableEstimator

Made = TypeVar("Made")
#: Weights (n_out, n_in), biases and tensors of the normalizations, layer by layer.
LayerTensors = tuple[list[torch.Tensor], list[torch.Tensor], list[list[torch.Tensor]]]

#: `coefs_`, `intercepts_` and `normalizations_`.
PublishedArrays = tuple[list[np.ndarray], list[np.ndarray], list[dict[str, np.ndarray]]]

#: Numbers in arrays up to which a copy of them on a device is kept: to compare more takes as long as to copy them.
_MOST_COMPARED = 2**20

#: Bytes of an array from which products notice where it begins.
_LEAST_ALIGNED = 2**14

#: Fitted attributes that are lists of the progress, and their names there.
CURVES = {
    "loss_curve_": "loss_curve",
    "validation_scores_": "validation_scores",
    "validation_loss_curve_": "validation_losses",
}

#: Fitted attributes that validation and labels set before training.
_SET_BEFORE_TRAINING = {"classes_", "n_features_in_", "feature_names_in_"}


def check_layers(
    coefs: Sequence[np.ndarray], intercepts: Sequence[np.ndarray], n_features: int | None = None
) -> tuple[int, ...]:
    """Check that the shapes of all layers fit together, and the number of features if it is known; return the units of each.

    Raises
    ------
    ValueError
    """
    shapes = [np.shape(coef) for coef in coefs], [np.shape(intercept) for intercept in intercepts]
    if n_features is None:
        n_features = next((shape[0] for shape in shapes[0] if shape), 0)
    layer_units = n_features, *(shape[-1] for shape in shapes[0] if shape)
    expected = [*pairwise(layer_units)], [(n_units,) for n_units in layer_units[1:]]
    if not coefs or shapes != expected:
        raise ValueError(
            f"coefs_ and intercepts_ have the shapes {shapes[0]} and {shapes[1]}, which do not fit together and {n_features} "
            f"features. Shapes {expected[0]} and {expected[1]} would."
        )
    return layer_units


class WeightArrays:
    """Published arrays, the network whose memory they share, and objects made from arrays. None of it is pickled."""

    def __init__(self) -> None:
        self._network: StackedMLP | None = None
        self._published: list[np.ndarray] = []
        self._cached: dict[str, tuple[list[object], Any]] = {}
        self._copied: dict[np.dtype, tuple[list[object], list[np.ndarray], Any]] = {}

    def publish(self, network: StackedMLP, k: int = 0, *, trains_on: bool = False) -> PublishedArrays:
        """Make `coefs_`, `intercepts_` and `normalizations_` of the k-th network.

        They are copies in C order, as scikit-learn's are: few rows are predicted with these in half the time. Of a network on the
        CPU that `trains_on` they are views instead, which training does not have to copy.
        """
        self._network = network if trains_on and network.device.type == "cpu" else None
        convert = _copied if self._network is None else _as_array
        coefs, intercepts = network.views(network.flat.detach())
        coefs_ = [convert(coef[k].T) for coef in coefs]
        intercepts_ = [convert(intercept[k]) for intercept in intercepts]
        norms_ = [
            {name: convert(tensor[k].detach()) for name, tensor in zip(NORM_NAMES, tensors, strict=False)}
            for tensors in network.norm_tensors()
        ]
        self._published = [*coefs_, *intercepts_, *(array for norm in norms_ for array in norm.values())]
        return coefs_, intercepts_, norms_

    def network_of(self, arrays: Sequence[object]) -> StackedMLP | None:
        """The network of which these arrays are views, so that it has what was written into them."""
        return self._network if _are_same_objects(arrays, self._published) else None

    def cached(self, name: str, parts: list[Any], dtype: np.dtype, make: Callable[[], Made]) -> Made:
        """Object of this dtype made from arrays and others, kept while these are the same objects.

        It is not kept if it cannot be a view of all arrays: a copy would not see what is written next.
        """
        known_parts, made = self._cached.get(name, ([], None))
        if made is None or not _are_same_objects(known_parts, parts):
            made = make()
            arrays = [part for part in parts if isinstance(part, np.ndarray)]
            if all(array.dtype == dtype and has_strides_of_tensors(array) for array in arrays):
                self._cached[name] = parts, made
        return made

    def copied(self, parts: list[Any], dtype: np.dtype, make: Callable[[], Made]) -> Made:
        """Object of this dtype on another device, kept until one of its parts is another object or an array has other values."""
        arrays = [part for part in parts if isinstance(part, np.ndarray)]
        known_parts, values, made = self._copied.get(dtype, ([], [], None))
        if made is None or not _are_same_objects(known_parts, parts) or not all(map(np.array_equal, arrays, values)):
            values = [array.copy(order="K") for array in arrays]  # before: others may write meanwhile
            made = make()
            if sum(array.size for array in arrays) <= _MOST_COMPARED:
                self._copied[dtype] = parts, values, made
        return made

    def __reduce__(self) -> tuple[type[WeightArrays], tuple[()]]:
        return WeightArrays, ()


def _as_array(tensor: torch.Tensor) -> np.ndarray:
    """A view of a tensor of the CPU, a copy of another one."""
    return _with_own_strides(tensor.cpu().numpy())


def _copied(tensor: torch.Tensor) -> np.ndarray:
    """A copy in C order. Much of it begins at a multiple of 64 bytes, as memory of PyTorch does: products take up to 15 % less time."""
    values = tensor.cpu().numpy()
    if values.nbytes < _LEAST_ALIGNED:
        return np.array(values, order="C")
    copy: np.ndarray = torch.empty(values.shape, dtype=tensor.dtype, device="cpu").numpy()
    copy[...] = values
    return copy


def _items(value: Any) -> Sequence[Any]:
    """One value for all layers, or those of each, since users may change a list; and that they are many."""
    return (type(value), *value) if isinstance(value, list | tuple) else (value,)


def _with_own_strides(array: np.ndarray) -> np.ndarray:
    """A view with the strides that pickling gives it, where both orders are one: `joblib.hash` would tell them apart."""
    return array.reshape(-1).reshape(array.shape) if 1 in array.shape else array


def _are_same_objects(some: Sequence[object], others: Sequence[object]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))


@contextmanager
def restored_after_errors(estimator: BaseEstimator) -> Iterator[None]:
    """Leave an estimator as it was if a fit fails, at the beginning or in the middle of training."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        before |= callback_attributes(estimator)
        estimator.__dict__.clear()
        estimator.__dict__.update(before)
        raise


@contextmanager
def classes_forgotten_after_errors(estimator: BaseEstimator) -> Iterator[None]:
    """Forget the classes of a first fit that fails, so that the next one may have others."""
    try:
        yield
    except BaseException:
        if not hasattr(estimator, "coefs_"):
            vars(estimator).pop("classes_", None)
        raise


class FittedMLP(MLPParameters, SavableEstimator):
    """Fitted attributes of both estimators, and predictions from them."""

    _converters: ClassVar[dict[str, Converter]] = {
        **SavableEstimator._converters,
        "device_": Converter(str, torch.device),
        "_state": of_class(FitState),
    }
    coefs_: list[np.ndarray]
    intercepts_: list[np.ndarray]
    normalizations_: list[dict[str, np.ndarray]]
    n_layers_: int
    n_outputs_: int
    out_activation_: str
    device_: torch.device
    t_: int
    n_iter_: int
    loss_: float
    loss_curve_: list[float]
    best_loss_: float | None
    validation_scores_: list[float] | None
    validation_loss_curve_: list[float] | None
    best_validation_score_: float | None
    best_n_iter_: int | None
    _state: FitState
    _weight_arrays: WeightArrays

    def _forget_fit(self) -> None:
        """Delete what an earlier fit has left, except for what validation has just set."""
        for name in [name for name in vars(self) if name.endswith("_") and name not in _SET_BEFORE_TRAINING]:
            delattr(self, name)
        self._weight_arrays = WeightArrays()

    def _set_fitted_attributes(
        self, state: FitState, network: StackedMLP, loss: Loss, k: int = 0, *, trains_on: bool = False
    ) -> None:
        """Publish the k-th network; arrays that share its memory already stay the same objects. See `WeightArrays.publish`."""
        if not hasattr(self, "coefs_") or self._weight_arrays.network_of(self._all_arrays()) is not network:
            published = self._weight_arrays.publish(network, k, trains_on=trains_on)
            self.coefs_, self.intercepts_, self.normalizations_ = published
        self._state = state
        self.n_layers_ = len(network.spec.layer_units)
        self.n_outputs_ = loss.n_outputs
        self.out_activation_ = loss.out_activation
        self.device_ = network.device
        self.t_ = state.progress.n_rows_seen

    def _set_progress_attributes(self, progress: Progress) -> None:
        """Publish what the stochastic solvers have reached."""
        self.n_iter_ = progress.n_iter
        self.loss_curve_ = progress.loss_curve
        self.best_loss_ = None if self.early_stopping else progress.best_loss
        self.validation_scores_ = progress.validation_scores or None
        self.validation_loss_curve_ = progress.validation_losses or None
        self.best_validation_score_ = progress.best_validation_score if self.early_stopping else None
        self.best_n_iter_ = progress.best_n_iter if self.early_stopping else None
        if progress.loss_curve:
            self.loss_ = progress.loss_curve[-1]

    def _check_resumable(self, spec: NetworkSpec) -> None:
        """Raise if the fitted network is of another shape.

        Raises
        ------
        ValueError
        """
        fitted_units = (self.coefs_[0].shape[0], *(coef.shape[1] for coef in self.coefs_))
        if fitted_units != spec.layer_units:
            raise ValueError(
                f"The fitted network has layers of {[*fitted_units]} units, but hidden_layer_sizes and the data now ask "
                f"for {[*spec.layer_units]}. For a new network call fit with warm_start=False."
            )
        norms = self._norms()
        fitted_normalization = None if not norms else "batch" if "running_mean" in norms[0] else "layer"
        if len(fitted_units) > 2 and fitted_normalization != self.normalization:
            raise ValueError(
                f"The fitted network has normalization={fitted_normalization!r}, but {self.normalization!r} is asked "
                "for. For a new network call fit with warm_start=False."
            )

    def _norms(self) -> list[dict[str, np.ndarray]]:
        return getattr(self, "normalizations_", [])

    def _all_arrays(self, *more: Any) -> list[Any]:
        """All arrays that predictions are made from, and more objects."""
        arrays: list[Any] = [*self.coefs_, *self.intercepts_, *more]
        if norms := self._norms():  # most have none, and predictions of one row notice
            arrays += [array for norm in norms for array in norm.values()]
        return arrays

    def _prediction_parts(self, *more: Any) -> list[Any]:
        """All that predictions are made from, and more objects."""
        return self._all_arrays(self.out_activation_, *_items(self.activation), *more)

    def _precision(self) -> np.dtype:
        """Precision of the network: of its weights, or that of a fit where users have written integers."""
        dtype = self.coefs_[0].dtype
        if dtype.kind == "f":
            return dtype
        return training_dtype(self.dtype, self.device_) or np.dtype(np.float64)

    def _layer_tensors(self, convert: Callable[[np.ndarray], np.ndarray]) -> LayerTensors:
        """Tensors of each layer on the device; arrays, which users may have set, are checked and converted first."""
        self._check_layers()
        coefs, intercepts, *norms = (
            [as_tensor(convert(array), self.device_) for array in arrays]
            for arrays in (self.coefs_, self.intercepts_, *(norm.values() for norm in self._norms()))
        )
        return [coef.T for coef in coefs], intercepts, norms

    def _check_layers(self) -> tuple[int, ...]:
        return check_layers(self.coefs_, self.intercepts_, getattr(self, "n_features_in_", None))

    def _check_fitted(self) -> None:
        """Raise if there are no weights, and take over those that the user has set: before any fit, or of other shapes.

        Raises
        ------
        NotFittedError
        ValueError
            If their shapes do not fit together.
        """
        check_is_fitted(self, "coefs_")
        layer_units = self._check_layers()
        if not hasattr(self, "_state"):
            self.device_, self._weight_arrays = resolve_device(self.device), WeightArrays()
            self._state, self.normalizations_ = FitState(sparse_input=False), self._norms()
            self.n_features_in_ = layer_units[0]
        n_parameters = sum(map(np.size, [*self.coefs_, *self.intercepts_]))
        n_parameters += 2 * sum(layer_units[1:-1]) if self._norms() else 0  # scales and shifts
        if self._state.optimizer is not None and not self._state.optimizer.fits(n_parameters):
            self._state.optimizer = None  # its moments are those of the weights before
        self.n_layers_, self.n_outputs_ = len(layer_units), layer_units[-1]

    def _describe_file(self) -> dict[str, Any]:
        self._check_fitted()
        return super()._describe_file()

    @property
    def history_(self) -> list[dict[str, float]]:
        """Losses, scores, learning rate and seconds of each epoch."""
        check_is_fitted(self, "coefs_")
        records = self._state.progress.records if hasattr(self, "_state") else []
        first = ("epoch", "loss", "validation_loss", "validation_score")
        return [{name: r[name] for name in first if name in r} | r for r in records]

    @property
    def module_(self) -> nn.Sequential:
        """The fitted network as plain PyTorch modules. Its last Linear gives the logits.

        On the CPU its parameters share the memory of `coefs_` and `intercepts_`, unless
        these are read-only. On another device they are copies made at the first access.
        Integers that users have written become floats: copies made at each access.
        """
        check_is_fitted(self, "coefs_")
        n_hidden = len(self.coefs_) - 1
        try:
            self._check_fitted()
            activations, dropout = fitted_activations(self, n_hidden), dropout_rates(self, n_hidden)
        except ValueError as error:  # hasattr, which views in notebooks call, expects no other error
            raise AttributeError(f"module_ cannot be made: {error}") from error
        dtype = self._precision()

        def make() -> nn.Sequential:
            # Modules are there to be trained, which memory that is mapped from a file would not survive.
            with torch.inference_mode(False):  # the modules outlive it
                coefs, intercepts, norms = self._layer_tensors(partial(np.require, dtype=dtype, requirements="W"))
                return sequential(coefs, intercepts, activations, norms, dropout).eval()

        parts = self._all_arrays(*_items(self.activation), *_items(self.dropout))
        return self._weight_arrays.cached("module", parts, dtype, make)

    def _prediction_dtype(self, X: Any) -> np.dtype:
        """Precision of a prediction."""
        dtype = self.coefs_[0].dtype
        if dtype in PRECISIONS and isinstance(X, np.ndarray) and X.dtype == dtype:
            return dtype
        if self.dtype == "auto" and self.device_.type == "cpu":  # promoted as numpy would
            return np.dtype(np.float32 if np.result_type(numpy_dtype(X), dtype) == np.float32 else np.float64)
        if dtype.kind == "f" and dtype not in PRECISIONS:  # written by users
            return training_dtype(self.dtype, self.device_) or np.dtype(np.float64)
        return self._precision()

    def _place_on_gpu(self, X: np.ndarray) -> np.ndarray | Rows:
        """Much of X on the GPU, which sees at once whether it is finite; less of it as it is."""
        if X.size < inputs.MANY_NUMBERS:
            return X
        with threads_for_large_calls(available_threads()), suppress(NotFiniteError):
            return Rows.from_array(X, self.device_, self._prediction_dtype(X))
        return X

    def _predict_outputs(self, X: Any, *, check: bool = False) -> torch.Tensor | np.ndarray:
        """Activated outputs for validated X, of shape (n_rows, n_outputs), see `Predictor`.

        Raises
        ------
        ValueError
            If it is to be checked and not finite.
        """
        dtype = self._prediction_dtype(X)
        if isinstance(X, np.ndarray) and X.dtype != dtype and X.dtype not in ROW_DTYPES:
            X = X.astype(np.float64)  # a lower precision is left to those who check that it can hold the values

        def make() -> Predictor:
            coefs, intercepts, norms = self._layer_tensors(lambda array: array.astype(dtype, copy=False))
            activations = fitted_activations(self, len(coefs) - 1)
            predictor = Predictor(coefs, intercepts, activations, self.out_activation_, norms)
            if self.device_.type == "cuda":  # other streams may use it, or still use the one before
                torch.cuda.synchronize(self.device_)
            return predictor

        if self.device_.type != "cpu":
            predictor = self._weight_arrays.copied(self._prediction_parts(self.device_), dtype, make)
        elif dtype == self.coefs_[0].dtype:  # views of the arrays
            predictor = self._weight_arrays.cached("predictor", self._prediction_parts(), dtype, make)
        else:
            predictor = make()
        return predictor(X, check=check)

    def __getstate__(self) -> dict[str, Any]:
        """All as plain values. Curves that are lists of the progress are named, since they are there already."""
        state = super().__getstate__()
        state.pop("_weight_arrays", None)
        if "_state" in state:
            progress = vars(self._state.progress)
            named = {name: curve for name, curve in CURVES.items() if state.get(name) is progress[curve]}
            state.update(named)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_state" in state:
            self._weight_arrays = WeightArrays()
            progress = vars(self._state.progress)
            vars(self).update({name: progress[state[name]] for name in CURVES if isinstance(state.get(name), str)})
        if "device_" in state:
            self.device_ = available_or_cpu(self.device_)
