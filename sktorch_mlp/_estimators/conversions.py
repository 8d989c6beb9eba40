"""Fitted estimators from models of other libraries, and the other way round."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import numpy as np
import torch
from sklearn.preprocessing import LabelBinarizer
from torch import nn

from sktorch_mlp._data.device import resolve_device, training_dtype
from sktorch_mlp._interop import torch as _torch
from sktorch_mlp._interop.description import Network, OptimizerState, Outputs
from sktorch_mlp._nn.network import NetworkSpec, StackedMLP
from sktorch_mlp._nn.tensors import without_autocast
from sktorch_mlp._training.progress import Progress
from sktorch_mlp._training.state import FitState
from sktorch_mlp._training.threads import on_one_thread

from .base import BaseMLPTorch
from .fitted import WeightArrays
from .parameters import dropout_rates, fitted_activations
from .sklearn_training import describe_optimizer, make_optimizer, read_progress
from .targets import fit_label_binarizer


class ConvertibleMLP(BaseMLPTorch):
    """Conversions of both estimators."""

    _label_binarizer: Any

    @classmethod
    @on_one_thread
    def from_sklearn(cls, fitted: Any, *, device: str | torch.device = "auto") -> Self:
        """Take over a fitted MLP of scikit-learn.

        Predictions are the same, to rounding. So is what follows: `partial_fit` and warm starts go on from the same
        weights, losses, counts and moments of the optimizer.

        Parameters
        ----------
        fitted : sklearn.neural_network.MLPClassifier or MLPRegressor
            The counterpart of this class. It is copied.
        device : str or torch.device, default="auto"
            Parameter of the new estimator; on a GPU weights become float32.

        Returns
        -------
        model : MLPTorchClassifier or MLPTorchRegressor
            A fitted estimator.

        Raises
        ------
        TypeError
            If `fitted` is another estimator.
        NotFittedError
            If it is not fitted.
        """
        from sktorch_mlp._interop.sklearn import read  # loads MLPs of scikit-learn, which few need

        theirs = read(fitted, is_classifier=hasattr(cls, "predict_proba"))
        model = cls(**theirs.params, device=device)
        attributes = theirs.attributes
        progress = read_progress(attributes, theirs.n_epochs_no_change)
        if theirs.label_binarizer is not None:
            model._set_classes(theirs.label_binarizer)
        model._take_network(theirs.network, progress, theirs.optimizer)
        for name in ("feature_names_in_", "n_iter_", "loss_"):
            if name in attributes:
                setattr(model, name, attributes[name])
        if "loss_curve_" in attributes:
            model._set_progress_attributes(progress)
        return model

    @on_one_thread
    def to_sklearn(self) -> Any:
        """Make a fitted MLP of scikit-learn with this one's parameters and weights.

        Predictions are the same, to rounding, and `partial_fit` and warm starts go on from the same weights, losses,
        counts and moments of the optimizer. Nothing is shared. `device` and `dtype` have no counterpart and are left out;
        ``shuffle="blocks"`` becomes True, which is another random order.

        Returns
        -------
        model : sklearn.neural_network.MLPClassifier or MLPRegressor
            A fitted estimator.

        Raises
        ------
        ValueError
            If a parameter has a value that scikit-learn lacks, such as ``normalization="batch"``. Where it is without
            effect on predictions, as ``dropout=0.2`` is, `set_params` can take it back first.
        """
        from sktorch_mlp._interop.sklearn import ATTRIBUTES, FittedSklearn, make

        self._check_fitted()
        attributes = {name: getattr(self, name) for name in ATTRIBUTES if hasattr(self, name)}
        if not self.early_stopping and "validation_scores_" in attributes:
            attributes["validation_scores_"] = None  # of X_val, which scikit-learn has not
        return make(
            FittedSklearn(
                params=self.get_params(deep=False),
                network=self._describe(),
                attributes=attributes,
                label_binarizer=getattr(self, "_label_binarizer", None),
                n_epochs_no_change=self._state.progress.n_epochs_no_change,
                optimizer=self._describe_optimizer(),
            )
        )

    @on_one_thread
    def to_skorch(self) -> Any:
        """Make a net of skorch with this network, its loss, its optimizer and its learning rate.

        The net predicts the same. Classes are 0, 1, … there, which ``model.classes_[net.predict(X)]`` turns into
        labels. X has to be in the precision of the weights. For training, y of a regressor has to be of shape
        (n_samples, n_outputs). That of two classes and of labels has to be floats, ``y.astype(X.dtype)``: integers and bools are
        a `RuntimeError` of PyTorch. `partial_fit` of the net goes on for `max_iter` epochs, with a new optimizer and without a
        rule to stop. `alpha` becomes a weight decay of ``alpha / batch_size``, which for whole batches is the same.

        Returns
        -------
        net : skorch.NeuralNetClassifier, NeuralNetBinaryClassifier, NeuralNetRegressor or NeuralNet
            An initialized net with weights of its own; a `NeuralNet` for multilabel targets.

        Raises
        ------
        ValueError
            If a parameter has a value that skorch has no counterpart of, such as ``class_weight="balanced"``.
        """
        from sktorch_mlp._interop.skorch import make_net  # loads skorch, which few need

        self._check_fitted()
        optimizer = self._state.optimizer
        learning_rate = self.learning_rate_init if optimizer is None else optimizer.schedules[0].learning_rate
        return make_net(self._describe(), self.get_params(deep=False), self.device_, float(learning_rate))

    def _describe(self) -> Network:
        """The fitted network in plain arrays, which are those of the estimator if these are of one precision."""
        self._check_fitted()
        n_hidden, dtype = len(self.coefs_) - 1, self._precision()
        binarizer = getattr(self, "_label_binarizer", None)
        is_multilabel = binarizer is not None and binarizer.y_type_.startswith("multilabel")
        return Network(
            [coef.astype(dtype, copy=False) for coef in self.coefs_],
            [intercept.astype(dtype, copy=False) for intercept in self.intercepts_],
            fitted_activations(self, n_hidden),
            Outputs(self.out_activation_, getattr(self, "classes_", None), is_multilabel),
            [{name: array.astype(dtype, copy=False) for name, array in norm.items()} for norm in self._norms()],
            dropout_rates(self, n_hidden),
        )

    @classmethod
    def _from_torch(cls, network: Network, device: str | torch.device, label_binarizer: Any = None) -> Self:
        """Make a fitted estimator of a network of which nothing else is known."""
        params: dict[str, Any] = {
            "hidden_layer_sizes": network.layer_units[1:-1],
            "activation": _one_if_equal(network.activations, "relu"),
            "normalization": network.normalization,
            "dropout": _one_if_equal(network.dropout, 0.0),
            "device": device,
        }
        if network.outputs.activation == "exp":
            params["loss"] = "poisson"
        model = cls(**params)
        if label_binarizer is not None:
            model._set_classes(label_binarizer)
        progress = Progress()
        model._take_network(network, progress)
        model._set_progress_attributes(progress)
        return model

    def _set_classes(self, label_binarizer: Any) -> None:
        self._label_binarizer, self.classes_ = label_binarizer, label_binarizer.classes_

    def _take_network(self, described: Network, progress: Progress, optimizer: OptimizerState | None = None) -> None:
        """Make the described network this one's, on its device."""
        device = resolve_device(self.device)
        dtype = training_dtype(self.dtype, device) or described.coefs[0].dtype
        loss = self._make_targets(self._example_y(described), incremental=True).make_loss(has_sample_weight=False)
        with torch.inference_mode(False), without_autocast(device):
            network = StackedMLP(_spec(described, torch.float32 if dtype == np.float32 else torch.float64, device))
            network.set_weights(0, described.coefs, described.intercepts, described.norms)
            state = FitState(network.spec.sparse_input, progress=progress)
            if optimizer is not None:
                state.optimizer = make_optimizer(optimizer, network)
            self._weight_arrays = WeightArrays()
            self._set_fitted_attributes(state, network, loss)
        self.n_features_in_ = described.layer_units[0]

    @abstractmethod
    def _example_y(self, described: Network) -> np.ndarray:
        """Make targets as those that the network was trained on."""

    def _describe_optimizer(self) -> OptimizerState | None:
        """The optimizer that `partial_fit` would resume, by the names of scikit-learn's."""
        spec = _spec(self._describe(), torch.float32, torch.device("meta"), sparse_input=self._state.sparse_input)
        return describe_optimizer(self._state.optimizer, StackedMLP(spec), self.power_t)


