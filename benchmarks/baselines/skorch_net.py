"""skorch's NeuralNetClassifier."""

from __future__ import annotations

import numpy as np
import torch
from skorch import NeuralNetClassifier

from benchmarks.problems import Problem
from benchmarks.tolerances import FitResult

from . import Fitted
from ._module import MLP


def fit(problem: Problem, X: np.ndarray, y: np.ndarray, seed: int, device: str) -> Fitted:
    """Fit a NeuralNetClassifier with skorch's defaults, but for what the comments say."""
    torch.manual_seed(seed)
    net = NeuralNetClassifier(
        MLP,
        module__problem=problem,
        criterion=torch.nn.CrossEntropyLoss,  # on logits; the default takes log-probabilities
        optimizer=torch.optim.Adam,  # lr 0.001, no weight decay: less work than scikit-learn's alpha=0.0001
        lr=0.001,
        max_epochs=problem.epochs,
        batch_size=problem.batch_size,
        iterator_train__shuffle=True,  # by default the order of the rows stays
        train_split=None,  # default: a fifth of the rows is held out and scored each epoch, which takes longer
        verbose=0,  # default: a line is printed each epoch, which takes longer
        device=device,
    )
    losses = net.fit(X, y).history[:, "train_loss"]
    return Fitted(FitResult(losses[-1], len(losses)), net)
