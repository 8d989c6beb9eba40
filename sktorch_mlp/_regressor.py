"""MLPTorchRegressor: numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
from sklearn.base import RegressorMixin, _fit_context
from sklearn.callback import with_callbacks
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if

from ._arrays import to_numpy
from ._base import BaseMLPTorch
from ._losses import AbsoluteError, HalfPoissonDeviance, HalfSquaredError, HuberLoss, Loss, QuantileLoss

_LOSSES: dict[str, Callable[[int], Loss]] = {
    "squared_error": HalfSquaredError,
    "poisson": HalfPoissonDeviance,
    "absolute_error": AbsoluteError,
    "huber": HuberLoss,
}


class MLPTorchRegressor(RegressorMixin, BaseMLPTorch):
    """Multilayer perceptron regressor with scikit-learn's interface and numbers, trained by PyTorch.

    Takes the place of `sklearn.neural_network.MLPRegressor`: same parameters, in the same
    order, then those that it lacks.

    Parameters
    ----------
    loss : {'squared_error', 'poisson', 'absolute_error', 'huber', 'quantile'} or callable, \
            default='squared_error'
        Loss to minimise: half the squared error; half the Poisson deviance with an
        exponential output, for targets ``y >= 0`` (both as scikit-learn has them); the
        absolute error; Huber's loss, linear for errors above 1 (scale the target); or the pinball
        loss of `quantile`. A function is called as ``loss(y_pred, y)`` with tensors of shape
        (n_rows,) or (n_rows, n_outputs), and gives a loss for each row, or their mean where
        rows have no weights. Losses that scikit-learn lacks are means over outputs.
    hidden_layer_sizes : int or sequence of int, default=(100,)
        Units of each hidden layer; ``()`` gives a linear model.
    activation : str, callable or sequence of these, default='relu'
        Activation of the hidden layers: 'identity', 'logistic', 'tanh', 'relu',
        'leaky_relu', 'elu', 'selu', 'gelu', 'silu', 'mish', any elementwise function of a
        tensor such as `torch.nn.functional.softplus`, or a sequence of one for each layer.
    solver : {'lbfgs', 'sgd', 'adam', 'adamw'} or class of `torch.optim`, default='adam'
        Stochastic gradient descent, Adam [1]_, Adam with decoupled weight decay [4]_, or the
        quasi-Newton method L-BFGS [2]_, which suits small data. Or the class of any
        optimiser of PyTorch's, see `solver_params`.
    alpha : float, default=0.0001
        Strength of the L2 penalty on the weights, not on the intercepts:
        ``0.5 * alpha * sum(w**2) / n`` is added to the mean loss of a batch of n rows,
        with every solver.
    batch_size : int or 'auto', default='auto'
        Rows of a mini-batch; "auto" is ``min(200, n_samples)``. A short last batch is
        kept. Not used by lbfgs.
    learning_rate : {'constant', 'invscaling', 'adaptive', 'cosine', 'one_cycle'}, \
            default='constant'
        Schedule: constant; divided by ``(rows seen + 1) ** power_t`` after each epoch;
        divided by 5 at each plateau; a cosine from `learning_rate_init` to zero over
        `max_iter` epochs, as `torch.optim.lr_scheduler.CosineAnnealingLR`; or up to
        `learning_rate_init` and down again, batch by batch, as `OneCycleLR` (momentum
        stays). These two are followed to their end unless early stopping stops them. As in scikit-learn, adam ignores 'invscaling' and 'adaptive', and lbfgs all.
    learning_rate_init : float, default=0.001
        Learning rate of the stochastic solvers, the highest one of a schedule.
    power_t : float, default=0.5
        Exponent of "invscaling".
    max_iter : int, default=200
        Most epochs, or most iterations of lbfgs.
    shuffle : bool, default=True
        Whether to shuffle the rows before each epoch. Not used by lbfgs.
    random_state : int, RandomState instance or None, default=None
        Source of the initial weights, the validation split, the order of rows and the masks of dropout. With
        an int or an instance numpy's and PyTorch's global states are left alone; None
        draws from numpy's, as everywhere in scikit-learn.
    tol : float, default=1e-4
        By how much the loss (or validation score) must improve; for lbfgs the largest
        component of the gradient at which to stop.
    verbose : bool, default=False
        Print the loss of each epoch.
    warm_start : bool, default=False
        Whether `fit` goes on from the fitted weights.
    momentum : float, default=0.9
        Momentum of sgd, in [0, 1].
    nesterovs_momentum : bool, default=True
        Whether sgd's momentum is Nesterov's.
    early_stopping : bool, default=False
        Whether to set rows aside, or to take `X_val`, to stop when the score has not improved by `tol` for
        more than `n_iter_no_change` epochs, and to keep the weights of the best epoch.
        Otherwise training stops on a plateau of the training loss. Not used by lbfgs.
    validation_fraction : float, default=0.1
        Share of rows set aside for early stopping without `X_val`.
    beta_1, beta_2 : float, default=0.9, 0.999
        Decay rates of the moments of adam and adamw, in [0, 1).
    epsilon : float, default=1e-8
        Added to the denominator of adam and adamw.
    n_iter_no_change : int or inf, default=10
        Epochs without improvement after which the stochastic solvers stop.
    max_fun : int, default=15000
        Most evaluations of the loss by lbfgs.
    device : str or torch.device, default='auto'
        Where to train and predict: "cpu", "cuda", "cuda:1", "mps" or a `torch.device`.
        "auto" is CUDA if there is one, else Apple's MPS, else the CPU.
    dtype : {'auto', 'float32', 'float64', 'bfloat16'}, default='auto'
        Precision of weights and arithmetic. "auto" does on the CPU what scikit-learn
        does, float32 for float32 X and float64 for all other, and takes float32 on a
        GPU. "float32" about halves the time. "bfloat16" keeps weights in float32 and rounds
        the operands of the products of training, which pays for wide layers on processors
        and GPUs that have such products.
    quantile : float, default=0.5
        Level of the quantile that ``loss="quantile"`` is after, in (0, 1).
    dropout : float or sequence of float, default=0.0
        Probability with which a hidden unit is dropped in training [5]_, in [0, 1), one for
        all hidden layers or one each. 0.1 to 0.5 helps wide networks that overfit. Not for
        lbfgs.
    normalization : {None, 'batch', 'layer'}, default=None
        Batch normalization [6]_ or layer normalization [7]_ of the hidden layers, before
        the activation. "batch" speeds up deep networks; in training rows count by their
        weight, for predictions it uses running means. Not "batch" for lbfgs.
    weight_init : str or ('normal', std), default='auto'
        Initial weights: "auto" as scikit-learn [3]_; 'glorot_uniform', 'glorot_normal',
        'he_uniform', 'he_normal', 'lecun_normal' or 'orthogonal' as `torch.nn.init` has
        them, or normal with the given standard deviation, all with intercepts of zero; or
        'torch', the default of `torch.nn.Linear`.
    weight_decay : float or 'auto', default='auto'
        Decoupled decay of adamw, 0.01 if "auto": at each step weights, but not intercepts, shrink by
        ``learning_rate * weight_decay``. `alpha` acts as well; set it to 0 for the decay
        alone. Not for other solvers.
    solver_params : dict or None, default=None
        What a class given as `solver` takes beside parameters and ``lr``, such as
        ``{"momentum": 0.9, "weight_decay": 1e-4}``. `momentum`, `beta_1` and so on are not
        passed to it.
    warmup_fraction : float or 'auto', default='auto'
        Share of `max_iter` in which "cosine" and "one_cycle" rise, batch by batch. "auto" is
        none for "cosine" and 0.3 for "one_cycle".
    gradient_clip_norm : float or None, default=None
        Norm to which larger gradients, of all parameters together, are scaled down before
        each step, as by `torch.nn.utils.clip_grad_norm_`. Not for lbfgs.
    scoring : str, callable or None, default=None
        What judges validation rows: None for R², "loss" for the loss (negated),
        or the name of a scorer or a scorer of scikit-learn's. Without validation rows
        nothing is scored.
    callbacks : list of skorch callbacks or None, default=None
        Instances, classes, or ``(name, callback)`` pairs; see the guide. scikit-learn's
        callbacks are set by `set_callbacks`. Not for lbfgs.

    Attributes
    ----------
    coefs_ : list of ndarray of shape (n_in, n_out)
        Weights of each layer. What is written here, in place or anew, predicts.
    intercepts_ : list of ndarray of shape (n_out,)
        Intercepts of each layer, likewise.
    normalizations_ : list of dict of ndarray
        What the normalization of each hidden layer has learned, by PyTorch's names:
        "weight", "bias" and, for batch normalization, "running_mean", "running_var".
    module_ : torch.nn.Sequential
        The network as plain modules; the last gives logits, before `out_activation_`.
        On the CPU it shares the memory of `coefs_` and `intercepts_`.
    device_ : torch.device
        Where the network was fitted and predicts.
    loss_ : float
        Loss of the last epoch, penalty included.
    loss_curve_ : list of float
        Loss of each epoch; not for lbfgs.
    best_loss_ : float or None
        Least loss of an epoch; None with early stopping.
    validation_scores_ : list of float or None
        Score of the validation rows after each epoch, see `scoring`; None without.
    validation_loss_curve_ : list of float or None
        Loss of the validation rows after each epoch, without penalty.
    best_validation_score_ : float or None
        Best of the scores; early stopping only.
    best_n_iter_ : int or None
        Epoch of the best score, counted from 1; early stopping only.
    history_ : list of dict
        One record an epoch, or iteration of lbfgs: epoch, loss (penalty included),
        validation_loss (without), validation_score, learning_rate, seconds. ``pandas.DataFrame(model.history_)`` is a table of it.
    n_iter_ : int
        Epochs (or iterations of lbfgs) of the last fit.
    t_ : int
        Rows trained on so far, repeats counted.
    n_layers_ : int
        Layers, input and output included.
    n_outputs_ : int
        Output units.
    out_activation_ : str
        Activation of the outputs: "identity", or "exp" for the Poisson loss.
    n_features_in_ : int
        Features seen by `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, where X had string column names.

    See Also
    --------
    MLPTorchClassifier : The same for labels in place of numbers.
    sklearn.neural_network.MLPRegressor : What it takes the place of.

    Notes
    -----
    On the CPU, with the same `random_state` and data, losses, weights and predictions are
    those of `sklearn.neural_network.MLPRegressor` up to rounding, and `n_iter_` is the
    same. With several outputs the squared error is reported as the mean over outputs but
    descended as their sum, as in scikit-learn. By default initial weights are uniform after [3]_. A loss that is no longer finite raises
    `ValueError` with the epoch; with early stopping the best epoch before is kept, with a
    warning.

    References
    ----------
    .. [1] D. P. Kingma and J. Ba, "Adam: A method for stochastic optimization", 2014,
       :arxiv:`1412.6980`. Epsilon stands outside the bias correction, as in scikit-learn.
    .. [2] R. H. Byrd, P. Lu, J. Nocedal and C. Zhu, "A limited memory algorithm for bound
       constrained optimization", SIAM J. Sci. Comput. 16(5), 1995; scipy's L-BFGS-B.
    .. [3] X. Glorot and Y. Bengio, "Understanding the difficulty of training deep
       feedforward neural networks", AISTATS 2010: the initial weights.
    .. [4] I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", 2019,
       :arxiv:`1711.05101`. Epsilon stands inside the bias correction, as in PyTorch.
    .. [5] N. Srivastava et al., "Dropout: A simple way to prevent neural networks from
       overfitting", JMLR 15, 2014.
    .. [6] S. Ioffe and C. Szegedy, "Batch normalization", 2015, :arxiv:`1502.03167`.
    .. [7] J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer normalization", 2016,
       :arxiv:`1607.06450`.

    Examples
    --------
    >>> from sklearn.compose import TransformedTargetRegressor
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sktorch_mlp import MLPTorchRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> mlp = MLPTorchRegressor(solver="lbfgs", alpha=1.0, tol=1e-3, max_iter=5000, random_state=0)
    >>> regressor = TransformedTargetRegressor(make_pipeline(StandardScaler(), mlp), transformer=StandardScaler())
    >>> regressor.fit(X, y).score(X, y) > 0.6
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseMLPTorch._parameter_constraints,
        "loss": [StrOptions({*_LOSSES, "quantile"}), callable],
        "quantile": [Interval(Real, 0, 1, closed="neither")],
    }

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
        quantile=0.5,
        dropout=0.0,
        normalization=None,
        weight_init="auto",
        weight_decay="auto",
        solver_params=None,
        warmup_fraction="auto",
        gradient_clip_norm=None,
        scoring=None,
        callbacks=None,
    ):
        self._store(locals())

    def _learn_targets(self, y: Any, *, incremental: bool) -> None:
        self._n_targets = 1 if y.ndim == 1 else y.shape[1]

    def _encode_targets(self, y: Any, dtype: np.dtype) -> np.ndarray:
        y = y.toarray() if sp.issparse(y) else y
        if y.dtype.kind not in "fiub":
            raise ValueError(f"y must be numeric, but has dtype {y.dtype}. Convert it to float.")
        if self.loss == "poisson" and np.min(y) < 0:
            raise ValueError("loss='poisson' requires y >= 0, but y has negative values. Use loss='squared_error'.")
        return np.ascontiguousarray(np.atleast_2d(y.T), dtype=dtype)

    def _check_validation_targets(self, y: Any) -> None:
        n_targets = 1 if y.ndim == 1 else y.shape[1]
        if n_targets != self._n_targets:
            raise ValueError(f"y_val has {n_targets} columns, but y has {self._n_targets}.")

    def _own_loss(self) -> Loss:
        if callable(self.loss):
            return HalfSquaredError(self._n_targets)
        if self.loss == "quantile":
            return QuantileLoss(self._n_targets, self.quantile)
        return _LOSSES[self.loss](self._n_targets)

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, *, X_val=None, y_val=None, sample_weight_val=None):
        """Fit the network to training data.

        Parameters
        ----------
        X : {array-like, sparse matrix, Tensor} of shape (n_samples, n_features)
            Training input; float32 stays float32, see `dtype`.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Target values; not negative for ``loss="poisson"``.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in the loss; None weighs all alike.
        X_val : {array-like, sparse matrix, Tensor} of shape (n_val, n_features), default=None
            Validation input. Scored after each epoch and, with early stopping, judged by in
            place of rows of X that are set aside. In a `Pipeline` it reaches this step
            untransformed unless the pipeline has ``transform_input=["X_val"]``.
        y_val : array-like of shape (n_val,) or (n_val, n_outputs), default=None
            Target values of X_val.
        sample_weight_val : array-like of shape (n_val,), default=None
            Weights of X_val's rows in validation loss and score.

        Returns
        -------
        self : MLPTorchRegressor
            The fitted estimator.

        Raises
        ------
        ValueError
            If the input is invalid, the device is absent, or the loss diverges.
        """
        return self._fit(X, y, sample_weight, (X_val, y_val, sample_weight_val))

    @available_if(lambda self: self._check_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, sample_weight=None, *, X_val=None, y_val=None, sample_weight_val=None):
        """Train one epoch over the given data, going on from the present state.

        Parameters
        ----------
        X : {array-like, sparse matrix, Tensor} of shape (n_samples, n_features)
            Training input.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Target values.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in the loss.
        X_val, y_val, sample_weight_val : default=None
            Validation data as in `fit`; required with ``early_stopping=True``. Nothing is
            stopped or restored between calls: compare `best_n_iter_` with the length of
            `loss_curve_`.

        Returns
        -------
        self : MLPTorchRegressor
            The trained estimator.
        """
        return self._fit(X, y, sample_weight, (X_val, y_val, sample_weight_val), incremental=True)

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

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = self.loss == "poisson"
        return tags