class ConvertibleClassifier(ConvertibleMLP):
    """Conversions of the classifier."""

    _label_binarizer: LabelBinarizer
    classes_: np.ndarray

    @classmethod
    @on_one_thread
    def from_torch(cls, module: nn.Sequential, classes: Any = None, *, device: str | torch.device = "auto") -> Self:
        """Take over a network of PyTorch as a fitted classifier.

        It predicts, goes on training by `partial_fit` with parameters that `set_params` sets, and can be pickled. Nothing
        is shared.

        Parameters
        ----------
        module : torch.nn.Sequential
            Linear layers, between two of which there may be, in this order, `BatchNorm1d` or `LayerNorm`, an elementwise
            activation without parameters, and `Dropout`. Nested Sequentials count as their modules. The last Linear
            gives logits, and `Softmax`, `LogSoftmax` or `Sigmoid` may follow. One output, or two, are two classes;
            several outputs with Sigmoid are labels. Intercepts, scales and shifts that are lacking become 0 and 1.
        classes : array-like of shape (n_classes,), default=None
            Labels in the order of the outputs; a single output stands for the second. None for 0, 1, ….
        device : str or torch.device, default="auto"
            Parameter of the new estimator; on a GPU weights become float32.

        Returns
        -------
        model : MLPTorchClassifier
            A fitted classifier.

        Raises
        ------
        TypeError, ValueError
            If the module is none, or has something else in it, which is named.
        """
        network = _torch.with_classes(_torch.read_sequential(module), classes)
        labels = network.outputs.classes
        assert labels is not None
        binarizer = fit_label_binarizer(
            np.eye(len(labels), dtype=np.int64) if network.outputs.is_multilabel else labels
        )
        return cls._from_torch(network, device, binarizer)

    @on_one_thread
    def to_torch(self, probabilities: bool = False) -> nn.Sequential:
        """Make a module of PyTorch with a copy of this network.

        `module_`, in contrast, shares memory with the estimator.

        Parameters
        ----------
        probabilities : bool, default=False
            Whether the module gives what `predict_proba` does, (n_rows, n_classes), rather than logits: (n_rows, n_classes),
            or (n_rows, 1) for two classes. For these the last layer then has two outputs, the first of which is 0,
            before the softmax.

        Returns
        -------
        module : torch.nn.Sequential
            On `device_`, in evaluation mode and in the precision of `coefs_`. All its modules are PyTorch's own, but for
            activations that are functions of yours.
        """
        return _torch.to_sequential(self._describe(), self.device_, activate=probabilities)

    def _example_y(self, described: Network) -> np.ndarray:
        return np.eye(len(self.classes_), dtype=np.int64) if described.outputs.is_multilabel else self.classes_


