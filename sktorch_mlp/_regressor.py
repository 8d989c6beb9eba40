"""MLPTorchRegressor: numbers in, numbers out."""

from __future__ import annotations

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if

from ._base import BaseMLPTorch, to_numpy
from ._losses import HalfPoissonDeviance, HalfSquaredError, Loss

_LOSSES: dict[str, type[Loss]] = {"squared_error": HalfSquaredError, "poisson": HalfPoissonDeviance}


class MLPTorchRegressor(RegressorMixin, BaseMLPTorch):
    """DOC"""

    _parameter_constraints = {**BaseMLPTorch._parameter_constraints, "loss": [StrOptions(set(_LOSSES))]}

    def __init__(
        self,
        loss="squared_error",
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
        super().__init__(
            hidden_layer_sizes,
            activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
            max_fun=max_fun,
            device=device,
            dtype=dtype,
        )
        self.loss = loss

    def _encode_targets(self, y: np.ndarray, dtype: np.dtype, *, incremental: bool) -> tuple[np.ndarray, Loss]:
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if self.loss == "poisson" and np.min(y) < 0:
            raise ValueError("loss='poisson' requires y >= 0, but y has negative values. Use loss='squared_error'.")
        targets = np.ascontiguousarray(np.atleast_2d(y.T), dtype=dtype)
        return targets, _LOSSES[self.loss](len(targets))

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Fit the network to training data.

        Parameters
        ----------
        X : {array-like, sparse matrix, Tensor} of shape (n_samples, n_features)
            Training input; float32 stays float32, see `dtype`.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Target values; not negative for ``loss="poisson"``.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in the loss; None weighs all alike.

        Returns
        -------
        self : MLPTorchRegressor
            The fitted estimator.

        Raises
        ------
        ValueError
            If the input is invalid, the device is absent, or the loss diverges.
        """
        return self._fit(X, y, sample_weight)

    @available_if(lambda self: self._check_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, sample_weight=None):
        """Train one epoch over the given data, going on from the present state.

        Parameters
        ----------
        X : {array-like, sparse matrix, Tensor} of shape (n_samples, n_features)
            Training input.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Target values.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in the loss.

        Returns
        -------
        self : MLPTorchRegressor
            The trained estimator.
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X):
        """Predict target values.

        Parameters
        ----------
        X : {array-like, sparse matrix, Tensor} of shape (n_samples, n_features)
            Input.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Predicted values.
        """
        outputs = self._predict_outputs(X)
        return outputs.ravel() if self.n_outputs_ == 1 else outputs

    def score(self, X, y, sample_weight=None):
        """Coefficient of determination R² of the predictions, averaged over outputs.

        Parameters
        ----------
        X : {array-like, sparse matrix, Tensor} of shape (n_samples, n_features)
            Test input.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            True values.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        score : float
            R²; 1 is perfect, 0 as good as the mean.
        """
        return super().score(X, to_numpy(y), to_numpy(sample_weight))
