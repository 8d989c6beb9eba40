"""Losses and scores of a stack on its validation samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sktorch_mlp._data.samples import Samples
from sktorch_mlp._nn.gradients import ForwardPass
from sktorch_mlp._nn.losses import OUTPUT_ACTIVATIONS, Loss, weighted_mean
from sktorch_mlp._nn.matmul import call_quietly
from sktorch_mlp._nn.network import StackedMLP
from sktorch_mlp._nn.tensors import squeeze_stack

from .progress import TrainingOptions

#: Rows validated at a time, at most, and numbers that the inputs of their networks have, or those that are cast for it,
#: unless so few rows have more.
_MOST_ROWS, _MOST_INPUTS, _MOST_CAST, _FEWEST_ROWS = 2**14, 2**21, 2**18, 64


class Validator:
    """Scores each network of a stack on its validation samples.

    Parameters
    ----------
    network : StackedMLP
    loss : Loss
    samples : Samples
    options : sequence of TrainingOptions
        One for each network, with the same `logit_factors`.
    """

    def __init__(self, network: StackedMLP, loss: Loss, samples: Samples, options: Sequence[TrainingOptions]) -> None:
        # In order, so that a block of them is read from disk in a few slices.
        rows, target_rows = samples.stack_indices([np.sort(indices) for indices in samples.indices])
        self._network, self._loss, self._options = network, loss, options
        blocks = rows.split(_block_rows(network, are_cast=samples.rows.are_cast), -1)
        forwards = {n: ForwardPass(network, "identity", n) for n in {block.shape[-1] for block in blocks}}
        self._blocks = [(forwards[block.shape[-1]], samples.rows.taker(block)) for block in blocks]
        self._activate_ = OUTPUT_ACTIVATIONS[loss.out_activation]
        self._other_factors = [factor for factor in options[0].logit_factors if factor != 1]
        self._targets = samples.take_targets(target_rows)
        dtype = samples.rows.dtype
        self._loss_terms = self._targets.new_empty((*rows.shape[:-1], 1, rows.shape[-1]), dtype=dtype)
        self._weights: Tensor | None = None
        n_rows = torch.tensor([len(indices) for indices in samples.indices], device=rows.device)
        if samples.weights is not None or len(n_rows.unique()) > 1:
            is_present = squeeze_stack(torch.arange(rows.shape[-1], device=rows.device) < n_rows.unsqueeze(-1))
            weights = is_present.to(dtype)
            if samples.weights is not None:
                weights = weights * samples.weights[target_rows]
            self._weights = weights.unsqueeze(-2)

    def __call__(self) -> list[tuple[float, float]]:
        """Score and loss of each network; nan where a prediction is not finite."""
        logits = call_quietly(self._logits)
        scaled = [self._losses(self._to_loss_input(factor * logits)) for factor in self._other_factors]
        loss_input = self._to_loss_input(logits)
        predictions = self._activate_(logits.clone()) if self._loss.of_logits else loss_input
        loss_scores: list[float] = torch.atleast_1d(
            self._loss.score(predictions, self._targets, self._weights)
        ).tolist()
        losses = self._losses(loss_input)
        lowest = [min(values) for values in zip(losses, *scaled, strict=True)]
        scored = enumerate(zip(loss_scores, losses, lowest, strict=True))
        return [(self._score(k, score, loss, low), loss) for k, (score, loss, low) in scored]

    def _losses(self, loss_input: Tensor) -> list[float]:
        """Loss of each network for what the loss takes, logits or predictions, which is overwritten."""
        self._loss.to_delta_(loss_input, self._targets, self._loss_terms)  # for the loss terms
        row_losses = self._loss.row_losses(self._loss_terms, self._targets)
        losses: list[float] = weighted_mean(row_losses, self._weights).reshape(-1).tolist()
        return losses

    def _to_loss_input(self, logits: Tensor) -> Tensor:
        return logits if self._loss.of_logits else self._activate_(logits)

    def _logits(self) -> Tensor:
        if len(self._blocks) == 1:
            ((forward, take),) = self._blocks
            return forward(take())
        return torch.cat([forward(take()).clone() for forward, take in self._blocks], -1)

    def _score(self, k: int, loss_score: float, loss: float, lowest_loss: float) -> float:
        options = self._options[k]
        if options.scores_loss:
            return -lowest_loss
        if options.scoring is None or not math.isfinite(loss):  # scorers raise for predictions that are not finite
            return loss_score
        return options.scoring(self._network, k)


def _block_rows(network: StackedMLP, *, are_cast: bool) -> int:
    embedding = network.spec.embedding
    n_inputs = network.spec.layer_units[0] if embedding is None else embedding.n_inputs
    most_inputs = _MOST_CAST if are_cast else _MOST_INPUTS
    return min(_MOST_ROWS, max(_FEWEST_ROWS, most_inputs // (network.n_networks * n_inputs)))
