"""Fixtures of the tests of stacks."""

import math
import threading

import pytest
import torch

from sktorch_mlp._parallel import batcher


@pytest.fixture
def one_trainer():
    """One thread of PyTorch, and so one stack at a time, as large as it can be."""
    yield from _with_threads(1)


@pytest.fixture
def two_trainers():
    """Two threads of PyTorch, and so two tasks, and two stacks, at a time."""
    yield from _with_threads(2)


def _with_threads(n_threads):
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    yield
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert after == n_threads, "Stacks have to leave the user's setting as it was."


@pytest.fixture
def no_thread_left():
    """All threads have ended when the test has."""
    before = set(threading.enumerate())
    yield
    assert [thread.name for thread in threading.enumerate() if thread not in before] == []


class Stacks:
    """Notes the stacks that are trained.

    Attributes
    ----------
    sizes : list of int
        Number of fits of each stack that has been trained.
    failed : list of int
        The same for stacks whose training has raised.
    largest : float
        Larger stacks fail once they are trained, when all state has moved on.
    error : BaseException or None
        Raised in place of training.
    """

    def __init__(self, train):
        self._train = train
        self.sizes, self.failed = [], []
        self.largest, self.error = math.inf, None

    def train(self, fits, *args, **kwargs):
        """Train a stack."""
        try:
            if self.error is not None:
                raise self.error
            self._train(fits, *args, **kwargs)
            if len(fits) > self.largest:
                raise MemoryError("This stack is too large.")
        except BaseException:
            self.failed.append(len(fits))
            raise
        self.sizes.append(len(fits))

    def assert_stacked(self, n_fits):
        """Each fit has been trained once, and some together. A stack that fails is halved, which must not go unseen."""
        assert self.failed == []
        assert sum(self.sizes) == n_fits
        assert max(self.sizes) > 1


@pytest.fixture
def stacks(monkeypatch):
    """The stacks that are trained; the only place that replaces a function of the package."""
    recorded = Stacks(batcher.train)
    monkeypatch.setattr(batcher, "train", recorded.train)
    return recorded
