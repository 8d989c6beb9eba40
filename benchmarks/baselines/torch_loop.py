"""Plain PyTorch: the training loop of its tutorials, and the module it trains."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.problems import Problem
from benchmarks.tolerances import FitResult

from . import Fitted
from ._module import MLP


def fit(problem: Problem, X: np.ndarray, y: np.ndarray, seed: int, device: str) -> Fitted:
    """Train as a tutorial does, without weight decay."""
    torch.manual_seed(seed)
    loader = DataLoader(
        TensorDataset(torch.from_numpy(X), torch.from_numpy(y)), batch_size=problem.batch_size, shuffle=True
    )
    model = MLP(problem).to(device)
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    for _ in range(problem.epochs):
        total = 0.0
        for X_batch, y_batch in loader:
            X_batch, y_batch = X_batch.to(device), y_batch.to(device)
            loss = criterion(model(X_batch), y_batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(y_batch)
    return Fitted(FitResult(total / problem.rows, problem.epochs), _Predictor(model, device))


class _Predictor:
    """The trained module, on all rows at once."""

    def __init__(self, model: MLP, device: str) -> None:
        self._model, self._device = model.eval(), device

    @torch.no_grad()
    def _logits(self, X: np.ndarray) -> torch.Tensor:
        return self._model(torch.from_numpy(X).to(self._device))

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self._logits(X).argmax(1).cpu().numpy()

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return self._logits(X).softmax(1).cpu().numpy()
