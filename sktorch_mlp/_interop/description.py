"""Plain descriptions of fitted networks, arrays and names alone: what estimators give to the files here, and take from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sktorch_mlp._nn.activations import ActivationLike
from sktorch_mlp._nn.embeddings import TableEmbedding


@dataclass(frozen=True, eq=False)
class Outputs:
    """What the outputs of a network mean.

    Attributes
    ----------
    activation : str
        A key of ``OUTPUT_ACTIVATIONS``.
    classes : ndarray of shape (n_classes,) or None
        None for numbers.
    is_multilabel : bool, default=False
        Whether each class is a label of its own.
    """

    activation: str
    classes: np.ndarray | None = None
    is_multilabel: bool = False

    @property
    def is_binary(self) -> bool:
        """Whether one output stands for two classes: the probability of the second."""
        return self.classes is not None and self.activation == "logistic" and not self.is_multilabel


@dataclass(frozen=True, eq=False)
class Network:
    """A network as it predicts.

    Attributes
    ----------
    coefs : sequence of ndarray of shape (n_in, n_out)
    intercepts : sequence of ndarray of shape (n_out,)
    activations : tuple of str or callable
        One for each hidden layer.
    outputs : Outputs
    norms : sequence of dict of ndarray, default=()
        Tensors of the normalization of each hidden layer, by the names of `NORM_NAMES`; () for no normalization.
    dropout : tuple of float, default=()
        Rate of each hidden layer in training.
    """

    coefs: Sequence[np.ndarray]
    intercepts: Sequence[np.ndarray]
    activations: tuple[ActivationLike, ...]
    outputs: Outputs
    norms: Sequence[dict[str, np.ndarray]] = ()
    dropout: tuple[float, ...] = ()

    @property
    def layer_units(self) -> tuple[int, ...]:
        """Units of every layer, from the input features to the outputs."""
        return (self.coefs[0].shape[0], *(coef.shape[1] for coef in self.coefs))

    @property
    def normalization(self) -> str | None:
        """Name of the normalization, as the estimators take it."""
        if not self.norms:
            return None
        return "batch" if "running_mean" in self.norms[0] else "layer"


@dataclass(frozen=True, eq=False)
class OptimizerState:
    """What an optimizer passes on from step to step, with settings by the names of scikit-learn's optimizers.

    Attributes
    ----------
    name : {"adam", "sgd"}
    settings : dict
    moments : dict of list of ndarray
        For each moment arrays of the shapes of all coefs, then of all intercepts.
    """

    name: str
    settings: dict[str, Any]
    moments: dict[str, list[np.ndarray]]


@dataclass(frozen=True, eq=False)
class Stack:
    """Networks of one shape that share their fixed inputs; see `TableEmbedding`.

    Attributes
    ----------
    embedding : TableEmbedding or None
        None where the inputs are the columns.
    coefs : list of ndarray of shape (n_networks, n_in, n_out)
        Factors of the bins are in the first one.
    intercepts : list of ndarray of shape (n_networks, n_out)
    activations : tuple of str or callable
    learned : list of ndarray of shape (n_networks, ...)
        Parameters of each learned part of the embedding: vectors (n_networks, 1 + n_levels, width), the first of which
        is that of missing levels, for each of its `learned`; then waves (n_networks, 2, n_numbers, n_frequencies).
    weights : ndarray of shape (n_networks,)
        In the average over all stacks.
    """

    embedding: TableEmbedding | None
    coefs: list[np.ndarray]
    intercepts: list[np.ndarray]
    activations: tuple[ActivationLike, ...]
    learned: list[np.ndarray]
    weights: np.ndarray


@dataclass(frozen=True, eq=False)
class Columns:
    """Which columns of a table are inputs, and how numbers are standardized: ``clip((x - center) / scale)``.

    Attributes
    ----------
    n_columns : int
        All columns of the table.
    names : list of str
        Name of each, for messages.
    numbers : ndarray of int of shape (n_numbers,)
        Their places in the table.
    center, scale : ndarray of shape (n_numbers,)
    largest : float
        Standardized numbers lie within plus and minus this.
    categories : list of int
        Their places in the table.
    levels : list of dict
        Index of each level of each category, by its value and by its text.
    """

    n_columns: int
    names: list[str]
    numbers: np.ndarray
    center: np.ndarray
    scale: np.ndarray
    largest: float
    categories: list[int]
    levels: list[dict[Any, int]]


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Networks on a table whose activated outputs are averaged.

    Attributes
    ----------
    columns : Columns
    stacks : list of Stack
    outputs : Outputs
    center, scale : ndarray of shape (n_outputs,) or None
        Of the target, in whose unit predictions are ``average * scale + center``; None for classes.
    """

    columns: Columns
    stacks: list[Stack]
    outputs: Outputs
    center: np.ndarray | None = None
    scale: np.ndarray | None = None
