"""What the simulated devices refuse and count, as real ones do."""

import copy
import pickle
import threading

import numpy as np
import pytest
import torch
from torch import nn

from tests.simulated.devices import on_device

VALUES = np.arange(6.0, dtype=np.float32).reshape(2, 3)


@pytest.fixture(autouse=True)
def traffic(devices):
    return devices


def record(function, *generators, device="cuda:0"):
    """A graph of a function, and the result that it fills."""
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    with torch.cuda.device(device), torch.cuda.graph(graph):
        result = function()
    return graph, result


# Devices ---------------------------------------------------------------------------------


def test_tensors_say_where_they_are():
    tensor = on_device(VALUES, "cuda:1")
    assert (tensor.device, tensor.is_cuda, tensor.is_cpu) == (torch.device("cuda:1"), True, False)
    for made in (
        tensor + 1,
        tensor[0],
        tensor.T,
        tensor.new_empty(2),
        tensor.new_tensor([1.0]),
        torch.zeros_like(tensor),
    ):
        assert made.device == tensor.device
    assert torch.zeros(2, device="cuda").device == torch.device("cuda:0")
    with torch.cuda.device(1):
        assert torch.zeros(2, device="cuda").device == tensor.device
    assert tensor.to("cpu").device == torch.zeros_like(tensor, device="cpu").device == torch.device("cpu")
    assert nn.Linear(3, 1).to(tensor.device)(tensor).device == tensor.device
    assert copy.deepcopy(tensor).device == tensor.device
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.zeros(2, device="cuda:2")


def test_other_threads_have_the_devices():
    made = []
    thread = threading.Thread(target=lambda: made.append(torch.ones(2, device="cuda")))
    thread.start()
    thread.join()
    assert made[0].device.type == "cuda"


def test_a_copy_does_not_share_memory():
    array = VALUES.copy()
    for move in (lambda a: a.to("cuda"), lambda a: torch.as_tensor(a, device="cuda"), lambda a: a.cuda()):
        moved = move(torch.from_numpy(array))
        array += 1
        assert not np.array_equal(moved.cpu().numpy(), array)
        assert moved.cpu().data_ptr() != moved.data_ptr()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda t: t + torch.ones(3), "at least two devices, cuda:0 and cpu"),
        (lambda t: t + torch.ones(3, device="cuda:1"), "at least two devices, cuda:0 and cuda:1"),
        (lambda t: torch.mm(t, t.T, out=torch.empty(2, 2)), "at least two devices"),
        (lambda t: torch.cat([t, torch.ones(2, 3)]), "at least two devices"),
        (lambda t: t.index_select(0, torch.tensor([0])), "at least two devices"),
        (lambda t: torch.ones(3)[t[0].long()], "at least two devices"),
        (lambda t: t.bernoulli_(0.5, generator=torch.Generator()), "Expected a 'cuda:0' generator device but found 'cpu'"),
        (lambda t: torch.randperm(3, generator=torch.Generator(), device="cuda"), "generator device"),
    ],
)  # fmt: skip
def test_devices_do_not_mix(call, error):
    with pytest.raises(RuntimeError, match=error):
        call(on_device(VALUES))


def test_numpy_cannot_read_a_device():
    for read in (np.asarray, np.exp, lambda t: t.numpy()):
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
            read(on_device(VALUES))
    with pytest.raises(AssertionError, match="in a pickle"):
        pickle.dumps(on_device(VALUES))


def test_mps_has_no_float64():
    numbers = torch.ones(2, dtype=torch.float64)
    for call in (
        lambda: numbers.to("mps"),
        lambda: torch.zeros(2, dtype=torch.float64, device="mps"),
        lambda: torch.tensor([1.0], device="mps").double(),
        lambda: torch.tensor([1.0], device="mps").to("cpu", torch.float64),
        lambda: numbers.copy_(torch.ones(2, device="mps")),
    ):
        with pytest.raises(TypeError, match="MPS framework doesn't support float64"):
            call()
    assert numbers.to("mps", torch.float32).cpu().double().sum() == 2


# Copies and waits ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "n_values", "waits"),
    [
        (lambda t: torch.ones(4).to("cuda"), (4, 0), True),
        (lambda t: torch.tensor([1.0, 2.0], device="cuda"), (2, 0), True),
        (lambda t: t.new_tensor([1.0, 2.0]), (2, 0), True),
        (lambda t: t.copy_(torch.ones(3)), (3, 0), True),
        (lambda t: t.copy_(torch.ones(3).pin_memory()), (3, 0), True),
        (lambda t: t.copy_(torch.ones(3).pin_memory(), non_blocking=True), (3, 0), False),
        (lambda t: t.copy_(torch.ones(3), non_blocking=True), (3, 0), True),
        (lambda t: t[[0, 1]], (2, 0), True),
        (lambda t: t[torch.tensor([0])], (1, 0), True),
        (lambda t: t.cpu(), (0, 6), True),
        (lambda t: t.tolist(), (0, 6), True),
        (lambda t: torch.ones(2, 3).copy_(t), (0, 6), True),
        (lambda t: t.sum().item(), (0, 1), True),
        (lambda t: bool(t.sum() > 0), (0, 1), True),
        (lambda t: t[t > 2], (0, 0), True),
        (lambda t: t.nonzero(), (0, 0), True),
        (lambda t: t.unique(), (0, 0), True),
        (lambda t: torch.equal(t, t), (0, 0), True),
        (lambda t: torch.cuda.synchronize(), (0, 0), True),
        (lambda t: t.__setitem__(t > 2, 0.0), (0, 0), False),
        (lambda t: t[t.new_zeros(1, dtype=torch.int64)], (0, 0), False),
        (lambda t: torch.zeros(2, 3, device="cuda").add_(t).mean(), (0, 0), False),
        (lambda t: t.to("cuda", torch.float64), (0, 0), False),
    ],
)  # fmt: skip
def test_copies_and_waits_are_counted(call, n_values, waits, traffic):
    tensor = on_device(VALUES)
    call(tensor)
    assert tuple(sum(copy.n_values for copy in copies) for copies in (traffic.to_device, traffic.to_host)) == n_values
    assert bool(traffic.waits) == waits