class ConvertibleRegressor(ConvertibleMLP):
    """Conversions of the regressor."""

    @classmethod
    @on_one_thread
    def from_torch(cls, module: nn.Sequential, *, device: str | torch.device = "auto") -> Self:
        """Take over a network of PyTorch as a fitted regressor.

        It predicts, goes on training by `partial_fit` with parameters that `set_params` sets, and can be pickled. Nothing
        is shared.

        Parameters
        ----------
        module : torch.nn.Sequential
            Linear layers, between two of which there may be, in this order, `BatchNorm1d` or `LayerNorm`, an elementwise
            activation without parameters, and `Dropout`. Nested Sequentials count as their modules. Intercepts, scales
            and shifts that are lacking become 0 and 1.
        device : str or torch.device, default="auto"
            Parameter of the new estimator; on a GPU weights become float32.

        Returns
        -------
        model : MLPTorchRegressor
            A fitted regressor.

        Raises
        ------
        TypeError, ValueError
            If the module is none, or has something else in it, which is named.
        """
        return cls._from_torch(_torch.with_numbers(_torch.read_sequential(module)), device)

    @on_one_thread
    def to_torch(self) -> nn.Sequential:
        """Make a module of PyTorch with a copy of this network.

        `module_`, in contrast, shares memory with the estimator, and lacks the exponential of the Poisson loss.

        Returns
        -------
        module : torch.nn.Sequential
            Gives predictions (n_rows, n_outputs). On `device_`, in evaluation mode and in the precision of `coefs_`. All
            its modules are PyTorch's own, but for the exponential and activations that are functions of yours.
        """
        return _torch.to_sequential(self._describe(), self.device_, activate=True)

    def _example_y(self, described: Network) -> np.ndarray:
        return np.zeros((1, described.layer_units[-1]))


def _spec(network: Network, dtype: torch.dtype, device: torch.device, *, sparse_input: bool = False) -> NetworkSpec:
    return NetworkSpec(
        network.layer_units,
        network.activations,
        normalization=network.normalization,
        sparse_input=sparse_input,
        dtype=dtype,
        device=device,
    )


def _one_if_equal(values: tuple[Any, ...], default: Any) -> Any:
    """One value in place of one for each layer, where these are equal."""
    if not values:
        return default
    return values[0] if all(value is values[0] or value == values[0] for value in values) else list(values)
