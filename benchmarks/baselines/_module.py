"""The network of the two PyTorch baselines."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from benchmarks.problems import Problem


class MLP(nn.Sequential):
    """Linear layers with relu between them; PyTorch's own initial weights; the output is logits.

    Two classes have two outputs, as CrossEntropyLoss wants them, where scikit-learn has one.

    Parameters
    ----------
    problem : Problem
        Whose layers these are.
    """

    def __init__(self, problem: Problem) -> None:
        units = [problem.features, *problem.hidden_layer_sizes]
        hidden = [layer for n_in, n_out in pairwise(units) for layer in (nn.Linear(n_in, n_out), nn.ReLU())]
        super().__init__(*hidden, nn.Linear(units[-1], problem.n_classes))
