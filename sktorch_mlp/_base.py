"""What classifier and regressor share: `fit` as a list of steps, fitted attributes, predictions."""

from __future__ import annotations

import math
import operator
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
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
from ._data import Rows, Shuffler, TrainingData
from ._device import compute_threads, is_available, resolve_device, training_dtype
from ._gradients import BLOCK_SIZE, predict_rows
from ._losses import Loss
from ._network import StackedMLP, initial_parameters, sequential
from ._solvers import SGD, Adam, Solver
from ._training import Options as TrainingOptions
from ._training import Progress, train, train_lbfgs

# Fitted attributes that only some fits have: a new fit must not leave those of an older one.
_STOCHASTIC_ATTRIBUTES = ("loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_")


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
        dtype = training_dtype(self.dtype, device, self.solver)
        if resuming and self.dtype == "auto":  # go on in the precision of the model
            dtype = self.coefs_[0].dtype
        X, y, sample_weight = self._validate_training_data(X, y, sample_weight, dtype, resuming)
        dtype = dtype or X.dtype
        targets, loss = self._encode_targets(y, dtype, incremental=incremental)
        layer_units = [X.shape[1], *hidden_layer_sizes, loss.n_outputs]
        random_state = check_random_state(self.random_state)

        if resuming:
            network = self._resume_network(layer_units, sp.issparse(X), dtype, device)
        else:
            network = _new_network(layer_units, self.activation, sp.issparse(X), dtype, device)
            network.load(0, *initial_parameters(layer_units, self.activation, random_state))
            self._forget()
        data = TrainingData(
            rows=Rows.of(X, device, dtype),
            targets=as_tensor(targets, device),
            weights=None if sample_weight is None else as_tensor(sample_weight.astype(dtype, copy=False), device),
            train=np.arange(X.shape[0]),
        )
        with self._unchanged_by_errors(network):
            if self.solver == "lbfgs":
                self._fit_lbfgs(network, loss, data)
            else:
                self._fit_stochastic(network, loss, data, random_state, incremental)
        self._publish(network, loss, device)
        return self

    @contextmanager
    def _unchanged_by_errors(self, network: StackedMLP) -> Iterator[None]:
        """Leave a model that was good before a failing fit as it was, but for its solver's moments."""
        parameters = network.flat.detach().clone()
        progress = getattr(self, "_progress", None)
        mark = None if progress is None else progress.mark()
        try:
            yield
        except Exception:
            network.flat.data.copy_(parameters)
            self.__dict__.pop("_solver", None)
            if progress is not None:
                progress.rewind(mark)
            raise

    def _fit_lbfgs(self, network: StackedMLP, loss: Loss, data: TrainingData) -> None:
        options = self._training_options(len(data.rows))
        with compute_threads(network.n_coefs * len(data.rows)):
            result = train_lbfgs(network, loss, data, options, max_fun=self.max_fun)
        if not (math.isfinite(result.fun) or result.interrupted) or not _all_finite(network.flat):
            raise _DivergenceError(f"The loss is {result.fun} after {result.nit} iterations of L-BFGS.")
        self.n_iter_ = min(result.nit, self.max_iter)
        self.loss_ = float(result.fun)
        self._progress = Progress(n_rows_seen=getattr(self, "t_", 0))
        if result.interrupted:
            warnings.warn("Training interrupted by user.", stacklevel=5)
        elif result.status != 0:
            remedy = (
                f"Increase max_iter (now {self.max_iter}) or scale the data, with StandardScaler for example."
                if self.n_iter_ == self.max_iter
                else "Scale the data, with StandardScaler for example, or increase max_fun."
            )
            warnings.warn(
                f"lbfgs failed to converge after {self.n_iter_} iteration(s) (status={result.status}):\n"
                f"{result.message}\n\n{remedy}",
                ConvergenceWarning,
                stacklevel=5,
            )

    def _fit_stochastic(
        self,
        network: StackedMLP,
        loss: Loss,
        data: TrainingData,
        random_state: np.random.RandomState,
        incremental: bool,
    ) -> None:
        if not incremental or not hasattr(self, "_solver"):
            self._solver = self._new_solver()
        if not hasattr(self, "_progress"):
            self._progress = Progress()
        progress = self._progress
        if self.early_stopping:
            data.train, data.validation = self._split(data, loss, random_state)
        shuffler = Shuffler(data.train, random_state if self.shuffle else None)
        options = self._training_options(len(data.train))

        one_epoch = 1 if incremental else None
        with compute_threads(network.n_coefs * options.batch_size):
            train(network, self._solver, loss, data, [shuffler], [options], [progress], max_epochs=one_epoch)

        finite = _all_finite(network.flat)
        if progress.outcome == "diverged" or not finite:
            diverged = _DivergenceError(f"The loss is {progress.loss_curve[-1]} at epoch {progress.n_iter}.")
            if not (self.early_stopping and finite and math.isfinite(progress.best_validation_score)):
                raise diverged
            # As in scikit-learn, early stopping still has the parameters of its best epoch.
            warnings.warn(f"{diverged} Kept the best epoch before.", ConvergenceWarning, stacklevel=5)
        if progress.outcome == "interrupted":
            warnings.warn("Training interrupted by user.", stacklevel=5)
        if progress.outcome == "max_iter" and not incremental:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the "
                "optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=5,
            )
        self._publish_progress(progress)

    def _new_solver(self) -> Solver:
        rate = [self.learning_rate_init]
        if self.solver == "sgd":
            return SGD(rate, [self.momentum], self.nesterovs_momentum, self.learning_rate, [self.power_t])
        return Adam(rate, [self.beta_1], [self.beta_2], [self.epsilon])

    def _training_options(self, n_rows: int) -> TrainingOptions:
        if self.batch_size == "auto":
            batch_size = min(200, n_rows)
        else:
            if self.batch_size > n_rows and self.solver != "lbfgs":
                warnings.warn(
                    "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped",
                    stacklevel=6,
                )
            batch_size = min(int(self.batch_size), n_rows)
        return TrainingOptions(
            alpha=self.alpha,
            batch_size=batch_size,
            max_iter=self.max_iter,
            tol=self.tol,
            n_iter_no_change=self.n_iter_no_change,
            verbose=bool(self.verbose),
        )

    def _split(
        self, data: TrainingData, loss: Loss, random_state: np.random.RandomState
    ) -> tuple[np.ndarray, np.ndarray]:
        """Training and validation rows; stratified where scikit-learn does, with one encoded column."""
        indicator = is_classifier(self) and loss.n_outputs == 1
        stratify = (data.targets.cpu().numpy() > 0.5).T if indicator else None
        train_rows, validation_rows = train_test_split(
            np.arange(len(data.rows)), random_state=random_state, test_size=self.validation_fraction, stratify=stratify
        )
        if len(validation_rows) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        return train_rows, validation_rows

    # Input -----------------------------------------------------------------------------

    def _check_hidden_layer_sizes(self) -> list[int]:
        sizes = self.hidden_layer_sizes
        sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
        if np.any(np.array(sizes) <= 0):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        if any(isinstance(size, bool | np.bool_) for size in sizes):
            raise TypeError(f"hidden_layer_sizes must be integers, got {sizes}.")
        return [operator.index(size) for size in sizes]

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

    def _resume_network(
        self, layer_units: list[int], sparse_input: bool, dtype: np.dtype, device: torch.device
    ) -> StackedMLP:
        """The fitted network, ready to be trained on."""
        fitted_units = [self.coefs_[0].shape[0], *(coef.shape[1] for coef in self.coefs_)]
        if fitted_units != layer_units:
            raise ValueError(
                f"The fitted network has layers of {fitted_units} units, but hidden_layer_sizes and the data now ask for "
                f"{layer_units}. To train a new network call fit with warm_start=False."
            )
        network = self.__dict__.get("_network")
        arrays = [*self.coefs_, *self.intercepts_]
        if (
            network is not None
            and network.flat.device == device
            and network.sparse_input == sparse_input
            and network.activation == self.activation
            and arrays[0].dtype == dtype
            and all(a is b for a, b in zip(arrays, self._published, strict=True))
            and device.type == "cpu"  # elsewhere the arrays are copies that the user may have written to
        ):
            return network
        network = _new_network(layer_units, self.activation, sparse_input, dtype, device)
        network.load(0, self.coefs_, self.intercepts_)
        return network

    # Fitted attributes -----------------------------------------------------------------

    def _forget(self) -> None:
        """Drop what an earlier fit has left."""
        for name in ("coefs_", "intercepts_", "_progress", "_solver", "_network", "_module", *_STOCHASTIC_ATTRIBUTES):
            self.__dict__.pop(name, None)

    def _publish(self, network: StackedMLP, loss: Loss, device: torch.device) -> None:
        """Set the fitted attributes of the network; on the CPU the arrays share its memory."""
        coefs, intercepts = network.views(network.flat.detach())
        if not (hasattr(self, "coefs_") and self.__dict__.get("_network") is network):
            self.coefs_ = [coef[0].T.cpu().numpy() for coef in coefs]
            self.intercepts_ = [intercept[0].cpu().numpy() for intercept in intercepts]
            self._network = network
            self._published = [*self.coefs_, *self.intercepts_]
        self.n_layers_ = len(network.layer_units)
        self.n_outputs_ = loss.n_outputs
        self.out_activation_ = loss.out_activation
        self.t_ = self._progress.n_rows_seen
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
        made_of = [*self.coefs_, *self.intercepts_, self.activation]
        cached = self.__dict__.get("_module")
        if cached is None or not all(a is b for a, b in zip(made_of, cached[0], strict=True)):
            # Modules are there to be trained, which memory that is mapped from a file would not survive.
            coefs, intercepts = (
                [as_tensor(np.require(array, requirements="W"), self.device_) for array in arrays]
                for arrays in (self.coefs_, self.intercepts_)
            )
            cached = made_of, sequential([coef.T for coef in coefs], intercepts, self.activation)
            self._module = cached
        return cached[1]

    def __getstate__(self):
        """Leave out what is made again from `coefs_`, which would store the weights twice."""
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in ("_network", "_module", "_published")}

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
        X = validate_data(self, to_numpy(X), accept_sparse=["csr", "csc"], reset=False)
        if self.dtype == "auto" and self.device_.type == "cpu":  # promoted as numpy would
            dtype = np.dtype(np.float32 if np.result_type(X.dtype, dtype) == np.float32 else np.float64)
        if X.dtype not in (np.float32, np.float64):
            X = X.astype(dtype)
        coefs = [as_tensor(coef.T.astype(dtype, copy=False), self.device_) for coef in self.coefs_]
        intercepts = [as_tensor(intercept.astype(dtype, copy=False), self.device_) for intercept in self.intercepts_]
        rows = Rows.of(X, self.device_, dtype)
        n_multiply_adds = min(len(rows), BLOCK_SIZE) * sum(coef.numel() for coef in coefs)
        with torch.no_grad(), compute_threads(n_multiply_adds):
            outputs = predict_rows(rows, coefs, intercepts, self.activation, self.out_activation_)
        return outputs.cpu().numpy()

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _check_solver(self) -> bool:
        if self.solver == "lbfgs":
            raise AttributeError("partial_fit is only available for stochastic optimizers. lbfgs is not stochastic.")
        return True


class _DivergenceError(ValueError):
    """Training has left the finite numbers."""

    def __init__(self, what_happened: str) -> None:
        super().__init__(
            "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
            f"preprocessed. {what_happened} Scale the features (and the target of a regressor), with StandardScaler for "
            "example, or lower learning_rate_init."
        )


def _all_finite(values: torch.Tensor) -> bool:
    """Whether all are finite; their sum says so in one pass, unless it overflows."""
    return bool(values.sum().isfinite() or values.isfinite().all())


def _new_network(
    layer_units: list[int], activation: str, sparse_input: bool, dtype: np.dtype, device: torch.device
) -> StackedMLP:
    torch_dtype = torch.float32 if dtype == np.float32 else torch.float64
    return StackedMLP(layer_units, activation, sparse_input=sparse_input, dtype=torch_dtype, device=device)
