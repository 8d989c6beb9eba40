"""Fixtures for the tests of the estimators."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from sktorch_mlp._estimators import candidates, tabular
from sktorch_mlp._nn.gradients import Gradient
from tests.estimators.helpers import LABELS, X, ours


@pytest.fixture
def checks_need_a_gpu(monkeypatch):
    """Skip scikit-learn's checks on CUDA where there is no GPU: they ask only whether PyTorch was built for one."""
    monkeypatch.setattr(torch.backends.cuda, "is_built", torch.cuda.is_available)


@pytest.fixture(scope="session")
def sparse_tensors_are_known():
    """Take the two warnings of sparse tensors, which PyTorch gives once a process."""
    ours("classifier").fit(sp.csr_array(X), LABELS)


@pytest.fixture
def torch_warns_always(sparse_tensors_are_known):
    """Have PyTorch repeat the warnings that it gives once a process, of read-only arrays above all."""
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


@pytest.fixture
def interrupt_at(monkeypatch):
    """Have Ctrl-C arrive when the n-th gradient from now on is about to be computed; counted from 1."""

    def interrupt_at(n):
        original, calls = Gradient.__call__, iter(range(1, 10**6))

        def interrupted(self, *args):
            if next(calls) == n:
                raise KeyboardInterrupt
            return original(self, *args)

        monkeypatch.setattr(Gradient, "__call__", interrupted)

    return interrupt_at


@pytest.fixture
def global_stream():
    """NumPy's global random stream, put back after the test."""
    state = np.random.get_state()  # noqa: NPY002
    yield np.random
    np.random.set_state(state)  # noqa: NPY002


@pytest.fixture
def trained(monkeypatch):
    """Candidates of the last fit for tables, as they were when training ended."""
    kept = []

    def keep(given, *args, **kwargs):
        kept[:] = candidates.train_candidates(given, *args, **kwargs)
        return kept

    monkeypatch.setattr(tabular, "train_candidates", keep)
    return kept
