"""Matrix products alone: what is left of a float32 training step of ours when all else is free.

Layout and threads are ours: units stand before rows, weights are (n_out, n_in), the first
layer's lie input-major for few features, predictions are made block by block.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from benchmarks.gates import Outcome
from benchmarks.problems import Problem
from sktorch_mlp._device import compute_threads
from sktorch_mlp._gradients import BLOCK_SIZE
from sktorch_mlp._network import _NARROW

from . import Fitted


def fit(problem: Problem, X: np.ndarray, y: np.ndarray, seed: int, device: str) -> Fitted:
    """Run the products of all steps of a fit; nothing is learnt."""
    network = _Network(problem, seed, device)
    rows = torch.from_numpy(X).to(device)
    sizes = [min(problem.batch_size, problem.rows - start) for start in range(0, problem.rows, problem.batch_size)]
    steps = {size: network.step(rows[:size]) for size in set(sizes)}
    n_steps = problem.rows / problem.batch_size * problem.epochs
    with compute_threads(network.n_coefs * problem.batch_size, n_steps):
        for _ in range(problem.epochs):
            for size in sizes:
                for left, right, out in steps[size]:
                    torch.mm(left, right, out=out)
    _wait_for(device)
    return Fitted(Outcome(float("nan"), problem.epochs), network)


class _Network:
    """Weights, which stay as they are, and buffers for the products with them."""

    def __init__(self, problem: Problem, seed: int, device: str) -> None:
        torch.manual_seed(seed)
        self._device = device
        self._coefs = [
            _coef(n_in, n_out, layer == 0, device) for layer, (n_in, n_out) in enumerate(pairwise(problem.layer_units))
        ]
        self.n_coefs = sum(coef.numel() for coef in self._coefs)
        self._blocks: dict[int, list[Tensor]] = {}  # outputs of each layer, by the rows of a block

    def step(self, X: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Products of a training step as (left, right, out), in their order."""
        coefs, outputs = self._coefs, self._outputs(len(X))
        inputs = [X.mT, *outputs[:-1]]
        products = list(zip(coefs, inputs, outputs, strict=True))
        delta = torch.full_like(outputs[-1], 1 / len(X))
        for layer in range(len(coefs) - 1, -1, -1):
            products.append((delta, inputs[layer].mT, torch.empty_like(coefs[layer])))
            if layer > 0:
                delta_below = torch.empty_like(outputs[layer - 1])
                products.append((coefs[layer].mT, delta, delta_below))
                delta = delta_below
        return products

    def predict(self, X: np.ndarray) -> None:
        """Run the products of a prediction."""
        rows = torch.from_numpy(X).to(self._device)
        with compute_threads(BLOCK_SIZE * self.n_coefs, len(rows) / BLOCK_SIZE):
            for block in rows.split(BLOCK_SIZE):
                units = block.mT
                for coef, out in zip(self._coefs, self._block(len(block)), strict=True):
                    units = torch.mm(coef, units, out=out)
        _wait_for(self._device)

    predict_proba = predict

    def _block(self, n_rows: int) -> list[Tensor]:
        if n_rows not in self._blocks:
            self._blocks[n_rows] = self._outputs(n_rows)
        return self._blocks[n_rows]

    def _outputs(self, n_rows: int) -> list[Tensor]:
        return [coef.new_empty(coef.shape[0], n_rows) for coef in self._coefs]


def _coef(n_in: int, n_out: int, is_first: bool, device: str) -> Tensor:
    """Random weights of shape (n_out, n_in)."""
    input_major = is_first and n_in <= _NARROW
    memory = torch.empty((n_in, n_out) if input_major else (n_out, n_in), device=device).uniform_(-1, 1).div_(n_in**0.5)
    return memory.mT if input_major else memory


def _wait_for(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
