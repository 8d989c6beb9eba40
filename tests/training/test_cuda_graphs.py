"""Training steps replayed as CUDA graphs, on a simulated device."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from sktorch_mlp._data.batches import Segment
from sktorch_mlp._nn.losses import CallableLoss, LogLoss
from sktorch_mlp._nn.network import StackedMLP
from sktorch_mlp._training import cuda_graphs
from sktorch_mlp._training.cuda_graphs import CapturedFunction, CudaGraph
from sktorch_mlp._training.loop import train
from tests.pairwise import pairwise
from tests.training.helpers import DIFFERENT, OPTIMIZERS, OPTIONS, make_data, make_fit

CUDA = torch.device("cuda", 0)


def _fits(optimizer, options=DIFFERENT, *, weighted=False, loss=None, **params):
    data = make_data(weighted=weighted, device=CUDA)
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
    "dropout": {"dropout": 0.3},
}


@pytest.mark.parametrize(
    ("hidden", "optimizer", "n_networks", "weighted", "clip"),
    pairwise(list(HIDDEN), list(OPTIMIZERS), [1, 3], [False, True], [False, True]),
)
def test_captured_steps_train_as_others(hidden, optimizer, n_networks, weighted, clip, devices, monkeypatch):
    """With other data at each replay, other rates, and masks drawn anew."""
    max_norm = 0.1 if clip else math.inf
    options = [replace(o, gradient_clip_norm=max_norm, max_iter=min(o.max_iter, 6)) for o in DIFFERENT]

    def trained():
        fits = _fits(optimizer, options[:n_networks], weighted=weighted, **HIDDEN[hidden])
        train(fits, segment_rows=64)  # two batches a segment, the last one short
        return _numbers(fits)

    captured = trained()
    n_recorded = devices.n_recorded
    assert n_recorded >= 2
    assert devices.n_replayed >= 2 * n_recorded
    monkeypatch.setattr(
        Segment, "can_be_captured", property(lambda self: False, lambda self, value: None), raising=False
    )
    assert trained() == captured
    assert devices.n_recorded == n_recorded


def _callable_loss():
    return CallableLoss(nn.functional.cross_entropy, LogLoss(10), has_sample_weight=False)


@pytest.mark.parametrize(
    "params",
    [{"activations": (torch.tanh, "relu")}, {"loss": _callable_loss()}],
    ids=["autograd", "function as loss"],
)
def test_what_a_graph_cannot_record_is_not_captured(params, devices):
    fits = _fits("adam", [replace(OPTIONS, max_iter=4)] * 2, **params)
    train(fits)
    assert devices.n_recorded == 0
    assert all(fit.progress.n_iter == 4 for fit in fits)


def test_a_function_is_run_recorded_and_replayed(devices):
    """Arguments are those of the recording, one for each number; results are copies."""
    buffer, calls = torch.zeros(2, device=CUDA), []

    def function(number, argument):
        calls.append((number, argument))
        return buffer + number

    captured = CapturedFunction(buffer.device)
    numbers, results = [3, 3, 3, 5, 5, 3, 5], []
    for n, number in enumerate(numbers):
        buffer.fill_(n)
        results.append(captured(function, number, n))
    assert calls == [(3, 0), (3, 1), (5, 3), (5, 4)]
    assert devices.n_recorded == 2
    assert [result.tolist() for result in results] == [[float(n + number)] * 2 for n, number in enumerate(numbers)]


@pytest.mark.parametrize("place", ["begin", "function", "end"])
def test_a_recording_that_is_interrupted_leaves_nothing_behind(place, devices, monkeypatch):
    """Ctrl-C in a call is raised when it returns, that of the beginning as well. The next graph has a stream of its own."""

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    def then_interrupt(original):
        return lambda *args, **kwargs: (original(*args, **kwargs), interrupt())

    buffer, stream = torch.zeros(2, device=CUDA), cuda_graphs._capture_stream(CUDA)
    with monkeypatch.context() as context:
        if place != "function":
            name = f"capture_{place}"
            context.setattr(torch.cuda.CUDAGraph, name, then_interrupt(getattr(torch.cuda.CUDAGraph, name)))
        with pytest.raises(KeyboardInterrupt):
            CudaGraph(interrupt if place == "function" else lambda: buffer + 1, CUDA)
    assert not cuda_graphs._capture_lock.locked()
    graph = CudaGraph(lambda: buffer + 1, CUDA)
    graph.replay()
    assert graph.result.tolist() == [1, 1]
    assert cuda_graphs._capture_stream(CUDA) is not stream


@pytest.mark.parametrize("version", ["2.13.0+cpu", "2.14.0"])
def test_streams_are_registered_where_pytorch_does_not_do_it(version, devices, monkeypatch):
    """A graph refuses to draw from a stream that is not registered, and since 2.14 warns of one that is."""
    monkeypatch.setattr(torch, "__version__", version)
    buffer, generator = torch.empty(2, device=CUDA), torch.Generator(CUDA)
    graph = CudaGraph(lambda: buffer.uniform_(generator=generator), CUDA, [generator])
    graph.replay()
    assert torch.equal(buffer.cpu(), torch.empty(2).uniform_(generator=torch.Generator()))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_numbers_of_steps_stay_in_place(name, devices):
    """A graph looks at its arguments once. So the tensors of the coming steps are always the same, with new values."""
    optimizers = [OPTIMIZERS[name](k) for k in (0, 1)]
    data = make_data(device=CUDA)
    network = StackedMLP.join([make_fit(optimizer, data=data).network for optimizer in optimizers])
    optimizer = type(optimizers[0]).join(optimizers)
    optimizer.bind(network, 6)

    def numbers_of(step):
        """Its arguments, and those of a step within it."""
        return [number for arg in step.args for number in (numbers_of(arg) if isinstance(arg, partial) else [arg])]

    first = [numbers_of(step) for step in optimizer.steps(3)]
    rates = torch.stack([numbers[0] for numbers in first])
    second = [numbers_of(step) for step in optimizer.steps(3)]
    assert [list(map(id, numbers)) for numbers in first] == [list(map(id, numbers)) for numbers in second]
    has_changed = not torch.equal(torch.stack([numbers[0] for numbers in second]), rates)
    assert has_changed == (name in ("adam", "adamw", "scaling"))  # whose bias correction changes from step to step
