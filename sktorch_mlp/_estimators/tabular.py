"""The base class of the estimators for raw tables: an ensemble of networks, trained side by side."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import MaxAbsScaler
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted

from sktorch_mlp._data.columns import TableEncoder
from sktorch_mlp._data.device import resolve_device, training_dtype
from sktorch_mlp._data.samples import TrainingData
from sktorch_mlp._data.shuffling import Shuffler
from sktorch_mlp._interop.sklearn_callbacks import SklearnObserver
from sktorch_mlp._nn.dropout import Dropout
from sktorch_mlp._nn.network import NetworkSpec, StackedMLP
from sktorch_mlp._nn.tensors import without_autocast
from sktorch_mlp._training.fit import Fit
from sktorch_mlp._training.progress import Progress, TrainingOptions
from sktorch_mlp._training.records import from_columns, to_columns
from sktorch_mlp._training.threads import on_one_thread

from . import inputs, selection
from .array_api import ArrayApiMixin, InputNamespace
from .candidates import Candidate, Deadline, mean_record, stack_in_training, train_candidates
from .compat import CallbackSupportMixin, ClassifierMixin, Interval, StrOptions, has_callbacks
from .ensembles import FittedEnsemble, predict_held_out
from .fitted import restored_after_errors
from .fitting import make_scoring
from .html import NotebookViewMixin
from .inputs import Inputs
from .messages import warn
from .parameters import check_layer_sizes
from .plain import Converter, from_state, of_class
from .recipe import LOGIT_FACTORS, Settings, default_settings, make_network, make_optimizer
from .saving import SavableEstimator
from .summary import Summary
from .table_checks import check_ensemble
from .table_data import TableData
from .targets import ClassTargets, Targets

_CONSTRAINTS: dict[str, list[Any]] = {
    "n_estimators": [Interval(Integral, 1, None, closed="left")],
    "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
    "numerical_embedding": [StrOptions({"auto", "piecewise_linear", "periodic"}), None],
    "categorical_features": ["array-like", StrOptions({"from_dtype"}), None],
    "validation_fraction": [Interval(Real, 0, 0.5, closed="both")],
    "max_iter": [Interval(Integral, 1, None, closed="left"), None],
    "scoring": [str, callable, None],
    "hyperparameters": [StrOptions({"auto"}), dict, None],
    "n_candidates": [Interval(Integral, 2, None, closed="left"), None],
    "time_limit": [Interval(Real, 0, None, closed="neither"), None],
    "device": [str, torch.device],
    "dtype": [StrOptions({"float32", "float64", "bfloat16"})],
    "random_state": ["random_state"],
    "verbose": ["verbose"],
}


#: Attributes of the encoder of sparse X.
_LEARNED_BY_SCALER = ("max_abs_", "scale_", "n_features_in_", "n_samples_seen_")


@dataclass(eq=False, repr=False, kw_only=True)
class TabularParameters:
    """Parameters of both estimators, with their defaults."""

    n_estimators: int = 8
    hidden_layer_sizes: int | Sequence[int] = (256, 256)
    numerical_embedding: str | None = "auto"
    categorical_features: Any = "from_dtype"
    validation_fraction: float = 0.125
    max_iter: int | None = None
    scoring: str | Callable[..., Any] | None = None
    hyperparameters: str | dict[str, Any] | None = None
    n_candidates: int | None = None
    time_limit: float | None = None
    device: str | torch.device = "auto"
    dtype: str = "float32"
    random_state: int | np.random.RandomState | None = None
    verbose: bool = False


def _encoder_to_plain(encoder: TableEncoder | MaxAbsScaler) -> dict[str, Any]:
    if isinstance(encoder, TableEncoder):
        return encoder.__getstate__()
    return {name: getattr(encoder, name) for name in _LEARNED_BY_SCALER}


def _encoder_from_plain(state: dict[str, Any]) -> TableEncoder | MaxAbsScaler:
    if "numbers" in state:
        return from_state(TableEncoder, state)
    scaler = MaxAbsScaler()
    vars(scaler).update(state)
    return scaler


class BaseTabularMLP(ArrayApiMixin, NotebookViewMixin, CallbackSupportMixin, TabularParameters, SavableEstimator, ABC):
    """Fits and predictions of both estimators."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = _CONSTRAINTS
    _converters: ClassVar[dict[str, Converter]] = {
        **SavableEstimator._converters,
        "_encoder": Converter(_encoder_to_plain, _encoder_from_plain),
        "_ensemble": of_class(FittedEnsemble),
        "_member_keys": Converter(np.array, lambda keys: list(map(tuple, keys.tolist()))),
        "history_": Converter(to_columns, from_columns),
        "leaderboard_": selection.LEADERBOARD,
    }
    history_: list[dict[str, Any]]
    n_iter_: int
    n_outputs_: int
    _encoder: Any
    _ensemble: FittedEnsemble
    leaderboard_: pd.DataFrame
    _member_keys: list[tuple[int, int]]

    @classmethod
    def _check_state(cls, params: dict[str, Any], attributes: dict[str, Any]) -> None:
        check_ensemble(attributes, is_classifier=issubclass(cls, ClassifierMixin))

    @abstractmethod
    def _make_targets(self, y: Any) -> Targets:
        """Learn from validated y what targets mean."""

    # Fitting ---------------------------------------------------------------------------

    @on_one_thread
    def _fit(self, given: Inputs, validation: Inputs) -> Self:
        deadline = Deadline(math.inf if self.time_limit is None else float(self.time_limit))
        selection.check_hyperparameters(self.hyperparameters, self.n_candidates)
        device = resolve_device(self.device)
        dtype = training_dtype(self.dtype, device)
        assert dtype is not None
        inputs.check_validation_arguments(validation, solver="adamw", needs_validation=False)
        with restored_after_errors(self):
            random_state = check_random_state(self.random_state)
            all_rows = inputs.validate_table_training(self, given, reset=True)
            # Rows of weight zero must not change anything: first those of the samples, then those of the classes.
            takes_part = inputs.has_weight(all_rows.sample_weight, len(all_rows.y))
            weighted = inputs.select_rows(all_rows, takes_part)
            targets = self._make_targets(weighted.y)
            row_weights = targets.row_weights(weighted.y, weighted.sample_weight)
            takes_part[takes_part] = inputs.has_weight(row_weights, len(weighted.y))
            X, y, sample_weight = inputs.select_rows(all_rows, takes_part)
            if sp.issparse(X):
                self._check_sparse_settings()
            self._encoder = _make_encoder(X, self.categorical_features)
            training = Inputs(_encode(self._encoder, X, dtype), y, sample_weight)
            validation = self._validate_validation(validation, training, targets, dtype)
            with torch.inference_mode(False), without_autocast(device):
                data = TableData(training, validation, targets, device, dtype, takes_part)
                messages = self._train(data, given, deadline, random_state)
        self._input_namespace = InputNamespace.of(given.X)
        for message, category in messages:  # only now: a warning that is made an error leaves a fitted model
            warn(message, category)
        return self

    def _check_sparse_settings(self) -> None:
        """Raise where a setting would have no effect on sparse X."""
        has_categories = self.categorical_features is not None and not isinstance(self.categorical_features, str)
        drawn = self.hyperparameters if isinstance(self.hyperparameters, dict) else {}
        settings = {
            "categorical_features": has_categories,
            "numerical_embedding": self.numerical_embedding not in ("auto", None),
            "hyperparameters": not selection.EMBEDDING_HYPERPARAMETERS.isdisjoint(drawn),
        }
        for name in (name for name, is_set in settings.items() if is_set):
            raise ValueError(
                f"{name}={getattr(self, name)!r} has no effect on sparse X, whose columns are numbers without an embedding. "
                "Pass a dense array or a frame."
            )

    def _validate_validation(self, given: Inputs, training: Inputs, targets: Targets, dtype: np.dtype) -> Inputs:
        if given.X is None:
            return given
        with inputs.validation_named_in_errors():
            table = inputs.validate_table_training(self, given, reset=False)
            targets.check_validation(table.y, training.y)
            row_weights = targets.row_weights(table.y, table.sample_weight)
            X, y, sample_weight = inputs.select_rows(table, inputs.has_weight(row_weights, len(table.y)))
            return Inputs(_encode(self._encoder, X, dtype), y, sample_weight)

    def _train(
        self, data: TableData, given: Inputs, deadline: Deadline, random_state: np.random.RandomState
    ) -> list[tuple[str, type[Warning]]]:
        """Train all candidates, select among them, and publish the ensemble; return warnings."""
        candidates = self._make_candidates(data, random_state)
        n_planned = sum(candidate.settings.max_iter for candidate in candidates)
        context = self._init_callback_context(max_subtasks=len(candidates[0].stacks()) * n_planned)
        callbacks = []
        if has_callbacks(self):

            def get_attributes(network: StackedMLP, k: int) -> dict[str, Any]:
                return vars(self._snapshot(data, network)) | {"history_": [mean_record(stack_in_training(candidates))]}

            callbacks.append(SklearnObserver(self, context, *given, get_attributes))
        for callback in callbacks:
            callback.on_train_begin()
        trained = train_candidates(candidates, deadline, callbacks, verbose=bool(self.verbose))
        self._set_fitted_attributes(data, trained)
        for callback in callbacks:
            callback.on_fit_end()
        found: list[tuple[str, type[Warning]]] = []
        if any(candidate.was_interrupted for candidate in trained):
            found.append(("Training interrupted by user.", UserWarning))
        if deadline.was_reached:
            n_epochs = sum(candidate.n_epochs for candidate in trained)
            what = f"time_limit={self.time_limit!r} ended training after {n_epochs} of {n_planned} epochs."
            found.append((f"{what} A higher one may give better predictions.", ConvergenceWarning))
        return found

    def _make_candidates(self, data: TableData, random_state: np.random.RandomState) -> list[Candidate]:
        """Make the fits of the default, and of the other candidates of a pack."""
        splits = data.split(self.n_estimators, self.validation_fraction, random_state)
        n_train = min(len(split.train.indices[0]) for split in splits)
        is_sparse = sp.issparse(data.training.X)
        default = default_settings(
            check_layer_sizes(self.hidden_layer_sizes),
            None if is_sparse else self.numerical_embedding,
            self.max_iter,
            n_rows=data.n_rows,
            n_train=n_train,
            n_numbers=len(getattr(self._encoder, "numbers", ())),
            is_regression=not isinstance(data.targets, ClassTargets),
        )
        seeds = random_state.randint(2**31, size=int(self.n_estimators))
        settings = [default]
        if self.hyperparameters is not None:
            if splits[0].validation is None:
                raise ValueError(
                    "hyperparameters need held-out rows to choose by, but there are none with validation_fraction="
                    f"{self.validation_fraction!r} and n_samples={data.n_rows}. Raise these, or pass X_val and y_val."
                )
            n_candidates = 8 if self.n_candidates is None else self.n_candidates
            settings = selection.draw_candidates(
                default, self.hyperparameters, n_candidates, n_train, random_state, has_embedding=not is_sparse
            )

        def make_fits(each: Settings) -> list[Fit]:
            members = enumerate(zip(splits, seeds, strict=True))
            return [
                self._make_fit(data, split, each.of_network(k, len(splits)), k, np.random.RandomState(seed))
                for k, (split, seed) in members
            ]

        return [Candidate(each, make_fits(each)) for each in settings]

    def _make_fit(
        self, data: TableData, split: TrainingData, settings: Settings, k: int, random_state: np.random.RandomState
    ) -> Fit:
        """Make the fit of the k-th network of a candidate."""
        loss = data.loss
        embedding = data.embedding(self._encoder, settings)
        sizes = settings.hidden_layer_sizes
        n_inputs = data.training.X.shape[1] if embedding is None else embedding.n_inputs
        spec = NetworkSpec(
            (n_inputs, *sizes, loss.n_outputs),
            ("relu",) * len(sizes),
            sparse_input=embedding is None,
            bfloat16=self.dtype == "bfloat16",
            dtype=data.samples.rows.dtype,
            device=data.samples.rows.device,
            embedding=embedding,
        )
        network = make_network(spec, k, data.out_bias, random_state)
        if settings.dropout and sizes:
            generator = torch.Generator(spec.device).manual_seed(int(random_state.randint(2**31)))
            network.dropout = Dropout([[settings.dropout] * len(sizes)], [generator])
        scoring = None
        if self.scoring not in (None, "loss") and split.validation is not None:
            scoring = make_scoring(
                self,
                data.targets,
                data.training,
                data.validation,
                split,
                lambda network, k: self._snapshot(data, network, k),
            )
        options = TrainingOptions(
            alpha=0.0,
            batch_size=settings.batch_size,
            max_iter=settings.max_iter,
            tol=0.0,
            n_iter_no_change=math.inf,  # the monitor decides
            early_stopping=split.validation is not None,
            scoring=scoring,
            scores_loss=scoring is None,
            logit_factors=LOGIT_FACTORS if self.scoring is None and self.n_estimators > 1 else (1.0,),
            drop_last=True,
        )
        shuffler = Shuffler(split.train.indices[0], random_state)
        return Fit(network, loss, split, shuffler, options, Progress(), make_optimizer(settings))

    def _snapshot(self, data: TableData, network: StackedMLP, k: int | None = None) -> Self:
        """Make an estimator as if the fit had ended now, of a stack in training or of one of its networks.

        That of one network takes encoded tables.
        """
        network = network.select(range(network.n_networks) if k is None else [k])
        fitted = copy.copy(self)
        fitted._ensemble = FittedEnsemble.from_shapes([[network]], data.loss.out_activation)
        fitted.n_outputs_ = data.loss.n_outputs
        fitted.n_iter_ = 0
        fitted._input_namespace = InputNamespace()
        if k is not None:
            fitted._encoder = None
        return fitted

    def _set_fitted_attributes(self, data: TableData, trained: Sequence[Candidate]) -> None:
        """Weigh candidates, and publish their networks. One that has diverged has no weight, if another has not."""
        activation = data.loss.out_activation
        usable = [c for c, candidate in enumerate(trained) if math.isfinite(candidate.loss)] or [0]
        ensembles = [
            FittedEnsemble.from_shapes([[fit.network for fit in fits] for fits in trained[c].shapes()], activation)
            for c in usable
        ]
        is_held_out = data.validation.X is None
        predicted = [predict_held_out(ensemble, trained[c].fits) for ensemble, c in zip(ensembles, usable, strict=True)]
        usable_weights = (np.arange(len(usable)) == 0).astype(float)
        known = ~np.isnan(predicted).any((0, 2))  # the networks of one that was interrupted have not held out all rows
        if len(usable) > 1 and known.any():
            samples = data.validation_samples or data.samples
            row_weights = None if samples.weights is None else samples.weights.cpu().numpy()[known]
            usable_weights = selection.greedy_weights(
                [outputs[known] for outputs in predicted],
                samples.targets.cpu().numpy()[:, known],
                row_weights,
                activation,
                LOGIT_FACTORS if is_held_out and self.n_estimators > 1 else (1.0,),
            )
        self._ensemble = FittedEnsemble.average(ensembles, usable_weights)
        weights = np.zeros(len(trained))
        weights[usable] = usable_weights
        self.n_outputs_ = data.loss.n_outputs
        self.n_iter_ = max(candidate.n_epochs for candidate in trained)
        self.history_ = [
            {"candidate": c, "estimator": k} | record
            for c, candidate in enumerate(trained)
            for k, fit in enumerate(candidate.fits)
            for record in fit.progress.records
        ]
        outputs = sum(weight * own for weight, own in zip(usable_weights, predicted, strict=True) if weight)
        if is_held_out and not np.isnan(outputs).all():
            held_out = np.full((len(data.takes_part), self.n_outputs_), np.nan)
            held_out[data.takes_part] = outputs
            self._ensemble.held_out = held_out
        self.leaderboard_ = selection.leaderboard(trained, weights)
        self._member_keys = [(c, k) for c, weight in enumerate(weights) if weight for k in range(len(trained[c].fits))]

    # Prediction ------------------------------------------------------------------------

    @on_one_thread
    def _predict(self, X: Any) -> np.ndarray:
        """Averaged outputs of shape (n_rows, n_outputs), in float64."""
        check_is_fitted(self, "_ensemble")
        if self._encoder is not None:  # else X is encoded
            X = inputs.validate_table(self, X, reset=False)
        dtype = self._ensemble.stacks[0].dtype
        return self._ensemble.predict(_encode(self._encoder, X, dtype)).astype(np.float64)

    @property
    def estimator_weights_(self) -> np.ndarray:
        """Weight of each of `estimators_` in the average."""
        check_is_fitted(self, "_ensemble")
        return self._ensemble.weights

    @property
    def estimators_(self) -> list[Self]:
        """The networks as fitted estimators, in the same memory."""
        check_is_fitted(self, "_ensemble")
        members = zip(self._member_keys, self._ensemble.members(), strict=True)
        return [self._member(candidate, k, ensemble) for (candidate, k), ensemble in members]

    def _member(self, candidate: int, k: int, ensemble: FittedEnsemble) -> Self:
        member = copy.copy(self)
        member.n_estimators, member.hyperparameters, member.n_candidates = 1, None, None
        member._ensemble, member._member_keys = ensemble, [(candidate, k)]
        member.history_ = [r for r in self.history_ if (r["candidate"], r["estimator"]) == (candidate, k)]
        member.n_iter_ = len(member.history_)
        member.leaderboard_ = self.leaderboard_[self.leaderboard_["candidate"] == candidate]
        member.hidden_layer_sizes = member.leaderboard_["hidden_layer_sizes"].item()
        embedding = ensemble.stacks[0].spec.embedding
        member.numerical_embedding = None if embedding is None else embedding.numerical
        return member

    def _summarize(self) -> Summary:
        rates = self.leaderboard_.set_index("candidate")["dropout"]
        networks, n_before = [], 0
        for stack in self._ensemble.stacks:
            candidate, _ = self._member_keys[n_before]
            networks.append(stack.summarize(self.n_features_in_, rates[candidate]))
            n_before += stack.n_networks
        spec = self._ensemble.stacks[0].spec
        return Summary(networks, str(spec.device), str(spec.dtype).removeprefix("torch."))

    def _held_out_outputs(self) -> np.ndarray:
        check_is_fitted(self, "_ensemble")
        if self._ensemble.held_out is None:
            raise AttributeError(
                "There are no out-of-fold predictions. An ensemble has them that was fitted without X_val, with "
                f"validation_fraction above 0 (now {self.validation_fraction!r}) and two rows or more; one of its members "
                "has none."
            )
        return self._ensemble.held_out

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self.numerical_embedding in ("auto", None)
        tags.input_tags.allow_nan = True
        return tags


def _make_encoder(X: Any, categorical_features: Any) -> Any:
    return MaxAbsScaler().fit(X) if sp.issparse(X) else TableEncoder(categorical_features).fit(X)


def _encode(encoder: Any, X: Any, dtype: np.dtype) -> Any:
    if encoder is None:
        return X
    if isinstance(encoder, TableEncoder):
        encoded = encoder.transform(X.toarray() if sp.issparse(X) else X, dtype)
        return encoded if encoded.shape[1] else np.zeros((len(encoded), 1), dtype)  # a network has an input
    # Dense X may have missing values, which are allowed in a table.
    X = check_array(X, accept_sparse="csr", dtype=(np.float64, np.float32), input_name="X")
    return sp.csr_array(encoder.transform(sp.csr_array(X)), dtype=dtype)