# Graphs ----------------------------------------------------------------------------------


def test_a_graph_replays_what_it_has_recorded():
    """Recording has no effect; a replay reads what memory holds then, and runs no Python."""
    tensor, calls = on_device(VALUES), []

    def function():
        calls.append(tensor)
        assert torch.cuda.is_current_stream_capturing()
        return tensor.add_(1).sum()

    graph, result = record(function)
    assert not torch.cuda.is_current_stream_capturing()
    assert tensor.sum() == VALUES.sum()
    for n in (1, 2):
        graph.replay()
        assert result == tensor.sum() == VALUES.sum() + 6 * n
    tensor.zero_()
    graph.replay()
    assert result == 6
    assert len(calls) == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda t: t.sum().item(),
        lambda t: float(t.sum()),
        lambda t: not t.any(),
        lambda t: t.tolist(),
        lambda t: t.cpu(),
        lambda t: t[t > 2],
        lambda t: t.nonzero(),
        lambda t: t.unique(),
        lambda t: torch.allclose(t, t),
        lambda t: t[[0]],
        lambda t: t + torch.tensor(1.0, device="cuda"),
        lambda t: t + t.new_tensor(1.0),
        lambda t: t.copy_(torch.ones(3)),
        lambda t: t.copy_(torch.ones(3).pin_memory(), non_blocking=True),
        lambda t: torch.cuda.synchronize(),
        lambda t: torch.Generator("cuda").manual_seed(0),
    ],
)  # fmt: skip
def test_what_waits_cannot_be_recorded(call, traffic):
    tensor = on_device(VALUES)
    with pytest.raises((RuntimeError, NotImplementedError), match=r"while a graph|stream is capturing"):
        record(lambda: call(tensor))
    assert tensor.sum() == VALUES.sum()  # it no longer records


def test_a_graph_is_of_one_device():
    tensor = on_device(VALUES, "cuda:1")
    with pytest.raises(RuntimeError, match="a kernel on cuda:1 while cuda:0 is captured"):
        record(lambda: tensor + 1)
    graph, result = record(lambda: tensor + 1, device="cuda:1")
    graph.replay()
    assert result.sum() == VALUES.sum() + 6


@pytest.mark.parametrize("version", ["2.13.0", "2.14.0+cu132"])
def test_a_graph_draws_on_from_a_stream(version, monkeypatch):
    """Before PyTorch 2.14 it has to be registered, and since then that warns."""

    def draw():
        return tensor.uniform_(generator=generator).clone()

    monkeypatch.setattr(torch, "__version__", version)
    tensor, generator = on_device(VALUES), torch.Generator("cuda").manual_seed(0)
    expected = [draw().cpu() for _ in range(3)]
    generator.manual_seed(0)
    if version == "2.13.0":
        with pytest.raises(RuntimeError, match="Attempt to increase offset for a CUDA generator not in capture mode"):
            record(draw)
        graph, result = record(draw, generator)
    else:
        with pytest.warns(DeprecationWarning, match="register_generator_state"):
            record(draw, generator)
        graph, result = record(draw)
    for numbers in expected:
        graph.replay()
        assert torch.equal(result.cpu(), numbers)


# Streams ---------------------------------------------------------------------------------


class Copying:
    """A copy from pinned memory on a stream of its own, and a kernel that reads what arrives."""

    def __init__(self):
        self.stream, self.copied, self.computed = torch.cuda.Stream(), torch.cuda.Event(), torch.cuda.Event()
        self.host, self.target = torch.zeros(3).pin_memory(), torch.zeros(3, device="cuda")

    def copy(self, value, *, waits=True):
        self.host.fill_(value)
        with torch.cuda.stream(self.stream):
            if waits:
                self.stream.wait_event(self.computed)
            self.target.copy_(self.host, non_blocking=True)
            self.copied.record(self.stream)

    def compute(self, *, waits=True):
        if waits:
            torch.cuda.current_stream().wait_event(self.copied)
        result = self.target + 1
        self.computed.record()
        return result


def test_what_arrives_by_another_stream_is_there_for_those_who_wait():
    copying, results = Copying(), []
    for value in (1.0, 2.0):
        copying.copy(value)
        assert copying.target.memory[0] == value - 1  # not yet
        results.append(copying.compute())
        copying.copied.synchronize()
    assert [result.tolist() for result in results] == [[2.0] * 3, [3.0] * 3]


@pytest.mark.parametrize(
    "hurry",
    [
        lambda copying: copying.compute(waits=False),
        lambda copying: (copying.compute(), copying.copied.synchronize(), copying.copy(2.0, waits=False)),
        lambda copying: (copying.compute(), copying.host.fill_(5.0), copying.copied.synchronize()),
    ],
    ids=["read too early", "written too early", "changed too early"],
)
def test_those_who_do_not_wait_are_noticed(hurry):
    copying = Copying()
    copying.copy(1.0)
    with pytest.raises(
        RuntimeError, match=r"at the same time as a kernel of another stream|source of a copy was changed"
    ):
        hurry(copying)
