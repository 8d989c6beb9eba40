"""What classifier and regressor share: `fit` as a list of steps, fitted attributes, predictions."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.base import BaseEstimator, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import nn

from ._arrays import as_tensor, to_numpy
from ._data import Shuffler, TrainingData
from ._device import compute_threads, is_available, resolve_device, single_threaded_blas, training_dtype
from ._gradients import BLOCK_SIZE, Predictor
from ._losses import Loss
from ._meeting import train_fit
from ._network import StackedMLP, initial_parameters, sequential
from ._rows import Rows
from ._solvers import SGD, Adam, Solver
from ._stacking import Fit
from ._state import FitState
from ._training import DivergenceError, Progress, TrainingOptions, train_lbfgs

_Warnings = list[tuple[str, type[Warning]]]
_INTERRUPTED = ("Training interrupted by user.", UserWarning)
_BATCH_SIZE_CLIPPED = (
    "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped",
    UserWarning,
)


class BaseMLPTorch(BaseEstimator, ABC):
    """Parameters, fitting and prediction of both estimators; the parameters are the classifier's."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions({"identity", "logistic", "tanh", "relu"})],
        "solver": [StrOptions({"lbfgs", "sgd", "adam"})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "device": [str, torch.device],
        "dtype": [StrOptions({"auto", "float32", "float64"})],
    }

    def __init__(
        self,
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        device="auto",
        dtype="auto",
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.device = device
        self.dtype = dtype

    coefs_: list[np.ndarray]
    intercepts_: list[np.ndarray]
    _state: FitState

    # What the subclasses add -----------------------------------------------------------

    @abstractmethod
    def _encode_targets(self, y: np.ndarray, dtype: np.dtype, *, incremental: bool) -> tuple[np.ndarray, Loss]:
        """Validated y as (n_targets, n_rows) training targets, and the loss they are for."""

    # Fitting ---------------------------------------------------------------------------

    def _fit(self, X: Any, y: Any, sample_weight: Any = None, *, incremental: bool = False) -> Self:
        hidden_layer_sizes = self._check_hidden_layer_sizes()
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        resuming = hasattr(self, "coefs_") and (self.warm_start or incremental)
        device = resolve_device(self.device)
        dtype = self._resolve_dtype(device, resuming)
        X, y, sample_weight = self._validate_training_data(X, y, sample_weight, dtype, resuming)
        dtype = dtype or X.dtype
        targets, loss = self._encode_targets(y, dtype, incremental=incremental)
        layer_units = [X.shape[1], *hidden_layer_sizes, loss.n_outputs]
        random_state = check_random_state(self.random_state)

        with torch.inference_mode(False):  # inference tensors could not be trained on later
            if resuming:
                state = self._resume(layer_units, sp.issparse(X), dtype, device)
            else:
                self._forget()
                state = self._start(layer_units, sp.issparse(X), dtype, device, random_state)
            data = TrainingData(
                rows=Rows.of(X, device, dtype),
                targets=as_tensor(targets, device),
                weights=None if sample_weight is None else as_tensor(sample_weight.astype(dtype, copy=False), device),
                train=[np.arange(X.shape[0])],
            )
            with state.unchanged_by_errors() if resuming else nullcontext():
                if self.solver == "lbfgs":
                    messages = self._fit_lbfgs(state, loss, data)
                else:
                    messages = self._fit_stochastic(state, loss, data, random_state, incremental)
            self._publish(state, loss, device)
        for message, category in messages:  # only now: a warning that is made an error leaves a fitted model
            warnings.warn(message, category, stacklevel=4)
        return self

    def _fit_lbfgs(self, state: FitState, loss: Loss, data: TrainingData) -> _Warnings:
        network = state.network
        options = self._training_options(len(data.rows), self.max_iter)
        with compute_threads(network.n_coefs * len(data.rows), self.max_iter), single_threaded_blas():
            result = train_lbfgs(network, loss, data, options, max_fun=self.max_fun)
        if not (math.isfinite(result.fun) or result.interrupted) or not _all_finite(network.flat):
            raise DivergenceError(f"The loss is {result.fun} after {result.nit} iterations of L-BFGS.")
        self.n_iter_ = min(result.nit, self.max_iter)
        if math.isfinite(result.fun):
            self.loss_ = float(result.fun)
        if result.interrupted:
            return [_INTERRUPTED]
        if result.status == 0:
            return []
        remedy = (
            f"Increase max_iter (now {self.max_iter}) or scale the data, with StandardScaler for example."
            if self.n_iter_ == self.max_iter
            else "Scale the data, with StandardScaler for example, or increase max_fun."
        )
        failure = f"lbfgs failed to converge after {self.n_iter_} iteration(s) (status={result.status}):"
        return [(f"{failure}\n{result.message}\n\n{remedy}", ConvergenceWarning)]

    def _fit_stochastic(
        self,
        state: FitState,
        loss: Loss,
        data: TrainingData,
        random_state: np.random.RandomState,
        incremental: bool,
    ) -> _Warnings:
        network, progress = state.network, state.progress
        if state.solver is None or not incremental:
            state.solver = self._new_solver()
        if self.early_stopping:
            data = self._hold_out(data, loss, random_state)
        n_rows = len(data.train[0])
        messages: _Warnings = []
        if self.batch_size != "auto" and self.batch_size > n_rows:
            messages += [_BATCH_SIZE_CLIPPED]
        options = self._training_options(n_rows, 1 if incremental else self.max_iter)
        # The order of a single batch does not matter, nor does a stream that ends with the fit.
        shuffles = self.shuffle and not (options.batch_size == n_rows and isinstance(self.random_state, Integral))
        shuffler = Shuffler(data.train[0], random_state if shuffles else None)
        n_steps = n_rows / options.batch_size * options.max_iter
        with compute_threads(network.n_coefs * options.batch_size, n_steps):
            train_fit(Fit(network, state.solver, loss, data, shuffler, options, progress))

        finite = _all_finite(network.flat)
        if progress.outcome == "diverged" or not finite:
            last_loss = progress.loss_curve[-1] if progress.loss_curve else math.nan
            error = DivergenceError(f"The loss is {last_loss} at epoch {progress.n_iter}.")
            if not (self.early_stopping and finite and math.isfinite(progress.best_validation_score)):
                raise error
            # As in scikit-learn, early stopping still has the parameters of its best epoch.
            messages += [(f"{error} Kept the best epoch before.", ConvergenceWarning)]
        elif progress.outcome == "interrupted":
            messages += [_INTERRUPTED]
        elif progress.outcome == "max_iter" and not incremental:
            unconverged = f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the "
            messages += [(unconverged + "optimization hasn't converged yet.", ConvergenceWarning)]
        self._publish_progress(progress)
        return messages

    def _new_solver(self) -> Solver:
        rate = [self.learning_rate_init]
        if self.solver == "sgd":
            return SGD(rate, [self.momentum], self.nesterovs_momentum, self.learning_rate, [self.power_t])
        return Adam(rate, [self.beta_1], [self.beta_2], [self.epsilon])

    def _training_options(self, n_rows: int, max_iter: int) -> TrainingOptions:
        return TrainingOptions(
            alpha=self.alpha,
            batch_size=min(200 if self.batch_size == "auto" else int(self.batch_size), n_rows),
            max_iter=max_iter,
            tol=self.tol,
            n_iter_no_change=self.n_iter_no_change,
            verbose=bool(self.verbose),
        )

    def _hold_out(self, data: TrainingData, loss: Loss, random_state: np.random.RandomState) -> TrainingData:
        """Set validation rows aside; stratified where scikit-learn does, with one encoded column."""
        indicator = is_classifier(self) and loss.n_outputs == 1
        train_rows, validation_rows = train_test_split(
            data.train[0],
            random_state=random_state,
            test_size=self.validation_fraction,
            stratify=(data.targets.cpu().numpy() > 0.5).T if indicator else None,
        )
        if len(validation_rows) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        if data.weights is not None and not data.weights[as_tensor(validation_rows, data.rows.device)].any():
            raise ValueError(
                "Sample weights must contain at least one non-zero number. Those of the validation rows are all zero: "
                "leave out rows of weight zero, or increase validation_fraction."
            )
        return replace(data, train=[train_rows], validation=[validation_rows])

    def _check_solver(self) -> bool:
        if self.solver == "lbfgs":
            raise AttributeError("partial_fit is only available for stochastic optimizers. lbfgs is not stochastic.")
        return True

    # Input -----------------------------------------------------------------------------

    def _check_hidden_layer_sizes(self) -> list[int]:
        sizes = self.hidden_layer_sizes
        sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
        if np.any(np.array(sizes) <= 0):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        if any(isinstance(size, bool) or not isinstance(size, Integral) for size in sizes):
            raise TypeError(f"hidden_layer_sizes must be integers, got {sizes}.")
        return [int(size) for size in sizes]

    def _resolve_dtype(self, device: torch.device, resuming: bool) -> np.dtype | None:
        """The precision to train in; None for that of X."""
        dtype = training_dtype(self.dtype, device)
        if dtype is None and resuming:  # go on in the precision of the model
            dtype = np.dtype(np.float32 if self.coefs_[0].dtype == np.float32 else np.float64)
        return dtype

    def _validate_training_data(
        self, X: Any, y: Any, sample_weight: Any, dtype: np.dtype | None, resuming: bool
    ) -> tuple[Any, np.ndarray, np.ndarray | None]:
        # X in either precision stays as it is, and is cast batch by batch; any other dtype is converted here.
        dtypes = (np.float32, np.float64) if dtype == np.float32 else (np.float64, np.float32)
        X, y = validate_data(
            self,
            to_numpy(X),
            to_numpy(y),
            accept_sparse=["csr", "csc"],
            multi_output=True,
            y_numeric=not is_classifier(self),
            dtype=dtypes,
            reset=not resuming,
        )
        if sample_weight is not None:
            sample_weight = _check_sample_weight(to_numpy(sample_weight), X)
        return X, y, sample_weight

    # Fitted attributes -----------------------------------------------------------------

    def _forget(self) -> None:
        """Drop what an earlier fit has left, but for what validation has just set."""
        kept = {"classes_", "n_features_in_", "feature_names_in_"}
        for name in [name for name in vars(self) if name.endswith("_") and name not in kept]:
            delattr(self, name)

    def _start(
        self,
        layer_units: list[int],
        sparse_input: bool,
        dtype: np.dtype,
        device: torch.device,
        random_state: np.random.RandomState,
    ) -> FitState:
        """A new network with scikit-learn's initial weights."""
        network = _new_network(layer_units, self.activation, sparse_input, dtype, device)
        network.load(0, *initial_parameters(layer_units, self.activation, random_state))
        return FitState(sparse_input, network)

    def _resume(self, layer_units: list[int], sparse_input: bool, dtype: np.dtype, device: torch.device) -> FitState:
        """The fitted network, ready to be trained on."""
        fitted_units = [self.coefs_[0].shape[0], *(coef.shape[1] for coef in self.coefs_)]
        if fitted_units != layer_units:
            raise ValueError(
                f"The fitted network has layers of {fitted_units} units, but hidden_layer_sizes and the data now ask for "
                f"{layer_units}. For a new network call fit with warm_start=False."
            )
        state = getattr(self, "_state", None) or FitState(sparse_input, None)  # weights may be all that was set
        if (
            not state.holds([*self.coefs_, *self.intercepts_])
            or state.network.flat.device != device
            or self.coefs_[0].dtype != dtype
            or state.network.activation != self.activation
        ):
            state.network = _new_network(layer_units, self.activation, state.sparse_input, dtype, device)
            state.network.load(0, self.coefs_, self.intercepts_)
        return state

    def _publish(self, state: FitState, loss: Loss, device: torch.device) -> None:
        """Set the fitted attributes; arrays that share the network's memory stay the same objects."""
        if not (hasattr(self, "coefs_") and state.holds([*self.coefs_, *self.intercepts_])):
            self.coefs_, self.intercepts_ = state.publish()
        self._state = state
        self.n_layers_ = len(self.coefs_) + 1
        self.n_outputs_ = loss.n_outputs
        self.out_activation_ = loss.out_activation
        self.t_ = state.progress.n_rows_seen
        self.device_ = device

    def _publish_progress(self, progress: Progress) -> None:
        self.n_iter_ = progress.n_iter
        self.loss_curve_ = progress.loss_curve
        if progress.loss_curve:
            self.loss_ = progress.loss_curve[-1]
        self.best_loss_ = None if self.early_stopping else progress.best_loss
        self.validation_scores_ = progress.validation_scores if self.early_stopping else None
        self.best_validation_score_ = progress.best_validation_score if self.early_stopping else None

    @property
    def module_(self) -> nn.Sequential:
        """The fitted network as plain PyTorch modules; its last Linear gives the logits.

        On the CPU its parameters share the memory of `coefs_` and `intercepts_`, unless
        these are read-only; on another device they are copies made at the first access.
        """
        check_is_fitted(self, "coefs_")

        def make() -> nn.Sequential:
            # Modules are there to be trained, which memory that is mapped from a file would not survive.
            coefs, intercepts = (
                [as_tensor(np.require(array, requirements="W"), self.device_) for array in arrays]
                for arrays in (self.coefs_, self.intercepts_)
            )
            return sequential([coef.T for coef in coefs], intercepts, self.activation)

        made_of = [*self.coefs_, *self.intercepts_, self.activation]
        return self._state.keep("module", made_of, make)

    def __setstate__(self, state):
        super().__setstate__(state)
        device = self.__dict__.get("device_")
        if device is not None and not is_available(device):
            warnings.warn(
                f"The estimator was fitted on {str(device)!r}, which is not available here. It will predict on the CPU.",
                stacklevel=2,
            )
            self.device_ = torch.device("cpu")

    # Prediction ------------------------------------------------------------------------

    def _predict_outputs(self, X: Any) -> np.ndarray:
        """Activated outputs of shape (n_rows, n_outputs)."""
        check_is_fitted(self, "coefs_")
        dtype = self.coefs_[0].dtype
        X = to_numpy(X)
        if not self._is_valid(X):
            X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        if self.dtype == "auto" and self.device_.type == "cpu":  # promoted as numpy would
            dtype = np.dtype(np.float32 if np.result_type(X.dtype, dtype) == np.float32 else np.float64)
        if X.dtype not in (np.float32, np.float64):
            X = X.astype(dtype)

        def make() -> Predictor:
            coefs = [as_tensor(coef.T.astype(dtype, copy=False), self.device_) for coef in self.coefs_]
            intercepts = [as_tensor(b.astype(dtype, copy=False), self.device_) for b in self.intercepts_]
            return Predictor(coefs, intercepts, self.activation, self.out_activation_)

        views = self.device_.type == "cpu" and dtype == self.coefs_[0].dtype
        made_of = [*self.coefs_, *self.intercepts_, self.activation]
        predictor = self._state.keep("predictor", made_of, make) if views else make()
        rows = Rows.of(X, self.device_, dtype)
        with torch.no_grad(), compute_threads(min(len(rows), BLOCK_SIZE) * predictor.n_coefs):
            return predictor(rows).cpu().numpy()

    def _is_valid(self, X: Any) -> bool:
        """Whether `validate_data` would return X as it is; it takes most of the time of a prediction of one row."""
        return (
            type(X) is np.ndarray
            and X.dtype in (np.float32, np.float64)
            and X.ndim == 2
            and X.shape[0] > 0
            and X.shape[1] == getattr(self, "n_features_in_", None)
            and not hasattr(self, "feature_names_in_")
            and bool(as_tensor(X).sum().isfinite())
        )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _all_finite(values: torch.Tensor) -> bool:
    """Whether all are finite; their sum says so in one pass, unless it overflows."""
    return bool(values.sum().isfinite() or values.isfinite().all())


def _new_network(
    layer_units: list[int], activation: str, sparse_input: bool, dtype: np.dtype, device: torch.device
) -> StackedMLP:
    torch_dtype = torch.float32 if dtype == np.float32 else torch.float64
    return StackedMLP(layer_units, activation, sparse_input=sparse_input, dtype=torch_dtype, device=device)
