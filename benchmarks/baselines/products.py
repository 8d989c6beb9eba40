"""Matrix products alone: what is left of a float32 training step or a prediction when all else is free.

The products are made as fast as we know how to: units stand before rows, weights are
(n_out, n_in), into buffers made before, on one thread or on all, whichever is faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from benchmarks.problems import Problem
from benchmarks.runner import PAUSE
from benchmarks.tolerances import FitResult

from . import Fitted

#: Rows predicted at a time: enough to keep the cores busy, few enough for outputs to stay in cache.
BLOCK_ROWS = 2048

#: Features up to which the weights of the first layer are input-major in memory, into which
#: the product for their gradient is up to three times faster.
NARROW = 16

#: Seconds that a number of threads is tried at least.
TRIAL = 0.02

#: A product: left, right, out.
Product = tuple[Tensor, Tensor, Tensor]


def fit(problem: Problem, X: np.ndarray, y: np.ndarray, seed: int, device: str) -> Fitted:
    """Run the products of all steps of a fit; nothing is learned."""
    network = _Network(problem.layer_units, seed, device)
    rows = torch.from_numpy(X).to(device)
    sizes = [min(problem.batch_size, problem.rows - start) for start in range(0, problem.rows, problem.batch_size)]
    steps = {size: network.step(rows[:size]) for size in set(sizes)}
    with _torch_threads(_n_threads(problem.layer_units, problem.batch_size, True, device, torch.get_num_threads())):
        for _ in range(problem.epochs):
            for size in sizes:
                _multiply(steps[size])
    _wait_for(device)
    return Fitted(FitResult(float("nan"), problem.epochs), network)


class _Network:
    """Weights, which stay as they are, and buffers for the products with them."""

    def __init__(self, layer_units: tuple[int, ...], seed: int, device: str) -> None:
        torch.manual_seed(seed)
        self._layer_units, self._device = layer_units, device
        self._coefs = [
            _coef(n_in, n_out, layer == 0, device) for layer, (n_in, n_out) in enumerate(pairwise(layer_units))
        ]
        self._blocks: dict[int, list[Tensor]] = {}  # outputs of each layer, by the rows of a block

    def step(self, X: Tensor) -> list[Product]:
        """Products of a training step, in their order."""
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

    def forward(self, X: Tensor) -> list[Product]:
        """Products of the prediction of a block of rows."""
        if len(X) not in self._blocks:
            self._blocks[len(X)] = self._outputs(len(X))
        outputs = self._blocks[len(X)]
        return list(zip(self._coefs, [X.mT, *outputs[:-1]], outputs, strict=True))

    def predict(self, X: np.ndarray) -> None:
        """Run the products of a prediction."""
        rows = torch.from_numpy(X).to(self._device)
        n_rows = min(len(rows), BLOCK_ROWS)
        with _torch_threads(_n_threads(self._layer_units, n_rows, False, self._device, torch.get_num_threads())):
            for block in rows.split(BLOCK_ROWS):
                _multiply(self.forward(block))
        _wait_for(self._device)

    predict_proba = predict

    def _outputs(self, n_rows: int) -> list[Tensor]:
        return [coef.new_empty(coef.shape[0], n_rows) for coef in self._coefs]


def _coef(n_in: int, n_out: int, is_first: bool, device: str) -> Tensor:
    """Random weights of shape (n_out, n_in)."""
    input_major = is_first and n_in <= NARROW
    memory = torch.empty((n_in, n_out) if input_major else (n_out, n_in), device=device).uniform_(-1, 1).div_(n_in**0.5)
    return memory.mT if input_major else memory


def _multiply(products: list[Product]) -> None:
    for left, right, out in products:
        torch.mm(left, right, out=out)


# Threads -------------------------------------------------------------------------------


@cache  # tried once, in the calls before the first timing, which are not timed
def _n_threads(layer_units: tuple[int, ...], n_rows: int, is_training: bool, device: str, most: int) -> int:
    """How many threads these products run on: one or all."""
    if most == 1 or torch.device(device).type != "cpu":
        return most
    network, X = _Network(layer_units, 0, device), torch.rand(n_rows, layer_units[0])
    products = network.step(X) if is_training else network.forward(X)
    time.sleep(PAUSE)  # the threads of numpy's BLAS may still be spinning
    return faster_threads(most, partial(_seconds, products))


def faster_threads(most: int, seconds: Callable[[int], float]) -> int:
    """One thread or `most`, whichever has the fastest of three trials, made in turn.

    Parameters
    ----------
    most : int
    seconds : callable
        ``seconds(n_threads)`` makes a trial.
    """
    trials = [(seconds(n), n) for _ in range(3) for n in (1, most)]
    return min(trials)[1]


def _seconds(products: list[Product], n_threads: int) -> float:
    """Seconds of the products once, the mean over `TRIAL`."""
    with _torch_threads(n_threads):
        _multiply(products)  # makes threads
        n_calls, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < TRIAL:
            _multiply(products)
            n_calls += 1
    return elapsed / n_calls


@contextmanager
def _torch_threads(n_threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)  # 0.2 µs where nothing changes
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _wait_for(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
