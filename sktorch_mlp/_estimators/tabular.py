"""TabularMLPClassifier and TabularMLPRegressor: raw tables in, the answers of an ensemble out."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import MaxAbsScaler
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from sktorch_mlp._data.batches import Shuffler
from sktorch_mlp._data.columns import TableEncoder
from sktorch_mlp._data.device import resolve_device, training_dtype
from sktorch_mlp._data.samples import TrainingData
from sktorch_mlp._interop.sklearn_callbacks import SklearnObserver
from sktorch_mlp._nn.dropout import Dropout
from sktorch_mlp._nn.network import NetworkSpec, StackedMLP
from sktorch_mlp._nn.tensors import without_autocast
from sktorch_mlp._training.fit import Fit
from sktorch_mlp._training.progress import Progress, TrainingOptions
from sktorch_mlp._training.threads import on_one_thread

from . import inputs, selection
from .compat import (
    BaseEstimator,
    CallbackSupportMixin,
    ClassifierMixin,
    Interval,
    RegressorMixin,
    StrOptions,
    fit_context,
    has_callbacks,
    with_callbacks,
)
from .ensembles import FittedEnsemble, FittedStack
from .fitted import restored_after_errors
from .fitting import make_scoring
from .inputs import Inputs
from .members import Candidate, Deadline, TableData, fitted_stack, predict_held_out, train_candidates
from .messages import warn
from .parameters import check_layer_sizes
from .recipe import Settings, default_settings, make_network, make_optimizer
from .targets import ClassTargets, StandardizedTargets, Targets, fit_label_binarizer

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


class BaseTabularMLP(CallbackSupportMixin, TabularParameters, BaseEstimator, ABC):
    """Fits and predictions of both estimators."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = _CONSTRAINTS
    history_: list[dict[str, Any]]
    n_iter_: int
    n_outputs_: int
    _encoder: Any
    _ensemble: FittedEnsemble
    _oof_outputs: np.ndarray | None
    _leaderboard: list[dict[str, Any]]

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
            X, y, sample_weight = inputs.without_weightless_rows(
                inputs.validate_table_training(self, given, reset=True)
            )
            targets = self._make_targets(y)
            self._encoder = _make_encoder(X, self.categorical_features)
            training = Inputs(_encode(self._encoder, X, dtype), y, sample_weight)
            validation = self._validate_validation(validation, training, targets, dtype)
            with torch.inference_mode(False), without_autocast(device):
                data = TableData(training, validation, targets, device, dtype)
                messages = self._train(data, given, deadline, random_state)
        for message, category in messages:  # only now: a warning that is made an error leaves a fitted model
            warn(message, category)
        return self

    def _validate_validation(self, given: Inputs, training: Inputs, targets: Targets, dtype: np.dtype) -> Inputs:
        if given.X is None:
            return given
        with inputs.validation_named_in_errors():
            X, y, sample_weight = inputs.validate_table_training(self, given, reset=False)
            X = _encode(self._encoder, X, dtype)
        targets.check_validation(y, training.y)
        return Inputs(X, y, sample_weight)

    def _train(
        self, data: TableData, given: Inputs, deadline: Deadline, random_state: np.random.RandomState
    ) -> list[tuple[str, type[Warning]]]:
        """Train all candidates, select among them, and publish the ensemble; return warnings."""
        splits = data.split(self.n_estimators, self.validation_fraction, random_state)
        default = default_settings(
            check_layer_sizes(self.hidden_layer_sizes),
            self.numerical_embedding,
            self.max_iter,
            n_rows=data.n_rows,
            n_train=min(len(split.train.indices[0]) for split in splits),
            n_numbers=len(getattr(self._encoder, "numbers", ())),
            is_regression=not isinstance(data.targets, ClassTargets),
        )
        seeds = random_state.randint(2**31, size=self.n_estimators)
        settings = [default]
        if self.hyperparameters is not None:
            if splits[0].validation is None:
                raise ValueError(
                    "hyperparameters need held-out rows to choose by, but there are none with validation_fraction="
                    f"{self.validation_fraction!r} and n_samples={data.n_rows}. Raise these, or pass X_val and y_val."
                )
            n_candidates = 8 if self.n_candidates is None else self.n_candidates
            n_train = splits[0].train.indices[0].size
            settings = selection.draw_candidates(default, self.hyperparameters, n_candidates, n_train, random_state)
        candidates = [
            Candidate(
                each,
                [
                    self._make_fit(data, split, each, k, np.random.RandomState(seed))
                    for k, (split, seed) in enumerate(zip(splits, seeds, strict=True))
                ],
            )
            for each in settings
        ]
        context = self._init_callback_context(max_subtasks=sum(each.max_iter for each in settings))
        callbacks = []
        if has_callbacks(self):
            callbacks.append(
                SklearnObserver(self, context, *given, lambda network, k: vars(self._snapshot(data, network)))
            )
        for callback in callbacks:
            callback.on_train_begin()
        trained = train_candidates(candidates, deadline, callbacks, verbose=bool(self.verbose))
        self._set_fitted_attributes(data, trained)
        for callback in callbacks:
            callback.on_fit_end()
        messages: list[tuple[str, type[Warning]]] = []
        if any(candidate.was_interrupted for candidate in trained):
            messages.append(("Training interrupted by user.", UserWarning))
        if deadline.was_reached:
            n_epochs = sum(candidate.n_epochs for candidate in trained)
            n_planned = sum(each.max_iter for each in settings)
            what = f"time_limit={self.time_limit!r} ended training after {n_epochs} of {n_planned} epochs."
            messages.append((f"{what} A higher one may give better predictions.", ConvergenceWarning))
        return messages

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
        network = make_network(spec, k, data.out_bias(), random_state)
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
        weights = np.full(network.n_networks, 1 / network.n_networks)
        fitted._ensemble = FittedEnsemble([FittedStack.from_networks([network], data.loss.out_activation, weights)])
        fitted.n_outputs_ = data.loss.n_outputs
        fitted.n_iter_ = 0
        if k is not None:
            fitted._encoder = None
        return fitted

    def _set_fitted_attributes(self, data: TableData, trained: Sequence[Candidate]) -> None:
        """Weigh candidates, and publish their networks."""
        activation = data.loss.out_activation
        stacks = [fitted_stack(candidate, activation) for candidate in trained]
        is_held_out = data.validation.X is None
        predicted = [predict_held_out(stack, candidate.fits) for stack, candidate in zip(stacks, trained, strict=True)]
        known = ~np.isnan(predicted[0]).any(1)
        weights = np.ones(1)
        if len(trained) > 1:
            samples = data.validation_samples or data.samples
            row_weights = None if samples.weights is None else samples.weights.cpu().numpy()[known]
            weights = selection.greedy_weights(
                [outputs[known] for outputs in predicted],
                samples.targets.cpu().numpy()[:, known],
                row_weights,
                activation,
            )
        for stack, weight in zip(stacks, weights, strict=True):
            stack.weights = np.full(stack.n_networks, weight / stack.n_networks)
        self._ensemble = FittedEnsemble([stack for stack, weight in zip(stacks, weights, strict=True) if weight])
        self.n_outputs_ = data.loss.n_outputs
        self.n_iter_ = max(candidate.n_epochs for candidate in trained)
        self.history_ = [
            {"candidate": c, "estimator": k} | record
            for c, candidate in enumerate(trained)
            for k, fit in enumerate(candidate.fits)
            for record in fit.progress.records
        ]
        self._oof_outputs = None
        if is_held_out and known.any():
            self._oof_outputs = np.tensordot(weights, np.stack(predicted), 1)
        self._leaderboard = selection.leaderboard(trained, weights)

    # Prediction ------------------------------------------------------------------------

    @on_one_thread
    def _predict(self, X: Any) -> np.ndarray:
        """Averaged outputs of shape (n_rows, n_outputs), in float64."""
        check_is_fitted(self, "_ensemble")
        if self._encoder is not None:  # else X is encoded
            X = inputs.validate_table(self, X, reset=False)
        dtype = np.dtype(np.float64 if self.dtype == "float64" else np.float32)
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
        return [self._with_ensemble(ensemble) for ensemble in self._ensemble.members()]

    def _with_ensemble(self, ensemble: FittedEnsemble) -> Self:
        member = copy.copy(self)
        member.n_estimators, member.hyperparameters, member.n_candidates = 1, None, None
        member._ensemble, member._oof_outputs = ensemble, None
        return member

    def _held_out_outputs(self) -> np.ndarray:
        check_is_fitted(self, "_ensemble")
        if self._oof_outputs is None:
            raise AttributeError(
                "There are no out-of-fold predictions, since no rows of X were held out. Set validation_fraction above 0, and "
                "leave out X_val."
            )
        return self._oof_outputs

    @property
    def leaderboard_(self) -> pd.DataFrame:
        """Candidates, best first: hyperparameters, validation loss, weight in the ensemble, epochs and seconds."""
        check_is_fitted(self, "_ensemble")
        return pd.DataFrame(self._leaderboard).sort_values("validation_loss", ignore_index=True)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        return tags


