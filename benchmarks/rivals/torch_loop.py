"""The training loop of the PyTorch tutorials."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.problems import Problem

from ._module import MLP


def fit(problem: Problem, X: np.ndarray, y: np.ndarray, seed: int, device: str) -> list[float]:
    """Train as a tutorial does, without weight decay."""
    torch.manual_seed(seed)
    loader = DataLoader(
        TensorDataset(torch.from_numpy(X), torch.from_numpy(y)), batch_size=problem.batch_size, shuffle=True
    )
    model = MLP(problem).to(device)
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    loss_curve = []
    for _ in range(problem.epochs):
        total = 0.0
        for X_batch, y_batch in loader:
            X_batch, y_batch = X_batch.to(device), y_batch.to(device)
            loss = criterion(model(X_batch), y_batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(y_batch)
        loss_curve.append(total / problem.rows)
    return loss_curve
