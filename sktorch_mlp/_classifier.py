"""MLPTorchClassifier: labels in, labels and probabilities out."""

from __future__ import annotations

import numpy as np
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels

from ._arrays import to_numpy
from ._base import BaseMLPTorch
from ._losses import BinaryLogLoss, LogLoss, Loss, OneClassLogLoss


class MLPTorchClassifier(ClassifierMixin, BaseMLPTorch):
    """Multilayer perceptron classifier with scikit-learn's interface and numbers, trained by PyTorch.

    Takes the place of `sklearn.neural_network.MLPClassifier`: same parameters, in the same
    order, then `device` and `dtype`. It minimises the log-loss of softmax outputs, or of
    logistic outputs for binary and multilabel targets.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(100,)
        Units of each hidden layer; ``()`` gives a linear model.
    activation : {'identity', 'logistic', 'tanh', 'relu'}, default='relu'
        Activation of the hidden layers.
    solver : {'lbfgs', 'sgd', 'adam'}, default='adam'
        Stochastic gradient descent, Adam [1]_, or the quasi-Newton method L-BFGS [2]_,
        which suits small data.
    alpha : float, default=0.0001
        Strength of the L2 penalty on the weights, not on the intercepts:
        ``0.5 * alpha * sum(w**2) / n`` is added to the mean loss of a batch of n rows.
    batch_size : int or 'auto', default='auto'
        Rows of a mini-batch; "auto" is ``min(200, n_samples)``. A short last batch is
        kept. Not used by lbfgs.
    learning_rate : {'constant', 'invscaling', 'adaptive'}, default='constant'
        Schedule for sgd only: constant; divided by ``(rows seen + 1) ** power_t`` after
        each epoch; or divided by 5 at each plateau.
    learning_rate_init : float, default=0.001
        Learning rate of sgd and adam.
    power_t : float, default=0.5
        Exponent of "invscaling".
    max_iter : int, default=200
        Most epochs, or most iterations of lbfgs.
    shuffle : bool, default=True
        Whether to shuffle the rows before each epoch. Not used by lbfgs.
    random_state : int, RandomState instance or None, default=None
        Source of the initial weights, the validation split and the order of rows. With
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
        Whether to set rows aside, to stop when their score has not improved by `tol` for
        more than `n_iter_no_change` epochs, and to keep the weights of the best epoch.
        Otherwise training stops on a plateau of the training loss. Not used by lbfgs.
    validation_fraction : float, default=0.1
        Share of rows set aside for early stopping; stratified for binary targets.
    beta_1, beta_2 : float, default=0.9, 0.999
        Decay rates of adam's moments, in [0, 1).
    epsilon : float, default=1e-8
        Added to adam's denominator.
    n_iter_no_change : int or inf, default=10
        Epochs without improvement after which sgd and adam stop.
    max_fun : int, default=15000
        Most evaluations of the loss by lbfgs.
    device : str or torch.device, default='auto'
        Where to train and predict: "cpu", "cuda", "cuda:1", "mps" or a `torch.device`.
        "auto" is CUDA if there is one, else Apple's MPS, else the CPU.
    dtype : {'auto', 'float32', 'float64'}, default='auto'
        Precision of weights and arithmetic. "auto" does on the CPU what scikit-learn
        does, float32 for float32 X and float64 for all other, and takes float32 on a
        GPU. "float32" about halves the time.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted.
    coefs_ : list of ndarray of shape (n_in, n_out)
        Weights of each layer. What is written here, in place or anew, predicts.
    intercepts_ : list of ndarray of shape (n_out,)
        Intercepts of each layer, likewise.
    module_ : torch.nn.Sequential
        The network as plain modules; the last gives logits, before `out_activation_`.
        On the CPU it shares the memory of `coefs_` and `intercepts_`.
    device_ : torch.device
        Where the network was fitted and predicts.
    loss_ : float
        Loss of the last epoch, penalty included.
    loss_curve_ : list of float
        Loss of each epoch; sgd and adam only.
    best_loss_ : float or None
        Least loss of an epoch; None with early stopping.
    validation_scores_ : list of float or None
        Accuracy on the validation rows after each epoch; early stopping only.
    best_validation_score_ : float or None
        Best of them.
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
    same. Initial weights are uniform after [3]_. A loss that is no longer finite raises
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

    def _encode_targets(self, y: np.ndarray, dtype: np.dtype, *, incremental: bool) -> tuple[np.ndarray, Loss]:
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            self._check_known_classes(y)
        if self._label_binarizer.y_type_ == "multiclass":
            # Class indices take the place of scikit-learn's indicator columns, n_classes times smaller.
            return np.searchsorted(self.classes_, y)[np.newaxis], LogLoss(len(self.classes_))
        indicators = self._label_binarizer.transform(y)
        loss_class = OneClassLogLoss if len(self.classes_) == 1 else BinaryLogLoss
        return np.ascontiguousarray(indicators.T, dtype=dtype), loss_class(indicators.shape[1])

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

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Fit the network to training data.

        Parameters
        ----------
        X : {array-like, sparse matrix, Tensor} of shape (n_samples, n_features)
            Training input; float32 stays float32, see `dtype`.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Class labels, or a label indicator matrix for multilabel targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in the loss; None weighs all alike.

        Returns
        -------
        self : MLPTorchClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            If the input is invalid, the device is absent, or the loss diverges.
        """
        return self._fit(X, y, sample_weight)

    @available_if(lambda self: self._check_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, sample_weight=None, classes=None):
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

        Returns
        -------
        self : MLPTorchClassifier
            The trained estimator.
        """
        y = to_numpy(y)
        if _check_partial_fit_first_call(self, to_numpy(classes)):
            multilabel = type_of_target(y).startswith("multilabel")
            self._label_binarizer = LabelBinarizer().fit(y if multilabel else self.classes_)
        return self._fit(X, y, sample_weight, incremental=True)

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
