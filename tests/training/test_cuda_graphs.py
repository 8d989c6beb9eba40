"""Training steps replayed as CUDA graphs, with a graph that needs no GPU."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from sktorch_mlp._data.batches import Segment
from sktorch_mlp._nn.losses import CallableLoss, LogLoss
from sktorch_mlp._nn.network import StackedMLP
from sktorch_mlp._training import cuda_graphs
from sktorch_mlp._training.cuda_graphs import CapturedFunction
from sktorch_mlp._training.loop import train
from tests.pairwise import pairwise
from tests.training.helpers import DIFFERENT, OPTIMIZERS, OPTIONS, make_data, make_fit


class _Repeatable:
    """What an iterator gives, as often as asked for; the first time when the iterator gives it."""

    def __init__(self, items):
        self._items, self._seen = iter(items), []

    def __iter__(self):
        yield from [*self._seen]
        for item in self._items:
            self._seen.append(item)
            yield item


class _FakeGraph:
    """A graph without a GPU: to replay is to run the function again, with the arguments of its recording.

    So what a graph replays must depend on nothing but tensors that stay in place. And while it is recorded nothing may
    wait for the device, or be copied to it from the host.
    """

    recorded = 0
    replayed = 0

    def __init__(self, function, device):
        arguments = [_Repeatable(value) if isinstance(value, Iterator) else value for value in function.args]
        self._function, self._is_fresh = partial(function.func, *arguments), True
        with pytest.MonkeyPatch.context() as patch:
            for name in ("new_tensor", "item", "tolist", "__bool__", "__float__", "cpu", "numpy"):
                patch.setattr(torch.Tensor, name, self._cannot_be_captured)
            patch.setattr(torch, "tensor", self._cannot_be_captured)
            self.result = self._function().clone()
        type(self).recorded += 1

    @staticmethod
    def _cannot_be_captured(*args, **kwargs):
        raise AssertionError("not while a graph is captured")

    def replay(self):
        if not self._is_fresh:  # recording has run the function for real here
            self.result.copy_(self._function())
            type(self).replayed += 1
        self._is_fresh = False


def _capturable(condition):
    """A replacement for the attribute of segments that says whether a graph can record their steps."""
    return property(condition, lambda segment, value: None)


@pytest.fixture
def graphs(monkeypatch):
    """Capture training steps on the CPU; the class of the graphs counts them.

    A stack of one is left out: on the CPU its learning rates are numbers, not tensors.
    """

    class Graph(_FakeGraph):
        recorded = replayed = 0

    is_stack = _capturable(lambda segment: segment.weights.totals.shape[-1] > 1)
    monkeypatch.setattr(Segment, "can_be_captured", is_stack, raising=False)
    monkeypatch.setattr(cuda_graphs, "CudaGraph", Graph)
    monkeypatch.delattr(torch, "_fused_adam_")  # on a GPU a stack does not use it
    return Graph


def _fits(optimizer, options=DIFFERENT, *, weighted=False, loss=None, **params):
    data = make_data(weighted=weighted)
    fits = [make_fit(OPTIMIZERS[optimizer](k), option, seed=k, data=data, **params) for k, option in enumerate(options)]
    for fit in fits:
        fit.loss = fit.loss if loss is None else loss
    return fits


def _numbers(fits):
    """Everything that training has written."""
    numbers = [fit.progress.loss_curve for fit in fits]
    for fit in fits:
        tensors = [
            *fit.network.state_dict().values(),
            *(getattr(fit.optimizer, name) for name in fit.optimizer.moments),
        ]
        numbers.append([tensor.tolist() for tensor in tensors])
    return numbers


HIDDEN = {
    "plain": {},
    "batch norm": {"normalization": "batch"},
    "layer norm, gelu": {"normalization": "layer", "activations": "gelu"},
    "leaky_relu and mish": {"activations": ("leaky_relu", "mish")},
}


@pytest.mark.parametrize(
    ("optimizer", "hidden", "weighted", "clip"),
    pairwise(list(OPTIMIZERS), list(HIDDEN), [False, True], [False, True]),
)
def test_captured_steps_train_as_others(optimizer, hidden, weighted, clip, graphs, monkeypatch):
    options = [replace(option, gradient_clip_norm=0.1) for option in DIFFERENT] if clip else DIFFERENT

    def make():
        return _fits(optimizer, options, weighted=weighted, **HIDDEN[hidden])

    captured = make()
    train(captured, segment_rows=64)  # two batches a segment, the last one short
    assert graphs.recorded >= 2
    assert graphs.replayed >= 2 * graphs.recorded
    n_recorded = graphs.recorded
    monkeypatch.setattr(Segment, "can_be_captured", _capturable(lambda segment: False))
    others = make()
    train(others, segment_rows=64)
    assert graphs.recorded == n_recorded
    assert _numbers(captured) == _numbers(others)


def _callable_loss():
    return CallableLoss(nn.functional.cross_entropy, LogLoss(10), has_sample_weight=False)


@pytest.mark.parametrize(
    "params",
    [{"dropout": 0.2}, {"activations": (torch.tanh, "relu")}, {"loss": _callable_loss()}],
    ids=["masks", "autograd", "function as loss"],
)
def test_what_a_graph_cannot_record_is_not_captured(params, graphs):
    fits = _fits("adam", [replace(OPTIONS, max_iter=4)] * 2, **params)
    train(fits)
    assert graphs.recorded == 0
    assert all(fit.progress.n_iter == 4 for fit in fits)


def test_a_graph_that_waits_for_the_device_is_noticed(graphs):
    """The fake graph finds what a real one cannot record."""
    value = torch.ones(1)
    for function in (lambda: value * value.item(), lambda: value + torch.tensor(1.0), lambda: not value):
        with pytest.raises(AssertionError, match="not while a graph is captured"):
            graphs(partial(function), value.device)


def test_a_function_is_run_recorded_and_replayed(graphs):
    """Arguments are those of the recording; results are copies."""
    buffer, calls = torch.zeros(2), []

    def function(argument):
        calls.append(argument)
        return buffer + 1

    captured = CapturedFunction(function, buffer.device)
    results = []
    for n in range(5):
        buffer.fill_(n)
        results.append(captured(n))
        assert graphs.recorded == (0 if n == 0 else 1)
    assert calls == [0, 1, 1, 1, 1]
    assert [result.tolist() for result in results] == [[n + 1.0] * 2 for n in range(5)]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_numbers_of_steps_stay_in_place(name, graphs):
    """A graph looks at its arguments once. So the tensors of the coming steps are always the same, with new values."""
    optimizers = [OPTIMIZERS[name](k) for k in (0, 1)]
    network = StackedMLP.join([make_fit(optimizer).network for optimizer in optimizers])
    optimizer = type(optimizers[0]).join(optimizers)
    optimizer.bind(network, 6)
    first = [step.args for step in optimizer.steps(3)]
    rates = torch.stack([numbers[0] for numbers in first])
    second = [step.args for step in optimizer.steps(3)]
    assert [list(map(id, numbers)) for numbers in first] == [list(map(id, numbers)) for numbers in second]
    has_changed = not torch.equal(torch.stack([numbers[0] for numbers in second]), rates)
    assert has_changed == (name in ("adam", "adamw"))  # whose bias correction changes from step to step