def _make_encoder(X: Any, categorical_features: Any) -> Any:
    return MaxAbsScaler().fit(X) if sp.issparse(X) else TableEncoder(categorical_features).fit(X)


def _encode(encoder: Any, X: Any, dtype: np.dtype) -> Any:
    if encoder is None:
        return X
    if isinstance(encoder, TableEncoder):
        return encoder.transform(X.toarray() if sp.issparse(X) else X, dtype)
    return sp.csr_array(encoder.transform(sp.csr_array(X)), dtype=dtype)


@dataclass(eq=False, repr=False)
class TabularMLPClassifier(ClassifierMixin, BaseTabularMLP):
    """Classifier for raw tables: an ensemble of small networks, trained side by side.

    Takes frames as they are, with categories, strings and missing values. No preprocessing, no tuning.

    Parameters
    ----------
    n_estimators : int, default=8
        Networks of the ensemble; with `hyperparameters` those of each candidate. With 1 it
        is a single network.
    hidden_layer_sizes : int or array-like of int, default=(256, 256)
        Units of each hidden layer.
    numerical_embedding : {'auto', 'piecewise_linear', 'periodic'} or None, default='auto'
        What the first layer gets of each number beside the number itself. "piecewise_linear"
        is its place in bins with equally many training rows [1]_: at most 32 bins (64 for
        regression), fewer for small data, and 1024 (2048) for all numbers together, but no
        fewer than 4 each. "periodic" is 16 waves of learned frequency [1]_. "auto" is
        "piecewise_linear", which was better on the tables we chose it on, and None for more
        than 256 (512) numbers.
    categorical_features : 'from_dtype', array-like of {str, int, bool} or None, \
            default='from_dtype'
        Columns that are categories: those of dtype category, string and boolean, and objects
        that are strings or booleans; or names, indices or a mask of them; or none. scikit-learn's
        `HistGradientBoostingClassifier` counts only dtype category.
    validation_fraction : float, default=0.125
        Part of the rows that each network holds out, in [0, 0.5]. The networks hold out one
        fold after the other, so that with the defaults each row is held out by one of them.
        With 0 networks train to the end, on all rows. Not used where `X_val` is passed.
    max_iter : int, default=None
        Epochs. None for 60; fewer where these are more than 2000 steps, but at least 10.
    scoring : str, callable or None, default=None
        Score of the held-out rows by which each network keeps its best epoch: a scorer of
        scikit-learn, ``scorer(estimator, X, y)``, whose X is encoded; or None, or "loss", for the
        loss.
    hyperparameters : 'auto', dict or None, default=None
        What the candidates of a pack differ in: a list or distribution of scipy for each name,
        as `sklearn.model_selection.RandomizedSearchCV` takes them. Names are
        `hidden_layer_sizes`, `learning_rate_init`, `weight_decay`, `dropout`,
        `numerical_embedding`, `n_bins`, `n_frequencies`, `batch_size` and `max_iter`. "auto" for
        ours. The first candidate is always that of the default. Losers stop early [2]_, and a greedy
        selection [3]_ by the loss of held-out rows weighs the others. None for no pack.
    n_candidates : int, default=None
        Candidates of a pack; None for 8.
    time_limit : float, default=None
        Seconds that `fit` may take. It ends with the epoch that reaches them, and warns.
        Learning rates fall sooner where there is not time for all epochs.
    device : str or torch.device, default='auto'
        Where to train and predict: "cpu", "cuda", "cuda:1", "mps"; "auto" for a GPU if there is
        one.
    dtype : {'float32', 'float64', 'bfloat16'}, default='float32'
        Precision. With "bfloat16" the products of training round their operands, which takes half the
        time or less on processors that have such products.
    random_state : int, RandomState or None, default=None
        Source of initial weights, folds, orders and dropout. Pass an int for the same
        results again.
    verbose : bool, default=False
        Whether to print a line for each epoch.
    class_weight : dict, list of dict, 'balanced' or None, default=None
        Weights of the classes in the loss, as in `MLPTorchClassifier`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    estimators_ : list of TabularMLPClassifier
        The networks as fitted estimators, in the same memory.
    estimator_weights_ : ndarray of shape (n_fitted,)
        Weight of each of `estimators_` in the average; they sum to one.
    oof_prediction_ : ndarray of shape (n_samples,n_classes)
        Probabilities of the training rows by the networks that had held them out, to
        stack or calibrate by; nan for rows that none had. Not with `X_val`.
    leaderboard_ : DataFrame
        One row for each candidate, best first: its hyperparameters, `validation_loss`, `weight` in
        the ensemble, `n_iter` and `seconds`.
    history_ : list of dict
        One record for each network and epoch: candidate, estimator, epoch, loss, learning_rate,
        seconds, validation_loss, validation_score.
    n_iter_ : int
        Epochs of the longest fit.
    n_outputs_ : int
        Output units.
    n_features_in_ : int
        Columns seen by `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where X had string column names.

    See Also
    --------
    TabularMLPRegressor : The same for numbers in place of labels.
    MLPTorchClassifier : Takes the place of scikit-learn's MLP, with its numbers.

    Notes
    -----
    Numbers are scaled by median and quartiles and clipped smoothly [4]_. Missing ones are the
    median, with an indicator where `fit` saw some. Categories of at most 64 levels are one-hot,
    others learned vectors of length 16; missing ones are a level of their own, which unknown ones
    share. Constant columns are left out. Sparse X is scaled by its maxima, and has no embedding.
    Weights of rows count in the loss, but which rows a network holds out does not depend on them.

    Each network has two layers of 256 relu units, dropout of 0.15 (less for regressions on more
    than 5000 rows), and trains by AdamW with a rate that falls along half a cosine; it keeps its
    best epoch. Outputs are averaged.

    References
    ----------
    .. [1] Y. Gorishniy, I. Rubachev and A. Babenko, "On embeddings for numerical features in tabular
       deep learning", NeurIPS 2022, :arxiv:`2203.05556`. The first layer is the linear map of
       each feature.
    .. [2] L. Li et al., "A system for massively parallel hyperparameter tuning", MLSys 2020,
       :arxiv:`1810.05934`.
    .. [3] R. Caruana et al., "Ensemble selection from libraries of models", ICML 2004.
    .. [4] D. Holzmüller, L. Grinsztajn and I. Steinwart, "Better by default: strong pre-tuned MLPs and
       boosted trees on tabular data", NeurIPS 2024, :arxiv:`2407.04491`.

    Examples
    --------
    >>> import pandas as pd
    >>> from sktorch_mlp import TabularMLPClassifier
    >>> X = pd.DataFrame({"age": [23, 41, None, 35] * 25, "job": ["cook", "pilot", "cook", None] * 25})
    >>> y = ["no", "yes", "no", "yes"] * 25
    >>> model = TabularMLPClassifier(n_estimators=2, random_state=0).fit(X, y)
    >>> model.score(X, y)
    1.0
    >>> model.predict_proba(X[:3]).shape
    (3, 2)
    >>> len(model.estimators_)
    2
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseTabularMLP._parameter_constraints,
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
    }

    _: KW_ONLY
    class_weight: dict[Any, float] | list[dict[Any, float]] | str | None = None

    def _make_targets(self, y: Any) -> ClassTargets:
        self._label_binarizer = fit_label_binarizer(y)
        self.classes_ = self._label_binarizer.classes_
        return ClassTargets(self._label_binarizer, "log_loss", 0.0, self.class_weight, y)

    @with_callbacks
    @fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Fit the ensemble.

        Parameters
        ----------
        X : frame, {array-like, sparse matrix, Tensor} of shape (n_samples, n_features)
            A table: a DataFrame of pandas, polars or any library that narwhals reads, or an array.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Class labels, or a label indicator matrix for multilabel targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in the loss; None for equal weights.
        X_val : as X, default=None
            Validation rows for all networks, in place of held-out rows of X.
        y_val : array-like of shape (n_val,) or (n_val, n_outputs), default=None
            Targets of X_val.
        sample_weight_val : array-like of shape (n_val,), default=None
            Weights of the rows of X_val.

        Returns
        -------
        self : TabularMLPClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            If the input is invalid: a column of free text, an infinite number, an absent device.
        TypeError
            If a column has times or objects.
        """
        return self._fit(Inputs(X, y, sample_weight), Inputs(X_val, y_val, sample_weight_val))

    def predict(self, X: Any) -> np.ndarray:
        """Predict class labels.

        Parameters
        ----------
        X : frame, {array-like, sparse matrix, Tensor} of shape (n_samples, n_features)
            A table.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Labels, of the dtype of `classes_`; an indicator matrix for multilabel targets.
        """
        outputs = self._predict(X)
        if self._label_binarizer.y_type_ == "multiclass":
            return self.classes_[outputs.argmax(1)]
        return self._label_binarizer.inverse_transform(outputs.ravel() if self.n_outputs_ == 1 else outputs)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict probabilities.

        Parameters
        ----------
        X : frame, {array-like, sparse matrix, Tensor} of shape (n_samples, n_features)
            A table.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
            Probability of each class in the order of `classes_`; for multilabel targets of each label, independently.
        """
        return self._to_probabilities(self._predict(X))

    def _to_probabilities(self, outputs: np.ndarray) -> np.ndarray:
        if self.n_outputs_ == 1:
            return np.hstack([1 - outputs, outputs])
        return outputs / outputs.sum(1, keepdims=True) if self._label_binarizer.y_type_ == "multiclass" else outputs

    @property
    def oof_prediction_(self) -> np.ndarray:
        """Probabilities of the training rows, by networks that had held them out; nan where there is none."""
        return self._to_probabilities(self._held_out_outputs())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


@dataclass(eq=False, repr=False)
class TabularMLPRegressor(RegressorMixin, BaseTabularMLP):
    """Regressor for raw tables: an ensemble of small networks, trained side by side.

    Takes frames as they are, with categories, strings and missing values, and targets of any scale.

    Parameters
    ----------
    n_estimators : int, default=8
        Networks of the ensemble; with `hyperparameters` those of each candidate. With 1 it
        is a single network.
    hidden_layer_sizes : int or array-like of int, default=(256, 256)
        Units of each hidden layer.
    numerical_embedding : {'auto', 'piecewise_linear', 'periodic'} or None, default='auto'
        What the first layer gets of each number beside the number itself. "piecewise_linear"
        is its place in bins with equally many training rows [1]_: at most 32 bins (64 for
        regression), fewer for small data, and 1024 (2048) for all numbers together, but no
        fewer than 4 each. "periodic" is 16 waves of learned frequency [1]_. "auto" is
        "piecewise_linear", which was better on the tables we chose it on, and None for more
        than 256 (512) numbers.
    categorical_features : 'from_dtype', array-like of {str, int, bool} or None, \
            default='from_dtype'
        Columns that are categories: those of dtype category, string and boolean, and objects
        that are strings or booleans; or names, indices or a mask of them; or none. scikit-learn's
        `HistGradientBoostingRegressor` counts only dtype category.
    validation_fraction : float, default=0.125
        Part of the rows that each network holds out, in [0, 0.5]. The networks hold out one
        fold after the other, so that with the defaults each row is held out by one of them.
        With 0 networks train to the end, on all rows. Not used where `X_val` is passed.
    max_iter : int, default=None
        Epochs. None for 60; fewer where these are more than 2000 steps, but at least 10.
    scoring : str, callable or None, default=None
        Score of the held-out rows by which each network keeps its best epoch: a scorer of
        scikit-learn, ``scorer(estimator, X, y)``, whose X is encoded; or None, or "loss", for the
        loss.
    hyperparameters : 'auto', dict or None, default=None
        What the candidates of a pack differ in: a list or distribution of scipy for each name,
        as `sklearn.model_selection.RandomizedSearchCV` takes them. Names are
        `hidden_layer_sizes`, `learning_rate_init`, `weight_decay`, `dropout`,
        `numerical_embedding`, `n_bins`, `n_frequencies`, `batch_size` and `max_iter`. "auto" for
        ours. The first candidate is always that of the default. Losers stop early [2]_, and a greedy
        selection [3]_ by the loss of held-out rows weighs the others. None for no pack.
    n_candidates : int, default=None
        Candidates of a pack; None for 8.
    time_limit : float, default=None
        Seconds that `fit` may take. It ends with the epoch that reaches them, and warns.
        Learning rates fall sooner where there is not time for all epochs.
    device : str or torch.device, default='auto'
        Where to train and predict: "cpu", "cuda", "cuda:1", "mps"; "auto" for a GPU if there is
        one.
    dtype : {'float32', 'float64', 'bfloat16'}, default='float32'
        Precision. With "bfloat16" the products of training round their operands, which takes half the
        time or less on processors that have such products.
    random_state : int, RandomState or None, default=None
        Source of initial weights, folds, orders and dropout. Pass an int for the same
        results again.
    verbose : bool, default=False
        Whether to print a line for each epoch.

    Attributes
    ----------
    estimators_ : list of TabularMLPRegressor
        The networks as fitted estimators, in the same memory.
    estimator_weights_ : ndarray of shape (n_fitted,)
        Weight of each of `estimators_` in the average; they sum to one.
    oof_prediction_ : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Predictions of the training rows by the networks that had held them out, to
        stack or calibrate by; nan for rows that none had. Not with `X_val`.
    leaderboard_ : DataFrame
        One row for each candidate, best first: its hyperparameters, `validation_loss`, `weight` in
        the ensemble, `n_iter` and `seconds`.
    history_ : list of dict
        One record for each network and epoch: candidate, estimator, epoch, loss, learning_rate,
        seconds, validation_loss, validation_score.
    n_iter_ : int
        Epochs of the longest fit.
    n_outputs_ : int
        Output units.
    n_features_in_ : int
        Columns seen by `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where X had string column names.

    See Also
    --------
    TabularMLPClassifier : The same for labels in place of numbers.
    MLPTorchRegressor : Takes the place of scikit-learn's MLP, with its numbers.

    Notes
    -----
    Numbers are scaled by median and quartiles and clipped smoothly [4]_. Missing ones are the
    median, with an indicator where `fit` saw some. Categories of at most 64 levels are one-hot,
    others learned vectors of length 16; missing ones are a level of their own, which unknown ones
    share. Constant columns are left out. Sparse X is scaled by its maxima, and has no embedding.
    Weights of rows count in the loss, but which rows a network holds out does not depend on them.

    Each network has two layers of 256 relu units, dropout of 0.15 (less for regressions on more
    than 5000 rows), and trains by AdamW with a rate that falls along half a cosine; it keeps its
    best epoch. Outputs are averaged in the unit of the target, which is standardized in training.

    References
    ----------
    .. [1] Y. Gorishniy, I. Rubachev and A. Babenko, "On embeddings for numerical features in tabular
       deep learning", NeurIPS 2022, :arxiv:`2203.05556`. The first layer is the linear map of
       each feature.
    .. [2] L. Li et al., "A system for massively parallel hyperparameter tuning", MLSys 2020,
       :arxiv:`1810.05934`.
    .. [3] R. Caruana et al., "Ensemble selection from libraries of models", ICML 2004.
    .. [4] D. Holzmüller, L. Grinsztajn and I. Steinwart, "Better by default: strong pre-tuned MLPs and
       boosted trees on tabular data", NeurIPS 2024, :arxiv:`2407.04491`.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sktorch_mlp import TabularMLPRegressor
    >>> X, y = load_diabetes(return_X_y=True, as_frame=True)
    >>> model = TabularMLPRegressor(n_estimators=2, random_state=0).fit(X, y)
    >>> model.predict(X[:3]).shape
    (3,)
    >>> model.score(X, y) > 0.4
    True
    """

    def _make_targets(self, y: Any) -> StandardizedTargets:
        self._targets = StandardizedTargets(y)
        self._is_1d = y.ndim == 1
        return self._targets

    @with_callbacks
    @fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Fit the ensemble.

        Parameters
        ----------
        X : frame, {array-like, sparse matrix, Tensor} of shape (n_samples, n_features)
            A table: a DataFrame of pandas, polars or any library that narwhals reads, or an array.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Target values.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in the loss; None for equal weights.
        X_val : as X, default=None
            Validation rows for all networks, in place of held-out rows of X.
        y_val : array-like of shape (n_val,) or (n_val, n_outputs), default=None
            Targets of X_val.
        sample_weight_val : array-like of shape (n_val,), default=None
            Weights of the rows of X_val.

        Returns
        -------
        self : TabularMLPRegressor
            The fitted estimator.

        Raises
        ------
        ValueError
            If the input is invalid: a column of free text, an infinite number, an absent device.
        TypeError
            If a column has times or objects.
        """
        return self._fit(Inputs(X, y, sample_weight), Inputs(X_val, y_val, sample_weight_val))

    def predict(self, X: Any) -> np.ndarray:
        """Predict target values.

        Parameters
        ----------
        X : frame, {array-like, sparse matrix, Tensor} of shape (n_samples, n_features)
            A table.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Predicted values.
        """
        return self._to_numbers(self._predict(X))

    def _to_numbers(self, outputs: np.ndarray) -> np.ndarray:
        predicted = self._targets.decode(outputs)
        return predicted.ravel() if self._is_1d else predicted

    @property
    def oof_prediction_(self) -> np.ndarray:
        """Predictions for the training rows, by networks that had held them out; nan where there is none."""
        return self._to_numbers(self._held_out_outputs())
