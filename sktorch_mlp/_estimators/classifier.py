"""MLPTorchClassifier: labels in, labels and probabilities out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.multiclass import type_of_target

from sktorch_mlp._nn.activations import ActivationLike

from . import targets
from .array_api import follows_input, for_metric, library_of, to_host
from .base import BaseMLPTorch
from .compat import (
    ClassifierMixin,
    Interval,
    StrOptions,
    available_if,
    check_partial_fit_first_call,
    fit_context,
    with_callbacks,
)
from .conversions import ConvertibleClassifier
from .fitted import classes_forgotten_after_errors
from .inputs import Inputs
from .plain import Converter
from .targets import ClassTargets, LossLike


@dataclass(eq=False, repr=False)
class MLPTorchClassifier(ClassifierMixin, ConvertibleClassifier):
    """Multilayer perceptron classifier with the interface and numbers of scikit-learn, trained by PyTorch.

    Takes the place of `sklearn.neural_network.MLPClassifier`: the same parameters, and those that it lacks. It minimizes
    the log-loss of softmax outputs, or of logistic outputs for binary and multilabel targets.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(100,)
        Units of each hidden layer; ``()`` gives a linear model.
    activation : str, callable or sequence of these, default='relu'
        Activation of the hidden layers: 'identity', 'logistic', 'tanh', 'relu',
        'leaky_relu', 'elu', 'selu', 'gelu', 'silu', 'mish', any elementwise function of a
        tensor such as `torch.nn.functional.softplus`, or a sequence of one for each layer.
    loss : 'log_loss' or callable, default='log_loss'
        Loss to minimize. A function is called as ``loss(logits, y)`` with tensors of shape
        (n_rows, n_classes) and (n_rows,), class indices, like
        `torch.nn.functional.cross_entropy`; for binary targets (n_rows,) and (n_rows,), for
        multilabel ones (n_rows, n_labels) both, of 0 and 1. It returns the loss of each row,
        or their mean where rows have no weights.
    solver : {'lbfgs', 'sgd', 'adam', 'adamw'} or class of `torch.optim`, default='adam'
        Stochastic gradient descent, Adam [1]_, Adam with decoupled weight decay [4]_, or
        the quasi-Newton method L-BFGS [2]_, which suits small data. Or an optimizer class
        of PyTorch, see `solver_params`.
    alpha : float, default=0.0001
        Strength of the L2 penalty on the weights, not on the intercepts:
        ``0.5 * alpha * sum(w**2) / n`` is added to the mean loss of a batch of n rows,
        with every solver.
    batch_size : int or 'auto', default='auto'
        Rows of a mini-batch; "auto" is ``min(200, n_samples)``. A short last batch is
        kept. Not used by lbfgs.
    learning_rate : {'constant', 'invscaling', 'adaptive', 'cosine', 'one_cycle'}, \
            default='constant'
        Learning rate schedule: constant; divided by ``(rows seen + 1) ** power_t`` after
        each epoch; divided by 5 at each plateau; a cosine from `learning_rate_init` to zero
        over `max_iter` epochs, as `torch.optim.lr_scheduler.CosineAnnealingLR`; or up to
        `learning_rate_init` and down again, batch by batch, as `OneCycleLR` without its
        cycle of the momentum. "cosine" and "one_cycle" run for `max_iter` epochs unless
        early stopping ends them. As in scikit-learn, adam ignores "invscaling" and
        "adaptive", and lbfgs ignores all.
    learning_rate_init : float, default=0.001
        Learning rate of the stochastic solvers; the highest one of a schedule.
    power_t : float, default=0.5
        Exponent of "invscaling".
    max_iter : int, default=200
        Maximum number of epochs, or of iterations of lbfgs.
    shuffle : bool or 'blocks', default=True
        Whether to shuffle the rows before each epoch; "blocks" shuffles blocks of neighbors
        and then rows within 32 MiB, which is faster on disk. Not used by lbfgs.
    random_state : int, RandomState instance or None, default=None
        Source of the initial weights, the validation split, the order of rows and dropout
        masks. With an int or an instance the global states of numpy and PyTorch are left
        alone. None draws from that of numpy, as everywhere in scikit-learn.
    tol : float, default=1e-4
        Minimum improvement of the loss (or validation score); for lbfgs the largest
        component of the gradient at which to stop.
    verbose : bool, default=False
        Whether to print the loss of each epoch.
    warm_start : bool, default=False
        Whether `fit` starts from the fitted weights.
    momentum : float, default=0.9
        Momentum of sgd, in [0, 1].
    nesterovs_momentum : bool, default=True
        Whether sgd uses Nesterov's momentum.
    early_stopping : bool, default=False
        Whether to stop when the score of validation rows, held out or `X_val`, has not
        improved by `tol` for more than `n_iter_no_change` epochs, and to keep the weights of
        the best epoch. Otherwise training stops on a plateau of the training loss. Not used
        by lbfgs.
    validation_fraction : float, default=0.1
        Fraction of rows held out for early stopping without `X_val`, stratified for binary targets.
    beta_1, beta_2 : float, default=0.9, 0.999
        Decay rates of the moments of adam and adamw, in [0, 1).
    epsilon : float, default=1e-8
        Added to the denominator of adam and adamw.
    n_iter_no_change : int or inf, default=10
        Maximum number of epochs without improvement of the stochastic solvers.
    max_fun : int, default=15000
        Maximum number of evaluations of the loss by lbfgs.
    device : str or torch.device, default='auto'
        Device for training and prediction: "cpu", "cuda", "cuda:1", "mps" or a
        `torch.device`. "auto" is CUDA if there is one, else Apple's MPS, else the CPU.
    dtype : {'auto', 'float32', 'float64', 'bfloat16'}, default='auto'
        Precision of weights and arithmetic. "auto" does on the CPU what scikit-learn does,
        float32 for float32 X and float64 for all other, and takes float32 on a GPU.
        "float32" about halves the time. "bfloat16" keeps weights in float32 and rounds
        operands and results of the products of training, which pays for wide layers on
        hardware with such products.
    dropout : float or sequence of float, default=0.0
        Probability with which a hidden unit is dropped in training [5]_, in [0, 1): one for
        all hidden layers, or one for each. 0.1 to 0.5 helps wide networks that overfit. Not
        for lbfgs.
    normalization : {None, 'batch', 'layer'}, default=None
        Batch normalization [6]_ or layer normalization [7]_ of the hidden layers, before
        the activation. "batch" speeds up deep networks. It weights the rows of a batch by
        their sample weight, and predicts with running means. Not "batch" for lbfgs.
    weight_init : str or ('normal', std), default='auto'
        Initial weights: "auto" as scikit-learn [3]_; 'glorot_uniform', 'glorot_normal',
        'he_uniform', 'he_normal', 'lecun_normal' or 'orthogonal' as in `torch.nn.init`, or
        normal with the given standard deviation, all with intercepts of zero; or 'torch',
        the default of `torch.nn.Linear`.
    weight_decay : float or 'auto', default='auto'
        Decoupled weight decay of adamw, 0.01 if "auto": at each step weights, but not
        intercepts, shrink by ``learning_rate * weight_decay``. `alpha` acts as well; set it
        to 0 for the decay alone. Not for other solvers.
    solver_params : dict or None, default=None
        Arguments of a class passed as `solver`, without parameters and ``lr``, such as
        ``{"momentum": 0.9, "weight_decay": 1e-4}``. `momentum`, `beta_1` and so on are not
        passed to it.
    warmup_fraction : float or 'auto', default='auto'
        Fraction of `max_iter` in which the rate of "cosine" and "one_cycle" rises, batch by
        batch. "auto" is 0 for "cosine" and 0.3 for "one_cycle".
    gradient_clip_norm : float or None, default=None
        Norm to which larger gradients, of all parameters together, are scaled down before
        each step, as by `torch.nn.utils.clip_grad_norm_`. Not for lbfgs.
    scoring : str, callable or None, default=None
        Score of the validation rows: None for accuracy, "loss" for the negated loss, or
        the name of a scorer or a scorer of scikit-learn. Without validation rows nothing is
        scored.
    callbacks : list of skorch callbacks or None, default=None
        Instances, classes, or ``(name, callback)`` pairs; see the user guide. Pass callbacks
        of scikit-learn to `set_callbacks`. Not for lbfgs.
    class_weight : dict, list of dict, 'balanced' or None, default=None
        Weights of the classes in the loss, ``{label: weight}``, multiplied by
        `sample_weight`. Scores do not use them. "balanced" is
        ``n_samples / (n_classes * bincount(y))``. For multilabel targets a list of one dict
        for each label.
    label_smoothing : float, default=0.0
        Fraction of the target, in [0, 1), that is spread evenly over the classes [8]_, for
        binary and multilabel targets over 0 and 1. 0.1 is usual. It keeps probabilities off
        0 and 1.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted.
    coefs_ : list of ndarray of shape (n_in, n_out)
        Weights of each layer. Values written here, in place or as new arrays, take effect.
    intercepts_ : list of ndarray of shape (n_out,)
        Intercepts of each layer, likewise.
    normalizations_ : list of dict of ndarray
        Tensors of the normalization of each hidden layer by their names in PyTorch:
        "weight", "bias" and, for batch normalization, "running_mean", "running_var".
    module_ : torch.nn.Sequential
        The network as plain modules. The last one gives logits, before `out_activation_`.
        On the CPU it shares the memory of `coefs_` and `intercepts_`.
    device_ : torch.device
        Device of training and prediction.
    loss_ : float
        Loss of the last epoch, penalty included.
    loss_curve_ : list of float
        Loss of each epoch; not for lbfgs.
    best_loss_ : float or None
        Smallest loss of an epoch; None with early stopping.
    validation_scores_ : list of float or None
        Score of the validation rows after each epoch, see `scoring`; None without such rows.
    validation_loss_curve_ : list of float or None
        Loss of the validation rows after each epoch, without penalty.
    best_validation_score_ : float or None
        Best validation score; early stopping only.
    best_n_iter_ : int or None
        Epoch of the best score, counted from 1; early stopping only.
    history_ : list of dict
        One record for each epoch, or iteration of lbfgs: epoch, loss (penalty included),
        validation_loss (without), validation_score, learning_rate, seconds.
        ``pandas.DataFrame(model.history_)`` makes a table of it.
    n_iter_ : int
        Epochs (or iterations of lbfgs) of the last fit.
    t_ : int
        Rows trained on so far, repeats counted.
    n_layers_ : int
        Layers, input and output included.
    n_outputs_ : int
        Output units.
    out_activation_ : str
        Activation of the outputs: "softmax", or "logistic" for binary and multilabel targets.
    n_features_in_ : int
        Features seen by `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, where X had string column names.

    See Also
    --------
    MLPTorchRegressor : The same for numbers in place of labels.
    sklearn.neural_network.MLPClassifier : The estimator whose place it takes.

    Notes
    -----
    On the CPU, with the same `random_state` and data, losses, weights and predictions are
    those of `sklearn.neural_network.MLPClassifier` up to rounding, and `n_iter_` is the
    same. A loss that is no longer finite raises `ValueError` with the epoch. With early
    stopping the best epoch before is kept, with a warning.

    References
    ----------
    .. [1] D. P. Kingma and J. Ba, "Adam: A method for stochastic optimization", 2014,
       :arxiv:`1412.6980`. Epsilon stands outside the bias correction, as in scikit-learn.
    .. [2] R. H. Byrd, P. Lu, J. Nocedal and C. Zhu, "A limited memory algorithm for bound
       constrained optimization", SIAM J. Sci. Comput. 16(5), 1995; scipy's L-BFGS-B.
    .. [3] X. Glorot and Y. Bengio, "Understanding the difficulty of training deep
       feedforward neural networks", AISTATS 2010.
    .. [4] I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", 2019,
       :arxiv:`1711.05101`. Epsilon stands inside the bias correction, as in PyTorch.
    .. [5] N. Srivastava et al., "Dropout: A simple way to prevent neural networks from
       overfitting", JMLR 15, 2014.
    .. [6] S. Ioffe and C. Szegedy, "Batch normalization", 2015, :arxiv:`1502.03167`.
    .. [7] J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer normalization", 2016,
       :arxiv:`1607.06450`.
    .. [8] C. Szegedy et al., "Rethinking the Inception architecture", 2015,
       :arxiv:`1512.00567`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import train_test_split
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sktorch_mlp import MLPTorchClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
    >>> model = make_pipeline(StandardScaler(), MLPTorchClassifier(max_iter=1000, random_state=0))
    >>> model.fit(X_train, y_train).score(X_test, y_test) > 0.9
    True
    >>> model.predict_proba(X_test[:2]).shape
    (2, 3)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseMLPTorch._parameter_constraints,
        "loss": [StrOptions({"log_loss"}), callable],
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
    }
    _converters: ClassVar[dict[str, Converter]] = {**BaseMLPTorch._converters, "_label_binarizer": targets.BINARIZER}

    hidden_layer_sizes: int | Sequence[int] = (100,)
    activation: ActivationLike | Sequence[ActivationLike] = "relu"
    _: KW_ONLY
    loss: LossLike = "log_loss"
    class_weight: dict[Any, float] | list[dict[Any, float]] | str | None = None
    label_smoothing: float = 0.0

    def _make_targets(self, y: Any, *, incremental: bool) -> ClassTargets:
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._label_binarizer = targets.fit_label_binarizer(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            targets.check_known_classes(y, self._label_binarizer, same=self.warm_start)
        if incremental:
            targets.check_unbalanced(self.class_weight, "partial_fit")
        return ClassTargets(self._label_binarizer, self.loss, self.label_smoothing, self.class_weight, y)

    @with_callbacks
    @fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Fit the network to training data.

        Parameters
        ----------
        X : {array-like, sparse matrix, Tensor} of shape (n_samples, n_features), or chunks
            Training input; float32 stays float32, see `dtype`. A `numpy.memmap`, `zarr.Array` or `h5py.Dataset` stays on
            disk. Without y, an iterable of chunks (X, y[, sample_weight]) that is read for each epoch, a `DataLoader` or a list.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Class labels, or a label indicator matrix for multilabel targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in the loss; None for equal weights.
        X_val : {array-like, sparse matrix, Tensor} of shape (n_val, n_features), default=None
            Validation input, scored after each epoch. With early stopping it takes the place
            of held-out rows of X. In a `Pipeline` it reaches this step untransformed unless
            the pipeline has ``transform_input=["X_val"]``.
        y_val : array-like of shape (n_val,) or (n_val, n_outputs), default=None
            Class labels of X_val.
        sample_weight_val : array-like of shape (n_val,), default=None
            Weights of the rows of X_val in validation loss and score.

        Returns
        -------
        self : MLPTorchClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            If the input is invalid, the device is absent, or the loss diverges.
        """
        return self._fit(Inputs(X, y, sample_weight), Inputs(X_val, y_val, sample_weight_val))

    @available_if(BaseMLPTorch._check_solver)
    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        classes: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Train one epoch on the given data, from the present state.

        Parameters
        ----------
        X : {array-like, sparse matrix, Tensor} of shape (n_samples, n_features)
            Training input.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Class labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in the loss.
        classes : array-like of shape (n_classes,), default=None
            All labels that any call will see; required at the first call. `y` need not have them all.
        X_val, y_val, sample_weight_val : default=None
            Validation data as in `fit`; required with ``early_stopping=True``. Nothing is
            stopped or restored between calls: compare `best_n_iter_` with the length of
            `loss_curve_`.

        Returns
        -------
        self : MLPTorchClassifier
            The trained estimator.
        """
        y = to_host(y, "y")
        with classes_forgotten_after_errors(self):
            if check_partial_fit_first_call(self, to_host(classes, "classes")):
                is_multilabel = type_of_target(y).startswith("multilabel")
                self._label_binarizer = LabelBinarizer().fit(y if is_multilabel else self.classes_)
            return self._fit(Inputs(X, y, sample_weight), Inputs(X_val, y_val, sample_weight_val), incremental=True)

    @follows_input
    def predict(self, X: Any) -> np.ndarray:
        """Predict class labels.

        Parameters
        ----------
        X : {array-like, sparse matrix, Tensor} of shape (n_samples, n_features)
            Input.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Labels, of the dtype of `classes_`; an indicator matrix for multilabel targets.
        """
        return targets.decode_labels(self._predict(X), self._label_binarizer)

    @follows_input
    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix, Tensor} of shape (n_samples, n_features)
            Input.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
            Probability of each class in the order of `classes_`; for multilabel targets
            of each label, independently.
        """
        return self._probabilities(X)

    @follows_input
    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Predict the logarithms of the probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix, Tensor} of shape (n_samples, n_features)
            Input.

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes)
            ``log(predict_proba(X))``.
        """
        probabilities = self._probabilities(X)
        return library_of(probabilities).log(probabilities, out=probabilities)

    def _probabilities(self, X: Any) -> Any:
        outputs = self._predict(X)
        return library_of(outputs).hstack([1 - outputs, outputs]) if self.n_outputs_ == 1 else outputs

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy of the predictions; for multilabel targets all labels of a row must be right.

        Parameters
        ----------
        X : {array-like, sparse matrix, Tensor} of shape (n_samples, n_features)
            Test input.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            True labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        score : float
            Mean accuracy.
        """
        return super().score(X, for_metric(y, "y"), for_metric(sample_weight, "sample_weight"))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
