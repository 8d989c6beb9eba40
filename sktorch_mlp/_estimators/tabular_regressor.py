"""TabularMLPRegressor: raw tables in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from .array_api import follows_input, for_metric
from .compat import RegressorMixin, fit_context, with_callbacks
from .inputs import Inputs
from .plain import Converter, of_class
from .tabular import BaseTabularMLP
from .tabular_conversions import ConvertibleEnsemble
from .targets import StandardizedTargets


@dataclass(eq=False, repr=False)
class TabularMLPRegressor(RegressorMixin, ConvertibleEnsemble):
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
        is its place in bins with equally many training rows [1]_: at most 64 bins, fewer below
        2560 rows, and 2048 for all numbers together, but no fewer than 4 each; four times as
        many where one value fills most rows. "periodic" is 16 waves of learned frequency [1]_,
        and bins of such a number.
        "auto" is "piecewise_linear" for one half of the networks and "periodic" for the other,
        since they err differently. It is None for more than 512 numbers.
    categorical_features : 'from_dtype', array-like of {str, int, bool} or None, \
            default='from_dtype'
        Columns that are categories: those of dtype category, string and boolean, and objects
        that are strings or booleans; or names, indices or a mask of them; or none. scikit-learn's
        `HistGradientBoostingRegressor` counts only dtype category.
    validation_fraction : float, default=0.125
        Part of the rows that each network holds out, in [0, 0.5], rounded to 1/2, 1/3, 1/4 ….
        The networks hold out one fold after the other, so that with the defaults each row is
        held out by one of them. With 0 networks train to the end, on all rows. Not used where
        `X_val` is passed.
    max_iter : int, default=None
        Epochs. None for 60; fewer where these are more than 2000 steps, but at least 10. With
        held-out rows training ends before, where no network has become better for 12 epochs.
    scoring : str, callable or None, default=None
        Score of the held-out rows by which each network keeps its best epoch: a scorer of
        scikit-learn, ``scorer(estimator, X, y)``, whose X is encoded; "loss" for the loss; None for
        the loss at the best scale of the logits, since the average undoes what each network is
        too sure of [5]_. A single network has none to average with: None is "loss".
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
        stack or calibrate by; nan for rows that none had, and for those of weight zero. Not with
        `X_val`.
    leaderboard_ : DataFrame
        One row for each candidate, best first: its number, hyperparameters, `validation_loss`, `weight` in
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
    .. [5] R. Ranjan et al., "Post-hoc reversal: are we selecting models prematurely?", NeurIPS 2024,
       :arxiv:`2404.07815`.

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

    _converters: ClassVar[dict[str, Converter]] = {
        **BaseTabularMLP._converters,
        "_targets": of_class(StandardizedTargets),
    }

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

    @follows_input
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

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Coefficient of determination R² of the predictions, averaged over outputs.

        Parameters
        ----------
        X : frame, {array-like, sparse matrix, Tensor} of shape (n_samples, n_features)
            A table.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            True values.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        score : float
            R²; 1 is perfect, 0 as good as the mean.
        """
        return super().score(X, for_metric(y, "y"), for_metric(sample_weight, "sample_weight"))

    def _to_numbers(self, outputs: np.ndarray) -> np.ndarray:
        predicted = self._targets.decode(outputs)
        return predicted.ravel() if self._is_1d else predicted

    @property
    def oof_prediction_(self) -> np.ndarray:
        """Predictions for the training rows, by networks that had held them out; nan where there is none."""
        return self._to_numbers(self._held_out_outputs())
