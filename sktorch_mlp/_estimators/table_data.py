"""Data of the networks of an ensemble: encoded tables on the device, and the rows that each holds out."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from sktorch_mlp._data.rows import Rows
from sktorch_mlp._data.samples import Samples, TrainingData
from sktorch_mlp._nn.embeddings import TableEmbedding
from sktorch_mlp._nn.tensors import as_tensor

from .inputs import Inputs
from .recipe import Settings, make_embedding
from .targets import ClassTargets, Targets


def split_folds(
    n_rows: int,
    n_members: int,
    validation_fraction: float,
    strata: np.ndarray | None,
    random_state: np.random.RandomState,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split rows for each network into those to train on and those held out.

    The networks hold out one fold after the other, so that each row is held out by about as many; after the last
    fold come those of another shuffle. Every class is spread over the folds as evenly as can be.

    Parameters
    ----------
    n_rows, n_members : int
    validation_fraction : float
        Size of a fold, rounded to one over a whole number; 0 for none.
    strata : ndarray of shape (n_rows,) or None
        Classes.
    random_state : RandomState

    Returns
    -------
    list of (ndarray, ndarray)
        Training and validation rows of each network, in increasing order.
    """
    if validation_fraction == 0 or n_rows < 2:
        return [(np.arange(n_rows), np.arange(0))] * n_members
    n_folds = min(n_rows, max(2, round(1 / validation_fraction)))
    splits = []
    for member in range(n_members):
        if member % n_folds == 0:
            fold_of = _assign_folds(n_rows, n_folds, strata, random_state)
        held_out = fold_of == member % n_folds
        splits.append((np.flatnonzero(~held_out), np.flatnonzero(held_out)))
    return splits


def _assign_folds(
    n_rows: int, n_folds: int, strata: np.ndarray | None, random_state: np.random.RandomState
) -> np.ndarray:
    order = random_state.permutation(n_rows)
    if strata is not None:
        order = order[np.argsort(strata[order], kind="stable")]
    fold_of = np.empty(n_rows, dtype=np.int64)
    fold_of[order] = np.arange(n_rows) % n_folds
    return fold_of


class TableData:
    """Encoded data of a fit on the device, and what all networks make of them.

    Parameters
    ----------
    training, validation : Inputs
        Encoded and validated; `validation` may be empty.
    targets : Targets
    device : torch.device
    dtype : numpy.dtype
    takes_part : ndarray of shape (n_all_rows,)
        Mask of the rows of X that are in `training`: those with a weight.

    Attributes
    ----------
    loss : Loss
    samples : Samples
        All rows.
    validation_samples : Samples or None
    """

    def __init__(
        self,
        training: Inputs,
        validation: Inputs,
        targets: Targets,
        device: torch.device,
        dtype: np.dtype,
        takes_part: np.ndarray,
    ) -> None:
        self.training, self.validation, self.targets, self.takes_part = training, validation, targets, takes_part
        has_weights = targets.has_row_weights(training.sample_weight) or validation.sample_weight is not None
        self.loss = targets.make_loss(has_sample_weight=has_weights)
        self.samples = _make_samples(training, targets, device, dtype)
        self.validation_samples = None if validation.X is None else _make_samples(validation, targets, device, dtype)
        self._embeddings: dict[Any, TableEmbedding] = {}

    @property
    def n_rows(self) -> int:
        """Training rows, held-out ones included."""
        return len(self.samples.rows)

    def split(
        self, n_members: int, validation_fraction: float, random_state: np.random.RandomState
    ) -> list[TrainingData]:
        """Data of each network: what is held out is another fold for each, if no validation data are given."""
        samples = self.samples
        if self.validation_samples is not None:
            return [TrainingData(samples, self.validation_samples)] * n_members
        strata = samples.targets[0].cpu().numpy() if isinstance(self.targets, ClassTargets) else None
        folds = split_folds(self.n_rows, n_members, validation_fraction, strata, random_state)
        return [
            TrainingData(
                replace(samples, indices=[train]), replace(samples, indices=[held_out]) if len(held_out) else None
            )
            for train, held_out in folds
        ]

    def embedding(self, encoder: Any, settings: Settings) -> TableEmbedding | None:
        """Embedding of the columns, the same object for the same settings; None for sparse X."""
        if sp.issparse(self.training.X):
            return None
        key = settings.numerical_embedding, settings.n_bins, settings.n_frequencies
        if key not in self._embeddings:
            self._embeddings[key] = make_embedding(encoder, self.training.X, settings)
        return self._embeddings[key]

    @cached_property
    def out_bias(self) -> np.ndarray:
        """Intercepts of the outputs with which they are the means of the targets."""
        targets = self.samples.targets.cpu().numpy()
        weights = None if self.samples.weights is None else self.samples.weights.cpu().numpy()
        if self.loss.out_activation == "softmax":
            counts = np.bincount(targets[0], weights=weights, minlength=self.loss.n_outputs)
            return np.log(np.maximum(counts / counts.sum(), 1e-6))
        if self.loss.out_activation == "logistic":
            means = np.average(targets, axis=1, weights=weights).clip(1e-6, 1 - 1e-6)
            return np.log(means / (1 - means))
        return np.zeros(self.loss.n_outputs)


def _make_samples(data: Inputs, targets: Targets, device: torch.device, dtype: np.dtype) -> Samples:
    """Place encoded data on the device."""
    weights = targets.row_weights(data.y, data.sample_weight)
    if weights is not None:
        weights = weights / weights.max()  # only ratios count, and these fit into float32
    return Samples(
        rows=Rows.from_array(data.X, device, dtype),
        targets=as_tensor(targets.encode(data.y, dtype), device),
        weights=None if weights is None else as_tensor(weights.astype(dtype, copy=False), device),
        indices=[np.arange(data.X.shape[0])],
    )
