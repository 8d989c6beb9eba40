"""Ensembles on tables as modules of PyTorch, and the columns that these take."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.utils.validation import check_is_fitted
from torch import nn

from sktorch_mlp._data.columns import LARGEST, TableEncoder
from sktorch_mlp._interop import torch_tables
from sktorch_mlp._interop.description import Columns, Ensemble, Outputs, Stack
from sktorch_mlp._training.threads import on_one_thread

from . import inputs
from .ensembles import FittedStack
from .tabular import BaseTabularMLP


class ConvertibleEnsemble(BaseTabularMLP):
    """Conversions of both estimators."""

    @on_one_thread
    def encode(self, X: Any) -> np.ndarray:
        """Turn a table into the matrix that the module of `to_torch` takes.

        Parameters
        ----------
        X : frame, {array-like, sparse matrix, Tensor} of shape (n_samples, n_features)
            A table.

        Returns
        -------
        encoded : ndarray of shape (n_samples, n_features)
            The columns of X in their order, in float64: numbers as they are, NaN where missing; categories as the index
            of their level, -1 where missing or unknown; 0 for columns that `fit` left out.
        """
        check_is_fitted(self, "_ensemble")
        X = inputs.validate_table(self, X, reset=False)
        if sp.issparse(X):
            X = X.toarray()
        return self._encoder.read(X) if isinstance(self._encoder, TableEncoder) else np.asarray(X, dtype=np.float64)

    @on_one_thread
    def to_torch(self) -> nn.Module:
        """Make a module of PyTorch with a copy of this ensemble.

        Categories are not numbers, so the module takes what `encode` makes of a table. Where all columns are numbers,
        these are the same, and the module takes them as they are. An average of probabilities has no logits.

        Returns
        -------
        module : torch.nn.Module
            Gives probabilities (n_rows, n_classes), or numbers (n_rows, n_outputs) in the unit of the target, for a tensor
            (n_rows, n_features) of float64 or float32, in which large numbers and codes may be rounded. On the device of
            the ensemble, in evaluation mode.
        """
        check_is_fitted(self, "_ensemble")
        return torch_tables.to_module(self._describe(), self._ensemble.stacks[0].spec.device)

    def __dir__(self) -> list[str]:
        """Leave out `estimators_` of a single network, which has itself alone: who walks from one to the next would not end.

        skl2onnx does, to find the estimator that an option is for.
        """
        is_single = len(getattr(self, "_member_keys", ())) == 1
        return [name for name in super().__dir__() if not (is_single and name == "estimators_")]

    def _describe(self) -> Ensemble:
        """The fitted ensemble in plain arrays."""
        binarizer, targets = getattr(self, "_label_binarizer", None), getattr(self, "_targets", None)
        is_multilabel = binarizer is not None and binarizer.y_type_.startswith("multilabel")
        stacks = self._ensemble.stacks
        return Ensemble(
            self._describe_columns(),
            [_describe_stack(stack) for stack in stacks],
            Outputs(stacks[0].out_activation, getattr(self, "classes_", None), is_multilabel),
            None if targets is None else targets.center,
            None if targets is None else targets.scale,
        )

    def _describe_columns(self) -> Columns:
        n_columns = self.n_features_in_
        names = [str(name) for name in getattr(self, "feature_names_in_", [f"column {i}" for i in range(n_columns)])]
        if not isinstance(self._encoder, TableEncoder):  # sparse X
            scale = np.asarray(self._encoder.scale_, dtype=np.float64)
            return Columns(n_columns, names, np.arange(n_columns), np.zeros(n_columns), scale, math.inf, [], [])
        numbers, categories = self._encoder.numbers, self._encoder.categories
        parameters = [(number.index, number.center, number.scale) for number in numbers]
        if not numbers and not categories:
            parameters = [(0, 0.0, math.inf)]  # a network has an input, which here is always 0
        index, center, scale = np.array(parameters).reshape(-1, 3).T
        return Columns(
            n_columns,
            names,
            index.astype(np.int64),
            center,
            scale,
            LARGEST,
            [category.index for category in categories],
            [category.positions for category in categories],
        )


def _describe_stack(stack: FittedStack) -> Stack:
    network = stack.network()
    flat = network.flat.detach().cpu()
    coefs, intercepts = ([view.numpy() for view in views] for views in network.views(flat))
    coefs = [coef.swapaxes(1, 2).copy() for coef in coefs]
    embedding, learned = stack.spec.embedding, []
    if embedding is not None:
        coefs[0][:, embedding.n_fixed - embedding.n_bins : embedding.n_fixed] *= stack.bin_scales[:, :, np.newaxis]
        learned = _split_learned(stack, network.embedding_view(flat))
    return Stack(embedding, coefs, intercepts, stack.spec.activations, learned, stack.weights)


def _split_learned(stack: FittedStack, parameters: torch.Tensor) -> list[np.ndarray]:
    """Parameters of each learned part of an embedding, in the shape of the part."""
    embedding = stack.spec.embedding
    assert embedding is not None
    shapes: list[tuple[int, ...]] = [(embedding.n_levels[c] + 1, embedding.width) for c in embedding.learned]
    if embedding.n_frequencies and embedding.n_numbers:
        shapes.append((2, embedding.n_numbers, embedding.n_frequencies))
    parts = parameters.split([math.prod(shape) for shape in shapes], 1)
    return [part.unflatten(1, shape).numpy() for part, shape in zip(parts, shapes, strict=True)]
