"""MLPTorchClassifier: labels in, labels and probabilities out."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.callback import with_callbacks
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels

from ._arrays import to_numpy
from ._base import BaseMLPTorch
from ._losses import BinaryLogLoss, LogLoss, Loss, OneClassLogLoss, SoftBinaryLogLoss, SoftLogLoss


def _fit_label_binarizer(y: Any) -> LabelBinarizer:
    """Fit to validated y; to a column of integers at once, as it would otherwise be looked through five times."""
    binarizer = LabelBinarizer()
    if y.ndim > 1 or y.dtype.kind not in "iub" or not y.dtype.isnative:
        return binarizer.fit(y)
    binarizer.classes_ = np.unique(y)
    binarizer.y_type_ = "binary" if len(binarizer.classes_) <= 2 else "multiclass"
    binarizer.sparse_input_ = False
    return binarizer


def _columns(y: Any) -> list[np.ndarray]:
    if y.ndim == 1:
        return [y]
    return list((y.toarray() if sp.issparse(y) else y).T)


class MLPTorchClassifier(ClassifierMixin, BaseMLPTorch):
    """Multilayer perceptron classifier with scikit-learn's interface and numbers, trained by PyTorch.

    Takes the place of `sklearn.neural_network.MLPClassifier`: same parameters, in the same
    order, then those that it lacks. It minimises the log-loss of softmax outputs, or of
    logistic outputs for binary and multilabel targets.

    Parameters
    ----------
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
        Share of rows set aside for early stopping without `X_val`; stratified for binary targets.
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
    loss : 'log_loss' or callable, default='log_loss'
        What is minimised. A function is called as ``loss(logits, y)`` with tensors of shape
        (n_rows, n_classes) and (n_rows,), class indices, as `torch.nn.functional.cross_entropy`;
        for binary targets (n_rows,) and (n_rows,), for multilabel ones (n_rows, n_labels)
        both, of 0 and 1. It gives a loss for each row, or their mean where rows have no weights.
    class_weight : dict, list of dict, 'balanced' or None, default=None
        Weights of the classes in the loss, ``{label: weight}``, with `sample_weight`
        multiplied; scores know nothing of them. "balanced" is ``n_samples / (n_classes * bincount(y))``. For multilabel
        targets a list of one dict for each label.
    label_smoothing : float, default=0.0
        Share of the target, in [0, 1), that is spread evenly over the classes [8]_, for
        binary and multilabel targets over 0 and 1. 0.1 is usual; it keeps probabilities off
        0 and 1.
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
        What judges validation rows: None for accuracy, "loss" for the loss (negated),
        or the name of a scorer or a scorer of scikit-learn's. Without validation rows
        nothing is scored.
    callbacks : list of skorch callbacks or None, default=None
        Instances, classes, or ``(name, callback)`` pairs; see the guide. scikit-learn's
        callbacks are set by `set_callbacks`. Not for lbfgs.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted.
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
        Activation of the outputs: "softmax", or "logistic" for binary and multilabel targets.
    n_features_in_ : int
        Features seen by `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, where X had string column names.

    See Also
    --------
    MLPTorchRegressor : The same for numbers in place of labels.
    sklearn.neural_network.MLPClassifier : What it takes the place of.

    Notes
    -----
    On the CPU, with the same `random_state` and data, losses, weights and predictions are
    those of `sklearn.neural_network.MLPClassifier` up to rounding, and `n_iter_` is the
    same. By default initial weights are uniform after [3]_. A loss that is no longer finite raises
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
        loss="log_loss",
        class_weight=None,
        label_smoothing=0.0,
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

    def _learn_targets(self, y: np.ndarray, *, incremental: bool) -> None:
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._label_binarizer = _fit_label_binarizer(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            self._check_known_classes(y)
        if incremental and self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' is not supported for partial_fit, which does not see all rows at once. Compute "
                "the weights with sklearn.utils.class_weight.compute_class_weight and pass them as a dict."
            )
        if self.class_weight is not None:
            self._class_weights = self._weights_of_labels(y)

    def _encode_targets(self, y: np.ndarray, dtype: np.dtype) -> np.ndarray:
        if self._label_binarizer.y_type_ == "multiclass" and not self.label_smoothing:
            # Class indices take the place of scikit-learn's indicator columns, n_classes times smaller.
            return np.searchsorted(self.classes_, y)[np.newaxis]
        targets = np.ascontiguousarray(self._label_binarizer.transform(y).T, dtype=dtype)
        if self.label_smoothing and len(self.classes_) > 1:
            n_alternatives = len(targets) if self._label_binarizer.y_type_ == "multiclass" else 2
            targets *= 1 - self.label_smoothing
            targets += self.label_smoothing / n_alternatives
        return targets

    def _check_validation_targets(self, y: np.ndarray) -> None:
        multilabel = self._label_binarizer.y_type_.startswith("multilabel")
        expected = (y.shape[0], len(self.classes_)) if multilabel else (y.shape[0],)
        if y.shape != expected:
            raise ValueError(f"y_val has the shape {y.shape}, but with this y it must be {expected}.")
        unknown = np.setdiff1d(unique_labels(y), self.classes_)
        if len(unknown):
            raise ValueError(f"y_val has classes {unknown}, which y does not have. Known are {self.classes_}.")

    def _own_loss(self) -> Loss:
        if self.label_smoothing and callable(self.loss):
            raise ValueError("label_smoothing cannot be used with a loss function. Let the function smooth the labels.")
        n_classes = len(self.classes_)
        if self._label_binarizer.y_type_ == "multiclass":
            return SoftLogLoss(n_classes) if self.label_smoothing else LogLoss(n_classes)
        if n_classes == 1:
            return OneClassLogLoss(1)
        n_outputs = n_classes if self._label_binarizer.y_type_.startswith("multilabel") else 1
        return SoftBinaryLogLoss(n_outputs) if self.label_smoothing else BinaryLogLoss(n_outputs)

    def _loss_has_score(self) -> bool:
        # It weighs rows as the loss does, but accuracy is to know nothing of weights of classes.
        return self.scoring is None and self.class_weight is None

    def _weigh_rows(self, y: np.ndarray, sample_weight: np.ndarray | None) -> np.ndarray | None:
        if self.class_weight is None:
            return sample_weight
        weights = np.ones(y.shape[0]) if sample_weight is None else sample_weight.astype(np.float64)
        for column, weight_of in zip(_columns(y), self._class_weights, strict=True):
            labels, of_row = np.unique(column, return_inverse=True)
            weights *= np.array([weight_of.get(label, 1.0) for label in labels])[of_row]
        return weights

    def _weights_of_labels(self, y: np.ndarray) -> list[dict[Any, float]]:
        """The weight of each label of each column of y, by `class_weight`."""
        columns = _columns(y)
        if len(columns) == 1 or self.class_weight == "balanced":
            given = [self.class_weight] * len(columns)
        else:
            compute_sample_weight(self.class_weight, y)  # for its errors
            given = self.class_weight
        weights = []
        for class_weight, column in zip(given, columns, strict=True):
            labels = self.classes_ if len(columns) == 1 else np.array([0, 1])
            if len(columns) > 1 and class_weight == "balanced":  # of what there is
                labels = np.unique(column)
            by_label = compute_class_weight(class_weight, classes=labels, y=column)
            weights.append(dict(zip(labels, by_label, strict=True)))
        return weights

    def _check_known_classes(self, y: np.ndarray) -> None:
        """A further fit must have the classes of the first (warm start), or some of them (partial_fit)."""
        classes = unique_labels(y)
        if self.warm_start:
            if set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                    f"Previously got {self.classes_}, `y` has {classes}"
                )
        elif len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {classes}."
            )

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, *, X_val=None, y_val=None, sample_weight_val=None):
        """Fit the network to training data.

        Parameters
        ----------
        X : {array-like, sparse matrix, Tensor} of shape (n_samples, n_features)
            Training input; float32 stays float32, see `dtype`.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Class labels, or a label indicator matrix for multilabel targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in the loss; None weighs all alike.
        X_val : {array-like, sparse matrix, Tensor} of shape (n_val, n_features), default=None
            Validation input. Scored after each epoch and, with early stopping, judged by in
            place of rows of X that are set aside. In a `Pipeline` it reaches this step
            untransformed unless the pipeline has ``transform_input=["X_val"]``.
        y_val : array-like of shape (n_val,) or (n_val, n_outputs), default=None
            Class labels of X_val.
        sample_weight_val : array-like of shape (n_val,), default=None
            Weights of X_val's rows in validation loss and score.

        Returns
        -------
        self : MLPTorchClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            If the input is invalid, the device is absent, or the loss diverges.
        """
        return self._fit(X, y, sample_weight, (X_val, y_val, sample_weight_val))

    @available_if(lambda self: self._check_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, sample_weight=None, classes=None, *, X_val=None, y_val=None, sample_weight_val=None):
        """Train one epoch over the given data, going on from the present state.

        Parameters
        ----------
        X : {array-like, sparse matrix, Tensor} of shape (n_samples, n_features)
            Training input.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Class labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in the loss.
        classes : array-like of shape (n_classes,), default=None
            All labels that any call will see; required at the first call. `y` need not
            have them all.
        X_val, y_val, sample_weight_val : default=None
            Validation data as in `fit`; required with ``early_stopping=True``. Nothing is
            stopped or restored between calls: compare `best_n_iter_` with the length of
            `loss_curve_`.

        Returns
        -------
        self : MLPTorchClassifier
            The trained estimator.
        """
        y = to_numpy(y)
        if _check_partial_fit_first_call(self, to_numpy(classes)):
            multilabel = type_of_target(y).startswith("multilabel")
            self._label_binarizer = LabelBinarizer().fit(y if multilabel else self.classes_)
        return self._fit(X, y, sample_weight, (X_val, y_val, sample_weight_val), incremental=True)

    def predict(self, X):
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
        outputs = self._predict_outputs(X)
        if self._label_binarizer.y_type_ == "multiclass":
            return self.classes_[outputs.argmax(1)]
        return self._label_binarizer.inverse_transform(outputs.ravel() if self.n_outputs_ == 1 else outputs)

    def predict_proba(self, X):
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
        outputs = self._predict_outputs(X)
        return np.hstack([1 - outputs, outputs]) if self.n_outputs_ == 1 else outputs

    def predict_log_proba(self, X):
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
        probabilities = self.predict_proba(X)
        return np.log(probabilities, out=probabilities)

    def score(self, X, y, sample_weight=None):
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
        return super().score(X, to_numpy(y), to_numpy(sample_weight))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
