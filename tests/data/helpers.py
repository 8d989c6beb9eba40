"""Digits as samples of a fit or of a stack."""

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.datasets import load_digits

from sktorch_mlp._data.rows import Rows
from sktorch_mlp._data.samples import Samples

CPU = torch.device("cpu")
N_ROWS = 150

X, Y = load_digits(return_X_y=True)
X, Y = X[:N_ROWS] / 16, Y[:N_ROWS]
ALL_ROWS = np.arange(N_ROWS)
WEIGHTS = np.random.RandomState(3).uniform(0.1, 2, N_ROWS)


def make_samples(indices=(ALL_ROWS,), *, sparse=False, weighted=False):
    """Samples of networks that use these rows."""
    rows = Rows.from_array(sp.csr_array(X) if sparse else X, CPU)
    weights = torch.from_numpy(WEIGHTS) if weighted else None
    return Samples(rows, torch.from_numpy(Y)[None], weights, list(indices))
