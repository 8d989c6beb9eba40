"""What classifier and regressor share: `fit` as a list of steps, fitted attributes, predictions."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import scipy.sparse as sp
import torch
from sklearn import config_context, get_config
from sklearn.base import BaseEstimator, is_classifier
from sklearn.callback import CallbackSupportMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring
from sklearn.metrics._scorer import _PassthroughScorer
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import nn

from . import _settings
from ._activations import ACTIVATIONS
from ._arrays import as_tensor, to_numpy
from ._data import Samples, Shuffler, TrainingData
from ._device import compute_threads, is_available, resolve_device, single_threaded_blas, training_dtype
from ._gradients import BLOCK_SIZE, Predictor
from ._initialisation import initial_parameters
from ._losses import CallableLoss, Loss
from ._meeting import train_fit
from ._network import NetworkSpec, StackedMLP, per_hidden_layer, sequential
from ._observers import Observers
from ._progress import DivergenceError, Progress, TrainingOptions
from ._rows import Rows
from ._sklearn_callbacks import TaskObserver
from ._stacking import Fit
from ._state import FitState
from ._training import train_lbfgs

_Warnings = list[tuple[str, type[Warning]]]
#: The fitted attributes of the k-th network of a stack in training.
_Attributes = Callable[[StackedMLP, int], dict[str, Any]]
_INTERRUPTED = ("Training interrupted by user.", UserWarning)
_BATCH_SIZE_CLIPPED = (
    "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped",
    UserWarning,
)


class _Data(NamedTuple):
    """Data as the user gave them, or validated."""

    X: Any
    y: Any
    sample_weight: Any


@dataclass
class _Job:
    """A fit that is about to be trained."""

    state: FitState
    loss: Loss
    data: TrainingData
    scoring: Callable[[StackedMLP, int], float] | None
    observers: Observers
    random_state: np.random.RandomState
    incremental: bool


class BaseMLPTorch(CallbackSupportMixin, BaseEstimator, ABC):
    """Fitting and prediction of both estimators, and the parameters that both have."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS)), callable, list, tuple],
        "solver": [StrOptions({"lbfgs", "sgd", "adam", "adamw"}), type],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive", "cosine", "one_cycle"})],
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
        "dtype": [StrOptions({"auto", "float32", "float64", "bfloat16"})],
        "dropout": [Interval(Real, 0, 1, closed="left"), "array-like"],
        "normalization": [StrOptions({"batch", "layer"}), None],
        "weight_init": [str, tuple, list],
        "weight_decay": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "solver_params": [dict, None],
        "warmup_fraction": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="left")],
        "gradient_clip_norm": [Interval(Real, 0, None, closed="neither"), None],
        "scoring": [str, callable, None],
        "callbacks": [list, tuple, None],
    }

    def _store(self, arguments: dict[str, Any]) -> None:
        """Set the parameters to the arguments of `__init__`, as they are."""
        self.__dict__.update({name: value for name, value in arguments.items() if name != "self"})

    @classmethod
    def _get_param_names(cls) -> list[str]:
        """As inherited, which reads the signature anew for each `clone`, `get_params` and `set_params`."""
        if "_param_names" not in vars(cls):
            cls._param_names = tuple(super()._get_param_names())
        return [*cls._param_names]

    if TYPE_CHECKING:  # the parameters

        def __getattr__(self, name: str) -> Any: ...

    _param_names: ClassVar[tuple[str, ...]]
    coefs_: list[np.ndarray]
    intercepts_: list[np.ndarray]
    normalizations_: list[dict[str, np.ndarray]]
    _state: FitState

    # What the subclasses add -----------------------------------------------------------

    @abstractmethod
    def _learn_targets(self, y: np.ndarray, *, incremental: bool) -> None:
        """Take from validated y what targets mean, or check that it is known already."""

    @abstractmethod
    def _encode_targets(self, y: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Validated y as (n_targets, n_rows) training targets."""

    @abstractmethod
    def _check_validation_targets(self, y: np.ndarray) -> None:
        """Raise if validation data have targets that the training data do not."""

    @abstractmethod
    def _own_loss(self) -> Loss:
        """The loss that `loss` names; for a function the one it takes the place of."""

    def _loss_has_score(self) -> bool:
        """Whether the score that the loss comes with is the one asked for."""
        return self.scoring is None

    def _weigh_rows(self, y: np.ndarray, sample_weight: np.ndarray | None) -> np.ndarray | None:
        """What rows count in the loss."""
        return sample_weight

    # Fitting ---------------------------------------------------------------------------

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        validation: tuple[Any, Any, Any] = (None, None, None),
        *,
        incremental: bool = False,
    ) -> Self:
        settings = _settings.check(self)
        held = _Data(*validation)
        self._check_validation_arguments(held, incremental)
        resuming = hasattr(self, "coefs_") and (self.warm_start or incremental)
        device = resolve_device(self.device)
        with self._unchanged_by_errors():
            dtype = self._resolve_dtype(device, resuming)
            training = self._validate_data(X, y, sample_weight, dtype, reset=not resuming)
            dtype = dtype or training.X.dtype
            self._learn_targets(training.y, incremental=incremental)
            if held.X is not None:
                held = self._validate_held_out(held, dtype)
        loss = self._make_loss(training, held)
        random_state = check_random_state(self.random_state)

        with torch.inference_mode(False):  # inference tensors could not be trained on later
            spec = NetworkSpec(
                (training.X.shape[1], *settings.hidden_layer_sizes, loss.n_outputs),
                settings.activations,
                normalization=self.normalization,
                sparse_input=sp.issparse(training.X),
                in_bfloat16=self.dtype == "bfloat16",
                dtype=torch.float32 if dtype == np.float32 else torch.float64,
                device=device,
            )
            state = self._resume(spec) if resuming else self._start(spec, settings, random_state)
            state.drop_out(settings.dropout, random_state)
            data = self._training_data(training, held, loss, spec, random_state)
            attributes = partial(self._attributes_of, state, loss)
            scoring = self._scoring(training, held, data, attributes)
            observers = self._observers(state, loss, data, (X, y, sample_weight), attributes, incremental)
            job = _Job(state, loss, data, scoring, observers, random_state, incremental)
            observers.begin()
            with state.unchanged_by_errors() if resuming else nullcontext():
                messages = self._fit_lbfgs(job) if self.solver == "lbfgs" else self._fit_stochastic(job)
            observers.training_ends()
            self._publish(state, loss)
        observers.end()
        for message, category in messages:  # only now: a warning that is made an error leaves a fitted model
            warnings.warn(message, category, stacklevel=4 if incremental else 5)  # fit has one more decorator
        return self

    @contextmanager
    def _unchanged_by_errors(self) -> Iterator[None]:
        """Leave a fitted model as it was if data turn out to be wrong."""
        before = dict(vars(self))
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _make_loss(self, training: _Data, validation: _Data) -> Loss:
        own = self._own_loss()
        if not callable(self.loss):
            return own
        weights = self._weigh_rows(training.y, training.sample_weight), validation.sample_weight
        weighted = any(values is not None for values in weights)
        return CallableLoss(self.loss, own, weighted)

    def _start(self, spec: NetworkSpec, settings: _settings.Settings, random_state: np.random.RandomState) -> FitState:
        """A new network with initial weights."""
        self._forget()
        state = FitState(spec.sparse_input, spec.make())
        # Without hidden layers scikit-learn's initial weights still go by the activation.
        like = settings.activations or self.activation
        state.network.load(0, *initial_parameters(spec.layer_units, like, random_state, settings.weight_init))
        return state

    def _fit_lbfgs(self, job: _Job) -> _Warnings:
        state, loss, data, observers = job.state, job.loss, job.data, job.observers
        network = state.network
        n_rows = len(data.train.rows)
        options = self._training_options(n_rows, self.max_iter, None)
        with compute_threads(network.n_coefs * n_rows, self.max_iter), single_threaded_blas():
            result = train_lbfgs(
                network, loss, data, options, state.progress, max_fun=self.max_fun, observer=observers.active()
            )
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

    def _fit_stochastic(self, job: _Job) -> _Warnings:
        state, data, observers, incremental = job.state, job.data, job.observers, job.incremental
        network, progress = state.network, state.progress
        if state.solver is None or not incremental:
            state.solver = _settings.new_solver(self, observers.follow(_settings.new_schedule(self)))
        (train_rows,) = data.train.indices
        n_rows = len(train_rows)
        messages: _Warnings = []
        if self.batch_size != "auto" and self.batch_size > n_rows:
            messages += [_BATCH_SIZE_CLIPPED]
        options = self._training_options(n_rows, 1 if incremental else self.max_iter, job.scoring)
        # The order of a single batch does not matter, nor does a stream that ends with the fit.
        shuffles = self.shuffle and not (options.batch_size == n_rows and isinstance(self.random_state, Integral))
        shuffler = Shuffler(train_rows, job.random_state if shuffles else None)
        n_steps = n_rows / options.batch_size * options.max_iter
        with compute_threads(network.n_coefs * options.batch_size, n_steps):
            train_fit(Fit(network, state.solver, job.loss, data, shuffler, options, progress, observers.active()))
        state.solver.schedules = [schedule.own for schedule in state.solver.schedules]

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
        elif progress.outcome == "max_iter" and not (incremental or _settings.follows_plan(self)):
            unconverged = f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the "
            messages += [(unconverged + "optimization hasn't converged yet.", ConvergenceWarning)]
        self.__dict__.update(self._progress_attributes(progress))
        return messages

    def _batch_size_of(self, n_rows: int) -> int:
        return min(200 if self.batch_size == "auto" else int(self.batch_size), n_rows)

    def _training_options(
        self, n_rows: int, max_iter: int, scoring: Callable[[StackedMLP, int], float] | None
    ) -> TrainingOptions:
        # A plateau of the training loss is no reason to miss the low rates at the end of a plan.
        follows_to_end = _settings.follows_plan(self) and not self.early_stopping
        return TrainingOptions(
            alpha=self.alpha,
            batch_size=self._batch_size_of(n_rows),
            max_iter=max_iter,
            tol=self.tol,
            n_iter_no_change=math.inf if follows_to_end else self.n_iter_no_change,
            verbose=bool(self.verbose),
            early_stopping=self.early_stopping,
            gradient_clip_norm=_settings.clip_norm(self),
            scoring=scoring,
            scores_loss=self.scoring == "loss",
        )

    def _observers(
        self,
        state: FitState,
        loss: Loss,
        data: TrainingData,
        given: tuple[Any, Any, Any],
        attributes: _Attributes,
        incremental: bool,
    ) -> Observers:
        """What watches the fit: callbacks of either world."""
        observers = Observers()
        if incremental:
            return observers
        context = self._init_callback_context(max_subtasks=self.max_iter)
        if hasattr(self, "_skl_callbacks"):
            observers.add(TaskObserver(self, context, *given, attributes))
        if self.callbacks:
            from ._skorch_callbacks import SkorchObserver  # loads skorch, which only callbacks need

            settings = self.learning_rate_init, self._batch_size_of(len(data.train.indices[0])), bool(self.verbose)
            observers.add(SkorchObserver(self.callbacks, state.network, loss, data, state.progress, *settings))
        return observers

    # Data ------------------------------------------------------------------------------

    def _check_validation_arguments(self, validation: _Data, incremental: bool) -> None:
        """Raise if validation data are there in part, or where they would not be used, or lack where they are needed."""
        X_val, y_val, sample_weight_val = validation
        if (X_val is None) != (y_val is None):
            given, missing = ("X_val", "y_val") if y_val is None else ("y_val", "X_val")
            raise ValueError(f"{given} is provided, but {missing} was not provided.")
        if X_val is None and sample_weight_val is not None:
            raise ValueError("sample_weight_val is provided, but X_val and y_val were not provided.")
        if X_val is not None and self.solver == "lbfgs":
            raise ValueError("X_val and y_val are not used by solver='lbfgs'. Use a stochastic solver, such as 'adam'.")
        if incremental and self.early_stopping and X_val is None:
            raise ValueError(
                "partial_fit does not support early_stopping=True\nwithout validation data of its own. Pass X_val and y_val."
            )

    def _training_data(
        self, training: _Data, validation: _Data, loss: Loss, spec: NetworkSpec, random_state: np.random.RandomState
    ) -> TrainingData:
        """Samples to train on and to validate with."""
        samples = self._samples(training, spec)
        if validation.X is not None:
            return TrainingData(samples, self._samples(validation, spec))
        if self.early_stopping and self.solver != "lbfgs":
            return self._hold_out(samples, loss, random_state)
        return TrainingData(samples)

    def _samples(self, data: _Data, spec: NetworkSpec) -> Samples:
        dtype = np.dtype(np.float32 if spec.dtype == torch.float32 else np.float64)
        device = torch.device(spec.device)
        weights = self._weigh_rows(data.y, data.sample_weight)
        return Samples(
            rows=Rows.of(data.X, device, dtype, bfloat16=spec.in_bfloat16),
            targets=as_tensor(self._encode_targets(data.y, dtype), device),
            weights=None if weights is None else as_tensor(weights.astype(dtype, copy=False), device),
            indices=[np.arange(data.X.shape[0])],
        )

    def _hold_out(self, samples: Samples, loss: Loss, random_state: np.random.RandomState) -> TrainingData:
        """Set validation rows aside; stratified where scikit-learn does, with one encoded column."""
        indicator = is_classifier(self) and loss.n_outputs == 1
        train_rows, validation_rows = train_test_split(
            samples.indices[0],
            random_state=random_state,
            test_size=self.validation_fraction,
            stratify=(samples.targets.cpu().numpy() > 0.5).T if indicator else None,
        )
        if len(validation_rows) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        if samples.weights is not None and not samples.weights[as_tensor(validation_rows, samples.rows.device)].any():
            raise ValueError(
                "Sample weights must contain at least one non-zero number. Those of the validation rows are all zero: "
                "leave out rows of weight zero, or increase validation_fraction."
            )
        return TrainingData(replace(samples, indices=[train_rows]), replace(samples, indices=[validation_rows]))

    def _scoring(
        self, training: _Data, validation: _Data, data: TrainingData, attributes: _Attributes
    ) -> Callable[[StackedMLP, int], float] | None:
        """What scores networks in training on the validation rows; None if the loss does, or nothing."""
        if data.validation is None or self.scoring == "loss" or self._loss_has_score():
            return None
        X, y, sample_weight = validation
        if X is None:
            (rows,) = data.validation.indices
            X, y, sample_weight = (None if values is None else values[rows] for values in training)
        scorer = check_scoring(self, self.scoring)
        weights = {"sample_weight": sample_weight} if sample_weight is not None and _takes_weights(scorer) else {}
        config = get_config()  # in a stack it is another thread that scores

        def score(network: StackedMLP, k: int) -> float:
            estimator = copy.copy(self)
            estimator.__dict__.update(attributes(network, k))
            estimator.__dict__.pop("feature_names_in_", None)  # X has been validated
            with config_context(**config):
                return float(scorer(estimator, X, y, **weights))

        return score

    def _check_solver(self) -> bool:
        if self.solver == "lbfgs":
            raise AttributeError("partial_fit is only available for stochastic optimizers. lbfgs is not stochastic.")
        return True

    # Input -----------------------------------------------------------------------------

    def _validate_held_out(self, held: _Data, dtype: np.dtype) -> _Data:
        """Validation data, checked; errors say that it is they."""
        try:
            held = self._validate_data(*held, dtype, reset=False)
        except ValueError as error:
            raise ValueError(f"X_val, y_val or sample_weight_val: {error}") from error
        self._check_validation_targets(held.y)
        return held

    def _resolve_dtype(self, device: torch.device, resuming: bool) -> np.dtype | None:
        """The precision to train in; None for that of X."""
        dtype = training_dtype(self.dtype, device)
        if dtype is None and resuming:  # go on in the precision of the model
            dtype = np.dtype(np.float32 if self.coefs_[0].dtype == np.float32 else np.float64)
        return dtype

    def _validate_data(self, X: Any, y: Any, sample_weight: Any, dtype: np.dtype | None, *, reset: bool) -> _Data:
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
            reset=reset,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(to_numpy(sample_weight), X)
        return _Data(X, y, sample_weight)

    # Fitted attributes -----------------------------------------------------------------

    def _forget(self) -> None:
        """Drop what an earlier fit has left, but for what validation has just set."""
        kept = {"classes_", "n_features_in_", "feature_names_in_"}
        for name in [name for name in vars(self) if name.endswith("_") and name not in kept]:
            delattr(self, name)

    def _resume(self, spec: NetworkSpec) -> FitState:
        """The fitted network, ready to be trained on."""
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
                f"The fitted network has normalization={fitted_normalization!r}, but {self.normalization!r} is asked for. "
                "For a new network call fit with warm_start=False."
            )
        # Weights may be all that was set.
        state = getattr(self, "_state", None) or FitState(spec.sparse_input, None)
        spec = replace(spec, sparse_input=state.sparse_input)
        if not state.holds(self._weight_arrays()) or state.network.spec != spec:
            state.network = spec.make()
            state.network.load(0, self.coefs_, self.intercepts_, norms)
        return state

    def _norms(self) -> list[dict[str, np.ndarray]]:
        return getattr(self, "normalizations_", [])

    def _weight_arrays(self, *more: object) -> list[Any]:
        """All arrays that predictions are made of, and more."""
        arrays = [*self.coefs_, *self.intercepts_, *more]
        if norms := self._norms():  # most have none, and predictions of one row notice
            arrays += [array for norm in norms for array in norm.values()]
        return arrays

    def _weight_tensors(
        self, convert: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], list[list[torch.Tensor]]]:
        """Weights of shape (n_out, n_in), biases and normalizations on the device, each array converted first."""
        coefs, intercepts, *norms = (
            [as_tensor(convert(array), self.device_) for array in arrays]
            for arrays in (self.coefs_, self.intercepts_, *(norm.values() for norm in self._norms()))
        )
        return [coef.T for coef in coefs], intercepts, norms

    def _publish(self, state: FitState, loss: Loss) -> None:
        """Set the fitted attributes; arrays that share the network's memory stay the same objects."""
        if not (hasattr(self, "coefs_") and state.holds(self._weight_arrays())):
            self.coefs_, self.intercepts_, self.normalizations_ = state.publish()
        self.__dict__.update(self._fitted_attributes(state, loss))

    def _fitted_attributes(self, state: FitState, loss: Loss) -> dict[str, Any]:
        return {
            "_state": state,
            "n_layers_": len(state.network.layer_units),
            "n_outputs_": loss.n_outputs,
            "out_activation_": loss.out_activation,
            "t_": state.progress.n_rows_seen,
            "device_": state.network.flat.device,
        }

    def _progress_attributes(self, progress: Progress) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "n_iter_": progress.n_iter,
            "loss_curve_": progress.loss_curve,
            "best_loss_": None if self.early_stopping else progress.best_loss,
            "validation_scores_": progress.validation_scores or None,
            "validation_loss_curve_": progress.validation_losses or None,
            "best_validation_score_": progress.best_validation_score if self.early_stopping else None,
            "best_n_iter_": progress.best_n_iter if self.early_stopping else None,
        }
        if progress.loss_curve:
            attributes["loss_"] = progress.loss_curve[-1]
        return attributes

    def _attributes_of(self, state: FitState, loss: Loss, network: StackedMLP, k: int) -> dict[str, Any]:
        """All fitted attributes of a network in training, the k-th of its stack, as if the fit had ended now."""
        progress = state.progress.snapshot()
        own = FitState(state.sparse_input, network.single(k), progress=progress)
        coefs, intercepts, norms = own.publish()
        arrays = {"coefs_": coefs, "intercepts_": intercepts, "normalizations_": norms}
        return arrays | self._fitted_attributes(own, loss) | self._progress_attributes(progress)

    @property
    def history_(self) -> list[dict[str, float]]:
        """Losses, scores, learning rate and seconds of each epoch, one record each."""
        check_is_fitted(self, "coefs_")
        first = ("epoch", "loss", "validation_loss", "validation_score")
        return [{name: r[name] for name in first if name in r} | r for r in self._state.progress.records]

    @property
    def module_(self) -> nn.Sequential:
        """The fitted network as plain PyTorch modules; its last Linear gives the logits.

        On the CPU its parameters share the memory of `coefs_` and `intercepts_`, unless
        these are read-only; on another device they are copies made at the first access.
        """
        check_is_fitted(self, "coefs_")

        def make() -> nn.Sequential:
            # Modules are there to be trained, which memory that is mapped from a file would not survive.
            coefs, intercepts, norms = self._weight_tensors(partial(np.require, requirements="W"))
            n_hidden = len(coefs) - 1
            activations, dropout = per_hidden_layer(self.activation, n_hidden), _settings.dropout_rates(self, n_hidden)
            return sequential(coefs, intercepts, activations, norms, dropout).eval()

        return self._state.keep("module", self._weight_arrays(self.activation, self.dropout), make)

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
            coefs, intercepts, norms = self._weight_tensors(lambda array: array.astype(dtype, copy=False))
            activations = per_hidden_layer(self.activation, len(coefs) - 1)
            return Predictor(coefs, intercepts, activations, self.out_activation_, norms)

        views = self.device_.type == "cpu" and dtype == self.coefs_[0].dtype
        predictor = self._state.keep("predictor", self._weight_arrays(self.activation), make) if views else make()
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


def _takes_weights(scorer: Any) -> bool:
    """Whether a scorer, or the function that one of scikit-learn's is made of, takes weights of samples."""
    if isinstance(scorer, _PassthroughScorer):
        return True
    parameters = inspect.signature(getattr(scorer, "_score_func", scorer)).parameters.values()
    return any(p.name == "sample_weight" or p.kind is p.VAR_KEYWORD for p in parameters)


def _all_finite(values: torch.Tensor) -> bool:
    """Whether all are finite; their sum says so in one pass, unless it overflows."""
    return bool(values.sum().isfinite() or values.isfinite().all())
