"""The recipe of the networks on tables: hyperparameters by the size of the data, embeddings, initial weights.

All of it was chosen by measurement on twelve tables; ``benchmarks/README.md`` has what each ingredient brings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from sktorch_mlp._data.columns import TableEncoder
from sktorch_mlp._nn.bins import one_value_fills_most, quantile_edges
from sktorch_mlp._nn.embeddings import TableEmbedding
from sktorch_mlp._nn.initialization import initial_parameters
from sktorch_mlp._nn.network import NetworkSpec, StackedMLP
from sktorch_mlp._training.scaled_adam import InputScalingAdamW
from sktorch_mlp._training.schedules import OneCycle

#: Epochs of a fit; and steps beyond which there are fewer epochs, but not fewer than so many.
_N_EPOCHS, _N_STEPS, _FEWEST_EPOCHS = 60, 2000, 10
#: Most bins of a number, and about the most of all numbers: where there are too many for the fewest bins, "auto" is none.
_N_BINS = {"classification": (32, 1024), "regression": (64, 2048)}
_FEWEST_BINS, _ROWS_OF_A_BIN = 4, 40
#: Epochs in which no network has reached a better validation loss after which all stop.
PATIENCE = 12
#: Factors of the inputs that are bins, for one network after the other: with small factors the bins learn slowly.
_BIN_SCALES = (1.0, 0.3)
#: Factors of the logits, the best of which counts when a network of several is validated.
LOGIT_FACTORS = (1.0, 0.8, 0.65, 0.5)
_NO_EDGES = np.zeros(0)
_BETAS, _EPSILON = (0.9, 0.95), 1e-8
#: Rate of the learned scales of inputs / that of all else.
_SCALE_RATE = 50.0


@dataclass(frozen=True)
class Settings:
    """Hyperparameters of a network.

    Attributes
    ----------
    hidden_layer_sizes : tuple of int
    learning_rate_init : float
        Highest rate; it falls to zero along half a cosine.
    weight_decay : float
        Coefficients shrink by this fraction of the rate in each step.
    dropout : float
    numerical_embedding : {"auto", "piecewise_linear", "periodic", None}
        With "auto" each network has its own, see `of_network`.
    n_bins : int
        Most bins of a number.
    n_frequencies : int
        Waves of a number.
    batch_size : int
    max_iter : int
    """

    hidden_layer_sizes: tuple[int, ...]
    learning_rate_init: float
    weight_decay: float
    dropout: float
    numerical_embedding: str | None
    n_bins: int
    n_frequencies: int
    batch_size: int
    max_iter: int

    def of_network(self, index: int, n_networks: int) -> Settings:
        """Hyperparameters of one network of an ensemble: with "auto" the second half of it has waves in place of bins."""
        if self.numerical_embedding != "auto":
            return self
        is_periodic = 2 * index >= n_networks and n_networks > 1
        return replace(self, numerical_embedding="periodic" if is_periodic else "piecewise_linear")


def default_settings(
    hidden_layer_sizes: tuple[int, ...],
    numerical_embedding: str | None,
    max_iter: int | None,
    *,
    n_rows: int,
    n_train: int,
    n_numbers: int,
    is_regression: bool,
) -> Settings:
    """Choose the hyperparameters.

    Parameters
    ----------
    hidden_layer_sizes, numerical_embedding, max_iter
        As in the estimators.
    n_rows, n_train : int
        Rows of X, and those a network trains on.
    n_numbers : int
    is_regression : bool
    """
    batch_size = min(n_train, max(16, min(256, n_train // 16)))
    n_batches = n_train // batch_size
    few_steps = max(_FEWEST_EPOCHS, math.ceil(_N_STEPS / n_batches))
    most_bins, all_bins = _N_BINS["regression" if is_regression else "classification"]
    n_affordable = all_bins // max(1, n_numbers)
    if numerical_embedding == "auto" and (n_affordable < _FEWEST_BINS or n_numbers == 0):
        numerical_embedding = None
    return Settings(
        hidden_layer_sizes=hidden_layer_sizes,
        learning_rate_init=1.5e-3 * min(2.0, max(1.0, (n_rows / 4000) ** 0.5)),
        weight_decay=0.1,
        # Noise helps small data. On large ones it keeps a regression from being exact.
        dropout=0.15 * _fall(n_rows, 5000, 12000) if is_regression else 0.15,
        numerical_embedding=numerical_embedding,
        n_bins=max(_FEWEST_BINS, min(most_bins, n_rows // _ROWS_OF_A_BIN, n_affordable)),
        n_frequencies=16,
        batch_size=batch_size,
        max_iter=min(_N_EPOCHS, few_steps) if max_iter is None else max_iter,
    )


def _fall(n_rows: int, low: int, high: int) -> float:
    """1 up to `low` rows, 0 from `high` rows on, and a straight line in the logarithm between."""
    return min(1.0, max(0.0, math.log(high / n_rows) / math.log(high / low)))


def make_embedding(encoder: TableEncoder, X: np.ndarray, settings: Settings) -> TableEmbedding:
    """Make the embedding of encoded columns. Waves do not tell rare values beside a frequent one apart: there are bins, too."""
    numbers, categories = encoder.numbers, encoder.categories
    has_bins, has_waves = (settings.numerical_embedding == name for name in ("piecewise_linear", "periodic"))
    edges = tuple(
        quantile_edges(values, settings.n_bins)
        if has_bins or (has_waves and one_value_fills_most(values))
        else _NO_EDGES
        for values in X[:, : len(numbers)].T
    )
    return TableEmbedding(
        n_numbers=X.shape[1] - len(categories),
        indicated=tuple(i for i, column in enumerate(numbers) if column.has_missing),
        n_levels=tuple(len(column.levels) for column in categories),
        signed=tuple(c for c, column in enumerate(categories) if len(column.levels) == 2 and not column.has_missing),
        edges=edges if has_bins or has_waves else (),
        n_frequencies=settings.n_frequencies if has_waves else 0,
    )


def make_network(
    spec: NetworkSpec, index: int, out_bias: np.ndarray, random_state: np.random.RandomState
) -> StackedMLP:
    """Make the network of this index in an ensemble, with initial weights after He et al. (2015).

    Of the inputs that are bins of a number a third counts, as neighbors say much the same. Outputs begin small, at
    those of a constant prediction.

    Parameters
    ----------
    spec : NetworkSpec
    index : int
    out_bias : ndarray of shape (n_outputs,)
        Intercepts of the outputs.
    random_state : RandomState
    """
    network = StackedMLP(spec)
    coefs, intercepts = initial_parameters(spec.layer_units, "relu", random_state, "he_normal")
    coefs[-1] /= math.sqrt(2)
    intercepts[-1] = out_bias
    embedding = spec.embedding
    if embedding is not None:
        n_inputs = embedding.n_inputs
        coefs[0] *= math.sqrt(n_inputs / (n_inputs - 2 / 3 * embedding.n_bins))
        network.bin_scales.fill_(_BIN_SCALES[index % len(_BIN_SCALES)])
    network.set_weights(0, coefs, intercepts)
    if embedding is not None:
        with torch.no_grad():
            network.embedding_view()[0].copy_(torch.from_numpy(embedding.initial_parameters(random_state)))
    return network


def make_optimizer(settings: Settings) -> InputScalingAdamW:
    """Make the optimizer of a network."""
    schedule = OneCycle(settings.learning_rate_init, settings.max_iter, 0.0)
    beta_1, beta_2 = _BETAS
    return InputScalingAdamW([schedule], [beta_1], [beta_2], [_EPSILON], [settings.weight_decay], [_SCALE_RATE])
