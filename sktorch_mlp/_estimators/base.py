"""The base class of both estimators: a fit, step by step."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.utils import check_random_state

from sktorch_mlp._data.device import resolve_device, training_dtype
from sktorch_mlp._data.samples import TrainingData
from sktorch_mlp._nn.initialization import initial_parameters
from sktorch_mlp._nn.losses import Loss
from sktorch_mlp._nn.network import NetworkSpec, StackedMLP
from sktorch_mlp._nn.tensors import NotFiniteError, precision_of, to_numpy, without_autocast
from sktorch_mlp._training.fit import Fit
from sktorch_mlp._training.observers import ObserverList
from sktorch_mlp._training.progress import DivergenceError, Progress
from sktorch_mlp._training.state import FitState
from sktorch_mlp._training.threads import available_threads, on_one_thread

from . import fitting, inputs
from .array_api import ArrayApiMixin, InputNamespace
from .checks import check_mlp
from .chunks import Chunks, check_streamable, is_chunked
from .compat import CallbackSupportMixin, ClassifierMixin
from .fitted import FittedMLP, WeightArrays, restored_after_errors
from .html import NotebookViewMixin
from .inputs import Inputs
from .messages import warn_as_sklearn
from .parameters import (
    CONSTRAINTS,
    Architecture,
    check_hidden_layers,
    check_parameters,
    dropout_rates,
    fitted_activations,
    make_optimizer,
    make_schedule,
)
from .summary import LayerTable, Summary, describe_layers
from .targets import Targets


class BaseMLPTorch(ArrayApiMixin, NotebookViewMixin, CallbackSupportMixin, FittedMLP, ABC):
    """Fits and predictions of both estimators."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = CONSTRAINTS

    @classmethod
    @cache
    def _get_param_names(cls) -> list[str]:
        """Names of the parameters. Inherited, it reads the signature anew each time: a sixth of a search of small fits."""
        return super()._get_param_names()

    @classmethod
    def _check_state(cls, params: dict[str, Any], attributes: dict[str, Any]) -> None:
        check_mlp(attributes, is_classifier=issubclass(cls, ClassifierMixin))
        check_hidden_layers(params, len(attributes["coefs_"]) - 1)

    @abstractmethod
    def _make_targets(self, y: Any, *, incremental: bool) -> Targets:
        """Learn from validated y what targets mean, or check that it is known already."""

    # Fitting ---------------------------------------------------------------------------

    @on_one_thread
    def _fit(self, given: Inputs, validation: Inputs, *, incremental: bool = False) -> Self:
        """Fit; or, if `incremental`, train one epoch from the present state."""
        architecture = check_parameters(self)
        needs_validation = incremental and self.early_stopping
        inputs.check_validation_arguments(validation, solver=self.solver, needs_validation=needs_validation)
        resumes = hasattr(self, "coefs_") and (self.warm_start or incremental)
        device = resolve_device(self.device)
        with restored_after_errors(self):
            dtype = self._resolve_dtype(device, resumes)
            is_in_chunks = not incremental and is_chunked(given)
            if is_in_chunks:
                training = Chunks(self, given.X, dtype, reset=not resumes).as_inputs()
            else:
                n_threads = available_threads() if device.type == "cuda" else 1
                training = inputs.validate_training(self, given, dtype, reset=not resumes, n_threads=n_threads)
            check_streamable(self, given, training.X, validation)
            dtype = dtype or precision_of(training.X)
            targets = self._make_targets(training.y, incremental=incremental)
            all_training = None if incremental or is_in_chunks else training
            validation = inputs.validate_validation(self, validation, all_training, dtype, targets)

            # Inference tensors could not be trained on later.
            with torch.inference_mode(False), without_autocast(device):
                has_sample_weight = (
                    targets.has_row_weights(training.sample_weight) or validation.sample_weight is not None
                )
                loss = targets.make_loss(has_sample_weight=has_sample_weight)
                random_state = check_random_state(self.random_state)
                spec = self._network_spec(architecture, training.X, loss.n_outputs, dtype, device)
                state, network = self._resume(spec) if resumes else self._start(spec, architecture, random_state)
                state.set_dropout(network, architecture.dropout, random_state)
                data = self._training_data(training, validation, targets, network.spec, random_state)
                progress = state.progress.resume()
                snapshot = partial(self._snapshot, state, progress, loss)
                scoring = fitting.make_scoring(self, targets, training, validation, data, snapshot)
                max_iter = 1 if incremental else self.max_iter
                fit = fitting.make_fit(self, network, loss, data, progress, scoring, random_state, max_iter)
                observers = ObserverList([] if incremental else fitting.make_observers(self, fit, given, snapshot))
                observers.on_train_begin()
                messages = self._train(fit, state, observers, resumes=resumes, incremental=incremental)
                self._set_fitted_attributes(state, network, loss, trains_on=incremental or self.warm_start)
                self._input_namespace = InputNamespace() if is_in_chunks else InputNamespace.of(given.X)
        observers.on_fit_end()
        for message, category in messages:  # only now: a warning that is made an error leaves a fitted model
            warn_as_sklearn(message, category)
        return self

    def _resolve_dtype(self, device: torch.device, resumes: bool) -> np.dtype | None:
        """Precision to train in; None for that of X."""
        dtype = training_dtype(self.dtype, device)
        if dtype is None and resumes:  # go on in the precision of the model
            dtype = np.dtype(np.float32 if self.coefs_[0].dtype == np.float32 else np.float64)
        return dtype

    def _network_spec(
        self, architecture: Architecture, X: Any, n_outputs: int, dtype: np.dtype, device: torch.device
    ) -> NetworkSpec:
        return NetworkSpec(
            (X.shape[1], *architecture.hidden_layer_sizes, n_outputs),
            architecture.activations,
            normalization=self.normalization,
            sparse_input=sp.issparse(X),
            bfloat16=self.dtype == "bfloat16",
            dtype=torch.float32 if dtype == np.float32 else torch.float64,
            device=device,
        )

    def _start(
        self, spec: NetworkSpec, architecture: Architecture, random_state: np.random.RandomState
    ) -> tuple[FitState, StackedMLP]:
        """Make a new network with initial weights."""
        self._forget_fit()
        network = StackedMLP(spec)
        # Without hidden layers scikit-learn's initial weights still go by the activation.
        activation = architecture.activations or self.activation
        network.set_weights(
            0, *initial_parameters(spec.layer_units, activation, random_state, architecture.weight_init)
        )
        return FitState(spec.sparse_input), network

    def _resume(self, spec: NetworkSpec) -> tuple[FitState, StackedMLP]:
        """Get the fitted network ready to be trained on."""
        self._check_fitted()
        self._check_resumable(spec)
        spec = replace(spec, sparse_input=self._state.sparse_input)
        network = self._weight_arrays.network_of(self._all_arrays())
        if network is None or network.spec != spec:
            network = StackedMLP(spec)
            network.set_weights(0, self.coefs_, self.intercepts_, self._norms())
        return self._state, network

    def _training_data(
        self,
        training: Inputs,
        validation: Inputs,
        targets: Targets,
        spec: NetworkSpec,
        random_state: np.random.RandomState,
    ) -> TrainingData:
        """Make samples to train on and to validate with."""
        if isinstance(training.X, Chunks):
            samples = training.X.make_samples(targets, spec)
        else:
            samples = inputs.make_samples(training, targets, spec)
        if self.verbose and samples.rows.is_streamed:
            print(f"{samples.rows.nbytes / 2**20:.0f} MiB of X are read in blocks, and sent to {spec.device}.")  # noqa: T201
        if validation.X is not None:
            with inputs.validation_named_in_errors():
                return TrainingData(samples, inputs.make_samples(validation, targets, spec))
        if self.early_stopping and self.solver != "lbfgs":
            return inputs.hold_out(samples, self.validation_fraction, random_state, stratify=targets.stratifies)
        return TrainingData(samples)

    def _train(
        self, fit: Fit, state: FitState, observers: ObserverList, *, resumes: bool, incremental: bool
    ) -> fitting.Warnings:
        """Train, and publish what training has reached. A resumed model survives an error as it was."""
        is_stochastic = self.solver != "lbfgs"
        fit.observer = observers or None
        if is_stochastic and incremental and state.optimizer is not None:
            fit.optimizer = state.optimizer
        elif is_stochastic:
            fit.optimizer = make_optimizer(self, observers.wrap_schedule(make_schedule(self)))
        before = fit.state_dict() if resumes else None
        try:
            if is_stochastic:
                messages = fitting.run_stochastic(self, fit, incremental=incremental)
            else:
                messages = self._run_lbfgs(fit)
            observers.on_train_end()
        except BaseException as error:  # a KeyboardInterrupt if a stack is told to stop
            if before is not None:
                fit.load_state_dict(before)
            if isinstance(error, DivergenceError):
                if fit.optimizer is state.optimizer:
                    state.optimizer = None  # its moments led there
                fit.data.train.rows.check_cast()  # what may have led there
            raise
        state.progress.extend(fit.progress)
        if fit.optimizer is not None:
            fit.optimizer.schedules = [schedule.inner for schedule in fit.optimizer.schedules]
            fit.optimizer.release()
            state.optimizer = fit.optimizer
            self._set_progress_attributes(state.progress)
        return messages

    def _run_lbfgs(self, fit: Fit) -> fitting.Warnings:
        self.n_iter_, loss, messages = fitting.run_lbfgs(self, fit)
        if math.isfinite(loss):
            self.loss_ = loss
        return messages

    def _snapshot(self, state: FitState, progress: Progress, loss: Loss, network: StackedMLP, k: int) -> Self:
        """Make an estimator as if the fit had ended now, with the k-th network of a stack in training."""
        reached = Progress()
        reached.load_state_dict(state.progress.state_dict())
        reached.extend(progress)
        fitted = copy.copy(self)
        fitted._weight_arrays, fitted._input_namespace = WeightArrays(), InputNamespace()
        fitted._set_fitted_attributes(FitState(state.sparse_input, progress=reached), network, loss, k)
        fitted._set_progress_attributes(reached)
        return fitted

    def _check_solver(self) -> bool:
        if self.solver == "lbfgs":
            raise AttributeError("partial_fit is only available for stochastic optimizers. lbfgs is not stochastic.")
        return True

    # Prediction ------------------------------------------------------------------------

    @on_one_thread
    def _predict(self, X: Any) -> Any:
        """Activated outputs of shape (n_rows, n_outputs), as a tensor on the device if X is validated as a tensor."""
        if not hasattr(self, "device_"):  # the check takes as long as a product
            self._check_fitted()
        on_cpu = self.device_.type == "cpu"
        if on_cpu and inputs.is_valid_if_finite(self, X):
            with suppress(NotFiniteError):  # validation has the words for what is wrong
                return to_numpy(self._predict_outputs(X, check=True))
        X = inputs.validate_prediction(self, X, None if on_cpu else self._place_on_gpu)
        outputs = self._predict_outputs(X)
        return outputs if isinstance(X, torch.Tensor) else to_numpy(outputs)

    def _summarize(self) -> Summary:
        self._check_fitted()
        n_hidden, norms = len(self.coefs_) - 1, self._norms()
        layers = describe_layers(
            (self.coefs_[0].shape[0], *(coef.shape[1] for coef in self.coefs_)),
            fitted_activations(self, n_hidden),
            self.out_activation_,
            normalization=None if not norms else "batch" if "running_mean" in norms[0] else "layer",
            dropout=dropout_rates(self, n_hidden),
        )
        return Summary([LayerTable(layers)], str(self.device_), str(self.coefs_[0].dtype))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
